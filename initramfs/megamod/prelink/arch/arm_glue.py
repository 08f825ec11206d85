"""arm: the machine code of the glue's init, in ARM or in Thumb-2 instructions.

One description of the function, two assemblers. The Thumb-2 one uses instructions of 32 bits, or two of 16, so that
every step is a multiple of four bytes and literals stay aligned.

Source: ARM Architecture Reference Manual, ARMv7-A, A8.8 (encodings); EHABI 10.3 (unwinding).
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from megamod.prelink.arch.interface import RESULT_ASKED, RESULT_NEEDS, Fixup, GlueCode, GlueRequest

R_ABS32, R_CALL, R_THM_CALL, R_PREL31 = 2, 28, 10, 42
# pop {r4-r8, lr}, finish, finish, in the one word of a table entry.
_UNWIND = (R_PREL31, 0x80ACB0B0)
_EQ, _NE, _CS, _MI, _ALWAYS = 0, 1, 2, 4, 14


@dataclass(slots=True)
class _Assembler(ABC):
    code: bytearray = field(default_factory=bytearray)
    fixups: list[Fixup] = field(default_factory=list)

    @abstractmethod
    def prologue(self) -> None:
        """push {r4-r8, lr}: six words, so that the stack stays aligned to 8."""

    @abstractmethod
    def epilogue(self) -> None:
        """mov r0, #0: always 0; pop {r4-r8, pc}"""

    @abstractmethod
    def call(self, target: str | int) -> None:
        """bl, with what the pipeline adds taken off in its field."""

    @abstractmethod
    def literal(self, register: int, value: int) -> int:
        """ldr register, the word after the next instruction, which jumps over it; returns the word's place."""

    @abstractmethod
    def move(self, register: int, source: int) -> None:
        """mov register, source"""

    @abstractmethod
    def small(self, register: int, value: int) -> None:
        """mov register, #value, a byte: movw is missing before ARMv6T2."""

    @abstractmethod
    def access(self, register: int, base: int, offset: int, *, store: bool = False) -> None:
        """ldr or str register, [base, #offset]"""

    @abstractmethod
    def indexed(self, register: int, base: int, index: int, *, store: bool = False) -> None:
        """ldr or str register, [base, index, lsl #2]"""

    @abstractmethod
    def add(self, register: int, other: int) -> None:
        """add register, register, other"""

    @abstractmethod
    def count_down(self, register: int) -> None:
        """subs register, register, #1"""

    @abstractmethod
    def compare(self, register: int, value: int) -> None:
        """cmp register, #value"""

    @abstractmethod
    def compare_registers(self, register: int, other: int) -> None:
        """cmp register, other"""

    @abstractmethod
    def negative_or_zero(self) -> None:
        """cmp r0, #0; movgt r0, #0"""

    @abstractmethod
    def elapsed(self) -> None:
        """subs r2, r0, r6; sbc r3, r1, r7; cmp r3, #0; mvnne r2, #0: 4.29 s and more do not fit"""

    @abstractmethod
    def branch(self, condition: int, distance: int) -> int:
        """The bytes of a branch to *distance* from its own place, as a number."""

    def emit(self, *words: int) -> None:
        for word in words:
            self.code += struct.pack("<I", word)

    def address(self, register: int, target: str) -> None:
        place = self.literal(register, 0)
        self.fixups.append(Fixup(offset=place, kind=R_ABS32, target=target))

    def number(self, register: int, value: int) -> None:
        if value < 256:
            self.small(register, value)
        else:
            self.literal(register, value)

    def element(self, register: int, base: int, number: int, *, store: bool = False) -> None:
        """Word *number* of an array: by its offset while that fits, else by r3 as an index."""
        if number < 1 << 10:
            self.access(register, base, 4 * number, store=store)
            return
        self.literal(3, number)
        self.indexed(register, base, 3, store=store)

    def back(self, condition: int, target: int) -> None:
        self.emit(self.branch(condition, target - len(self.code)))

    def jump(self, condition: int = _ALWAYS) -> tuple[int, int]:
        """A forward branch; returns what land() needs."""
        self.emit(0)
        return len(self.code) - 4, condition

    def land(self, jumps: Sequence[tuple[int, int]]) -> None:
        for at, condition in jumps:
            struct.pack_into("<I", self.code, at, self.branch(condition, len(self.code) - at))


