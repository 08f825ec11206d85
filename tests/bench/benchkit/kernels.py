"""The kernel that a benchmark runs: an unpacked one, or a Debian suite's from the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megamod.initramfs.boot.debian import fetch_kernel
from megamod.initramfs.boot.host import cache_folder
from megamod.profiles.errors import MegamodError
from megamod.profiles.tree import ModuleTree, open_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchKernel:
    """A kernel and its modules."""

    tree: ModuleTree
    vmlinuz: Path

    @property
    def release(self) -> str:
        return self.tree.release


def open_kernel(*, folder: Path | None, suite: str) -> BenchKernel:
    """The kernel unpacked in *folder* (with lib/modules/KVER and boot/vmlinuz-KVER or the like), or that of *suite*."""
    if folder is None:
        kernel = fetch_kernel(suite, architecture="amd64", cache=cache_folder())
        return BenchKernel(tree=open_tree(str(kernel.modules)), vmlinuz=kernel.vmlinuz)
    tree = open_tree(str(folder))
    for path in (folder / f"boot/vmlinuz-{tree.release}", tree.folder / "vmlinuz"):
        if path.exists():
            return BenchKernel(tree=tree, vmlinuz=path)
    found = sorted(folder.rglob("vmlinuz*"))
    if not found:
        raise MegamodError(f"{folder}: no vmlinuz in it")
    return BenchKernel(tree=tree, vmlinuz=found[0])
