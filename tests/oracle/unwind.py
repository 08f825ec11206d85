"""The unwind state at every address that can appear in a stack trace is what it was.

orc_find() (arch/x86/kernel/unwind_orc.c) takes the last entry at or before an address: the return address minus one for
a call, the address itself for a trap. With `unwind: keep` every byte of code must keep its state. With `compact` only
the addresses count that can stand in a trace: inside a call, at a __bug_table address, at an __ex_table address, and
inside a site whose alternative holds a call.
"""

from collections import Counter
from dataclasses import dataclass

import capstone
import numpy as np

from tests.oracle.difference import Report
from tests.oracle.elffile import Section
from tests.oracle.model import SHF_EXEC, Bytes, Ints, Model
from tests.oracle.placement import GONE, LOST, Layout
from tests.oracle.policy import Options
from tests.oracle.stride import entry_size
from tests.oracle.tables import Unwind, has_sorted_unwind, modinfo_first, unwind_table


@dataclass(slots=True)
class Lookup:
    """The table of a loaded module, sorted as unwind_module_init() sorts it, cut by section."""

    offset: dict[int, Ints]
    data: dict[int, Ints]

    def find(self, home: int, places: Ints) -> Ints:
        """The entry's six bytes for each place in a section; -1 where no entry of that section comes before it."""
        if home not in self.offset:
            return np.full(len(places), -1, np.int64)
        at = np.searchsorted(self.offset[home], places, "right") - 1
        return np.where(at >= 0, self.data[home][np.maximum(at, 0)], -1)


def sort_table(table: Unwind) -> Lookup:
    """Sorted by address, terminators before real entries of the same address (orc_sort_cmp)."""
    order = np.lexsort((~table.weak(), table.offset, table.home))
    homes, offset, data = table.home[order], table.offset[order], table.data[order]
    names = np.unique(homes).tolist()
    cuts = {h: slice(*np.searchsorted(homes, [h, h + 1]).tolist()) for h in names}
    return Lookup({h: offset[c] for h, c in cuts.items()}, {h: data[c] for h, c in cuts.items()})


def compare_unwind(
    models: list[Model],
    names: list[str],
    merged: Model,
    layout: Layout,
    options: Options,
    table: Unwind,
    report: Report,
) -> None:
    """The states of all members under the megamodule's one table; nothing to do where it was dropped by request."""
    if options.get("unwind") == "drop":
        return
    settled = has_sorted_unwind(merged)
    if settled and not len(table.home):
        report.add("unwind", "there is no table to compare with")
        return
    after = sort_table(table)
    if settled:
        _compare_entries(models, merged, layout, options, table, report)
    _check_ties(table, merged, report)
    # Without traced calls their return addresses do not exist.
    traced = options.get("tracing") != "off"
    for number, (model, name) in enumerate(zip(models, names, strict=True)):
        own, problems = unwind_table(model)
        if problems or not len(own.home):
            continue
        before = sort_table(own)
        for home in before.offset:
            section = model.sections[home]
            if not section.flags & SHF_EXEC or layout.members[number].output[home] == GONE:
                continue
            if settled and not _runs(model, section):
                continue
            points = (
                addresses_that_count(model, section, traced=traced)
                if options.get("unwind") == "compact"
                else _every_range(before.offset[home], section.size)
            )
            _compare_states(points, before, after, layout, number, name, section, report)


def _runs(model: Model, section: Section) -> bool:
    """False for exit code without CONFIG_MODULE_UNLOAD: left out, or put with init's (module_exit_section())."""
    unloads = "mod_unload" in (modinfo_first(model, "vermagic") or "").split()
    return unloads or not section.name.startswith(".exit")


def _compare_entries(
    models: list[Model], merged: Model, layout: Layout, options: Options, table: Unwind, report: Report
) -> None:
    """The sorted table against the members' and the glue's own: the same entries, or with `compact` some of them.

    Entries for what lies behind a section's last byte are not a state of any code, but part of the table.
    """
    wanted = [unwind_table(merged)[0]]
    for model, place in zip(models, layout.members, strict=True):
        own, _ = unwind_table(model)
        runs = np.array([_runs(model, section) for section in model.sections])
        rows = runs[own.home] & (place.output[own.home] != GONE)
        out, at = place.forward(own.home[rows], own.offset[rows])
        wanted.append(Unwind(out, at, own.data[rows]))
    home, offset, data = (
        np.concatenate([getattr(each, column) for each in (table, *wanted)]) for column in ("home", "offset", "data")
    )
    # Each different entry gets a number; how often it is there on each side.
    states = np.unique(data, return_inverse=True)[1]
    unique, first, number = np.unique(
        (home << 32 | offset) * (int(states.max()) + 1) + states, return_index=True, return_inverse=True
    )
    have = np.bincount(number[: len(table.home)], minlength=len(unique))
    want = np.bincount(number[len(table.home) :], minlength=len(unique))
    lost = np.flatnonzero(have < want) if options.get("unwind") != "compact" else np.zeros(0, np.int64)
    for text, rows in (("is not in the table", lost), ("is in the table and no member's", np.flatnonzero(have > want))):
        for row in first[rows].tolist():
            where = merged.sections[int(home[row])].name
            report.add("unwind", f"entry {_show(int(data[row]))} {text}", section=where, offset=int(offset[row]))


def _every_range(starts: Ints, size: int) -> Ints:
    """First and last byte of each range: with both equal and no way to nest, all between are."""
    ends = np.append(starts[1:], size) - 1
    points = np.unique(np.concatenate([starts, ends]))
    return points[(points >= 0) & (points < size)]


