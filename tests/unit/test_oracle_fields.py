"""What the oracle writes into instructions is what a disassembler reads from them, over the whole range."""

from __future__ import annotations

import random
import struct
from typing import Any

import capstone
import numpy as np
import pytest

from tests.oracle.arch import Field
from tests.oracle.arches import BY_NAME

PLACE = 0x10000000
MODES: dict[str, Any] = {
    "arm64": (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM),
    "riscv64": (capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC),
    "arm": (capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM),
    "thumb": (capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB),
}


def written(form: Field, word: str, target: int, place: int = PLACE) -> bytes:
    """The instruction after relocation; its field held ones before."""
    raw = int.from_bytes(bytes.fromhex(word), "little") | form.mask
    out = form.apply(np.array([raw], np.uint64), np.array([target]), np.array([place]))
    return struct.pack("<Q", int(out[0]))[: form.width]


def numbers(machine: str, code: bytes, place: int = PLACE) -> list[tuple[str, list[int]]]:
    """Mnemonic and immediate operands of each instruction, as capstone prints them."""
    engine = capstone.Cs(*MODES[machine])
    found = []
    for _, _, word, operands in engine.disasm_lite(code, place):
        texts = (
            operands.replace("[", " ").replace("]", " ").replace("(", " ").replace(")", " ").replace(",", " ").split()
        )
        values = [text.lstrip("#") for text in texts]
        found.append((word, [int(v, 0) for v in values if v.lstrip("-")[:1].isdigit()]))
    return found


def distances(bits: int, step: int) -> list[int]:
    """Both ends of a signed range, zero, and some between."""
    rng = random.Random(bits)
    half = 1 << (bits - 1)
    return [-half, half - step, 0, step, -step, *(rng.randrange(-half, half, step) for _ in range(20))]


@pytest.mark.parametrize(
    ("machine", "kind", "word", "bits", "step"),
    [
        ("arm64", 283, "00000094", 28, 4),  # bl
        ("arm64", 282, "00000014", 28, 4),  # b
        ("arm64", 280, "00000054", 21, 4),  # b.eq
        ("arm64", 280, "00000034", 21, 4),  # cbz
        ("arm64", 273, "00000058", 21, 4),  # ldr x0, label
        ("arm64", 274, "00000010", 21, 1),  # adr
    ],
)
def test_arm64_branches_go_where_they_must(machine: str, kind: int, word: str, bits: int, step: int) -> None:
    form = BY_NAME[machine].fields[kind]
    for distance in distances(bits, step):
        assert numbers(machine, written(form, word, PLACE + distance))[0][1] == [PLACE + distance]
        assert form.fits is not None and form.fits(np.array([PLACE + distance]), np.array([PLACE]))[0]
    for outside in (-(1 << bits - 1) - step, 1 << bits - 1):
        assert form.fits is not None and not form.fits(np.array([PLACE + outside]), np.array([PLACE]))[0]


def test_arm64_tbz_goes_where_it_must() -> None:
    for distance in distances(16, 4):
        code = written(BY_NAME["arm64"].fields[279], "00000036", PLACE + distance)
        assert numbers("arm64", code)[0] == ("tbz", [0, PLACE + distance])


def test_arm64_adrp_names_the_page_from_any_place() -> None:
    for distance in distances(33, 1):
        target = (1 << 36) + distance
        place = (1 << 36) + 0xFF4
        code = written(BY_NAME["arm64"].fields[275], "00000090", target, place)
        assert numbers("arm64", code, place)[0] == ("adrp", [target & ~0xFFF])


@pytest.mark.parametrize(
    ("kind", "word", "step"),
    [
        (277, "00000091", 1),  # add x0, x0
        (278, "00004039", 1),  # ldrb w0, [x0]
        (284, "00004079", 2),  # ldrh
        (285, "000040b9", 4),  # ldr w0
        (286, "000040f9", 8),  # ldr x0
        (299, "0000c03d", 16),  # ldr q0
    ],
)
def test_arm64_low_parts_are_those_of_the_address(kind: int, word: str, step: int) -> None:
    form = BY_NAME["arm64"].fields[kind]
    for low in range(0, 4096, step * 13):
        assert (numbers("arm64", written(form, word, 0x12345000 + low))[0][1] or [0]) == [low]
    if step > 1:
        assert form.fits is not None and not form.fits(np.array([1]), np.array([0]))[0]


@pytest.mark.parametrize(
    ("kind", "word", "bits"),
    [
        (16, "63000000", 13),  # beq zero, zero
        (17, "6f000000", 21),  # jal zero
        (44, "01c1", 9),  # c.beqz s0... a0
        (45, "01a0", 12),  # c.j
    ],
)
def test_riscv64_branches_go_where_they_must(kind: int, word: str, bits: int) -> None:
    form = BY_NAME["riscv64"].fields[kind]
    for distance in distances(bits, 2):
        # capstone prints the distance
        assert numbers("riscv64", written(form, word, PLACE + distance))[0][1][-1:] == [distance]
    for outside in (-(1 << bits - 1) - 2, 1 << bits - 1, 1):
        assert form.fits is not None and not form.fits(np.array([PLACE + outside]), np.array([PLACE]))[0]


