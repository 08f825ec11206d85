"""What `megamod inspect` shows of files that hold an image: EFI programs (UKIs among them), FIT images, boot.img.

Of a UKI the sections of UAPI.5, what a boot menu will call it, and who signed it; of a FIT image the parts of each
configuration, and whether their hashes hold. The image inside is read like any other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megamod.common.errors import MegamodError
from megamod.common.flat_tree import MAGIC, DamagedTreeError, TreeNode, read_tree, texts_of, words_of
from megamod.common.text import human_bytes, table
from megamod.image.bootimg import is_boot_image, read_boot_image

_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64", 0x1C2: "arm", 0x5064: "riscv64", 0x14C: "ia32"}
_ANDROID = {"boot.img": "Android boot image", "vendor_boot.img": "Android vendor boot image"}
_TEXTS = (".cmdline", ".uname")
_DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "crc32": lambda data: struct.pack(">I", zlib.crc32(data)),
    "md5": lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
    "sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha384": lambda data: hashlib.sha384(data).digest(),
    "sha512": lambda data: hashlib.sha512(data).digest(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A section of an EFI program or an image of a FIT: *bytes* its size, *what* more there is to say of it."""

    name: str
    bytes: int
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInspection:
    """An EFI program or a FIT image. *title* is what a boot menu calls it; *properties* are in the order in which they
    are shown; *inside* is what is in its initramfs image, None if there is none or it is not megamod's."""

    kind: str
    path: str
    bytes: int
    title: str
    properties: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]
    inside: Any = None

    def as_text(self) -> str:
        """Properties, parts, and the image inside, for people."""
        what = {"uki": "Unified Kernel Image", "efi": "EFI program", "fit": "FIT image", **_ANDROID}[self.kind]
        lines = [f"{self.path}: {what}, {human_bytes(self.bytes)}" + (f": {self.title}" if self.title else "")]
        lines += [f"{name} {value}" for name, value in self.properties]
        rows = [[part.name, part.what, human_bytes(part.bytes)] for part in self.parts]
        lines += ["", table(["part", "", "size"], rows, left=2)]
        return "\n".join([*lines, *(["", self.inside.as_text()] if self.inside is not None else [])])

    def as_json(self) -> str:
        """The same for programs: ``kind`` is ``uki``, ``efi``, ``fit``, ``boot.img`` or
        ``vendor_boot.img``; ``image`` is what is inside, inspected."""
        value = {
            "kind": self.kind,
            "path": self.path,
            "bytes": self.bytes,
            "title": self.title,
            "properties": dict(self.properties),
            "parts": [dataclasses.asdict(part) for part in self.parts],
            "image": json.loads(self.inside.as_json()) if self.inside is not None else None,
        }
        return json.dumps(value, indent=2)


def is_container(data: bytes) -> bool:
    """Whether *data* is an EFI program, a flattened tree or an Android boot image."""
    return data[:2] == b"MZ" or data[:4] == MAGIC or is_boot_image(data)


def inspect_container(path: Path, data: bytes, read_image: Callable[[str, bytes], Any]) -> ContainerInspection:
    """Read *data*; *read_image* (name, bytes) inspects the image inside, and gives None for one that is not ours."""
    reader = _inspect_fit if data[:4] == MAGIC else _inspect_android if is_boot_image(data) else _inspect_efi
    return reader(str(path), data, read_image)


def _inspect_efi(source: str, data: bytes, read_image: Callable[[str, bytes], Any]) -> ContainerInspection:
    import pefile

    try:
        program: Any = pefile.PE(data=data, fast_load=True)
    except pefile.PEFormatError as error:
        raise MegamodError(f"{source}: no EFI program: {error.value}") from None
    machine = int(program.FILE_HEADER.Machine)
    properties = [("machine", _MACHINES.get(machine, f"{machine:#x}"))]
    parts: list[Part] = []
    found: dict[str, bytes] = {}
    for section in program.sections:
        name = section.Name.rstrip(b"\0").decode("ascii", "replace")
        start, size = int(section.PointerToRawData), min(int(section.Misc_VirtualSize), int(section.SizeOfRawData))
        content = data[start : start + size]
        found.setdefault(name, content)
        parts.append(Part(name=name, bytes=size, what=_said(name, content)))
    directory = program.OPTIONAL_HEADER.DATA_DIRECTORY
    signed = len(directory) > 4 and bool(directory[4].Size)
    properties.append(("signature", f"{human_bytes(int(directory[4].Size))}" if signed else "none"))
    is_uki = ".linux" in found
    if is_uki:
        properties += [("kernel", _line(found.get(".uname", b"")) or "not named (no .uname)")]
        properties += [("command line", _line(found.get(".cmdline", b"")))]
    release = dict(_pairs(found.get(".osrel", b"")))
    inside = read_image(f"{source}: .initrd", found[".initrd"]) if ".initrd" in found else None
    return ContainerInspection(
        kind="uki" if is_uki else "efi",
        path=source,
        bytes=len(data),
        title=release.get("PRETTY_NAME", ""),
        properties=tuple(properties),
        parts=tuple(parts),
        inside=inside,
    )


