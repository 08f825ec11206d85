"""Bytes and references: every kept byte of every member is the same, or a field that refers to the same thing."""

from dataclasses import dataclass, field

import numpy as np

from oracle import policy
from oracle.difference import Report
from oracle.model import (
    KIND_32,
    KIND_32S,
    KIND_64,
    KIND_NAMES,
    KIND_PC32,
    KIND_PC64,
    SHF_EXEC,
    SHN_ABS,
    WIDTH,
    Bools,
    Bytes,
    Ints,
    Model,
    Section,
)
from oracle.placement import ABSOLUTE, GONE, KERNEL, LOST, PIECES, Layout, Placement
from oracle.policy import Options
from oracle.tables import PARAM_SIZE, Export

NOP5 = np.array(
    [0x0F, 0x1F, 0x44, 0x00, 0x00], np.uint8
)  # the kernel's own: x86_nops[5], arch/x86/kernel/alternative.c
_SHIFT = 40  # a key is output section << 40 | offset


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
    world.key = merged.place_section << _SHIFT | merged.place
    world.target = base[merged.symbol]
    world.target_at = value[merged.symbol] + merged.addend
    world.used = np.zeros(len(world.key), bool)
    return world


def compare_member(number: int, name: str, model: Model, world: World, report: Report) -> None:
    """One member against its chunks. Marks the megamodule's relocations that it accounts for in world.used."""
    place = world.layout.members[number]
    target, target_at = _targets(model, place, world)
    where, at = place.forward(model.place_section, model.place)
    kept = where != LOST
    owner = model.find(".gnu.linkonce.this_module")
    if owner is not None:
        kept &= model.place_section != owner.index

    nops = _trace_sites(model, name, report) if world.options.get("tracing") == "off" else {}
    for section, sites in nops.items():
        kept &= ~((model.place_section == section) & np.isin(model.place, sites + 1))
    parameters = model.find("__param")
    if parameters is not None:
        named = kept & (model.place_section == parameters.index) & (model.place % PARAM_SIZE == 0)
        _compare_names(model, parameters, named, where, at, world, name, report)
        kept &= ~named

    rows = np.flatnonzero(kept)
    key = where[rows] << _SHIFT | at[rows]
    found = np.minimum(np.searchsorted(world.key, key), max(len(world.key) - 1, 0))
    present = (world.key[found] == key) if len(world.key) else np.zeros(len(key), bool)
    world.used[found[present]] = True

    both, theirs = rows[present], found[present]
    wrong = (
        (model.kind[both] != world.merged.kind[theirs])
        | (target[both] != world.target[theirs])
        | (target_at[both] != world.target_at[theirs])
    )
    for row, other in zip(both[wrong].tolist(), theirs[wrong].tolist(), strict=True):
        ours = f"{KIND_NAMES[int(model.kind[row])]} {world.describe(int(target[row]), int(target_at[row]))}"
        got = f"{KIND_NAMES[int(world.merged.kind[other])]} "
        got += world.describe(int(world.target[other]), int(world.target_at[other]))
        _add(report, "reference", f"must refer to {ours}, refers to {got}", name, model, row)

    alone = rows[~present]
    inside = ((model.kind[alone] == KIND_PC32) | (model.kind[alone] == KIND_PC64)) & (target[alone] == where[alone])
    constant = (target[alone] == ABSOLUTE) & np.isin(model.kind[alone], (KIND_64, KIND_32, KIND_32S))
    for row in alone[~(inside | constant)].tolist():
        what = world.describe(int(target[row]), int(target_at[row]))
        _add(report, "lost", f"the reference to {what} has no relocation any more", name, model, row)
    solved = alone[inside | constant]
    value = np.where(target[solved] == ABSOLUTE, target_at[solved], target_at[solved] - at[solved])
    wide = WIDTH[model.kind[solved]] == 4
    # A zero-extended 32-bit field may hold up to 0xffffffff, all others are signed.
    over = wide & ((value < -(1 << 31)) | (value >= np.where(model.kind[solved] == KIND_32, 1 << 32, 1 << 31)))
    for row in solved[over].tolist():
        _add(report, "range", "the resolved value does not fit its field", name, model, row)
    _compare_bytes(number, name, model, world, (solved, value), nops, report)


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
    bias = np.where(code & np.isin(model.kind[own], (KIND_PC32, KIND_PC64)), 4, 0)
    target[own], target_at[own] = place.forward(homes, target_at[own], bias)
    return target, target_at


