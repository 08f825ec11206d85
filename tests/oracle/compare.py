"""Bytes and references: every kept byte of every member is the same, or a field that refers to the same thing."""

from dataclasses import dataclass, field

import numpy as np

from tests.oracle import policy
from tests.oracle.difference import Report
from tests.oracle.elffile import Section
from tests.oracle.model import SHF_EXEC, SHN_ABS, Bools, Bytes, Ints, Model, gather, scatter
from tests.oracle.placement import ABSOLUTE, GONE, KERNEL, LOST, PIECES, Layout, Placement
from tests.oracle.policy import Options
from tests.oracle.resolved import Fields, check_range, check_resolved
from tests.oracle.tables import Export


@dataclass(slots=True)
class World:
    """What all members share: kernel symbols by number, the members' exports, the megamodule's relocations as keys."""

    merged: Model
    layout: Layout
    options: Options
    kernel: dict[str, int] = field(default_factory=dict)
    exported: dict[str, tuple[int, int]] = field(default_factory=dict)
    contents: list[Bytes] = field(default_factory=list)
    key: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    target: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    target_at: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    used: Bools = field(default_factory=lambda: np.zeros(0, bool))
    veneers: dict[tuple[int, int], int] | None = None

    def kernel_symbol(self, name: str) -> int:
        return KERNEL - self.kernel.setdefault(name, len(self.kernel))

    def describe(self, section: int, offset: int) -> str:
        """A target in words."""
        if section <= KERNEL:
            name = next(n for n, i in self.kernel.items() if KERNEL - i == section)
            return f"{name}{offset:+#x}"
        if section == ABSOLUTE:
            return f"absolute {offset:#x}"
        if section == LOST:
            return "a section that was not kept"
        return f"{self.merged.sections[section].name}{offset:+#x}"


def make_world(merged: Model, layout: Layout, options: Options, exported: dict[str, tuple[int, Export]]) -> World:
    """Loads the megamodule in the model: each relocation as place key and symbolic target.

    exported: exporting member's number and the export, by symbol name.
    """
    world = World(merged=merged, layout=layout, options=options)
    world.exported = {name: _forward_export(layout, member, export) for name, (member, export) in exported.items()}
    world.contents = [merged.content(s) for s in merged.sections]
    base, value = np.empty(len(merged.symbol_value), np.int64), merged.symbol_value.copy()
    for index, home in enumerate(merged.symbol_section.tolist()):
        if home == 0:
            base[index] = world.kernel_symbol(merged.name_of_symbol(index))
            value[index] = 0
        else:
            base[index] = ABSOLUTE if home == SHN_ABS else home
    world.key = keys(merged.place_section, merged.place, merged.arch.slot[merged.kind])
    world.target = base[merged.symbol]
    world.target_at = value[merged.symbol] + merged.addend
    world.used = np.zeros(len(world.key), bool)
    return world


def keys(section: Ints, offset: Ints, slot: Ints) -> Ints:
    """A number for each field: output section, offset, and which of the relocations of one place it is."""
    return section << 44 | offset << 4 | slot


def compare_member(number: int, name: str, model: Model, world: World, report: Report) -> None:
    """One member against its chunks. Marks the megamodule's relocations that it accounts for in world.used."""
    place = world.layout.members[number]
    target, target_at = _targets(model, place, world)
    where, at = place.forward(model.place_section, model.place)
    kept = where != LOST
    owner = model.find(".gnu.linkonce.this_module")
    if owner is not None:
        kept &= model.place_section != owner.index

    trace = model.arch.trace
    nops = _trace_sites(model, name, report) if world.options.get("tracing") == "off" else {}
    for section, sites in nops.items():
        assert trace is not None
        kept &= ~((model.place_section == section) & np.isin(model.place, sites + trace.field_at))
    slot = model.arch.slot[model.kind]
    parameters, named = model.find("__param"), np.zeros(len(kept), bool)
    if parameters is not None:
        named = kept & (model.place_section == parameters.index) & (model.place % model.arch.param_size == 0)
        _compare_names(model, parameters, named, keys(where, at, slot), world, name, report)
        kept &= ~named

    rows = np.flatnonzero(kept)
    key = keys(where[rows], at[rows], slot[rows])
    found = np.minimum(np.searchsorted(world.key, key), max(len(world.key) - 1, 0))
    present = (world.key[found] == key) if len(world.key) else np.zeros(len(key), bool)
    world.used[found[present]] = True

    _follow_veneers(model, rows[~present], where, at, target, target_at, world)
    both, theirs = rows[present], found[present]
    wrong = (
        (model.kind[both] != world.merged.kind[theirs])
        | (target[both] != world.target[theirs])
        | (target_at[both] != world.target_at[theirs])
    )
    for row, other in zip(both[wrong].tolist(), theirs[wrong].tolist(), strict=True):
        ours = f"{_kind(model, row)} {world.describe(int(target[row]), int(target_at[row]))}"
        got = f"{_kind(world.merged, other)} "
        got += world.describe(int(world.target[other]), int(world.target_at[other]))
        _add(report, "reference", f"must refer to {ours}, refers to {got}", name, model, row)

    distance = np.isin(model.kind[both], model.arch.codes(lambda f: f.relative))
    near = both[(target[both] == where[both]) & distance]
    fields = Fields(rows=rows[~present], where=where, at=at, target=target, target_at=target_at)
    check_range(model, fields, near, world.merged, name, report)
    wanted, lost = check_resolved(model, fields, world.merged, name, report)
    for row in lost.tolist():
        what = world.describe(int(target[row]), int(target_at[row]))
        _add(report, "lost", f"the reference to {what} has no relocation any more", name, model, row)
    left = np.concatenate([both, np.flatnonzero(named)])
    _compare_bytes(number, name, model, world, wanted, left, nops, report)


