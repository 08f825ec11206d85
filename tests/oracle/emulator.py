"""Runs the glue's init in Unicorn, on all four architectures: sections have addresses, the glue is relocated.

Calls are answered by the caller, as machine.py does it for x86_64, where addresses stay symbolic. Here each call must
reach the beginning of a member's init or of a kernel function, code outside the glue is never run, and it writes to
nothing but its own data and the stack below its caller's.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import unicorn

from tests.oracle.machine import Answer, Pointer, StuckError, Value
from tests.oracle.model import SHF_EXEC, SHF_WRITE, SHN_ABS, Bytes, Model, gather, scatter
from tests.oracle.placement import Layout
from tests.oracle.processor import processor_of

Place = tuple[int, int]
Span = tuple[int, int]  # address and size

_KERNEL_SIZE, _STACK_SIZE, _STUB = 1 << 20, 1 << 16, 256
_STEPS = 50_000  # beside a few for each byte of the glue's code: no loop in it is longer than a list of skips
_WIDEST = 64  # bytes of one store
_THUNK = "__x86_return_thunk"
_OWNER = ".gnu.linkonce.this_module"


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Where everything lies, in signed numbers. home: section → address; regions: (address, size, Unicorn's rights).

    kernel: kernel functions; the first of them is where the init returns to. stack: of 64 KiB.
    """

    home: dict[int, int]
    regions: list[tuple[int, int, int]]
    kernel: int = 0x1FF00000
    stack: int = 0x60000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A function in the middle of a call: where, registers, the whole stack."""

    address: int
    registers: Any
    stack: bytes


class Emulator:
    """A loaded megamodule whose init can be called again and again.

    inits: (section, offset) of members' inits; space: random addresses if not given; tables: sections beside the
    glue's own that are loaded, their relocations applied, and may be written to if their section is writable; state:
    the first field of struct module may be written, too. kernel: the addresses of kernel symbols, in space.kernel;
    others come one after the other.
    """

    def __init__(
        self,
        merged: Model,
        layout: Layout,
        entry: Place,
        inits: Iterable[Place],
        *,
        space: Space | None = None,
        tables: Iterable[int] = (),
        state: bool = False,
        kernel: Mapping[str, int] | None = None,
    ) -> None:
        self.merged, self.layout, self.section = merged, layout, entry[0]
        self.processor = processor_of(merged.arch)
        self.space = space or _random_space(merged)
        self.home = self.space.home
        self.tables = set(tables) & set(self.home)
        self.state = state
        inits = [place for place in inits if place[0] in self.home]
        bit = self.processor.bit
        self.calls = {self.home[home] + offset - bit: Pointer(home, offset) for home, offset in inits}
        self.imports: dict[str, int] = dict(kernel or {})
        self.calls |= {address: Pointer(0, 0, name) for name, address in self.imports.items()}
        self.stack = self.space.stack + _STACK_SIZE // 2 - self.processor.pushed  # its pointer at the init's start
        engine: Any = unicorn  # it has no types
        self.error = engine.UcError
        self.machine = engine.Uc(*self.processor.engine)
        if merged.arch.name == "x86_64":
            self.machine.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)  # else no addresses above 52 bits
        for start, size, rights in self.space.regions:
            self.machine.mem_map(_unsigned(start), size, rights)
        self.machine.mem_map(_unsigned(self.space.kernel), _KERNEL_SIZE)
        self.machine.mem_map(_unsigned(self.space.stack), _STACK_SIZE)
        contents = self._load({home for home, _ in inits})
        code = {home for home, _, _ in layout.glue if merged.sections[home].flags & SHF_EXEC}
        written = {home for home, _, _ in layout.glue if home not in code} & set(contents)
        self.fresh = {home: contents[home].tobytes() for home in written}
        self.steps = _STEPS + 4 * sum(size for home, _, size in layout.glue if home in code)
        self.stuck: list[str] = []
        self.answer: Answer = lambda target: 0
        self._watch()

    def _load(self, called: set[int]) -> dict[int, Bytes]:
        """Sections with the glue's own relocations applied; only the glue is run, so those of members do not matter."""
        merged = self.merged
        reached = {home for home, _, _ in self.layout.glue} | called | self.tables
        contents = {i: merged.content(merged.sections[i]).copy() for i in reached if i in self.home}
        mine = self.layout.in_glue(merged.place_section, merged.place)
        mine |= np.isin(merged.place_section, list(self.tables))
        for row in np.flatnonzero(mine).tolist():
            home = int(merged.place_section[row])
            if home in contents:
                self._relocate(row, contents[home])
        for index, content in contents.items():
            self.put(self.home[index], content.tobytes())
        for address in self.calls:
            self.put(address, self.processor.ret)
        return contents

    def _relocate(self, row: int, content: Bytes) -> None:
        merged = self.merged
        leader = int(merged.pair[row]) if merged.pair[row] >= 0 else row
        target = np.array([self._target(leader)])
        place = np.array([self.home[int(merged.place_section[leader])] + int(merged.place[leader])])
        form = merged.arch.by_code(int(merged.kind[row]))
        at = merged.place[row : row + 1]
        if form.fits is not None and not form.fits(target, place).all():
            name = merged.sections[int(merged.place_section[row])].name
            raise StuckError(f"a relocation at {name}+{int(at[0]):#x} is out of range")
        scatter(content, at, form.width, form.apply(gather(content, at, form.width), target, place))

    def _target(self, row: int) -> int:
        symbol, addend = int(self.merged.symbol[row]), int(self.merged.addend[row])
        home, value = int(self.merged.symbol_section[symbol]), int(self.merged.symbol_value[symbol])
        if home == SHN_ABS:
            return value + addend
        if home:
            # Per-CPU data is copied elsewhere, no code of the glue uses it.
            return self.home.get(home, min(self.home.values())) + value + addend
        name = self.merged.name_of_symbol(symbol)
        if name not in self.imports:
            number = len(self.imports) + 1
            if number * _STUB == _KERNEL_SIZE:
                raise StuckError(f"more than {number - 1} imports of the glue")
            self.imports[name] = self.space.kernel + _STUB * number
            self.calls[self.imports[name]] = Pointer(0, 0, name)
        return self.imports[name] + self.processor.bit + addend

    def _watch(self) -> None:
        """Hooks on code and on data that are not the glue's: what it does in its own costs nothing."""
        sections = self.merged.sections
        owned = [(self.home[home] + at, size) for home, at, size in self.layout.glue if sections[home].flags & SHF_EXEC]
        data = [(self.home[i], sections[i].size) for i in self.tables if sections[i].flags & SHF_WRITE]
        for home, at, size in self.layout.glue:
            # Struct module is the kernel's.
            if home in self.fresh and sections[home].flags & SHF_WRITE and sections[home].name != _OWNER:
                data.append((self.home[home] + at, size))
            if sections[home].name == _OWNER and self.state:
                data.append((self.home[home] + at, 4))
        data.append((self.space.stack, self.stack - self.space.stack))
        kernel, stack = (self.space.kernel, _KERNEL_SIZE), (self.space.stack, _STACK_SIZE)
        regions = [(start, size) for start, size, _ in self.space.regions]

        def step(_: Any, address: int, size: int, user: object) -> None:
            target = self.calls.get(_signed(address))
            if target is None:
                self._stop(f"runs to {self.where(_signed(address))}, which is not its own and no init or import")
            else:
                self._call(target)

        def store(_: Any, access: int, address: int, size: int, value: int, user: object) -> None:
            address = _signed(address)
            if not any(start <= address and address + size <= start + length for start, length in joined):
                self._stop(f"writes to {self.where(address)}, which is not its own")

        joined = _joined(data)
        returns = (self.space.kernel, 1)
        for start, size in _rest([*regions, kernel, stack], [*owned, returns]):
            self.hook(unicorn.UC_HOOK_CODE, step, start, size)
        # A store may begin in what is the glue's and end behind it. Memory that cannot be written to guards itself.
        narrow = [(start, size - _WIDEST) for start, size in joined if size > _WIDEST]
        writable = [(start, size) for start, size, rights in self.space.regions if rights & unicorn.UC_PROT_WRITE]
        for start, size in _rest([*writable, kernel, stack], narrow):
            self.hook(unicorn.UC_HOOK_MEM_WRITE, store, start, size)

    def hook(self, kind: int, function: Any, start: int, size: int) -> None:
        """Has Unicorn call a function for what happens in these addresses. Before the first run: it keeps its code."""
        if size > 0:
            self.machine.hook_add(kind, function, None, _unsigned(start), _unsigned(start + size - 1))

    def _stop(self, text: str) -> None:
        self.stuck.append(text)
        self.machine.emu_stop()

    def clear(self) -> None:
        """Memory as the loader leaves it."""
        for home, content in self.fresh.items():
            self.put(self.home[home], content)

    def write(self, section: int, offset: int, size: int, value: int) -> None:
        """A field as parse_args() would set it."""
        self.put(self.home[section] + offset, (value % (1 << 8 * size)).to_bytes(size, "little"))

    def read(self, section: int, offset: int, size: int) -> Value:
        return int.from_bytes(self.get(self.home[section] + offset, size), "little")

    def put(self, address: int, content: bytes) -> None:
        self.machine.mem_write(_unsigned(address), content)

    def get(self, address: int, size: int) -> bytes:
        return bytes(self.machine.mem_read(_unsigned(address), size))

    def run(self, entry: int, answer: Answer, *, steps: int | None = None) -> Value:
        """Calls the function at an offset of the glue's section; the int that it returns. StuckError if it may not."""
        return self.run_at(self.home[self.section] + entry, answer, steps=steps)

    def run_at(self, address: int, answer: Answer, *, steps: int | None = None) -> Value:
        """Calls the function of the glue at an address. What *answer* raises leaves memory as it is then."""
        cpu, machine = self.processor, self.machine
        for register, mark in self._marks().items():
            machine.reg_write(register, mark)
        returns = _unsigned(self.space.kernel)
        machine.reg_write(cpu.sp, _unsigned(self.stack))
        if cpu.link is not None:
            machine.reg_write(cpu.link, returns + cpu.bit)
        else:
            self.put(self.stack, returns.to_bytes(cpu.pushed, "little"))
        if cpu.direction is not None:
            register, bit = cpu.direction
            machine.reg_write(register, machine.reg_read(register) & ~bit)
        return self._go(address, answer, steps)

    def argument(self) -> int:
        """The first argument of the call that is being answered."""
        return int(self.machine.reg_read(self.processor.argument))

    def hold(self) -> Held:
        """The function that has just been left by an exception of its answer, in the call that was to be answered."""
        pc = _signed(self.machine.reg_read(self.processor.pc)) | self.processor.bit
        stack = self.get(self.space.stack, _STACK_SIZE)
        return Held(address=pc, registers=self.machine.context_save(), stack=stack)

    def go_on(self, held: Held, answer: Answer, *, steps: int | None = None) -> Value:
        """The call of *held* is answered now, and the function goes on."""
        self.put(self.space.stack, held.stack)
        self.machine.context_restore(held.registers)
        return self._go(held.address, answer, steps)

    def _marks(self) -> dict[int, int]:
        """What the registers hold as a function is called."""
        cpu, mask = self.processor, (1 << self.processor.bits) - 1
        return {register: 0x1111222233330000 + n & mask for n, register in enumerate((*cpu.saved.values(), *cpu.lost))}

    def _go(self, address: int, answer: Answer, steps: int | None) -> Value:
        cpu, machine = self.processor, self.machine
        self.stuck, self.answer = [], answer
        steps = self.steps if steps is None else steps
        returns, marks = _unsigned(self.space.kernel), self._marks()
        try:
            machine.emu_start(_unsigned(address), returns, count=steps)
        except self.error as error:
            self.stuck.append(f"{error} at {self.where(_signed(machine.reg_read(cpu.pc)))}")
        if not self.stuck:
            self._check_end(marks)
        if self.stuck:
            raise StuckError(self.stuck[0])
        return int(machine.reg_read(cpu.results[0])) & 0xFFFFFFFF

    def _check_end(self, marks: dict[int, int]) -> None:
        cpu, machine = self.processor, self.machine
        if machine.reg_read(cpu.pc) != _unsigned(self.space.kernel):
            self.stuck.append("does not end")
        elif machine.reg_read(cpu.sp) != _unsigned(self.stack + cpu.pushed):
            self.stuck.append("returns with another stack pointer")
        elif changed := [name for name, at in cpu.saved.items() if machine.reg_read(at) != marks[at]]:
            self.stuck.append(f"returns with another {', '.join(changed)}")
        elif self._runs_down():
            self.stuck.append("returns with the direction flag set")

    def _runs_down(self) -> bool:
        """Whether string instructions go to lower addresses, which C code does not expect."""
        direction = self.processor.direction
        return direction is not None and bool(self.machine.reg_read(direction[0]) & direction[1])

    def _call(self, target: Pointer) -> None:
        """The result of a call; everything else that a function may change is changed."""
        cpu, machine = self.processor, self.machine
        mask = (1 << cpu.bits) - 1
        if (machine.reg_read(cpu.sp) + cpu.pushed) % cpu.align:
            return self._stop("calls with a misaligned stack pointer")
        if self._runs_down():
            return self._stop("calls with the direction flag set")
        value, kept = self.answer(target), machine.reg_read(cpu.results[0])
        for number, register in enumerate(cpu.lost):
            machine.reg_write(register, 0xDEAD0000BEEF0000 + number & mask)
        if target.name == _THUNK:
            machine.reg_write(cpu.results[0], kept)  # it is the return itself
            return None
        if len(cpu.results) > 1 and target.name:
            machine.reg_write(cpu.results[1], value >> cpu.bits & mask)
        # The upper half of an int's register is undefined; riscv64 extends its sign.
        low = value if target.name or self.merged.arch.name == "riscv64" else 0xABCD << 32 | value & 0xFFFFFFFF
        machine.reg_write(cpu.results[0], low & mask)
        return None

    def where(self, address: int) -> str:
        """An address by its section, where it is in one."""
        for index, start in self.home.items():
            if start <= address < start + max(self.merged.sections[index].size, 1):
                return f"{self.merged.sections[index].name}+{address - start:#x}"
        return hex(_unsigned(address))


