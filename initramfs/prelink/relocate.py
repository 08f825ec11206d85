"""Pass 8, relocate: the contents of the output sections, with everything resolved that pass 7 said is resolved now.

Needs: tables, layout, scan. Guarantees: chunks are in their places, every resolved field is written once and in range,
trace calls are NOPs, and a field that the kernel will fill holds zeros (apply_relocate_add() refuses anything else).
The one pass that writes into buffers; it owns them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megamod.initramfs.prelink import elf, x86_64
from megamod.initramfs.prelink.elf import Array
from megamod.initramfs.prelink.layout import Layout, Pieces
from megamod.initramfs.prelink.merge import Tables
from megamod.initramfs.prelink.scan import Scan, site
from megamod.profiles.errors import MegamodError


def relocate(tables: Tables, layout: Layout, found: Scan) -> tuple[Array, ...]:
    """The bytes of each output section as a uint8 array, [] for SHT_NOBITS."""
    contents = tuple(_fill(tables, layout, number) for number in range(len(tables.outputs)))
    rows = np.flatnonzero(found.trace)
    for output, picked in _by_output(found.output, rows):
        _silence(contents[output], picked, tables, found)
    for kind, known in x86_64.RELOCATIONS.items():
        if not known.width:
            continue
        rows = np.flatnonzero(found.now & (found.type == kind))
        value = found.value[rows] - (found.place[rows] if known.pc_relative else 0)
        _check_range(tables, rows, value, known)
        for output, picked in _by_output(found.output, rows):
            chosen = found.value[picked] - (found.place[picked] if known.pc_relative else 0)
            _write(contents[output], found.place[picked], chosen, known.width)
        rows = np.flatnonzero(found.kernel & (found.type == kind))
        for output, picked in _by_output(found.output, rows):
            _check_zero(contents[output], picked, known.width, tables, found)
    return contents


def _fill(tables: Tables, layout: Layout, number: int) -> Array:
    output = tables.outputs[number]
    if output.sh_type == elf.SHT_NOBITS:
        return np.empty(0, np.uint8)
    content = bytearray(layout.sizes[number])
    for source in output.inputs:
        _, section = tables.where(source)
        if not len(section.data):
            continue
        if source in layout.pieces:
            _copy_pieces(content, section.data, layout.pieces[source])
            continue
        start = int(layout.offset[source])
        content[start : start + section.size] = section.data
    return np.frombuffer(content, np.uint8)


def _copy_pieces(content: bytearray, data: memoryview, pieces: Pieces) -> None:
    entries = np.frombuffer(data, np.uint8).reshape(-1, pieces.size)
    kept = np.flatnonzero(pieces.targets >= 0)
    target = np.frombuffer(content, np.uint8)
    target[pieces.targets[kept][:, None] + np.arange(pieces.size)] = entries[kept]


def _by_output(output: Array, rows: Array) -> Sequence[tuple[int, Array]]:
    """Split *rows* by their output section."""
    chosen = output[rows]
    return [(int(number), rows[chosen == number]) for number in np.unique(chosen)]


def _silence(content: Array, rows: Array, tables: Tables, found: Scan) -> None:
    """``call __fentry__`` becomes the 5-byte NOP that ftrace would have written."""
    places = found.place[rows]
    # The opcode must be this section's, not the end of what lies before it.
    wrong = (tables.relocations.offset[rows] < 1) | (content[np.maximum(places - 1, 0)] != x86_64.CALL_OPCODE)
    if wrong.any():
        raise MegamodError(f"{site(tables, int(rows[np.argmax(wrong)]))}: not a call instruction")
    content[places[:, None] - 1 + np.arange(5)] = np.frombuffer(x86_64.TRACE_NOP, np.uint8)


def _check_range(tables: Tables, rows: Array, value: Array, known: x86_64.RelocationType) -> None:
    if known.width == 8:
        return
    wrong = (value < known.low) | (value >= known.high)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise MegamodError(
            f"{site(tables, int(rows[at]))}: value {int(value[at])} not in [{known.low}, {known.high})",
            hint="the merged section is too large; split the stage",
        )


def _write(content: Array, places: Array, value: Array, width: int) -> None:
    octets = value.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
    content[places[:, None] + np.arange(width)] = octets


def _check_zero(content: Array, rows: Array, width: int, tables: Tables, found: Scan) -> None:
    field = content[found.place[rows][:, None] + np.arange(width)]
    wrong = field.any(axis=1)
    if wrong.any():
        raise MegamodError(
            f"{site(tables, int(rows[np.argmax(wrong)]))}: the field is not zero, the kernel would refuse it",
            hint="has this module been linked by another tool already?",
        )
