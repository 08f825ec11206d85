"""Runs a megamodule's init function in Unicorn, with members' inits and kernel functions answered by the test.

The loader here is the simplest that can be: sections one after the other, the six relocation types of x86_64,
parameters set and read through struct kparam_array as kernel/params.c does. It shares no code with the prelinker.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import unicorn
from unicorn import x86_const as x86

from megamod.prelink.link import Megamodule
from tests.unit.module_factory import ALLOC, INIT_AT, Back

BASE, STUBS, STACK, RETURN = 0x10000000, 0x60000000, 0x70000000, 0x50000000
_SAVED = {n: getattr(x86, f"UC_X86_REG_{n}") for n in ("RBX", "RBP", "R12", "R13", "R14", "R15")}
_LOST = [getattr(x86, f"UC_X86_REG_{n}") for n in ("RCX", "RDX", "RSI", "RDI", "R8", "R9", "R10", "R11")]
_WIDTH = {1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8}


@dataclass(slots=True)
class Run:
    """What one call of init did. calls: names of members and kernel functions in order."""

    value: int
    calls: list[str]
    registers_kept: bool
    stack_kept: bool
    stack_aligned: bool


@dataclass(slots=True)
class Loaded:
    """A megamodule in memory. answers: member → what its init returns; clock: what ktime_get() gives, in turn."""

    megamodule: Megamodule
    back: Back
    machine: Any
    home: Mapping[str, int]
    names: Mapping[int, str]
    answers: dict[str, int] = field(default_factory=dict)
    clock: list[int] = field(default_factory=list)

    def word(self, address: int, form: str = "<Q") -> int:
        (value,) = struct.unpack(form, self.machine.mem_read(address, struct.calcsize(form)))
        return int(value)

    def text(self, address: int) -> str:
        return bytes(self.machine.mem_read(address, 256)).split(b"\0", 1)[0].decode()

    def parameters(self) -> dict[str, int]:
        """Name → address of its struct kernel_param."""
        table = self.home["__param"]
        size = len(self.back["__param"])
        return {self.text(self.word(at)): at for at in range(table, table + size, 40)}

    def array(self, name: str) -> tuple[int, int, int, int]:
        """struct kparam_array of a parameter: max, elemsize, address of num (0 none), address of the elements."""
        at = self.word(self.parameters()[name] + 32)
        return self.word(at, "<I"), self.word(at + 4, "<I"), self.word(at + 8), self.word(at + 24)

    def set_ints(self, name: str, values: Sequence[int]) -> None:
        """As param_array_set(): at most max elements, then their number."""
        limit, size, number, elements = self.array(name)
        assert len(values) <= limit and size == 4 and number
        self.machine.mem_write(elements, struct.pack(f"<{len(values)}i", *values))
        self.machine.mem_write(number, struct.pack("<I", len(values)))

    def get_all(self, name: str) -> list[int]:
        """As param_array_get(): all elements of name, name1, name2 and so on."""
        found: list[int] = []
        names = self.parameters()
        for part in [name, *(f"{name}{n}" for n in range(1, 100) if f"{name}{n}" in names)]:
            limit, size, _, elements = self.array(part)
            form = "<i" if size == 4 else "<Q"
            found += [self.word(elements + size * n, form) for n in range(limit)]
        return found

    def results(self) -> dict[str, int]:
        return dict(zip([m.name for m in self.megamodule.members], self.get_all("result"), strict=True))

    def run(self) -> Run:
        """Call init as do_one_initcall() would, with every register holding something."""
        calls: list[str] = []
        aligned: list[bool] = []
        machine = self.machine

        def at_stub(machine: Any, address: int, size: int, user: object) -> None:
            name = self.names.get(address)
            if name is None:
                return
            calls.append(name)
            aligned.append(machine.reg_read(x86.UC_X86_REG_RSP) % 16 == 8)
            for number, register in enumerate(_LOST):
                machine.reg_write(register, 0xDEAD0000BEEF0000 + number)
            if name == "__x86_return_thunk":
                return
            value = self.clock.pop(0) if name == "ktime_get" else self.answers.get(name, 0)
            # An int's upper half is undefined in rax.
            high = 0 if name == "ktime_get" else 0xABCD000000000000
            machine.reg_write(x86.UC_X86_REG_RAX, high | value & 0xFFFFFFFF if high else value)

        hook = machine.hook_add(unicorn.UC_HOOK_CODE, at_stub)
        marks = {name: 0x1111111100000000 + number for number, name in enumerate(_SAVED)}
        for name, register in _SAVED.items():
            machine.reg_write(register, marks[name])
        for register in (*_LOST, x86.UC_X86_REG_RAX):
            machine.reg_write(register, 0xBAD0BAD0BAD0BAD0)
        stack = STACK + 0x8000 - 8
        machine.mem_write(stack, struct.pack("<Q", RETURN))
        machine.reg_write(x86.UC_X86_REG_RSP, stack)
        init = self.word(self.home[".gnu.linkonce.this_module"] + INIT_AT)
        machine.emu_start(init, RETURN, count=2_000_000)
        machine.hook_del(hook)
        assert machine.reg_read(x86.UC_X86_REG_RIP) == RETURN, "init did not return"
        return Run(
            value=machine.reg_read(x86.UC_X86_REG_EAX),
            calls=calls,
            registers_kept=all(machine.reg_read(r) == marks[n] for n, r in _SAVED.items()),
            stack_kept=machine.reg_read(x86.UC_X86_REG_RSP) == stack + 8,
            stack_aligned=all(aligned),
        )


def load(megamodule: Megamodule, *, ticks: Callable[[int], int] = lambda number: 1000 * number) -> Loaded:
    """Place and relocate; ticks(n) is the n-th reading of the clock."""
    back = Back(megamodule.data)
    home, image, end = {}, bytearray(), 0
    for section in back.elf.iter_sections():
        if section["sh_flags"] & ALLOC:
            end += -end % max(section["sh_addralign"], 1)
            home[section.name] = BASE + end
            body = bytes(section["sh_size"]) if section["sh_type"] == "SHT_NOBITS" else section.data()
            image += bytes(end - len(image)) + body
            end += len(body)
    undefined = sorted({s.name for s in back.symbols() if s["st_shndx"] == "SHN_UNDEF" and s.name})
    stubs = {name: STUBS + 16 * number for number, name in enumerate(undefined)}
    for name, start in home.items():
        for offset, (kind, target, addend) in back.relocs(name).items():
            place = start + offset
            value = (home.get(target) or stubs[target]) + addend - (place if kind in (2, 4, 24) else 0)
            field_at, width = place - BASE, _WIDTH[kind]
            assert not any(image[field_at : field_at + width])
            image[field_at : field_at + width] = value.to_bytes(8, "little", signed=True)[:width]
    engine: Any = unicorn  # it has no types
    machine = engine.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    for base, size in ((BASE, end), (STUBS, 16 * len(stubs) + 1), (STACK, 0x10000), (RETURN, 1)):
        machine.mem_map(base, -(-size // 4096) * 4096)
    machine.mem_write(BASE, bytes(image))
    for address in stubs.values():
        machine.mem_write(address, b"\xc3")
    names = {address: name for name, address in stubs.items()}
    where = {(c["member"], c["index"]): (c["output"], c["offset"]) for c in megamodule.map["chunks"] if "offset" in c}
    for number, member in enumerate(megamodule.members):
        if member.init is not None:
            output, offset = where[number, member.init[0]]
            names[home[output] + offset + member.init[1]] = member.name
    clock = [ticks(number) for number in range(2 * len(megamodule.members) + 2)]
    return Loaded(megamodule=megamodule, back=back, machine=machine, home=home, names=names, clock=clock)
