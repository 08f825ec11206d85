"""What the kernel itself exports: names, CRCs, namespaces, read from its own image or from Module.symvers.

A module does not say that a symbol it imports is reserved for it by name (``module:btrfs``, EXPORT_SYMBOL_FOR_MODULES,
6.16+, kernel/module/main.c verify_module_namespace()); only the exporter does. An x86 bzImage holds the stripped
vmlinux with its section names, so __ksymtab can be read before the first boot (Documentation/arch/x86/boot.rst,
payload_offset). Images of other architectures: flat.py.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from megamod.common.cache import file_key, read_entry, write_entry
from megamod.common.compression import decompress
from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.kernel.flat_image import flat_exports, flat_kernel, is_packed_image, is_zimage
from megamod.prelink.exports import reserved
from megamod.prelink.member import Member

_ENTRY = 12  # struct kernel_symbol: value, name, namespace, each relative to its own place
_LIMIT = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelExport:
    """One symbol of the kernel: crc is None without CONFIG_MODVERSIONS."""

    crc: int | None
    gpl: bool
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelExports:
    """All symbols that a kernel exports; *source* is the file they were read from."""

    source: Path
    symbols: Mapping[str, KernelExport]


def find_exports(folder: Path, release: str) -> KernelExports | None:
    """The exports of the kernel whose modules lie in *folder* (lib/modules/KVER); None if no image of it is found."""
    for path in (*kernel_images(folder, release), folder / "build" / "Module.symvers"):
        if path.is_file() and (exports := read_exports(path)) is not None:
            return exports
    return None


def kernel_images(folder: Path, release: str) -> Iterator[Path]:
    """Where distributions keep the image of the kernel whose modules lie in *folder*: there, or in /boot of the same
    tree."""
    yield folder / "vmlinuz"
    for parent in folder.parents[2:4]:
        yield parent / "boot" / f"vmlinuz-{release}"
        yield parent / "boot" / f"vmlinux-{release}"  # riscv64, which has no packed image


def read_exports(path: Path) -> KernelExports | None:
    """Read a bzImage, a vmlinux, an arm64 Image or a Module.symvers; None for a kernel image whose exports cannot be
    read (another architecture's boot format). Each error names the file."""
    if path.name.startswith("Module.symvers"):
        return KernelExports(source=path, symbols=dict(_symvers(read_file(path), path)))
    image = read_file(path)
    flat = flat_kernel(image)
    if flat is not None:
        table = flat_exports(flat)
        found = {name: KernelExport(crc=None, gpl=gpl, namespace=space) for name, space, gpl in table}
        return KernelExports(source=path, symbols=found) if found else None
    if is_zimage(image) or is_packed_image(image):
        return None
    data = unpacked_kernel(path)
    try:
        return KernelExports(source=path, symbols=dict(_ksymtab(ELFFile(io.BytesIO(data)), path)))
    except ELFError as error:
        raise MegamodError(f"{path}: the kernel inside is not readable: {error}") from error


def unpacked_kernel(path: Path) -> bytes:
    """The vmlinux in a bzImage, or the file itself where it is an ELF file."""
    data = read_file(path)
    return data if data[:4] == b"\x7fELF" else _payload(data, path)


def _payload(data: bytes, path: Path) -> bytes:
    """The compressed vmlinux of a bzImage: setup header at 0x1f1, protocol 2.08 or newer."""
    if len(data) < 0x250 or data[0x202:0x206] != b"HdrS":
        raise MegamodError(f"{path}: neither a bzImage nor an ELF file", hint="give the kernel image, vmlinuz")
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (data[0x1F1] + 1) * 512 + offset
    if not length or start + length > len(data):
        raise MegamodError(f"{path}: the payload ends beyond the file", hint="the file is truncated")
    payload = data[start : start + length]
    if payload[:2] != b"\x1f\x8b":
        # gzip ends in the unpacked size; to all others the build appends it (scripts/Makefile.lib, size_append).
        payload = payload[:-4]
    return decompress(payload, limit=_LIMIT, source=str(path))


def _ksymtab(file: ELFFile, path: Path) -> Iterator[tuple[str, KernelExport]]:
    sections = {section.name: section for section in file.iter_sections()}
    strings = sections.get("__ksymtab_strings")
    if strings is None:
        raise MegamodError(f"{path}: the kernel has no __ksymtab_strings")
    text, base = strings.data(), int(strings["sh_addr"])
    flags = sections["__kflagstab"].data() if "__kflagstab" in sections else None
    for name in ("__ksymtab", "__ksymtab_gpl"):
        if name not in sections:
            continue
        fields = np.frombuffer(sections[name].data(), "<i4").reshape(-1, 3).astype(np.int64)
        place = int(sections[name]["sh_addr"]) - base + np.arange(len(fields)) * _ENTRY
        names, namespaces = place + 4 + fields[:, 1], place + 8 + fields[:, 2]
        # Without MODVERSIONS the tables of CRCs are empty (include/asm-generic/vmlinux.lds.h RO_DATA, 6.12): GNU ld
        # leaves them out, ld.lld keeps them for the symbols at their ends.
        crcs = sections.get(name.replace("__ksymtab", "__kcrctab"))
        table = crcs.data() if crcs is not None else b""
        words = np.frombuffer(table, "<u4").tolist() if table else [None] * len(fields)
        if ((names < 0) | (names >= len(text))).any():
            raise MegamodError(f"{path}: {name}: its names lie outside __ksymtab_strings")
        for row, (at, space, crc) in enumerate(zip(names.tolist(), namespaces.tolist(), words, strict=True)):
            gpl = bool(flags[row] & 1) if flags is not None else name == "__ksymtab_gpl"
            yield _text(text, at), KernelExport(crc=crc, gpl=gpl, namespace=_text(text, space))


def _text(table: bytes, offset: int) -> str:
    if not 0 <= offset < len(table):
        return ""
    return table[offset : table.find(b"\0", offset)].decode("utf-8", "backslashreplace")


def _symvers(data: bytes, path: Path) -> Iterator[tuple[str, KernelExport]]:
    """CRC, symbol, module, kind and namespace, separated by tabs; only vmlinux's own lines."""
    for number, line in enumerate(data.decode("utf-8", "backslashreplace").splitlines(), start=1):
        fields = line.split("\t")
        try:
            crc, name, module, kind = int(fields[0], 16), fields[1], fields[2], fields[3]
        except (IndexError, ValueError):
            raise MegamodError(f"{path}:{number}: not a line of Module.symvers") from None
        if module == "vmlinux":
            namespace = fields[4] if len(fields) > 4 else ""
            yield name, KernelExport(crc=crc or None, gpl=kind.endswith("GPL"), namespace=namespace)


def why_reserved(member: Member, exports: KernelExports | None) -> str | None:
    """The reason why *member* must keep its name: it imports a symbol that the kernel gives to that name alone."""
    if exports is None:
        return None
    for name in sorted(member.imports.values()):
        export = exports.symbols.get(name)
        names = reserved(export.namespace) if export else None
        if names is not None:
            return f"imports {name}, which the kernel reserves for {names}"
    return None


def check_imports(member: Member, exports: KernelExports | None, others: frozenset[str]) -> None:
    """Every import is the kernel's or another selected module's (*others*: their exports), with the same CRC."""
    if exports is None:
        return
    for index, name in member.imports.items():
        if name in others or index in member.weak_imports:
            continue
        export = exports.symbols.get(name)
        if export is None:
            raise MegamodError(
                f"{member.file}: imports {name}, which neither {exports.source} nor a selected module exports",
                hint="kernel image and modules folder are of different builds?",
            )
        crc = member.versions.get(name)
        if crc is not None and export.crc is not None and crc != export.crc:
            raise MegamodError(
                f"{member.file}: the version (CRC) of {name} is {crc:#010x}, in {exports.source} {export.crc:#010x}",
                hint="kernel image and modules folder are of different builds",
            )
        names = reserved(export.namespace)
        if names is not None and not any(fnmatchcase(member.name, n.replace("-", "_")) for n in names.split(",")):
            raise MegamodError(f"{member.file}: imports {name}, which the kernel reserves for {names}")


def cached_exports(folder: Path, release: str) -> KernelExports | None:
    """As `find_exports`, of which the answer is kept by the file's size, times and inode."""
    for path in (*kernel_images(folder, release), folder / "build" / "Module.symvers"):
        if path.is_file() and (exports := _cached(path)) is not None:
            return exports
    return None


def _cached(path: Path) -> KernelExports | None:
    key = file_key(path)
    body = read_entry("exports", key)
    if body is not None:
        known = json.loads(body)
        if known is None:
            return None
        symbols = {name: KernelExport(crc=crc, gpl=gpl, namespace=space) for name, crc, gpl, space in known}
        return KernelExports(source=path, symbols=symbols)
    exports = read_exports(path)
    rows = [[name, e.crc, e.gpl, e.namespace] for name, e in exports.symbols.items()] if exports else None
    write_entry("exports", key, json.dumps(rows).encode("ascii"))
    return exports
