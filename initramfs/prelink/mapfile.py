"""The map: where each member's sections went, so that addresses can be carried back.

Form (JSON, version 1): ``members`` in init order; ``chunks`` with member (-1 the glue), input section and its index,
output section, offset, size, or ``pieces`` [[input offset, output offset, size], …] where entries moved one by one;
``dropped`` with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from megamod.initramfs.prelink.elf import MACHINE_NAMES
from megamod.initramfs.prelink.emit import build_ids
from megamod.initramfs.prelink.layout import Layout, Pieces
from megamod.initramfs.prelink.merge import Tables
from megamod.initramfs.prelink.options import PrelinkOptions
from megamod.initramfs.prelink.policy import How


def make_map(
    tables: Tables, layout: Layout, depends: Sequence[frozenset[int]], options: PrelinkOptions
) -> dict[str, Any]:
    """The map of one megamodule, ready for json.dump."""
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
            elif whole in layout.pieces:
                pieces = _pieces(layout.pieces[whole])
                chunks.append({**row, "output": tables.outputs[output].name, "pieces": pieces})
            else:
                offset = int(layout.offset[whole])
                chunks.append({**row, "output": tables.outputs[output].name, "offset": offset, "size": section.size})
    return {
        "version": 1,
        "name": options.name,
        "machine": MACHINE_NAMES[members[0].machine],
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
        "chunks": chunks,
        "dropped": dropped,
    }


def _pieces(pieces: Pieces) -> list[list[int]]:
    """Runs of entries that stayed together, as [input offset, output offset, size]."""
    kept = np.flatnonzero(pieces.targets >= 0)
    if not len(kept):
        return []
    targets = pieces.targets[kept]
    breaks = np.flatnonzero((np.diff(kept) != 1) | (np.diff(targets) != pieces.size)) + 1
    starts, ends = np.concatenate([[0], breaks]), np.concatenate([breaks, [len(kept)]])
    return [
        [int(kept[low]) * pieces.size, int(targets[low]), int(high - low) * pieces.size]
        for low, high in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
