"""A plain ELF64 writer for x86_64 relocatable objects: members made in memory, and the naive merge's output."""

import struct
from dataclasses import dataclass, field

from oracle.model import SHF_ALLOC, SHT_NOBITS, SHT_PROGBITS, SHT_RELA, SHT_STRTAB, SHT_SYMTAB


@dataclass(slots=True)
class OutSection:
    """One section to be written. relocations: (offset, type, symbol number in Object.symbols from 0, addend)."""

    name: str
    data: bytearray = field(default_factory=bytearray)
    flags: int = SHF_ALLOC
    type: int = SHT_PROGBITS
    align: int = 1
    entsize: int = 0
    relocations: list[tuple[int, int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class OutSymbol:
    """One symbol; section: number in Object.sections from 0, or None for undefined, or -1 for absolute."""

    name: str
    section: int | None
    value: int = 0
    info: int = 0  # local NOTYPE
    size: int = 0


@dataclass(slots=True)
class Object:
    """Sections and symbols in the caller's numbering; write() adds the null entries, tables and sorts locals first."""

    sections: list[OutSection] = field(default_factory=list)
    symbols: list[OutSymbol] = field(default_factory=list)

    def section(self, name: str, data: bytes = b"", **attributes: int) -> int:
        """Appends a section and returns its number."""
        self.sections.append(OutSection(name=name, data=bytearray(data), **attributes))  # type: ignore[arg-type]
        return len(self.sections) - 1

    def symbol(self, name: str, section: int | None, value: int = 0, info: int = 0, size: int = 0) -> int:
        """Appends a symbol and returns its number."""
        self.symbols.append(OutSymbol(name, section, value, info, size))
        return len(self.symbols) - 1

    def write(self) -> bytes:
        """The file's bytes."""
        order = sorted(range(len(self.symbols)), key=lambda n: (self.symbols[n].info >> 4 != 0, n))
        new = {old: at + 1 for at, old in enumerate(order)}
        strings, symtab = bytearray(b"\0"), bytearray(24)
        for old in order:
            symbol = self.symbols[old]
            at = len(strings) if symbol.name else 0
            strings += symbol.name.encode() + b"\0" if symbol.name else b""
            home = 0 if symbol.section is None else 0xFFF1 if symbol.section < 0 else symbol.section + 1
            symtab += struct.pack("<IBBHQQ", at, symbol.info, 0, home, symbol.value, symbol.size)
        local = 1 + sum(1 for symbol in self.symbols if symbol.info >> 4 == 0)

        number = len(self.sections)
        relocated = [n for n, s in enumerate(self.sections) if s.relocations]
        symtab_at, strtab_at = number + 1 + len(relocated), number + 2 + len(relocated)
        table = [(s.name, s.type, s.flags, bytes(s.data), 0, 0, s.align, s.entsize) for s in self.sections]
        for home in relocated:
            rows = self.sections[home].relocations
            raw = b"".join(struct.pack("<QIIq", o, t, new[s], a) for o, t, s, a in rows)
            name = ".rela" + self.sections[home].name
            table.append((name, SHT_RELA, 0x40, raw, symtab_at, home + 1, 8, 24))
        table.append((".symtab", SHT_SYMTAB, 0, bytes(symtab), strtab_at, local, 8, 24))
        table.append((".strtab", SHT_STRTAB, 0, bytes(strings), 0, 0, 1, 0))
        names = bytearray(b"\0")
        name_at = []
        for row in [*table, (".shstrtab",)]:
            name_at.append(len(names))
            names += str(row[0]).encode() + b"\0"
        table.append((".shstrtab", SHT_STRTAB, 0, bytes(names), 0, 0, 1, 0))
        return _file(table, name_at)


_Row = tuple[str, int, int, bytes, int, int, int, int]


def _file(table: list[_Row], name_at: list[int]) -> bytes:
    out, headers = bytearray(64), bytearray(64)
    for (_, kind, flags, data, link, info, align, entsize), name in zip(table, name_at, strict=True):
        out += bytes(-len(out) % max(align, 1))
        headers += struct.pack(
            "<IIQQQQIIQQ", name, kind, flags, 0, len(out), len(data), link, info, max(align, 1), entsize
        )
        out += b"" if kind == SHT_NOBITS else data
    out += bytes(-len(out) % 8)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    out[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 1, 62, 1, 0, 0, len(out), 0, 64, 0, 0, 64, len(table) + 1, len(table)
    )
    return bytes(out + headers)
