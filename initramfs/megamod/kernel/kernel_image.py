"""The kernel inside of an image file, whatever the boot loader's wrapping: an ELF file, or what lies in memory.

Read are bzImage, EFI zboot, zImage, uImage, FIT, Android's boot.img, a packed Image, an Image and a vmlinux, one in
another; packed with gzip, xz, zstd, lz4, lzma, bzip2 or lzo.

Sources: Documentation/arch/x86/boot.rst, Documentation/arch/{arm64/booting,riscv/boot-image-header}.rst,
arch/arm/boot/compressed/head.S, drivers/firmware/efi/libstub/zboot-header.S (6.12); include/image.h of U-Boot
(legacy_img_hdr), bootimg.h of Android's mkbootimg (boot_img_hdr_v0 to v4).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from megamod.common.compression import decompress_stream, detect
from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.common.flat_tree import DamagedTreeError, read_tree, texts_of, words_of

_LIMIT = 512 << 20
_MOST_TRIES = 64  # a kernel has the magic numbers a few times by chance
_DEEPEST = 5  # a boot.img with a packed Image has three
# What a stream may begin with inside of a zImage; LZMA as the kernel's build packs it, the size not known beforehand.
_STREAMS = re.compile(
    rb"\x1f\x8b\x08\x00|\xfd7zXZ\0|\x28\xb5\x2f\xfd|\x02\x21\x4c\x18|\x89LZO\0|BZh[1-9]1AY&SY|"
    rb"\x5d\0\0[\x01-\x08\x10\x20\x40\x80]\0(?:\xff{8}|....\0{4})",
    re.DOTALL,
)
_BANNER = re.compile(rb"Linux version ([\x21-\x7e]{1,64}) \(")


def unpacked_kernel(path: Path) -> bytes:
    """The kernel in the image file *path*: a vmlinux (ELF), or what lies in memory; MegamodError for anything else."""
    return unwrap(read_file(path), source=str(path))


def unwrap(data: bytes, *, source: str) -> bytes:
    """The kernel in the bytes of an image file; *source* begins the text of an error."""
    for _ in range(_DEEPEST):
        if data[:4] == b"\x7fELF" or is_flat(data):
            return data
        inner = next((opener(data, source) for fits, opener in _WRAPPINGS if fits(data)), None)
        if inner is None:
            break
        data = inner
    if _BANNER.search(data):
        return data  # the Image of arm, which has no header of its own
    raise MegamodError(f"{source}: is not a kernel image that is known here", hint="give vmlinuz, Image or vmlinux")


def kernel_release(kernel: bytes) -> str | None:
    """The release by which an unpacked kernel calls itself (linux_banner, init/version.c); None if it does not."""
    found = _BANNER.search(kernel)
    return found[1].decode("ascii") if found else None


def is_flat(data: bytes) -> bool:
    """Whether *data* is an Image of arm64 or riscv, by the magic numbers at 0x38."""
    return data[0x38:0x3C] in (b"ARM\x64", b"RSC\x05")


def is_zimage(data: bytes) -> bool:
    """Whether *data* is a zImage of arm (0x016f2818 at 0x24)."""
    return data[0x24:0x28] == bytes.fromhex("18286f01")


def _from_bzimage(data: bytes, source: str) -> bytes:
    """The packed vmlinux of a bzImage: setup header at 0x1f1, protocol 2.08 or newer."""
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (data[0x1F1] + 1) * 512 + offset
    payload = _part(data, start, length, source)
    if payload[:2] != b"\x1f\x8b":
        # gzip ends in the unpacked size; to all others the build appends it (scripts/Makefile.lib, size_append).
        payload = payload[:-4]
    return _unpack(payload, source)


def _from_zboot(data: bytes, source: str) -> bytes:
    offset, size = struct.unpack_from("<II", data, 8)
    return _unpack(_part(data, offset, size, source), source)


def _from_zimage(data: bytes, source: str) -> bytes:
    """The first stream that becomes more than the whole: what is packed lies behind code of its own."""
    for found in islice(_STREAMS.finditer(data), _MOST_TRIES):
        try:
            unpacked, _ = decompress_stream(data, found.start(), limit=_LIMIT, source=source)
        except MegamodError:
            continue  # the magic number by chance, as in the unpacker's own code
        if len(unpacked) > len(data):
            return unpacked
    raise MegamodError(f"{source}: a zImage, and what is packed in it is not found", hint="the file is truncated?")


def _from_uimage(data: bytes, source: str) -> bytes:
    (size,) = struct.unpack_from(">I", data, 12)
    return _part(data, 64, size, source)


def _from_android(data: bytes, source: str) -> bytes:
    (size,) = struct.unpack_from("<I", data, 8)
    page, version = struct.unpack_from("<II", data, 36)
    # From version 3 on the page is 4096, and this field is another.
    return _part(data, 4096 if version in (3, 4) else page, size, source)


def _from_fit(data: bytes, source: str) -> bytes:
    """The first image of type kernel in a FIT image; its data lies in it, or behind the tree (mkimage -E)."""
    size = int.from_bytes(data[4:8], "big")
    try:
        images = read_tree(data[:size]).find("images")
    except DamagedTreeError:
        images = None
    for node in images.children if images is not None else ():
        if texts_of(node.properties.get("type", b"")) not in (("kernel",), ("kernel_noload",)):
            continue
        if "data" in node.properties:
            return node.properties["data"]
        offset, length = (words_of(node.properties.get(name, b"")) for name in ("data-offset", "data-size"))
        if offset and length:
            return _part(data, (size + 3) // 4 * 4 + offset[0], length[0], source)
    raise MegamodError(f"{source}: a FIT image without a kernel in it", hint="the file is truncated?")


def _from_stream(data: bytes, source: str) -> bytes:
    return _unpack(data, source)


def _unpack(data: bytes, source: str) -> bytes:
    """What is packed in the stream that *data* begins with; device trees may follow it (Image.gz-dtb)."""
    if detect(data, source=source) == "none":
        return data
    return decompress_stream(data, 0, limit=_LIMIT, source=source)[0]


def _part(data: bytes, start: int, size: int, source: str) -> bytes:
    if not size or start + size > len(data):
        raise MegamodError(f"{source}: the kernel inside ends beyond the file", hint="the file is truncated")
    return data[start : start + size]


def _is_packed(data: bytes) -> bool:
    return _STREAMS.match(data) is not None or data[:3] == b"\x1f\x8b\x08"


_WRAPPINGS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes, str], bytes]], ...] = (
    (lambda data: data[0x202:0x206] == b"HdrS" and len(data) >= 0x250, _from_bzimage),
    (lambda data: data[:2] == b"MZ" and data[4:8] == b"zimg" and len(data) >= 16, _from_zboot),
    (is_zimage, _from_zimage),
    (lambda data: data[:4] == b"\x27\x05\x19\x56" and len(data) > 64, _from_uimage),
    (lambda data: data[:8] == b"ANDROID!" and len(data) > 4096, _from_android),
    (lambda data: data[:4] == b"\xd0\x0d\xfe\xed" and len(data) > 40, _from_fit),
    (_is_packed, _from_stream),
)
"""Whether the bytes are wrapped so, and what opens them; the first that fits is taken."""
