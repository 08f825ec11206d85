"""arm64: relocations, and the machine code of the glue.

Relocations are ELF64 RELA (AArch64 psABI, aaelf64); which ones the kernel's loader knows, and how it checks them:
arch/arm64/kernel/module.c apply_relocate_add(), 6.1. Fields of instructions are overwritten whatever they hold. A call
that does not reach goes through .plt, whose size module-plts.c counts from the relocations that leave their section:
one that is resolved here costs the kernel neither a relocation nor a slot.

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
from megamod.prelink.elf import EM_AARCH64, Array

R_NONE, R_ABS64, R_PREL32 = 0, 257, 261
R_ADRP, R_ADD_LO12, R_CALL26 = 275, 277, 283
PACIASP, BTI_C = bytes.fromhex("3f2303d5"), bytes.fromhex("5f2403d5")
_PACKED_LIMIT = 1 << 27


def _place(words: Array, values: Array, *, shift: int, width: int, at: int) -> Array:
    """*width* bits of values >> shift, written at bit *at* of each instruction."""
    mask = np.uint64(((1 << width) - 1) << at)
    bits = ((values >> shift) & ((1 << width) - 1)).astype(np.uint64) << np.uint64(at)
    placed: Array = words & ~mask | bits
    return placed


def _branch(name: str, bits: int, at: int, *, short: bool = True) -> RelocationType:
    """A PC-relative word count of *bits* bits: B, BL, B.cond, CBZ, TBZ and LDR (literal)."""
    reach = 1 << (bits + 1)

    def encode(words: Array, values: Array) -> Array:
        return _place(words, values, shift=2, width=bits, at=at)

    return RelocationType(
        name=name, width=4, reach=Reach.RELATIVE, low=-reach, high=reach, multiple=4, encode=encode, short=short
    )


def _low(name: str, scale: int) -> RelocationType:
    """The low 12 bits of an address, in units of 1 << *scale* bytes, as ADD and loads and stores take them."""

    def encode(words: Array, values: Array) -> Array:
        return _place(words, values, shift=scale, width=12 - scale, at=10)

    return RelocationType(name=name, width=4, reach=Reach.OFFSET, multiple=1 << scale, encode=encode)


def _adr(words: Array, values: Array) -> Array:
    """immlo in bits 30:29, immhi in 23:5 (C6.2 ADR, ADRP)."""
    return _place(_place(words, values, shift=0, width=2, at=29), values, shift=2, width=19, at=5)


def _adrp(words: Array, values: Array) -> Array:
    return _adr(words, values >> 12)


def _kept(name: str) -> RelocationType:
    return RelocationType(name=name, width=4, reach=Reach.KERNEL)


_RELOCATIONS = {
    R_NONE: RelocationType(name="NONE", width=0, reach=Reach.KERNEL),
    R_ABS64: RelocationType(name="ABS64", width=8, reach=Reach.ABSOLUTE),
    258: RelocationType(name="ABS32", width=4, reach=Reach.ABSOLUTE, low=0, high=1 << 32),
    259: RelocationType(name="ABS16", width=2, reach=Reach.ABSOLUTE, low=0, high=1 << 16),
    260: RelocationType(name="PREL64", width=8, reach=Reach.RELATIVE),
    R_PREL32: RelocationType(name="PREL32", width=4, reach=Reach.RELATIVE, low=-(1 << 31), high=1 << 31),
    262: RelocationType(name="PREL16", width=2, reach=Reach.RELATIVE, low=-(1 << 15), high=1 << 15),
    273: _branch("LD_PREL_LO19", 19, 5),
    274: RelocationType(
        name="ADR_PREL_LO21", width=4, reach=Reach.RELATIVE, low=-(1 << 20), high=1 << 20, encode=_adr, short=True
    ),
    R_ADRP: RelocationType(
        name="ADR_PREL_PG_HI21", width=4, reach=Reach.PAGE, low=-(1 << 32), high=1 << 32, encode=_adrp
    ),
    276: RelocationType(name="ADR_PREL_PG_HI21_NC", width=4, reach=Reach.PAGE, encode=_adrp),
    R_ADD_LO12: _low("ADD_ABS_LO12_NC", 0),
    278: _low("LDST8_ABS_LO12_NC", 0),
    279: _branch("TSTBR14", 14, 5),
    280: _branch("CONDBR19", 19, 5),
    282: _branch("JUMP26", 26, 0, short=False),
    R_CALL26: _branch("CALL26", 26, 0, short=False),
    284: _low("LDST16_ABS_LO12_NC", 1),
    285: _low("LDST32_ABS_LO12_NC", 2),
    286: _low("LDST64_ABS_LO12_NC", 3),
    299: _low("LDST128_ABS_LO12_NC", 4),
    # MOVZ, MOVN and MOVK of large code models; no Debian module has one.
    **{kind: _kept(f"MOVW {kind}") for kind in (*range(263, 273), *range(287, 294))},
}


@dataclass(slots=True)
class _Assembler:
    code: bytearray = field(default_factory=bytearray)
    fixups: list[Fixup] = field(default_factory=list)

    def emit(self, *words: int) -> None:
        for word in words:
            self.code += struct.pack("<I", word)

    def call(self, target: str | int) -> None:
        self.fixups.append(Fixup(offset=len(self.code), kind=R_CALL26, target=target))
        self.emit(0x94000000)  # bl

    def address(self, register: int, target: str) -> None:
        """adrp, add."""
        self.fixups.append(Fixup(offset=len(self.code), kind=R_ADRP, target=target))
        self.fixups.append(Fixup(offset=len(self.code) + 4, kind=R_ADD_LO12, target=target))
        self.emit(0x90000000 | register, 0x91000000 | register << 5 | register)

    def number(self, register: int, value: int) -> None:
        """mov w, #value."""
        self.emit(0x52800000 | (value & 0xFFFF) << 5 | register)
        if value >> 16:
            self.emit(0x72A00000 | value >> 16 << 5 | register)

    def element(self, opcode: int, indexed: int, base: int, number: int, register: int) -> None:
        """Load or store element *number* of the array at x*base*: by its offset while that fits, else by w12."""
        if number < 1 << 12:
            self.emit(opcode | number << 10 | base << 5 | register)
            return
        self.number(12, number)
        self.emit(indexed | 12 << 16 | base << 5 | register)

    def load(self, number: int) -> None:
        """ldr w8, [result, number]"""
        self.element(0xB9400000, 0xB8605800, 19, number, 8)

    def store(self, number: int, register: int) -> None:
        """str w*register*, [result, number]"""
        self.element(0xB9000000, 0xB8205800, 19, number, register)

    def jump(self, word: int) -> int:
        """A forward branch with 19 bits at bit 5; returns what land() needs."""
        self.emit(word)
        return len(self.code) - 4

    def land(self, jumps: Sequence[int]) -> None:
        for at in jumps:
            (word,) = struct.unpack_from("<I", self.code, at)
            struct.pack_into("<I", self.code, at, word | (len(self.code) - at) // 4 << 5)


def _encode_init(request: GlueRequest) -> GlueCode:
    """The megamodule's init_module.

    Registers: x19 = result, x20 = nanoseconds, x21 = the time of the last reading; all three are callee-saved. It signs
    its return address if the members do; the first instruction is a landing pad for the indirect call either way.
    """
    asm = _Assembler()
    signed = request.start == PACIASP
    asm.code += PACIASP if signed else BTI_C
    asm.emit(0xA9BD7BFD, 0x910003FD)  # stp x29, x30, [sp, #-48]!; mov x29, sp
    asm.emit(0xA90153F3, 0xF90013F5)  # stp x19, x20, [sp, #16]; str x21, [sp, #32]
    asm.address(19, "result")
    if request.timed:
        asm.address(20, "nanoseconds")
        asm.call("ktime_get")
        asm.emit(0xAA0003F5)  # mov x21, x0
    for number, base in enumerate(request.skip_chunks):
        _encode_skip(asm, number, base, len(request.inits))
    for number in range(len(request.inits)):
        _encode_member(asm, number, request)
    asm.emit(0x52800000)  # mov w0, #0: always 0
    asm.emit(0xF94013F5, 0xA94153F3, 0xA8C37BFD)  # ldr x21, [sp, #32]; ldp x19, x20, [sp, #16]; ldp x29, x30, [sp], #48
    if signed:
        asm.emit(0xD50323BF)  # autiasp
    asm.emit(0xD65F03C0)  # ret
    return GlueCode(code=bytes(asm.code), fixups=tuple(asm.fixups))


def _encode_skip(asm: _Assembler, number: int, base: int, members: int) -> None:
    """for (i = count; i--;) if (base + list[i] < members) result[base + list[i]] = ASKED;"""
    asm.address(9, f"skip{number}_count")
    asm.emit(0xB9400129)  # ldr w9, [x9]
    asm.address(10, f"skip{number}")
    top = len(asm.code)
    out = asm.jump(0x34000009)  # cbz w9, out
    asm.emit(0x51000529, 0xB869594B)  # sub w9, w9, #1; ldr w11, [x10, w9, uxtw #2]
    asm.number(12, base)
    asm.emit(0x0B0C016B)  # add w11, w11, w12
    asm.number(12, members)
    asm.emit(0x6B0C017F)  # cmp w11, w12
    asm.emit(0x54000002 | ((top - len(asm.code)) // 4 & 0x7FFFF) << 5)  # b.hs top: a negative index is too large, too
    asm.number(12, RESULT_ASKED)
    asm.emit(0xB82B5A6C)  # str w12, [x19, w11, uxtw #2]
    asm.emit(0x14000000 | (top - len(asm.code)) // 4 & 0x3FFFFFF)  # b top
    asm.land([out])


def _encode_member(asm: _Assembler, number: int, request: GlueRequest) -> None:
    """if (result[i] != ASKED) { if any needed != 0: NEEDS; else { record init(); record time } }"""
    done, missing = [], []
    if request.skip_chunks:
        asm.load(number)
        asm.emit(0x7100001F | RESULT_ASKED << 10 | 8 << 5)  # cmp w8, #ASKED
        done.append(asm.jump(0x54000000))  # b.eq done
    for needed in request.needs[number]:
        asm.load(needed)
        missing.append(asm.jump(0x35000008))  # cbnz w8, missing
    if request.inits[number]:
        asm.call(number)
        # A positive value counts as success, as in do_init_module().
        asm.emit(0x7100001F, 0x1A9FB008)  # cmp w0, #0; csel w8, w0, wzr, lt
        asm.store(number, 8)
        if request.timed:
            asm.call("ktime_get")
            asm.emit(0xCB150008, 0xAA0003F5)  # sub x8, x0, x21; mov x21, x0
            asm.element(0xF9000000, 0xF8205800, 20, number, 8)  # str x8, [x20, number]
    else:
        asm.store(number, 31)
    if missing:
        over = len(asm.code)
        asm.emit(0x14000000)  # b done
        asm.land(missing)
        asm.number(8, RESULT_NEEDS)
        asm.store(number, 8)
        struct.pack_into("<I", asm.code, over, 0x14000000 | (len(asm.code) - over) // 4)
    asm.land(done)


ARM64 = Architecture(
    name="arm64",
    loader="aarch64",
    machine=EM_AARCH64,
    bits=64,
    none=R_NONE,
    pointer=R_ABS64,
    relative=R_PREL32,
    relocations=_RELOCATIONS,
    export_relative=True,
    encode_init=_encode_init,
    tables={"__ksymtab": R_PREL32, "__ksymtab_gpl": R_PREL32, "__param": R_ABS64},
    # module_frob_arch_sections() sorts the calls of each table to count .plt's slots.
    split_tables=True,
    # check_version() compares each import's name with those of __versions, 8 bytes into entries of 64; strcmp()
    # (arch/arm64/lib/strcmp.S) is quicker for two strings that are equally far from a multiple of 8.
    name_alignment=8,
    # module_frob_arch_sections() and module_init_ftrace_plt(): each missing one is ENOEXEC.
    placeholders=frozenset([".plt", ".init.plt", ".text.ftrace_trampoline", ".init.text.ftrace_trampoline"]),
    # struct exception_table_entry: two distances up to 5.15, then type and data beside them.
    entry_sizes={"__ex_table": 4},
    text_limit=_PACKED_LIMIT,
    area=_PACKED_LIMIT,  # MODULES_VSIZE, arch/arm64/include/asm/memory.h, 6.1
)
