"""The kernel's view of one .ko file: sections, symbols, relocations as arrays, and the rules that refuse a load.

Follows kernel/module/main.c (elf_validity_check, setup_load_info, layout_sections, simplify_symbols, apply_relocations)
and arch/x86/kernel/module.c (apply_relocate_add) of Linux 6.1.192. Nothing here knows how a megamodule is made.

Addresses stay symbolic. Since 6.4 text, rodata, data and their init counterparts are separate allocations
(module_memory), so a section has no known distance from any other one.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS = 1, 2, 3, 4, 8
SHF_WRITE, SHF_ALLOC, SHF_EXEC = 1, 2, 4
SHF_MERGE, SHF_STRINGS = 0x10, 0x20
SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON = 0, 0xFF00, 0xFFF1, 0xFFF2
STB_WEAK = 2
STT_FUNC = 2

R_NONE, R_64, R_PC32, R_PLT32, R_32, R_32S, R_PC64 = 0, 1, 2, 4, 10, 11, 24
# A field's kind: what the kernel writes, apart from the symbol. PLT32 is PC32 to the kernel.
KIND_64, KIND_32, KIND_32S, KIND_PC32, KIND_PC64 = 1, 2, 3, 4, 5
KIND_NAMES = {KIND_64: "64", KIND_32: "32", KIND_32S: "32S", KIND_PC32: "PC32", KIND_PC64: "PC64"}
_KIND = np.zeros(64, np.int8)
for _type, _kind in {
    R_64: KIND_64,
    R_32: KIND_32,
    R_32S: KIND_32S,
    R_PC32: KIND_PC32,
    R_PLT32: KIND_PC32,
    R_PC64: KIND_PC64,
}.items():
    _KIND[_type] = _kind
WIDTH = np.array([0, 8, 4, 4, 4, 8], np.int64)  # by kind

_EHDR = np.dtype(
    [
        ("ident", "V16"),
        ("type", "<u2"),
        ("machine", "<u2"),
        ("version", "<u4"),
        ("entry", "<u8"),
        ("phoff", "<u8"),
        ("shoff", "<u8"),
        ("flags", "<u4"),
        ("ehsize", "<u2"),
        ("phentsize", "<u2"),
        ("phnum", "<u2"),
        ("shentsize", "<u2"),
        ("shnum", "<u2"),
        ("shstrndx", "<u2"),
    ]
)
_SHDR = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("addr", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("addralign", "<u8"),
        ("entsize", "<u8"),
    ]
)
_SYM = np.dtype([("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")])
_RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("sym", "<u4"), ("addend", "<i8")])

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]


OUTSIDE = "(outside any section)"


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
        return bool(self.flags & SHF_ALLOC)

    @property
    def nobits(self) -> bool:
        return self.type == SHT_NOBITS


@dataclass(slots=True)
class Model:
    """A module as the loader sees it before it is given addresses.

    place_section, place, kind, symbol, addend: one row per relocation of an ALLOC section (R_X86_64_NONE left out),
    sorted by place_section then place. symbol_section is the section header index, or SHN_ABS, or 0 for undefined.
    problems: sentences for everything that makes the kernel refuse the file, or lose part of it, whatever it contains.
    """

    data: Bytes
    sections: list[Section]
    symbol_section: Ints
    symbol_value: Ints
    symbol_info: NDArray[np.uint8]
    symbol_size: Ints
    symbol_name: NDArray[np.uint32]
    strings: bytes
    place_section: Ints
    place: Ints
    kind: NDArray[np.int8]
    symbol: Ints
    addend: Ints
    problems: list[str] = field(default_factory=list)

    def find(self, name: str) -> Section | None:
        """The first ALLOC section of this name: find_sec() in kernel/module/main.c."""
        for section in self.sections[1:]:
            if section.alloc and section.name == name:
                return section
        return None

    def content(self, section: Section) -> Bytes:
        """The section's bytes before relocation; zeros for NOBITS."""
        if section.nobits:
            return np.zeros(section.size, np.uint8)
        return self.data[section.offset : section.offset + section.size]

    def name_of_symbol(self, index: int) -> str:
        return c_string(self.strings, int(self.symbol_name[index]))

    def rows(self, section: Section) -> slice:
        """The relocation rows whose place is in this section."""
        low = int(np.searchsorted(self.place_section, section.index, "left"))
        high = int(np.searchsorted(self.place_section, section.index, "right"))
        return slice(low, high)

    def row_at(self, section: Section, offset: int) -> int | None:
        """The relocation row at this offset, or None."""
        span = self.rows(section)
        at = span.start + int(np.searchsorted(self.place[span], offset))
        return at if at < span.stop and int(self.place[at]) == offset else None

    def refers(self, section: Section, offset: int) -> tuple[int, int] | None:
        """What a field holds: (section index, offset) it refers to, SHN_ABS and value; None for imports."""
        row = self.row_at(section, offset)
        if row is not None:
            symbol = int(self.symbol[row])
            home = int(self.symbol_section[symbol])
            return None if home == 0 else (home, int(self.symbol_value[symbol]) + int(self.addend[row]))
        return None

    def text_at(self, home: int, offset: int) -> str:
        """The C string at an offset of a section; OUTSIDE where there is none."""
        if not 0 < home < len(self.sections):
            return OUTSIDE
        section = self.sections[home]
        if section.nobits or not 0 <= offset < section.size:
            return OUTSIDE
        return c_string(bytes(self.content(section)[offset : offset + 4096]), 0)