def pair(code: bytes) -> int:
    """The distance that auipc and the signed low part of the second instruction make."""
    (_, high), (_, low) = numbers("riscv64", code)
    upper = (high[-1] ^ 1 << 19) - (1 << 19)
    return (upper << 12) + (low[0] if low else 0)  # addi of 0 is printed as mv


def test_riscv64_call_is_the_sum_of_its_two_instructions() -> None:
    form = BY_NAME["riscv64"].fields[19]
    for distance in [*distances(31, 2), 0x7FF, 0x800, 0xFFF, -0x800, -0x801, (1 << 31) - 0x801, -(1 << 31) - 0x800]:
        code = written(form, "97000000e7800000", PLACE + distance)
        assert (code[0] | code[1] << 8) & 0xFFF == 0x97 and code[4:6] == b"\xe7\x80"
        high, low = struct.unpack("<iI", code)
        assert (high >> 12 << 12) + ((low >> 20 ^ 0x800) - 0x800) == distance


@pytest.mark.parametrize(("kind", "word"), [(24, "13050500"), (25, "2320a500")])
def test_riscv64_high_and_low_part_make_the_distance_from_the_label(kind: int, word: str) -> None:
    fields = BY_NAME["riscv64"].fields
    for distance in [*distances(31, 1), 0x7FF, 0x800, 0xFFF, -0x800, -0x801]:
        code = written(fields[23], "17050000", PLACE + distance) + written(fields[kind], word, PLACE + distance)
        assert pair(code) == distance


def test_riscv64_sums_add_and_take_away() -> None:
    fields = BY_NAME["riscv64"].fields
    for add, sub, size in ((33, 37, 1), (34, 38, 2), (35, 39, 4), (36, 40, 8)):
        one = fields[add].apply(np.array([0], np.uint64), np.array([PLACE + 0x35]), np.array([0]))
        both = fields[sub].apply(one, np.array([PLACE]), np.array([0]))
        assert int(both[0]) == 0x35 and fields[add].width == fields[sub].width == size
        assert fields[add].slot != fields[sub].slot


def test_arm_branch_goes_where_it_must_and_reads_its_addend() -> None:
    form = BY_NAME["arm"].fields[28]
    for distance in distances(26, 4):
        # S + A with A = -8
        code = written(form, "000000eb", PLACE + distance - 8) if distance - 8 >= -(1 << 25) else b""
        assert not code or numbers("arm", code) == [("bl", [PLACE + distance])]
        assert form.addend is not None
        assert not code or form.addend(np.frombuffer(code + bytes(4), np.uint64))[0] == distance - 8
    for outside in (-(1 << 25), 1 << 25, 2):  # the kernel's lower limit is open
        assert form.fits is not None and not form.fits(np.array([PLACE + outside]), np.array([PLACE]))[0]


@pytest.mark.parametrize(("kind", "word", "shift"), [(43, "000000e3", 0), (44, "000040e3", 16)])
def test_arm_moves_hold_one_half_of_the_address_each(kind: int, word: str, shift: int) -> None:
    for value in (0, 1, 0xFFFF, 0x12345678, 0xF0F0A5A5, 0x8000):
        code = written(BY_NAME["arm"].fields[kind], word, value)
        assert numbers("arm", code)[0][1] == [value >> shift & 0xFFFF]


def test_thumb_branch_goes_where_it_must_and_reads_its_addend() -> None:
    form = BY_NAME["thumb"].fields[10]
    for distance in distances(25, 2)[1:]:
        # S + A with A = -4 and the Thumb bit
        code = written(form, "00f000d0", PLACE + distance - 4 | 1)
        assert numbers("thumb", code) == [("bl", [PLACE + distance])]
        assert form.addend is not None
        assert form.addend(np.frombuffer(code + bytes(4), np.uint64))[0] == distance - 4


@pytest.mark.parametrize(("kind", "word", "shift"), [(47, "40f20000", 0), (48, "c0f20000", 16)])
def test_thumb_moves_hold_one_half_of_the_address_each(kind: int, word: str, shift: int) -> None:
    form = BY_NAME["thumb"].fields[kind]
    for value in (0, 1, 0xFFFF, 0x12345678, 0xF0F0A5A5, 0x8000, 0x0800):
        code = written(form, word, value)
        assert numbers("thumb", code)[0][1] == [value >> shift & 0xFFFF]
        half = value >> shift & 0xFFFF
        assert form.addend is not None
        assert form.addend(np.frombuffer(code + bytes(4), np.uint64))[0] == (half ^ 0x8000) - 0x8000


def test_arm_prel31_keeps_its_top_bit() -> None:
    form = BY_NAME["arm"].fields[42]
    for top in (0, 0x80000000):
        out = form.apply(np.array([top], np.uint64), np.array([PLACE - 8]), np.array([PLACE]))
        assert int(out[0]) == top | 0x7FFFFFF8


def test_x86_64_fields_are_plain_numbers() -> None:
    fields = BY_NAME["x86_64"].fields
    assert struct.unpack("<i", written(fields[2], "00000000", PLACE - 5)) == (-5,)
    assert struct.unpack("<q", written(fields[24], "00" * 8, PLACE - 5)) == (-5,)
    assert struct.unpack("<Q", written(fields[1], "00" * 8, -1)) == ((1 << 64) - 1,)
