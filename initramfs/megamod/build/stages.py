"""Stages → loads: which modules of a stage are merged into which megamodule, and which stay singles, in what order.

A member that depends, even indirectly, on a single that itself depends on a member of the stage cannot be in the same
megamodule: it goes to a second one, loaded after that single. So does one that asks for another by name while it is
initialised (late_users.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megamod.build.arguments import own_setter
from megamod.build.late_users import Later, resolved_users
from megamod.common.errors import MegamodError
from megamod.kernel.export_sources import KernelExports
from megamod.kernel.exports import why_reserved
from megamod.modules.modprobe_d import Option
from megamod.prelink.early_setters import needs_initialised
from megamod.prelink.exports import reserved
from megamod.prelink.member import Member
from megamod.prelink.mergeable import why_single
from megamod.select.select import SelectedModule, SelectedStage


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One call of the loader: a megamodule of several modules, or (with *single* saying why) one module alone.
    *round* is its place among the megamodules of its stage, from 1."""

    module: str
    modules: tuple[SelectedModule, ...]
    single: str | None
    round: int = 0


def import_edges(members: Mapping[str, Member]) -> dict[str, frozenset[str]]:
    """Which of *members* each imports symbols from."""
    exporters: dict[str, str] = {}
    for member in members.values():
        for export in member.exports:
            exporters.setdefault(export.name, member.name)
    return {
        name: frozenset(exporters[symbol] for symbol in member.imports.values() if symbol in exporters) - {name}
        for name, member in members.items()
    }


def split_into_loads(
    stage: SelectedStage,
    members: Mapping[str, Member],
    edges: Mapping[str, frozenset[str]],
    exports: KernelExports | None,
    *,
    options: Sequence[Option] = (),
    refused: Mapping[str, str] | None = None,
    rounds_from: Mapping[str, int] | None = None,
    allow_taint: bool = False,
) -> list[Load]:
    """The loads of *stage* in order: singles that need none of it, a megamodule, singles that need it, and so on.

    *members* holds this stage's modules and all of earlier stages; *exports* the kernel's own symbols, if known;
    *refused* says why modules cannot be merged beyond what each shows by itself, *options* which parameters are given;
    *rounds_from* which modules are not to be in a megamodule before that round, because it would be too large.
    """
    if not stage.modules:
        return []
    inside = {module.name: module for module in stage.modules}
    reasons = {
        name: reason
        for name in sorted(inside)
        if (
            reason := (refused or {}).get(name)
            or why_single(members[name], allow_taint=allow_taint)
            or why_reserved(members[name], exports)
        )
        is not None
    }
    together = {name: members[name] for name in inside if name not in reasons}
    alone = {name: why for name in sorted(together) if (why := _why_set_alone(members[name], together, options))}
    reasons |= alone
    floors = rounds_from or {}
    late = resolved_users({name: members[name] for name in sorted(inside)}, edges)
    rounds = _rounds(inside, reasons, edges, members, floors, late)
    while more := _reserved_elsewhere(inside, reasons, rounds, members) or _without_init(reasons, rounds, members):
        reasons |= more
        rounds = _rounds(inside, reasons, edges, members, floors, late)
    needed = {need for name in inside for need in edges[name]}
    needed |= {one.provider for later in late.values() for one in later}
    # A setter may look for a device that the driver of another module makes (block2mtd): the later the better.
    rounds |= dict.fromkeys(alone.keys() - needed, max(rounds.values()))
    loads: list[Load] = []
    for number in range(max(rounds.values()) + 1):
        merged = tuple(inside[name] for name in sorted(inside) if name not in reasons and rounds[name] == number)
        if merged:
            suffix = f"_{number}" if number > 1 else ""
            name = f"megamod_{stage.name.replace('-', '_')}{suffix}"
            loads.append(Load(module=name, modules=merged, single=None, round=number))
        singles = [name for name in sorted(inside) if name in reasons and rounds[name] == number]
        for name in _by_need(singles, edges):
            loads.append(Load(module=name, modules=(inside[name],), single=reasons[name]))
    return loads


def _why_set_alone(member: Member, inside: Mapping[str, Member], options: Sequence[Option]) -> str | None:
    """Why the parameters of *member* have to be set by a call of its own: the kernel sets those of a megamodule before
    any of its inits has run, and fails the whole call for a value that one of them refuses."""
    if (name := own_setter(options, member)) is not None:
        return f"has a function of its own for the option {name}, which may refuse the value"
    if (found := needs_initialised(member, inside)) is not None:
        return f"sets its parameter {found[0]} with the help of {found[1]}, whose init must have run by then"
    return None


