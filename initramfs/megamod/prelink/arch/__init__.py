"""The architectures that megamod links, by ELF machine: one file each, all that a pass asks of one in interface.py."""

from __future__ import annotations

from megamod.prelink.arch.arm import ARM, ARM_THUMB2
from megamod.prelink.arch.arm64 import ARM64
from megamod.prelink.arch.interface import Architecture
from megamod.prelink.arch.riscv64 import RISCV64
from megamod.prelink.arch.x86_64 import X86_64

ARCHITECTURES = {known.machine: known for known in (X86_64, ARM64, RISCV64, ARM)}


def architecture_of(machine: int, vermagic: str = "") -> Architecture | None:
    """The architecture of an ELF e_machine and a kernel's vermagic, None for one that cannot be linked."""
    if machine == ARM.machine and "thumb2" in vermagic.split():
        return ARM_THUMB2
    return ARCHITECTURES.get(machine)


def known_names() -> str:
    """For messages: ``arm64 and x86_64``."""
    names = sorted(known.name for known in ARCHITECTURES.values())
    return f"{', '.join(names[:-1])} and {names[-1]}"