@dataclass(slots=True)
class _Arm(_Assembler):
    def prologue(self) -> None:
        self.emit(0xE92D41F0)

    def epilogue(self) -> None:
        self.emit(0xE3A00000, 0xE8BD81F0)

    def call(self, target: str | int) -> None:
        self.fixups.append(Fixup(offset=len(self.code), kind=R_CALL, target=target))
        self.emit(0xEBFFFFFE)

    def literal(self, register: int, value: int) -> int:
        self.emit(0xE59F0000 | register << 12, 0xEA000000, value)
        return len(self.code) - 4

    def move(self, register: int, source: int) -> None:
        self.emit(0xE1A00000 | register << 12 | source)

    def small(self, register: int, value: int) -> None:
        self.emit(0xE3A00000 | register << 12 | value)

    def access(self, register: int, base: int, offset: int, *, store: bool = False) -> None:
        self.emit((0xE5800000 if store else 0xE5900000) | base << 16 | register << 12 | offset)

    def indexed(self, register: int, base: int, index: int, *, store: bool = False) -> None:
        self.emit((0xE7800100 if store else 0xE7900100) | base << 16 | register << 12 | index)

    def add(self, register: int, other: int) -> None:
        self.emit(0xE0800000 | register << 16 | register << 12 | other)

    def count_down(self, register: int) -> None:
        self.emit(0xE2500001 | register << 16 | register << 12)

    def compare(self, register: int, value: int) -> None:
        self.emit(0xE3500000 | register << 16 | value)

    def compare_registers(self, register: int, other: int) -> None:
        self.emit(0xE1500000 | register << 16 | other)

    def negative_or_zero(self) -> None:
        self.emit(0xE3500000, 0xC3A00000)

    def elapsed(self) -> None:
        self.emit(0xE0502006, 0xE0C13007, 0xE3530000, 0x13E02000)

    def branch(self, condition: int, distance: int) -> int:
        return condition << 28 | 0x0A000000 | (distance - 8) // 4 & 0xFFFFFF


@dataclass(slots=True)
class _Thumb(_Assembler):
    def halves(self, *halves: int) -> None:
        """Instructions as the manual writes them, the first half-word first."""
        self.code += struct.pack(f"<{len(halves)}H", *halves)

    def prologue(self) -> None:
        self.halves(0xE92D, 0x41F0)

    def epilogue(self) -> None:
        self.small(0, 0)
        self.halves(0xE8BD, 0x81F0)

    def call(self, target: str | int) -> None:
        self.fixups.append(Fixup(offset=len(self.code), kind=R_THM_CALL, target=target))
        self.halves(0xF7FF, 0xFFFE)

    def literal(self, register: int, value: int) -> int:
        self.halves(0xF8DF, register << 12 | 4)
        self.emit(self.branch(_ALWAYS, 8), value)
        return len(self.code) - 4

    def move(self, register: int, source: int) -> None:
        self.halves(0xEA4F, register << 8 | source)

    def small(self, register: int, value: int) -> None:
        self.halves(0xF04F, register << 8 | value)

    def access(self, register: int, base: int, offset: int, *, store: bool = False) -> None:
        self.halves((0xF8C0 if store else 0xF8D0) | base, register << 12 | offset)

    def indexed(self, register: int, base: int, index: int, *, store: bool = False) -> None:
        self.halves((0xF840 if store else 0xF850) | base, register << 12 | 0x20 | index)

    def add(self, register: int, other: int) -> None:
        self.halves(0xEB00 | register, register << 8 | other)

    def count_down(self, register: int) -> None:
        self.halves(0xF1B0 | register, register << 8 | 1)

    def compare(self, register: int, value: int) -> None:
        self.halves(0xF1B0 | register, 0x0F00 | value)

    def compare_registers(self, register: int, other: int) -> None:
        self.halves(0xEBB0 | register, 0x0F00 | other)

    def negative_or_zero(self) -> None:
        self.compare(0, 0)
        self.halves(0xBFC8, 0x2000)  # it gt; movgt r0, #0

    def elapsed(self) -> None:
        self.halves(0xEBB0, 0x0206, 0xEB61, 0x0307)
        self.compare(3, 0)
        self.halves(0xBF00, 0xBF18, 0xF06F, 0x0200)  # nop; it ne; mvnne.w r2, #0

    def branch(self, condition: int, distance: int) -> int:
        """B.W: T4 without a condition, T3 (6 + 11 bits) with one."""
        offset = (distance - 4) // 2
        low = offset & 0x7FF
        if condition == _ALWAYS:
            sign = offset >> 23 & 1
            first, second = ~(offset >> 22 & 1 ^ sign) & 1, ~(offset >> 21 & 1 ^ sign) & 1
            high, rest = 0xF000 | sign << 10 | offset >> 11 & 0x3FF, 0x9000 | first << 13 | second << 11 | low
        else:
            high = 0xF000 | (offset >> 19 & 1) << 10 | condition << 6 | offset >> 11 & 0x3F
            rest = 0x8000 | (offset >> 17 & 1) << 13 | (offset >> 18 & 1) << 11 | low
        return rest << 16 | high


