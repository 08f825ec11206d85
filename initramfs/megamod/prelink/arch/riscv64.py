"""riscv64: relocations, and the instructions of the glue.

Relocations are ELF64 RELA (RISC-V psABI); which ones the kernel's loader knows: arch/riscv/kernel/module.c
reloc_handlers_rela, 6.1 and 6.12. It checks no branch for its range, so that is done here. A low part (PCREL_LO12)
names the place of its high part (PCREL_HI20) instead of the target; the kernel looks for that relocation among those of
the same table, from the first one on up to 6.7, so each member keeps a table of its own.

Trace calls need no patching: -fpatchable-function-entry leaves NOPs, and the table of their places can go.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megamod.prelink.arch.encoder import (
    Condition,
    Encoder,
    Fixup,
    GlueCode,
    GlueRequest,
    ImageCheck,
    Label,
    Register,
)
from megamod.prelink.arch.interface import Architecture, Reach, RelocationType
from megamod.prelink.elf import EM_RISCV, Array

R_NONE, R_64, R_CALL_PLT, R_PCREL_HI20, R_PCREL_LO12_I = 0, 2, 19, 23, 24
_PAIR_REACH = (1 << 31) - (1 << 11)  # of auipc with a signed 12-bit addition
_RA, _SP, _T0, _T1, _T2, _S0, _S1, _A0, _S2, _S3, _S4, _T3, _T5, _T6 = 1, 2, 5, 6, 7, 8, 9, 10, 18, 19, 20, 28, 30, 31


def _scatter(words: Array, values: Array, pieces: Sequence[tuple[int, int, int]]) -> Array:
    """For each (from, bits, to): *bits* bits of the value at *from* go to bit *to* of the instruction."""
    for low, bits, at in pieces:
        mask = np.uint64(((1 << bits) - 1) << at)
        words = words & ~mask | ((values >> low) & ((1 << bits) - 1)).astype(np.uint64) << np.uint64(at)
    return words


def _branch(name: str, width: int, reach: int, pieces: Sequence[tuple[int, int, int]]) -> RelocationType:
    def encode(words: Array, values: Array) -> Array:
        return _scatter(words, values, pieces)

    return RelocationType(
        name=name, width=width, reach=Reach.RELATIVE, low=-reach, high=reach, multiple=2, encode=encode, short=True
    )


def _pair(words: Array, values: Array) -> Array:
    """auipc and jalr: the high 20 bits, rounded, in the first word and the low 12 at the top of the second."""
    return _scatter(words, values, [(0, 12, 52)]) & ~np.uint64(0xFFFFF000) | ((values + 0x800) & 0xFFFFF000).astype(
        np.uint64
    )


def _call(name: str) -> RelocationType:
    return RelocationType(
        name=name, width=8, reach=Reach.RELATIVE, low=-(1 << 31) - (1 << 11), high=_PAIR_REACH, encode=_pair
    )


def _kept(name: str, *, width: int = 4, label: bool = False, stacks: bool = False) -> RelocationType:
    return RelocationType(name=name, width=width, reach=Reach.KERNEL, label=label, stacks=stacks)


_RELOCATIONS = {
    R_NONE: _kept("NONE", width=0),
    1: RelocationType(name="32", width=4, reach=Reach.ABSOLUTE, low=0, high=1 << 32),
    R_64: RelocationType(name="64", width=8, reach=Reach.ABSOLUTE),
    16: _branch("BRANCH", 4, 1 << 12, [(12, 1, 31), (5, 6, 25), (1, 4, 8), (11, 1, 7)]),
    17: _branch("JAL", 4, 1 << 20, [(20, 1, 31), (1, 10, 21), (11, 1, 20), (12, 8, 12)]),
    18: _call("CALL"),
    R_CALL_PLT: _call("CALL_PLT"),
    20: _kept("GOT_HI20"),
    R_PCREL_HI20: _kept("PCREL_HI20"),
    R_PCREL_LO12_I: _kept("PCREL_LO12_I", label=True),
    25: _kept("PCREL_LO12_S", label=True),
    26: _kept("HI20"),
    27: _kept("LO12_I"),
    28: _kept("LO12_S"),
    33: _kept("ADD8", width=1, stacks=True),
    34: _kept("ADD16", width=2, stacks=True),
    35: _kept("ADD32", stacks=True),
    36: _kept("ADD64", width=8, stacks=True),
    37: _kept("SUB8", width=1, stacks=True),
    38: _kept("SUB16", width=2, stacks=True),
    39: _kept("SUB32", stacks=True),
    40: _kept("SUB64", width=8, stacks=True),
    44: _branch("RVC_BRANCH", 2, 1 << 8, [(8, 1, 12), (3, 2, 10), (6, 2, 5), (1, 2, 3), (5, 1, 2)]),
    45: _branch(
        "RVC_JUMP",
        2,
        1 << 11,
        [(11, 1, 12), (4, 1, 11), (8, 2, 9), (10, 1, 8), (6, 1, 7), (7, 1, 6), (1, 3, 3), (5, 1, 2)],
    ),
    51: _kept("RELAX", width=0),
    54: _kept("SET8", width=1, stacks=True),
    55: _kept("SET16", width=2, stacks=True),
    56: _kept("SET32", stacks=True),
    57: RelocationType(name="32_PCREL", width=4, reach=Reach.RELATIVE, low=-(1 << 31), high=1 << 31),
}


def _i_type(opcode: int, function: int, rd: int, rs: int, immediate: int) -> int:
    return (immediate & 0xFFF) << 20 | rs << 15 | function << 12 | rd << 7 | opcode


def _s_type(function: int, base: int, source: int, immediate: int) -> int:
    high, low = immediate >> 5 & 0x7F, immediate & 0x1F
    return high << 25 | source << 20 | base << 15 | function << 12 | low << 7 | 0x23


def _r_type(function: int, rd: int, rs1: int, rs2: int, *, high: int = 0, opcode: int = 0x33) -> int:
    return high << 25 | rs2 << 20 | rs1 << 15 | function << 12 | rd << 7 | opcode


def _b_type(function: int, rs1: int, rs2: int, offset: int) -> int:
    bits = (offset >> 12 & 1) << 31 | (offset >> 5 & 0x3F) << 25 | (offset >> 1 & 0xF) << 8 | (offset >> 11 & 1) << 7
    return bits | rs2 << 20 | rs1 << 15 | function << 12 | 0x63


def _jump(offset: int) -> int:
    """j offset."""
    bits = (offset >> 20 & 1) << 31 | (offset >> 1 & 0x3FF) << 21 | (offset >> 11 & 1) << 20
    return bits | (offset >> 12 & 0xFF) << 12 | 0x6F


# s1 to s4 are callee-saved: result, nanoseconds, the time of the last reading, the turn; s0 is the frame. t5 and t6 are
# free.
_REGISTERS = {
    Register.RESULTS: _S1,
    Register.TURN: _S4,
    Register.COUNT: _T0,
    Register.LIST: _T1,
    Register.INDEX: _T2,
    Register.VALUE: _T3,
}
_SAVED = ((40, _RA), (32, _S0), (24, _S1), (16, _S2), (8, _S3), (0, _S4))
# funct3 of the branch over a jump: BNE, BEQ, BLTU.
_INVERTED = {Condition.EQUAL: 1, Condition.NOT_EQUAL: 0, Condition.NOT_BELOW: 6}


_ENOEXEC = 8


@dataclass(slots=True)
class _Encoder(Encoder):
    """A branch reaches 4 KiB only, so each condition jumps over a jump, which reaches 1 MiB."""

    def emit(self, *words: int) -> None:
        for word in words:
            self.code += struct.pack("<I", word)

    def enter(self, request: GlueRequest) -> None:
        self.emit(_i_type(0x13, 0, _SP, _SP, -48))
        self.emit(*(_s_type(3, _SP, register, at) for at, register in _SAVED))
        self.emit(_i_type(0x13, 0, _S0, _SP, 48))
        if request.image is not None:
            self.check_image(request.image)

    def leave(self) -> GlueCode:
        self.emit(_i_type(0x13, 0, _A0, 0, 0))  # li a0, 0
        if self.refused is not None:
            out = Label()
            self.jump(out)
            self.bind(self.refused)
            self.emit(_i_type(0x13, 0, _A0, 0, -_ENOEXEC))  # li a0, -ENOEXEC
            self.bind(out)
        self.emit(*(_i_type(0x03, 3, register, _SP, at) for at, register in _SAVED))
        self.emit(_i_type(0x13, 0, _SP, _SP, 48), _i_type(0x67, 0, 0, _RA, 0))  # ret
        return GlueCode(code=bytes(self.code), fixups=tuple(self.fixups), check=self.check)

    def check_image(self, image: ImageCheck) -> None:
        self.refused, start = Label(), len(self.code)
        self.emit(0x00000013)  # nop
        self._address(_T0, image.anchor)
        for name, distance in image.symbols:
            self._address(_T1, name)
            self._constant(_T2, distance)
            self.emit(_r_type(0, _T1, _T1, _T0, high=32))  # sub t1, t1, t0
            self._differ(_T1, _T2)
        self._constant(_T1, image.note)
        self.emit(_r_type(0, _T0, _T0, _T1))  # add t0, t0, t1
        for at, (word,) in enumerate(struct.iter_unpack("<i", image.build_id)):
            self._signed(_T2, word)
            self.emit(_i_type(0x03, 2, _T1, _T0, 4 * at))  # lw t1, 4*at(t0)
            self._differ(_T1, _T2)
        self.check = (start, len(self.code))

    def _differ(self, one: int, other: int) -> None:
        """if (one != other) goto refused"""
        assert self.refused is not None
        self.emit(_b_type(0, one, other, 8))  # beq over the jump
        self.jump(self.refused)

    def _signed(self, number: int, value: int) -> None:
        """x*number* = *value*, extended by its sign as LW does it"""
        self.emit((value + 0x800 & 0xFFFFF000) | number << 7 | 0x37)  # lui
        self.emit(_i_type(0x1B, 0, number, number, value))  # addiw

    def call(self, target: str | int) -> None:
        self.fixups.append(Fixup(offset=len(self.code), kind=R_CALL_PLT, target=target))
        self.emit(_RA << 7 | 0x17, _i_type(0x67, 0, _RA, _RA, 0))  # auipc ra; jalr ra, ra

    def pass_address(self, target: str) -> None:
        self._address(_A0, target)

    def pass_constant(self, value: int) -> None:
        self._constant(_A0, value)

    def address(self, register: Register, target: str) -> None:
        self._address(_REGISTERS[register], target)

    def _address(self, number: int, target: str) -> None:
        at = len(self.code)
        self.fixups.append(Fixup(offset=at, kind=R_PCREL_HI20, target=target))
        self.fixups.append(Fixup(offset=at + 4, kind=R_PCREL_LO12_I, target="", label=at))
        self.emit(number << 7 | 0x17, _i_type(0x13, 0, number, number, 0))  # auipc, addi

    def constant(self, register: Register, value: int) -> None:
        self._constant(_REGISTERS[register], value)

    def _constant(self, number: int, value: int) -> None:
        if value < 1 << 11:
            self.emit(_i_type(0x13, 0, number, 0, value))
            return
        self.emit((value + 0x800 & 0xFFFFF000) | number << 7 | 0x37)  # lui
        self.emit(_i_type(0x1B, 0, number, number, value))  # addiw

    def _element(self, base: int, offset: int) -> tuple[int, int]:
        """Base register and immediate of *offset* bytes above x*base*, by way of t6 if it does not fit."""
        if offset < 1 << 11:
            return base, offset
        self._constant(_T6, offset)
        self.emit(_r_type(0, _T6, _T6, base))
        return _T6, 0

    def _scaled(self, base: Register, index: Register) -> None:
        """t6 = the address of base[index]"""
        self.emit(_i_type(0x13, 1, _T6, _REGISTERS[index], 2), _r_type(0, _T6, _T6, _REGISTERS[base]))  # slli, add

    def load(self, register: Register, base: Register, number: int) -> None:
        start, offset = self._element(_REGISTERS[base], 4 * number)
        self.emit(_i_type(0x03, 2, _REGISTERS[register], start, offset))  # lw

    def store(self, register: Register, base: Register, number: int) -> None:
        start, offset = self._element(_REGISTERS[base], 4 * number)
        self.emit(_s_type(2, start, _REGISTERS[register], offset))  # sw

    def load_indexed(self, register: Register, base: Register, index: Register) -> None:
        self._scaled(base, index)
        self.emit(_i_type(0x03, 2, _REGISTERS[register], _T6, 0))

    def store_indexed(self, register: Register, base: Register, index: Register) -> None:
        self._scaled(base, index)
        self.emit(_s_type(2, _T6, _REGISTERS[register], 0))

    def add(self, register: Register, other: Register) -> None:
        number = _REGISTERS[register]
        self.emit(_r_type(0, number, number, _REGISTERS[other], opcode=0x3B))  # addw

    def decrement(self, register: Register) -> None:
        self.emit(_i_type(0x1B, 0, _REGISTERS[register], _REGISTERS[register], -1))  # addiw

    def branch_if(self, register: Register, condition: Condition, other: Register | int, label: Label) -> None:
        against = 0
        if isinstance(other, Register):
            against = _REGISTERS[other]
        elif other:
            self._constant(_T5, other)
            against = _T5
        self.emit(_b_type(_INVERTED[condition], _REGISTERS[register], against, 8))
        self.jump(label)

    def take_error(self) -> None:
        value = _REGISTERS[Register.VALUE]
        self.emit(_i_type(0x1B, 0, _A0, _A0, 0), _i_type(0x13, 2, value, _A0, 0))  # sext.w a0; slti t3, a0, 0
        self.emit(_r_type(0, value, 0, value, high=0x20), _r_type(7, value, value, _A0))  # neg t3; and t3, t3, a0

    def start_clock(self) -> None:
        self._address(_S2, "nanoseconds")
        self.emit(_i_type(0x13, 0, _S3, _A0, 0))  # mv s3, a0

    def store_elapsed(self, number: int) -> None:
        elapsed = _REGISTERS[Register.VALUE]
        self.emit(_r_type(0, elapsed, _A0, _S3, high=0x20), _i_type(0x13, 0, _S3, _A0, 0))  # sub t3, a0, s3; mv s3, a0
        base, offset = self._element(_S2, 8 * number)
        self.emit(_s_type(3, base, elapsed, offset))  # sd

    def encode_branch(self, condition: Condition | None, distance: int) -> bytes:
        assert condition is None  # branch_if() jumps over a jump
        return struct.pack("<I", _jump(distance))


RISCV64 = Architecture(
    name="riscv64",
    loader="riscv64",
    machine=EM_RISCV,
    bits=64,
    none=R_NONE,
    pointer=R_64,
    relative=57,
    relocations=_RELOCATIONS,
    export_relative=False,
    encoder=_Encoder,
    nop=bytes.fromhex("0100"),  # c.nop
    tables={"__ksymtab": R_64, "__ksymtab_gpl": R_64, "__param": R_64},
    split_tables=True,
    # module-sections.c module_frob_arch_sections(), with CONFIG_MODULE_SECTIONS.
    placeholders=frozenset([".plt", ".got", ".got.plt"]),
    entry_sizes={"__ksymtab": 24, "__ksymtab_gpl": 24, "__tracepoints_ptrs": 8, ".alternative": 16},
    text_limit=1 << 30,
    checks_image=True,
    area=1 << 31,  # MODULES_VADDR to MODULES_END, arch/riscv/include/asm/pgtable.h
)
