"""arm64: apply_relocate_add() in arch/arm64/kernel/module.c, instruction fields by the Arm ARM, chapter C4.

A field of an instruction is overwritten whatever it held. Calls out of reach go through .plt there; the model has room
for everything in reach.
"""

import numpy as np

from tests.oracle.arch import Apply, Arch, Bools, Field, Fits, Ints, Words, plain, put, within

ABS64, PREL32, ADRP, ADRP_NC, ADD_LO12, CALL26 = 257, 261, 275, 276, 277, 283
_HALF = 1 << 31


def _page(values: Ints) -> Ints:
    found: Ints = values & ~np.int64(0xFFF)
    return found


def _scaled(shift: int, bits: int, at: int) -> tuple[Apply, Fits, int]:
    """A signed distance in units of 1 << shift, in bits from bit at on (aarch64_insn_encode_immediate)."""
    mask = ((1 << bits) - 1) << at

    def apply(words: Words, target: Ints, place: Ints) -> Words:
        return put(words, ((target - place) >> shift) << at, mask)

    def fits(target: Ints, place: Ints) -> Bools:
        # reloc_insn_imm() drops the low bits in silence: a target between instructions would be another one.
        whole: Bools = (target - place) % (1 << shift) == 0
        limit = 1 << (bits + shift - 1)
        return whole & within(-limit, limit)(target - place)

    return apply, fits, mask


def _branch(name: str, code: int, bits: int, at: int, as_code: int = 0) -> Field:
    apply, fits, mask = _scaled(2, bits, at)
    return Field(name=name, code=as_code or code, width=4, apply=apply, mask=mask, fits=fits, relative=True)


_ADR_MASK = 0x60FFFFE0  # immlo in 30:29, immhi in 23:5


def _adr_bits(values: Ints) -> Ints:
    found: Ints = (values & 3) << 29 | ((values >> 2) & 0x7FFFF) << 5
    return found


def _adr(words: Words, target: Ints, place: Ints) -> Words:
    return put(words, _adr_bits(target - place), _ADR_MASK)


def _adrp(words: Words, target: Ints, place: Ints) -> Words:
    return put(words, _adr_bits((_page(target) - _page(place)) >> 12), _ADR_MASK)


def _adrp_fits(target: Ints, place: Ints) -> Bools:
    return within(-(1 << 32), 1 << 32)(_page(target) - _page(place))


def _low12(name: str, code: int, shift: int) -> Field:
    """The low twelve bits of an address, in units of the access: imm12 in 21:10."""
    bits = 12 - shift
    mask = ((1 << bits) - 1) << 10

    def apply(words: Words, target: Ints, place: Ints) -> Words:
        return put(words, ((target & 0xFFF) >> shift) << 10, mask)

    def fits(target: Ints, place: Ints) -> Bools:
        whole: Bools = target % (1 << shift) == 0
        return whole

    return Field(name=name, code=code, width=4, apply=apply, mask=mask, fits=fits)


_FIELDS = [
    plain("ABS64", ABS64, 64, relative=False),
    plain("ABS32", 258, 32, relative=False, high=2 * _HALF),
    plain("ABS16", 259, 16, relative=False, high=1 << 16),
    plain("PREL64", 260, 64, relative=True),
    plain("PREL32", PREL32, 32, relative=True, low=-_HALF, high=_HALF),
    plain("PREL16", 262, 16, relative=True, low=-(1 << 15), high=1 << 15),
    _branch("LD_PREL_LO19", 273, 19, 5),
    Field(
        name="ADR_PREL_LO21",
        code=274,
        width=4,
        apply=_adr,
        mask=_ADR_MASK,
        fits=lambda target, place: within(-(1 << 20), 1 << 20)(target - place),
        relative=True,
    ),
    Field(name="ADRP", code=ADRP, width=4, apply=_adrp, mask=_ADR_MASK, fits=_adrp_fits, pages=True),
    Field(name="ADRP_NC", code=ADRP_NC, width=4, apply=_adrp, mask=_ADR_MASK, pages=True),
    _low12("ADD_LO12", ADD_LO12, 0),
    _low12("LDST8_LO12", 278, 0),
    _branch("TSTBR14", 279, 14, 5),
    _branch("CONDBR19", 280, 19, 5),
    _low12("LDST16_LO12", 284, 1),
    _low12("LDST32_LO12", 285, 2),
    _low12("LDST64_LO12", 286, 3),
    _low12("LDST128_LO12", 299, 4),
]

ARCH = Arch(
    name="arm64",
    machine=183,
    bits=64,
    fields={
        **{one.code: one for one in _FIELDS},
        # One case label in the kernel.
        282: _branch("CALL26", 282, 26, 0, as_code=CALL26),
        CALL26: _branch("CALL26", CALL26, 26, 0),
    },
    ignored=frozenset([0, 256]),
    pointer=ABS64,
    strides={
        ".altinstructions": (12,),  # struct alt_instr: two distances, cpucap, two lengths
        "__bug_table": (12, 16),
        "__ex_table": (12, 8),  # type and data since 5.16
    },
    placeholders=(".plt", ".init.plt", ".text.ftrace_trampoline", ".init.text.ftrace_trampoline"),
    landing_pads=(b"\x3f\x23\x03\xd5", b"\x5f\x24\x03\xd5"),  # paciasp, bti c
    # Erratum 843419 of Cortex-A53: reloc_insn_adrp() changes an ADRP in the last two words of a page.
    forbidden=0xFF8,
)
