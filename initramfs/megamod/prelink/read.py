"""Pass 1, read: one module file becomes a Member, its tables as arrays, every offset checked against the file.

Needs: the bytes of a ``.ko``, already decompressed. Guarantees: all later passes may index sections, symbols and
strings without looking at bounds again; the member is a relocatable of a known machine with a struct module, a name
and a vermagic.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.arch import architecture_of, known_names
from megamod.prelink.arch.interface import Architecture
from megamod.prelink.check import check_member
from megamod.prelink.elf import Array, Section, find_section
from megamod.prelink.exports import read_exports
from megamod.prelink.member import Member, string_at
from megamod.prelink.options import NAME_LIMIT
from megamod.prelink.struct_module import THIS_MODULE, check_rest, find_init, find_name

_T = TypeVar("_T")
SIGNATURE_MAGIC = b"~Module signature appended~\n"
# Sanity bounds: far above anything real (the largest Debian module has 93 sections and 8 MB of data), low enough that
# a damaged header cannot make us ask for all memory.
_MAX_SECTION = 1 << 28
_MAX_ALIGN = 1 << 16  # the kernel keeps no alignment above a page (module_alloc()), which is 64 KiB at most


def read_members(paths: Iterable[Path]) -> list[Member]:
    """Read module files (plain, .gz, .xz, .zst); each error names its file."""
    return [read_member(read_module_bytes(path), file=path.name) for path in paths]


def read_member(image: bytes, *, file: str, lenient: bool = False) -> Member:
    """Parse the bytes of one plain ``.ko``; raise MegamodError naming *file* and the place of anything wrong.

    lenient: what is wrong for the linker alone, and perhaps not for the kernel, is told in Member.refused instead; such
    a member may be loaded on its own.
    """
    # A view: a copy of each module would double what a build keeps in memory.
    architecture, e_flags, sections = _read_sections(memoryview(image)[: signature_at(image, file=file)], file)
    symtab = _only(sections, elf.SHT_SYMTAB, "symbol table", file)
    strings = _strings(sections, symtab, file)
    symbols = _read_symbols(symtab, architecture, file)
    _check_symbols(symbols, sections, strings, file)
    relas = _read_relas(sections, symtab, len(symbols), architecture, file)
    modinfo = _read_modinfo(sections, file)
    name = _read_name(modinfo, file)
    architecture = architecture_of(architecture.machine, _required(modinfo, "vermagic", file)) or architecture
    this_module = find_section(sections, THIS_MODULE)
    if this_module is None:
        raise MegamodError(f"{file}: no {THIS_MODULE} section", hint="this is an object file, not a kernel module")
    versions, has_versions, extended = _read_versions(sections, architecture.word, file)
    undefined = np.flatnonzero((symbols["st_shndx"] == elf.SHN_UNDEF) & (symbols["st_name"] != 0))
    named = zip(undefined.tolist(), symbols["st_name"][undefined].tolist(), strict=True)
    imports = {index: string_at(strings, at) for index, at in named}
    weak = symbols["st_info"][undefined] >> 4 == elf.STB_WEAK
    reasons: list[MegamodError] = []

    def judge(check: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return check()
        except MegamodError as error:
            if not lenient:
                raise
            reasons.append(error)
            return otherwise

    init = judge(lambda: find_init(this_module, sections, symbols, strings, relas, file), None)
    claimed = _required(modinfo, "name", file)
    name_offset = find_name(this_module, claimed, file)
    judge(lambda: check_rest(this_module, claimed, name_offset, file), None)
    member = Member(
        name=name,
        file=file,
        architecture=architecture,
        machine=architecture.machine,
        e_flags=e_flags,
        sections=sections,
        symbols=symbols,
        strings=strings,
        relas=relas,
        modinfo=modinfo,
        versions=versions,
        has_versions=has_versions,
        has_extended_versions=extended,
        imports=imports,
        weak_imports=frozenset(undefined[weak].tolist()),
        exports=read_exports(sections, symbols, strings, relas, architecture, file),
        init=init[1:] if init else None,
        init_at=init[0] if init else None,
        this_module=this_module.index,
        name_offset=name_offset,
    )
    judge(lambda: check_member(member), None)
    return replace(member, refused=without_file(reasons[0], file)) if reasons else member


def without_file(error: MegamodError, file: str) -> str:
    """The text of *error* without the *file* that it begins with, for a sentence that names the module."""
    return error.message.removeprefix(f"{file}: ")


def strip_signature(image: bytes, *, file: str) -> bytes:
    """Cut an appended signature off."""
    return image[: signature_at(image, file=file)]


def signature_at(image: bytes, *, file: str) -> int:
    """Where an appended signature begins (KERNEL: scripts/sign-file.c, struct module_signature, then the magic line);
    without one the end of the file."""
    if not image.endswith(SIGNATURE_MAGIC):
        return len(image)
    body = len(image) - len(SIGNATURE_MAGIC) - 12
    (length,) = struct.unpack_from(">I", image, body + 8) if body >= 0 else (len(image),)
    if length > body:
        raise MegamodError(f"{file}: the appended signature claims {length} bytes, more than the file has")
    return body - int(length)


def _read_sections(image: memoryview, file: str) -> tuple[Architecture, int, tuple[Section, ...]]:
    if len(image) < elf.EHDR32.itemsize or bytes(image[:4]) != b"\x7fELF":
        raise MegamodError(f"{file}: not an ELF file ({len(image)} bytes)", hint="a kernel module (.ko) is expected")
    records = elf.CLASSES.get(image[4])
    if records is None or image[5] not in (1, 2):
        raise MegamodError(f"{file}: ELF header: class {image[4]}, byte order {image[5]}", hint="the file is damaged")
    if image[5] == 2:
        raise _foreign(file, int.from_bytes(image[18:20], "big"), image[4], big_endian=True)
    if len(image) < records.header.itemsize:
        raise MegamodError(f"{file}: ELF header: {len(image)} bytes", hint="the file is truncated")
    header = np.frombuffer(image, records.header, count=1)[0]
    machine, kind = int(header["e_machine"]), int(header["e_type"])
    if kind != elf.ET_REL:
        what = {elf.ET_EXEC: "an executable", elf.ET_DYN: "a shared object"}.get(kind, f"ELF type {kind}")
        raise MegamodError(f"{file}: {what}, not a relocatable", hint="a kernel module (.ko) is expected")
    architecture = architecture_of(machine)
    if architecture is None or architecture.bits != 32 * image[4]:
        raise _foreign(file, machine, image[4])
    shoff, count = int(header["e_shoff"]), int(header["e_shnum"])
    if count == 0 and shoff:
        # The number is in the first section header then (System V gABI, e_shnum).
        raise MegamodError(
            f"{file}: has 65,280 sections or more, which the kernel's loader does not read",
            hint="link it with the kernel's scripts/module.lds, or without -ffunction-sections",
        )
    if int(header["e_shentsize"]) != records.section.itemsize or not 1 < count < elf.SHN_LORESERVE:
        raise MegamodError(f"{file}: ELF header: {count} section headers of {int(header['e_shentsize'])} bytes")
    if shoff + count * records.section.itemsize > len(image):
        raise MegamodError(
            f"{file}: ELF header: the section table at {shoff:#x} ends beyond the file ({len(image)} bytes)",
            hint="the file is truncated",
        )
    rows = np.frombuffer(image, records.section, count=count, offset=shoff).tolist()
    sections = tuple(_sections_of(image, rows, int(header["e_shstrndx"]), file))
    return architecture, int(header["e_flags"]), sections


def _foreign(file: str, machine: int, elf_class: int, *, big_endian: bool = False) -> MegamodError:
    """The error of a module for an architecture that is not linked, by the name that the kernel's world has for it."""
    name = elf.MACHINE_NAMES.get(machine, f"ELF machine {machine}")
    if elf_class == 2:
        name = {"s390": "s390x", "loongarch": "loongarch64", "mips": "mips64"}.get(name, name)
    if not big_endian and name in ("ppc64", "mips", "mips64"):
        name += "le" if name == "ppc64" else "el"
    order = ", big-endian" if big_endian else ""
    return MegamodError(
        f"{file}: built for {name}{order}, {32 * elf_class} bits, which cannot be linked", hint=f"{known_names()} can"
    )


