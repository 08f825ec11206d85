"""arm, with ARM or Thumb-2 code: apply_relocate() in arch/arm/kernel/module.c. REL: the addend is what the field holds.

The group relocations of 6.1 (ALU_PC_G0_NC and so on) are not modelled; no Debian module has any.
"""

from dataclasses import replace

import numpy as np

from tests.oracle.arch import Arch, Bools, Field, Ints, Trace, Words, put, signed, within

ABS32, REL32, CALL, PREL31, MOVW_ABS, MOVT_ABS, MOVW_PREL, MOVT_PREL = 2, 3, 28, 42, 43, 44, 45, 46
_IMM16 = 0x000F0FFF


def _whole(name: str, code: int, *, relative: bool) -> Field:
    def apply(words: Words, target: Ints, place: Ints) -> Words:
        return put(words, target - place if relative else target, 0xFFFFFFFF)

    return Field(name=name, code=code, width=4, apply=apply, mask=0xFFFFFFFF, addend=lambda words: signed(words, 32))


def _call(words: Words, target: Ints, place: Ints) -> Words:
    return put(words, target - place >> 2, 0xFFFFFF)


def _call_fits(target: Ints, place: Ints) -> Bools:
    # The limits of the kernel are open on both sides; beyond them it goes through .plt.
    whole: Bools = (target - place) % 4 == 0
    return whole & within(-0x02000000 + 1, 0x02000000)(target - place)


def _prel31(words: Words, target: Ints, place: Ints) -> Words:
    return put(words, target - place, 0x7FFFFFFF)


def _prel31_fits(target: Ints, place: Ints) -> Bools:
    return within(-0x40000000, 0x40000000)(target - place)


def _half(words: Words) -> Ints:
    """imm4 in 19:16 and imm12 in 11:0, as a signed number (the psABI wants it so for MOVT too)."""
    return signed(words >> np.uint64(4) & np.uint64(0xF000) | words & np.uint64(0xFFF), 16)


def _move(name: str, code: int, *, relative: bool, top: bool) -> Field:
    def apply(words: Words, target: Ints, place: Ints) -> Words:
        value = target - place if relative else target
        value = value >> 16 if top else value
        return put(words, (value & 0xF000) << 4 | value & 0xFFF, _IMM16)

    return Field(name=name, code=code, width=4, apply=apply, mask=_IMM16, addend=_half)


def _thumb_call(words: Words, target: Ints, place: Ints) -> Words:
    """S:I1:I2:imm10:imm11:0, the first halfword low; J1 and J2 are I1 and I2 turned where S is 0."""
    offset = target - place
    sign = offset >> 24 & 1
    j1, j2 = sign ^ (offset >> 23 & 1) ^ 1, sign ^ (offset >> 22 & 1) ^ 1
    upper, lower = sign << 10 | offset >> 12 & 0x3FF, j1 << 13 | j2 << 11 | offset >> 1 & 0x7FF
    return put(words, upper | lower << 16, _THUMB_CALL)


_THUMB_CALL, _THUMB_IMM16 = 0x2FFF07FF, 0x70FF040F


def _thumb_call_fits(target: Ints, place: Ints) -> Bools:
    return within(-0x01000000 + 1, 0x01000000)(target - place)


def _thumb_call_addend(words: Words) -> Ints:
    bits = words.astype(np.int64)
    sign = bits >> 10 & 1
    i1, i2 = (bits >> 29 & 1) ^ sign ^ 1, (bits >> 27 & 1) ^ sign ^ 1
    offset = sign << 24 | i1 << 23 | i2 << 22 | (bits & 0x3FF) << 12 | (bits >> 16 & 0x7FF) << 1
    return signed(offset.view(np.uint64), 25)


def _thumb_move(name: str, code: int, *, relative: bool, top: bool) -> Field:
    """imm4 in 3:0 and i in 10 of the first halfword, imm3 in 14:12 and imm8 in 7:0 of the second."""

    def apply(words: Words, target: Ints, place: Ints) -> Words:
        value = target - place if relative else target
        value = value >> 16 if top else value
        upper = value >> 12 & 0xF | (value >> 11 & 1) << 10
        return put(words, upper | (value >> 8 & 7) << 28 | (value & 0xFF) << 16, _THUMB_IMM16)

    def addend(words: Words) -> Ints:
        bits = words.astype(np.int64)
        value = (bits & 0xF) << 12 | (bits >> 10 & 1) << 11 | (bits >> 28 & 7) << 8 | bits >> 16 & 0xFF
        return signed(value.view(np.uint64), 16)

    return Field(name=name, code=code, width=4, apply=apply, mask=_THUMB_IMM16, addend=addend)


