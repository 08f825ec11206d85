"""The exports that one file shows: a kernel image, a Module.symvers, a System.map.

A vmlinux of x86_64 or arm64 has its section names, so __ksymtab is read with flags and CRCs; a kernel without section
headers, or of an architecture whose tables hold pointers, is read by the table's shape (flat_image.py). System.map has
a line for each entry, in tables whose ends have names too (include/asm-generic/vmlinux.lds.h RO_DATA), and neither CRCs
nor namespaces.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megamod.common.compression import decompress
from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.kernel.flat_addresses import find_build_id
from megamod.kernel.flat_image import flat_exports
from megamod.kernel.kernel_image import kernel_release, unpacked_kernel
from megamod.prelink.distance import ImageSymbol, KernelImage

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

_ENTRY = 12  # struct kernel_symbol: value, name, namespace, each relative to its own place
_LIMIT = 512 << 20
_UPPER_HALF = 1 << 63
_MAP_LINE = re.compile(r"([0-9a-f]{8,16}) \S (\S+)")
_PREFIX = "__ksymtab_"
# With CONFIG_HAVE_ARCH_PREL32_RELOCATIONS.
_BY_SECTIONS = ("EM_X86_64", "EM_AARCH64")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelExport:
    """One symbol of the kernel: crc is None without CONFIG_MODVERSIONS. address: where it is linked, or its place in a
    flat image; None if it does not move with the image (per-processor offsets, absolute values), or is not known."""

    crc: int | None
    gpl: bool
    namespace: str
    address: int | None = None


@dataclass(frozen=True, kw_only=True)
class KernelExports:
    """All symbols that a kernel exports; *source* is the file they were read from, *release* what the kernel in it
    calls itself, None where the file does not say. *build_id*: of the image, in hex, and the address of its 20 bytes;
    None where it has none, or it is not known which."""

    source: Path
    symbols: Mapping[str, KernelExport]
    release: str | None = None
    build_id: tuple[str, int] | None = None

    @property
    def has_crcs(self) -> bool:
        """Whether there is a CRC for any symbol."""
        return any(export.crc is not None for export in self.symbols.values())

    @cached_property
    def image(self) -> KernelImage | None:
        """What the linker may bind by distance; None for an image without a build id."""
        if self.build_id is None:
            return None
        build_id, note = self.build_id
        symbols = {
            name: ImageSymbol(address=export.address, crc=export.crc, namespace=export.namespace)
            for name, export in self.symbols.items()
            if export.address is not None
        }
        return KernelImage(build_id=build_id, note=note, symbols=symbols)


def read_image_exports(path: Path) -> KernelExports:
    """The exports of the kernel image *path*; MegamodError for what is none, or in which they are not found."""
    from elftools.common.exceptions import ELFError  # a kernel that is known is not read again

    kernel = unpacked_kernel(path)
    release = kernel_release(kernel)
    try:
        symbols = dict(_image_symbols(kernel, path))
        build_id = _build_id(kernel)
    except ELFError as error:
        raise MegamodError(f"{path}: the kernel inside is not readable: {error}") from error
    if not symbols:
        raise MegamodError(f"{path}: no table of exports is found in the kernel")
    return KernelExports(source=path, symbols=symbols, release=release, build_id=build_id)


def read_symvers(path: Path) -> KernelExports:
    """The exports in a Module.symvers, plain or packed: only vmlinux's own lines."""
    data = decompress(read_file(path), limit=_LIMIT, source=str(path))
    return KernelExports(source=path, symbols=dict(_symvers(data, path)))


