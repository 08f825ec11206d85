"""Members that must be loaded in a later call than others, although they import nothing from them.

A symbol that is asked for by its name (`symbol_get()`, `symbol_request()`, `dvb_attach()`) is not found as long as the
module that exports it is being loaded: strong_try_module_get() refuses a module in state coming (kernel/module/main.c,
6.1). One by one that cannot happen; in one megamodule all members are coming until the last init is over. The same
holds for what looks at devices when its init runs, and for chip drivers that are found by name. So the users go to the
next call, and nothing needs to know that modules are merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from megamod.prelink.elf import SHF_ALLOC, SHF_EXECINSTR
from megamod.prelink.member import Member

_GET = "__symbol_get"
# A conversion of printf in a symbol's name: gen_probe asks for `cfi_cmdset_%4.4X` (drivers/mtd/chips/gen_probe.c).
_CONVERSION = re.compile(rb"%[0-9.]*[dxXu]")
_NAME = re.compile(rb"(?<![^\0])(?:symbol:)?([A-Za-z_][\w%.]{2,62})(?![^\0])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """*provider* must be live before the user's init; *why* in a few words, after "it"."""

    provider: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """Importers of *user* need in an earlier call the importers of *provider*."""

    user: str
    provider: str
    why: str


_RULES = (
    _Rule(
        # do_map_probe() finds cfi_probe by name, which asks for a command set's symbol (drivers/mtd/chips/chipreg.c).
        user="do_map_probe",
        provider="register_mtd_chip_driver",
        why="asks for the chip driver {provider} by its name",
    ),
    _Rule(
        # ubi_init() attaches the devices that its parameter `mtd` names (drivers/mtd/ubi/build.c).
        user="get_mtd_device_nm",
        provider="mtd_device_parse_register",
        why="looks for the flash of {provider} when it starts",
    ),
)


def late_users(members: Mapping[str, Member], edges: Mapping[str, frozenset[str]]) -> dict[str, tuple[Later, ...]]:
    """Member → those that must be live before its init runs. One that the other needs itself is no user of it."""
    owners = {export.name: member.name for member in members.values() for export in member.exports}
    imports = {name: frozenset(member.imports.values()) for name, member in members.items()}
    found: dict[str, list[Later]] = {}

    def add(user: str, provider: str, why: str) -> None:
        if user != provider and user not in _closure(provider, edges):
            found.setdefault(user, []).append(Later(provider=provider, why=why))

    for name, member in members.items():
        if _GET in imports[name]:
            for symbol in sorted(_named(member, owners)):
                add(name, owners[symbol], f"asks for {symbol} of {owners[symbol]} by its name")
    for rule in _RULES:
        for provider in sorted(name for name in members if rule.provider in imports[name]):
            for user in sorted(name for name in members if rule.user in imports[name]):
                add(user, provider, rule.why.format(provider=provider))
    return {name: tuple(later) for name, later in found.items()}


def _closure(start: str, edges: Mapping[str, Set[str]]) -> set[str]:
    seen, queue = {start}, [start]
    for name in queue:
        fresh = edges.get(name, frozenset()) - seen
        seen |= fresh
        queue += sorted(fresh)
    return seen


def _named(member: Member, symbols: Iterable[str]) -> set[str]:
    """Which of *symbols* stand among the member's strings, or fit a pattern that does."""
    texts = _strings(member)
    plain = {text.decode() for text in texts if b"%" not in text}
    patterns = [
        re.compile(_CONVERSION.sub(b"[0-9A-Fa-f]+", text).decode()) for text in texts if _CONVERSION.search(text)
    ]
    own = {export.name for export in member.exports}
    return {s for s in symbols if s not in own and (s in plain or any(p.fullmatch(s) for p in patterns))}


def _strings(member: Member) -> set[bytes]:
    found: set[bytes] = set()
    for section in member.sections:
        if section.sh_flags & SHF_ALLOC and not section.sh_flags & SHF_EXECINSTR and section.name.startswith(".rodata"):
            found.update(_NAME.findall(section.data))
    return found


def resolved_users(members: Mapping[str, Member], edges: Mapping[str, frozenset[str]]) -> dict[str, tuple[Later, ...]]:
    """`late_users` of the *members* of a stage, without a circle: a wish that would close one is passed over."""
    graph = {name: set(edges[name] & members.keys()) for name in members}
    late: dict[str, tuple[Later, ...]] = {}
    for user, later in sorted(late_users(members, edges).items()):
        kept = []
        for one in later:
            if user not in _closure(one.provider, graph):
                graph[user].add(one.provider)
                kept.append(one)
        if kept:
            late[user] = tuple(kept)
    return late


def late_notes(
    where: Mapping[str, str], members: Mapping[str, Member], edges: Mapping[str, frozenset[str]]
) -> list[str]:
    """A line for each member that waits for another call than that of a member which it finds by name; *where* says
    which load each is in."""
    notes = []
    for user, later in resolved_users({name: members[name] for name in sorted(where)}, edges).items():
        whys = [one.why for one in later if where[one.provider] != where[user]]
        if whys:
            more = f" (and {len(whys) - 1} more like it)" if len(whys) > 1 else ""
            notes.append(f"{user} is loaded in a later call, because it {whys[0]}{more}")
    return notes