_THUMB = Field(
    name="THM_CALL",
    code=10,
    width=4,
    apply=_thumb_call,
    mask=_THUMB_CALL,
    fits=_thumb_call_fits,
    relative=True,
    addend=_thumb_call_addend,
    thumb=True,
)
_CALL = Field(
    name="CALL",
    code=CALL,
    width=4,
    apply=_call,
    mask=0xFFFFFF,
    fits=_call_fits,
    relative=True,
    addend=lambda words: signed(words, 24) * 4,
    aligned=4,  # else it is taken for a call of Thumb code
)


def _v4bx(words: Words, target: Ints, place: Ints) -> Words:
    """bx becomes mov pc; the symbol means nothing."""
    return words & np.uint64(0xF000000F) | np.uint64(0x01A0F000)


_FIELDS = [
    Field(name="V4BX", code=40, width=4, apply=_v4bx, mask=0x0FFFFFF0),
    _whole("ABS32", ABS32, relative=False),
    _whole("REL32", REL32, relative=True),
    Field(
        name="PREL31",
        code=PREL31,
        width=4,
        apply=_prel31,
        mask=0x7FFFFFFF,
        fits=_prel31_fits,
        relative=True,
        addend=lambda words: signed(words, 31),
    ),
    _move("MOVW_ABS_NC", MOVW_ABS, relative=False, top=False),
    _move("MOVT_ABS", MOVT_ABS, relative=False, top=True),
    _move("MOVW_PREL_NC", MOVW_PREL, relative=True, top=False),
    _move("MOVT_PREL", MOVT_PREL, relative=True, top=True),
]

ARCH = Arch(
    name="arm",
    machine=40,
    bits=32,
    # PC24, CALL and JUMP24 are one case label; TARGET1 is ABS32.
    fields={
        **{one.code: one for one in _FIELDS},
        1: _CALL,
        28: _CALL,
        29: _CALL,
        38: _whole("ABS32", ABS32, relative=False),
    },
    rel=True,
    prel_exports=False,
    pointer=ABS32,
    strides={
        ".ARM.exidx": (8,),
        ".alt.smp.init": (8,),  # a distance and the instruction for one processor
        ".pv_table": (4,),
        "__bug_table": (12,),
        "__ex_table": (8,),
        "__jump_table": (12,),
        "__mcount_loc": (4,),
        "__param": (20,),
        "__dyndbg": (28, 32),
        "__dyndbg_classes": (28, 32),
        "__tracepoint_str": (4,),
        "__trace_printk_fmt": (4,),
        "_ftrace_events": (4,),
        "_ftrace_eval_map": (4,),
        "___srcu_struct_ptrs": (4,),
        "_error_injection_whitelist": (8,),
        "_kprobe_blacklist": (4,),
        ".kunit_test_suites": (4,),
        ".kunit_init_test_suites": (4,),
        ".printk_index": (4,),
        ".init_array": (4,),
        ".ctors": (4,),
    },
    init_prefixes=(".init", ".ARM.extab.init", ".ARM.exidx.init"),
    placeholders=(".plt", ".init.plt"),
    # push {lr} has gone before: the NOP takes it back, add sp, sp, #4 (arch/arm/kernel/ftrace.c).
    trace=Trace(size=4, nop=b"\x04\xd0\x8d\xe2", field_at=0, opcode=(3, 0xFF, 0xEB)),
    call_bias=8,
    call_codes=frozenset([CALL]),
)

# CONFIG_THUMB2_KERNEL, which vermagic names; such a kernel knows the types of ARM code too.
ARCH_THUMB = replace(
    ARCH,
    fields={
        **ARCH.fields,
        10: _THUMB,
        30: _THUMB,
        47: _thumb_move("THM_MOVW_ABS_NC", 47, relative=False, top=False),
        48: _thumb_move("THM_MOVT_ABS", 48, relative=False, top=True),
        49: _thumb_move("THM_MOVW_PREL_NC", 49, relative=True, top=False),
        50: _thumb_move("THM_MOVT_PREL", 50, relative=True, top=True),
    },
    trace=Trace(size=4, nop=b"\x0d\xf1\x04\x0d", field_at=0, opcode=(1, 0xF8, 0xF0)),  # add.w sp, sp, #4
    call_bias=4,
    call_codes=frozenset([CALL, 10]),
    thumb=True,
)
