"""Initcall levels of modules: the order in which a static link would have called their inits.

A .ko does not record its level (include/linux/module.h turns every `*_initcall` of a module into `module_init`, 6.1),
so profiles/initcall-levels.tsv holds the modules whose source says other than `module_init`;
initcall_source.py makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType

from megamod.common.host import data_folder
from megamod.common.text import canonical

DEVICE = 6
LAST = 7

LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "early": 0,
        "pure": 0,
        "core": 1,
        "postcore": 2,
        "arch": 3,
        "subsys": 4,
        "fs": 5,
        "rootfs": 5,
        "device": DEVICE,
        # A console's initcall runs with the console's set-up when built in; as a module it is a driver like any other.
        "console": DEVICE,
        "late": LAST,
    }
)
"""Level of `NAME_initcall` (include/linux/init.h, 6.1); `NAME_initcall_sync` has that of NAME, after all others."""

SYNC = 1 << 32
"""What is added to the place of a `NAME_initcall_sync`; greater than any place."""


Rank = tuple[int, int]
"""(initcall level, place in modules.order): the order of a static link."""


def initcall_level(name: str) -> int:
    """The level of a module, 0 (pure, early) to 7 (late); 6, that of `module_init`, for one not in the table."""
    return _table().get(canonical(name), DEVICE)


def static_rank(name: str, place: int) -> Rank:
    """The rank of the module *name* whose place in modules.order is *place*: `watchdog`, a subsys_initcall_sync, comes
    after every subsys_initcall wherever it is linked."""
    return initcall_level(name), place + (SYNC if canonical(name) in _sync_names() else 0)


@cache
def _text() -> str:
    return (data_folder("profiles") / "initcall-levels.tsv").read_text("utf-8")


@cache
def _table() -> Mapping[str, int]:
    return MappingProxyType(parse_table(_text()))


@cache
def _sync_names() -> frozenset[str]:
    rows = (line.split("\t") for line in _text().splitlines() if line.count("\t") == 2)
    return frozenset(row[0] for row in rows if row[1].endswith("_sync") and level_of(row[1]) == _table()[row[0]])


def parse_table(text: str) -> dict[str, int]:
    """Module → level from lines `module<TAB>…_initcall<TAB>source file`; of several lines the earliest level counts."""
    table: dict[str, int] = {}
    for line in text.splitlines():
        if not line or line.startswith(("#", "module\t")):
            continue
        module, macro, _source = line.split("\t")
        table[module] = min(table.get(module, LAST), level_of(macro))
    return table


def level_of(macro: str) -> int:
    """The level of an initcall macro such as `subsys_initcall` or `late_initcall_sync`."""
    return LEVELS[macro.removesuffix("_sync").removesuffix("_initcall")]


def inherited_ranks(ranks: Mapping[str, Rank], needs: Mapping[str, Iterable[str]]) -> dict[str, Rank]:
    """*ranks* where each module has the level of the earliest of those that need it, and its place beside that one's.

    *needs* may name direct dependencies or all of them. The places that come back are counted among these modules; no
    two are equal, and by them alone the modules are in order.

    virtio runs at the level core and imports from virtio_ring, which has no init and so no level of its own: ordered by
    their own ranks alone the one would wait for the other until all drivers have run.
    """
    earliest: dict[str, Rank] = {}
    # The first that comes by is the earliest, so nothing is looked at twice.
    for start in sorted(ranks, key=lambda name: (ranks[name], name)):
        queue = [start]
        for name in queue:
            if name in ranks and name not in earliest:
                earliest[name] = ranks[start]
                queue += needs.get(name, ())
    in_order = sorted(ranks, key=lambda name: (earliest[name], ranks[name], name))
    return {name: (earliest[name][0], place) for place, name in enumerate(in_order)}


def tagged_rank(rank: Rank, tag: str | None) -> Rank:
    """*rank* (level, place in modules.order) with the level that the module itself records, if it does.

    *tag* is the `initlevel` of its .modinfo (profiles/megamod-initlevel.h): "4", "4s" or "subsys". One that says
    nothing known is passed over: modules come from anywhere.
    """
    if tag is None:
        return rank
    plain = tag.removesuffix("s") if tag[:1].isdigit() else tag
    if plain.isascii() and plain.isdigit() and int(plain) <= LAST:
        return int(plain), rank[1]
    return LEVELS.get(tag.removesuffix("_sync"), rank[0]), rank[1]
