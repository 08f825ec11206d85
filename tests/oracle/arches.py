"""The architecture of a file, by e_machine, and on arm by its vermagic."""

from tests.oracle import arch_arm, arch_arm64, arch_riscv64, arch_x86_64
from tests.oracle.arch import Arch

_ALL = (arch_x86_64.ARCH, arch_arm64.ARCH, arch_riscv64.ARCH, arch_arm.ARCH)
ARCHES: dict[int, Arch] = {one.machine: one for one in _ALL}
BY_NAME: dict[str, Arch] = {**{one.name: one for one in _ALL}, "thumb": arch_arm.ARCH_THUMB}


def choose(machine: int, modinfo: bytes) -> Arch | None:
    """None for an unknown one. modinfo: the contents of .modinfo; MODULE_ARCH_VERMAGIC has thumb2 for such a kernel."""
    arch = ARCHES.get(machine)
    versions = [text.split() for text in modinfo.split(b"\0") if text.startswith(b"vermagic=")]
    if arch is arch_arm.ARCH and any(b"thumb2" in words for words in versions):
        return arch_arm.ARCH_THUMB
    return arch
