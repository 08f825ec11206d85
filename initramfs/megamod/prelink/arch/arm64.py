"""arm64: relocations, and the instructions of the glue.

Relocations are ELF64 RELA (AArch64 psABI, aaelf64); which ones the kernel's loader knows, and how it checks them:
arch/arm64/kernel/module.c apply_relocate_add(), 6.1. Fields of instructions are overwritten whatever they hold. A call
that does not reach goes through .plt, whose size module-plts.c counts from the relocations that leave their section:
one that is resolved here costs the kernel neither a relocation nor a slot.

Trace calls need no patching: -fpatchable-function-entry leaves NOPs, and the table of their places can go.
"""

from __future__ import annotations

import struct
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
from megamod.prelink.arch.interface import Architecture, Reach, RelocationType, Veneer
from megamod.prelink.elf import EM_AARCH64, Array

R_NONE, R_ABS64, R_PREL32 = 0, 257, 261
R_ADRP, R_ADD_LO12, R_CALL26 = 275, 277, 283
PACIASP, BTI_C = bytes.fromhex("3f2303d5"), bytes.fromhex("5f2403d5")
_PACKED_LIMIT = 1 << 27
_ENOEXEC = 8


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


# x19 to x22 are callee-saved: result, nanoseconds, the time of the last reading, the turn. x12 reaches far elements.
_REGISTERS = {
    Register.RESULTS: 19,
    Register.TURN: 22,
    Register.COUNT: 9,
    Register.LIST: 10,
    Register.INDEX: 11,
    Register.VALUE: 8,
}
_TIMES, _LAST, _FAR = 20, 21, 12
_CONDITIONS = {Condition.EQUAL: 0, Condition.NOT_EQUAL: 1, Condition.NOT_BELOW: 2}


