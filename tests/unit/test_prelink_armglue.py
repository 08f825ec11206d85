"""arm's glue in ARM and in Thumb-2 instructions, run in Unicorn: Debian has no Thumb-2 kernel to boot it with."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
import unicorn
from unicorn import arm_const as arm

from megamod.prelink.arch.arm_encoder import R_ABS32, ArmEncoder, ThumbEncoder
from megamod.prelink.arch.encoder import GlueCode, GlueRequest
from megamod.prelink.glue_code import encode_init

CODE, STUBS, DATA, STACK, RETURN = 0x100000, 0x300000, 0x500000, 0x700000, 0x900000
RESULT, TIMES, COUNT, LIST = DATA, DATA + 0x8000, DATA + 0x10000, DATA + 0x10010
SAVED = [getattr(arm, f"UC_ARM_REG_R{n}") for n in range(4, 12)]
LOST = [arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3, arm.UC_ARM_REG_R12]
NOT_RUN, ASKED, NEEDS = 3, 1, 2


def bl(place: int, target: int, *, thumb: bool) -> bytes:
    """BL, from the manual's bit fields."""
    if not thumb:
        return struct.pack("<I", 0xEB000000 | (target - place - 8) >> 2 & 0xFFFFFF)
    offset = target - place - 4
    sign = offset >> 24 & 1
    j1, j2 = (offset >> 23 & 1) ^ sign ^ 1, (offset >> 22 & 1) ^ sign ^ 1
    high = 0xF000 | sign << 10 | offset >> 12 & 0x3FF
    return struct.pack("<HH", high, 0xD000 | j1 << 13 | j2 << 11 | offset >> 1 & 0x7FF)


class Glue:
    """One init function in memory. answers: member → its init's value; calls: what was called, in order."""

    def __init__(self, request: GlueRequest, *, thumb: bool) -> None:
        made: GlueCode = encode_init(ThumbEncoder() if thumb else ArmEncoder(), request)
        assert made.bit == int(thumb)
        assert len(made.code) % 4 == 0
        self.request, self.thumb, self.calls = request, thumb, list[str]()
        self.answers: dict[str, int] = {}
        self.clock = 5_000_000_000
        names = ["ktime_get", *map(str, range(len(request.inits)))]
        self.stubs = {name: STUBS + 16 * number for number, name in enumerate(names)}
        places = {"result": RESULT, "nanoseconds": TIMES, "skip0_count": COUNT, "skip0": LIST}
        code = bytearray(made.code)
        for fixup in made.fixups:
            if fixup.kind == R_ABS32:
                struct.pack_into("<I", code, fixup.offset, places[str(fixup.target)])
            else:
                target = self.stubs[str(fixup.target)]
                code[fixup.offset : fixup.offset + 4] = bl(CODE + fixup.offset, target, thumb=thumb)
        engine: Any = unicorn
        self.machine = engine.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM)
        for base in (CODE, STUBS, DATA, STACK, RETURN):
            self.machine.mem_map(base, 0x200000 if base == CODE else 0x100000)
        self.machine.mem_write(CODE, bytes(code))
        for stub in self.stubs.values():
            self.machine.mem_write(stub, bytes.fromhex("7047" if thumb else "1eff2fe1"))  # bx lr
        self.machine.mem_write(RESULT, struct.pack("<i", NOT_RUN) * len(request.inits))

    def skip(self, *members: int) -> None:
        self.machine.mem_write(COUNT, struct.pack(f"<I12x{len(members)}i", len(members), *members))

    def run(self) -> None:
        machine = self.machine
        by_place = {place: name for name, place in self.stubs.items()}

        def at(_machine: Any, address: int, _size: int, _user: object) -> None:
            name = by_place.get(address)
            if name is None:
                return
            self.calls.append(name)
            assert machine.reg_read(arm.UC_ARM_REG_SP) % 8 == 0
            for register in LOST:
                machine.reg_write(register, 0xDEADBEEF)
            if name == "ktime_get":
                self.clock += 1000
                machine.reg_write(arm.UC_ARM_REG_R0, self.clock & 0xFFFFFFFF)
                machine.reg_write(arm.UC_ARM_REG_R1, self.clock >> 32)
            else:
                self.clock += self.answers.get(f"takes {name}", 0)
                machine.reg_write(arm.UC_ARM_REG_R0, self.answers.get(name, 0) & 0xFFFFFFFF)

        machine.hook_add(unicorn.UC_HOOK_CODE, at)
        for number, register in enumerate(SAVED):
            machine.reg_write(register, 0x11110000 + number)
        stack = STACK + 0x8000
        machine.reg_write(arm.UC_ARM_REG_SP, stack)
        machine.reg_write(arm.UC_ARM_REG_LR, RETURN | self.thumb)
        machine.emu_start(CODE | self.thumb, RETURN, count=2_000_000)
        assert machine.reg_read(arm.UC_ARM_REG_PC) & ~1 == RETURN
        assert machine.reg_read(arm.UC_ARM_REG_R0) == 0
        assert machine.reg_read(arm.UC_ARM_REG_SP) == stack
        assert [machine.reg_read(register) for register in SAVED] == [0x11110000 + n for n in range(len(SAVED))]

    def array(self, at: int, form: str) -> list[int]:
        count = len(self.request.inits)
        return list(struct.unpack(f"<{count}{form}", self.machine.mem_read(at, 4 * count)))

    @property
    def results(self) -> list[int]:
        return self.array(RESULT, "i")


