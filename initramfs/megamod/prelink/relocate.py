"""Pass 8, relocate: the contents of the output sections, with everything resolved that pass 7 said is resolved now.

Needs: tables, layout, classes. Guarantees: chunks are in their places, every resolved field is written once and in
range, trace calls are NOPs, and a field that the kernel will fill holds zeros (apply_relocate_add() refuses anything
else). The one pass that writes into buffers; it owns them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.arch.interface import PAGE, Reach, RelocationType
from megamod.prelink.classify import Classes, site
from megamod.prelink.elf import Array
from megamod.prelink.layout import Layout, Pieces
from megamod.prelink.limits import LimitError
from megamod.prelink.merge import Tables


def relocate(tables: Tables, layout: Layout, found: Classes) -> tuple[Array, ...]:
    """The bytes of each output section as a uint8 array, [] for SHT_NOBITS."""
    contents = tuple(_fill(tables, layout, number) for number in range(len(tables.outputs)))
    rows = np.flatnonzero(found.trace)
    for output, picked in _by_output(found.output, rows):
        _silence(contents[output], picked, tables, found)
    architecture = tables.architecture
    for kind, known in architecture.relocations.items():
        if not known.width:
            continue
        rows = np.flatnonzero(found.now & (found.type == kind))
        _check_range(tables, rows, _values(known, rows, found), known)
        for output, picked in _by_output(found.output, rows):
            _write(contents[output], found.place[picked], _values(known, picked, found), known)
        if architecture.addends_in_place and known.plain:
            # Most hold theirs already; not those of the glue and of parameters' names.
            for output, picked in _by_output(found.output, np.flatnonzero(found.kernel & (found.type == kind))):
                _write(contents[output], found.place[picked], tables.relocations.addend[picked], known)
        if architecture.zero_fields:
            rows = np.flatnonzero(found.kernel & (found.type == kind))
            for output, picked in _by_output(found.output, rows):
                _check_zero(contents[output], picked, known.width, tables, found)
    return contents


def _values(known: RelocationType, rows: Array, found: Classes) -> Array:
    """What the fields of one type hold, before it is encoded; place and value are distances from the same section's
    start, or from a page's."""
    value: Array = found.value[rows]
    if known.reach is Reach.RELATIVE:
        return value - found.place[rows]
    if known.reach is Reach.PAGE:
        return (value & -PAGE) - (found.place[rows] & -PAGE)
    return value & (PAGE - 1) if known.reach is Reach.OFFSET else value


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


def _silence(content: Array, rows: Array, tables: Tables, found: Classes) -> None:
    """The call that starts a traceable function becomes the NOP that ftrace would have written."""
    call = tables.architecture.trace_call
    assert call is not None
    places, size = found.place[rows] - call.before, len(call.nop)
    # The instruction must be this section's, not the end of what lies before it.
    wrong = tables.relocations.offset[rows] < call.before
    words = np.zeros(len(rows), np.uint64)
    for at in range(min(size, 4)):
        words |= content[np.maximum(places, 0) + at].astype(np.uint64) << np.uint64(8 * at)
    wrong |= words & np.uint64(call.mask) != call.value
    if wrong.any():
        raise MegamodError(f"{site(tables, int(rows[np.argmax(wrong)]))}: not a call instruction")
    content[places[:, None] + np.arange(size)] = np.frombuffer(call.nop, np.uint8)


def _check_range(tables: Tables, rows: Array, value: Array, known: RelocationType) -> None:
    if known.multiple > 1 and (value % known.multiple).any():
        at = int(np.argmax(value % known.multiple))
        raise MegamodError(
            f"{site(tables, int(rows[at]))}: value {int(value[at])} is not a multiple of {known.multiple}"
        )
    if known.high > (1 << 63) - 1:
        return
    wrong = (value < known.low) | (value >= known.high)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise LimitError(
            f"{site(tables, int(rows[at]))}: value {int(value[at])} not in [{known.low}, {known.high})",
            hint="the merged section is too large; split the stage",
        )


def _write(content: Array, places: Array, value: Array, known: RelocationType) -> None:
    at = places[:, None] + np.arange(known.width)
    if known.encode is not None:
        octets = np.zeros((len(places), 8), np.uint8)
        octets[:, : known.width] = content[at]
        value = known.encode(octets.view("<u8")[:, 0], value)
    content[at] = value.astype("<i8").view(np.uint8).reshape(-1, 8)[:, : known.width]


def _check_zero(content: Array, rows: Array, width: int, tables: Tables, found: Classes) -> None:
    field = content[found.place[rows][:, None] + np.arange(width)]
    wrong = field.any(axis=1)
    if wrong.any():
        raise MegamodError(
            f"{site(tables, int(rows[np.argmax(wrong)]))}: the field is not zero, the kernel would refuse it",
            hint="has this module been linked by another tool already?",
        )
