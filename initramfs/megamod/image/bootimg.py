"""Android's boot.img and vendor_boot.img: what the boot loaders of many arm64 boards read from a partition.

Source: system/tools/mkbootimg of AOSP (include/bootimg/bootimg.h: boot_img_hdr_v2 to v4, vendor_boot_img_hdr_v3 and v4;
mkbootimg.py: addresses, padding, the identifier). Guarantees the bytes that mkbootimg writes for the same input.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write, is_private, not_an_input, read_file
from megamod.common.flat_tree import MAGIC

VERSIONS = (2, 3, 4)
PAGES = (2048, 4096, 8192, 16384)
_BASE = 0x10000000
# From the base: kernel, ramdisk, device tree, the kernel's tags.
_KERNEL, _RAMDISK, _DTB, _TAGS = 0x8000, 0x01000000, 0x01F00000, 0x100
_FIXED_PAGE = 4096  # of boot.img from version 3 on
_V2 = struct.Struct("<8s10I16s512s32s1024sIQIIQ")
_V3 = struct.Struct("<8s4I16xI1536s")
_VENDOR_V3 = struct.Struct("<8s5I2048sI16sIIQ")
_VENDOR_V4 = struct.Struct("<4I")
_FRAGMENT = struct.Struct("<3I32s64x")  # struct vendor_ramdisk_table_entry_v4
_PLATFORM = 1  # VENDOR_RAMDISK_TYPE_PLATFORM: loaded at each boot
_TREE_HINT = "dtc -O dtb makes one from its source"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootImage:
    """What goes in. *os_version* is ``14`` or ``14.0.1``, *patch_level* ``2024-05``, "" for none; *base* is where the
    board's memory is taken to start; *page* counts for version 2 and for vendor_boot."""

    kernel: bytes
    ramdisk: bytes
    version: int
    command_line: str = ""
    device_tree: bytes = b""
    bootconfig: bytes = b""
    base: int = _BASE
    page: int = 2048
    os_version: str = ""
    patch_level: str = ""

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise MegamodError(f"header version {self.version}: not known", hint="2, 3 or 4")
        if self.page not in PAGES:
            raise MegamodError(f"page size {self.page}: not one of {', '.join(map(str, PAGES))}")
        if not 0 <= self.base < 1 << 32 or self.base + _DTB >= 1 << 32:
            raise MegamodError(f"base {self.base:#x}: too high", hint="the addresses of a boot.img have 32 bits")


def write_boot_image(
    output: Path,
    *,
    image: Path,
    kernel: Path,
    version: int,
    vendor_boot: Path | None = None,
    device_tree: Path | None = None,
    bootconfig: Path | None = None,
    command_line: str = "",
    base: int = _BASE,
    page: int = 2048,
    os_version: str = "",
    patch_level: str = "",
) -> dict[Path, int]:
    """Write boot.img to *output*, with *vendor_boot* that too; returns the sizes in bytes by file.

    Device tree, command line and image are in vendor_boot then, and boot.img has the kernel alone. Raises MegamodError
    for what the header's version has no place for.
    """
    inputs = (image, kernel, device_tree, bootconfig)
    for path in (output, vendor_boot):
        if path is not None:
            not_an_input(path, inputs)
    if vendor_boot is not None and vendor_boot.absolute() == output.absolute():
        raise MegamodError(f"{output}: boot.img and vendor_boot.img need a file each")
    given = BootImage(
        kernel=read_file(kernel),
        ramdisk=read_file(image),
        version=version,
        command_line=command_line,
        device_tree=_checked_tree(device_tree) if device_tree else b"",
        bootconfig=read_file(bootconfig) if bootconfig else b"",
        base=base,
        page=page,
        os_version=os_version,
        patch_level=patch_level,
    )
    made = {output: boot_bytes(given, vendor=vendor_boot is not None)}
    if vendor_boot is not None:
        made[vendor_boot] = vendor_bytes(given)
    for path, data in made.items():
        atomic_write(path, data, private=is_private(*(each for each in inputs if each)))
    return {path: len(data) for path, data in made.items()}


