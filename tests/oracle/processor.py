"""What a call does on each processor in Unicorn: the registers that a function must keep, those that it may change."""

from dataclasses import dataclass, replace
from typing import Any

import unicorn
from unicorn import arm64_const, arm_const, riscv_const, x86_const

from tests.oracle.arch import Arch


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """saved and lost: registers that a function must keep, by name, and that it may change.

    link: the register of the return address, None where a call pushes it; results: registers of a result, low word
    first; argument: the register of a call's first argument; align: of the stack pointer at a call, before anything is
    pushed; ret: a return instruction; bit: what pointers to code have beside the address; direction: register and bit
    that must be clear wherever C code runs.
    """

    engine: tuple[int, int]
    pc: int
    sp: int
    link: int | None
    results: tuple[int, ...]
    argument: int
    saved: dict[str, int]
    lost: tuple[int, ...]
    bits: int
    align: int
    ret: bytes
    bit: int = 0
    direction: tuple[int, int] | None = None

    @property
    def pushed(self) -> int:
        """Bytes that a call puts on the stack."""
        return self.bits // 8 if self.link is None else 0


def _registers(module: Any, pattern: str, names: str) -> tuple[int, ...]:
    return tuple(getattr(module, pattern + name) for name in names.split())


def _named(module: Any, pattern: str, names: str) -> dict[str, int]:
    prefix = pattern.rpartition("_")[2]
    values = _registers(module, pattern, names)
    return {(prefix + name).lower(): value for name, value in zip(names.split(), values, strict=True)}


_X86_64 = Processor(
    engine=(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64),
    pc=x86_const.UC_X86_REG_RIP,
    sp=x86_const.UC_X86_REG_RSP,
    link=None,
    results=(x86_const.UC_X86_REG_RAX,),
    argument=x86_const.UC_X86_REG_RDI,
    saved=_named(x86_const, "UC_X86_REG_", "RBX RBP R12 R13 R14 R15"),
    lost=_registers(x86_const, "UC_X86_REG_", "RAX RCX RDX RSI RDI R8 R9 R10 R11"),
    bits=64,
    align=16,
    ret=b"\xc3",
    direction=(x86_const.UC_X86_REG_EFLAGS, 1 << 10),
)
_ARM64 = Processor(
    engine=(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM),
    pc=arm64_const.UC_ARM64_REG_PC,
    sp=arm64_const.UC_ARM64_REG_SP,
    link=arm64_const.UC_ARM64_REG_X30,
    results=(arm64_const.UC_ARM64_REG_X0,),
    argument=arm64_const.UC_ARM64_REG_X0,
    saved=_named(arm64_const, "UC_ARM64_REG_X", "19 20 21 22 23 24 25 26 27 28 29"),
    # x18 is the platform's, a kernel function leaves it alone.
    lost=_registers(arm64_const, "UC_ARM64_REG_X", "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17"),
    bits=64,
    align=16,
    ret=b"\xc0\x03\x5f\xd6",
)
_RISCV64 = Processor(
    engine=(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64),
    pc=riscv_const.UC_RISCV_REG_PC,
    sp=riscv_const.UC_RISCV_REG_SP,
    link=riscv_const.UC_RISCV_REG_RA,
    results=(riscv_const.UC_RISCV_REG_A0,),
    argument=riscv_const.UC_RISCV_REG_A0,
    saved=_named(riscv_const, "UC_RISCV_REG_", "S0 S1 S2 S3 S4 S5 S6 S7 S8 S9 S10 S11 GP TP"),
    lost=_registers(riscv_const, "UC_RISCV_REG_", "T0 T1 T2 T3 T4 T5 T6 A0 A1 A2 A3 A4 A5 A6 A7"),
    bits=64,
    align=16,
    ret=b"\x67\x80\0\0",
)
_ARM = Processor(
    engine=(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM),
    pc=arm_const.UC_ARM_REG_PC,
    sp=arm_const.UC_ARM_REG_SP,
    link=arm_const.UC_ARM_REG_LR,
    results=(arm_const.UC_ARM_REG_R0, arm_const.UC_ARM_REG_R1),
    argument=arm_const.UC_ARM_REG_R0,
    saved=_named(arm_const, "UC_ARM_REG_R", "4 5 6 7 8 9 10 11"),
    lost=_registers(arm_const, "UC_ARM_REG_R", "0 1 2 3 12"),
    bits=32,
    align=8,
    ret=b"\x1e\xff\x2f\xe1",  # bx lr
)
_THUMB = replace(_ARM, engine=(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB), ret=b"\x70\x47", bit=1)
_PROCESSORS = {"x86_64": _X86_64, "arm64": _ARM64, "riscv64": _RISCV64, "arm": _ARM}


def processor_of(arch: Arch) -> Processor:
    """The one that runs code of this architecture."""
    return _THUMB if arch.thumb else _PROCESSORS[arch.name]
