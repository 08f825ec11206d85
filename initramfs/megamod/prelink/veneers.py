"""Pass 3d, veneers: calls of a kernel function go to one jump in the megamodule, where the architecture wants that.

arm64's kernel counts a slot of .plt for each call that leaves its section, and shares it only if the addend is zero
(arch/arm64/kernel/module-plts.c count_plts()); with imports by distance no addend is. So each function gets a jump of
ours, one in each output section that calls it, behind the members' code: the calls are resolved here, and the kernel
has two relocations a function where it had one a call, to be sorted and counted. What the kernel looks at (sites of
alternatives) is in no output section of code, or keeps its name and so its call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from megamod.prelink.distance import Distances
from megamod.prelink.glue import VENEERS, Glue
from megamod.prelink.member import Member
from megamod.prelink.merge import Tables
from megamod.prelink.section_rules import folded


def choose_veneers(
    members: Sequence[Member], bindings: Sequence[Mapping[int, object]], distances: Distances
) -> dict[str, tuple[str, ...]]:
    """Output section → the kernel functions that it calls, sorted."""
    veneer = members[0].architecture.veneer
    if veneer is None:
        return {}
    found: dict[str, set[str]] = {output: set() for output in VENEERS}
    for member, bound in zip(members, bindings, strict=True):
        for target, rows in member.relas:
            section = member.sections[target]
            output = folded(section) if section.alloc else ""
            if output not in found:
                continue
            calls = np.isin(rows["r_type"], sorted(veneer.types)) & (rows["r_addend"] == 0)
            for symbol in np.unique(rows["r_sym"][calls]).tolist():
                if symbol not in bound and member.imports.get(symbol) in distances.far:
                    found[output].add(member.imports[symbol])
    return {output: tuple(sorted(names)) for output, names in found.items() if names}


def call_veneers(tables: Tables, glue: Glue) -> Tables:
    """The tables with all such calls against the glue's veneers."""
    veneer, rows = tables.architecture.veneer, tables.relocations
    if veneer is None or not glue.veneers:
        return tables
    numbers = {name: number for number, name in enumerate(tables.imports)}
    names = {output.name: number for number, output in enumerate(tables.outputs)}
    jumps = np.full((len(tables.outputs), len(tables.imports) + 1), -1, np.int64)
    for (output, name), number in glue.veneers.items():
        jumps[names[output], numbers[name]] = int(tables.symbol_base[-1]) + number
    calls = np.isin(rows.type, sorted(veneer.types)) & (rows.addend == 0)
    calls &= rows.section < int(tables.section_base[-1])
    jump = jumps[tables.section_output[rows.section], tables.symbol_import[rows.symbol]]
    symbol = np.where(calls & (jump >= 0), jump, rows.symbol)
    return replace(tables, relocations=replace(rows, symbol=symbol))
