"""Debian's kernel for amd64 as QEMU starts it without its decompressor, which takes most of a boot under TCG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megamod.boot.debian import Kernel
from megamod.kernel.kernel_image import unpacked_kernel


def slow_clock(shift: int) -> Sequence[str]:
    """Options of QEMU for `run_qemu(icount=True)`: an instruction takes 2**shift ns of the guest's time, so a guest
    that keeps its processor busy for seconds costs this machine less."""
    return ("-icount", f"shift={shift},sleep=off")


def quick_kernel(kernel: Kernel, folder: Path) -> Path:
    """The ELF image of *kernel* in *folder*, started by its PVH note (CONFIG_PVH); other architectures' as they are."""
    if kernel.architecture != "amd64":
        return kernel.vmlinuz
    path = folder / f"vmlinux-{kernel.release}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(unpacked_kernel(kernel.vmlinuz))
    return path
