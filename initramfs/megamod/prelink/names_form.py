"""The names form of a megamodule: the same with each import by its name, for another build of the kernel.

It is kept as a patch of the file whose imports are bound by distance: the two differ in what relocations say, in
symbols and versions, and in a jump over the glue's look at the kernel. The loader (names_form.c) applies it in memory
when the kernel has another build id; so this is one format with two readers. All numbers are little-endian:

    magic "MMNAMES1", u64 size of the file, u64 size of the names form,
    u32 number of tables, u32 number of parts, u32 number of imports, u32 the first import's symbol,
    s64 each import's distance from the anchor,
    tables, each: u64 place of its first entry, u64 number of entries, and for each entry
        u16 its import, or 0xffff if it stays; padded to a multiple of 8,
    parts, each: u64 place, u64 length, bytes; padded to a multiple of 8. They come last, for they may overwrite.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.elf import Array

MAGIC = b"MMNAMES1"
_HEAD, _TABLE, _PART = struct.Struct("<8sQQIIII"), struct.Struct("<QQ"), struct.Struct("<QQ")
_STAYS = 0xFFFF
_GAP = 64  # differing bytes that are less than this apart are one part


def make_patch(data: bytes, names: bytes) -> bytes:
    """What turns *data*, a 64-bit megamodule bound by distances, into *names*; either may be signed."""
    tables, away, first = _tables(data, names)
    patched = _apply_tables(data, tables, away, first)
    parts = _parts(patched, names)
    out = [_HEAD.pack(MAGIC, len(data), len(names), len(tables), len(parts), len(away), first), away.tobytes()]
    for place, imports in tables:
        out.append(_padded(_TABLE.pack(place, len(imports)) + imports.tobytes()))
    for start, end in parts:
        out.append(_padded(_PART.pack(start, end - start) + names[start:end]))
    return b"".join(out)


def apply_patch(data: bytes, patch: bytes) -> bytes:
    """The names form, as the loader makes it; raises MegamodError for a patch of another file."""
    magic, size, wanted, tables, parts, imports, first = _HEAD.unpack_from(patch)
    if magic != MAGIC or size != len(data):
        raise MegamodError("the patch is for another megamodule")
    at = _HEAD.size
    away = np.frombuffer(patch, "<i8", imports, at)
    at += away.nbytes
    rows = []
    for _ in range(tables):
        place, count = _TABLE.unpack_from(patch, at)
        rows.append((place, np.frombuffer(patch, "<u2", count, at + _TABLE.size)))
        at += _aligned(_TABLE.size + 2 * count)
    out = _apply_tables(data, rows, away, first)
    out = out[:wanted] + bytes(wanted - len(out)) if len(out) < wanted else out[:wanted]
    for _ in range(parts):
        place, length = _PART.unpack_from(patch, at)
        out[place : place + length] = patch[at + _PART.size : at + _PART.size + length]
        at += _aligned(_PART.size + length)
    return bytes(out)


def _apply_tables(data: bytes, tables: Sequence[tuple[int, Array]], away: Array, first: int) -> bytearray:
    out = bytearray(data)
    for place, imports in tables:
        rows = np.frombuffer(out, elf.RELA64, len(imports), place)
        changed = imports != _STAYS
        rows["r_sym"][changed] = first + imports[changed]
        rows["r_addend"][changed] -= away[imports[changed]]
    return out


def _tables(data: bytes, names: bytes) -> tuple[list[tuple[int, Array]], Array, int]:
    """The tables with each entry's import; each import's distance; the first import's symbol."""
    ours, theirs = _sections(data), _sections(names)
    symtab = theirs[theirs["sh_type"] == elf.SHT_SYMTAB][0]
    first, count = int(symtab["sh_info"]), int(symtab["sh_size"]) // elf.SYM64.itemsize - int(symtab["sh_info"])
    assert count < _STAYS
    away = np.zeros(count, np.int64)
    tables = []
    for old, new in zip(ours, theirs, strict=True):
        if old["sh_type"] != elf.SHT_RELA:
            continue
        assert old["sh_offset"] == new["sh_offset"] and old["sh_size"] == new["sh_size"]
        place, rows = int(old["sh_offset"]), int(old["sh_size"]) // elf.RELA64.itemsize
        before, after = (np.frombuffer(file, elf.RELA64, rows, place) for file in (data, names))
        symbols = after["r_sym"].astype(np.int64) - first
        changed = symbols >= 0
        imports = np.where(changed, symbols, _STAYS).astype("<u2")
        away[symbols[changed]] = before["r_addend"][changed] - after["r_addend"][changed]
        tables.append((place, imports))
    return tables, away, first


def _sections(data: bytes) -> Array:
    header = np.frombuffer(data, elf.EHDR64, 1)[0]
    return np.frombuffer(data, elf.SHDR64, int(header["e_shnum"]), int(header["e_shoff"]))


def _parts(patched: bytearray, names: bytes) -> list[tuple[int, int]]:
    """Where *patched* differs from *names*."""
    both = min(len(patched), len(names))
    one, other = (np.frombuffer(file, np.uint8, both) for file in (patched, names))
    places = np.flatnonzero(one != other)
    parts = []
    if len(places):
        cuts = np.flatnonzero(np.diff(places) > _GAP)
        starts = places[np.concatenate([[0], cuts + 1])]
        ends = places[np.concatenate([cuts, [len(places) - 1]])] + 1
        parts = list(zip(starts.tolist(), ends.tolist(), strict=True))
    return [*parts, (both, len(names))] if len(names) > both else parts


def _aligned(size: int) -> int:
    return elf.align_up(size, 8)


def _padded(piece: bytes) -> bytes:
    return piece + bytes(_aligned(len(piece)) - len(piece))
