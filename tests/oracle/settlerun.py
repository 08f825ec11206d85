"""Loads a megamodule into Unicorn as the x86_64 kernel does, and runs the init that settles its unwind table.

Sections lie at kernel addresses, by kind of memory, in the order of their headers. Members' inits and kernel functions
do nothing. Struct module holds the small table as unwind_module_init() leaves it, and traps in its other fields.
"""

import random
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import unicorn
from unicorn import x86_const

from tests.oracle.elffile import Section
from tests.oracle.glue import calls_of_glue
from tests.oracle.machine import StuckError
from tests.oracle.memory import MODULES, Load, addresses
from tests.oracle.model import SHF_EXEC, SHF_WRITE, SHN_ABS, Bytes, Ints, Model, gather, scatter
from tests.oracle.placement import Layout
from tests.oracle.tables import SORTED_UNWIND, Unwind, unwind_states
from tests.oracle.trial import Place

_KERNEL, _STACK = -0x7F000000, -0x360000000000  # as signed numbers
_STACK_SIZE = 1 << 14
_IMPORTS = 1024 - 64
_MICROSECONDS = 120_000_000
_NAME_AT = 24  # struct module: enum module_state, struct list_head, name
_TRIPLE = 24
_OWNER = ".gnu.linkonce.this_module"
_THUNK = "__x86_return_thunk"
_SAVED = {
    "rbx": x86_const.UC_X86_REG_RBX,
    "rbp": x86_const.UC_X86_REG_RBP,
    "r12": x86_const.UC_X86_REG_R12,
    "r13": x86_const.UC_X86_REG_R13,
    "r14": x86_const.UC_X86_REG_R14,
    "r15": x86_const.UC_X86_REG_R15,
}
_DIRECTION = 1 << 10  # of the flags: clear wherever C code runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What the glue's init needs to run. rows: relocations to apply; first: place of its first call, if it has one.

    inits: what it calls in the megamodule, members' inits; entry: where it begins.
    """

    entry: Place
    first: Place | None
    inits: tuple[Place, ...]
    rows: Ints


def code_of(merged: Model, layout: Layout, entry: Place) -> Code:
    """Looks at the glue, and at struct module, which names it."""
    calls = calls_of_glue(merged, layout)
    homes, offsets = (np.array([target[n] for _, target in calls], np.int64) for n in (0, 1))
    others = np.flatnonzero((homes > 0) & ~layout.in_glue(homes, offsets)).tolist()
    names = (_OWNER, ".orc_unwind_ip")
    mine = np.isin(merged.place_section, [s.index for s in map(merged.find, names) if s is not None])
    return Code(
        entry=entry,
        first=calls[0][0] if calls else None,
        inits=tuple(calls[n][1] for n in others),
        rows=np.flatnonzero(mine | layout.in_glue(merged.place_section, merged.place)),
    )


@dataclass(slots=True)
class Kernel:
    """A megamodule in memory, its small table registered, its init not yet run. Problems gather in problems."""

    merged: Model
    layout: Layout
    small: Unwind
    code: Code
    load: Load
    problems: list[str] = field(default_factory=list)
    home: dict[int, int] = field(default_factory=dict)
    imports: dict[str, int] = field(default_factory=dict)
    regions: list[tuple[int, int, int]] = field(default_factory=list)
    machine: Any = None
    struct_at: int = 0
    triple_at: int | None = None

    def run(self) -> None:
        """Loads, runs the init, and looks at what it has done to memory."""
        self.home, self.regions = addresses(self.merged, self.load)
        self._map()
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

    def _map(self) -> None:
        """The sections that the glue can reach, its relocations applied; members' inits that do nothing."""
        engine: Any = unicorn  # it has no types
        self.machine = engine.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.machine.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)  # else no addresses above 52 bits
        for start, size, rights in self.regions:
            self.machine.mem_map(_unsigned(start), size, rights)
        self.machine.mem_map(_unsigned(_KERNEL), 64 * (_IMPORTS + 64))
        self.machine.mem_map(_unsigned(_STACK), _STACK_SIZE)
        names = (*SORTED_UNWIND, ".orc_unwind_ip", ".orc_unwind", _OWNER)
        reached = {home for home, _, _ in self.layout.glue} | {home for home, _ in self.code.inits}
        reached |= {self._section(name).index for name in names}
        contents = {i: self.merged.content(self.merged.sections[i]).copy() for i in reached if i in self.home}
        self._relocate(contents)
        for home, offset in self.code.inits:
            if home in contents and 0 <= offset <= len(contents[home]) - 3:
                contents[home][offset : offset + 3] = np.frombuffer(b"\x31\xc0\xc3", np.uint8)  # xor eax, eax; ret
        for index, content in contents.items():
            self._write(self.home[index], content.tobytes())
        for name, address in self.imports.items():
            self._write(address, b"\xc3" if name == _THUNK else b"\x31\xc0\xc3")

    def _relocate(self, contents: dict[int, Bytes]) -> None:
        merged = self.merged
        for row in self.code.rows.tolist():
            home, at = int(merged.place_section[row]), merged.place[row : row + 1]
            if home not in contents:
                continue
            form, content = merged.arch.by_code(int(merged.kind[row])), contents[home]
            target, place = np.array([self._target(row)]), self.home[home] + at
            if form.fits is not None and not form.fits(target, place).all():
                raise StuckError(f"a relocation at {merged.sections[home].name}+{int(at[0]):#x} is out of range")
            scatter(content, at, form.width, form.apply(gather(content, at, form.width), target, place))

    def _target(self, row: int) -> int:
        symbol, addend = int(self.merged.symbol[row]), int(self.merged.addend[row])
        home, value = int(self.merged.symbol_section[symbol]), int(self.merged.symbol_value[symbol])
        if home == SHN_ABS:
            return value + addend
        if home:
            return self.home.get(home, MODULES) + value + addend
        name = self.merged.name_of_symbol(symbol)
        if len(self.imports) == _IMPORTS:
            raise StuckError(f"more than {_IMPORTS} imports of the glue")
        return self.imports.setdefault(name, _KERNEL + 64 * (len(self.imports) + 1)) + addend

    def _register(self) -> None:
        """unwind_module_init(): sorts the small table and stores it; all else in struct module is full of traps."""
        base = {name: self.home[self._section(name).index] for name in (".orc_unwind_ip", ".orc_unwind")}
        ips, states = base.values()
        address = self.addresses_of(self.small)
        order = np.lexsort((self.small.data >> 32 != 0, address))
        near = (address[order] - ips - 4 * np.arange(len(order))).astype("<i4")
        self._write(ips, near.tobytes())
        self._write(states, b"".join(int(d).to_bytes(6, "little") for d in self.small.data[order]))

        owner = self._section(_OWNER)
        self.struct_at = self.home[owner.index]
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
            self._write(self.struct_at + self.triple_at, struct.pack("<3Q", *words))
            fixed |= {slot, slot + 1, slot + 2}
        elif owner.size % 8 == 0 and not fixed & {owner.size // 8 - 2, owner.size // 8 - 1}:
            # One that begins inside and ends behind struct module is not its own.
            self._write(self.struct_at + owner.size - 16, struct.pack("<3Q", *words))
            fixed |= {owner.size // 8 - 2, owner.size // 8 - 1}
        self._set_traps(fixed, owner.size // 8, words)

    def _set_traps(self, fixed: set[int], count: int, words: list[int]) -> None:
        """Fills the other fields with triples of which one bit is wrong. The half behind the count is anything."""
        rng = random.Random(self.load.text)
        found = list(struct.unpack(f"<{count}Q", self._bytes_at(self.struct_at, 8 * count)))
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
        self._write(self.struct_at, struct.pack(f"<{count}Q", *found))

    def _execute(self) -> list[tuple[int, int]]:
        """Calls the init as do_one_initcall() does. Returns its stores into struct module: offset and size."""
        machine, owner = self.machine, self._section(_OWNER)
        stores: list[tuple[int, int]] = []
        wrong: list[str] = []

        def stored(_: Any, access: int, address: int, size: int, value: int, user: object) -> None:
            stores.append((_signed(address) - self.struct_at, size))

        def astray(_: Any, access: int, address: int, size: int, value: int, user: object) -> None:
            wrong.append(f"writes to {self._where(_signed(address))}, which is not its own")
            machine.emu_stop()

        seen: list[bytes] = []

        def called(_: Any, address: int, size: int, user: object) -> None:
            if not seen and machine.reg_read(x86_const.UC_X86_REG_EFLAGS) & _DIRECTION:
                wrong.append("calls with the direction flag set")
            seen.append(self._bytes(owner))

        own = [(self.struct_at, owner.size), *self._own_data()]
        guards = [(start + size, self._behind(start + size, own)) for start, size in own]
        _hook(machine, unicorn.UC_HOOK_MEM_WRITE, stored, self.struct_at, owner.size)
        for start, size in self._foreign(own):
            _hook(machine, unicorn.UC_HOOK_MEM_WRITE, astray, start, size)
        if self.code.first is not None:
            home, offset = self.code.first
            _hook(machine, unicorn.UC_HOOK_CODE, called, self.home[home] + offset, 1)

        stack = _unsigned(_STACK + _STACK_SIZE - 0x1000)
        machine.mem_write(stack, struct.pack("<Q", _unsigned(_KERNEL)))
        machine.reg_write(x86_const.UC_X86_REG_RSP, stack)
        marks = {name: 0x1111222233330000 + number for number, name in enumerate(_SAVED)}
        for name, mark in marks.items():
            machine.reg_write(_SAVED[name], mark)
        machine.reg_write(x86_const.UC_X86_REG_RAX, 0x4444)
        engine: Any = unicorn
        try:
            start = _unsigned(self.home[self.code.entry[0]] + self.code.entry[1])
            machine.emu_start(start, _unsigned(_KERNEL), timeout=_MICROSECONDS)
        except engine.UcError as error:
            wrong.append(f"{error} at {self._where(_signed(machine.reg_read(x86_const.UC_X86_REG_RIP)))}")
        if not wrong:
            wrong += self._after(stack, marks)
        for at, content in guards:
            if self._behind(at, own) != content:
                wrong.append(f"writes to {self._where(at)}, which is not its own")
        if seen and seen[0] != self._bytes(owner):
            wrong.append("calls before the table is settled")
        self.problems += wrong
        return stores

    def _after(self, stack: int, marks: dict[str, int]) -> list[str]:
        machine = self.machine
        if machine.reg_read(x86_const.UC_X86_REG_RIP) != _unsigned(_KERNEL):
            return ["does not end"]
        wrong = []
        if machine.reg_read(x86_const.UC_X86_REG_RSP) != stack + 8:
            wrong.append("returns with another stack pointer")
        wrong += [
            f"returns with another {name}" for name, mark in marks.items() if machine.reg_read(_SAVED[name]) != mark
        ]
        if machine.reg_read(x86_const.UC_X86_REG_EFLAGS) & _DIRECTION:
            wrong.append("returns with the direction flag set")
        result = machine.reg_read(x86_const.UC_X86_REG_RAX) & 0xFFFFFFFF
        return wrong + ([f"returns {result:#x}, must be 0"] if result else [])

    def _own_data(self) -> list[tuple[int, int]]:
        """What the glue may write beside struct module and the stack: (address, size)."""
        own = [s for s in self.layout.glue if self.merged.sections[s[0]].flags & SHF_WRITE and s[0] in self.home]
        tables = [self._section(name) for name in SORTED_UNWIND]
        return [(self.home[s.index], s.size) for s in tables] + [(self.home[h] + at, size) for h, at, size in own]

    def _foreign(self, own: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The writable memory of the module that is not in own: (address, size)."""
        found = []
        for start, size, rights in self.regions:
            if not rights & unicorn.UC_PROT_WRITE:
                continue
            at = start
            for begin, length in sorted(each for each in own if start <= each[0] < start + size):
                if begin > at:
                    found.append((at, begin - at))
                at = max(at, begin + length)
            if at < start + size:
                found.append((at, start + size - at))
        return found

    def read_table(self) -> tuple[Ints, Ints]:
        """Addresses and states of the registered table; none, and a problem, where it is not the sorted one."""
        assert self.triple_at is not None
        raw = self._bytes_at(self.struct_at + self.triple_at, _TRIPLE)
        count, ips, states = int.from_bytes(raw[:4], "little"), *(_signed(w) for w in struct.unpack("<2Q", raw[8:]))
        one, two = (self._section(name) for name in SORTED_UNWIND)
        first, rest = divmod(ips - self.home[one.index], 4)
        second, more = divmod(states - self.home[two.index], 6)
        if rest or more or first != second or first < 0 or not 0 < count <= one.size // 4 - first:
            raise StuckError(
                f"{self.load.text}: {count} entries at {self._where(ips)} and {self._where(states)} are registered"
            )
        near = np.frombuffer(self._bytes_at(ips, 4 * count), "<i4").astype(np.int64)
        return ips + 4 * np.arange(count) + near, unwind_states(self._bytes_at(states, 6 * count))

    def decode(self, address: Ints, state: Ints) -> tuple[Unwind, list[str]]:
        """The table by section and offset; entries that are in no code are left out. Needs gaps between sections."""
        assert self.load.gap
        code = [s for s in self.merged.sections if s.index in self.home and s.flags & SHF_EXEC]
        code.sort(key=lambda s: self.home[s.index])
        start, size, index = (
            np.array(column, np.int64)
            for column in zip(*((self.home[s.index], s.size, s.index) for s in code), strict=True)
        )
        at = np.maximum(np.searchsorted(start, address, "right") - 1, 0)
        offset = address - start[at]
        good = (offset >= 0) & (offset <= size[at])
        problems = []
        if not good.all():
            row = int(np.argmin(good))
            where = self._where(int(address[row]))
            problems.append(f"{int((~good).sum())} entries in no code, the first is {row}, for {where}")
        return Unwind(home=index[at][good], offset=offset[good], data=state[good]), problems

    def addresses_of(self, table: Unwind) -> Ints:
        """The address of each entry."""
        base = np.zeros(len(self.merged.sections), np.int64)
        for index, address in self.home.items():
            base[index] = address
        return base[table.home] + table.offset

    def _write(self, address: int, data: bytes) -> None:
        self.machine.mem_write(_unsigned(address), data)

    def _bytes_at(self, address: int, size: int) -> bytes:
        return bytes(self.machine.mem_read(_unsigned(address), size))

    def _bytes(self, section: Section) -> bytes:
        return self._bytes_at(self.home[section.index], section.size)

    def _behind(self, address: int, own: list[tuple[int, int]]) -> bytes:
        """The bytes there that a store which begins before could reach, and that are not in own."""
        ends = [start + size for start, size, _ in self.regions if start <= address < start + size]
        begins = [max(start, address) for start, size in own if start + size > address]
        return self._bytes_at(address, max(min([address + 16, *begins, *ends]) - address, 0)) if ends else b""

    def _where(self, address: int) -> str:
        for index, start in self.home.items():
            if start <= address < start + max(self.merged.sections[index].size, 1):
                return f"{self.merged.sections[index].name}+{address - start:#x}"
        return hex(_unsigned(address))


def _hook(machine: Any, kind: int, function: Any, start: int, size: int) -> None:
    if size > 0:
        machine.hook_add(kind, function, None, _unsigned(start), _unsigned(start + size - 1))


def _unsigned(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
