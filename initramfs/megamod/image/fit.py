"""A FIT image for U-Boot: kernel, device trees and initramfs in one flattened tree, each with its hash.

Source: doc/usage/fit/source_file_format.rst of U-Boot (node names, mandatory properties), boot/bootm.c (2023.01).
The kernel is started where U-Boot finds it fit (`kernel_noload`) unless an address is given: an Image of arm64 is moved
to where its header wants it (bootm_find_os(), booti_setup()). riscv64 wants an address, and so does a zImage of arm: it
takes memory to begin at the 128 MiB that it is started in (arch/arm/boot/compressed/head.S, AUTO_ZRELADDR).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megamod.common.compression import decompress_stream
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write, is_private, not_an_input, read_file, source_date_epoch
from megamod.common.flat_tree import (
    MAGIC,
    DamagedTreeError,
    TreeNode,
    read_tree,
    texts_bytes,
    texts_of,
    tree_bytes,
    words_bytes,
)
from megamod.image.archive import read_image
from megamod.kernel.kernel_image import is_zimage

_LIMIT = 512 << 20
_ARCHES = {0x28: "arm", 0xB7: "arm64", 0xF3: "riscv"}  # e_machine → U-Boot's name
_MAX_DTB = 16 << 20
# Linux's usual place, 2 MiB behind the start of memory (Documentation/riscv/boot-image-header.rst), of most boards.
_RISCV_LOAD = 0x80200000


@dataclass(frozen=True, slots=True, kw_only=True)
class FitKernel:
    """A kernel as U-Boot starts it: *arch* in U-Boot's words."""

    data: bytes
    arch: str


def write_fit(output: Path, *, image: Path, vmlinuz: Path, dtbs: Sequence[Path], load: int | None = None) -> int:
    """Write the FIT image and return its size in bytes. The first of *dtbs* is that of the default configuration; the
    others are taken by name (`bootm ADDRESS#conf-2`) or by their `compatible`."""
    not_an_input(output, (image, vmlinuz, *dtbs))
    kernel = fit_kernel(vmlinuz)
    machine = machine_of(image)
    if _ARCHES.get(machine) != kernel.arch:
        other = _ARCHES.get(machine, "another architecture")
        raise MegamodError(f"{image}: is for {other}, {vmlinuz} for {kernel.arch}")
    if kernel.arch == "arm" and load is None:
        hint = "--load ADDRESS: in the first 128 MiB of the board's memory, 16 MiB or more from its start"
        raise MegamodError(f"{vmlinuz}: a zImage must be started at an address of the board's", hint=hint)
    trees = [_device_tree(path) for path in dtbs]
    made = make_fit(kernel, read_file(image), [(path.name, data) for path, data in zip(dtbs, trees, strict=True)], load)
    atomic_write(output, made, private=is_private(image, *dtbs))
    return len(made)


def make_fit(kernel: FitKernel, ramdisk: bytes, trees: Sequence[tuple[str, bytes]], load: int | None) -> bytes:
    """The flattened tree; the same bytes for the same input and SOURCE_DATE_EPOCH."""
    if load is None and kernel.arch == "riscv":
        load = _RISCV_LOAD
    top = TreeNode("")
    top.put(description="megamod: kernel and initramfs")
    top.properties["timestamp"] = words_bytes(source_date_epoch(os.environ))
    top.properties["#address-cells"] = words_bytes(1)
    images = top.child("images")
    kind = "kernel_noload" if load is None else "kernel"
    node = _image(images, "kernel-1", "Linux", kernel.data, type=kind, arch=kernel.arch, os="linux")
    # Words of 32 bits, as #address-cells says. Without an address both count from where the kernel lies.
    node.properties |= {"load": words_bytes(load or 0), "entry": words_bytes(load or 0)}
    # `none`: the kernel unpacks its initramfs itself.
    _image(images, "ramdisk-1", "initramfs", ramdisk, type="ramdisk", arch=kernel.arch, os="linux")
    configurations = top.child("configurations")
    configurations.put(default="conf-1")
    for number, (name, data) in enumerate(trees or [("", b"")], start=1):
        configuration = configurations.child(f"conf-{number}")
        configuration.put(description=name or "Linux", kernel="kernel-1", ramdisk="ramdisk-1")
        if data:
            _image(images, f"fdt-{number}", name, data, type="flat_dt", arch=kernel.arch)
            configuration.put(fdt=f"fdt-{number}")
            compatible = _compatible(data)
            if compatible:
                configuration.properties["compatible"] = texts_bytes(*compatible)
    return tree_bytes(top)


def _image(images: TreeNode, name: str, description: str, data: bytes, **texts: str) -> TreeNode:
    node = images.child(name)
    node.put(description=description, **texts, compression="none")
    node.properties["data"] = data
    digest = node.child("hash-1")
    digest.put(algo="sha256")
    digest.properties["value"] = hashlib.sha256(data).digest()
    return node


def fit_kernel(path: Path) -> FitKernel:
    """The kernel in *path*: an Image of arm64 or riscv64, plain or in an EFI image that unpacks itself, or a zImage."""
    data = read_file(path)
    if data[4:8] == b"zimg":
        # zboot-header.S (drivers/firmware/efi/libstub, 6.1): offset and size of the packed Image.
        offset = int.from_bytes(data[8:12], "little")
        data, _end = decompress_stream(data, offset, limit=_LIMIT, source=str(path))
    elif data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"\x02\x21\x4c\x18")):
        data, _end = decompress_stream(data, 0, limit=_LIMIT, source=str(path))
    magic = {b"ARM\x64": "arm64", b"RSC\x05": "riscv"}
    arch = "arm" if is_zimage(data) else magic.get(data[0x38:0x3C])
    if arch is None:
        what = "a bzImage, which U-Boot starts by `zboot`" if data[0x202:0x206] == b"HdrS" else "no kernel image"
        hint = "a FIT image is for an Image of arm64 or riscv64, or a zImage of arm; x86 has `output: uki`"
        raise MegamodError(f"{path}: {what}", hint=hint)
    return FitKernel(data=data, arch=arch)


def machine_of(image: Path) -> int:
    """The ELF machine of the image's /init."""
    init = next((entry.data for entry in read_image(image) if entry.path == "init"), b"")
    if init[:4] != b"\x7fELF" or len(init) < 20:
        raise MegamodError(f"{image}: has no /init from megamod", hint="give an image that megamod build made")
    return int(struct.unpack_from("<H", init, 18)[0])


def _device_tree(path: Path) -> bytes:
    data = read_file(path)
    if not data.startswith(MAGIC) or len(data) < 40 or not 40 <= int.from_bytes(data[4:8], "big") <= len(data):
        raise MegamodError(f"{path}: is not a device tree", hint="dtc -O dtb makes one from its source")
    if len(data) > _MAX_DTB:
        raise MegamodError(f"{path}: is larger than {_MAX_DTB} bytes")
    # What follows the tree in the file is not part of it; QEMU's dump has a mebibyte of zeros there.
    return data[: int.from_bytes(data[4:8], "big")]


def _compatible(data: bytes) -> tuple[str, ...]:
    try:
        return texts_of(read_tree(data).properties.get("compatible", b""))
    except DamagedTreeError:
        return ()  # without the property U-Boot goes by name