def _said(name: str, content: bytes) -> str:
    if name in _TEXTS:
        return _line(content)
    if name == ".osrel":
        return dict(_pairs(content)).get("PRETTY_NAME", "")
    return ""


def _line(content: bytes) -> str:
    return " ".join(content.rstrip(b"\0").decode("utf-8", "replace").split())


def _pairs(content: bytes) -> Iterator[tuple[str, str]]:
    for line in content.rstrip(b"\0").decode("utf-8", "replace").splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            yield name, value.strip("\"'")


def _inspect_fit(source: str, data: bytes, read_image: Callable[[str, bytes], Any]) -> ContainerInspection:
    try:
        root = read_tree(data)
    except DamagedTreeError as error:
        raise MegamodError(f"{source}: damaged FIT image: {error}") from None
    images, configurations = root.find("images"), root.find("configurations")
    if images is None or configurations is None:
        raise MegamodError(f"{source}: is a device tree, not a FIT image", hint="a FIT image has /images in it")
    parts, inside = [], None
    for node in images.children:
        content = _content(node, data)
        words = [_text(node, name) for name in ("type", "arch", "os", "compression")]
        digests = [_checked(each, content) for each in node.children if each.name.startswith("hash")]
        parts.append(Part(name=node.name, bytes=len(content), what=", ".join(filter(None, [*words, *digests]))))
        if _text(node, "type") == "ramdisk" and inside is None and content:
            inside = read_image(f"{source}: {node.name}", content)
    default = _text(configurations, "default")
    properties = [("default", default or "the first configuration")]
    for node in configurations.children:
        loads = [f"{name} {_text(node, name)}" for name in ("kernel", "ramdisk", "fdt") if name in node.properties]
        properties.append((node.name, f"{_text(node, 'description')}: {', '.join(loads)}".removeprefix(": ")))
    return ContainerInspection(
        kind="fit",
        path=source,
        bytes=len(data),
        title=_text(root, "description"),
        properties=tuple(properties),
        parts=tuple(parts),
        inside=inside,
    )


def _inspect_android(source: str, data: bytes, read_image: Callable[[str, bytes], Any]) -> ContainerInspection:
    found = read_boot_image(data, source)
    ramdisk = found.parts.get("ramdisk")
    properties = [("header", f"version {found.version}, pages of {found.page} bytes")]
    properties += [("command line", found.command_line)] if found.command_line else []
    return ContainerInspection(
        kind="vendor_boot.img" if found.vendor else "boot.img",
        path=source,
        bytes=len(data),
        title="",
        properties=tuple(properties),
        parts=tuple(Part(name=name, bytes=len(content)) for name, content in found.parts.items()),
        inside=read_image(f"{source}: ramdisk", ramdisk) if ramdisk else None,
    )


def _content(node: TreeNode, data: bytes) -> bytes:
    """The bytes of an image: in the tree, or behind it (`data-offset`, `data-position`, mkimage -E)."""
    if "data" in node.properties:
        return node.properties["data"]
    (size,) = words_of(node.properties.get("data-size", b"")) or (0,)
    if "data-position" in node.properties:
        (start,) = words_of(node.properties["data-position"]) or (0,)
    else:
        total = int.from_bytes(data[4:8], "big")
        (start,) = words_of(node.properties.get("data-offset", b"")) or (0,)
        start += (total + 3) & ~3
    return data[start : start + size]


def _checked(node: TreeNode, content: bytes) -> str:
    algorithm = _text(node, "algo")
    compute = _DIGESTS.get(algorithm)
    if compute is None:
        return f"{algorithm}: not checked"
    return f"{algorithm} holds" if compute(content) == node.properties.get("value") else f"{algorithm} DOES NOT HOLD"


def _text(node: TreeNode, name: str) -> str:
    return ", ".join(texts_of(node.properties.get(name, b"")))