def _sections_of(image: memoryview, rows: Sequence[tuple[int, ...]], shstrndx: int, file: str) -> Iterable[Section]:
    if shstrndx >= len(rows) or rows[shstrndx][1] != elf.SHT_STRTAB:
        raise MegamodError(f"{file}: ELF header: section {shstrndx} is not the table of section names")
    names = b""
    for index in [shstrndx, *range(len(rows))]:
        sh_name, sh_type, flags, _addr, offset, size, link, info, align, entsize = rows[index]
        where = f"{file}: section [{index}]"
        stored = sh_type not in (elf.SHT_NOBITS, elf.SHT_NULL)
        if stored and offset + size > len(image):
            raise MegamodError(
                f"{where}: bytes {offset:#x}+{size:#x} lie beyond the file ({len(image)} bytes)",
                hint="the file is truncated",
            )
        if size > _MAX_SECTION or align > _MAX_ALIGN or align & (align - 1):
            raise MegamodError(f"{where}: impossible size {size:#x} or alignment {align:#x}")
        data = image[offset : offset + size] if stored else image[:0]
        if not names:
            names = bytes(data)
            if not names.endswith(b"\0"):
                raise MegamodError(f"{where}: the table of section names does not end with NUL")
            continue
        if sh_name >= len(names):
            raise MegamodError(f"{where}: its name lies outside the table of section names")
        if link >= len(rows):
            raise MegamodError(f"{where}: sh_link {link} does not name a section")
        yield Section(
            index=index,
            name=string_at(names, sh_name),
            sh_type=sh_type,
            sh_flags=flags,
            size=size if sh_type != elf.SHT_NULL else 0,
            sh_link=link,
            sh_info=info,
            sh_addralign=max(align, 1),
            sh_entsize=entsize,
            data=data,
        )