def c_string(table: bytes, start: int) -> str:
    end = table.find(b"\0", start)
    return table[start : end if end >= 0 else len(table)].decode("utf-8", "replace")


def load_model(elf: bytes) -> Model:
    """Reads a plain .ko the way load_module() does. LoadError where it would stop before looking at sections."""
    data = np.frombuffer(elf, np.uint8)
    if len(data) < 64 or elf[:6] != b"\x7fELF\x02\x01":
        raise LoadError("not a little-endian ELF64 file")
    header = np.frombuffer(elf, _EHDR, 1)[0]
    if int(header["type"]) != 1 or int(header["machine"]) != 62 or int(header["shentsize"]) != 64:
        raise LoadError("not a relocatable object for x86_64")
    count, start = int(header["shnum"]), int(header["shoff"])
    if start + 64 * count > len(elf) or not 0 < int(header["shstrndx"]) < count:
        raise LoadError("section headers lie outside the file")
    headers = np.frombuffer(elf, _SHDR, count, start)
    names = headers[int(header["shstrndx"])]
    name_table = elf[int(names["offset"]) : int(names["offset"]) + int(names["size"])]
    sections = [_section(i, h, name_table) for i, h in enumerate(headers.tolist())]
    for section in sections[1:]:
        if not section.nobits and section.offset + section.size > len(elf):
            raise LoadError(f"section {section.index} ({section.name}) lies outside the file")

    symtabs = [s for s in sections if s.type == SHT_SYMTAB]
    if len(symtabs) != 1:
        raise LoadError(f"{len(symtabs)} symbol tables")
    symtab = symtabs[0]
    linked = sections[symtab.link] if symtab.link < count else sections[0]
    strings = elf[linked.offset : linked.offset + linked.size]
    symbols = np.frombuffer(elf, _SYM, symtab.size // 24, symtab.offset)
    problems = _section_problems(sections, count, elf) + _symbol_problems(symbols, strings, sections)
    rela, rela_problems = _relocations(elf, sections, symtab.index, len(symbols))
    problems += rela_problems
    model = Model(
        data=data,
        sections=sections,
        symbol_section=symbols["shndx"].astype(np.int64),
        symbol_value=symbols["value"].astype(np.int64),
        symbol_info=symbols["info"],
        symbol_size=symbols["size"].astype(np.int64),
        symbol_name=symbols["name"],
        strings=strings,
        place_section=rela[0],
        place=rela[1],
        kind=rela[2],
        symbol=rela[3],
        addend=rela[4],
        problems=problems,
    )
    problems += _place_problems(model)
    return model


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


def _section_problems(sections: list[Section], count: int, elf: bytes) -> list[str]:
    problems = []
    if count >= SHN_LORESERVE:
        problems.append(f"{count} section headers: st_shndx would mean something else from {SHN_LORESERVE:#x} on")
    seen: dict[str, int] = {}
    for section in sections[1:]:
        if section.align & (section.align - 1):
            problems.append(f"section {section.name}: alignment {section.align} is no power of two")
        if not section.alloc:
            continue
        # sysfs: add_sect_attrs() makes a file per non-empty ALLOC section; a duplicate or an empty name fails.
        if not section.name:
            problems.append(f"ALLOC section {section.index} has no name")
        elif section.name in seen:
            problems.append(f"two ALLOC sections are called {section.name}: find_sec() sees only the first")
        seen[section.name] = section.index
        if section.flags & SHF_WRITE and section.flags & SHF_EXEC:
            problems.append(f"section {section.name} is writable and executable")  # module_enforce_rwx_sections
    for section in sections:
        if section.type == SHT_STRTAB and section.size and elf[section.offset + section.size - 1] != 0:
            problems.append(f"string table {section.name} does not end in a NUL")
    owner = next((s for s in sections if s.name == ".gnu.linkonce.this_module"), None)
    if owner is None or not owner.alloc or owner.type != SHT_PROGBITS:
        problems.append("no .gnu.linkonce.this_module of type PROGBITS with SHF_ALLOC")
    return problems


def _symbol_problems(symbols: NDArray[np.void], strings: bytes, sections: list[Section]) -> list[str]:
    problems = []
    homes = symbols["shndx"].astype(np.int64)
    if np.any(homes == SHN_COMMON):
        problems.append("a COMMON symbol: simplify_symbols() answers ENOEXEC")
    strange = (homes >= len(sections)) & (homes != SHN_ABS) & (homes != SHN_COMMON)
    if np.any(strange):
        raise LoadError(f"symbol {int(np.argmax(strange))} is in section {int(homes[strange][0])}, which is not there")
    if np.any(symbols["name"] >= max(len(strings), 1)):
        problems.append("a symbol's name lies outside the string table")
    return problems


def _relocations(
    elf: bytes, sections: list[Section], symtab: int, symbols: int
) -> tuple[tuple[Ints, Ints, NDArray[np.int8], Ints, Ints], list[str]]:
    tables, homes, problems = [], [], []
    for section in sections:
        # apply_relocations(): sh_info must name an ALLOC section, others are not for the loader.
        if section.type != SHT_RELA or section.info >= len(sections) or not sections[section.info].alloc:
            continue
        if section.link != symtab:
            problems.append(f"{section.name}: sh_link {section.link} is not the symbol table")
        rows = np.frombuffer(elf, _RELA, section.size // 24, section.offset)
        tables.append(rows)
        homes.append(np.full(len(rows), section.info, np.int64))
    table = np.concatenate(tables) if tables else np.zeros(0, _RELA)
    home = np.concatenate(homes) if homes else np.zeros(0, np.int64)
    used = table["type"] != R_NONE
    table, home = table[used], home[used]
    kind = _KIND[np.minimum(table["type"], 63)]
    if np.any(kind == 0):
        bad = sorted(set(table["type"][kind == 0].tolist()))
        problems.append(f"relocation types {bad}: apply_relocate_add() answers ENOEXEC")
        keep = kind != 0
        table, home, kind = table[keep], home[keep], kind[keep]
    if np.any(table["sym"] >= symbols):
        problems.append("a relocation names a symbol that is not there")
        keep = table["sym"] < symbols
        table, home, kind = table[keep], home[keep], kind[keep]
    place = table["offset"].astype(np.int64)
    order = np.argsort((home << 40) | np.clip(place, 0, (1 << 40) - 1), kind="stable")
    return (
        home[order],
        place[order],
        kind[order],
        table["sym"].astype(np.int64)[order],
        table["addend"][order].astype(np.int64),
    ), problems


def _place_problems(model: Model) -> list[str]:
    """Fields outside their section, overlapping fields, and fields that do not hold zeros before relocation."""
    problems = []
    sizes = np.array([s.size for s in model.sections], np.int64)
    starts = np.array([s.offset for s in model.sections], np.int64)
    nobits = np.array([s.nobits for s in model.sections])
    width = WIDTH[model.kind]
    outside = (model.place < 0) | (model.place + width > sizes[model.place_section])
    for row in np.flatnonzero(outside)[:5]:
        problems.append(f"{_spot(model, row)}: the field lies outside its section")
    inside = ~outside
    if np.any(nobits[model.place_section[inside]]):
        problems.append("a relocation in a NOBITS section")
    same = model.place_section[1:] == model.place_section[:-1]
    overlap = same & (model.place[:-1] + width[:-1] > model.place[1:])
    for row in np.flatnonzero(overlap)[:5]:
        problems.append(f"{_spot(model, row + 1)}: two relocations of one field")
    inside &= ~nobits[model.place_section]
    at = starts[model.place_section] + model.place
    dirty = np.zeros(len(at), bool)
    where = at[inside]
    any_set = np.zeros(len(where), bool)
    for byte in range(8):
        covered = width[inside] > byte
        any_set[covered] |= model.data[where[covered] + byte] != 0
    dirty[inside] = any_set
    for row in np.flatnonzero(dirty)[:5]:
        problems.append(f"{_spot(model, row)}: relocation over bytes that are not zero (apply_relocate_add: ENOEXEC)")
    return problems


def _spot(model: Model, row: int) -> str:
    return f"{model.sections[int(model.place_section[row])].name}+{int(model.place[row]):#x}"


_INIT = re.compile(r"\.init")


def in_init_memory(name: str) -> bool:
    """module_init_section(): by the prefix alone (kernel/module/main.c; x86 has no override)."""
    return _INIT.match(name) is not None