@dataclass(slots=True)
class _Encoder(Encoder):
    """C6.2 of the Arm ARM. It signs its return address if the members do; the first instruction is a landing pad for
    the indirect call either way."""

    signed: bool = False

    def emit(self, *words: int) -> None:
        for word in words:
            self.code += struct.pack("<I", word)

    def enter(self, request: GlueRequest) -> None:
        self.signed = request.start == PACIASP
        self.code += PACIASP if self.signed else BTI_C
        self.emit(0xA9BD7BFD, 0x910003FD)  # stp x29, x30, [sp, #-48]!; mov x29, sp
        self.emit(0xA90153F3, 0xA9025BF5)  # stp x19, x20, [sp, #16]; stp x21, x22, [sp, #32]
        if request.image is not None:
            self.check_image(request.image)

    def leave(self) -> GlueCode:
        self.emit(0x52800000)  # mov w0, #0
        if self.refused is not None:
            out = Label()
            self.jump(out)
            self.bind(self.refused)
            self.emit(0x12800000 | (_ENOEXEC - 1) << 5)  # mov w0, #-ENOEXEC
            self.bind(out)
        self.emit(0xA9425BF5, 0xA94153F3)  # ldp x21, x22, [sp, #32]; ldp x19, x20, [sp, #16]
        self.emit(0xA8C37BFD)  # ldp x29, x30, [sp], #48
        if self.signed:
            self.emit(0xD50323BF)  # autiasp
        self.emit(0xD65F03C0)  # ret
        return GlueCode(code=bytes(self.code), fixups=tuple(self.fixups), check=self.check)

    def check_image(self, image: ImageCheck) -> None:
        self.refused, start = Label(), len(self.code)
        self.emit(0xD503201F)  # nop
        self._address(9, image.anchor)
        for name, distance in image.symbols:
            self._address(10, name)
            self._constant(11, distance)
            self.emit(0xCB09014A, 0xEB0B015F)  # sub x10, x10, x9; cmp x10, x11
            self.branch(Condition.NOT_EQUAL, self.refused)
        self._constant(11, image.note)
        self.emit(0x8B0B0129)  # add x9, x9, x11
        for at, (word,) in enumerate(struct.iter_unpack("<I", image.build_id)):
            self._constant(10, word)
            self.emit(0xB940012B | at << 10, 0x6B0A017F)  # ldr w11, [x9, #4*at]; cmp w11, w10
            self.branch(Condition.NOT_EQUAL, self.refused)
        self.check = (start, len(self.code))

    def call(self, target: str | int) -> None:
        self.fixups.append(Fixup(offset=len(self.code), kind=R_CALL26, target=target))
        self.emit(0x94000000)  # bl

    def pass_address(self, target: str) -> None:
        self._address(0, target)

    def pass_constant(self, value: int) -> None:
        self._constant(0, value)

    def address(self, register: Register, target: str) -> None:
        self._address(_REGISTERS[register], target)

    def _address(self, number: int, target: str) -> None:
        self.fixups.append(Fixup(offset=len(self.code), kind=R_ADRP, target=target))
        self.fixups.append(Fixup(offset=len(self.code) + 4, kind=R_ADD_LO12, target=target))
        self.emit(0x90000000 | number, 0x91000000 | number << 5 | number)  # adrp, add

    def constant(self, register: Register, value: int) -> None:
        self._constant(_REGISTERS[register], value)

    def _constant(self, number: int, value: int) -> None:
        self.emit(0x52800000 | (value & 0xFFFF) << 5 | number)  # movz
        if value >> 16:
            self.emit(0x72A00000 | value >> 16 << 5 | number)  # movk

    def _element(self, scaled: int, indexed: int, register: int, base: int, number: int) -> None:
        """Load or store element *number* of the array at x*base*: by its offset while that fits, else by w12."""
        if number < 1 << 12:
            self.emit(scaled | number << 10 | base << 5 | register)
            return
        self._constant(_FAR, number)
        self.emit(indexed | _FAR << 16 | base << 5 | register)

    def load(self, register: Register, base: Register, number: int) -> None:
        self._element(0xB9400000, 0xB8605800, _REGISTERS[register], _REGISTERS[base], number)

    def store(self, register: Register, base: Register, number: int) -> None:
        self._element(0xB9000000, 0xB8205800, _REGISTERS[register], _REGISTERS[base], number)

    def load_indexed(self, register: Register, base: Register, index: Register) -> None:
        # ldr w, [x, w, uxtw #2]
        self.emit(0xB8605800 | _REGISTERS[index] << 16 | _REGISTERS[base] << 5 | _REGISTERS[register])

    def store_indexed(self, register: Register, base: Register, index: Register) -> None:
        self.emit(0xB8205800 | _REGISTERS[index] << 16 | _REGISTERS[base] << 5 | _REGISTERS[register])

    def add(self, register: Register, other: Register) -> None:
        number = _REGISTERS[register]
        self.emit(0x0B000000 | _REGISTERS[other] << 16 | number << 5 | number)

    def decrement(self, register: Register) -> None:
        self.emit(0x51000400 | _REGISTERS[register] << 5 | _REGISTERS[register])

    def branch_if(self, register: Register, condition: Condition, other: Register | int, label: Label) -> None:
        number = _REGISTERS[register]
        if isinstance(other, Register):
            self.emit(0x6B00001F | _REGISTERS[other] << 16 | number << 5)  # cmp w, w
        else:
            self.emit(0x7100001F | other << 10 | number << 5)  # cmp w, #
        self.branch(condition, label)

    def take_error(self) -> None:
        self.emit(0x7100001F, 0x1A9FB000 | _REGISTERS[Register.VALUE])  # cmp w0, #0; csel w8, w0, wzr, lt

    def start_clock(self) -> None:
        self._address(_TIMES, "nanoseconds")
        self.emit(0xAA0003E0 | _LAST)  # mov x21, x0

    def store_elapsed(self, number: int) -> None:
        elapsed = _REGISTERS[Register.VALUE]
        self.emit(0xCB000000 | _LAST << 16 | elapsed, 0xAA0003E0 | _LAST)  # sub x8, x0, x21; mov x21, x0
        self._element(0xF9000000, 0xF8205800, elapsed, _TIMES, number)  # uxtw with amount #3 in a 64-bit access

    def encode_branch(self, condition: Condition | None, distance: int) -> bytes:
        words = distance // 4
        if condition is None:
            return struct.pack("<I", 0x14000000 | words & 0x3FFFFFF)
        return struct.pack("<I", 0x54000000 | (words & 0x7FFFF) << 5 | _CONDITIONS[condition])


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
    encoder=_Encoder,
    nop=bytes.fromhex("1f2003d5"),
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
    checks_image=True,
    veneer=Veneer(
        types=frozenset([282, R_CALL26]),
        # adrp x16, target; add x16, x16, target; br x16: what the kernel's own .plt does (struct plt_entry,
        # arch/arm64/include/asm/module.h), so all functions may be reached so. 16 bytes: no ADRP ends a page.
        code=struct.pack("<IIII", 0x90000010, 0x91000210, 0xD61F0200, 0xD503201F),
        fields=((0, R_ADRP), (4, R_ADD_LO12)),
    ),
    area=_PACKED_LIMIT,  # MODULES_VSIZE, arch/arm64/include/asm/memory.h, 6.1
)
