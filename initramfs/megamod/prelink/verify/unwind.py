"""Of pass 10: the sorted unwind table of a finished file says of every address what the members' own tables say.

Reads relocations and states from the members' files again; what the linker's own passes made of them is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from megamod.prelink.elf import Array
from megamod.prelink.member import Member
from megamod.prelink.verify.elf_reader import RELA, Written, failure

_IPS, _STATES = ".orc_unwind_ip", ".orc_unwind"
_ENTRY = np.dtype([("group", "<i4"), ("at", "<i8"), ("state", "<u8")])


def check_unwind(read: Written, members: Sequence[Member], link_map: Mapping[str, Any]) -> None:
    """Nothing to do without such a table, which members without unwind tables, `unwind: drop` and other architectures
    do not have."""
    groups = [(str(name), int(count)) for name, count in link_map.get("unwind", [])]
    ips, states = read.by_name.get(f"{_IPS}.sorted"), read.by_name.get(f"{_STATES}.sorted")
    if ips is None or states is None or not groups:
        if ips is not states or groups:
            raise failure(read.name, "half a sorted unwind table")
        return
    if any(section.index in read.relocations for section in (ips, states)):
        raise failure(read.name, f"{ips.name}: relocations in a table that the glue settles")
    names = [name for name, _ in groups]
    order = sorted(names, key=lambda name: (name.startswith(".init"), read.by_name[name].index))
    if names != order or len(set(names)) < len(names):
        raise failure(read.name, f"{ips.name}: {', '.join(names)}: not in the order of the code")
    gap = sum(count for name, count in groups if name.startswith(".init"))
    table = _table(groups, np.frombuffer(ips.data, "<u4")[gap:], _six(states.data)[gap:])
    if len(table) * 4 + gap * 4 != ips.size or any(ips.data[: 4 * gap]) or any(states.data[: 6 * gap]):
        raise failure(read.name, f"{ips.name}: {ips.size} bytes for {len(table)} entries and {gap} in the gap")
    # As orc_sort_cmp() has it: an undefined entry before a real one of the same address.
    weight = table["at"] * 2 + (table["state"] >> np.uint64(32) != 0)
    if ((table["group"][1:] == table["group"][:-1]) & (weight[1:] < weight[:-1])).any():
        raise failure(read.name, f"{ips.name} is not sorted")
    expected = np.concatenate([*_expected(read, members, link_map, names), np.empty(0, _ENTRY)])
    found, wanted = map(np.sort, _numbered(table, expected))
    whole = link_map["options"]["unwind"] == "keep"
    if not np.array_equal(found, wanted) if whole else not _is_in(found, wanted):
        raise failure(read.name, f"{ips.name}: not the members' entries")


def _is_in(found: Array, wanted: Array) -> bool:
    """Whether each of *found* is in *wanted*; both are sorted."""
    if not len(found) or not len(wanted):
        return not len(found)
    at = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
    return bool((wanted[at] == found).all())


def _numbered(*tables: Array) -> list[Array]:
    """A number for each entry, the same in all tables for what is the same; structures are slow to sort."""
    states = np.unique(np.concatenate([table["state"] for table in tables]))
    shift = len(states).bit_length()
    return [
        (table["group"].astype(np.int64) << 32 | table["at"]) << shift | np.searchsorted(states, table["state"])
        for table in tables
    ]


def _six(data: memoryview) -> Array:
    """Entries of six bytes as integers."""
    halves = np.frombuffer(data, "<u2").reshape(-1, 3).astype(np.uint64)
    whole: Array = halves[:, 0] | halves[:, 1] << np.uint64(16) | halves[:, 2] << np.uint64(32)
    return whole


def _table(groups: Sequence[tuple[str, int]], at: Array, state: Array) -> Array:
    group = np.repeat(np.arange(len(groups)), [count for _, count in groups])
    size = min(len(group), len(at), len(state))
    return _entries(group[:size], at[:size], state[:size])


def _entries(group: Array, at: Array, state: Array) -> Array:
    table = np.empty(len(group), _ENTRY)
    table["group"], table["at"], table["state"] = group, at, state
    return table


def _expected(
    read: Written, members: Sequence[Member], link_map: Mapping[str, Any], names: Sequence[str]
) -> Iterator[Array]:
    where = {(c["member"], c["index"]): (c["output"], c["offset"]) for c in link_map["chunks"]}
    for number, member in enumerate(members):
        ips, states = member.section(_IPS), member.section(_STATES)
        if ips is None or states is None:
            continue
        group, base = np.full(len(member.sections), -1), np.zeros(len(member.sections), np.int64)
        for section in member.sections:
            output, offset = where.get((number, section.index), ("", 0))
            if output in names:
                group[section.index], base[section.index] = names.index(output), offset
        rows = np.concatenate([rows for target, rows in member.relas if target == ips.index])
        entry, symbols = rows["r_offset"].astype(np.int64) // 4, member.symbols[rows["r_sym"]]
        home, at = symbols["st_shndx"], symbols["st_value"].astype(np.int64) + rows["r_addend"]
        # Without module unloading there is no exit code to unwind through; what lies outside says of no byte.
        sizes = np.array([section.size for section in member.sections], np.int64)
        there = (group[home] >= 0) & (at >= 0) & (at <= sizes[home])
        yield _entries(group[home][there], (base[home] + at)[there], _six(states.data)[entry][there])
    small, states_of_glue = read.by_name[_IPS], read.by_name[_STATES]
    rows = read.relocations.get(small.index, np.empty(0, RELA))
    symbols = read.symbols[rows["symbol"]]
    group = np.array([names.index(read.sections[int(index)].name) for index in symbols["shndx"]], np.int64)
    at = symbols["value"].astype(np.int64) + rows["addend"]
    yield _entries(group, at, _six(states_of_glue.data)[rows["offset"].astype(np.int64) // 4])
