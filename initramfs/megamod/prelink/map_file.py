"""The map: where each member's sections went, so that addresses can be carried back.

Form (JSON, version 1): ``build_id`` of the megamodule; ``members`` in init order; ``outputs``: each output section in
the file's order; ``chunks`` with member (-1 the glue), input section and its index, output section, offset, size;
``dropped`` with the reason; ``unwind``: [output section, entries] of each group of the sorted unwind table, in order;
``functions`` of each member's section, [value, size, name] each, so that a trace can be read without the modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from megamod.prelink.arch.interface import ORC_IP
from megamod.prelink.elf import EM_ARM, MACHINE_NAMES, SHF_EXECINSTR, STT_FUNC
from megamod.prelink.emit import build_ids, own_build_id
from megamod.prelink.layout import Layout
from megamod.prelink.merge import Tables
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.section_rules import How
from megamod.prelink.unwind import IP_SIZE, Unwind


def make_map(
    data: bytes,
    tables: Tables,
    layout: Layout,
    depends: Sequence[frozenset[int]],
    options: PrelinkOptions,
    unwind: Unwind | None,
) -> dict[str, Any]:
    """The map of the megamodule *data*, ready for json.dump."""
    members = tables.members[:-1]
    ids = build_ids(members)
    chunks: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for position, member in enumerate(tables.members):
        number = position if position < len(members) else -1
        for section in member.sections[1:]:
            if not section.alloc:
                continue
            whole = int(tables.section_base[position]) + section.index
            placement = tables.placements[whole]
            row: dict[str, Any] = {"member": number, "section": section.name, "index": section.index}
            output = int(tables.section_output[whole])
            rebuilt = placement.how is How.SHARED and number >= 0
            if output < 0 and number < 0:
                continue  # a table of the glue that this kernel has no use for
            if output < 0 or rebuilt:
                dropped.append({**row, "size": section.size, "why": "rebuilt" if rebuilt else placement.why})
            elif placement.how is How.SORTED:
                dropped.append({**row, "size": section.size, "why": "rebuilt"})
            else:
                offset = int(layout.offset[whole])
                chunks.append({**row, "output": tables.outputs[output].name, "offset": offset, "size": section.size})
    return {
        "version": 1,
        "name": options.name,
        "machine": MACHINE_NAMES[members[0].machine],
        "build_id": own_build_id(data),
        "options": {
            "unwind": options.unwind,
            "tracing": options.tracing,
            "symbols": options.symbols,
            "static_calls": options.static_calls,
        },
        "members": [
            {
                "name": member.name,
                "file": member.file,
                "build_id": ids[member.name],
                "srcversion": member.info("srcversion") or "",
                "depends": sorted(members[n].name for n in needed),
                "init": member.init is not None,
            }
            for member, needed in zip(members, depends, strict=True)
        ],
        "outputs": [
            {
                "name": output.name,
                "size": size,
                "align": output.sh_addralign,
                # KERNEL: kernel/module/main.c layout_sections(), 6.1: what is executable comes first, .init apart.
                "code": bool(output.sh_flags & SHF_EXECINSTR) and not output.name.startswith(".init"),
            }
            for output, size in zip(tables.outputs, layout.sizes, strict=True)
        ],
        "chunks": chunks,
        "dropped": dropped,
        "unwind": _groups(tables, unwind) if unwind is not None else [],
        "functions": _functions(tables),
    }


def _groups(tables: Tables, unwind: Unwind) -> list[list[Any]]:
    ips = tables.members[-1].section(ORC_IP)
    own = {unwind.table.own: ips.size // IP_SIZE if ips is not None else 0}
    return [[name, count + own.get(name, 0)] for name, count in (*unwind.table.core, *unwind.table.init)]


def _functions(tables: Tables) -> list[dict[str, Any]]:
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
        number = position if position < len(tables.members) - 1 else -1
        # Bit 0 of the address of a Thumb function says what it is (ELF for the Arm Architecture, 5.5.3).
        mask = ~np.uint64(1) if member.machine == EM_ARM else ~np.uint64(0)
        for index in np.unique(home[rows]).tolist():
            here = rows[home[rows] == index]
            values = (symbols["st_value"][here] & mask).tolist()
            sizes = symbols["st_size"][here].tolist()
            names = [member.symbol_name(row) for row in here.tolist()]
            listed = [list(row) for row in zip(values, sizes, names, strict=True)]
            found.append({"member": number, "index": index, "symbols": listed})
    return found