def _compare_states(
    points: Ints,
    before: Lookup,
    after: Lookup,
    layout: Layout,
    number: int,
    name: str,
    section: Section,
    report: Report,
) -> None:
    was = before.find(section.index, points)
    out, at = layout.members[number].forward(np.full(len(points), section.index), points)
    now = np.full(len(points), -1, np.int64)
    for home in np.unique(out[out != LOST]).tolist():
        rows = out == home
        now[rows] = after.find(home, at[rows])
    # Before a section's first entry the state depended on what memory held in front of it: nothing to keep.
    for row in np.flatnonzero((was != now) & (was >= 0)).tolist():
        text = f"state {_show(int(was[row]))} became {_show(int(now[row]))}"
        report.add("unwind", text, member=name, section=section.name, offset=int(points[row]))


def _show(data: int) -> str:
    return "none" if data < 0 else data.to_bytes(6, "little").hex()


def _check_ties(table: Unwind, merged: Model, report: Report) -> None:
    """Two real entries of one address and different contents: which one is found depends on the sort."""
    real = ~table.weak()
    homes, offset, data = table.home[real], table.offset[real], table.data[real]
    order = np.lexsort((offset, homes))
    homes, offset, data = homes[order], offset[order], data[order]
    tie = (homes[1:] == homes[:-1]) & (offset[1:] == offset[:-1]) & (data[1:] != data[:-1])
    for row in np.flatnonzero(tie).tolist():
        where = merged.sections[int(homes[row])].name
        report.add("unwind", "two different entries for one address", section=where, offset=int(offset[row]))


def addresses_that_count(model: Model, section: Section, *, traced: bool) -> Ints:
    """Offsets in a code section at which an unwind can start or go on.

    First and last byte of every call instruction: the return address is a patched instruction's end where retpolines,
    paravirt calls and static calls are rewritten in place, and that end lies inside the original.
    """
    content = model.content(section)
    skip = set() if traced else _trace_offsets(model, section)
    points = [o for at, size in calls(content) if at not in skip for o in (at, at + size - 1)]
    points += _first_fields(model, "__bug_table", section) + _first_fields(model, "__ex_table", section)
    points += _alternatives(model, section)
    found = np.unique(np.array(points, np.int64))
    return found[(found >= 0) & (found < section.size)]


def calls(content: Bytes) -> list[tuple[int, int]]:
    """(offset, size) of every call instruction, by a linear sweep."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.skipdata = True
    code = bytes(content)
    return [(at, size) for at, size, word, _ in engine.disasm_lite(code, 0) if word in ("call", "lcall")]


def _trace_offsets(model: Model, section: Section) -> set[int]:
    table = model.find("__mcount_loc")
    if table is None:
        return set()
    span = model.rows(table)
    symbols = model.symbol[span]
    rows = model.symbol_section[symbols] == section.index
    return set((model.symbol_value[symbols] + model.addend[span])[rows].tolist())


def _first_fields(model: Model, name: str, section: Section) -> list[int]:
    """What the first field of each entry refers to, where that lies in the section.

    __bug_table entries begin with the address; so do __ex_table's 12-byte ones. Their other references (file names,
    fixups) are distinguished by place: the address field is the one that starts an entry.
    """
    table = model.find(name)
    if table is None or not table.size:
        return []
    span = model.rows(table)
    size = entry_size(model, table)
    if size is None:
        return []
    first = model.place[span] % size == 0
    symbols = model.symbol[span][first]
    values = model.symbol_value[symbols] + model.addend[span][first]
    return [int(v) for v in values[model.symbol_section[symbols] == section.index]]


def _alternatives(model: Model, section: Section) -> list[int]:
    """Every byte of a site whose replacement holds a call."""
    table = model.find(".altinstructions")
    if table is None or not table.size:
        return []
    size = entry_size(model, table)
    if size is None:
        return []
    content = model.content(table)
    lengths = 12 if size == 14 else 10
    points: list[int] = []
    for start in range(0, table.size, size):
        site, other = model.refers(table, start), model.refers(table, start + 4)
        if site is None or other is None or site[0] != section.index:
            continue
        length, replaced = int(content[start + lengths]), int(content[start + lengths + 1])
        code = model.content(model.sections[other[0]])[other[1] : other[1] + replaced]
        if calls(code):
            points.extend(range(site[1], site[1] + length))
    return points


def entry_flags(models: list[Model]) -> int:
    """The flag word of "frame found through rsp", from what members have at function entries; 0 if there are none.

    The number of the register moved between kernels (arch/x86/include/asm/orc_types.h), so it is not a constant here.
    """
    counts: Counter[int] = Counter()
    for model in models:
        data = unwind_table(model)[0].data
        counts.update((data[(data & 0xFFFF) == 8] >> 32).tolist())
    return counts.most_common(1)[0][0] if counts else 0


def glue_state(lookup: Lookup, flags: int, section: int, code: Bytes, base: int) -> list[str]:
    """Follows rsp through the glue and compares with the table at each call; sentences where they differ."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    depth, problems = 8, []
    for at, size, word, operands in engine.disasm_lite(bytes(code), base):
        if word == "call":
            state = int(lookup.find(section, np.array([at + size - 1]))[0])
            offset = np.int16(np.uint16(state & 0xFFFF)) if state >= 0 else 0
            if state < 0 or state >> 32 != flags or int(offset) != depth:
                problems.append(f"+{at:#x}: the table says {_show(state)}, the stack is {depth} bytes deep")
        elif word == "push":
            depth += 8
        elif word == "pop":
            depth -= 8
        elif word in ("sub", "add") and operands.startswith("rsp, "):
            if not operands[5].isdigit():
                problems.append(f"+{at:#x}: the stack's depth cannot be followed")
                break
            depth += int(operands[5:], 0) * (1 if word == "sub" else -1)
        elif word == "ret" or (word == "jmp" and depth == 8):
            depth = 8
    return problems
