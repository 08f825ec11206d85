"""What the model has to know of an architecture: relocation fields, sizes of structures, names; one value for each.

Written from the kernel's loader (arch/*/kernel/module*.c, 6.1 and 6.12) and the psABI documents, in arch_*.py. Letters
as there: S + A what a field refers to, P its place. Words and addresses are numpy arrays, one entry per relocation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as default
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Apply = Callable[[Words, Ints, Ints], Words]
Fits = Callable[[Ints, Ints], Bools]
ALL = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One relocation type. code: the type that stands for all that the kernel treats alike; width: bytes.

    apply: (words, S + A, P) → words as the kernel leaves them; mask: the bits that it sets whatever they held.
    fits: (S + A, P) → whether the kernel, or the processor, takes the value; None for every value.
    adds: it adds to what the field holds, and others may stand at its place; slot: tells these apart.
    pair: its symbol names the place of another relocation that leads, and it shares its value (R_RISCV_PCREL_LO12_I).
    pages: the value is a distance between pages. relative: it is S + A - P, so known inside one section.
    addend: the addend that a word holds (REL). aligned: what the symbol's own value must be a multiple of.
    thumb: a function's value must be odd.
    """

    name: str
    code: int
    width: int
    apply: Apply
    mask: int = ALL
    fits: Fits | None = None
    adds: bool = False
    slot: int = 0
    pair: bool = False
    leads: bool = False
    pages: bool = False
    relative: bool = False
    addend: Callable[[Words], Ints] | None = None
    aligned: int = 1
    thumb: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The call that ftrace finds through __mcount_loc: bytes of the instruction, its NOP, where its field is.

    opcode: (offset, mask, value) of the byte by which the call is known.
    """

    size: int
    nop: bytes
    field_at: int
    opcode: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Arch:
    """One architecture; name is the map's. strides: table → possible entry sizes where they differ from x86_64's.

    prel_exports: struct kernel_symbol holds three 32-bit distances, else three pointers. zero_fields: the kernel
    refuses a relocation over bytes that are not zero. init_prefixes: module_init_section(). placeholders: sections
    that the kernel looks for and fills. landing_pads: first instructions that an indirect call may reach.
    call_bias: what S + A of a code reference lacks to its target. forbidden: from this offset in a page on the kernel
    may have to change an instruction with a page field (an erratum). thumb: pointers to code are odd.
    """

    name: str
    machine: int
    bits: int
    fields: Mapping[int, Field]
    ignored: frozenset[int] = frozenset([0])
    rel: bool = False
    prel_exports: bool = True
    zero_fields: bool = False
    pointer: int
    strides: Mapping[str, tuple[int, ...]] = default(default_factory=dict)
    init_prefixes: tuple[str, ...] = (".init",)
    placeholders: tuple[str, ...] = ()
    landing_pads: tuple[bytes, ...] = ()
    trace: Trace | None = None
    call_bias: int = 0
    call_codes: frozenset[int] = frozenset()
    forbidden: int | None = None
    thumb: bool = False

    @property
    def word(self) -> int:
        """Bytes of a pointer."""
        return self.bits // 8

    @property
    def param_size(self) -> int:
        """struct kernel_param: name, mod, ops, perm + level + flags, arg."""
        return 40 if self.bits == 64 else 20

    @property
    def param_perm(self) -> int:
        return 3 * self.word

    @property
    def param_arg(self) -> int:
        return 4 * self.word

    @property
    def ksym_field(self) -> int:
        """Bytes of each of the three fields of struct kernel_symbol."""
        return 4 if self.prel_exports else self.word

    @property
    def name_len(self) -> int:
        """MODULE_NAME_LEN, include/linux/moduleparam.h; the NUL included."""
        return 64 - self.word

    @cached_property
    def width(self) -> Ints:
        """Bytes of a field, by its code."""
        found = np.zeros(512, np.int64)
        for one in self.fields.values():
            found[one.code] = one.width
        return found

    @cached_property
    def code(self) -> NDArray[np.int16]:
        """The code of each relocation type, 0 for those that the kernel does not know."""
        found = np.zeros(512, np.int16)
        for number, one in self.fields.items():
            found[number] = one.code
        return found

    @cached_property
    def slot(self) -> Ints:
        found = np.zeros(512, np.int64)
        for one in self.fields.values():
            found[one.code] = one.slot
        return found

    def codes(self, chosen: Callable[[Field], bool]) -> list[int]:
        """The codes of the fields for which chosen says yes."""
        return sorted({one.code for one in self.fields.values() if chosen(one)})

    def by_code(self, code: int) -> Field:
        return self.fields[code]


def words_of(values: Ints) -> Words:
    """Integers as unsigned words, two's complement."""
    return values.astype(np.int64).view(np.uint64)


def signed(values: Words, bits: int) -> Ints:
    """The low bits of words as signed numbers."""
    half = 1 << (bits - 1)
    low = (values & np.uint64((1 << bits) - 1)).astype(np.int64)
    found: Ints = (low ^ half) - half
    return found


def put(words: Words, values: Ints, mask: int) -> Words:
    """Words with the bits of mask taken from values, which are in their places already."""
    bits = np.uint64(mask)
    return words & ~bits | words_of(values) & bits


def within(low: int, high: int) -> Callable[[Ints], Bools]:
    """Whether values lie in [low, high)."""

    def check(values: Ints) -> Bools:
        found: Bools = (values >= low) & (values < high)
        return found

    return check


def plain(name: str, code: int, bits: int, *, relative: bool, low: int = 0, high: int = 0, as_code: int = 0) -> Field:
    """A whole field of 16, 32 or 64 bits: S + A, or S + A - P; in [low, high) where these are given."""
    mask = (1 << bits) - 1

    def apply(words: Words, target: Ints, place: Ints) -> Words:
        return put(words, target - place if relative else target, mask)

    def fits(target: Ints, place: Ints) -> Bools:
        return within(low, high)(target - place if relative else target)

    return Field(
        name=name,
        code=as_code or code,
        width=bits // 8,
        apply=apply,
        mask=mask,
        fits=fits if low or high else None,
        relative=relative,
    )
