"""arm (32 bits), in ARM and in Thumb-2 instructions: relocations and tables.

Relocations are ELF32 REL (AArch32 psABI): the addend is in the field, so a field of an instruction stays as it is and
its relocation gets a symbol whose value is exactly the old one's, the Thumb bit included. Which types the kernel's
loader knows: arch/arm/kernel/module.c apply_relocate(), 6.1. A call that does not reach goes through .plt
(module-plts.c).

Trace calls: ``push {lr}; bl __gnu_mcount_nc``; ftrace turns the call into ``add sp, sp, #4``, which undoes the push
(arch/arm/kernel/ftrace.c NOP, 6.1).
"""

from __future__ import annotations

from dataclasses import replace

from megamod.prelink.arch.arm_encoder import R_ABS32, R_CALL, R_PREL31, R_THM_CALL, ArmEncoder, ThumbEncoder
from megamod.prelink.arch.interface import Architecture, Reach, RelocationType, TraceCall
from megamod.prelink.elf import EM_ARM

R_NONE, R_REL32 = 0, 3


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
    R_THM_CALL: _kept("THM_CALL"),
    30: _kept("THM_JUMP24"),
    47: _kept("THM_MOVW_ABS_NC"),
    48: _kept("THM_MOVT_ABS"),
    49: _kept("THM_MOVW_PREL_NC"),
    50: _kept("THM_MOVT_PREL"),
}


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
    encoder=ArmEncoder,
    nop=bytes.fromhex("00f020e3"),
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

# A kernel whose vermagic says thumb2 (CONFIG_THUMB2_KERNEL): its own calls reach 16 MiB.
ARM_THUMB2 = replace(
    ARM,
    encoder=ThumbEncoder,
    nop=bytes.fromhex("00bf"),
    trace_call=TraceCall(
        symbol="__gnu_mcount_nc",
        types=frozenset([R_THM_CALL]),
        before=0,
        mask=0xFFFFFFFF,
        value=0xFFFEF7FF,
        nop=bytes.fromhex("0df1040d"),
    ),
    text_limit=1 << 24,
    area=1 << 24,
)