def boot_bytes(given: BootImage, *, vendor: bool) -> bytes:
    """boot.img; with *vendor* what vendor_boot.img has is not in it."""
    if given.version == 2:
        if vendor:
            raise MegamodError("--vendor-boot: header version 2 has none", hint="--header 3 or 4")
        return _boot_v2(given)
    if not vendor and (given.device_tree or given.bootconfig):
        what = "--dtb" if given.device_tree else "--bootconfig"
        hint = "--vendor-boot FILE, or --header 2" if given.device_tree else "--vendor-boot FILE"
        raise MegamodError(f"{what}: a boot.img of version {given.version} has no place for it", hint=hint)
    ramdisk = b"" if vendor else given.ramdisk
    words = _text("" if vendor else given.command_line, 1536, "--cmdline")
    size = _V3.size + (4 if given.version == 4 else 0)
    head = _V3.pack(b"ANDROID!", len(given.kernel), len(ramdisk), _system(given), size, given.version, words)
    # Version 4: the size of the signature of a GKI, which is Google's to give.
    head += bytes(4 if given.version == 4 else 0)
    return _padded((head, given.kernel, ramdisk), _FIXED_PAGE)


def vendor_bytes(given: BootImage) -> bytes:
    """vendor_boot.img: image, device tree and command line of a board whose kernel is in boot.img."""
    if given.bootconfig and given.version == 3:
        raise MegamodError("--bootconfig: a vendor_boot.img of version 3 has no place for it", hint="--header 4")
    head = _VENDOR_V3.pack(
        b"VNDRBOOT",
        given.version,
        given.page,
        given.base + _KERNEL,
        given.base + _RAMDISK,
        len(given.ramdisk),
        _text(given.command_line, 2048, "--cmdline"),
        given.base + _TAGS,
        b"",
        _VENDOR_V3.size + (_VENDOR_V4.size if given.version == 4 else 0),
        len(given.device_tree),
        given.base + _DTB,
    )
    if given.version == 3:
        return _padded((head, given.ramdisk, given.device_tree), given.page)
    table = _FRAGMENT.pack(len(given.ramdisk), 0, _PLATFORM, b"")
    head += _VENDOR_V4.pack(len(table), 1, _FRAGMENT.size, len(given.bootconfig))
    return _padded((head, given.ramdisk, given.device_tree, table, given.bootconfig), given.page)


def _boot_v2(given: BootImage) -> bytes:
    if not given.device_tree:
        raise MegamodError("--dtb: a boot.img of version 2 must have a device tree", hint="or --header 3")
    if given.bootconfig:
        raise MegamodError("--bootconfig: a boot.img of version 2 has no place for it", hint="--header 4")
    words = _text(given.command_line, 512 + 1024 - 1, "--cmdline").rstrip(b"\0")
    # No second boot loader, no recovery_dtbo: their sizes count for the identifier.
    parts = (given.kernel, given.ramdisk, b"", b"", given.device_tree)
    identifier = hashlib.sha1(b"".join(part + struct.pack("<I", len(part)) for part in parts)).digest()
    head = _V2.pack(
        b"ANDROID!",
        len(given.kernel),
        given.base + _KERNEL,
        len(given.ramdisk),
        given.base + _RAMDISK if given.ramdisk else 0,
        0,
        0,
        given.base + _TAGS,
        given.page,
        given.version,
        _system(given),
        b"",
        words[:511],
        identifier,
        words[511:],
        0,
        0,
        _V2.size,
        len(given.device_tree),
        given.base + _DTB,
    )
    return _padded((head, given.kernel, given.ramdisk, given.device_tree), given.page)


def _padded(parts: Iterable[bytes], page: int) -> bytes:
    return b"".join(part + bytes(-len(part) % page) for part in parts)


def _text(text: str, room: int, what: str) -> bytes:
    data = text.encode()
    if len(data) >= room:
        raise MegamodError(f"{what}: {len(data)} bytes, room is for {room - 1}")
    if b"\0" in data:
        raise MegamodError(f"{what}: has a NUL byte in it")
    return data