def _reserved_elsewhere(
    inside: Mapping[str, SelectedModule],
    reasons: Mapping[str, str],
    rounds: Mapping[str, int],
    members: Mapping[str, Member],
) -> dict[str, str]:
    """Members that import a symbol which a module of another load reserves for them by name: the kernel will look at
    the importer's name, which merging would change. Inside one megamodule the link has bound it already."""
    owners = {
        export.name: (member.name, names)
        for member in members.values()
        for export in member.exports
        if (names := reserved(export.namespace)) is not None
    }
    found: dict[str, str] = {}
    for name in sorted(inside.keys() - reasons.keys()):
        for symbol in sorted(members[name].imports.values()):
            owner, names = owners.get(symbol, ("", ""))
            together = owner in inside and owner not in reasons and rounds[owner] == rounds[name]
            if owner and not together:
                found[name] = f"imports {symbol}, which {owner} reserves for {names}"
                break
    return found


def _without_init(
    reasons: Mapping[str, str], rounds: Mapping[str, int], members: Mapping[str, Member]
) -> dict[str, str]:
    """Members of a round in which nothing has an init function: there is no template for the glue's own."""
    groups: dict[int, list[str]] = {}
    for name in sorted(rounds.keys() - reasons.keys()):
        groups.setdefault(rounds[name], []).append(name)
    idle = [group for group in groups.values() if all(members[name].init is None for name in group)]
    return {
        name: "has no init function, and nothing that it could be merged with has" for group in idle for name in group
    }


def _rounds(
    inside: Mapping[str, SelectedModule],
    reasons: Mapping[str, str],
    edges: Mapping[str, frozenset[str]],
    members: Mapping[str, Member],
    floors: Mapping[str, int],
    late: Mapping[str, tuple[Later, ...]],
) -> dict[str, int]:
    """Round 0 holds singles that need no member; round n a megamodule and the singles that need it.

    Whoever is to be loaded later than another is a round later. Walks without recursion: chains of dependencies can be
    long.
    """
    rounds: dict[str, int] = {}
    for start in sorted(inside):
        path = [start]
        while path:
            name = path[-1]
            needed = sorted(edges[name] & inside.keys())
            before = [one.provider for one in late.get(name, ())]
            missing = [n for n in (*needed, *before) if n not in rounds]
            if missing and missing[0] in path:
                cycle = [*path[path.index(missing[0]) :], missing[0]]
                raise MegamodError(
                    f"{members[name].file}: cyclic dependency: {' needs '.join(cycle)}",
                    hint="such modules cannot be loaded at all",
                )
            if missing:
                path.append(missing[0])
                continue
            # A single of the same round is loaded after the megamodule: it is late enough.
            apart = [rounds[n] + (n in reasons or name not in reasons) for n in before]
            if name in reasons:
                rounds[name] = max((*(rounds[n] for n in needed), *apart), default=0)
            else:
                rounds[name] = max((*(rounds[n] + (n in reasons) for n in needed), *apart), default=1) or 1
                rounds[name] = max(rounds[name], floors.get(name, 1))
            path.pop()
    return rounds


def second_half(load: Load, members: Mapping[str, Member], edges: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """The modules of *load*, too large for one module, that should go to the next: about half of what is loaded, none
    of which the first half needs."""
    ranks = {module.name: module.rank for module in load.modules}
    sequence = _by_need(sorted(ranks, key=lambda name: (ranks[name], name)), edges)
    sizes = {name: sum(section.size for section in members[name].sections if section.alloc) for name in sequence}
    half, seen = sum(sizes.values()) / 2, 0
    for place, name in enumerate(sequence):
        seen += sizes[name]
        if seen >= half:
            # Each half has a module: the first is never all of them.
            return tuple(sequence[max(place if place == len(sequence) - 1 else place + 1, 1) :])
    return tuple(sequence[1:])


def _by_need(names: Sequence[str], edges: Mapping[str, frozenset[str]]) -> list[str]:
    """*names* so that each comes after those of them that it needs."""
    done: list[str] = []
    left = list(names)
    while left:
        ready = next(name for name in left if not edges[name] & (set(left) - {name}))
        left.remove(ready)
        done.append(ready)
    return done
