"""What a command takes where the user has named nothing: the running kernel, its image file, a name for the output."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from megamod.cli.options import say
from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from megamod.modules.tree import ModuleTree
    from megamod.profile.model import Profile


def chosen_tree(
    kernel: str | None, named: Mapping[str, Path] | None = None, *, overlays: Sequence[str] = ()
) -> ModuleTree:
    """The module tree that *kernel* names, by default that of the running kernel, with the modules of *overlays*;
    *named* are files of the kernel that the user has named, by field of KernelFiles."""
    from megamod.modules.tree import open_tree

    try:
        tree = open_tree(os.uname().release if kernel is None else _fetched(kernel), overlays=overlays)
        return replace(tree, named=named or {})
    except MegamodError as error:
        if kernel is not None:
            raise
        hint = f"name another one with -k; {error.hint}" if error.hint else "name another one with -k"
        raise MegamodError(f"the running kernel: {error.message}", hint=hint) from None


_DEBIAN = "debian:"


def _fetched(kernel: str) -> str:
    """*kernel* as it is, or for ``debian:SUITE[:ARCHITECTURE]`` the folder with the newest kernel of that suite."""
    if not kernel.startswith(_DEBIAN):
        return kernel
    from megamod.boot.debian import fetch_kernel
    from megamod.common.host import cache_folder

    suite, _, architecture = kernel.removeprefix(_DEBIAN).partition(":")
    fetched = fetch_kernel(
        suite, architecture=architecture or None, cache=cache_folder(), say=lambda line: say(line, err=True)
    )
    return str(fetched.modules)


def default_output(profile: Profile, tree: ModuleTree) -> Path:
    """PROFILE-KVER.img in the current folder; .efi where the profile asks for a UKI."""
    return Path(f"{profile.name}-{tree.release}.{'efi' if profile.output else 'img'}")


def kernel_image(image: Path, *, kernel: str | None, vmlinuz: Path | None) -> Path:
    """The kernel to boot *image* with: *vmlinuz*, or the one that belongs to the modules that *kernel* names.

    By default those are this machine's modules of the release that the image was built for.
    """
    from megamod.kernel.exports import kernel_image_of
    from megamod.modules.tree import open_tree

    if vmlinuz is not None:
        return vmlinuz
    if kernel is None:
        kernel = _release_of(image)
    try:
        tree = open_tree(_fetched(kernel))
    except MegamodError as error:
        raise MegamodError(f"{image}: no kernel to boot it with: {error.message}", hint="--vmlinuz FILE") from None
    if (path := kernel_image_of(tree.kernel_files)) is not None:
        return path
    raise MegamodError(f"{tree.folder}: no kernel image near it", hint="--vmlinuz FILE")


@contextlib.contextmanager
def with_busybox(image: Path, disks: tuple[Path, ...], *, wanted: bool) -> Iterator[tuple[Path, ...]]:
    """*disks*, and before them one with busybox if that is *wanted*."""
    if not wanted:
        yield disks
        return
    from megamod.boot.busybox_disk import busybox_disk
    from megamod.boot.timeline import image_architecture
    from megamod.common.host import cache_folder

    with tempfile.TemporaryDirectory(prefix="megamod-disk-") as folder:
        arch = image_architecture(image)
        disk = busybox_disk(
            Path(folder) / "root.ext4", arch=arch, cache=cache_folder(), say=lambda line: say(line, err=True)
        )
        yield (disk, *disks)


def _release_of(image: Path) -> str:
    from megamod.build.manifest import MANIFEST_PATH, Manifest
    from megamod.inspect.image_files import image_files

    entry = image_files(image).get(MANIFEST_PATH)
    if entry is None:
        raise MegamodError(f"{image}: does not say which kernel it is for", hint="--vmlinuz FILE")
    return Manifest.from_json(entry.data, source=f"{image}: {MANIFEST_PATH}").kernel