def encode_arm(request: GlueRequest) -> GlueCode:
    """The megamodule's init_module in ARM instructions."""
    return _encode(_Arm(), request, bit=0)


def encode_thumb(request: GlueRequest) -> GlueCode:
    """The megamodule's init_module in Thumb-2 instructions; pointers to it are odd."""
    return _encode(_Thumb(), request, bit=1)


def _encode(asm: _Assembler, request: GlueRequest, *, bit: int) -> GlueCode:
    """Registers: r4 = result, r5 = nanoseconds, r6 and r7 = the time of the last reading; all are callee-saved."""
    asm.prologue()
    asm.address(4, "result")
    if request.timed:
        asm.address(5, "nanoseconds")
        asm.call("ktime_get")
        asm.move(6, 0)
        asm.move(7, 1)
    for number, base in enumerate(request.skip_chunks):
        _encode_skip(asm, number, base, len(request.inits))
    for number in range(len(request.inits)):
        _encode_member(asm, number, request)
    asm.epilogue()
    return GlueCode(code=bytes(asm.code), fixups=tuple(asm.fixups), unwind_entry=_UNWIND, bit=bit)


def _encode_skip(asm: _Assembler, number: int, base: int, members: int) -> None:
    """for (i = count; i--;) if (base + list[i] < members) result[base + list[i]] = ASKED;"""
    asm.address(0, f"skip{number}_count")
    asm.access(0, 0, 0)
    asm.address(1, f"skip{number}")
    top = len(asm.code)
    asm.count_down(0)
    out = asm.jump(_MI)
    asm.indexed(2, 1, 0)
    asm.number(3, base)
    asm.add(2, 3)
    asm.number(3, members)
    asm.compare_registers(2, 3)
    asm.back(_CS, top)  # unsigned: a negative index is too large, too
    asm.small(3, RESULT_ASKED)
    asm.indexed(3, 4, 2, store=True)
    asm.back(_ALWAYS, top)
    asm.land([out])


def _encode_member(asm: _Assembler, number: int, request: GlueRequest) -> None:
    """if (result[i] != ASKED) { if any needed != 0: NEEDS; else { record init(); record time } }"""
    done, missing = [], []
    if request.skip_chunks:
        asm.element(0, 4, number)
        asm.compare(0, RESULT_ASKED)
        done.append(asm.jump(_EQ))
    for needed in request.needs[number]:
        asm.element(0, 4, needed)
        asm.compare(0, 0)
        missing.append(asm.jump(_NE))
    if request.inits[number]:
        asm.call(number)
        # A positive value counts as success, as in do_init_module().
        asm.negative_or_zero()
        asm.element(0, 4, number, store=True)
        if request.timed:
            asm.call("ktime_get")
            asm.elapsed()
            asm.move(6, 0)
            asm.move(7, 1)
            asm.element(2, 5, number, store=True)
    else:
        asm.small(0, 0)
        asm.element(0, 4, number, store=True)
    if missing:
        done.append(asm.jump())
        asm.land(missing)
        asm.small(0, RESULT_NEEDS)
        asm.element(0, 4, number, store=True)
    asm.land(done)
