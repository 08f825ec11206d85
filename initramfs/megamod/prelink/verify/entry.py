"""The glue's init as its caller sees it, compared with the members' own inits: type hash, padding, landing pad.

The linker takes these bytes from the members (prelink/entry.py); here they are read a second time, by patterns, and
what neither all members nor this table explain is refused by its name: the kernel would trap at the first instruction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from megamod.prelink.member import Member
from megamod.prelink.verify.arch_facts import ArchFacts
from megamod.prelink.verify.elf_reader import RELA, Written, failure, places_of

_REACH = 96  # more than a hash with the widest padding, 64 bytes
_MARKS = re.compile(rb"\0__(kcfi_typeid|cfi)_")


def check_entry(read: Written, members: Sequence[Member], home: int, offset: int, facts: ArchFacts) -> None:
    """*home*, *offset*: where struct module's init points to, a Thumb function's bit included."""
    thumb = offset & 1 if read.bits == 32 else 0
    inits = [(member, *member.init) for member in members if member.init is not None]
    starts = {
        member.file: bytes(member.sections[section].data[value - thumb : value - thumb + 4])
        for member, section, value in inits
    }
    start = bytes(read.sections[home].data[offset - thumb : offset - thumb + 4])
    known = [pad for pad in facts.landing_pads if pad in starts.values()]
    if known and start not in facts.landing_pads:
        raise failure(read.name, f"the glue does not start with a landing pad such as {known[0].hex()}")
    for file, found in starts.items():
        if facts.is_landing_pad(found) and found not in facts.landing_pads:
            raise failure(read.name, f"{file}: its init starts with {found.hex()}, a landing pad that is not known")

    before = _hash(read.sections[home].data[: offset - thumb], facts)
    hashes = {
        member.file: _hash(member.sections[section].data[: value - thumb], facts) for member, section, value in inits
    }
    checked = any(map(_shows_kcfi, members))
    for file, own in hashes.items():
        if checked and own is None:
            raise failure(read.name, f"{file}: built with kCFI, but no type hash stands before its init")
        if own is not None and own != before and (checked or len(set(hashes.values())) == 1):
            what = "nothing" if before is None else before.hex()
            raise failure(read.name, f"before the glue's init stands {what}, before that of {file} {own.hex()}")
    _check_sites(read, members, home, offset - len(before or b""))


def _shows_kcfi(member: Member) -> bool:
    tables = (section for section in member.sections if section.name in (".cfi_sites", "__kcfi_traps"))
    return _MARKS.search(member.strings) is not None or any(section.size for section in tables)


def _hash(code: memoryview, facts: ArchFacts) -> bytes | None:
    """The type hash at the end of *code*, what carries it, and the NOPs behind it; None if there is none."""
    found = facts.type_hash.search(bytes(code[-_REACH:]))
    return found[0] if found else None


def _check_sites(read: Written, members: Sequence[Member], home: int, place: int) -> None:
    """FineIBT rewrites the places that .cfi_sites lists, and only those (arch/x86/kernel/alternative.c): so the
    glue's is among them if members have such a list."""
    if not any(member.section(".cfi_sites") for member in members):
        return
    section = read.by_name.get(".cfi_sites")
    rows = read.relocations.get(section.index if section is not None else -1, np.empty(0, RELA))
    if (home, place) not in places_of(read, rows):
        raise failure(read.name, f".cfi_sites does not list the glue's init, {read.sections[home].name}+{place:#x}")
