"""What verify knows of each architecture, written down a second time: it shares nothing with what the linker uses.

Source: arch/*/kernel/module*.c of 6.1 and 6.12 (relocation types and widths, placeholders), the psABI documents.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from megamod.prelink.elf import Array

# Tables whose entries are the same everywhere; __ksymtab, __param and the like follow below.
_ENTRIES = {
    "__kcrctab": 4, "__kcrctab_gpl": 4, "__versions": 64, ".static_call_sites": 8, ".smp_locks": 4,
    ".retpoline_sites": 4, ".return_sites": 4, ".call_sites": 4, ".ibt_endbr_seal": 4, ".cfi_sites": 4,
    ".orc_unwind": 6, ".orc_unwind_ip": 4, ".orc_unwind.sorted": 6, ".orc_unwind_ip.sorted": 4,
}  # fmt: skip
_LONG = {"__jump_table": 16, "__param": 40, "_ftrace_events": 8, "_ftrace_eval_map": 8, "__mcount_loc": 8}
_SHORT = {"__jump_table": 12, "__param": 20, "_ftrace_events": 4, "_ftrace_eval_map": 4, "__mcount_loc": 4}
_KSYMTAB = ("__ksymtab", "__ksymtab_gpl")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchFacts:
    """widths: relocation type → bytes, all types that the kernel's loader knows. stacking: those that add to a field.

    near_calls: (code, base) → (target, site) of every direct call that the bytes hold, in their order. call_bias: what
    to add to S + A of a call's relocation to get its target. call_opcode: what stands in front of a call's field.
    landing_pads: first instructions of functions that are called through pointers; is_landing_pad: whether an
    instruction is one at all. veneer_calls: types of calls that may go to a jump of the glue; veneer: its bytes with
    zero fields, as (mask, value); veneer_fields: its relocations as (offset, type). type_hash: what kCFI puts before a
    function, with the padding behind it.
    """

    widths: Mapping[int, int]
    entries: Mapping[str, int]
    near_calls: Callable[[bytes, int], Iterator[tuple[int, int]]]
    call_bias: Callable[[memoryview, np.void], int]
    call_opcode: bytes = b""
    stacking: frozenset[int] = frozenset()
    over_zeros: bool = False
    placeholders: tuple[str, ...] = ()
    landing_pads: tuple[bytes, ...] = ()
    is_landing_pad: Callable[[bytes], bool] = lambda word: False
    type_hash: re.Pattern[bytes] = re.compile(rb"(?s).{4}\Z")
    trace_symbol: str = ""
    trace_opcode: int = 0
    veneer_calls: tuple[int, ...] = ()
    veneer: tuple[bytes, bytes] = (b"", b"")
    veneer_fields: tuple[tuple[int, int], ...] = ()
    code_limit: int = 1 << 30

    def entry(self, name: str) -> int:
        """Bytes of an entry of the table *name*, 1 for what is not a table."""
        return self.entries.get(name, _ENTRIES.get(name, 1))

    def width_of(self, types: Array) -> Array:
        """The width of each relocation type, 0 for one that the kernel does not know."""
        widths: Array = _by_type(tuple(self.widths.items()))[np.minimum(types, 2047)]
        return widths


@cache
def _by_type(widths: tuple[tuple[int, int], ...]) -> Array:
    known = np.zeros(2048, np.int64)
    for kind, width in widths:
        known[kind] = width
    known.setflags(write=False)
    return known


def _x86_calls(code: bytes, base: int) -> Iterator[tuple[int, int]]:
    at = code.find(b"\xe8")
    while 0 <= at <= len(code) - 5:
        yield base + at + 5 + struct.unpack_from("<i", code, at + 1)[0], base + at + 1
        at = code.find(b"\xe8", at + 1)


def _arm64_calls(code: bytes, base: int) -> Iterator[tuple[int, int]]:
    for at in range(0, len(code) - 3, 4):
        (word,) = struct.unpack_from("<I", code, at)
        if word >> 26 == 0b100101:
            yield base + at + 4 * ((word & 0x3FFFFFF ^ 0x2000000) - 0x2000000), base + at


def _riscv_calls(code: bytes, base: int) -> Iterator[tuple[int, int]]:
    for at in range(0, len(code) - 7, 4):
        upper, lower = struct.unpack_from("<II", code, at)
        if upper & 0xFFF == 0x97 and lower & 0xFFFFF == 0x80E7:  # auipc ra; jalr ra, ra
            high = (upper >> 12 ^ 0x80000) - 0x80000
            yield base + at + (high << 12) + ((lower >> 20 ^ 0x800) - 0x800), base + at


def _arm_calls(code: bytes, base: int) -> Iterator[tuple[int, int]]:
    for at in range(0, len(code) - 3, 4):
        (word,) = struct.unpack_from("<I", code, at)
        if word >> 24 == 0xEB:
            yield base + at + 8 + 4 * ((word & 0xFFFFFF ^ 0x800000) - 0x800000), base + at


def _is_arm64_landing_pad(word: bytes) -> bool:
    """paciasp, pacibsp, bti with any operand: C6.2 of the Arm ARM, "HINT"."""
    (code,) = struct.unpack("<I", word)
    return code & 0xFFFFF01F == 0xD503201F and (code >> 5 & 0x7F in (25, 27) or code >> 5 & 0x79 == 32)


def _tables(sizes: Mapping[str, int], ksymtab: int, **others: int) -> dict[str, int]:
    return {**sizes, **dict.fromkeys(_KSYMTAB, ksymtab), **others}


# MOVW, types 263-270 and 287-293 have no user in Debian's modules, but the loader knows them.
_ARM64_WIDTHS = {
    257: 8, 258: 4, 259: 2, 260: 8, 261: 4, 262: 2, **dict.fromkeys(range(263, 281), 4), 282: 4, 283: 4, 284: 4,
    285: 4, 286: 4, **dict.fromkeys(range(287, 294), 4), 299: 4,
}  # fmt: skip

ARCH_FACTS: Mapping[int, ArchFacts] = {
    62: ArchFacts(
        # arch/x86/kernel/module.c apply_relocate_add(): all over bytes that must be zero.
        widths={1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8},
        entries=_tables(_LONG, 12, __tracepoints_ptrs=4, __ex_table=12),
        near_calls=_x86_calls,
        call_bias=lambda data, row: 4,
        call_opcode=b"\xe8",
        over_zeros=True,
        landing_pads=(b"\xf3\x0f\x1e\xfa",),
        # mov $hash to eax, or to another register that tells the number of arguments.
        type_hash=re.compile(rb"(?s)[\xb8-\xbf].{4}\x90*\Z"),
        trace_symbol="__fentry__",
        trace_opcode=1,
    ),
    183: ArchFacts(
        widths=_ARM64_WIDTHS,
        entries=_tables(_LONG, 12, __tracepoints_ptrs=4),
        near_calls=_arm64_calls,
        call_bias=lambda data, row: 0,
        placeholders=(".plt", ".init.plt", ".text.ftrace_trampoline", ".init.text.ftrace_trampoline"),
        landing_pads=(b"\x3f\x23\x03\xd5", b"\x5f\x24\x03\xd5"),  # paciasp, bti c
        is_landing_pad=_is_arm64_landing_pad,
        type_hash=re.compile(rb"(?s)(?!\x1f\x20\x03\xd5).{4}(\x1f\x20\x03\xd5)*\Z"),
        code_limit=1 << 27,
        veneer_calls=(282, 283),
        # adrp x16; add x16, x16, #; br x16
        veneer=(
            struct.pack("<III", 0x9F00001F, 0xFFC003FF, 0xFFFFFFFF),
            struct.pack("<III", 0x90000010, 0x91000210, 0xD61F0200),
        ),
        veneer_fields=((0, 275), (4, 277)),
    ),
    243: ArchFacts(
        # arch/riscv/kernel/module.c, 6.12 reloc_handlers[]; ALIGN is known and refused.
        widths={
            1: 4,
            2: 8,
            16: 4,
            17: 4,
            18: 8,
            19: 8,
            20: 4,
            23: 4,
            24: 4,
            25: 4,
            26: 4,
            27: 4,
            28: 4,
            33: 1,
            34: 2,
            35: 4,
            36: 8,
            37: 1,
            38: 2,
            39: 4,
            40: 8,
            44: 2,
            45: 2,
            54: 1,
            55: 2,
            56: 4,
            57: 4,
        },
        entries=_tables(_LONG, 24, __tracepoints_ptrs=8),
        near_calls=_riscv_calls,
        is_landing_pad=lambda word: word[0] == 0x17 and not word[1] & 0xF,  # lpad, of Zicfilp
        type_hash=re.compile(rb"(?s)(?!\x01\x00).{4}(\x01\x00)*\Z"),
        call_bias=lambda data, row: 0,
        stacking=frozenset([33, 34, 35, 36, 37, 38, 39, 40, 54, 55, 56]),
        placeholders=(".plt", ".got", ".got.plt"),
    ),
    40: ArchFacts(
        widths=dict.fromkeys([1, 2, 3, 10, 28, 29, 30, 38, 40, *range(42, 51), 57, 59, 63], 4),
        entries=_tables(_SHORT, 12, __tracepoints_ptrs=4, __ex_table=8),
        near_calls=_arm_calls,
        # The field is not an addend but an instruction with -8 in it, which the pipeline adds back.
        call_bias=lambda data, row: -int(row["addend"]),
        placeholders=(".plt", ".init.plt"),
        trace_symbol="__gnu_mcount_nc",
        code_limit=1 << 25,
    ),
}
