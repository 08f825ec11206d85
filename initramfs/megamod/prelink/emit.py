"""Pass 9, emit: the megamodule as bytes; a pure function, the same input gives the same bytes.

Needs: contents, tables, layout, classes, resolution. Guarantees: an ELF64 relocatable with one of each special section,
one symbol table, and for every output section at most one relocation table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from megamod.common.choices import Symbols
from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.arch.interface import Architecture
from megamod.prelink.classify import Classes, site
from megamod.prelink.elf import Array, align_up
from megamod.prelink.layout import Layout
from megamod.prelink.limits import MOST_SECTIONS, LimitError
from megamod.prelink.member import Member
from megamod.prelink.merge import ABSOLUTE, Tables
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.resolve import LAYOUT, Resolution
from megamod.prelink.struct_module import THIS_MODULE

BUILD_ID = ".note.gnu.build-id"


@dataclass(slots=True)
class _File:
    """Sections collected in file order; finished once. room: bytes that some take in the file, if they are shorter."""

    architecture: Architecture
    names: list[str] = field(default_factory=list)
    headers: list[list[int]] = field(default_factory=list)
    bodies: list[bytes | memoryview] = field(default_factory=list)
    room: Mapping[str, int] = field(default_factory=dict)

    def add(
        self,
        name: str,
        sh_type: int,
        flags: int,
        body: bytes | memoryview,
        *,
        align: int = 1,
        entsize: int = 0,
        size: int = -1,
    ) -> int:
        self.names.append(name)
        self.headers.append([sh_type, flags, len(body) if size < 0 else size, 0, 0, max(align, 1), entsize])
        self.bodies.append(body)
        return len(self.names)

    def link(self, index: int, sh_link: int, sh_info: int) -> None:
        self.headers[index - 1][3:5] = [sh_link, sh_info]

    def order(self, index: int, code: int) -> None:
        """An unwind index says which section it is about, and that it goes where that goes."""
        self.headers[index - 1][1] |= elf.SHF_LINK_ORDER
        self.link(index, code, 0)

    def finish(self, e_flags: int, build_id: int) -> bytes:
        """The file, with SHA-1 over all of it, the id being zero, in the note that is section *build_id* (ELF gABI:
        a header of 16 bytes with the name GNU)."""
        bits = self.architecture.bits
        records = elf.CLASSES[bits // 32]
        shstrtab = len(self.names) + 1
        table = b"\0" + b"".join(name.encode() + b"\0" for name in [*self.names, ".shstrtab"])
        self.add(".shstrtab", elf.SHT_STRTAB, 0, table)
        parts: list[bytes | memoryview] = [b""]
        headers = np.zeros(len(self.names) + 1, records.section)
        name_offset, end, note = 1, records.header.itemsize, 0
        for index, (name, header, body) in enumerate(zip(self.names, self.headers, self.bodies, strict=True), start=1):
            sh_type, flags, size, sh_link, sh_info, align, entsize = header
            start = align_up(end, align)
            headers[index] = (name_offset, sh_type, flags, 0, start, size, sh_link, sh_info, align, entsize)
            name_offset += len(name.encode()) + 1
            parts += [bytes(start - end), body, bytes(max(self.room.get(name, 0) - len(body), 0))]
            note = len(parts) - 2 if index == build_id else note
            end = start + len(body) + len(parts[-1])
        parts += [bytes(-end % 8), headers.tobytes()]
        ident = np.zeros(1, records.header)
        ident["e_ident"] = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
        ident["e_type"], ident["e_machine"], ident["e_version"] = elf.ET_REL, self.architecture.machine, 1
        ident["e_shoff"], ident["e_flags"] = align_up(end, 8), e_flags
        ident["e_ehsize"], ident["e_shentsize"] = records.header.itemsize, records.section.itemsize
        ident["e_shnum"], ident["e_shstrndx"] = len(headers), shstrtab
        parts[0] = ident.tobytes()
        digest = hashlib.sha1(usedforsecurity=False)
        for part in parts:
            digest.update(part)
        body = bytes(parts[note])
        parts[note] = body[:16] + digest.digest() + body[36:]
        return b"".join(parts)


def emit(
    contents: Sequence[Array],
    tables: Tables,
    layout: Layout,
    found: Classes,
    resolution: Resolution,
    options: PrelinkOptions,
    functions: Functions,
    *,
    beside: bytes | None = None,
) -> bytes:
    """Write the megamodule. *functions*: of `function_symbols`. *beside*: the same in its names form, which has more
    symbols: what both have lies at the same places, so a patch is small (names_form.py)."""
    architecture = tables.architecture
    records = elf.CLASSES[architecture.bits // 32]
    file = _File(architecture=architecture)
    outputs: list[int] = []
    for number, output in enumerate(tables.outputs):
        size = layout.sizes[number]
        kind, content = (output.sh_type, output.sh_flags), contents[number].data
        index = file.add(output.name, *kind, content, align=output.sh_addralign, entsize=output.sh_entsize, size=size)
        outputs.append(index)
    for number, output in zip(outputs, tables.outputs, strict=True):
        if output.sh_type == elf.SHT_ARM_EXIDX:
            code = output.name.removeprefix(elf.EXIDX) or ".text"
            file.order(number, next(n for n, o in zip(outputs, tables.outputs, strict=True) if o.name == code))
    _add_crcs(file, layout, tables.members)
    symbols = _Symbols.build(tables, layout, found, functions, outputs)
    kept = np.flatnonzero(found.kernel)
    kept = kept[np.lexsort((found.place[kept], found.output[kept]))]
    bounds = np.searchsorted(found.output[kept], np.arange(len(tables.outputs) + 1))
    for number, output in enumerate(tables.outputs):
        for table in _relocations_of(number, kept[bounds[number] : bounds[number + 1]], tables, found, symbols):
            body, entry = _encode(table, records.relocation), records.relocation.itemsize
            index = file.add(
                f"{records.prefix}{output.name}",
                records.table,
                elf.SHF_INFO_LINK,
                body,
                align=architecture.word,
                entsize=entry,
            )
            file.link(index, 0, outputs[number])
    body = _encode(symbols.table, records.symbol)
    symtab = file.add(".symtab", elf.SHT_SYMTAB, 0, body, align=architecture.word, entsize=records.symbol.itemsize)
    strtab = file.add(".strtab", elf.SHT_STRTAB, 0, symbols.strings, align=architecture.name_alignment)
    file.link(symtab, strtab, symbols.locals)
    if beside is not None:
        file.room = {".symtab": section_size(beside, ".symtab"), ".strtab": section_size(beside, ".strtab")}
    imports = [name for name, used in zip(tables.imports, found.used, strict=True) if used]
    _add_versions(file, imports, resolution, tables.members[-1])
    for index, header in enumerate(file.headers, start=1):
        if header[0] == records.table:
            file.link(index, symtab, header[4])
    if len(file.names) >= MOST_SECTIONS:
        largest = max(tables.members, key=lambda member: len(member.sections))
        count = f"{len(file.names) + 2} sections, the kernel reads {MOST_SECTIONS}"
        raise LimitError(f"{largest.file}: with it the megamodule has {count}", hint="split the stage in two")
    build_id = next(n for n, output in zip(outputs, tables.outputs, strict=True) if output.name == BUILD_ID)
    return file.finish(tables.members[0].e_flags, build_id)


def _add_crcs(file: _File, layout: Layout, members: Sequence[Member]) -> None:
    """CRC words beside each sorted export table, by the same index, and 7.x's flag bytes."""
    for name, rows in layout.exports.items():
        crcs = [export.crc for _, export in rows]
        if any(crc is not None for crc in crcs):
            words = np.array([crc or 0 for crc in crcs], "<u4").tobytes()
            file.add(name.replace("__ksymtab", "__kcrctab"), elf.SHT_PROGBITS, elf.SHF_ALLOC, words, align=4)
    if "__ksymtab" in layout.exports and any(member.section("__kflagstab") for member in members):
        flags = bytes(
            _export_flags(members[position], export.entry) for position, export in layout.exports["__ksymtab"]
        )
        file.add("__kflagstab", elf.SHT_PROGBITS, elf.SHF_ALLOC, flags)


