"""`megamod append`: kernel and image in one file, where the way the kernel is started allows it.

| kernel | what can carry the image |
| --- | --- |
| with an EFI entry (bzImage, Image of arm64 and riscv64) | a section of an EFI program: a UKI (uki.py) |
| started by U-Boot (Image, zImage) | a FIT image (fit.py): the kernel itself looks for no initramfs behind it |
| vmlinux | nothing once it is linked: the built-in archive lies between other data (usr/initramfs_data.S) |

A bzImage finds its initramfs by ramdisk_image of the boot parameters alone (Documentation/x86/boot.rst), an arm64 Image
by /chosen of the device tree (Documentation/arm64/booting.rst): data that is put behind the file is read by nobody.
"""

from __future__ import annotations

from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.image.archive import read_image
from megamod.image.uki import efi_machine, find_stub, write_uki
from megamod.kernel.kernel_image import is_zimage


def append_image(kernel: Path, image: Path, output: Path, *, command_line: str = "", stub: Path | None = None) -> int:
    """Write *output*, one EFI program of *kernel* and *image*; returns its size in bytes.

    Raises MegamodError with the reason and the alternative for a kernel that cannot carry an image.
    """
    data = read_file(kernel)
    why_not = _why_not(data)
    if why_not is not None:
        raise MegamodError(f"{kernel}: {why_not[0]}", hint=why_not[1])
    read_image(image)  # nothing but an image goes in
    return write_uki(
        output,
        kernel=kernel,
        image=image,
        command_line=command_line,
        stub=stub or find_stub(efi_machine(data, str(kernel))),
    )


def _why_not(data: bytes) -> tuple[str, str] | None:
    built_in = "CONFIG_INITRAMFS_SOURCE takes an image when the kernel is built"
    if data[:4] == b"\x7fELF":
        return "a linked vmlinux has no room for an image: its own lies between other data", built_in
    if is_zimage(data):
        return "a zImage looks for a device tree behind it, for no image", f"megamod fit; or {built_in}"
    if data[:2] == b"MZ":
        return None
    if data[0x38:0x3C] in (b"ARM\x64", b"RSC\x05"):
        return "an Image without CONFIG_EFI_STUB looks for its image where the device tree says", "megamod fit"
    if data[0x202:0x206] == b"HdrS":
        return "a bzImage without CONFIG_EFI_STUB looks for its image where the boot loader says", built_in
    return "no kernel image", "give vmlinuz"
