"""The kernel that a benchmark runs: an unpacked one, or a Debian suite's from the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megamod.boot.debian import fetch_kernel
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from megamod.modules.tree import ModuleTree, open_tree
from megamod.prelink.read import read_members


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchKernel:
    """A kernel and its modules. arch: the loader's name of its architecture."""

    tree: ModuleTree
    vmlinuz: Path
    arch: str

    @property
    def release(self) -> str:
        return self.tree.release


def open_kernel(*, folder: Path | None, suite: str, architecture: str = "amd64") -> BenchKernel:
    """The kernel unpacked in *folder* (with lib/modules/KVER and boot/vmlinuz-KVER or the like), or that of *suite*."""
    if folder is None:
        flavour = {"armhf": "armmp"}.get(architecture, architecture)
        kernel = fetch_kernel(suite, flavour=flavour, architecture=architecture, cache=cache_folder())
        tree = open_tree(str(kernel.modules))
        return BenchKernel(tree=tree, vmlinuz=kernel.vmlinuz, arch=_arch_of(tree))
    tree = open_tree(str(folder))
    for path in (folder / f"boot/vmlinuz-{tree.release}", tree.folder / "vmlinuz"):
        if path.exists():
            return BenchKernel(tree=tree, vmlinuz=path, arch=_arch_of(tree))
    found = sorted(folder.rglob("vmlinuz*"))
    if not found:
        raise MegamodError(f"{folder}: no vmlinuz in it")
    return BenchKernel(tree=tree, vmlinuz=found[0], arch=_arch_of(tree))


def _arch_of(tree: ModuleTree) -> str:
    return read_members([next(iter(tree.modules.values())).path])[0].architecture.loader
