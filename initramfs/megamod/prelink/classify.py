"""Pass 7, classify: decide for every relocation whether it is resolved now, rewritten for the kernel, or gone.

Needs: tables and layout. Guarantees: each relocation of a section that stays is in exactly one class. Resolved now are
the PC-relative ones inside one output section: since 6.4 text, data and rodata are separate allocations, so nothing
else has a known distance. Letters as in the psABI: S the symbol, A the addend, P the place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megamod.common.choices import Tracing
from megamod.common.errors import MegamodError
from megamod.prelink.arch.interface import PAGE, WIDEST, Architecture, Reach
from megamod.prelink.elf import Array
from megamod.prelink.layout import Layout
from megamod.prelink.merge import ABSOLUTE, NOTHING, PERCPU, Relocations, Tables
from megamod.prelink.options import PrelinkOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """One row per relocation of tables.relocations (same order).

    output, place: the site; target: output of S or IMPORT or ABSOLUTE; value: S + A within the target (A for imports);
    imported: position in tables.imports or -1. now, kernel, trace: which class; none of the three is gone.
    used: per import, whether a relocation that stays names it.
    """

    output: Array
    place: Array
    type: Array
    target: Array
    value: Array
    imported: Array
    now: Array
    kernel: Array
    trace: Array
    used: Array


def classify(tables: Tables, layout: Layout, options: PrelinkOptions) -> Classes:
    """Classify all relocations; raise MegamodError for one that cannot be linked."""
    rows, architecture = tables.relocations, tables.architecture
    _check_types(tables, rows, architecture)
    place = layout.offset[rows.section] + rows.offset
    gone = rows.type == architecture.none
    for number, pieces in layout.pieces.items():
        at = rows.of(number)
        moved = pieces.targets[rows.offset[at] // pieces.size]
        place[at] = moved + rows.offset[at] % pieces.size
        gone[at] |= moved < 0
    home = tables.symbol_section[rows.symbol]
    imported = tables.symbol_import[rows.symbol]
    inside = home >= 0
    target = np.where(inside, tables.section_output[np.maximum(home, 0)], home)
    value = rows.addend + np.where(inside, layout.offset[np.maximum(home, 0)] + tables.symbol_value[rows.symbol], 0)
    value = np.where(home == ABSOLUTE, rows.addend + tables.symbol_value[rows.symbol], value)
    _check_targets(tables, rows, home, target, gone, layout)
    output = tables.section_output[rows.section]
    trace = _trace_calls(tables, rows, imported) if options.tracing == Tracing.OFF else np.zeros(len(rows.type), bool)
    now = ~gone & ~trace & _known(tables, rows, place, output, target, inside, home)
    kernel = ~gone & ~trace & ~now
    _check_short(tables, rows, kernel, architecture)
    used = np.zeros(len(tables.imports), bool)
    used[imported[kernel & (imported >= 0)]] = True
    return Classes(
        output=output,
        place=place,
        type=rows.type,
        target=target,
        value=value,
        imported=imported,
        now=now,
        kernel=kernel,
        trace=trace,
        used=used,
    )


def _known(
    tables: Tables, rows: Relocations, place: Array, output: Array, target: Array, inside: Array, home: Array
) -> Array:
    """Which values are known at build time, by what each type depends on."""
    architecture = tables.architecture
    same = inside & (output == target)
    known: Array = np.isin(rows.type, architecture.of(Reach.ABSOLUTE)) & (home == ABSOLUTE)
    known |= np.isin(rows.type, architecture.of(Reach.RELATIVE)) & same
    if paged := architecture.of(Reach.PAGE, Reach.OFFSET):
        # merge has put every output that such a field refers to at the start of a page.
        starts = np.array([o.sh_addralign % PAGE == 0 and o.name != PERCPU for o in tables.outputs], bool)
        known |= np.isin(rows.type, architecture.of(Reach.OFFSET)) & inside & starts[np.maximum(target, 0)]
        pages = np.isin(rows.type, paged) & ~np.isin(rows.type, architecture.of(Reach.OFFSET))
        # Cortex-A53 erratum 843419: the kernel may have to move an ADRP in the last two words of a page elsewhere
        # (arch/arm64/kernel/module.c reloc_insn_adrp(), 6.1), so it is left to it.
        known |= pages & same & starts[output] & (place % PAGE < PAGE - 8)
    return known


def site(tables: Tables, row: int) -> str:
    """``ext4.ko: .text+0x1c: PC32 against foo``, for messages."""
    rows = tables.relocations
    member, section = tables.where(int(rows.section[row]))
    kind = tables.architecture.relocations.get(int(rows.type[row]))
    name = kind.name if kind else f"relocation type {int(rows.type[row])}"
    symbol = int(rows.symbol[row])
    number = int(np.searchsorted(tables.symbol_base, symbol, side="right")) - 1
    text = tables.members[number].symbol_name(symbol - int(tables.symbol_base[number]))
    if not text and int(tables.symbol_section[symbol]) >= 0:
        text = tables.where(int(tables.symbol_section[symbol]))[1].name
    addend = f"{int(rows.addend[row]):+#x}" if rows.addend[row] else ""
    return f"{member.file}: {section.name}+{int(rows.offset[row]):#x}: {name} against {text or 'nothing'}{addend}"


def _check_types(tables: Tables, rows: Relocations, architecture: Architecture) -> None:
    widths = np.full(WIDEST + 1, -1, np.int64)
    for kind, known in architecture.relocations.items():
        widths[kind] = known.width
    width = widths[np.minimum(rows.type, WIDEST)]
    if (width < 0).any():
        raise MegamodError(f"{site(tables, int(np.argmax(width < 0)))}: a relocation type the kernel does not know")
    sizes = np.array([section.size for member in tables.members for section in member.sections], np.int64)
    outside = rows.offset + width > sizes[rows.section]
    if outside.any():
        raise MegamodError(f"{site(tables, int(np.argmax(outside)))}: the field ends outside its section")


def _check_targets(tables: Tables, rows: Relocations, home: Array, target: Array, gone: Array, layout: Layout) -> None:
    nothing = ~gone & (home == NOTHING)
    if nothing.any():
        raise MegamodError(f"{site(tables, int(np.argmax(nothing)))}: the symbol is undefined and has no name")
    lost = ~gone & (home >= 0) & (target < 0)
    if lost.any():
        row = int(np.argmax(lost))
        why = tables.placements[int(home[row])].why
        raise MegamodError(f"{site(tables, row)}: it refers to a section that is left out ({why})")
    # A symbol inside a table that is copied entry by entry would need the entry's new place; no module has one.
    moved = np.isin(home, list(layout.pieces)) & ~gone
    if moved.any():
        raise MegamodError(f"{site(tables, int(np.argmax(moved)))}: it refers to a table that is sorted again")
    relative = np.isin(rows.type, tables.architecture.of(Reach.RELATIVE, Reach.PAGE))
    absolute = ~gone & relative & (home == ABSOLUTE)
    if absolute.any():
        raise MegamodError(f"{site(tables, int(np.argmax(absolute)))}: the distance to an absolute value is unknown")


def _check_short(tables: Tables, rows: Relocations, kernel: Array, architecture: Architecture) -> None:
    """A short branch stays in its section: where two sections lie is the kernel's affair, and whether it reaches."""
    short = [kind for kind, known in architecture.relocations.items() if known.short]
    if short and (far := kernel & np.isin(rows.type, short)).any():
        raise MegamodError(
            f"{site(tables, int(np.argmax(far)))}: a short branch out of its section, which may not reach",
            hint="load this module on its own",
        )


def _trace_calls(tables: Tables, rows: Relocations, imported: Array) -> Array:
    """Sites of the trace call: all branch relocations against it (pass 8 looks at the instruction)."""
    call = tables.architecture.trace_call
    if call is None or call.symbol not in tables.imports:
        return np.zeros(len(rows.type), bool)
    against = imported == tables.imports.index(call.symbol)
    calls: Array = against & np.isin(rows.type, list(call.types))
    return calls
