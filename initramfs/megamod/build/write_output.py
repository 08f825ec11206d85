"""The finished image → what the profile's `output` asks for: the image, or a UKI around it; the map beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from megamod.build.uki_names import os_release, system_of
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write_all, read_file
from megamod.kernel.exports import kernel_image_of
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile, Uki


def write_output(
    path: Path,
    image: bytes,
    profile: Profile,
    tree: ModuleTree,
    *,
    beside: Sequence[tuple[Path, bytes]] = (),
    private: bool = False,
) -> int:
    """Write *image* or the UKI to *path*, and the files *beside* it: all or none, 0600 if *private*.

    Returns the size of *path*.
    """
    if profile.output is not None:
        with tempfile.TemporaryDirectory(prefix="megamod-output-") as folder:
            inner, outer = Path(folder) / "image", Path(folder) / "uki"
            inner.write_bytes(image)
            _write_uki(outer, inner, profile.output, tree, profile.name)
            image = read_file(outer)
    atomic_write_all([(path, image), *beside], private=private)
    return len(image)


def _write_uki(path: Path, image: Path, uki: Uki, tree: ModuleTree, profile: str) -> int:
    from megamod.image.uki import SecureBootKey, write_uki  # with pefile, which few builds need

    kernel = Path(uki.vmlinuz) if uki.vmlinuz else kernel_of(tree)
    key = None
    if uki.key and uki.cert:
        key = SecureBootKey(key=Path(uki.key), certificate=Path(uki.cert))
    names = os_release(profile=profile, kernel=tree.release, system=system_of(tree.folder, tree.release))
    return write_uki(
        path,
        kernel=kernel,
        image=image,
        command_line=uki.cmdline,
        os_release=_path(uki.os_release) or names,
        splash=_path(uki.splash),
        device_tree=_path(uki.dtb),
        release=tree.release,
        stub=_path(uki.stub),
        secure_boot=key,
    )


def kernel_of(tree: ModuleTree) -> Path:
    """The kernel image beside the modules."""
    if (path := kernel_image_of(tree.kernel_files)) is not None:
        return path
    hint = "--vmlinuz FILE, or `output: {uki: {vmlinuz: FILE}}`"
    raise MegamodError(f"{tree.folder}: no kernel image near it", hint=hint)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
