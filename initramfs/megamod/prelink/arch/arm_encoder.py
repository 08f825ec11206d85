"""The glue's instructions on arm, in ARM and in Thumb-2.

The Thumb-2 encoder uses instructions of 32 bits, or two of 16, so that every step is a multiple of four bytes and
literals stay aligned.

Source: ARM Architecture Reference Manual, ARMv7-A, A8.8 (encodings); EHABI 10.3 (unwinding).
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from megamod.prelink.arch.encoder import Condition, Encoder, Fixup, GlueCode, GlueRequest, Label, Register

R_ABS32, R_CALL, R_THM_CALL, R_PREL31 = 2, 28, 10, 42
# pop {r4-r8, lr}, finish, finish, in the one word of a table entry.
_UNWIND = (R_PREL31, 0x80ACB0B0)
_ALWAYS = 14
_CONDITIONS = {Condition.EQUAL: 0, Condition.NOT_EQUAL: 1, Condition.NOT_BELOW: 2}

# r4 to r8 are callee-saved: result, nanoseconds, the time of the last reading, the turn. r12 reaches far elements.
_REGISTERS = {
    Register.RESULTS: 4,
    Register.TURN: 8,
    Register.COUNT: 0,
    Register.LIST: 1,
    Register.INDEX: 2,
    Register.VALUE: 3,
}
_TIMES, _LAST, _LAST_HIGH, _ELAPSED, _FAR = 5, 6, 7, 2, 12


@dataclass(slots=True)
class _Encoder(Encoder):
    """What both instruction sets do alike, from instructions that each has in its own form. bit: what pointers to
    its code have beside the place."""

    bit: ClassVar[int] = 0

    @abstractmethod
    def pop_and_return(self) -> None:
        """mov r0, #0; pop {r4-r8, pc}"""

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
    def access(self, register: int, base: int, offset: int, *, store: bool) -> None:
        """ldr or str register, [base, #offset]"""

    @abstractmethod
    def indexed(self, register: int, base: int, index: int, *, store: bool) -> None:
        """ldr or str register, [base, index, lsl #2]"""

    @abstractmethod
    def compare(self, register: int, value: int) -> None:
        """cmp register, #value"""

    @abstractmethod
    def compare_registers(self, register: int, other: int) -> None:
        """cmp register, other"""

    @abstractmethod
    def elapsed(self) -> None:
        """subs r2, r0, r6; sbc r3, r1, r7; cmp r3, #0; mvnne r2, #0: 4.29 s and more do not fit"""

    def emit(self, *words: int) -> None:
        for word in words:
            self.code += struct.pack("<I", word)

    def leave(self) -> GlueCode:
        self.pop_and_return()
        return GlueCode(code=bytes(self.code), fixups=tuple(self.fixups), unwind_entry=_UNWIND, bit=self.bit)

    def pass_address(self, target: str) -> None:
        self._address(0, target)

    def pass_constant(self, value: int) -> None:
        self._constant(0, value)

    def address(self, register: Register, target: str) -> None:
        self._address(_REGISTERS[register], target)

    def _address(self, number: int, target: str) -> None:
        place = self.literal(number, 0)
        self.fixups.append(Fixup(offset=place, kind=R_ABS32, target=target))

    def constant(self, register: Register, value: int) -> None:
        self._constant(_REGISTERS[register], value)

    def _constant(self, number: int, value: int) -> None:
        if value < 256:
            self.small(number, value)
        else:
            self.literal(number, value)

    def _element(self, register: int, base: int, number: int, *, store: bool) -> None:
        """Word *number* of an array: by its offset while that fits, else by r12 as an index."""
        if number < 1 << 10:
            self.access(register, base, 4 * number, store=store)
            return
        self.literal(_FAR, number)
        self.indexed(register, base, _FAR, store=store)

    def load(self, register: Register, base: Register, number: int) -> None:
        self._element(_REGISTERS[register], _REGISTERS[base], number, store=False)

    def store(self, register: Register, base: Register, number: int) -> None:
        self._element(_REGISTERS[register], _REGISTERS[base], number, store=True)

    def load_indexed(self, register: Register, base: Register, index: Register) -> None:
        self.indexed(_REGISTERS[register], _REGISTERS[base], _REGISTERS[index], store=False)

    def store_indexed(self, register: Register, base: Register, index: Register) -> None:
        self.indexed(_REGISTERS[register], _REGISTERS[base], _REGISTERS[index], store=True)

    def branch_if(self, register: Register, condition: Condition, other: Register | int, label: Label) -> None:
        if isinstance(other, Register):
            self.compare_registers(_REGISTERS[register], _REGISTERS[other])
        else:
            self.compare(_REGISTERS[register], other)
        self.branch(condition, label)

    def start_clock(self) -> None:
        self._address(_TIMES, "nanoseconds")
        self.move(_LAST, 0)
        self.move(_LAST_HIGH, 1)

    def store_elapsed(self, number: int) -> None:
        self.elapsed()
        self.move(_LAST, 0)
        self.move(_LAST_HIGH, 1)
        self._element(_ELAPSED, _TIMES, number, store=True)


