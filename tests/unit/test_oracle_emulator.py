"""The emulator runs a sound init and finds each thing that an init must not do, on every architecture."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracle.arches import BY_NAME
from tests.oracle.emulator import Emulator
from tests.oracle.machine import Pointer, StuckError
from tests.oracle.model import load_model
from tests.oracle.placement import Layout
from tests.oracle.processor import processor_of
from tests.oracle.write import Object

GLUE, ELSEWHERE, MEMBER = 0x60, 0x60, 0x80  # the glue's size; code that is not the glue's; a member's init

# In the order of WANTED: return 7; call MEMBER; the same with the stack pointer half as far; jump to ELSEWHERE; loop;
# zero a register that is the caller's; return with another stack pointer; store into the caller's frame; store to the
# last bytes below it and the first ones of it.
CODE = {
    "x86_64": "b807000000c3 50e87a00000059c3 e87b000000c3 eb5e ebfe 4531e4c3 c20800 89442410c3 894424fec3",
    "arm64": (
        "e0008052c0035fd6 fe0f1ff81f000094fe0741f8c0035fd6 ff2300d11f000094c0035fd6 18000014 00000014"
        " 130080d2c0035fd6 ff4300d1c0035fd6 e00b00f9c0035fd6 e0c31ff8c0035fd6"
    ),
    "riscv64": (
        "1d458280 411106e0ef00c007826041018280 6111ef00e0078280 85a0 01a0 81448280 41118280 2ae88280 233ea1fe8280"
    ),
    "arm": (
        "0700a0e31eff2fe1 08402de91d0000eb0880bde8 04e02de51d0000eb04f09de4 160000ea feffffea"
        " 0040a0e31eff2fe1 03002de91eff2fe1 10008de51eff2fe1 02000de51eff2fe1"
    ),
    "thumb": "07207047 08b500f03df808bd 00b500f03df800bd 00f02eb8 fee7 00247047 03b47047 04907047 4df8020c7047",
}
SEVEN, CALL = range(2)
WANTED = {
    2: "calls with a misaligned stack pointer",
    3: "runs to .text+0x60, which is not its own and no init or import",
    4: "does not end",
    5: "returns with another (r12|x19|s1|r4)",
    6: "returns with another stack pointer",
    7: "writes to 0x600080(08|10), which is not its own",
    8: "writes to 0x60007ff[6-e], which is not its own",
}


def run(machine: str, number: int) -> tuple[object, list[Pointer]]:
    """What the init returns and calls; each call is answered by 5."""
    arch, out = BY_NAME[machine], Object()
    code, ret = bytes.fromhex(CODE[machine].split()[number]).ljust(GLUE, b"\0"), processor_of(arch).ret
    out.section(".text", code + ret * (64 // len(ret)), flags=6, align=16)
    out.section(".modinfo", b"vermagic=6.1 thumb2 \0" if arch.thumb else b"vermagic=6.1 \0")
    layout = Layout([], [(1, 0, GLUE)], [], np.zeros((0, 4), np.int64))
    odd = int(arch.thumb)
    emulator = Emulator(load_model(out.write(arch)), layout, (1, odd), [(1, MEMBER + odd)])
    calls: list[Pointer] = []

    def answer(target: Pointer) -> int:
        calls.append(target)
        return 5

    return emulator.run(odd, answer, steps=1000), calls


@pytest.mark.parametrize("machine", CODE)
def test_an_init_returns_what_it_says(machine: str) -> None:
    assert run(machine, SEVEN) == (7, [])


@pytest.mark.parametrize("machine", CODE)
def test_a_call_of_a_member_is_answered(machine: str) -> None:
    assert run(machine, CALL) == (5, [Pointer(1, MEMBER + (machine == "thumb"))])


@pytest.mark.parametrize("number", WANTED)
@pytest.mark.parametrize("machine", CODE)
def test_what_an_init_must_not_do_is_found(machine: str, number: int) -> None:
    with pytest.raises(StuckError, match=f"^{WANTED[number]}$".replace(".text+", r"\.text\+")):
        run(machine, number)
