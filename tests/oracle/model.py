"""The kernel's view of one .ko file: sections, symbols, relocations as arrays, and the rules that refuse a load.

Follows kernel/module/main.c (elf_validity_check, setup_load_info, layout_sections, simplify_symbols, apply_relocations)
of Linux 6.1.192; what the architecture adds is in arch_*.py. Nothing here knows how a megamodule is made.

Addresses stay symbolic. Since 6.4 text, rodata, data and their init counterparts are separate allocations
(module_memory), so a section has no known distance from any other one.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.oracle.arch import Arch
from tests.oracle.elffile import (
    Forms,
    LoadError,
    Relocations,
    Section,
    c_string,
    elf_flags,
    open_elf,
    read_relocations,
)

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 3, 4, 8, 9
SHF_WRITE, SHF_ALLOC, SHF_EXEC = 1, 2, 4
SHF_RO_AFTER_INIT = 0x200000
SHF_MERGE, SHF_STRINGS = 0x10, 0x20
SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON = 0, 0xFF00, 0xFFF1, 0xFFF2
STB_WEAK = 2
STT_FUNC = 2

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]


OUTSIDE = "(outside any section)"


@dataclass(slots=True)
class Model:
    """A module as the loader sees it before it is given addresses.

    place_section, place, kind, symbol, addend: one row per relocation of an ALLOC section (those without effect left
    out), sorted by place_section then place; kind is the code of arch.fields. table: the section that holds the
    relocation. pair: for R_RISCV_PCREL_LO12 and the like the row whose value it shares, else -1.
    symbol_section is the section header index, or SHN_ABS, or 0 for undefined. flags: e_flags.
    problems: sentences for everything that makes the kernel refuse the file, or lose part of it, whatever it contains.
    """

    arch: Arch
    flags: int
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
    kind: NDArray[np.int16]
    symbol: Ints
    addend: Ints
    table: Ints
    pair: Ints
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


def load_model(elf: bytes) -> Model:
    """Reads a plain .ko the way load_module() does. LoadError where it would stop before looking at sections."""
    arch, forms, sections = open_elf(elf)
    symtabs = [s for s in sections if s.type == SHT_SYMTAB]
    if len(symtabs) != 1:
        raise LoadError(f"{len(symtabs)} symbol tables")
    symtab = symtabs[0]
    linked = sections[symtab.link] if symtab.link < len(sections) else sections[0]
    strings = elf[linked.offset : linked.offset + linked.size]
    symbols = np.frombuffer(elf, forms.symbol, symtab.size // forms.symbol.itemsize, symtab.offset)
    problems = _section_problems(sections, len(sections), elf) + _symbol_problems(symbols, strings, sections)
    rows, row_problems = _relocations(elf, arch, forms, sections, symtab.index, len(symbols))
    problems += row_problems
    model = Model(
        arch=arch,
        flags=elf_flags(elf),
        data=np.frombuffer(elf, np.uint8),
        sections=sections,
        symbol_section=symbols["shndx"].astype(np.int64),
        symbol_value=symbols["value"].astype(np.int64),
        symbol_info=symbols["info"],
        symbol_size=symbols["size"].astype(np.int64),
        symbol_name=symbols["name"],
        strings=strings,
        place_section=rows.home,
        place=rows.place,
        kind=rows.type.astype(np.int16),
        symbol=rows.symbol,
        addend=rows.addend,
        table=rows.table,
        pair=np.full(len(rows.home), -1, np.int64),
        problems=problems,
    )
    problems += _place_problems(model)
    if arch.rel:
        _read_addends(model)
    problems += _pair_up(model)
    return model


def _section_problems(sections: list[Section], count: int, elf: bytes) -> list[str]:
    problems = []
    if count >= SHN_LORESERVE:
        problems.append(f"{count} section headers: st_shndx would mean something else from {SHN_LORESERVE:#x} on")
    seen: dict[str, int] = {}
    for section in sections[1:]:
        if section.align & (section.align - 1):
            problems.append(f"section {section.name}: alignment {section.align} is not a power of two")
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
    elf: bytes, arch: Arch, forms: Forms, sections: list[Section], symtab: int, symbols: int
) -> tuple[Relocations, list[str]]:
    """The rows that have an effect, sorted by place, with the type's code as their type."""
    rows, problems = read_relocations(elf, arch, forms, sections, symtab)
    rows = rows.keep(~np.isin(rows.type, sorted(arch.ignored)))
    codes = arch.code[np.minimum(rows.type, len(arch.code) - 1)].astype(np.int64)
    if np.any(codes == 0):
        bad = sorted(set(rows.type[codes == 0].tolist()))
        problems.append(f"relocation types {bad}: apply_relocate_add() answers ENOEXEC")
    if np.any(rows.symbol >= symbols):
        problems.append("a relocation names a symbol that is not there")
    keep = (codes != 0) & (rows.symbol < symbols)
    rows = Relocations(rows.table, rows.home, rows.place, codes, rows.symbol, rows.addend).keep(keep)
    order = np.lexsort((arch.slot[rows.type], np.clip(rows.place, 0, (1 << 40) - 1), rows.home))
    return rows.keep(order), problems


