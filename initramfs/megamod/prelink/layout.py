"""Pass 6, layout: where each input section lies in its output section.

Needs: the merged tables. Guarantees: every offset is fixed; tables have no gap, everything else is aligned; exports are
sorted as the kernel's bsearch wants them (strcmp order, kernel/module/main.c find_exported_symbol_in_section()).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megamod.prelink import elf
from megamod.prelink.elf import Array, Section, align_up
from megamod.prelink.exports import Export
from megamod.prelink.limits import PERCPU_RESERVE, LimitError
from megamod.prelink.merge import PERCPU, Output, Tables
from megamod.prelink.section_rules import MergeRule

_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """A section copied entry by entry: *size* bytes each, *targets* the offset of each in the output, -1 gone."""

    size: int
    targets: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """offset: per global section, bytes in its output (0 where it has none). sizes: per output. pieces: by section.

    exports: per sorted table's name, (member position, export) in output order.
    """

    offset: Array
    sizes: tuple[int, ...]
    pieces: Mapping[int, Pieces]
    exports: Mapping[str, tuple[tuple[int, Export], ...]]


def layout(tables: Tables, *, percpu_reserve: int = PERCPU_RESERVE) -> Layout:
    """Fix all offsets. percpu_reserve: bytes that the kernel has for the per-CPU data of all modules."""
    offset = np.zeros(len(tables.section_output), np.int64)
    sizes: list[int] = []
    pieces: dict[int, Pieces] = {}
    exports: dict[str, tuple[tuple[int, Export], ...]] = {}
    area = tables.architecture.area
    for output in tables.outputs:
        if output.rule is MergeRule.SORTED:
            exports[output.name] = _sort_exports(tables, output, pieces)
            sizes.append(tables.architecture.export_entry * len(exports[output.name]))
        else:
            sizes.append(_place(tables, output, offset))
        if output.name == PERCPU and (sizes[-1] > percpu_reserve or output.sh_addralign > _PAGE):
            widest = output.sh_addralign > _PAGE
            largest = max(output.inputs, key=lambda number: _cost(tables.where(number)[1], alignment=widest))
            raise LimitError(
                f"{tables.where(largest)[0].file}: with it {PERCPU} has {sizes[-1]} bytes at alignment "
                f"{output.sh_addralign}, the kernel has {percpu_reserve}",
                hint="split the stage in two",
            )
        if sum(sizes) > area:
            seen = (number for other in tables.outputs[: len(sizes)] for number in other.inputs)
            largest = max(seen, key=lambda number: tables.where(number)[1].size)
            raise LimitError(
                f"{tables.where(largest)[0].file}: with it the megamodule would exceed the {area} bytes that a "
                "kernel has for all modules",
                hint="split the stage in two",
            )
        if output.sh_flags & elf.SHF_EXECINSTR and sizes[-1] > tables.architecture.text_limit:
            largest = max(output.inputs, key=lambda number: tables.where(number)[1].size)
            raise LimitError(
                f"{tables.where(largest)[0].file}: with it {output.name} has {sizes[-1]} bytes of code; a branch of "
                f"{tables.architecture.name} reaches {tables.architecture.text_limit}",
                hint="split the stage in two",
            )
    return Layout(offset=offset, sizes=tuple(sizes), pieces=pieces, exports=exports)


def _cost(section: Section, *, alignment: bool) -> int:
    return section.sh_addralign if alignment else section.size


def _place(tables: Tables, output: Output, offset: Array) -> int:
    """Inputs follow each other member by member, so a member's .text, .text.unlikely and .text.hot are neighbours."""
    end = 0
    for number in output.inputs:
        _, section = tables.where(number)
        packed = output.rule in (MergeRule.PACKED, MergeRule.SHARED)
        start = end if packed or not section.size else align_up(end, section.sh_addralign)
        offset[number] = start
        end = start + section.size
    return end


def _sort_exports(tables: Tables, output: Output, pieces: dict[int, Pieces]) -> tuple[tuple[int, Export], ...]:
    found: list[tuple[bytes, int, int, Export]] = []
    for number in output.inputs:
        position = int(np.searchsorted(tables.section_base, number, side="right")) - 1
        local = number - int(tables.section_base[position])
        for export in tables.members[position].exports:
            if export.table == local:
                found.append((export.name.encode("utf-8", "backslashreplace"), number, position, export))
    found.sort(key=lambda row: row[0])
    counts: dict[int, int] = {}
    for _, number, _, _ in found:
        counts[number] = counts.get(number, 0) + 1
    size = tables.architecture.export_entry
    targets = {number: np.full(count, -1, np.int64) for number, count in counts.items()}
    for place, (_, number, _, export) in enumerate(found):
        targets[number][export.entry] = size * place
    for number, places in targets.items():
        pieces[number] = Pieces(size=size, targets=places)
    return tuple((position, export) for _, _, position, export in found)
