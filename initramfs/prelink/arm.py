"""arm (32 bits, ARM instructions): relocations, and the machine code of the glue.

Relocations are ELF32 REL (AArch32 psABI): the addend is in the field, so a field of an instruction stays as it is and
its relocation gets a symbol whose value is exactly the old one's. Which types the kernel's loader knows:
arch/arm/kernel/module.c apply_relocate(), 6.1. A call that does not reach goes through .plt (module-plts.c).

Trace calls: ``push {lr}; bl __gnu_mcount_nc``; ftrace turns the call into ``add sp, sp, #4``, which undoes the push
(arch/arm/kernel/ftrace.c NOP, 6.1).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from megamod.initramfs.prelink.architecture import (
    RESULT_ASKED,
    RESULT_NEEDS,
    Architecture,
    Fixup,
    GlueCode,
    GlueRequest,
    Reach,
    RelocationType,
    TraceCall,
)
from megamod.initramfs.prelink.elf import EM_ARM

R_NONE, R_ABS32, R_REL32, R_CALL, R_PREL31 = 0, 2, 3, 28, 42


def _kept(name: str) -> RelocationType:
    return RelocationType(name=name, width=4, reach=Reach.KERNEL)


_RELOCATIONS = {
    R_NONE: RelocationType(name="NONE", width=0, reach=Reach.KERNEL),
    1: _kept("PC24"),
    R_ABS32: RelocationType(name="ABS32", width=4, reach=Reach.ABSOLUTE, low=-(1 << 31), high=1 << 32),
    R_REL32: RelocationType(name="REL32", width=4, reach=Reach.RELATIVE, low=-(1 << 31), high=1 << 31),
    R_CALL: _kept("CALL"),
    29: _kept("JUMP24"),
    38: RelocationType(name="TARGET1", width=4, reach=Reach.ABSOLUTE, low=-(1 << 31), high=1 << 32),
    40: _kept("V4BX"),
    R_PREL31: _kept("PREL31"),
    43: _kept("MOVW_ABS_NC"),
    44: _kept("MOVT_ABS"),
    45: _kept("MOVW_PREL_NC"),
    46: _kept("MOVT_PREL"),
    57: _kept("ALU_PC_G0_NC"),
    59: _kept("ALU_PC_G1_NC"),
    63: _kept("LDR_PC_G2"),
}


@dataclass(slots=True)
class _Assembler:
    code: bytearray = field(default_factory=bytearray)
    fixups: list[Fixup] = field(default_factory=list)

    def emit(self, *words: int) -> None:
        for word in words:
            self.code += struct.pack("<I", word)

    def call(self, target: str | int) -> None:
        """bl, with the -8 of the pipeline in its field."""
        self.fixups.append(Fixup(offset=len(self.code), kind=R_CALL, target=target))
        self.emit(0xEBFFFFFE)

    def literal(self, register: int, value: int) -> None:
        """ldr register, the word after the next instruction, which jumps over it."""
        self.emit(0xE59F0000 | register << 12, 0xEA000000, value)  # ldr r, [pc]; b .+8

    def address(self, register: int, target: str) -> None:
        self.fixups.append(Fixup(offset=len(self.code) + 8, kind=R_ABS32, target=target))
        self.literal(register, 0)

    def number(self, register: int, value: int) -> None:
        """mov while it is short: movw is missing before ARMv6T2."""
        if value < 256:
            self.emit(0xE3A00000 | register << 12 | value)
        else:
            self.literal(register, value)

    def element(self, opcode: int, base: int, register: int, number: int) -> None:
        """ldr or str of a word at 4 * *number* above the base: by its offset while that fits, else by r3."""
        if number < 1 << 10:
            self.emit(opcode | base << 16 | register << 12 | 4 * number)
            return
        self.literal(3, 4 * number)
        self.emit(opcode | 0x02000000 | base << 16 | register << 12 | 3)

    def load(self, number: int) -> None:
        """ldr r0, result[number]"""
        self.element(0xE5900000, 4, 0, number)

    def store(self, number: int, register: int) -> None:
        self.element(0xE5800000, 4, register, number)

    def jump(self, word: int) -> int:
        """A forward branch; returns what land() needs."""
        self.emit(word)
        return len(self.code) - 4

    def land(self, jumps: Sequence[int]) -> None:
        for at in jumps:
            (word,) = struct.unpack_from("<I", self.code, at)
            struct.pack_into("<I", self.code, at, word | (len(self.code) - at - 8) // 4 & 0xFFFFFF)


def _encode_init(request: GlueRequest) -> GlueCode:
    """The megamodule's init_module.

    Registers: r4 = result, r5 = nanoseconds, r6 and r7 = the time of the last reading; all four are callee-saved.
    """
    asm = _Assembler()
    asm.emit(0xE92D41F0)  # push {r4-r8, lr}: six words, so that the stack stays aligned to 8
    asm.address(4, "result")
    if request.timed:
        asm.address(5, "nanoseconds")
        asm.call("ktime_get")
        asm.emit(0xE1A06000, 0xE1A07001)  # mov r6, r0; mov r7, r1
    for number, base in enumerate(request.skip_chunks):
        _encode_skip(asm, number, base, len(request.inits))
    for number in range(len(request.inits)):
        _encode_member(asm, number, request)
    asm.emit(0xE3A00000, 0xE8BD81F0)  # mov r0, #0: always 0; pop {r4-r8, pc}
    # EHABI 10.3: pop {r4-r8, lr}, finish, finish, in the one word of a table entry.
    return GlueCode(code=bytes(asm.code), fixups=tuple(asm.fixups), unwind_entry=(R_PREL31, 0x80ACB0B0))


def _encode_skip(asm: _Assembler, number: int, base: int, members: int) -> None:
    """for (i = count; i--;) if (base + list[i] < members) result[base + list[i]] = ASKED;"""
    asm.address(0, f"skip{number}_count")
    asm.emit(0xE5900000)  # ldr r0, [r0]
    asm.address(1, f"skip{number}")
    top = len(asm.code)
    asm.emit(0xE2500001)  # subs r0, r0, #1
    out = asm.jump(0x4A000000)  # bmi out
    asm.emit(0xE7912100)  # ldr r2, [r1, r0, lsl #2]
    asm.number(3, base)
    asm.emit(0xE0822003)  # add r2, r2, r3
    asm.number(3, members)
    asm.emit(0xE1520003)  # cmp r2, r3
    asm.emit(0x2A000000 | (top - len(asm.code) - 8) // 4 & 0xFFFFFF)  # bhs top: a negative index is too large, too
    asm.number(3, RESULT_ASKED)
    asm.emit(0xE7843102)  # str r3, [r4, r2, lsl #2]
    asm.emit(0xEA000000 | (top - len(asm.code) - 8) // 4 & 0xFFFFFF)  # b top
    asm.land([out])


def _encode_member(asm: _Assembler, number: int, request: GlueRequest) -> None:
    """if (result[i] != ASKED) { if any needed != 0: NEEDS; else { record init(); record time } }"""
    done, missing = [], []
    if request.skip_chunks:
        asm.load(number)
        asm.emit(0xE3500000 | RESULT_ASKED)  # cmp r0, #ASKED
        done.append(asm.jump(0x0A000000))  # beq done
    for needed in request.needs[number]:
        asm.load(needed)
        asm.emit(0xE3500000)  # cmp r0, #0
        missing.append(asm.jump(0x1A000000))  # bne missing
    if request.inits[number]:
        asm.call(number)
        # A positive value counts as success, as in do_init_module().
        asm.emit(0xE3500000, 0xC3A00000)  # cmp r0, #0; movgt r0, #0
        asm.store(number, 0)
        if request.timed:
            asm.call("ktime_get")
            asm.emit(0xE0502006, 0xE0C13007)  # subs r2, r0, r6; sbc r3, r1, r7
            asm.emit(0xE1A06000, 0xE1A07001)  # mov r6, r0; mov r7, r1
            asm.emit(0xE3530000, 0x13E02000)  # cmp r3, #0; mvnne r2, #0: 4.29 s and more do not fit
            asm.element(0xE5800000, 5, 2, number)  # str r2, nanoseconds[number]
    else:
        asm.number(0, 0)
        asm.store(number, 0)
    if missing:
        done.append(asm.jump(0xEA000000))
        asm.land(missing)
        asm.number(0, RESULT_NEEDS)
        asm.store(number, 0)
    asm.land(done)


ARM = Architecture(
    name="arm",
    loader="arm",
    machine=EM_ARM,
    bits=32,
    none=R_NONE,
    pointer=R_ABS32,
    relative=R_REL32,
    relocations=_RELOCATIONS,
    export_relative=False,
    encode_init=_encode_init,
    tables={"__ksymtab": R_ABS32, "__ksymtab_gpl": R_ABS32, "__param": R_ABS32},
    addends_in_place=True,
    placeholders=frozenset([".plt", ".init.plt"]),
    trace_call=TraceCall(
        symbol="__gnu_mcount_nc",
        types=frozenset([R_CALL]),
        before=0,
        mask=0xFFFFFFFF,
        value=0xEBFFFFFE,
        nop=bytes.fromhex("04d08de2"),
    ),
    entry_sizes={
        "__param": 20,
        "__jump_table": 12,
        "__ex_table": 8,
        "_ftrace_events": 4,
        "_ftrace_eval_map": 4,
        "__mcount_loc": 4,
        ".alt.smp.init": 8,
        ".pv_table": 4,
        ".ARM.exidx": 8,
    },
    text_limit=1 << 25,  # what a branch reaches, to either side
    area=1 << 25,
)
