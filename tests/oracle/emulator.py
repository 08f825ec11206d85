"""Runs the glue's init in Unicorn: arm64, riscv64, arm. Sections lie at random addresses, the glue is relocated.

Calls are answered by the caller, as machine.py does it for x86_64, where addresses stay symbolic. Here each call must
reach the beginning of a member's init or of a kernel function, and code outside the glue is never run.
"""

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import unicorn
from unicorn import arm64_const, arm_const, riscv_const

from tests.oracle.machine import Answer, Pointer, StuckError, Value
from tests.oracle.model import SHF_EXEC, SHN_ABS, Model, gather, scatter
from tests.oracle.placement import Layout

_BASE, _KERNEL, _STACK, _RETURN = 0x20000000, 0x1FF00000, 0x60000000, 0x70000000
_STEPS = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What a call does on it. saved and lost: registers that a function must keep, and that it may change.

    results: registers of a result, low word first; align: of the stack pointer at a call; ret: a return instruction.
    bit: what pointers to code have beside the address.
    """

    engine: tuple[int, int]
    pc: int
    sp: int
    link: int
    results: tuple[int, ...]
    saved: tuple[int, ...]
    lost: tuple[int, ...]
    bits: int
    align: int
    ret: bytes
    bit: int = 0


def _registers(module: Any, pattern: str, names: str) -> tuple[int, ...]:
    return tuple(getattr(module, pattern + name) for name in names.split())


_ARM64 = Processor(
    engine=(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM),
    pc=arm64_const.UC_ARM64_REG_PC,
    sp=arm64_const.UC_ARM64_REG_SP,
    link=arm64_const.UC_ARM64_REG_X30,
    results=(arm64_const.UC_ARM64_REG_X0,),
    saved=_registers(arm64_const, "UC_ARM64_REG_X", "19 20 21 22 23 24 25 26 27 28 29"),
    # x18 is the platform's, a kernel function leaves it alone.
    lost=_registers(arm64_const, "UC_ARM64_REG_X", "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17"),
    bits=64,
    align=16,
    ret=b"\xc0\x03\x5f\xd6",
)
_RISCV64 = Processor(
    engine=(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64),
    pc=riscv_const.UC_RISCV_REG_PC,
    sp=riscv_const.UC_RISCV_REG_SP,
    link=riscv_const.UC_RISCV_REG_RA,
    results=(riscv_const.UC_RISCV_REG_A0,),
    saved=_registers(riscv_const, "UC_RISCV_REG_", "S0 S1 S2 S3 S4 S5 S6 S7 S8 S9 S10 S11 GP TP"),
    lost=_registers(riscv_const, "UC_RISCV_REG_", "T0 T1 T2 T3 T4 T5 T6 A0 A1 A2 A3 A4 A5 A6 A7"),
    bits=64,
    align=16,
    ret=b"\x67\x80\0\0",
)
_ARM = Processor(
    engine=(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM),
    pc=arm_const.UC_ARM_REG_PC,
    sp=arm_const.UC_ARM_REG_SP,
    link=arm_const.UC_ARM_REG_LR,
    results=(arm_const.UC_ARM_REG_R0, arm_const.UC_ARM_REG_R1),
    saved=_registers(arm_const, "UC_ARM_REG_R", "4 5 6 7 8 9 10 11"),
    lost=_registers(arm_const, "UC_ARM_REG_R", "0 1 2 3 12"),
    bits=32,
    align=8,
    ret=b"\x1e\xff\x2f\xe1",  # bx lr
)
_THUMB = replace(_ARM, engine=(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB), ret=b"\x70\x47", bit=1)
_PROCESSORS = {"arm64": _ARM64, "riscv64": _RISCV64, "arm": _ARM}


class Emulator:
    """A loaded megamodule whose init can be called again and again. inits: (section, offset) of members' inits."""

    def __init__(
        self, merged: Model, layout: Layout, section: int, stretches: list[tuple[int, int]], inits: set[tuple[int, int]]
    ) -> None:
        self.merged, self.section = merged, section
        self.processor = _THUMB if merged.arch.thumb else _PROCESSORS[merged.arch.name]
        self.home = _addresses(merged)
        self.own = [(self.home[section] + offset, size) for offset, size in stretches]
        self.data = [(self.home[home] + offset, size) for home, offset, size in layout.glue if home != section]
        self.imports: dict[str, int] = {}
        bit = self.processor.bit
        self.calls = {self.home[home] + offset - bit: Pointer(home, offset) for home, offset in inits}
        engine: Any = unicorn  # it has no types
        self.error = engine.UcError
        self.machine = engine.Uc(*self.processor.engine)
        self.machine.mem_map(_KERNEL, 1 << 20)
        self.machine.mem_map(_STACK, 1 << 16)
        self.machine.mem_map(_RETURN, 1 << 12)
        self._load(layout)
        self.fresh = {
            home: bytes(self.machine.mem_read(self.home[home], merged.sections[home].size))
            for home in {s for s, _, _ in layout.glue}
            if home != section
        }

    def _load(self, layout: Layout) -> None:
        """Sections with the glue's own relocations applied; only the glue is run, so those of members do not matter."""
        merged = self.merged
        contents = {index: merged.content(merged.sections[index]).copy() for index in self.home}
        mine = np.flatnonzero(layout.in_glue(merged.place_section, merged.place))
        for row in mine.tolist():
            leader = int(merged.pair[row]) if merged.pair[row] >= 0 else row
            target, place = (
                self._target(leader),
                self.home[int(merged.place_section[leader])] + int(merged.place[leader]),
            )
            form = merged.arch.by_code(int(merged.kind[row]))
            content, at = contents[int(merged.place_section[row])], merged.place[row : row + 1]
            words, wide, near = gather(content, at, form.width), np.array([target]), np.array([place])
            if form.fits is not None and not form.fits(wide, near).all():
                raise StuckError(f"a relocation of the glue at {int(at[0]):#x} is out of range")
            scatter(content, at, form.width, form.apply(words, wide, near))
        low = min(self.home.values()) & -4096
        high = max(self.home[i] + s.size for i, s in enumerate(merged.sections) if i in self.home)
        self.machine.mem_map(low, (high - low + 8191) & -4096)
        for index, content in contents.items():
            self.machine.mem_write(self.home[index], content.tobytes())
        for address in self.calls:
            self.machine.mem_write(address, self.processor.ret)

    def _target(self, row: int) -> int:
        symbol, addend = int(self.merged.symbol[row]), int(self.merged.addend[row])
        home, value = int(self.merged.symbol_section[symbol]), int(self.merged.symbol_value[symbol])
        if home == SHN_ABS:
            return value + addend
        if home:
            return self.home[home] + value + addend
        name = self.merged.name_of_symbol(symbol)
        if name not in self.imports:
            self.imports[name] = _KERNEL + 256 * (len(self.imports) + 1)
            self.calls[self.imports[name]] = Pointer(0, 0, name)
        return self.imports[name] + self.processor.bit + addend

    def clear(self) -> None:
        """Memory as the loader leaves it."""
        for home, content in self.fresh.items():
            self.machine.mem_write(self.home[home], content)

    def write(self, section: int, offset: int, size: int, value: int) -> None:
        """A field as parse_args() would set it."""
        self.machine.mem_write(self.home[section] + offset, (value % (1 << 8 * size)).to_bytes(size, "little"))

    def read(self, section: int, offset: int, size: int) -> Value:
        return int.from_bytes(self.machine.mem_read(self.home[section] + offset, size), "little")

    def run(self, entry: int, answer: Answer) -> Value:
        """Calls the function at an offset of the glue's section; the int that it returns. StuckError if it may not."""
        cpu, machine = self.processor, self.machine
        mask = (1 << cpu.bits) - 1
        stuck: list[str] = []

        def stop(text: str) -> None:
            stuck.append(text)
            machine.emu_stop()

        def step(_: Any, address: int, size: int, user: object) -> None:
            if any(start <= address < start + length for start, length in self.own):
                return
            target = self.calls.get(address)
            if target is None:
                return stop(f"runs to {self._where(address)}, which is not its own and no init or import")
            if machine.reg_read(cpu.sp) % cpu.align:
                return stop("calls with a misaligned stack pointer")
            self._answer(target, answer(target))
            return None

        def store(_: Any, access: int, address: int, size: int, value: int, user: object) -> None:
            inside = any(start <= address and address + size <= start + length for start, length in self.data)
            if not inside and not _STACK <= address < stack:
                stop(f"writes to {self._where(address)}, which is not its own")

        stack = _STACK + (1 << 15)
        hooks = [machine.hook_add(unicorn.UC_HOOK_CODE, step), machine.hook_add(unicorn.UC_HOOK_MEM_WRITE, store)]
        marks = {register: 0x1111222200000000 + n & mask for n, register in enumerate((*cpu.saved, *cpu.lost))}
        for register, mark in marks.items():
            machine.reg_write(register, mark)
        machine.reg_write(cpu.sp, stack)
        machine.reg_write(cpu.link, _RETURN + cpu.bit)
        try:
            machine.emu_start(self.home[self.section] + entry, _RETURN, count=_STEPS)
        except self.error as error:
            stuck.append(f"{error} at {self._where(machine.reg_read(cpu.pc))}")
        finally:
            for hook in hooks:
                machine.hook_del(hook)
        if not stuck and machine.reg_read(cpu.pc) != _RETURN:
            stuck.append("does not end")
        if not stuck and machine.reg_read(cpu.sp) != stack:
            stuck.append("returns with another stack pointer")
        if not stuck and any(machine.reg_read(register) != marks[register] for register in cpu.saved):
            stuck.append("returns with other callee-saved registers")
        if stuck:
            raise StuckError(stuck[0])
        return int(machine.reg_read(cpu.results[0])) & 0xFFFFFFFF

    def _answer(self, target: Pointer, value: int) -> None:
        """The result of a call; everything else that a function may change is changed."""
        cpu = self.processor
        mask = (1 << cpu.bits) - 1
        for number, register in enumerate(cpu.lost):
            self.machine.reg_write(register, 0xDEAD0000BEEF0000 + number & mask)
        if len(cpu.results) > 1 and target.name:
            self.machine.reg_write(cpu.results[1], value >> cpu.bits & mask)
        # The upper half of an int's register is undefined; riscv64 extends its sign.
        low = value if target.name or self.merged.arch.name == "riscv64" else 0xABCD << 32 | value & 0xFFFFFFFF
        self.machine.reg_write(cpu.results[0], low & mask)

    def _where(self, address: int) -> str:
        for index, start in self.home.items():
            if start <= address < start + max(self.merged.sections[index].size, 1):
                return f"{self.merged.sections[index].name}+{address - start:#x}"
        return hex(address)


def _addresses(merged: Model) -> dict[int, int]:
    """Sections in any order, code first to be in reach, with random gaps, at their alignment and no more."""
    rng = random.Random(len(merged.data))
    order = [s for s in merged.sections[1:] if s.alloc]
    rng.shuffle(order)
    order.sort(key=lambda s: not s.flags & SHF_EXEC)
    home, at = {}, _BASE
    for section in order:
        at += 4096 * rng.randrange(8)
        step = max(section.align, 1)
        at = (at + step - 1) // step * step
        at += step if step < 4096 else 0
        home[section.index] = at
        at += section.size
    return home
