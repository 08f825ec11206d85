"""The .modinfo of module files, read here: soft dependencies and aliases where no depmod can make the indexes.

depmod copies both from .modinfo as they stand (output_softdeps(), output_aliases(), tools/depmod.c, kmod 30). It stops
at one file that is no module, and not every machine that builds images has it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError

# (the place of e_shoff in struct elfhdr, its format; the place of e_shentsize, e_shnum and e_shstrndx; struct shdr)
_CLASSES = {1: (32, "I", 46, "10I"), 2: (40, "Q", 58, "2I4Q2I2Q")}
_ORDERS = {1: "<", 2: ">"}


def indexes_from(modules: Iterable[tuple[str, Path]], *, keywords: Mapping[str, str]) -> dict[str, str]:
    """Index → its text for the (canonical name, file) pairs of *modules*; *keywords* are index → "softdep" or "alias".

    A file that is no module, or not there, adds nothing: it is refused when it is chosen.
    """
    lines: dict[str, list[str]] = {index: [] for index in keywords}
    for name, path in modules:
        try:
            entries = list(read_modinfo(read_module_bytes(path)))
        except MegamodError:
            continue
        for index, keyword in keywords.items():
            values = (" ".join(value.split()) for key, value in entries if key == keyword)
            lines[index] += [_line(keyword, value, name) for value in values if value]
    return {index: "".join(rows) for index, rows in lines.items()}


def _line(keyword: str, value: str, name: str) -> str:
    return f"alias {value} {name}\n" if keyword == "alias" else f"{keyword} {name} {value}\n"


def read_modinfo(data: bytes) -> Iterator[tuple[str, str]]:
    """The (key, value) pairs of the module *data*, of either class and byte order; none if it is no whole ELF file."""
    try:
        section = _section(data, b".modinfo")
    except (KeyError, IndexError, OverflowError, struct.error):
        return
    for text in section.decode("utf-8", "replace").split("\0"):
        key, equals, value = text.partition("=")
        if equals:
            yield key, value


def _section(data: bytes, wanted: bytes) -> bytes:
    """The bytes of the section *wanted*, none if there is none. Source: System V ABI, chapter 4."""
    if data[:4] != b"\x7fELF":
        return b""
    offset_at, offset_form, counts_at, row = _CLASSES[data[4]]
    order = _ORDERS[data[5]]
    (start,) = struct.unpack_from(order + offset_form, data, offset_at)
    size, count, names_index = struct.unpack_from(f"{order}3H", data, counts_at)
    rows = [struct.unpack_from(order + row, data, start + number * size) for number in range(count)]
    names = rows[names_index][4]
    for header in rows:
        at = names + header[0]
        if data[at : at + len(wanted) + 1] == wanted + b"\0":
            return data[header[4] : header[4] + header[5]]
    return b""
