"""The records of an ELF file of either class: section headers, and relocations as arrays."""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.oracle.arch import Arch, Ints
from tests.oracle.arches import ARCHES, choose

_SHT_RELA, _SHT_NOBITS, _SHT_REL = 4, 8, 9
_SHF_ALLOC = 2


class LoadError(Exception):
    """The file cannot be read as a module at all; the kernel would answer ENOEXEC."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section header (sizes in bytes) with its name."""

    index: int
    name: str
    type: int
    flags: int
    offset: int
    size: int
    align: int
    entsize: int
    link: int
    info: int

    @property
    def alloc(self) -> bool:
        return bool(self.flags & _SHF_ALLOC)

    @property
    def nobits(self) -> bool:
        return self.type == _SHT_NOBITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """The records of one ELF class. header: struct format behind e_ident; section: of one section header."""

    number: int
    header: str
    section: str
    symbol: np.dtype[np.void]
    rela: np.dtype[np.void]
    rel: np.dtype[np.void]
    type_bits: int


FORMS = {
    64: Forms(
        number=2,
        header="<HHIQQQIHHHHHH",
        section="<IIQQQQIIQQ",
        symbol=np.dtype(
            [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")]
        ),
        rela=np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")]),
        rel=np.dtype([("offset", "<u8"), ("info", "<u8")]),
        type_bits=32,
    ),
    32: Forms(
        number=1,
        header="<HHIIIIIHHHHHH",
        section="<IIIIIIIIII",
        symbol=np.dtype(
            [("name", "<u4"), ("value", "<u4"), ("size", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2")]
        ),
        rela=np.dtype([("offset", "<u4"), ("info", "<u4"), ("addend", "<i4")]),
        rel=np.dtype([("offset", "<u4"), ("info", "<u4")]),
        type_bits=8,
    ),
}


@dataclass(frozen=True, slots=True)
class Relocations:
    """One row per relocation of an ALLOC section, in file order. table: index of its relocation section."""

    table: Ints
    home: Ints
    place: Ints
    type: Ints
    symbol: Ints
    addend: Ints

    def keep(self, rows: NDArray[np.generic]) -> "Relocations":
        """The chosen rows, by mask or order."""
        return Relocations(
            self.table[rows],
            self.home[rows],
            self.place[rows],
            self.type[rows],
            self.symbol[rows],
            self.addend[rows],
        )


def c_string(table: bytes, start: int) -> str:
    end = table.find(b"\0", start)
    return table[start : end if end >= 0 else len(table)].decode("utf-8", "replace")


def open_elf(elf: bytes) -> tuple[Arch, Forms, list[Section]]:
    """The architecture and the section headers. LoadError where load_module() would not get that far."""
    if len(elf) < 52 or elf[:4] != b"\x7fELF" or elf[4] not in (1, 2) or elf[5:7] != b"\1\1":
        raise LoadError("not a little-endian ELF file")
    forms = FORMS[64 if elf[4] == 2 else 32]
    if len(elf) < 16 + struct.calcsize(forms.header):
        raise LoadError("the file ends in its header")
    kind, machine, _, _, _, start, _, _, _, _, width, count, strndx = struct.unpack_from(forms.header, elf, 16)
    arch = ARCHES.get(machine)
    size = struct.calcsize(forms.section)
    if kind != 1 or arch is None or FORMS[arch.bits] is not forms or width != size:
        raise LoadError(f"no relocatable object for a known architecture (machine {machine})")
    if start + size * count > len(elf) or not 0 < strndx < count:
        raise LoadError("section headers lie outside the file")
    rows = [struct.unpack_from(forms.section, elf, start + size * n) for n in range(count)]
    names = elf[rows[strndx][4] : rows[strndx][4] + rows[strndx][5]]
    sections = [_section(n, row, names) for n, row in enumerate(rows)]
    for section in sections[1:]:
        if not section.nobits and section.offset + section.size > len(elf):
            raise LoadError(f"section {section.index} ({section.name}) lies outside the file")
    modinfo = next((elf[s.offset : s.offset + s.size] for s in sections if s.name == ".modinfo"), b"")
    return choose(machine, modinfo) or arch, forms, sections


def elf_flags(elf: bytes) -> int:
    """e_flags: the ABI of the code."""
    forms = FORMS[64 if elf[4] == 2 else 32]
    return int(struct.unpack_from(forms.header, elf, 16)[6])


def _section(index: int, header: tuple[int, ...], names: bytes) -> Section:
    name, kind, flags, _addr, offset, size, link, info, align, entsize = header
    return Section(
        index=index,
        name=c_string(names, name) if index else "",
        type=kind,
        flags=flags,
        offset=offset,
        size=size,
        align=align or 1,
        entsize=entsize,
        link=link,
        info=info,
    )


def read_relocations(
    elf: bytes, arch: Arch, forms: Forms, sections: list[Section], symtab: int
) -> tuple[Relocations, list[str]]:
    """The relocations that apply_relocations() applies: sh_info must name an ALLOC section. Addends of REL are 0."""
    parts: list[Relocations] = []
    problems = []
    for section in sections:
        if section.type not in (_SHT_RELA, _SHT_REL) or section.info >= len(sections):
            continue
        if not sections[section.info].alloc:
            continue
        if section.link != symtab:
            problems.append(f"{section.name}: sh_link {section.link} is not the symbol table")
        if (section.type == _SHT_REL) != arch.rel:
            problems.append(f"{section.name}: the kernel's loader does not know this form of relocations")
            continue
        form = forms.rel if arch.rel else forms.rela
        rows = np.frombuffer(elf, form, section.size // form.itemsize, section.offset)
        info = rows["info"].astype(np.int64)
        parts.append(
            Relocations(
                np.full(len(rows), section.index, np.int64),
                np.full(len(rows), section.info, np.int64),
                rows["offset"].astype(np.int64),
                info & ((1 << forms.type_bits) - 1),
                info >> forms.type_bits,
                np.zeros(len(rows), np.int64) if arch.rel else rows["addend"].astype(np.int64),
            )
        )
    columns = ("table", "home", "place", "type", "symbol", "addend")
    joined = [np.concatenate([np.zeros(0, np.int64), *(getattr(p, c) for p in parts)]) for c in columns]
    return Relocations(*joined), problems
