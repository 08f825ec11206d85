"""The glue: struct module, the order in which it calls the members' inits, and its own unwind entries."""

import capstone
import numpy as np

from tests.oracle.cfi import compare_setter_hash, compare_type_hash
from tests.oracle.difference import Report
from tests.oracle.model import SHF_EXEC, Model
from tests.oracle.placement import LOST, Layout
from tests.oracle.policy import Map
from tests.oracle.resume import try_resume
from tests.oracle.tables import Unwind, entry_point, has_sorted_unwind, unwind_table
from tests.oracle.trial import Glue, try_glue
from tests.oracle.unwind import entry_flags, glue_state, sort_table

Needs = set[tuple[int, int]]  # (importing member, exporting member)


def compare_glue(
    models: list[Model],
    mapping: Map,
    merged: Model,
    layout: Layout,
    needs: Needs,
    table: Unwind,
    report: Report,
) -> None:
    """The glue's init must call every member's init once, after those of the members that it needs.

    table: the unwind table that the kernel has once the init has run.
    """
    names = [m["name"] for m in mapping["members"]]
    fields = {
        what: {own[0] for m in models if (own := entry_point(m, what))} for what in ("init_module", "cleanup_module")
    }
    owner = merged.find(".gnu.linkonce.this_module")
    if owner is None:
        return
    entry = next((e for at in sorted(fields["init_module"]) if (e := merged.refers(owner, at))), None)
    if entry is None:
        if fields["init_module"]:
            report.add("glue", "struct module has no init: the kernel would never call a member")
        return
    home, offset = entry
    if not layout.in_glue(np.array([home]), np.array([offset]))[0]:
        report.add("glue", "struct module's init does not point into the glue", section=merged.sections[home].name)
        return
    if any(merged.refers(owner, at) for at in fields["cleanup_module"]):
        report.add("glue", "struct module has an exit: the megamodule would be removable, its members are not undone")

    inits: dict[tuple[int, int], list[int]] = {}
    prologues = set()
    pads = merged.arch.landing_pads
    for number, model in enumerate(models):
        own = entry_point(model, "init_module")
        if bool(mapping["members"][number].get("init")) != (own is not None):
            report.add("map", "init is wrong about the member having one", member=names[number])
        if own is None:
            continue
        _, section, value = own
        prologues.add(bytes(model.content(model.sections[section])[value : value + 4]) in pads)
        out, at = layout.members[number].forward(np.array([section]), np.array([value]))
        if int(out[0]) == LOST:
            report.add("glue", "the member's init was not kept", member=names[number])
        inits.setdefault((int(out[0]), int(at[0])), []).append(number)
    rows = merged.rows(owner)
    strange = set(merged.place[rows].tolist()) - fields["init_module"] - fields["cleanup_module"]
    if strange or len(fields["init_module"]) > 1:
        report.add("glue", f"struct module holds references at {sorted(strange)}, members have none there")
    start = bytes(merged.content(merged.sections[home])[offset : offset + 4])
    if prologues == {True} and start not in pads:
        report.add("glue", "the glue's init does not begin with a landing pad, every member's does")
    compare_type_hash(models, names, merged, entry, report)

    glue = Glue(merged=merged, layout=layout, entry=(home, offset), inits=inits, members=len(models), needs=needs)
    order = try_glue(glue, names, report)
    if order:
        setter = try_resume(glue, order, names, report)
        if setter is not None:
            compare_setter_hash(models, names, merged, setter, report)
    if merged.arch.name == "x86_64":
        order = [n for _, target in calls_of_glue(merged, layout) for n in inits.get(target, [])]
    if order is not None:
        _check_order(order, [n for numbers in inits.values() for n in numbers], names, needs, report)
    if mapping["options"].get("unwind") != "drop" and merged.arch.name == "x86_64":
        _check_unwind(models, merged, layout, table, report)


def _check_order(order: list[int], wanted: list[int], names: list[str], needs: Needs, report: Report) -> None:
    for number in sorted(set(wanted) - set(order)):
        report.add("order", "its init is never called", member=names[number])
    for number in sorted({n for n in order if order.count(n) > 1} if len(order) != len(set(order)) else set()):
        report.add("order", "its init is called twice", member=names[number])
    position = {number: at for at, number in enumerate(order)}
    for user, provider in sorted(needs):
        if user in position and provider in position and position[user] < position[provider]:
            report.add("order", f"its init comes before that of {names[provider]}, which it needs", member=names[user])
    if order != sorted(order) and not report.found:
        report.add("order", "the calls do not follow the order of the map's members")


def calls_of_glue(merged: Model, layout: Layout) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Place and target (section, offset) of each direct call in the glue's code, by address: relocated or resolved."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.skipdata = True
    found = []
    for section_index, offset, size in layout.glue:
        section = merged.sections[section_index]
        if not section.flags & SHF_EXEC or not size:
            continue
        code = bytes(merged.content(section)[offset : offset + size])
        for at, length, word, operand in engine.disasm_lite(code, offset):
            if word != "call" or length != 5:
                continue
            row = merged.row_at(section, at + 1)
            if row is None:
                found.append(((section_index, at), (section_index, int(operand, 0))))
                continue
            symbol = int(merged.symbol[row])
            value = int(merged.symbol_value[symbol]) + int(merged.addend[row]) + 4
            found.append(((section_index, at), (int(merged.symbol_section[symbol]), value)))
    return found


def _check_return_sites(merged: Model, layout: Layout, report: Report) -> None:
    """What the glue lists in .return_sites must be its own jumps: apply_returns() rewrites the bytes there."""
    table = merged.find(".return_sites")
    if table is None:
        return
    rows = np.arange(len(merged.place))[merged.rows(table)]
    for row in rows[layout.in_glue(merged.place_section[rows], merged.place[rows])].tolist():
        site = merged.refers(table, int(merged.place[row]))
        own = site is not None and layout.in_glue(np.array([site[0]]), np.array([site[1]]))[0]
        if site is None or not own or merged.content(merged.sections[site[0]])[site[1]] not in (0xE9, 0xC3):
            report.add("glue", "an entry of .return_sites is not a return of the glue", section=table.name)


def _check_unwind(models: list[Model], merged: Model, layout: Layout, table: Unwind, report: Report) -> None:
    """With the table that the init leaves, and with the one that the kernel made, which holds until then."""
    first, _ = unwind_table(merged)
    for each in (table, *([first] if has_sorted_unwind(merged) else [])):
        if len(each.home):
            _check_states(models, merged, layout, each, report)


def _check_states(models: list[Model], merged: Model, layout: Layout, table: Unwind, report: Report) -> None:
    lookup, flags = sort_table(table), entry_flags(models)
    for section, offset, size in layout.glue:
        if not merged.sections[section].flags & SHF_EXEC or not size:
            continue
        code = merged.content(merged.sections[section])[offset : offset + size]
        for problem in glue_state(lookup, flags, section, code, offset):
            report.add("glue-unwind", problem, section=merged.sections[section].name, offset=offset)
