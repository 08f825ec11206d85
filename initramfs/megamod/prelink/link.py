"""The recipe: from module files to a verified megamodule."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megamod.common.choices import Imports, Order, Tracing
from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.prelink.classify import classify
from megamod.prelink.distance import KernelImage, bind_by_distance, choose_distances, skip_check
from megamod.prelink.emit import emit, function_symbols
from megamod.prelink.exports import Export
from megamod.prelink.glue import make_glue
from megamod.prelink.kernel_crcs import find_glue_crcs, neighbours
from megamod.prelink.layout import layout
from megamod.prelink.limits import LimitError
from megamod.prelink.map_file import make_map
from megamod.prelink.member import Member
from megamod.prelink.merge import merge
from megamod.prelink.mergeable import why_apart, why_single
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.order import Rank, default_ranks, order
from megamod.prelink.parameters import Parameter
from megamod.prelink.read import read_member, read_members, without_file
from megamod.prelink.relocate import relocate
from megamod.prelink.resolve import OddMemberError, Resolution, check_names, resolve
from megamod.prelink.sort_unwind import sort_unwind
from megamod.prelink.unwind import gather
from megamod.prelink.veneers import call_veneers, choose_veneers
from megamod.prelink.verify.checks import verify
from megamod.prelink.verify.imports import expected_imports
from megamod.prelink.verify.other_form import verify_names_form
from megamod.prelink.waiting import waiting_ranks
from megamod.prelink.warnings import cost_notes


@dataclass(frozen=True, slots=True, kw_only=True)
class Megamodule:
    """One linked stage: the file, and what is worth saying about it.

    members: in init order. depends: per member, positions of the members that it needs. relocations: before, after.
    build_id: of the one kernel that the file is for, since imports are bound by distance; names: for all others.
    """

    name: str
    data: bytes
    names: bytes | None
    build_id: str | None
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


def prelink_files(
    files: Sequence[Path],
    options: PrelinkOptions,
    *,
    leave_out: bool = False,
    kernel: Mapping[str, int | None] | None = None,
) -> Megamodule:
    """Link module files; init order follows dependencies, then initcall level, then the order of *files*.
    *kernel*: what it exports and the CRCs, if known.

    Modules that cannot be merged are named all at once by the MegamodError; with *leave_out* the others are linked, and
    a note says what was left out.
    """
    refused: dict[str, str] = {}
    members = []
    for path in files:
        try:
            member = read_member(read_module_bytes(path), file=path.name, lenient=True)
        except MegamodError as error:
            refused[path.name] = f"cannot be read: {error.message.removeprefix(f'{path.name}: ')}"
            continue
        reason = why_single(member, allow_taint=options.allow_taint)
        if reason is None:
            members.append(member)
        else:
            refused[path.name] = reason
    linked: Megamodule | None = None
    while members and linked is None and (leave_out or len(refused) < len(files)):
        try:
            linked = _prelink_known(members, files[0], options, kernel)
        except RefusedError as error:
            refused[error.file] = error.reason
            members = [member for member in members if member.name != error.member]
        except MegamodError:
            # What is left may be at fault only for want of what has been refused, so that is what is told.
            if not refused:
                raise
            break
    if not refused and linked is not None:
        return linked
    if len(refused) <= 1 and not leave_out:
        return _prelink_known(read_members(files), files[0] if files else None, options, kernel)
    listed = [f"{file}: it {reason}" for file, reason in refused.items()]
    if linked is None or not leave_out:
        hint = "--leave-out links the others" if linked is not None else "load them one by one"
        raise MegamodError(f"{len(refused)} modules cannot be merged: {'; '.join(listed)}", hint=hint)
    return replace(linked, notes=(*(f"left out: {line}" for line in listed), *linked.notes))


def _prelink_known(
    members: Sequence[Member], first: Path | None, options: PrelinkOptions, kernel: Mapping[str, int | None] | None
) -> Megamodule:
    """Link *members* by what is known of the kernel: *kernel*, or what the modules beside *first* show."""
    donors = {name: crc for name, crc in (kernel or {}).items() if crc is not None}
    if not donors and first is not None:
        donors = find_glue_crcs(members, neighbours(first))
    return prelink(members, options, donors=donors, exported=kernel)


def prelink(
    members: Sequence[Member],
    options: PrelinkOptions,
    *,
    ranks: Mapping[str, Rank] | None = None,
    after: Mapping[str, Sequence[str]] | None = None,
    donors: Mapping[str, int] | None = None,
    exported: Container[str] | None = None,
    image: KernelImage | None = None,
) -> Megamodule:
    """Link members that were read already; every error is a MegamodError that names file and place.

    ranks: (initcall level, link order) by module name, by default the level table's and the order given. after:
    init-order wishes. donors: CRCs of kernel symbols that the glue may import although no member does;
    exported: what the kernel exports, None if that is not known. image: the one build of it that the members are for,
    if imports may be bound by distance. RefusedError is what one member alone is at fault for.
    """
    for member in members:
        _refuse_apart(member)
    check_names(members)
    with _refusing(members, OddMemberError):
        resolution = resolve(members, allow_taint=options.allow_taint)
    known = ranks if ranks is not None else default_ranks(members, resolution)
    if options.order == Order.WAITS:
        known = waiting_ranks(members, resolution, known, after or {})
    sequence = order(members, resolution, ranks=known, after=after or {})

    # From here on members go by their place in init order.
    placed = [members[number] for number in sequence]
    position = {number: place for place, number in enumerate(sequence)}
    depends = tuple(frozenset(position[n] for n in resolution.depends[number]) for number in sequence)
    bindings = [
        {symbol: (position[exporter], export) for symbol, (exporter, export) in resolution.bindings[number].items()}
        for number in sequence
    ]
    with _refusing(placed):
        return _link(placed, bindings, depends, resolution, options, donors or {}, exported, image)


def _link(
    placed: Sequence[Member],
    bindings: Sequence[Mapping[int, tuple[int, Export]]],
    depends: tuple[frozenset[int], ...],
    resolution: Resolution,
    options: PrelinkOptions,
    donors: Mapping[str, int],
    exported: Container[str] | None,
    image: KernelImage | None,
) -> Megamodule:
    """The passes from the glue on: the members fit together, and what is refused now is one member's own."""
    unwind = gather(placed, options)
    distances = None
    # Trace events are registered before the init, by functions that their structures point to.
    wanted = options.imports == Imports.DISTANCE and options.tracing == Tracing.OFF
    if image is not None and wanted and placed[0].architecture.checks_image:
        distances = choose_distances(placed, bindings, resolution, image)
    check = distances.check if distances is not None else None
    veneers = choose_veneers(placed, bindings, distances) if distances is not None else {}
    glue = make_glue(placed, depends, resolution, options, donors, unwind, exported, check, veneers)

    # Beyond this point there are no new symbols, sections or strings.
    unwind = glue.unwind
    tables = call_veneers(merge(placed, bindings, glue, options, sorts_unwind=unwind is not None), glue)
    places = layout(tables, percpu_reserve=options.percpu_reserve)

    # All offsets are fixed.
    found = classify(tables, places, options)
    contents = sort_unwind(relocate(tables, places, found), tables, places, unwind)
    names, functions = None, function_symbols(tables, places, options)
    if distances is not None:
        other = skip_check(contents, tables, places, glue)
        names = emit(other, tables, places, found, resolution, options, functions)
        found = bind_by_distance(tables, found, distances)
    data = emit(contents, tables, places, found, resolution, options, functions, beside=names)
    link_map = make_map(data, tables, places, depends, options, unwind, distances)
    expected = expected_imports(placed, link_map)
    remarks = verify(
        data,
        placed,
        link_map,
        percpu_reserve=options.percpu_reserve,
        image=image if distances is not None else None,
        expected=expected,
    )
    if names is not None:
        verify_names_form(data, names, placed, link_map, expected)
    return Megamodule(
        name=options.name,
        data=data,
        names=names,
        build_id=distances.build_id if distances is not None else None,
        members=tuple(placed),
        depends=depends,
        parameters=glue.parameters,
        map=link_map,
        has_results=glue.has_results,
        relocations=(sum(len(rows) for member in placed for _, rows in member.relas), int(found.kernel.sum())),
        notes=(*remarks, *glue.notes, *cost_notes(tables, options)),
    )


def _refuse_apart(member: Member) -> None:
    reason = why_apart(member)
    if reason is not None:
        text = f"{member.file}: it {reason}, so it cannot be merged"
        raise RefusedError(text, hint="load it on its own", member=member)


class RefusedError(MegamodError):
    """One member cannot be merged; without it the others may be. *reason* goes on from its name. *limit*: it is not the
    member itself, but all of them together are too much for one module."""

    def __init__(self, message: str, *, hint: str | None, member: Member, limit: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.member, self.file, self.limit = member.name, member.file, limit
        self.reason = f"cannot be merged: {without_file(self, member.file)}"


@contextlib.contextmanager
def _refusing(members: Sequence[Member], kind: type[MegamodError] = MegamodError) -> Iterator[None]:
    """An error of *kind* that begins with a member's file is a RefusedError of that member."""
    try:
        yield
    except kind as error:
        by_file = {member.file: member for member in members}
        member = by_file.get(error.message.partition(": ")[0])
        if member is None or isinstance(error, RefusedError):
            raise
        limit = isinstance(error, LimitError)
        raise RefusedError(error.message, hint=error.hint, member=member, limit=limit) from error
