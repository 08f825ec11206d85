"""riscv64: relocations, and the machine code of the glue.

Relocations are ELF64 RELA (RISC-V psABI); which ones the kernel's loader knows: arch/riscv/kernel/module.c
reloc_handlers_rela, 6.1 and 6.12. It checks no branch for its range, so that is done here. A low part (PCREL_LO12)
names the place of its high part (PCREL_HI20) instead of the target; the kernel looks for that relocation among those of
the same table, from the first one on up to 6.7, so each member keeps a table of its own.

Trace calls need no patching: -fpatchable-function-entry leaves NOPs, and the table of their places can go.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megamod.prelink.arch.interface import (
    RESULT_ASKED,
    RESULT_NEEDS,
    Architecture,
    Fixup,
    GlueCode,
    GlueRequest,
    Reach,
    RelocationType,
)
from megamod.prelink.elf import EM_RISCV, Array

R_NONE, R_64, R_CALL_PLT, R_PCREL_HI20, R_PCREL_LO12_I = 0, 2, 19, 23, 24
_PAIR_REACH = (1 << 31) - (1 << 11)  # of auipc with a signed 12-bit addition
_RA, _SP, _T0, _T1, _T2, _S0, _S1, _A0, _S2, _S3, _T3, _T6 = 1, 2, 5, 6, 7, 8, 9, 10, 18, 19, 28, 31


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


@dataclass(slots=True)
class _Assembler:
    code: bytearray = field(default_factory=bytearray)
    fixups: list[Fixup] = field(default_factory=list)

    def emit(self, *words: int) -> None:
        for word in words:
            self.code += struct.pack("<I", word)

    def call(self, target: str | int) -> None:
        """auipc ra; jalr ra, ra."""
        self.fixups.append(Fixup(offset=len(self.code), kind=R_CALL_PLT, target=target))
        self.emit(_RA << 7 | 0x17, _i_type(0x67, 0, _RA, _RA, 0))

    def address(self, register: int, target: str) -> None:
        """auipc, addi."""
        at = len(self.code)
        self.fixups.append(Fixup(offset=at, kind=R_PCREL_HI20, target=target))
        self.fixups.append(Fixup(offset=at + 4, kind=R_PCREL_LO12_I, target="", label=at))
        self.emit(register << 7 | 0x17, _i_type(0x13, 0, register, register, 0))

    def number(self, register: int, value: int) -> None:
        """li."""
        if value < 1 << 11:
            self.emit(_i_type(0x13, 0, register, 0, value))
            return
        self.emit((value + 0x800 & 0xFFFFF000) | register << 7 | 0x37)  # lui
        self.emit(_i_type(0x1B, 0, register, register, value))  # addiw

    def element(self, base: int, offset: int) -> tuple[int, int]:
        """Base register and immediate of *offset* bytes above x*base*, by way of t6 if it does not fit."""
        if offset < 1 << 11:
            return base, offset
        self.number(_T6, offset)
        self.emit(_r_type(0, _T6, _T6, base))
        return _T6, 0

    def load(self, number: int) -> None:
        """lw t0, result[number]"""
        base, offset = self.element(_S1, 4 * number)
        self.emit(_i_type(0x03, 2, _T0, base, offset))

    def store(self, number: int, register: int) -> None:
        """sw register, result[number]"""
        base, offset = self.element(_S1, 4 * number)
        self.emit(_s_type(2, base, register, offset))

    def jump(self) -> int:
        """A forward jump; returns what land() needs."""
        self.emit(0)
        return len(self.code) - 4

    def land(self, jumps: Sequence[int]) -> None:
        for at in jumps:
            struct.pack_into("<I", self.code, at, _jump(len(self.code) - at))


def _encode_init(request: GlueRequest) -> GlueCode:
    """The megamodule's init_module.

    Registers: s1 = result, s2 = nanoseconds, s3 = the time of the last reading, s0 = the frame; all are callee-saved.
    """
    saved = ((40, _RA), (32, _S0), (24, _S1), (16, _S2), (8, _S3))
    asm = _Assembler()
    asm.emit(_i_type(0x13, 0, _SP, _SP, -48))
    asm.emit(*(_s_type(3, _SP, register, at) for at, register in saved))
    asm.emit(_i_type(0x13, 0, _S0, _SP, 48))
    asm.address(_S1, "result")
    if request.timed:
        asm.address(_S2, "nanoseconds")
        asm.call("ktime_get")
        asm.emit(_i_type(0x13, 0, _S3, _A0, 0))  # mv s3, a0
    for number, base in enumerate(request.skip_chunks):
        _encode_skip(asm, number, base, len(request.inits))
    for number in range(len(request.inits)):
        _encode_member(asm, number, request)
    asm.emit(_i_type(0x13, 0, _A0, 0, 0))  # li a0, 0: always 0
    asm.emit(*(_i_type(0x03, 3, register, _SP, at) for at, register in saved))
    asm.emit(_i_type(0x13, 0, _SP, _SP, 48), _i_type(0x67, 0, 0, _RA, 0))  # ret
    return GlueCode(code=bytes(asm.code), fixups=tuple(asm.fixups))


def _encode_skip(asm: _Assembler, number: int, base: int, members: int) -> None:
    """for (i = count; i--;) if (base + list[i] < members) result[base + list[i]] = ASKED;"""
    asm.address(_T0, f"skip{number}_count")
    asm.emit(_i_type(0x03, 2, _T0, _T0, 0))  # lw t0, (t0)
    asm.address(_T1, f"skip{number}")
    top = len(asm.code)
    asm.emit(_b_type(1, _T0, 0, 8))  # bnez t0, over the jump
    out = asm.jump()
    asm.emit(_i_type(0x1B, 0, _T0, _T0, -1))  # addiw t0, t0, -1
    asm.emit(_i_type(0x13, 1, _T2, _T0, 2), _r_type(0, _T2, _T2, _T1))  # slli t2, t0, 2; add t2, t2, t1
    asm.emit(_i_type(0x03, 2, _T2, _T2, 0))  # lw t2, (t2)
    asm.number(_T3, base)
    asm.emit(_r_type(0, _T2, _T2, _T3, opcode=0x3B))  # addw t2, t2, t3
    asm.number(_T3, members)
    # bgeu t2, t3, top: a negative index is sign-extended and so too large, too.
    asm.emit(_b_type(7, _T2, _T3, top - len(asm.code)))
    asm.emit(_i_type(0x13, 1, _T2, _T2, 2), _r_type(0, _T2, _T2, _S1))  # slli t2, t2, 2; add t2, t2, s1
    asm.number(_T3, RESULT_ASKED)
    asm.emit(_s_type(2, _T2, _T3, 0))  # sw t3, (t2)
    asm.emit(_jump(top - len(asm.code)))
    asm.land([out])


def _encode_member(asm: _Assembler, number: int, request: GlueRequest) -> None:
    """if (result[i] != ASKED) { if any needed != 0: NEEDS; else { record init(); record time } }

    A branch reaches 4 KiB only, so each jumps over a jump.
    """
    done, missing = [], []
    if request.skip_chunks:
        asm.load(number)
        asm.number(_T1, RESULT_ASKED)
        asm.emit(_b_type(1, _T0, _T1, 8))  # bne t0, t1
        done.append(asm.jump())
    for needed in request.needs[number]:
        asm.load(needed)
        asm.emit(_b_type(0, _T0, 0, 8))  # beqz t0
        missing.append(asm.jump())
    if request.inits[number]:
        asm.call(number)
        # A positive value counts as success, as in do_init_module(): t0 = a0 < 0 ? a0 : 0.
        asm.emit(_i_type(0x1B, 0, _A0, _A0, 0), _i_type(0x13, 2, _T0, _A0, 0))  # sext.w a0; slti t0, a0, 0
        asm.emit(_r_type(0, _T0, 0, _T0, high=0x20), _r_type(7, _T0, _T0, _A0))  # neg t0; and t0, t0, a0
        asm.store(number, _T0)
        if request.timed:
            asm.call("ktime_get")
            asm.emit(_r_type(0, _T0, _A0, _S3, high=0x20), _i_type(0x13, 0, _S3, _A0, 0))  # sub t0, a0, s3; mv s3, a0
            base, offset = asm.element(_S2, 8 * number)
            asm.emit(_s_type(3, base, _T0, offset))  # sd t0, nanoseconds[number]
    else:
        asm.store(number, 0)
    if missing:
        done.append(asm.jump())
        asm.land(missing)
        asm.number(_T0, RESULT_NEEDS)
        asm.store(number, _T0)
    asm.land(done)


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
    encode_init=_encode_init,
    tables={"__ksymtab": R_64, "__ksymtab_gpl": R_64, "__param": R_64},
    split_tables=True,
    # module-sections.c module_frob_arch_sections(), with CONFIG_MODULE_SECTIONS.
    placeholders=frozenset([".plt", ".got", ".got.plt"]),
    entry_sizes={"__ksymtab": 24, "__ksymtab_gpl": 24, "__tracepoints_ptrs": 8, ".alternative": 16},
    text_limit=1 << 30,
    area=1 << 31,  # MODULES_VADDR to MODULES_END, arch/riscv/include/asm/pgtable.h
)
