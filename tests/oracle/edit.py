"""Small edits of a written .ko, for tests that show that the oracle can fail."""

import struct
from collections.abc import Callable

from oracle.model import SHT_RELA, Section, load_model


def section_of(data: bytes, name: str) -> Section:
    """The first section of this name."""
    return next(s for s in load_model(data).sections if s.name == name)


def patch(data: bytes, name: str, offset: int, new: bytes) -> bytes:
    """The file with bytes of a section replaced."""
    at = section_of(data, name).offset + offset
    return data[:at] + new + data[at + len(new) :]


def flip(data: bytes, name: str, offset: int, mask: int = 1) -> bytes:
    """The file with bits of one byte of a section turned."""
    section = section_of(data, name)
    return patch(data, name, offset, bytes([data[section.offset + offset] ^ mask]))


Row = tuple[int, int, int, int]  # offset, type, symbol, addend


def edit_relocations(data: bytes, name: str, change: Callable[[int, Row], Row]) -> bytes:
    """The file with each relocation of the named section replaced by change(number, row)."""
    home = section_of(data, name).index
    out = bytearray(data)
    for section in load_model(data).sections:
        if section.type != SHT_RELA or section.info != home:
            continue
        for number, at in enumerate(range(section.offset, section.offset + section.size, 24)):
            row = struct.unpack_from("<QIIq", data, at)
            struct.pack_into("<QIIq", out, at, *change(number, row))
    return bytes(out)


def swap(data: bytes, name: str, first: int, second: int, size: int) -> bytes:
    """The file with two entries of a table exchanged, relocations and all."""
    section = section_of(data, name)
    one = data[section.offset + first : section.offset + first + size]
    two = data[section.offset + second : section.offset + second + size]

    def move(_: int, row: Row) -> Row:
        offset = row[0]
        if first <= offset < first + size:
            offset += second - first
        elif second <= offset < second + size:
            offset += first - second
        return offset, row[1], row[2], row[3]

    return edit_relocations(patch(patch(data, name, first, two), name, second, one), name, move)