def _export_flags(member: Member, entry: int) -> int:
    section = member.section("__kflagstab")
    return section.data[entry] if section is not None else 0


def _add_versions(file: _File, imports: Sequence[str], resolution: Resolution, glue: Member) -> None:
    """The union of the members' version entries, without duplicates and without names that are no longer imported:
    the kernel's search is linear in their number for each import (kernel/module/version.c check_version())."""
    if not resolution.has_versions:
        return
    word = file.architecture.word
    # struct modversion_info (include/linux/module.h): 64 bytes, the name's NUL among them.
    short, record = 63 - word, np.dtype([("crc", f"<u{word}"), ("name", f"S{64 - word}")])
    crcs: dict[str, int | None] = {**glue.versions, **resolution.kernel}
    wanted = [LAYOUT, *sorted(set(imports) - {LAYOUT})] if LAYOUT in crcs else sorted(imports)
    rows = [(crc, name) for name in wanted if (crc := crcs.get(name)) is not None]
    if resolution.has_extended_versions:
        words = np.array([crc for crc, _ in rows], "<u4").tobytes()
        names = b"".join(name.encode() + b"\0" for _, name in rows)
        file.add("__version_ext_crcs", elf.SHT_PROGBITS, elf.SHF_ALLOC, words, align=4)
        file.add("__version_ext_names", elf.SHT_PROGBITS, elf.SHF_ALLOC, names)
        rows = [(crc, name) for crc, name in rows if len(name) <= short]
    table = np.array([(crc, name.encode()) for crc, name in rows], record)
    file.add("__versions", elf.SHT_PROGBITS, elf.SHF_ALLOC, table.tobytes(), align=32, entsize=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """Function symbols. output: number of their section; name: where *strings* has it."""

    output: Array
    value: Array
    size: Array
    name: Array
    strings: bytes


def function_symbols(tables: Tables, layout: Layout, options: PrelinkOptions) -> Functions:
    """The members' functions, all local: names repeat between members, and exports are found through __ksymtab."""
    parts, strings = [np.zeros((0, 4), np.int64)], bytearray()
    for position, member in enumerate(tables.members if options.symbols == Symbols.KEEP else ()):
        symbols = member.symbols
        home = tables.symbol_section[int(tables.symbol_base[position]) :][: len(symbols)]
        functions = (symbols["st_info"] & 15 == elf.STT_FUNC) & (symbols["st_shndx"] != elf.SHN_UNDEF) & (home >= 0)
        picked = np.flatnonzero(functions)
        picked = picked[tables.section_output[home[picked]] >= 0]
        names, text = [], member.strings
        for at in symbols["st_name"][picked].tolist():
            names.append(len(strings))
            strings += text[at : text.index(b"\0", at) + 1]
        value = layout.offset[home[picked]] + symbols["st_value"][picked].astype(np.int64)
        size = symbols["st_size"][picked].astype(np.int64)
        parts.append(np.stack((tables.section_output[home[picked]], value, size, np.array(names, np.int64)), axis=1))
    output, values, sizes, places = np.concatenate(parts).T
    return Functions(output=output, value=values, size=sizes, name=places, strings=bytes(strings))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Symbols:
    """The symbol table. symbol, addend: per relocation, what it says in the file if it is left to the kernel."""

    table: Array
    strings: bytes
    locals: int
    symbol: Array
    addend: Array

    @staticmethod
    def build(tables: Tables, layout: Layout, found: Classes, functions: Functions, outputs: Sequence[int]) -> _Symbols:
        sections = np.full(len(tables.outputs), -1, np.int64)
        named: list[tuple[int, int, int, int, int]] = []  # st_info, shndx, value, size, name
        strings = bytearray(1) + functions.strings
        targets = np.unique(found.target[found.kernel & (found.target >= 0)])
        for position, target in enumerate(targets.tolist(), start=1):
            sections[target] = position
            named.append((elf.STT_SECTION, outputs[target], 0, 0, 0))
        exact, values = _exact(tables, found)
        places = np.unique(np.stack([found.target[exact], values[exact]], axis=1), axis=0)
        first = len(named) + 1
        named += [(elf.STT_NOTYPE, outputs[target], value, 0, 0) for target, value in places.tolist()]
        before = len(named)
        shift = before + len(functions.output)
        _add_codetags(tables, layout, outputs, named, strings)
        local_count = shift + len(named) - before + 1
        imports = np.full(len(tables.imports), -1, np.int64)
        weak = {m.imports[i] for m in tables.members for i in m.weak_imports}
        for number in np.flatnonzero(found.used).tolist():
            imports[number] = shift + len(named) - before + 1
            name = tables.imports[number]
            strings += bytes(-len(strings) % tables.architecture.name_alignment)
            binding = elf.STB_WEAK if name in weak else elf.STB_GLOBAL
            named.append((binding << 4, elf.SHN_UNDEF, 0, 0, len(strings)))
            strings += name.encode("utf-8", "backslashreplace") + b"\0"
        table = np.zeros(shift + len(named) - before + 1, elf.SYM64)
        rows = np.array(named, np.int64).reshape(-1, 5)
        own = np.concatenate((table[1 : before + 1], table[shift + 1 :]))
        for column, name in enumerate(("st_info", "st_shndx", "st_value", "st_size", "st_name")):
            own[name] = rows[:, column]
        table[1 : before + 1], table[shift + 1 :] = own[:before], own[before:]
        block = table[before + 1 : shift + 1]
        block["st_info"], block["st_shndx"] = elf.STT_FUNC, np.array(outputs, np.int64)[functions.output]
        block["st_value"], block["st_size"], block["st_name"] = functions.value, functions.size, functions.name + 1

        # Per relocation: symbol and addend.
        symbol = np.zeros(len(found.target), np.int64)
        addend = found.value.copy()
        inside = found.kernel & (found.target >= 0)
        symbol[inside] = sections[found.target[inside]]
        outside = found.kernel & (found.imported >= 0)
        symbol[outside] = imports[found.imported[outside]]
        keys = found.target[exact].astype(np.int64) << 40 | values[exact]
        symbol[exact] = first + np.searchsorted(places[:, 0].astype(np.int64) << 40 | places[:, 1], keys)
        addend[exact] -= values[exact]
        return _Symbols(table=table, strings=bytes(strings), locals=local_count, symbol=symbol, addend=addend)


def _exact(tables: Tables, found: Classes) -> tuple[Array, Array]:
    """Which relocations need a symbol of exactly their target's value, and the values: labels of other relocations, and
    all where addends are in place, since a field of an instruction cannot hold any other."""
    architecture = tables.architecture
    inside = found.kernel & (found.target >= 0)
    values = found.value - tables.relocations.addend
    if not architecture.addends_in_place:
        inside &= np.isin(found.type, [kind for kind, known in architecture.relocations.items() if known.label])
    return np.flatnonzero(inside), values


def _add_codetags(
    tables: Tables,
    layout: Layout,
    outputs: Sequence[int],
    named: list[tuple[int, int, int, int, int]],
    strings: bytearray,
) -> None:
    """One __start/__stop pair for each code-tag section: lib/codetag.c get_section_range() looks the two names up."""
    for number, output in enumerate(tables.outputs):
        if output.name.startswith(".codetag."):
            tag = output.name.removeprefix(".codetag.")
            for prefix, value in (("__start_", 0), ("__stop_", layout.sizes[number])):
                named.append((elf.STT_NOTYPE, outputs[number], value, 0, len(strings)))
                strings += f"{prefix}{tag}".encode() + b"\0"
    if any(output.name.startswith(".codetag.") for output in tables.outputs):
        return
    if any(b"__start_alloc_tags" in member.strings for member in tables.members):
        # The kernel complains about a module without the two names; here no member has tags (mergeable.py).
        home = next(number for number, output in enumerate(tables.outputs) if output.name == THIS_MODULE)
        for prefix in ("__start_", "__stop_"):
            named.append((elf.STT_NOTYPE, outputs[home], 0, 0, len(strings)))
            strings += f"{prefix}alloc_tags".encode() + b"\0"


def _relocations_of(number: int, rows: Array, tables: Tables, found: Classes, symbols: _Symbols) -> Iterable[Array]:
    """The relocation tables of one output section, whose *rows* are in the order of their places; mostly one, none
    without rows."""
    target = found.target[rows]
    if (target == ABSOLUTE).any():
        raise MegamodError(f"{site(tables, int(rows[np.argmax(target == ABSOLUTE)]))}: absolute value")
    if not len(rows):
        return []
    table = np.zeros(len(rows), elf.RELA64)
    table["r_offset"] = found.place[rows]
    table["r_type"] = found.type[rows]
    table["r_sym"] = symbols.symbol[rows]
    table["r_addend"] = symbols.addend[rows]
    assert not (table["r_sym"] == 0).any()
    if not tables.architecture.split_tables or not tables.outputs[number].sh_flags & elf.SHF_EXECINSTR:
        return [table]
    owner = np.searchsorted(tables.section_base, tables.relocations.section[rows], side="right")
    return np.split(table, np.flatnonzero(np.diff(owner)) + 1)


def _encode(table: Array, dtype: np.dtype[Any]) -> bytes:
    """SYM64 or RELA64 records as bytes of the file's class."""
    if table.dtype == dtype:
        return table.tobytes()
    rows = np.zeros(len(table), dtype)
    for column in dtype.names or ():
        rows[column] = table["r_sym"] << 8 | table["r_type"] if column == "r_info" else table[column]
    return rows.tobytes()


def _headers(data: bytes, records: elf.Layouts) -> Array:
    header = np.frombuffer(data, records.header, count=1)[0]
    return np.frombuffer(data, records.section, count=int(header["e_shnum"]), offset=int(header["e_shoff"]))


def _section(data: bytes, name: str) -> Array:
    """The header of a section that every megamodule has."""
    headers = _headers(data, elf.CLASSES[data[4]])
    names = int(headers[int(np.frombuffer(data, elf.CLASSES[data[4]].header, count=1)[0]["e_shstrndx"])]["sh_offset"])
    return next(row for row in headers if data.startswith(name.encode() + b"\0", names + int(row["sh_name"])))


def section_size(data: bytes, name: str) -> int:
    """Bytes of a section that every megamodule has."""
    return int(_section(data, name)["sh_size"])


def own_build_id(data: bytes) -> str:
    """The build id in the note of a megamodule, in hex."""
    at = int(_section(data, BUILD_ID)["sh_offset"])
    return data[at + 16 : at + 36].hex()


def build_ids(members: Sequence[Member]) -> Mapping[str, str]:
    """Each member's own build id in hex, '' without one: what debug packages are found by."""
    found = {}
    for member in members:
        section = member.section(BUILD_ID)
        found[member.name] = bytes(section.data[16:]).hex() if section is not None and section.size > 16 else ""
    return found