def _system(given: BootImage) -> int:
    """os_version and os_patch_level in one word: seven bits each for A.B.C, seven for the year from 2000, four for the
    month."""
    version = re.fullmatch(r"(\d{1,3})(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?", given.os_version or "0")
    level = re.fullmatch(r"(20\d\d|21[01]\d|212[0-7])-(0[1-9]|1[0-2])", given.patch_level or "2000-01")
    numbers = [int(each or 0) for each in version.groups()] if version else [128]
    if any(number > 127 for number in numbers):
        raise MegamodError(f"--os-version {given.os_version}: not a version", hint="as 14 or 14.0.1, no part above 127")
    if level is None:
        raise MegamodError(f"--patch-level {given.patch_level}: not a month", hint="as 2024-05")
    date = (int(level[1]) - 2000) << 4 | int(level[2]) if given.patch_level else 0
    return (numbers[0] << 14 | numbers[1] << 7 | numbers[2]) << 11 | date


def _checked_tree(path: Path) -> bytes:
    data = read_file(path)
    # A board may want several behind each other, or a table of them (mkdtboimg's).
    if not data.startswith((MAGIC, b"\xd7\xb7\xab\x1e")):
        raise MegamodError(f"{path}: is not a device tree", hint=_TREE_HINT)
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class BootParts:
    """What a boot.img or vendor_boot.img holds: *parts* by name (kernel, ramdisk, dtb, …) in their order."""

    vendor: bool
    version: int
    page: int
    command_line: str
    parts: dict[str, bytes]


def is_boot_image(data: bytes) -> bool:
    """Whether *data* begins as one of the two."""
    return data[:8] in (b"ANDROID!", b"VNDRBOOT")


def read_boot_image(data: bytes, source: str) -> BootParts:
    """The parts of a boot.img (version 0 to 4) or vendor_boot.img (3, 4); raises MegamodError for a damaged one."""
    try:
        return _read(data, source)
    except struct.error:
        raise MegamodError(f"{source}: the header ends too soon", hint="the file is truncated") from None


def _read(data: bytes, source: str) -> BootParts:
    vendor = data[:8] == b"VNDRBOOT"
    (version,) = struct.unpack_from("<I", data, 8 if vendor else 40)
    if version > 4 or (vendor and version < 3):
        raise MegamodError(f"{source}: header version {version}: not known", hint="boot.img has 0 to 4")
    sizes: dict[str, int]
    if vendor:
        _magic, _version, page, _kernel, _at, ramdisk, words, _tags, _name, head, dtb, _dtb_at = _VENDOR_V3.unpack_from(
            data
        )
        sizes = {"ramdisk": ramdisk, "dtb": dtb}
        if version == 4:
            table, _count, _each, bootconfig = _VENDOR_V4.unpack_from(data, _VENDOR_V3.size)
            sizes |= {"ramdisk table": table, "bootconfig": bootconfig}
    elif version >= 3:
        _magic, kernel, ramdisk, _system, head, _version, words = _V3.unpack_from(data)
        page = _FIXED_PAGE
        sizes = {"kernel": kernel, "ramdisk": ramdisk}
        if version == 4:
            sizes["signature"] = struct.unpack_from("<I", data, _V3.size)[0]
    else:
        fields = _V2.unpack_from(data)
        page, words, head = fields[8], fields[12].rstrip(b"\0") + fields[14], 0
        sizes = {"kernel": fields[1], "ramdisk": fields[3], "second": fields[5]}
        if version >= 1:
            sizes["recovery dtbo"] = fields[15]
        if version == 2:
            sizes["dtb"] = fields[18]
    if page < 512 or page & (page - 1) or page > 1 << 20:
        raise MegamodError(f"{source}: page size {page}: not a power of two from 512 on")
    at = -(-max(head, 1) // page) * page
    parts = {}
    for name, size in sizes.items():
        if at + size > len(data):
            raise MegamodError(f"{source}: {name} ends beyond the file", hint="the file is truncated")
        if size:
            parts[name] = data[at : at + size]
        at += -(-size // page) * page
    text = words.split(b"\0", 1)[0].decode("utf-8", "replace")
    return BootParts(vendor=vendor, version=version, page=page, command_line=text, parts=parts)
