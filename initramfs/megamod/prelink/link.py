"""The recipe: from module files to a verified megamodule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megamod.common.errors import MegamodError
from megamod.prelink.classify import classify
from megamod.prelink.emit import emit
from megamod.prelink.glue import make_glue
from megamod.prelink.kernel_crcs import find_glue_crcs, neighbours
from megamod.prelink.layout import layout
from megamod.prelink.map_file import make_map
from megamod.prelink.member import Member
from megamod.prelink.merge import merge
from megamod.prelink.mergeable import why_single
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.order import Rank, default_ranks, order
from megamod.prelink.parameters import Parameter
from megamod.prelink.read import read_members
from megamod.prelink.relocate import relocate
from megamod.prelink.resolve import resolve
from megamod.prelink.sort_unwind import sort_unwind
from megamod.prelink.unwind import gather
from megamod.prelink.verify.checks import verify
from megamod.prelink.warnings import cost_notes


@dataclass(frozen=True, slots=True, kw_only=True)
class Megamodule:
    """One linked stage: the file, and what is worth saying about it.

    members: in init order. depends: per member, positions of the members that it needs. relocations: before, after.
    """

    name: str
    data: bytes
    members: tuple[Member, ...]
    depends: tuple[frozenset[int], ...]
    parameters: tuple[Parameter, ...]
    map: dict[str, Any]
    has_results: bool
    relocations: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def requests(self) -> bool:
        """Whether an init may call request_module(), which must not reach modprobe while the megamodule loads."""
        return any("__request_module" in member.imports.values() for member in self.members)


def prelink_files(files: Sequence[Path], options: PrelinkOptions) -> Megamodule:
    """Link module files; init order follows dependencies, then initcall level, then the order of *files*."""
    members = read_members(files)
    donors = find_glue_crcs(members, neighbours(files[0])) if files else {}
    return prelink(members, options, donors=donors)


def prelink(
    members: Sequence[Member],
    options: PrelinkOptions,
    *,
    ranks: Mapping[str, Rank] | None = None,
    after: Mapping[str, Sequence[str]] | None = None,
    donors: Mapping[str, int] | None = None,
) -> Megamodule:
    """Link members that were read already; every error is a MegamodError that names file and place.

    ranks: (initcall level, link order) by module name, by default the level table's and the order given. after:
    init-order wishes. donors: CRCs of kernel symbols that the glue may import although no member does.
    """
    for member in members:
        _refuse_single(member)
    resolution = resolve(members, allow_taint=options.allow_taint)
    known = ranks if ranks is not None else default_ranks(members, resolution)
    sequence = order(members, resolution, ranks=known, after=after or {})

    # From here on members go by their place in init order.
    placed = [members[number] for number in sequence]
    position = {number: place for place, number in enumerate(sequence)}
    depends = tuple(frozenset(position[n] for n in resolution.depends[number]) for number in sequence)
    bindings = [
        {symbol: (position[exporter], export) for symbol, (exporter, export) in resolution.bindings[number].items()}
        for number in sequence
    ]
    unwind = gather(placed, options)
    glue = make_glue(placed, depends, resolution, options, donors or {}, unwind)

    # Beyond this point there are no new symbols, sections or strings.
    tables = merge(placed, bindings, glue, options, sorts_unwind=unwind is not None)
    places = layout(tables)

    # All offsets are fixed.
    found = classify(tables, places, options)
    contents = sort_unwind(relocate(tables, places, found), tables, places, unwind)
    data = emit(contents, tables, places, found, resolution, options)
    link_map = make_map(data, tables, places, depends, options, unwind)
    remarks = verify(data, placed, link_map)
    return Megamodule(
        name=options.name,
        data=data,
        members=tuple(placed),
        depends=depends,
        parameters=glue.parameters,
        map=link_map,
        has_results=glue.has_results,
        relocations=(sum(len(rows) for member in placed for _, rows in member.relas), int(found.kernel.sum())),
        notes=(*remarks, *cost_notes(tables, options)),
    )


def _refuse_single(member: Member) -> None:
    reason = why_single(member)
    if reason is not None:
        raise MegamodError(f"{member.file}: it {reason}, so it cannot be merged", hint="load it on its own")