def _follow_veneers(
    model: Model, rows: Ints, where: Ints, at: Ints, target: Ints, target_at: Ints, world: World
) -> None:
    """arm64: a call of the kernel may go to a jump to the same function, in the glue's part of the same section. Then
    that is where it must go; that the jump is right follows from what it is known by."""
    if model.arch.name != "arm64" or not len(rows):
        return
    calls = rows[np.isin(model.kind[rows], model.arch.codes(lambda f: f.name == "CALL26")) & (target[rows] <= KERNEL)]
    jumps = _veneers(world)
    for row in calls.tolist():
        place = jumps.get((int(where[row]), int(target[row])))
        if place is not None and not int(target_at[row]):
            target[row], target_at[row] = int(where[row]), place


def _veneers(world: World) -> dict[tuple[int, int], int]:
    """(section, kernel symbol) → place of a jump in the glue: adrp x16, symbol; add x16, x16, symbol; br x16."""
    if world.veneers is None:
        world.veneers, merged = {}, world.merged
        glue = world.layout.in_glue(merged.place_section, merged.place)
        pages = np.flatnonzero(glue & np.isin(merged.kind, merged.arch.codes(lambda f: f.pages)))
        rows = {(int(merged.place_section[r]), int(merged.place[r])): r for r in np.flatnonzero(glue).tolist()}
        for row in pages.tolist():
            section, place = int(merged.place_section[row]), int(merged.place[row])
            code = bytes(world.contents[section][place : place + 12])
            low = rows.get((section, place + 4))
            if low is None or len(code) < 12 or int(world.target[row]) > KERNEL or int(world.target_at[row]):
                continue
            first, second, third = np.frombuffer(code, "<u4").tolist()
            is_jump = first & 0x9F00001F == 0x90000010 and second & 0xFFC003FF == 0x91000210 and third == 0xD61F0200
            same = world.target[low] == world.target[row] and not int(world.target_at[low])
            if is_jump and same and merged.arch.by_code(int(merged.kind[low])).name == "ADD_LO12":
                world.veneers[section, int(world.target[row])] = place
    return world.veneers


def _kind(model: Model, row: int) -> str:
    return model.arch.by_code(int(model.kind[row])).name


def _add(report: Report, kind: str, text: str, member: str, model: Model, row: int) -> None:
    section = model.sections[int(model.place_section[row])].name
    report.add(kind, text, member=member, section=section, offset=int(model.place[row]))


def _targets(model: Model, place: Placement, world: World) -> tuple[Ints, Ints]:
    """Symbolic target of each relocation row in the output's terms: simplify_symbols(), other members' exports."""
    count = len(model.symbol_value)
    base, value = np.full(count, GONE, np.int64), model.symbol_value.copy()
    for index in np.flatnonzero(model.symbol_section == 0).tolist():
        symbol = model.name_of_symbol(index)
        value[index] = 0
        if symbol in world.exported:
            base[index], value[index] = world.exported[symbol]
        elif symbol:
            base[index] = world.kernel_symbol(symbol)
    base[model.symbol_section == SHN_ABS] = ABSOLUTE
    target, target_at = base[model.symbol], value[model.symbol] + model.addend
    own = (model.symbol_section[model.symbol] != 0) & (model.symbol_section[model.symbol] != SHN_ABS)
    homes = model.symbol_section[model.symbol[own]]
    code = np.array([bool(s.flags & SHF_EXEC) for s in model.sections])[model.place_section[own]]
    # Only for a section cut into pieces: a code reference counts from the end of its field.
    bias = np.where(code & np.isin(model.kind[own], sorted(model.arch.call_codes)), model.arch.call_bias, 0)
    target[own], target_at[own] = place.forward(homes, target_at[own], bias)
    return target, target_at


def _forward_export(layout: Layout, member: int, export: Export) -> tuple[int, int]:
    """Where an exported symbol of a member is in the output."""
    if export.home == SHN_ABS:
        return ABSOLUTE, export.offset
    out, at = layout.members[member].forward(np.array([export.home]), np.array([export.offset]))
    return int(out[0]), int(at[0])


