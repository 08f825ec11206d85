"""A plain ELF writer for relocatable objects: members made in memory, and the naive merge's output."""

import struct
from dataclasses import dataclass, field

import numpy as np

from tests.oracle.arch import Arch, Field
from tests.oracle.arch_x86_64 import ARCH as X86_64
from tests.oracle.elffile import FORMS
from tests.oracle.model import (
    SHF_ALLOC,
    SHT_NOBITS,
    SHT_PROGBITS,
    SHT_REL,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    gather,
    scatter,
)


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

    def write(self, arch: Arch = X86_64) -> bytes:
        """The file's bytes. Addends go into the fields where the architecture's relocations are REL."""
        forms = FORMS[arch.bits]
        order = sorted(range(len(self.symbols)), key=lambda n: (self.symbols[n].info >> 4 != 0, n))
        new = {old: at + 1 for at, old in enumerate(order)}
        strings, symtab = bytearray(b"\0"), np.zeros(len(order) + 1, forms.symbol)
        for old in order:
            symbol = self.symbols[old]
            at = len(strings) if symbol.name else 0
            strings += symbol.name.encode() + b"\0" if symbol.name else b""
            home = 0 if symbol.section is None else 0xFFF1 if symbol.section < 0 else symbol.section + 1
            fields = {"name": at, "info": symbol.info, "shndx": home, "value": symbol.value, "size": symbol.size}
            for column, value in fields.items():
                symtab[new[old]][column] = value
        local = 1 + sum(1 for symbol in self.symbols if symbol.info >> 4 == 0)

        number = len(self.sections)
        relocated = [n for n, s in enumerate(self.sections) if s.relocations]
        symtab_at, strtab_at = number + 1 + len(relocated), number + 2 + len(relocated)
        form = forms.rel if arch.rel else forms.rela
        tables = []
        for home in relocated:
            section = self.sections[home]
            rows = np.zeros(len(section.relocations), form)
            for row, (offset, kind, symbol_number, addend) in zip(rows, section.relocations, strict=True):
                row["offset"], row["info"] = offset, new[symbol_number] << forms.type_bits | kind
                if arch.rel:
                    _embed(arch.fields[kind], section.data, offset, addend)
                else:
                    row["addend"] = addend
            name = (".rel" if arch.rel else ".rela") + section.name
            kind = SHT_REL if arch.rel else SHT_RELA
            tables.append((name, kind, 0x40, rows.tobytes(), symtab_at, home + 1, arch.word, form.itemsize))
        table: list[_Row] = [(s.name, s.type, s.flags, bytes(s.data), 0, 0, s.align, s.entsize) for s in self.sections]
        table += tables
        table.append((".symtab", SHT_SYMTAB, 0, symtab.tobytes(), strtab_at, local, arch.word, forms.symbol.itemsize))
        table.append((".strtab", SHT_STRTAB, 0, bytes(strings), 0, 0, 1, 0))
        names = bytearray(b"\0")
        name_at = []
        for name in [*(row[0] for row in table), ".shstrtab"]:
            name_at.append(len(names))
            names += name.encode() + b"\0"
        table.append((".shstrtab", SHT_STRTAB, 0, bytes(names), 0, 0, 1, 0))
        return _file(table, name_at, arch)


def _embed(form: Field, data: bytearray, offset: int, addend: int) -> None:
    """The addend of REL, as an assembler leaves it in the field."""
    content = np.frombuffer(data, np.uint8)
    at = np.array([offset])
    words = gather(content, at, form.width)
    scatter(content, at, form.width, form.apply(words, np.array([addend]), np.array([0])))


_Row = tuple[str, int, int, bytes, int, int, int, int]


def _file(table: list[_Row], name_at: list[int], arch: Arch) -> bytes:
    forms = FORMS[arch.bits]
    start = 16 + struct.calcsize(forms.header)
    width = struct.calcsize(forms.section)
    out, headers = bytearray(start), bytearray(width)
    for (_, kind, flags, data, link, info, align, entsize), name in zip(table, name_at, strict=True):
        out += bytes(-len(out) % max(align, 1))
        headers += struct.pack(
            forms.section, name, kind, flags, 0, len(out), len(data), link, info, max(align, 1), entsize
        )
        out += b"" if kind == SHT_NOBITS else data
    out += bytes(-len(out) % 8)
    ident = bytes([0x7F, 0x45, 0x4C, 0x46, forms.number, 1, 1]) + bytes(9)
    flags = 0x5000000 if arch.name == "arm" else 0
    count = len(table) + 1
    out[:start] = ident + struct.pack(
        forms.header, 1, arch.machine, 1, 0, 0, len(out), flags, start, 0, 0, width, count, count - 1
    )
    return bytes(out + headers)
