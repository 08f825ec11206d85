"""Pass 1b, check: what a module must be like beyond its bounds; the end of reading it.

Needs: a member with its tables. Guarantees what later passes and verify take for granted, so that a damaged file is
refused with its own name and not as a fault of the megamodule. Every rule was seen to hold for Debian's 5.10, 6.1,
6.12 and 7.2.
"""

from __future__ import annotations

import numpy as np

from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.arch.interface import WIDEST, Architecture
from megamod.prelink.elf import Array, Section, find_section
from megamod.prelink.member import Member
from megamod.prelink.options import NAME_LIMIT

# SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY; the last is SHT_X86_64_UNWIND = SHT_ARM_EXIDX.
_LOADED_TYPES = frozenset([elf.SHT_PROGBITS, elf.SHT_NOTE, elf.SHT_NOBITS, 14, 15, 16, 0x70000001])
# Keeps S + A within 64 bits; the largest in the kernels named above is 0x2000040.
_MAX_ADDEND = 1 << 62
# Tables that are read by the same index: entry sizes.
_PAIR = ((".orc_unwind", 6), (".orc_unwind_ip", 4))


def check_member(member: Member) -> None:
    """Raise MegamodError for a module that no compiler and no modpost would have made."""
    seen: set[str] = set()
    for section in member.sections:
        if section.alloc:
            _check_section(member, section, seen)
    _check_texts(member)
    _check_symbols(member)
    _check_relocations(member)
    _check_init(member)
    counts = {sum(s.size for s in member.sections if s.alloc and s.name == name) // size for name, size in _PAIR}
    if len(counts) > 1:
        raise MegamodError(f"{member.file}: .orc_unwind and .orc_unwind_ip differ in number")


def _check_section(member: Member, section: Section, seen: set[str]) -> None:
    where = f"{member.file}: section [{section.index}] {section.name}"
    if not section.name or section.name in seen:
        # sysfs would refuse it (kernel/module/sysfs.c add_sect_attrs()), and find_sec() takes the first only.
        raise MegamodError(f"{where}: empty or duplicate section name")
    seen.add(section.name)
    if section.sh_type not in _LOADED_TYPES:
        raise MegamodError(f"{where}: type {section.sh_type:#x} cannot be loaded")
    if section.sh_type == elf.SHT_ARM_EXIDX and member.architecture.bits == 32:
        _check_unwind_index(member, section, where)
    if section.sh_flags & elf.SHF_WRITE and section.sh_flags & elf.SHF_EXECINSTR:
        # kernel/module/strict_rwx.c module_enforce_rwx_sections()
        raise MegamodError(f"{where}: writable and executable, the kernel would refuse it")


def _check_unwind_index(member: Member, section: Section, where: str) -> None:
    """arm: an index is about the code section that it is named after (module_finalize(), 6.1)."""
    code = find_section(member.sections, section.name.removeprefix(elf.EXIDX) or ".text")
    named = section.name.startswith(elf.EXIDX) and code is not None and code.sh_flags & elf.SHF_EXECINSTR
    if section.size and (not named or section.size % 8):
        raise MegamodError(f"{where}: an unwind index outside code, or half an entry")


def _check_texts(member: Member) -> None:
    """Names that are written anew must come out as they went in, and be shown as they are."""
    for name in member.imports.values():
        if not _is_name(name):
            raise MegamodError(f"{member.file}: .symtab: the import {name[:80]!r} is not a symbol name")
    for section in member.sections:
        if section.alloc and not _is_name(section.name):
            raise MegamodError(f"{member.file}: section [{section.index}]: {section.name[:80]!r} is not a section name")
    for key in ("vermagic", "import_ns"):
        for value in member.infos(key):
            if not value.isascii() or not value.isprintable():
                raise MegamodError(f"{member.file}: .modinfo: {key}={value[:80]!r} is not text")


def _is_name(text: str) -> bool:
    # What could not be decoded has become an escape with a backslash.
    return text.isascii() and text.isprintable() and not {" ", "\\"} & set(text)


def _check_symbols(member: Member) -> None:
    home = member.symbols["st_shndx"].astype(np.int64)
    loaded = np.array([section.alloc for section in member.sections], bool)
    # binutils leaves mapping symbols ($x, $d) with stale values in sections that are not loaded; nobody reads those.
    inside = (home > 0) & (home < len(member.sections))
    inside &= loaded[np.where(inside, home, 0)]
    room = np.array([section.size for section in member.sections], np.uint64)[np.where(inside, home, 0)]
    start, size = member.symbols["st_value"], member.symbols["st_size"]
    if member.architecture.bits == 32:
        # A Thumb function's value is odd (AArch32 psABI, 5.5.3); its place is not.
        start = start & ~(member.symbols["st_info"] & 15 == elf.STT_FUNC).astype(np.uint64)
    outside = inside & ((start > room) | (size > room - np.minimum(start, room)))
    for index in np.flatnonzero(outside).tolist():
        # A section anchor of the compiler (-fsection-anchors, arm and riscv) may lie beyond the end that it is near.
        if size[index] == 0 and member.symbol_name(index).startswith(".LANCHOR"):
            continue
        raise MegamodError(
            f"{member.file}: .symtab: symbol {index} ({member.symbol_name(index)}) lies outside its section "
            f"{member.sections[int(home[index])].name}"
        )


def _check_relocations(member: Member) -> None:
    """No two on one byte, no addend that S + A would overflow with, in tables the one type that they are made of."""
    for target, rows in member.relas:
        section = member.sections[target]
        where = f"{member.file}: {section.name}"
        far = np.abs(rows["r_addend"].astype(np.float64)) >= _MAX_ADDEND
        if far.any():
            row = rows[int(np.argmax(far))]
            raise MegamodError(f"{where}+{int(row['r_offset']):#x}: impossible addend {int(row['r_addend']):#x}")
        other = rows["r_type"] != member.architecture.tables.get(section.name, rows["r_type"])
        if other.any():
            row = rows[int(np.argmax(other))]
            raise MegamodError(f"{where}+{int(row['r_offset']):#x}: relocation type {int(row['r_type'])} in this table")
        _check_overlaps(rows, where, member.architecture)


def _check_overlaps(rows: Array, where: str, architecture: Architecture) -> None:
    start = rows["r_offset"].astype(np.int64)
    end = start + architecture.own_widths[np.minimum(rows["r_type"], WIDEST)]
    if (start[1:] >= end[:-1]).all():
        return
    order = np.lexsort((end, start))
    overlap = start[order][1:] < end[order][:-1]
    if overlap.any():
        place = int(start[order][1:][np.argmax(overlap)])
        raise MegamodError(f"{where}+{place:#x}: two relocations for the same bytes")


def _check_init(member: Member) -> None:
    """Struct module has room for a longer name, and its pointers are pointers: the megamodule takes a copy."""
    this_module, name = member.sections[member.this_module], member.name_offset
    architecture = member.architecture
    room, word = NAME_LIMIT[architecture.bits] + 1, architecture.word
    if name + room > this_module.size:
        raise MegamodError(f"{member.file}: {this_module.name}: the name at {name:#x} has no room for {room} bytes")
    for target, rows in member.relas:
        if target != member.this_module:
            continue
        for offset, kind, _symbol, _addend in rows.tolist():
            field = bytes(member.sections[target].data[offset : offset + word])
            if kind != architecture.pointer or field != bytes(word) or name - word < offset < name + room:
                raise MegamodError(
                    f"{member.file}: {member.sections[target].name}+{offset:#x}: the kernel would not fill it"
                )