def _trace_sites(model: Model, name: str, report: Report) -> dict[int, Ints]:
    """The calls of __fentry__ or mcount by section, from __mcount_loc: ftrace_module_init() makes NOPs of them."""
    table, trace = model.find("__mcount_loc"), model.arch.trace
    if table is None or trace is None:
        return {}
    span = model.rows(table)
    symbols = model.symbol[span]
    homes = model.symbol_section[symbols]
    places = model.symbol_value[symbols] + model.addend[span]
    sites = {}
    for section in np.unique(homes).tolist():
        offsets = places[homes == section]
        content = model.content(model.sections[section])
        at, mask, opcode = trace.opcode
        calls = content[offsets + at] & mask == opcode
        if not np.all(calls):
            where = model.sections[section].name
            report.add("unknown", "a traced function does not begin with a call", member=name, section=where)
        sites[section] = offsets[calls]
    return sites


def _compare_names(
    model: Model,
    table: Section,
    named: Bools,
    places: Ints,
    world: World,
    member: str,
    report: Report,
) -> None:
    """A parameter's name must read member.name, or be as it was if it already has a prefix of its own."""
    for row in np.flatnonzero(named).tolist():
        reference = model.refers(table, int(model.place[row]))
        original = model.text_at(*reference) if reference is not None else ""
        key = int(places[row])
        found = int(np.searchsorted(world.key, key))
        if found >= len(world.key) or int(world.key[found]) != key:
            _add(report, "parameter", f"the name of {original} has no relocation", member, model, row)
            continue
        world.used[found] = True
        home = int(world.target[found])
        text = world.merged.text_at(home, int(world.target_at[found])) if home > 0 else ""
        wanted = original if "." in original else f"{member}.{original}"
        if text != wanted:
            _add(report, "parameter", f"is called {text!r}, must be {wanted!r}", member, model, row)


def _compare_bytes(
    number: int,
    name: str,
    model: Model,
    world: World,
    wanted: dict[int, Bytes],
    left: Ints,
    nops: dict[int, Ints],
    report: Report,
) -> None:
    """Every byte that the kernel will not write. wanted: sections with resolved fields; left: the rows left to it."""
    place = world.layout.members[number]
    trace, owner = model.arch.trace, model.find(".gnu.linkonce.this_module")
    homes = model.place_section[left]
    for section in model.sections[1:]:
        out = int(place.output[section.index])
        if out == GONE or not section.alloc or not section.size or (owner and section.index == owner.index):
            continue
        want = wanted.get(section.index)
        want = model.content(section).copy() if want is None else want
        have = _member_view(world, place, section, want)
        mine = left[homes == section.index]
        for code in np.unique(model.kind[mine]).tolist():
            form = model.arch.by_code(code)
            if form.adds:
                continue
            at = model.place[mine[model.kind[mine] == code]]
            words, actual = gather(want, at, form.width), gather(have, at, form.width)
            bits = np.uint64(form.mask)
            scatter(want, at, form.width, words & ~bits | actual & bits)
        if trace is not None and section.index in nops:
            want[nops[section.index][:, None] + np.arange(trace.size)] = np.frombuffer(trace.nop, np.uint8)
        for offset in np.flatnonzero(have != want)[:8].tolist():
            text = f"byte is {int(have[offset]):#04x}, must be {int(want[offset]):#04x}"
            report.add("bytes", text, member=name, section=section.name, offset=offset)


def _member_view(world: World, place: Placement, section: Section, missing: Bytes) -> Bytes:
    """The section's bytes as the megamodule has them, in the member's order; of missing where they were not kept."""
    out = int(place.output[section.index])
    if out == PIECES:
        pieces = list(zip(*(column.tolist() for column in place.pieces[section.index]), strict=True))
        actual = world.contents[int(place.offset[section.index])]
    else:
        pieces = [(0, int(place.offset[section.index]), section.size)]
        actual = world.contents[out]
    found = missing.copy()
    for start, at, size in pieces:
        # Outside its output section: reported with the map.
        if 0 <= at <= len(actual) - size and 0 <= start <= len(found) - size:
            found[start : start + size] = actual[at : at + size]
    return found


def compare_rest(world: World, report: Report) -> set[str]:
    """Relocations of the megamodule that no member accounts for must be the glue's. Returns the glue's imports."""
    merged = world.merged
    rest = np.flatnonzero(~world.used)
    homes, offsets = merged.place_section[rest], merged.place[rest]
    rebuilt = np.array([policy.REBUILT.match(s.name) is not None for s in merged.sections])
    ours = world.layout.in_glue(homes, offsets) | rebuilt[homes]
    for row in rest[~ours].tolist():
        what = world.describe(int(world.target[row]), int(world.target_at[row]))
        section = merged.sections[int(merged.place_section[row])].name
        text = f"a relocation to {what} that no member has, and no glue"
        report.add("extra", text, section=section, offset=int(merged.place[row]))
    names = {number: name for name, number in world.kernel.items()}
    return {names[KERNEL - t] for t in np.unique(world.target[rest[ours]]).tolist() if t <= KERNEL}