def gather(content: Bytes, at: Ints, width: int) -> NDArray[np.uint64]:
    """Little-endian words of width bytes at the given places."""
    octets = np.zeros((len(at), 8), np.uint8)
    octets[:, :width] = content[at[:, None] + np.arange(width)]
    words: NDArray[np.uint64] = octets.view("<u8")[:, 0]
    return words


def scatter(content: Bytes, at: Ints, width: int, words: NDArray[np.uint64]) -> None:
    """Writes words of width bytes to the given places."""
    content[at[:, None] + np.arange(width)] = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]


def _place_problems(model: Model) -> list[str]:
    """Fields outside their section, overlapping fields, and fields that must hold zeros before relocation."""
    problems = []
    arch = model.arch
    sizes = np.array([s.size for s in model.sections], np.int64)
    starts = np.array([s.offset for s in model.sections], np.int64)
    nobits = np.array([s.nobits for s in model.sections])
    width, slot = arch.width[model.kind], arch.slot[model.kind]
    outside = (model.place < 0) | (model.place + width > sizes[model.place_section])
    for row in np.flatnonzero(outside)[:5]:
        problems.append(f"{_spot(model, row)}: the field lies outside its section")
    if np.any(nobits[model.place_section[~outside]]):
        problems.append("a relocation in a NOBITS section")
    same = model.place_section[1:] == model.place_section[:-1]
    stacked = same & (model.place[1:] == model.place[:-1]) & (slot[1:] != slot[:-1])
    overlap = same & (model.place[:-1] + width[:-1] > model.place[1:]) & ~stacked
    for row in np.flatnonzero(overlap)[:5]:
        problems.append(f"{_spot(model, row + 1)}: two relocations of one field")
    # 6.12 sums what one table adds to a place and then writes the sum over it (arch/riscv/kernel/module.c).
    for row in np.flatnonzero(stacked & (model.table[1:] != model.table[:-1]))[:5]:
        problems.append(f"{_spot(model, row + 1)}: two tables add to one field, the kernel keeps one of the sums")
    for code in arch.codes(lambda f: f.aligned > 1):
        step = arch.by_code(code).aligned
        for row in np.flatnonzero((model.kind == code) & (model.symbol_value[model.symbol] % step != 0))[:5]:
            problems.append(f"{_spot(model, row)}: the symbol's value is not a multiple of {step} (ENOEXEC)")
    even = (model.symbol_info[model.symbol] & 0xF == STT_FUNC) & (model.symbol_value[model.symbol] & 1 == 0)
    even &= model.symbol_section[model.symbol] != 0
    for row in np.flatnonzero(even & np.isin(model.kind, arch.codes(lambda f: f.thumb)))[:5]:
        problems.append(f"{_spot(model, row)}: a call of Thumb code to a function of ARM code (ENOEXEC)")
    adding = np.isin(model.kind, arch.codes(lambda f: f.adds))
    zeros = ~outside & ~nobits[model.place_section] & (adding | arch.zero_fields)
    at = starts[model.place_section] + model.place
    for size in np.unique(width[zeros]).tolist():
        rows = np.flatnonzero(zeros & (width == size))
        for row in rows[gather(model.data, at[rows], size) != 0][:5]:
            problems.append(
                f"{_spot(model, row)}: relocation over bytes that are not zero (apply_relocate_add: ENOEXEC)"
            )
    if np.any(outside):
        for column in ("place_section", "place", "kind", "symbol", "addend", "table", "pair"):
            setattr(model, column, getattr(model, column)[~outside])
    return problems


def _read_addends(model: Model) -> None:
    """REL: the addend is what the field holds."""
    starts = np.array([s.offset for s in model.sections], np.int64)
    at = starts[model.place_section] + model.place
    for code in np.unique(model.kind).tolist():
        form = model.arch.by_code(code)
        rows = np.flatnonzero(model.kind == code)
        if form.addend is not None:
            model.addend[rows] = form.addend(gather(model.data, at[rows], form.width))


def _pair_up(model: Model) -> list[str]:
    """Finds for each R_RISCV_PCREL_LO12 its HI20: in the same table, at the place that its symbol names."""
    codes = model.arch.codes(lambda f: f.pair)
    if not codes:
        return []
    rows = np.flatnonzero(np.isin(model.kind, codes))
    leaders = np.flatnonzero(np.isin(model.kind, model.arch.codes(lambda f: f.leads)))
    spots = {
        (table, home, place): row
        for row, table, home, place in zip(
            leaders.tolist(),
            model.table[leaders].tolist(),
            model.place_section[leaders].tolist(),
            model.place[leaders].tolist(),
            strict=True,
        )
    }
    problems = []
    for row in rows.tolist():
        symbol = int(model.symbol[row])
        # sym->st_value alone: the addend plays no part.
        key = (int(model.table[row]), int(model.symbol_section[symbol]), int(model.symbol_value[symbol]))
        found = spots.get(key, -1)
        if found < 0 or key[1] != int(model.place_section[row]):
            problems.append(f"{_spot(model, row)}: no HI20 in its table at the place that it names (EINVAL)")
        else:
            model.pair[row] = found
    return problems[:5]


def _spot(model: Model, row: int) -> str:
    return f"{model.sections[int(model.place_section[row])].name}+{int(model.place[row]):#x}"


def in_init_memory(model: Model, name: str) -> bool:
    """module_init_section(): by the prefix alone (kernel/module/main.c; arm has more)."""
    return name.startswith(model.arch.init_prefixes)