def read_system_map(path: Path) -> KernelExports:
    """The exports that a System.map lists."""
    places: dict[str, int] = {}
    for line in read_file(path).decode("utf-8", "backslashreplace").splitlines():
        if (match := _MAP_LINE.fullmatch(line.strip())) is None:
            raise MegamodError(f"{path}: `{line[:60]}` is not a line of a System.map")
        places[match[2]] = int(match[1], 16)
    first, last = places.get("__start___ksymtab_gpl", 0), places.get("__stop___ksymtab_gpl", 0)
    found = {
        name.removeprefix(_PREFIX): KernelExport(crc=None, gpl=first <= place < last, namespace="")
        for name, place in places.items()
        if name.startswith(_PREFIX)
    }
    if not found:
        raise MegamodError(f"{path}: has no exports in it: a System.map of a kernel with modules is expected")
    return KernelExports(source=path, symbols=found)


def _image_symbols(kernel: bytes, path: Path) -> Iterator[tuple[str, KernelExport]]:
    flat = kernel[:4] != b"\x7fELF"
    if not flat:
        file = _elf_file(kernel)
        if file["e_machine"] in _BY_SECTIONS:
            yield from _ksymtab(file, path)
            return
        kernel = _in_memory(file, path)
    for each in flat_exports(kernel):
        # Only an Image says how long it is in memory.
        address = each.address if flat else None
        yield each.name, KernelExport(crc=each.crc, gpl=each.gpl, namespace=each.namespace, address=address)


def _elf_file(kernel: bytes) -> ELFFile:
    from elftools.elf.elffile import ELFFile

    return ELFFile(io.BytesIO(kernel))


def _build_id(kernel: bytes) -> tuple[str, int] | None:
    """The build id of a kernel and its address: .notes is what /sys/kernel/notes shows (kernel/ksysfs.c)."""
    if kernel[:4] != b"\x7fELF":
        return find_build_id(kernel)
    section = _elf_file(kernel).get_section_by_name(".notes")
    if section is None:
        return None
    data, at = section.data(), 0
    while at + 12 <= len(data):
        name, size, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + -(-name // 4) * 4
        if kind == 3 and size == 20 and data[at + 12 : at + 16] == b"GNU\0":
            return data[start : start + size].hex(), int(section["sh_addr"]) + start
        at = start + -(-size // 4) * 4
    return None


def _in_memory(file: ELFFile, path: Path) -> bytes:
    """The loaded segments of a vmlinux, as they lie in memory from the first on."""
    loads = [segment for segment in file.iter_segments() if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]]
    base = min((segment["p_paddr"] for segment in loads), default=0)
    end = max((segment["p_paddr"] + segment["p_filesz"] for segment in loads), default=0)
    if end - base > _LIMIT:
        raise MegamodError(f"{path}: its segments lie {end - base} bytes apart")
    memory = bytearray(end - base)
    for segment in loads:
        start = segment["p_paddr"] - base
        memory[start : start + segment["p_filesz"]] = segment.data()
    return bytes(memory)


def _ksymtab(file: ELFFile, path: Path) -> Iterator[tuple[str, KernelExport]]:
    sections = {section.name: section for section in file.iter_sections()}
    strings = sections.get("__ksymtab_strings")
    if strings is None:
        raise MegamodError(f"{path}: the kernel has no __ksymtab_strings")
    text, base = strings.data(), int(strings["sh_addr"])
    loaded = ((int(each["p_vaddr"]), int(each["p_memsz"])) for each in file.iter_segments("PT_LOAD"))
    image = [(start, start + size) for start, size in loaded if start >= _UPPER_HALF]
    flags = sections["__kflagstab"].data() if "__kflagstab" in sections else None
    for name in ("__ksymtab", "__ksymtab_gpl"):
        if name not in sections:
            continue
        fields = np.frombuffer(sections[name].data(), "<i4").reshape(-1, 3).astype(np.int64)
        place = int(sections[name]["sh_addr"]) - base + np.arange(len(fields)) * _ENTRY
        values = [base + value for value in (place + fields[:, 0]).tolist()]
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
            # An absolute value (per-processor offsets up to 6.14) is in no segment of the upper half.
            address = values[row] if any(low <= values[row] < high for low, high in image) else None
            yield _text(text, at), KernelExport(crc=crc, gpl=gpl, namespace=_text(text, space), address=address)


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
