"""What the passes need to know of an architecture: its relocations, tables, placeholders, the glue's encoder.

One value per architecture (x86_64.py, arm64.py, riscv64.py, arm.py), chosen by the members' ELF machine; no pass names
an architecture itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np

from megamod.prelink.arch.encoder import Encoder
from megamod.prelink.elf import Array

PAGE = 4096
# x86_64's unwind tables, and the one of all entries that the glue brings (unwind.py).
ORC_IP, ORC_STATE = ".orc_unwind_ip", ".orc_unwind"
SORTED_IP, SORTED_STATE = f"{ORC_IP}.sorted", f"{ORC_STATE}.sorted"
WIDEST = 1 << 11  # above every relocation type's number


class Reach(Enum):
    """What a field's value depends on, beside S + A; so when it is known at build time."""

    ABSOLUTE = "absolute"  # nothing: known if S is an absolute value
    RELATIVE = "relative"  # P: known inside one output section
    PAGE = "page"  # the pages of S + A and P: known inside one output section that starts at a page
    OFFSET = "offset"  # the place within a page: known for every output section that starts at a page
    KERNEL = "kernel"  # more than these, or not worth it: always left to the kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class RelocationType:
    """One relocation type: *width* in bytes, the range of its value as [low, high), what it depends on.

    encode: (words, values) → words, for a field that is part of an instruction of *width* bytes; None for plain data.
    multiple: the value must be a multiple of it. label: its symbol names another relocation's place, so the symbol's
    value must stay exact. stacks: it adds to the field, and others may do so too. short: it does not reach as far as
    two sections may lie apart, and the kernel has no stub for it, or does not even look.
    """

    name: str
    width: int
    reach: Reach
    low: int = -(1 << 63)
    high: int = 1 << 64
    multiple: int = 1
    encode: Callable[[Array, Array], Array] | None = None
    label: bool = False
    stacks: bool = False
    short: bool = False

    @property
    def plain(self) -> bool:
        """Whether the field is a whole number of *width* bytes and nothing else."""
        return self.encode is None and self.reach is not Reach.KERNEL


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCall:
    """The call that every traceable function starts with: relocations of *types* against *symbol*.

    opcode: the bytes that stand *before* bytes in front of the field, as (mask, value) over their little-endian word of
    len(nop) bytes; nop: what ftrace would write there at load.
    """

    symbol: str
    types: frozenset[int]
    before: int
    mask: int
    value: int
    nop: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Veneer:
    """A jump to a function of the kernel, in place of which calls of *types* go there: *code* with relocations of the
    types in *fields* (offset, type) against the function. Its length is its alignment."""

    types: frozenset[int]
    code: bytes
    fields: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture. name: the kernel's word; loader: the loader's; bits: of a pointer.

    addends_in_place: relocations are REL, the addend is in the field. pointer: the type of a pointer field; relative:
    that of a 32-bit PC-relative field; tables: section → the one type that it is made of. export_relative: __ksymtab
    holds distances (CONFIG_HAVE_ARCH_PREL32_RELOCATIONS) and not pointers. zero_fields: the kernel refuses a
    relocation over bytes that are not zero. split_tables: one relocation table for each member's part of a section,
    where the kernel's work grows faster than a table. name_alignment: of imports' names, for the kernel's strcmp().
    placeholders: sections that the kernel looks for and fills. entry_sizes: of tables that differ from
    section_rules.ENTRY_SIZES. nop: what pads before functions. hash_opcodes: the first byte of the instruction that
    carries a function's type hash, none if the hash stands alone. function_alignment: in bytes. text_limit: bytes of
    code that branches reach; area: what the kernel has for all modules. checks_image: its encoder can look whether the
    kernel is a certain build, so imports may be bound by distance. veneer: where a call by distance would cost the
    kernel a slot of its own for each call, one for each function.
    """

    name: str
    loader: str
    machine: int
    bits: int
    none: int
    pointer: int
    relative: int
    relocations: Mapping[int, RelocationType]
    export_relative: bool
    encoder: Callable[[], Encoder]
    nop: bytes
    tables: Mapping[str, int] = field(default_factory=dict)
    addends_in_place: bool = False
    zero_fields: bool = False
    split_tables: bool = False
    name_alignment: int = 1
    placeholders: frozenset[str] = frozenset()
    trace_call: TraceCall | None = None
    return_thunk: str | None = None
    entry_sizes: Mapping[str, int] = field(default_factory=dict)
    hash_opcodes: frozenset[int] = frozenset()
    function_alignment: int = 1
    text_limit: int = 1 << 30
    area: int = 1 << 30
    checks_image: bool = False
    veneer: Veneer | None = None

    @cached_property
    def own_widths(self) -> Array:
        """Relocation type → bytes of its field that no other may have, 0 for those that add to it."""
        widths = np.zeros(WIDEST + 1, np.int64)
        for kind, known in self.relocations.items():
            widths[kind] = 0 if known.stacks else known.width
        return widths

    @property
    def word(self) -> int:
        """Bytes of a pointer."""
        return self.bits // 8

    @property
    def export_entry(self) -> int:
        """Bytes of a struct kernel_symbol: value, name and namespace (kernel/module/internal.h)."""
        return 12 if self.export_relative else 3 * self.word

    @property
    def parameter_entry(self) -> int:
        """sizeof(struct kernel_param), include/linux/moduleparam.h."""
        return 40 if self.bits == 64 else 20

    def of(self, *reach: Reach) -> list[int]:
        """The relocation types with one of these reaches."""
        return [kind for kind, known in self.relocations.items() if known.reach in reach]