def _only(sections: Sequence[Section], sh_type: int, what: str, file: str) -> Section:
    found = [s for s in sections if s.sh_type == sh_type]
    if len(found) != 1:
        raise MegamodError(f"{file}: {len(found)} sections hold a {what}, one is needed", hint="stripped too far?")
    return found[0]


def _table(section: Section, dtype: np.dtype[Any], file: str) -> Array:
    if section.size % dtype.itemsize:
        raise MegamodError(f"{file}: {section.name}: {section.size} bytes are not a multiple of {dtype.itemsize}")
    return np.frombuffer(section.data, dtype)


def _read_symbols(symtab: Section, architecture: Architecture, file: str) -> Array:
    """The symbol table, as SYM64 records whatever the class."""
    table = _table(symtab, elf.CLASSES[architecture.bits // 32].symbol, file)
    if table.dtype == elf.SYM64:
        return table
    symbols = np.zeros(len(table), elf.SYM64)
    for column in table.dtype.names or ():
        symbols[column] = table[column]
    return symbols


def _strings(sections: Sequence[Section], symtab: Section, file: str) -> bytes:
    table = sections[symtab.sh_link]
    data = bytes(table.data)
    if table.sh_type != elf.SHT_STRTAB or not data.endswith(b"\0"):
        raise MegamodError(f"{file}: {symtab.name}: its string table [{symtab.sh_link}] is none")
    return data


def _check_symbols(symbols: Array, sections: Sequence[Section], strings: bytes, file: str) -> None:
    if len(symbols) == 0:
        raise MegamodError(f"{file}: the symbol table is empty")
    shndx = symbols["st_shndx"]
    bad = (symbols["st_name"] >= len(strings)) | ((shndx >= len(sections)) & (shndx < elf.SHN_LORESERVE))
    if bad.any():
        raise MegamodError(f"{file}: .symtab: symbol {int(np.argmax(bad))} has no valid name or section")
    special = (shndx >= elf.SHN_LORESERVE) & (shndx != elf.SHN_ABS)
    if special.any():
        index = int(np.argmax(special))
        raise MegamodError(
            f"{file}: .symtab: symbol {index} ({string_at(strings, int(symbols['st_name'][index]))}) has section index "
            f"{int(shndx[index]):#x}, which the kernel refuses",
            hint="build modules with -fno-common" if int(shndx[index]) == elf.SHN_COMMON else None,
        )


def _read_relas(
    sections: Sequence[Section], symtab: Section, symbol_count: int, architecture: Architecture, file: str
) -> tuple[tuple[int, Array], ...]:
    """Relocations of SHF_ALLOC sections, one RELA64 table for each; those of debug sections are nobody's business here.

    Where addends are in place, r_addend is what a plain data field holds; instructions keep theirs (it is 0 here).
    """
    records = elf.CLASSES[architecture.bits // 32]
    found: dict[int, list[Array]] = {}
    for section in sections:
        if section.sh_type not in (elf.SHT_RELA, elf.SHT_REL):
            continue
        if section.sh_info >= len(sections):
            raise MegamodError(f"{file}: {section.name}: sh_info {section.sh_info} does not name a section")
        target = sections[section.sh_info]
        if not target.alloc or section.size == 0:
            continue
        if section.sh_type != records.table or section.sh_link != symtab.index:
            what = records.prefix.removeprefix(".").upper()
            raise MegamodError(f"{file}: {section.name}: not a {what} table on the module's symbol table")
        table = _table(section, records.relocation, file)
        if records.relocation == elf.REL32:
            table = _with_addends(table, target, architecture)
        if int(table["r_sym"].max()) >= symbol_count:
            bad = int(np.argmax(table["r_sym"] >= symbol_count))
            raise MegamodError(f"{file}: {section.name}: entry {bad} names symbol {int(table['r_sym'][bad])}, no such")
        if target.sh_type == elf.SHT_NOBITS or int(table["r_offset"].max()) >= target.size:
            bad = int(np.argmax(table["r_offset"]))
            raise MegamodError(
                f"{file}: {target.name}+{int(table['r_offset'][bad]):#x}: a relocation outside the section"
            )
        found.setdefault(target.index, []).append(table)
    # Several may apply to one section (the kernel takes them in turn); nothing here needs them apart.
    return tuple((index, parts[0] if len(parts) == 1 else np.concatenate(parts)) for index, parts in found.items())


def _with_addends(table: Array, target: Section, architecture: Architecture) -> Array:
    """REL records as RELA64 ones."""
    rows = np.zeros(len(table), elf.RELA64)
    rows["r_offset"], rows["r_type"], rows["r_sym"] = table["r_offset"], table["r_info"] & 0xFF, table["r_info"] >> 8
    content = np.frombuffer(target.data, np.uint8)
    plain = [kind for kind, known in architecture.relocations.items() if known.plain]
    data = np.flatnonzero(np.isin(rows["r_type"], plain) & (rows["r_offset"].astype(np.int64) + 4 <= len(content)))
    octets = content[rows["r_offset"][data].astype(np.int64)[:, None] + np.arange(4)]
    rows["r_addend"][data] = np.ascontiguousarray(octets).view("<i4")[:, 0]
    return rows


def _read_modinfo(sections: Sequence[Section], file: str) -> tuple[tuple[str, str], ...]:
    section = find_section(sections, ".modinfo")
    if section is None:
        raise MegamodError(f"{file}: no .modinfo section", hint="this is an object file, not a kernel module")
    entries = (text.decode("utf-8", "backslashreplace").partition("=") for text in bytes(section.data).split(b"\0"))
    return tuple((key, value) for key, _, value in entries if key)


def _required(modinfo: Sequence[tuple[str, str]], key: str, file: str) -> str:
    value = next((v for k, v in modinfo if k == key), None)
    if not value:
        raise MegamodError(f"{file}: .modinfo has no {key}=")
    return value


def _read_name(modinfo: Sequence[tuple[str, str]], file: str) -> str:
    """The module's name, ``-`` as ``_``. kbuild makes it of a file name (scripts/Makefile.lib, name-fix); it becomes
    part of parameter names and of the plan, where a dot or a blank would mean something else."""
    name = _required(modinfo, "name", file)
    if len(name) > NAME_LIMIT[64] or not all(c.isascii() and (c.isalnum() or c in "_-") for c in name):
        raise MegamodError(f"{file}: .modinfo: name={name[:80]!r} is not a module name")
    return name.replace("-", "_")


def _read_versions(sections: Sequence[Section], word: int, file: str) -> tuple[dict[str, int], bool, bool]:
    """CRCs of the imports: __versions (struct modversion_info, a long and 64 bytes in all) and, from 6.14, the extended
    pair.

    Source: kernel/module/version.c check_version() and modversion_ext_start().
    """
    versions: dict[str, int] = {}
    table = find_section(sections, "__versions")
    if table is not None:
        entries = _table(table, np.dtype([("crc", f"<u{word}"), ("name", f"S{64 - word}")]), file)
        versions = {name.decode("utf-8", "backslashreplace"): int(crc) for crc, name in entries.tolist()}
    crcs, names = find_section(sections, "__version_ext_crcs"), find_section(sections, "__version_ext_names")
    if crcs is None or names is None:
        return versions, table is not None, False
    words = _table(crcs, np.dtype("<u4"), file).tolist()
    texts = bytes(names.data).split(b"\0")
    if len(texts) < len(words):
        raise MegamodError(f"{file}: __version_ext_names: {len(texts)} names for {len(words)} CRCs")
    extended = {t.decode("utf-8", "backslashreplace"): w for t, w in zip(texts, words, strict=False)}
    return versions | extended, True, True
