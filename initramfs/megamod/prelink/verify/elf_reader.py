"""The finished file, read again with other code than the one that wrote it, by ELF records of its own."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megamod.common.errors import MegamodError
from megamod.prelink.elf import Array

# ELF64 and, below, ELF32: what verify reads is always the 64-bit form.
RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
SYM = np.dtype([("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")])
_NULL, _NOBITS = 0, 8
_KINDS = {
    **{_NULL: "SHT_NULL", 1: "SHT_PROGBITS", 2: "SHT_SYMTAB", 3: "SHT_STRTAB", 4: "SHT_RELA", 7: "SHT_NOTE"},
    **{_NOBITS: "SHT_NOBITS", 9: "SHT_REL"},
}
REL32 = np.dtype([("offset", "<u4"), ("info", "<u4")])
SYM32 = np.dtype(
    [("name", "<u4"), ("value", "<u4"), ("size", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2")]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenSection:
    index: int
    name: str
    kind: str
    flags: int
    align: int
    data: memoryview
    size: int
    link: int
    info: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The finished file, read again. relocations: target section → records, all tables of a section together."""

    name: str
    bits: int
    flags: int
    sections: tuple[WrittenSection, ...]
    by_name: Mapping[str, WrittenSection]
    symbols: Array
    strings: bytes
    relocations: Mapping[int, Array]


def failure(read_name: str, text: str) -> MegamodError:
    return MegamodError(
        f"{read_name}: verify: {text}", hint="nothing was written; this is a defect of megamod, report it"
    )


def reread(data: bytes, name: str) -> Written:
    """Headers are read with struct, tables with numpy; raises MegamodError unless it is relocatable with one symbol
    table."""
    if len(data) < 64 or data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] != 1:
        raise failure(name, "not readable: no little-endian ELF file")
    bits = 32 * data[4]
    # Elf32_Ehdr, Elf64_Ehdr behind e_ident, and the section headers (System V gABI, chapter 4).
    header = struct.unpack_from("<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH", data, 16)
    kind, machine, shoff, flags, entry, count, names_at = (header[n] for n in (0, 1, 5, 6, 10, 11, 12))
    record = struct.Struct("<IIQQQQIIQQ" if bits == 64 else "<IIIIIIIIII")
    if kind != 1 or entry != record.size or shoff + count * entry > len(data) or names_at >= count:
        raise failure(name, "not readable: its section headers")
    view = memoryview(data)
    rows = [record.unpack_from(data, shoff + number * entry) for number in range(count)]
    sections = []
    for index, (sh_name, sh_type, sh_flags, _, offset, size, link, info, align, _) in enumerate(rows):
        end = offset + size if sh_type not in (_NULL, _NOBITS) else offset
        at = rows[names_at][4] + sh_name
        stop = data.find(b"\0", at, rows[names_at][4] + rows[names_at][5])
        text = data[at:stop].decode("utf-8", "backslashreplace")
        if stop < 0 or end > len(data) or link >= count:
            raise failure(name, f"section {index} ends beyond the file, has no name, or a link to nowhere")
        sections.append(
            WrittenSection(
                index=index,
                name=text,
                kind=_KINDS.get(sh_type, hex(sh_type)),
                flags=sh_flags,
                align=align,
                data=view[offset:end],
                size=size,
                link=link,
                info=info,
            )
        )
    symtabs = [s for s in sections if s.kind == "SHT_SYMTAB"]
    if len(symtabs) != 1:
        raise failure(name, f"{len(symtabs)} symbol tables")
    # The kernel's search or sort is shorter in smaller tables there: EM_AARCH64, EM_RISCV.
    several = machine in (183, 243)
    parts: dict[int, list[Array]] = {}
    for table in sections:
        if table.kind in ("SHT_RELA", "SHT_REL"):
            if (table.kind == "SHT_REL") != (bits == 32) or table.link != symtabs[0].index:
                raise failure(name, f"{table.name}: of a wrong kind, or no symbol table")
            if table.info in parts and not several:
                raise failure(name, f"{table.name}: a second table for one section")
            parts.setdefault(table.info, []).append(_records(table, sections))
    relocations = {target: np.concatenate(tables) for target, tables in parts.items()}
    return Written(
        name=name,
        bits=bits,
        flags=flags,
        sections=tuple(sections),
        by_name={s.name: s for s in sections if s.flags & 2},
        symbols=_widened(np.frombuffer(symtabs[0].data, SYM if bits == 64 else SYM32), SYM),
        strings=bytes(sections[symtabs[0].link].data),
        relocations=relocations,
    )


def _records(table: WrittenSection, sections: Sequence[WrittenSection]) -> Array:
    """RELA records; those of a REL table with the 32-bit word at their place as the addend (right for data alone)."""
    if table.kind == "SHT_RELA":
        return np.frombuffer(table.data, RELA)
    short = np.frombuffer(table.data, REL32)
    rows = np.zeros(len(short), RELA)
    rows["offset"], rows["type"], rows["symbol"] = short["offset"], short["info"] & 0xFF, short["info"] >> 8
    content = np.frombuffer(sections[table.info].data, np.uint8)
    inside = np.flatnonzero(short["offset"].astype(np.int64) + 4 <= len(content))
    octets = content[short["offset"][inside].astype(np.int64)[:, None] + np.arange(4)]
    rows["addend"][inside] = np.ascontiguousarray(octets).view("<i4")[:, 0]
    return rows


def _widened(table: Array, dtype: np.dtype[Any]) -> Array:
    if table.dtype == dtype:
        return table
    rows = np.zeros(len(table), dtype)
    for column in table.dtype.names or ():
        rows[column] = table[column]
    return rows


def symbol_name(read: Written, index: int) -> str:
    at = int(read.symbols["name"][index])
    return read.strings[at : read.strings.index(b"\0", at)].decode()


def place_of(read: Written, row: np.void) -> tuple[int, int]:
    """(section, offset) that a relocation points to; section 0 for an undefined symbol."""
    symbol = read.symbols[int(row["symbol"])]
    return int(symbol["shndx"]), int(symbol["value"]) + int(row["addend"])


def places_of(read: Written, rows: Array) -> list[tuple[int, int]]:
    """The same for each of *rows*."""
    symbols = read.symbols[rows["symbol"]]
    values = symbols["value"].astype(np.int64) + rows["addend"]
    return list(zip(symbols["shndx"].tolist(), values.tolist(), strict=True))


def text_at(read: Written, section: int, offset: int) -> str:
    for size in (64, 4096):
        text, nul, _ = bytes(read.sections[section].data[offset : offset + size]).partition(b"\0")
        if nul:
            break
    return text.decode("utf-8", "backslashreplace")
