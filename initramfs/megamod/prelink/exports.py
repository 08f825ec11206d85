"""What a member exports: __ksymtab*, the CRCs beside it and, from 7.0, the flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.arch.interface import Architecture
from megamod.prelink.elf import Array, Section, find_section


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One EXPORT_SYMBOL of a member: where its value lies, and its place in the member's table.

    ``crc`` is None on kernels without CONFIG_MODVERSIONS; ``table`` and ``entry`` are section index and position.
    """

    name: str
    section: int
    value: int
    crc: int | None
    gpl: bool
    namespace: str
    table: int
    entry: int


def reserved(namespace: str) -> str | None:
    """The module names that a ``module:`` namespace reserves a symbol for; None for any other namespace."""
    return namespace.removeprefix("module:") if namespace.startswith("module:") else None


def read_exports(
    sections: Sequence[Section],
    symbols: Array,
    strings: bytes,
    relas: Sequence[tuple[int, Array]],
    architecture: Architecture,
    file: str,
) -> tuple[Export, ...]:
    """Decode __ksymtab*: entries {value, name, namespace}, all 32-bit PC-relative with
    CONFIG_HAVE_ARCH_PREL32_RELOCATIONS, else pointers (struct kernel_symbol, kernel/module/internal.h)."""
    size = architecture.export_entry
    found: list[Export] = []
    for table in (s for s in sections if s.alloc and s.name in ("__ksymtab", "__ksymtab_gpl") and s.size):
        where = f"{file}: {table.name}"
        if table.size % size:
            raise MegamodError(f"{where}: {table.size} bytes are not a multiple of {size}")
        fields = {
            int(o): (int(s), int(a)) for target, rows in relas if target == table.index for o, _t, s, a in rows.tolist()
        }
        crcs = _read_crcs(sections, symbols, relas, table, size, file)
        flags = find_section(sections, "__kflagstab")
        for entry in range(table.size // size):
            at, third = size * entry, size // 3
            if at not in fields or at + third not in fields:
                raise MegamodError(f"{where}+{at:#x}: an entry without relocations")
            value_symbol, value_addend = fields[at]
            name = _text_at(sections, symbols, fields[at + third], where)
            if not name:
                raise MegamodError(f"{where}+{at:#x}: an export without a name")
            space = fields.get(at + 2 * third)
            namespace = _text_at(sections, symbols, space, where) if space else ""
            home = int(symbols["st_shndx"][value_symbol])
            value = int(symbols["st_value"][value_symbol]) + value_addend
            # Its end too is a place that a symbol may have.
            if not 0 < home < len(sections) or not sections[home].alloc or not 0 <= value <= sections[home].size:
                raise MegamodError(f"{where}+{at:#x}: the export {name} lies in no section")
            gpl = table.name == "__ksymtab_gpl"
            if flags is not None:
                # 7.0+: one byte an export, bit 0 = GPL only (include/linux/module_symbol.h, KSYM_FLAG_GPL_ONLY).
                if flags.size * size != table.size:
                    raise MegamodError(f"{file}: __kflagstab: {flags.size} flags for {table.size // size} exports")
                gpl = bool(flags.data[entry] & 1)
            found.append(
                Export(
                    name=name,
                    section=home,
                    value=value,
                    crc=crcs[entry] if crcs else None,
                    gpl=gpl,
                    namespace=namespace,
                    table=table.index,
                    entry=entry,
                )
            )
    return tuple(found)


def _read_crcs(
    sections: Sequence[Section],
    symbols: Array,
    relas: Sequence[tuple[int, Array]],
    table: Section,
    size: int,
    file: str,
) -> list[int]:
    """CRC words of one __ksymtab; up to 5.18 they may be relocations to absolute __crc_* symbols (seen on 5.10)."""
    section = find_section(sections, table.name.replace("__ksymtab", "__kcrctab"))
    if section is None or section.size == 0:
        return []
    if section.size * size != table.size * 4:
        raise MegamodError(f"{file}: {section.name}: {section.size} bytes for {table.size // size} exports")
    words = np.frombuffer(section.data, "<u4").copy()
    for target, rows in relas:
        if target != section.index:
            continue
        for offset, _type, symbol, addend in rows.tolist():
            if offset % 4 or int(symbols["st_shndx"][symbol]) != elf.SHN_ABS:
                raise MegamodError(f"{file}: {section.name}+{offset:#x}: a CRC that is not an absolute symbol")
            words[offset // 4] = (int(symbols["st_value"][symbol]) + addend) & 0xFFFFFFFF
    return [int(word) for word in words]


def _text_at(sections: Sequence[Section], symbols: Array, field: tuple[int, int], where: str) -> str:
    symbol, addend = field
    shndx = int(symbols["st_shndx"][symbol])
    offset = int(symbols["st_value"][symbol]) + addend
    if not 0 < shndx < len(sections) or not 0 <= offset < sections[shndx].size:
        raise MegamodError(f"{where}: a name lies outside its section")
    text, end, _ = bytes(sections[shndx].data[offset : offset + 1024]).partition(b"\0")
    if not end or not text.isascii() or not text.decode("ascii").isprintable():
        raise MegamodError(f"{where}: a name that is not text: {text[:40]!r}")
    return text.decode("ascii")
