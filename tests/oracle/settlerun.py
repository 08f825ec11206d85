"""Loads a megamodule into Unicorn as the x86_64 kernel does, and runs the init that settles its unwind table.

Sections lie at kernel addresses, by kind of memory, in the order of their headers. Members' inits and kernel functions
return 0. Struct module holds the small table as unwind_module_init() leaves it, and traps in its other fields.
"""

import random
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import unicorn

from tests.oracle.elffile import Section
from tests.oracle.emulator import Emulator, Space
from tests.oracle.glue import calls_of_glue
from tests.oracle.machine import Pointer, StuckError
from tests.oracle.memory import Load, addresses
from tests.oracle.model import SHF_EXEC, Ints, Model
from tests.oracle.placement import Layout
from tests.oracle.tables import SORTED_UNWIND, Unwind, unwind_states
from tests.oracle.trial import Place

_KERNEL, _STACK = -0x7F000000, -0x360000000000  # as signed numbers
_STEPS = 4_000_000, 64  # for the members' calls, and for each byte of the sorted table
_NAME_AT = 24  # struct module: enum module_state, struct list_head, name
_TRIPLE = 24
_OWNER = ".gnu.linkonce.this_module"
_SMALL = (".orc_unwind_ip", ".orc_unwind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What the glue's init needs to run: where it begins, and what it calls in the megamodule, members' inits."""

    entry: Place
    inits: tuple[Place, ...]


def code_of(merged: Model, layout: Layout, entry: Place) -> Code:
    """Looks at the glue's calls; those that lead out of their section or into the glue are left out."""
    targets = [target for _, target in calls_of_glue(merged, layout)]
    homes, offsets = (np.array([target[n] for target in targets], np.int64) for n in (0, 1))
    others = np.flatnonzero((homes > 0) & ~layout.in_glue(homes, offsets)).tolist()
    inits = [targets[n] for n in others if targets[n][0] < len(merged.sections)]
    return Code(entry=entry, inits=tuple(p for p in inits if 0 <= p[1] < merged.sections[p[0]].size))


@dataclass(slots=True)
class Kernel:
    """A megamodule in memory, its small table registered, its init not yet run. Problems gather in problems."""

    merged: Model
    layout: Layout
    small: Unwind
    code: Code
    load: Load
    problems: list[str] = field(default_factory=list)
    machine: Emulator = field(init=False)
    struct_at: int = 0
    triple_at: int | None = None

    def run(self) -> None:
        """Loads, runs the init, and looks at what it has done to memory."""
        home, regions = addresses(self.merged, self.load)
        self.machine = Emulator(
            self.merged,
            self.layout,
            self.code.entry,
            self.code.inits,
            space=Space(home=home, regions=regions, kernel=_KERNEL, stack=_STACK),
            tables=[self._section(name).index for name in (*SORTED_UNWIND, *_SMALL, _OWNER)],
        )
        self._register()
        watched = {name: self._bytes(self._section(name)) for name in (*SORTED_UNWIND, _OWNER)}
        stores = self._execute()
        module = self._bytes(self._section(_OWNER))
        if self.triple_at is None:
            for name, before in watched.items():
                if self._bytes(self._section(name)) != before:
                    self.problems.append(f"{name} is changed")
            return
        at = self.triple_at
        if module[:at] + module[at + _TRIPLE :] != watched[_OWNER][:at] + watched[_OWNER][at + _TRIPLE :]:
            self.problems.append("struct module is changed beside the three fields")
        # A processor that unwinds meanwhile must not search the small table with the great one's count.
        last = max((n for n, (where, _) in enumerate(stores) if where >= at + 8), default=-1)
        if any(where < at + 8 for where, _ in stores[: max(last, 0)]):
            self.problems.append("the count is stored before the pointers")

    def _section(self, name: str) -> Section:
        section = self.merged.find(name)
        if section is None:
            raise StuckError(f"no {name}")
        return section

    def _register(self) -> None:
        """unwind_module_init(): sorts the small table and stores it; all else in struct module is full of traps."""
        base = {name: self.machine.home[self._section(name).index] for name in _SMALL}
        ips, states = base.values()
        address = self.addresses_of(self.small)
        order = np.lexsort((self.small.data >> 32 != 0, address))
        near = (address[order] - ips - 4 * np.arange(len(order))).astype("<i4")
        self.machine.put(ips, near.tobytes())
        self.machine.put(states, b"".join(int(d).to_bytes(6, "little") for d in self.small.data[order]))

        owner = self._section(_OWNER)
        self.struct_at = self.machine.home[owner.index]
        words = [len(order), _unsigned(ips), _unsigned(states)]
        rows = self.merged.rows(owner)
        fixed = {int(place) // 8 for place in self.merged.place[rows]}
        start = -(-(_NAME_AT + self.merged.arch.name_len) // 8)
        fixed |= set(range(_NAME_AT // 8, start))
        slots = [s for s in range(start, (owner.size - _TRIPLE) // 8 + 1) if not fixed & {s, s + 1, s + 2}]
        if not slots:
            raise StuckError("struct module has no room for the table")
        if self.load.slot is not None:
            slot = slots[int(self.load.slot * (len(slots) - 1))]
            self.triple_at = 8 * slot
            self.machine.put(self.struct_at + self.triple_at, struct.pack("<3Q", *words))
            fixed |= {slot, slot + 1, slot + 2}
        elif owner.size % 8 == 0 and not fixed & {owner.size // 8 - 2, owner.size // 8 - 1}:
            # One that begins inside and ends behind struct module is not its own.
            self.machine.put(self.struct_at + owner.size - 16, struct.pack("<3Q", *words))
            fixed |= {owner.size // 8 - 2, owner.size // 8 - 1}
        self._set_traps(fixed, owner.size // 8, words)

    def _set_traps(self, fixed: set[int], count: int, words: list[int]) -> None:
        """Fills the other fields with triples of which one bit is wrong. The half behind the count is anything."""
        rng = random.Random(self.load.text)
        found = list(struct.unpack(f"<{count}Q", self.machine.get(self.struct_at, 8 * count)))
        traps = [
            (0, words[0].bit_length() - 1),
            (0, 9),
            (0, 17),
            (0, 30),
            (1, 3),
            (1, 11),
            (1, 40),
            (2, 2),
            (2, 9),
            (2, 41),
        ]
        rng.shuffle(traps)
        at = 0
        while at + 3 <= count:
            if fixed & {at, at + 1, at + 2}:
                at += 1
                continue
            traps.append(traps.pop(0))
            wrong = [word ^ (1 << traps[-1][1] if number == traps[-1][0] else 0) for number, word in enumerate(words)]
            found[at : at + 3] = [wrong[0] | rng.getrandbits(32) << 32, *wrong[1:]]
            at += 3
        self.machine.put(self.struct_at, struct.pack(f"<{count}Q", *found))

    def _execute(self) -> list[tuple[int, int]]:
        """Calls the init as do_one_initcall() does. Returns its stores into struct module: offset and size."""
        owner, machine = self._section(_OWNER), self.machine
        stores: list[tuple[int, int]] = []
        first: list[bytes] = []  # struct module at the first call

        def stored(_: Any, access: int, address: int, size: int, value: int, user: object) -> None:
            stores.append((address - (1 << 64) - self.struct_at, size))

        def answer(target: Pointer) -> int:
            if not first:
                first.append(self._bytes(owner))
            return 0

        machine.hook(unicorn.UC_HOOK_MEM_WRITE, stored, self.struct_at, owner.size)
        steps = _STEPS[0] + _STEPS[1] * sum(self._section(name).size for name in SORTED_UNWIND)
        try:
            result = machine.run(self.code.entry[1], answer, steps=steps)
            if result:
                self.problems.append(f"returns {result:#x}, must be 0")
        except StuckError as stuck:
            self.problems.append(str(stuck))
        if first and first[0] != self._bytes(owner):
            self.problems.append("calls before the table is settled")
        return stores

    def read_table(self) -> tuple[Ints, Ints]:
        """Addresses and states of the registered table; none, and a problem, where it is not the sorted one."""
        assert self.triple_at is not None
        raw = self.machine.get(self.struct_at + self.triple_at, _TRIPLE)
        count, ips, states = int.from_bytes(raw[:4], "little"), *(_signed(w) for w in struct.unpack("<2Q", raw[8:]))
        one, two = (self._section(name) for name in SORTED_UNWIND)
        first, rest = divmod(ips - self.machine.home[one.index], 4)
        second, more = divmod(states - self.machine.home[two.index], 6)
        if rest or more or first != second or first < 0 or not 0 < count <= one.size // 4 - first:
            where = f"{self.machine.where(ips)} and {self.machine.where(states)}"
            raise StuckError(f"{self.load.text}: {count} entries at {where} are registered")
        near = np.frombuffer(self.machine.get(ips, 4 * count), "<i4").astype(np.int64)
        return ips + 4 * np.arange(count) + near, unwind_states(self.machine.get(states, 6 * count))

    def decode(self, address: Ints, state: Ints) -> tuple[Unwind, list[str]]:
        """The table by section and offset; entries that are in no code are left out. Needs gaps between sections."""
        assert self.load.gap
        code = [s for s in self.merged.sections if s.index in self.machine.home and s.flags & SHF_EXEC]
        code.sort(key=lambda s: self.machine.home[s.index])
        start, size, index = (
            np.array(column, np.int64)
            for column in zip(*((self.machine.home[s.index], s.size, s.index) for s in code), strict=True)
        )
        at = np.maximum(np.searchsorted(start, address, "right") - 1, 0)
        offset = address - start[at]
        good = (offset >= 0) & (offset <= size[at])
        problems = []
        if not good.all():
            row = int(np.argmin(good))
            where = self.machine.where(int(address[row]))
            problems.append(f"{int((~good).sum())} entries in no code, the first is {row}, for {where}")
        return Unwind(home=index[at][good], offset=offset[good], data=state[good]), problems

    def addresses_of(self, table: Unwind) -> Ints:
        """The address of each entry."""
        base = np.zeros(len(self.merged.sections), np.int64)
        for index, address in self.machine.home.items():
            base[index] = address
        return base[table.home] + table.offset

    def _bytes(self, section: Section) -> bytes:
        return self.machine.get(self.machine.home[section.index], section.size)


def _unsigned(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
