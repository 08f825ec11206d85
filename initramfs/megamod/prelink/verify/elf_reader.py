"""The finished file, read again with other code than the one that wrote it: headers by pyelftools, tables by numpy."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from megamod.common.errors import MegamodError
from megamod.prelink.elf import Array

# ELF64 and, below, ELF32: what verify reads is always the 64-bit form.
RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
SYM = np.dtype([("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")])
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
    try:
        file = ELFFile(io.BytesIO(data))
        view = memoryview(data)
        sections = []
        for index, section in enumerate(file.iter_sections()):
            header = section.header
            stored = header["sh_type"] not in ("SHT_NOBITS", "SHT_NULL")
            end = header["sh_offset"] + header["sh_size"] if stored else header["sh_offset"]
            if end > len(data):
                raise failure(name, f"section {section.name} ends beyond the file")
            sections.append(
                WrittenSection(
                    index=index,
                    name=section.name,
                    kind=str(header["sh_type"]),
                    flags=int(header["sh_flags"]),
                    align=int(header["sh_addralign"]),
                    data=view[header["sh_offset"] : end],
                    size=int(header["sh_size"]),
                    link=int(header["sh_link"]),
                    info=int(header["sh_info"]),
                )
            )
    except ELFError as error:
        raise failure(name, f"not readable: {error}") from error
    symtabs = [s for s in sections if s.kind == "SHT_SYMTAB"]
    if len(symtabs) != 1:
        raise failure(name, f"{len(symtabs)} symbol tables")
    bits = int(file.elfclass)
    # The kernel's search or sort is shorter in smaller tables there.
    several = file.header["e_machine"] in ("EM_RISCV", "EM_AARCH64")
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
        flags=int(file.header["e_flags"]),
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


def text_at(read: Written, section: int, offset: int) -> str:
    data = bytes(read.sections[section].data[offset : offset + 4096])
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
