"""The unwind tables of arm, .ARM.exidx: every address of a function finds the entry that it found in its member.

module_finalize() in arch/arm/kernel/module.c ties each SHT_ARM_EXIDX section to the code section of the name behind
".ARM.exidx"; unwind_find_idx() (arch/arm/kernel/unwind.c) then looks by bisection for the last entry at or before an
address. Nothing sorts these tables. What entries hold is compared as bytes and references, like everything else.
"""

from dataclasses import dataclass

import numpy as np

from tests.oracle.difference import Report
from tests.oracle.elffile import Section
from tests.oracle.model import SHF_EXEC, Ints, Model
from tests.oracle.placement import GONE, LOST, Layout
from tests.oracle.policy import Options

EXIDX, _PREFIX, _ENTRY = 0x70000001, ".ARM.exidx", 8


@dataclass(frozen=True, slots=True)
class Table:
    """The entries of one section, in its order: places of the functions in the code section, and of the entries."""

    home: int
    code: int
    function: Ints
    entry: Ints

    def find(self, offsets: Ints) -> Ints:
        """The place of the entry for each address, by bisection; -1 before the first."""
        at = np.searchsorted(self.function, offsets, "right") - 1
        return np.where(at >= 0, self.entry[np.maximum(at, 0)], -1)


def _code_of(model: Model, section: Section) -> Section | None:
    return model.find(section.name[len(_PREFIX) :] or ".text")


def tables(model: Model) -> tuple[dict[int, Table], list[str]]:
    """The table of each code section, and sentences on what the kernel could not use."""
    found: dict[int, Table] = {}
    problems = []
    for section in model.sections[1:]:
        if not section.alloc or not section.name.startswith(_PREFIX) or not section.size:
            continue
        code = _code_of(model, section)
        if section.type != EXIDX:
            problems.append(f"{section.name} is not of type SHT_ARM_EXIDX: the kernel passes it over")
        if code is None:
            problems.append(f"{section.name}: no code section of that name")
            continue
        span = model.rows(section)
        first = np.arange(len(model.place))[span][model.place[span] % _ENTRY == 0]
        homes = model.symbol_section[model.symbol[first]]
        if len(first) * _ENTRY != section.size or np.any(homes != code.index):
            problems.append(f"{section.name}: an entry without a reference to {code.name}")
            continue
        function = model.symbol_value[model.symbol[first]] + model.addend[first]
        if np.any(function[1:] < function[:-1]):
            row = int(np.argmax(function[1:] < function[:-1])) + 1
            problems.append(f"{section.name}+{_ENTRY * row:#x}: not sorted, the bisection would go astray")
        found[code.index] = Table(section.index, code.index, function, model.place[first])
    return found, problems


def compare_exidx(
    models: list[Model], names: list[str], merged: Model, layout: Layout, options: Options, report: Report
) -> None:
    """The entries found for every function of every member, and one for the glue."""
    after, problems = tables(merged)
    for problem in problems:
        report.add("unwind", problem)
    if options.get("unwind") == "drop":
        return
    for number, (model, name) in enumerate(zip(models, names, strict=True)):
        place = layout.members[number]
        for table in tables(model)[0].values():
            code = model.sections[table.code]
            if place.output[table.code] == GONE or not len(table.function):
                continue
            points = np.unique(np.concatenate([table.function, np.append(table.function[1:], code.size) - 1]))
            points = points[(points >= table.function[0]) & (points < code.size)]
            home, wanted = place.forward(np.full(len(points), table.home), table.find(points))
            out, at = place.forward(np.full(len(points), table.code), points)
            for row, point in enumerate(points.tolist()):
                other = after.get(int(out[row])) if out[row] != LOST else None
                got = (other.home, int(other.find(at[row : row + 1])[0])) if other is not None else None
                if got != (int(home[row]), int(wanted[row])):
                    text = "another unwind entry is found for this address"
                    report.add("unwind", text, member=name, section=code.name, offset=point)
    for section, offset, size in layout.glue:
        own = after.get(section)
        if merged.sections[section].flags & SHF_EXEC and size and own is not None and offset not in own.function:
            report.add(
                "glue-unwind", "the glue's code has no unwind entry of its own", section=merged.sections[section].name
            )
