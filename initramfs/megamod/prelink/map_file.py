"""The map: where each member's sections went, so that addresses can be carried back.

Its form is in map_form.py. The functions of all members are in it, so that a trace can be read without the modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from megamod.common.documents import plain
from megamod.prelink.arch.interface import ORC_IP
from megamod.prelink.distance import Distances
from megamod.prelink.elf import EM_ARM, MACHINE_NAMES, SHF_EXECINSTR, STT_FUNC
from megamod.prelink.emit import build_ids, own_build_id
from megamod.prelink.layout import Layout
from megamod.prelink.map_form import (
    GLUE,
    Chunk,
    Dropped,
    Function,
    MapMember,
    MapOptions,
    MegamoduleMap,
    Output,
    SectionFunctions,
    UnwindGroup,
)
from megamod.prelink.merge import Tables
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.section_rules import MergeRule
from megamod.prelink.unwind import IP_SIZE, Unwind


def make_map(
    data: bytes,
    tables: Tables,
    layout: Layout,
    depends: Sequence[frozenset[int]],
    options: PrelinkOptions,
    unwind: Unwind | None,
    distances: Distances | None = None,
) -> dict[str, Any]:
    """The map of the megamodule *data*, ready for json.dump. distances: by which its imports are bound, None: names."""
    members = tables.members[:-1]
    ids = build_ids(members)
    chunks: list[Chunk] = []
    dropped: list[Dropped] = []
    for position, member in enumerate(tables.members):
        number = position if position < len(members) else GLUE
        for section in member.sections[1:]:
            if not section.alloc:
                continue
            whole = int(tables.section_base[position]) + section.index
            placement = tables.placements[whole]
            row: dict[str, Any] = {
                "member": number,
                "section": section.name,
                "index": section.index,
                "size": section.size,
            }
            output = int(tables.section_output[whole])
            rebuilt = placement.rule is MergeRule.SHARED and number >= 0
            if output < 0 and number < 0:
                continue  # a table of the glue that this kernel has no use for
            if output < 0 or rebuilt:
                dropped.append(Dropped(**row, why="rebuilt" if rebuilt else placement.why))
            elif placement.rule is MergeRule.SORTED:
                dropped.append(Dropped(**row, why="rebuilt"))
            else:
                offset = int(layout.offset[whole])
                chunks.append(Chunk(**row, output=tables.outputs[output].name, offset=offset))
    form = MegamoduleMap(
        name=options.name,
        machine=MACHINE_NAMES[members[0].machine],
        build_id=own_build_id(data),
        options=MapOptions(
            unwind=options.unwind,
            tracing=options.tracing,
            symbols=options.symbols,
            static_calls=options.static_calls,
        ),
        kernel_build_id=distances.build_id if distances is not None else "",
        members=[
            MapMember(
                name=member.name,
                file=member.file,
                build_id=ids[member.name],
                srcversion=member.info("srcversion") or "",
                depends=sorted(members[n].name for n in needed),
                init=member.init is not None,
            )
            for member, needed in zip(members, depends, strict=True)
        ],
        outputs=[
            Output(
                name=output.name,
                size=size,
                align=output.sh_addralign,
                # KERNEL: kernel/module/main.c layout_sections(), 6.1: what is executable comes first, .init apart.
                code=bool(output.sh_flags & SHF_EXECINSTR) and not output.name.startswith(".init"),
            )
            for output, size in zip(tables.outputs, layout.sizes, strict=True)
        ],
        chunks=chunks,
        dropped=dropped,
        unwind=_groups(tables, unwind) if unwind is not None else [],
        functions=_functions(tables),
    )
    return dict(plain(form))


def _groups(tables: Tables, unwind: Unwind) -> list[UnwindGroup]:
    ips = tables.members[-1].section(ORC_IP)
    own = dict.fromkeys(unwind.table.own, ips.size // IP_SIZE // len(unwind.table.own) if ips is not None else 0)
    return [UnwindGroup(name, count + own.get(name, 0)) for name, count in (*unwind.table.core, *unwind.table.init)]


def _functions(tables: Tables) -> list[SectionFunctions]:
    """The function symbols of each input section that has a place, in the order of their values."""
    found = []
    for position, member in enumerate(tables.members):
        symbols = member.symbols
        kept = tables.section_output[int(tables.section_base[position]) :][: len(member.sections)] >= 0
        home = symbols["st_shndx"].astype(np.int64)
        wanted = (symbols["st_info"] & 15 == STT_FUNC) & (home > 0) & (home < len(kept))
        wanted[wanted] = kept[home[wanted]]
        rows = np.flatnonzero(wanted)
        rows = rows[np.lexsort((rows, symbols["st_value"][rows], home[rows]))]
        number = position if position < len(tables.members) - 1 else GLUE
        # Bit 0 of the address of a Thumb function says what it is (ELF for the Arm Architecture, 5.5.3).
        mask = ~np.uint64(1) if member.machine == EM_ARM else ~np.uint64(0)
        for index in np.unique(home[rows]).tolist():
            here = rows[home[rows] == index]
            values = (symbols["st_value"][here] & mask).tolist()
            sizes = symbols["st_size"][here].tolist()
            names = [member.symbol_name(row) for row in here.tolist()]
            listed = [Function(*row) for row in zip(values, sizes, names, strict=True)]
            found.append(SectionFunctions(member=number, index=index, symbols=listed))
    return found