@dataclass(slots=True)
class ArmEncoder(_Encoder):
    """push {r4-r8, lr}: six words, so that the stack stays aligned to 8."""

    def enter(self, request: GlueRequest) -> None:
        self.emit(0xE92D41F0)

    def pop_and_return(self) -> None:
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

    def access(self, register: int, base: int, offset: int, *, store: bool) -> None:
        self.emit((0xE5800000 if store else 0xE5900000) | base << 16 | register << 12 | offset)

    def indexed(self, register: int, base: int, index: int, *, store: bool) -> None:
        self.emit((0xE7800100 if store else 0xE7900100) | base << 16 | register << 12 | index)

    def add(self, register: Register, other: Register) -> None:
        number = _REGISTERS[register]
        self.emit(0xE0800000 | number << 16 | number << 12 | _REGISTERS[other])

    def decrement(self, register: Register) -> None:
        number = _REGISTERS[register]
        self.emit(0xE2400001 | number << 16 | number << 12)

    def compare(self, register: int, value: int) -> None:
        self.emit(0xE3500000 | register << 16 | value)

    def compare_registers(self, register: int, other: int) -> None:
        self.emit(0xE1500000 | register << 16 | other)

    def take_error(self) -> None:
        self.emit(0xE3500000, 0xC3A00000)  # cmp r0, #0; movgt r0, #0
        self.move(_REGISTERS[Register.VALUE], 0)

    def elapsed(self) -> None:
        self.emit(0xE0502006, 0xE0C13007, 0xE3530000, 0x13E02000)

    def encode_branch(self, condition: Condition | None, distance: int) -> bytes:
        return struct.pack(
            "<I",
            (_ALWAYS if condition is None else _CONDITIONS[condition]) << 28
            | 0x0A000000
            | (distance - 8) // 4 & 0xFFFFFF,
        )


@dataclass(slots=True)
class ThumbEncoder(_Encoder):
    bit: ClassVar[int] = 1

    def halves(self, *halves: int) -> None:
        """Instructions as the manual writes them, the first half-word first."""
        self.code += struct.pack(f"<{len(halves)}H", *halves)

    def enter(self, request: GlueRequest) -> None:
        self.halves(0xE92D, 0x41F0)

    def pop_and_return(self) -> None:
        self.small(0, 0)
        self.halves(0xE8BD, 0x81F0)

    def call(self, target: str | int) -> None:
        self.fixups.append(Fixup(offset=len(self.code), kind=R_THM_CALL, target=target))
        self.halves(0xF7FF, 0xFFFE)

    def literal(self, register: int, value: int) -> int:
        self.halves(0xF8DF, register << 12 | 4)
        self.code += self.encode_branch(None, 8)
        self.emit(value)
        return len(self.code) - 4

    def move(self, register: int, source: int) -> None:
        self.halves(0xEA4F, register << 8 | source)

    def small(self, register: int, value: int) -> None:
        self.halves(0xF04F, register << 8 | value)

    def access(self, register: int, base: int, offset: int, *, store: bool) -> None:
        self.halves((0xF8C0 if store else 0xF8D0) | base, register << 12 | offset)

    def indexed(self, register: int, base: int, index: int, *, store: bool) -> None:
        self.halves((0xF840 if store else 0xF850) | base, register << 12 | 0x20 | index)

    def add(self, register: Register, other: Register) -> None:
        number = _REGISTERS[register]
        self.halves(0xEB00 | number, number << 8 | _REGISTERS[other])

    def decrement(self, register: Register) -> None:
        number = _REGISTERS[register]
        self.halves(0xF1A0 | number, number << 8 | 1)

    def compare(self, register: int, value: int) -> None:
        self.halves(0xF1B0 | register, 0x0F00 | value)

    def compare_registers(self, register: int, other: int) -> None:
        self.halves(0xEBB0 | register, 0x0F00 | other)

    def take_error(self) -> None:
        self.compare(0, 0)
        self.halves(0xBFC8, 0x2000)  # it gt; movgt r0, #0
        self.move(_REGISTERS[Register.VALUE], 0)

    def elapsed(self) -> None:
        self.halves(0xEBB0, 0x0206, 0xEB61, 0x0307)
        self.compare(3, 0)
        self.halves(0xBF00, 0xBF18, 0xF06F, 0x0200)  # nop; it ne; mvnne.w r2, #0

    def encode_branch(self, condition: Condition | None, distance: int) -> bytes:
        """B.W: T4 without a condition, T3 (6 + 11 bits) with one."""
        offset = (distance - 4) // 2
        low = offset & 0x7FF
        if condition is None:
            sign = offset >> 23 & 1
            first, second = ~(offset >> 22 & 1 ^ sign) & 1, ~(offset >> 21 & 1 ^ sign) & 1
            high, rest = 0xF000 | sign << 10 | offset >> 11 & 0x3FF, 0x9000 | first << 13 | second << 11 | low
        else:
            high = 0xF000 | (offset >> 19 & 1) << 10 | _CONDITIONS[condition] << 6 | offset >> 11 & 0x3F
            rest = 0x8000 | (offset >> 17 & 1) << 13 | (offset >> 18 & 1) << 11 | low
        return struct.pack("<HH", high, rest)
