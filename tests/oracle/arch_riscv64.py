"""riscv64: reloc_handlers in arch/riscv/kernel/module.c, 6.1 and 6.12; fields by the unprivileged ISA, chapter 35.

A field of four bytes for an instruction may lie at any even place. What ADD and SUB leave is the sum of all that stand
at one place; 6.1 adds to the field, 6.12 to nothing, so the field must hold zeros.
"""

import numpy as np

from tests.oracle.arch import Apply, Arch, Bools, Field, Fits, Ints, Words, plain, put, within

R_64, CALL_PLT, GOT_HI20, HI20, LO12_I, LO12_S = 2, 19, 20, 23, 24, 25
_REACH = within(-(1 << 31) - (1 << 11), (1 << 31) - (1 << 11))  # riscv_insn_valid_32bit_offset()


def _move(values: Ints, *pieces: tuple[int, int, int]) -> Ints:
    """Bits of values, each piece (from, bits, to), as the instruction formats scatter them."""
    found = np.zeros(len(values), np.int64)
    for start, bits, to in pieces:
        found |= (values >> start & (1 << bits) - 1) << to
    return found


def _jump(name: str, code: int, width: int, bits: int, *pieces: tuple[int, int, int]) -> Field:
    """A branch or jump by an even signed distance. The handlers check no range: the model does."""
    mask = sum(((1 << n) - 1) << to for _, n, to in pieces)

    def apply(words: Words, target: Ints, place: Ints) -> Words:
        return put(words, _move(target - place, *pieces), mask)

    def fits(target: Ints, place: Ints) -> Bools:
        even: Bools = (target - place) % 2 == 0
        return even & within(-(1 << bits), 1 << bits)(target - place)

    return Field(name=name, code=code, width=width, apply=apply, mask=mask, fits=fits, relative=True)


def _upper(distance: Ints) -> Ints:
    found: Ints = (distance + 0x800) & 0xFFFFF000
    return found


def _reach(target: Ints, place: Ints) -> Bools:
    return _REACH(target - place)


def _call(words: Words, target: Ints, place: Ints) -> Words:
    """auipc and jalr: 31:12 of the first, 31:20 of the second."""
    distance = target - place
    return put(words, _upper(distance) | (distance & 0xFFF) << 52, 0xFFF00000FFFFF000)


def _hi20(words: Words, target: Ints, place: Ints) -> Words:
    return put(words, _upper(target - place), 0xFFFFF000)


def _got(words: Words, target: Ints, place: Ints) -> Words:
    """The distance to an entry of .got that the kernel makes: it can only be left to it."""
    return put(words, place & 0xFFFFF000, 0xFFFFF000)


def _lo12_i(words: Words, target: Ints, place: Ints) -> Words:
    return put(words, (target - place & 0xFFF) << 20, 0xFFF00000)


def _lo12_s(words: Words, target: Ints, place: Ints) -> Words:
    return put(words, _move(target - place, (5, 7, 25), (0, 5, 7)), 0xFE000F80)


def _absolute(apply: Apply) -> Apply:
    return lambda words, target, place: apply(words, target, np.zeros_like(place))


def _low_word(target: Ints, place: Ints) -> Bools:
    return within(-(1 << 31), 1 << 31)(target)


def _sum(name: str, code: int, bits: int, *, sign: int, slot: int) -> Field:
    mask = (1 << bits) - 1

    def apply(words: Words, target: Ints, place: Ints) -> Words:
        return put(words, words.astype(np.uint64).view(np.int64) + sign * target, mask)

    return Field(name=name, code=code, width=max(bits // 8, 1), apply=apply, mask=mask, adds=True, slot=slot)


def _pcrel(name: str, code: int, apply: Apply, mask: int, fits: Fits | None = None, **more: bool) -> Field:
    return Field(name=name, code=code, width=4, apply=apply, mask=mask, fits=fits, **more)  # type: ignore[arg-type]


_FIELDS = [
    plain("32", 1, 32, relative=False, high=1 << 32),
    plain("64", R_64, 64, relative=False),
    _jump("BRANCH", 16, 4, 12, (12, 1, 31), (5, 6, 25), (1, 4, 8), (11, 1, 7)),
    _jump("JAL", 17, 4, 20, (20, 1, 31), (1, 10, 21), (11, 1, 20), (12, 8, 12)),
    Field(name="CALL_PLT", code=CALL_PLT, width=8, apply=_call, mask=0xFFF00000FFFFF000, fits=_reach, relative=True),
    _pcrel("GOT_HI20", GOT_HI20, _got, 0xFFFFF000, leads=True),
    _pcrel("PCREL_HI20", HI20, _hi20, 0xFFFFF000, _reach, leads=True),
    _pcrel("PCREL_LO12_I", LO12_I, _lo12_i, 0xFFF00000, pair=True),
    _pcrel("PCREL_LO12_S", LO12_S, _lo12_s, 0xFE000F80, pair=True),
    _pcrel("HI20", 26, _absolute(_hi20), 0xFFFFF000, _low_word),
    _pcrel("LO12_I", 27, _absolute(_lo12_i), 0xFFF00000, _low_word),
    _pcrel("LO12_S", 28, _absolute(_lo12_s), 0xFE000F80, _low_word),
    *(_sum(f"ADD{bits}", code, bits, sign=1, slot=0) for code, bits in ((33, 8), (34, 16), (35, 32), (36, 64))),
    *(_sum(f"SUB{bits}", code, bits, sign=-1, slot=1) for code, bits in ((37, 8), (38, 16), (39, 32), (40, 64))),
    _jump("RVC_BRANCH", 44, 2, 8, (8, 1, 12), (3, 2, 10), (6, 2, 5), (1, 2, 3), (5, 1, 2)),
    _jump(
        "RVC_JUMP",
        45,
        2,
        11,
        (11, 1, 12),
        (4, 1, 11),
        (8, 2, 9),
        (10, 1, 8),
        (6, 1, 7),
        (7, 1, 6),
        (1, 3, 3),
        (5, 1, 2),
    ),
    _sum("SUB6", 52, 6, sign=-1, slot=1),
    *(plain(f"SET{bits}", code, bits, relative=False) for code, bits in ((54, 8), (55, 16), (56, 32))),
    plain("32_PCREL", 57, 32, relative=True, low=-(1 << 31), high=1 << 31),
    plain("PLT32", 59, 32, relative=True, low=-(1 << 31), high=1 << 31),
    Field(name="SET6", code=53, width=1, mask=0x3F, apply=lambda words, target, place: put(words, target & 0x3F, 0x3F)),
]

ARCH = Arch(
    name="riscv64",
    machine=243,
    bits=64,
    # CALL differs from CALL_PLT only in that the kernel makes no PLT entry for it.
    fields={18: next(f for f in _FIELDS if f.code == CALL_PLT), **{one.code: one for one in _FIELDS}},
    ignored=frozenset([0, 51]),  # NONE, RELAX
    prel_exports=False,
    pointer=R_64,
    strides={
        ".alternative": (16, 36),  # struct alt_entry of 6.4 and later, and before
        "__bug_table": (12, 16),
        "__ex_table": (12, 16),
        "__tracepoints_ptrs": (8,),
    },
    placeholders=(".plt", ".got", ".got.plt"),
)
