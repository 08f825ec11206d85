"""Pass 10, verify: every field of a member that refers to the kernel still refers to the same place of it.

A relocation names the member's symbol with the member's addend; or, with the one kernel known that the file is for,
another symbol and an addend that lead to the same address, where nothing but the member's own code uses the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megamod.prelink.distance import KernelImage
from megamod.prelink.elf import Array
from megamod.prelink.member import Member
from megamod.prelink.verify.arch_facts import ARCH_FACTS, ArchFacts
from megamod.prelink.verify.elf_reader import Written, failure, symbol_name

# Output sections that the kernel does not look into before the module's init.
_OWN_USE = re.compile(r"\.(init\.|exit\.|ref\.)?(text|rodata|data)(\.(?!\.percpu).*)?")
_ROW = np.dtype([("offset", "<u8"), ("type", "<u8"), ("addend", "<i8"), ("import", "<i8"), ("member", "<i8")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """names: of kernel symbols; fields: by output section, the members' fields that refer to them."""

    names: tuple[str, ...]
    fields: Mapping[str, Array]


def check_imports(
    read: Written, members: Sequence[Member], expected: Expected, image: KernelImage | None, facts: ArchFacts
) -> None:
    """Compare all relocations against kernel symbols with the members'."""
    names = expected.names
    numbers = {name: number for number, name in enumerate(names)}
    undefined = np.flatnonzero((read.symbols["shndx"] == 0) & (read.symbols["name"] != 0))
    found = np.full(len(read.symbols), -1, np.int64)
    for symbol in undefined.tolist():
        found[symbol] = numbers.setdefault(symbol_name(read, symbol), len(numbers))
    where = np.zeros(len(numbers), np.int64)
    known = np.zeros(len(numbers), bool)
    symbols = image.symbols if image is not None else {}
    for name in numbers.keys() & symbols.keys():
        where[numbers[name]], known[numbers[name]] = symbols[name].address & (1 << 63) - 1, True
    for output, rows in expected.fields.items():
        table = read.relocations.get(read.by_name[output].index)
        if table is None:
            raise failure(read.name, f"{output}: its relocations are lost")
        key = table["offset"] << np.uint64(12) | table["type"]
        order = np.argsort(key, kind="stable")
        mine = rows["offset"] << np.uint64(12) | rows["type"]
        at = order[np.minimum(np.searchsorted(key[order], mine), len(order) - 1)]
        symbol = found[table["symbol"][at]]
        same = (key[at] == mine) & (symbol == rows["import"])
        if read.bits == 64:
            same &= table["addend"][at] == rows["addend"]
        if image is not None and _OWN_USE.fullmatch(output):
            other = rows["import"]
            near = (key[at] == mine) & (symbol >= 0) & known[symbol] & known[other]
            same |= near & (where[symbol] + table["addend"][at] == where[other] + rows["addend"])
        if not same.all() and facts.veneer_calls:
            calls = np.flatnonzero(~same & np.isin(rows["type"], facts.veneer_calls) & (rows["addend"] == 0))
            same[calls] = _through_veneers(read, output, rows[calls], table, found, where, known, facts)
        if not same.all():
            row = rows[int(np.argmin(same))]
            text = f"{members[int(row['member'])].file}: {names[int(row['import'])]}"
            raise failure(read.name, f"{output}+{int(row['offset']):#x}: not what it was: {text}")


def _through_veneers(
    read: Written, output: str, calls: Array, table: Array, found: Array, where: Array, known: Array, facts: ArchFacts
) -> Array:
    """Which calls go to a jump in the same output section that leads to the function they are for (arm64)."""
    data = read.by_name[output].data
    places = calls["offset"].astype(np.int64)
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4").astype(np.int64)[places // 4]
    goals = places + 4 * ((words & 0x3FFFFFF ^ 0x2000000) - 0x2000000)
    rows = {int(row["offset"]): row for row in table[np.isin(table["type"], [kind for _, kind in facts.veneer_fields])]}
    right: dict[tuple[int, int], bool] = {}

    def leads(goal: int, wanted: int) -> bool:
        mask, value = facts.veneer
        code = bytes(data[goal : goal + len(mask)])
        if len(code) < len(mask) or bytes(a & b for a, b in zip(code, mask, strict=True)) != value:
            return False
        for offset, kind in facts.veneer_fields:
            row = rows.get(goal + offset)
            if row is None or int(row["type"]) != kind:
                return False
            symbol, addend = int(found[int(row["symbol"])]), int(row["addend"])
            near = symbol >= 0 and bool(known[symbol]) and bool(known[wanted])
            if not (symbol == wanted and not addend) and not (near and where[symbol] + addend == where[wanted]):
                return False
        return True

    for pair in zip(goals.tolist(), calls["import"].tolist(), strict=True):
        if pair not in right:
            right[pair] = leads(*pair)
    return np.array([right[pair] for pair in zip(goals.tolist(), calls["import"].tolist(), strict=True)], bool)


def expected_imports(members: Sequence[Member], link_map: Mapping[str, Any]) -> Expected:
    """What the members refer to of the kernel, at the places where *link_map* has put them."""
    facts = ARCH_FACTS[members[0].machine]
    exported = {export.name for member in members for export in member.exports}
    numbers: dict[str, int] = {}
    ids = []
    for member in members:
        mine = np.full(len(member.symbols), -1, np.int64)
        for symbol, name in member.imports.items():
            traced = name == facts.trace_symbol and link_map["options"]["tracing"] == "off"
            if name not in exported and not traced:
                mine[symbol] = numbers.setdefault(name, len(numbers))
        ids.append(mine)
    relas = {(number, target): rows for number, member in enumerate(members) for target, rows in member.relas}
    wanted: dict[str, list[Array]] = {}
    for chunk in link_map["chunks"]:
        number = chunk["member"]
        rows = relas.get((number, chunk["index"])) if number >= 0 else None
        if rows is None:
            continue
        imported = ids[number][rows["r_sym"]]
        # NONE, which is 0 everywhere, is no field: arm's unwind tables say by it that a symbol is wanted.
        kept = (imported >= 0) & (rows["r_type"] != 0)
        if not kept.any():
            continue
        part = np.zeros(int(kept.sum()), _ROW)
        part["offset"], part["type"] = rows["r_offset"][kept] + np.uint64(chunk["offset"]), rows["r_type"][kept]
        part["addend"], part["import"], part["member"] = rows["r_addend"][kept], imported[kept], number
        wanted.setdefault(chunk["output"], []).append(part)
    fields = {output: np.concatenate(parts) for output, parts in wanted.items()}
    return Expected(names=tuple(numbers), fields=fields)