def _random_space(merged: Model) -> Space:
    """Sections in any order, code first to be in reach, with random gaps, at their alignment and no more."""
    rng = random.Random(len(merged.data))
    order = [s for s in merged.sections[1:] if s.alloc]
    rng.shuffle(order)
    order.sort(key=lambda s: not s.flags & SHF_EXEC)
    home, at = {}, 0x20000000
    for section in order:
        at += 4096 * rng.randrange(8)
        step = max(section.align, 1)
        at = (at + step - 1) // step * step
        at += step if step < 4096 else 0
        home[section.index] = at
        at += section.size
    low = min(home.values()) & -4096
    return Space(home=home, regions=[(low, (at - low + 8191) & -4096, unicorn.UC_PROT_ALL)])


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The same addresses, ascending, those that touch in one."""
    found: list[Span] = []
    for start, size in sorted(spans):
        if found and start <= sum(found[-1]):
            found[-1] = found[-1][0], max(sum(found[-1]), start + size) - found[-1][0]
        elif size:
            found.append((start, size))
    return found


def _rest(regions: Iterable[Span], spans: Iterable[Span]) -> list[Span]:
    """What the regions have outside the spans."""
    found, taken = [], _joined(spans)
    for start, size in regions:
        at, end = start, start + size
        for begin, length in taken:
            if start <= begin < end:
                found.append((at, begin - at))
                at = begin + length
        found.append((at, end - at))
    return [each for each in found if each[1] > 0]


def _unsigned(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