def request(
    count: int, *, needs: dict[int, Sequence[int]] | None = None, idle: Sequence[int] = (), timed: bool = False
) -> GlueRequest:
    return GlueRequest(
        inits=[number not in idle for number in range(count)],
        needs=[list((needs or {}).get(number, ())) for number in range(count)],
        skip_chunks=[0],
        timed=timed,
        start=b"",
        thunk=False,
    )


@pytest.fixture(params=[False, True], ids=["ARM", "Thumb-2"])
def thumb(request: Any) -> bool:
    return bool(request.param)


def test_every_init_is_called_once_in_order(thumb):
    glue = Glue(request(5, idle=[2]), thumb=thumb)
    glue.run()
    assert glue.calls == ["0", "1", "3", "4"]
    assert glue.results == [0] * 5


def test_what_needs_a_member_that_failed_is_skipped_and_the_rest_goes_on(thumb):
    glue = Glue(request(6, needs={2: [1], 3: [0, 2], 4: [0]}), thumb=thumb)
    glue.answers = {"1": -19, "5": 7}
    glue.run()
    assert glue.calls == ["0", "1", "4", "5"]
    # A positive value is not an error.
    assert glue.results == [0, -19, NEEDS, NEEDS, 0, 0]


def test_members_are_skipped_when_asked_and_impossible_numbers_do_nothing(thumb):
    glue = Glue(request(300, needs={299: [1]}), thumb=thumb)
    glue.skip(1, 280, -1, 300, 2**31 - 1)
    glue.run()
    assert [number for number, value in enumerate(glue.results) if value == ASKED] == [1, 280]
    assert glue.results[299] == NEEDS
    assert len(glue.calls) == 297


def test_each_init_is_timed_and_more_than_a_long_holds_is_its_largest(thumb):
    glue = Glue(request(4, timed=True), thumb=thumb)
    glue.answers = {"takes 1": 77, "takes 2": 1 << 33, "takes 3": (1 << 32) - 2000}
    glue.run()
    assert glue.array(TIMES, "I") == [1000, 1077, 0xFFFFFFFF, (1 << 32) - 1000]


def test_far_elements_are_reached(thumb):
    count = 1500
    glue = Glue(request(count, needs={1499: [1400]}, timed=True), thumb=thumb)
    glue.answers = {"1400": -1}
    glue.run()
    assert glue.results == [0] * 1400 + [-1] + [0] * 98 + [NEEDS]
    assert glue.array(TIMES, "I")[:1499] == [1000] * 1499