def _forward_export(layout: Layout, member: int, export: Export) -> tuple[int, int]:
    """Where an exported symbol of a member is in the output."""
    if export.home == SHN_ABS:
        return ABSOLUTE, export.offset
    out, at = layout.members[member].forward(np.array([export.home]), np.array([export.offset]))
    return int(out[0]), int(at[0])


def _trace_sites(model: Model, name: str, report: Report) -> dict[int, Ints]:
    """The 5-byte calls of __fentry__ by section, from __mcount_loc (ftrace_module_init makes the same NOPs of them)."""
    table = model.find("__mcount_loc")
    if table is None:
        return {}
    span = model.rows(table)
    symbols = model.symbol[span]
    homes = model.symbol_section[symbols]
    places = model.symbol_value[symbols] + model.addend[span]
    sites = {}
    for section in np.unique(homes).tolist():
        offsets = places[homes == section]
        content = model.content(model.sections[section])
        calls = content[offsets] == 0xE8
        if not np.all(calls):
            where = model.sections[section].name
            report.add("unknown", "a traced function does not begin with a call", member=name, section=where)
        sites[section] = offsets[calls]
    return sites


def _compare_names(
    model: Model,
    table: Section,
    named: Bools,
    where: Ints,
    at: Ints,
    world: World,
    member: str,
    report: Report,
) -> None:
    """A parameter's name must read member.name, or be as it was if it already has a prefix of its own."""
    for row in np.flatnonzero(named).tolist():
        reference = model.refers(table, int(model.place[row]))
        original = model.text_at(*reference) if reference is not None else ""
        key = int(where[row]) << _SHIFT | int(at[row])
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
    solved: tuple[Ints, Ints],
    nops: dict[int, Ints],
    report: Report,
) -> None:
    place = world.layout.members[number]
    rows, values = solved
    homes = model.place_section[rows]
    owner = model.find(".gnu.linkonce.this_module")
    for section in model.sections[1:]:
        out = int(place.output[section.index])
        if out == GONE or not section.alloc or not section.size or (owner and section.index == owner.index):
            continue
        wanted = model.content(section).copy()
        mine = homes == section.index
        raw = values[mine].astype("<i8").view(np.uint8).reshape(-1, 8)
        width = WIDTH[model.kind[rows[mine]]]
        for byte in range(8):
            covered = width > byte
            wanted[model.place[rows[mine]][covered] + byte] = raw[covered, byte]
        for byte in range(5 if section.index in nops else 0):
            wanted[nops[section.index] + byte] = NOP5[byte]
        if out == PIECES:
            pieces = list(zip(*(column.tolist() for column in place.pieces[section.index]), strict=True))
            actual = world.contents[int(place.offset[section.index])]
        else:
            pieces = [(0, int(place.offset[section.index]), section.size)]
            actual = world.contents[out]
        for start, at, size in pieces:
            have, want = actual[at : at + size], wanted[start : start + size]
            if len(have) != len(want):
                continue  # outside its output section: reported with the map
            if not np.array_equal(have, want):
                for offset in np.flatnonzero(have != want)[:8].tolist():
                    text = f"byte is {int(have[offset]):#04x}, must be {int(want[offset]):#04x}"
                    report.add("bytes", text, member=name, section=section.name, offset=start + offset)


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
