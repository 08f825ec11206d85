"""Pass 3, order: in which order the members' inits are called.

Needs: the dependency edges of pass 2. Guarantees: a member comes after all that it imports from; among those that are
ready the lowest rank (initcall level, then link order of modules.order) goes first, as a static link would have had it;
a wish (softdep) is followed unless it would close a cycle.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from megamod.common.errors import MegamodError
from megamod.modules.levels import inherited_ranks, initcall_level, tagged_rank
from megamod.prelink.member import Member
from megamod.prelink.resolve import Resolution

Rank = tuple[int, int]


def order(
    members: Sequence[Member],
    resolution: Resolution,
    *,
    ranks: Mapping[str, Rank],
    after: Mapping[str, Sequence[str]],
) -> tuple[int, ...]:
    """Positions of *members* in init order. ranks and after go by module name; both may leave members out."""
    numbers = {member.name: number for number, member in enumerate(members)}
    keys = [(ranks.get(member.name, (6, number)), number) for number, member in enumerate(members)]
    hard = [set(needed) for needed in resolution.depends]
    soft = [{numbers[n] for n in after.get(m.name, ()) if n in numbers and n != m.name} for m in members]
    users: list[set[int]] = [set() for _ in members]
    for number in range(len(members)):
        for needed in hard[number] | soft[number]:
            users[needed].add(number)
    # By remaining dependencies: ready now, or held back by wishes alone.
    ready = [keys[n] for n in range(len(members)) if not hard[n] and not soft[n]]
    heapq.heapify(ready)
    done: list[int] = []
    placed: set[int] = set()
    while len(done) < len(members):
        if not ready:
            held = [keys[n] for n in range(len(members)) if n not in placed and not hard[n]]
            if not held:
                raise MegamodError(_cycle_text(members, hard, placed), hint="such modules cannot be loaded at all")
            ready.append(min(held))
        _, number = heapq.heappop(ready)
        if number in placed:
            continue
        placed.add(number)
        done.append(number)
        for user in users[number]:
            hard[user].discard(number)
            soft[user].discard(number)
            if user not in placed and not hard[user] and not soft[user]:
                heapq.heappush(ready, keys[user])
    return tuple(done)


def default_ranks(members: Sequence[Member], resolution: Resolution) -> dict[str, Rank]:
    """Ranks for modules that come without a tree: levels as recorded or from the table, and their order here."""
    own = {
        member.name: tagged_rank((initcall_level(member.name), number), member.info("initlevel"))
        for number, member in enumerate(members)
    }
    needs = {m.name: [members[n].name for n in d] for m, d in zip(members, resolution.depends, strict=True)}
    return inherited_ranks(own, needs)


def _cycle_text(members: Sequence[Member], hard: Sequence[set[int]], placed: set[int]) -> str:
    """Name one whole cycle: every member left has a dependency that is left, so following them must come around."""
    start = min(n for n in range(len(members)) if n not in placed)
    path: list[int] = []
    while start not in path:
        path.append(start)
        start = min(hard[start])
    cycle = [*path[path.index(start) :], start]
    return f"{members[start].file}: cyclic dependency: " + " needs ".join(members[n].name for n in cycle)
