"""Small edits of a written .ko, for tests that show that the oracle can fail."""

from collections.abc import Callable

import numpy as np

from tests.oracle.elffile import FORMS, Section
from tests.oracle.model import SHT_REL, SHT_RELA, load_model


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
    """The file with each relocation of the named section replaced by change(number, row).

    Rows are counted through all tables of the section. The addend of a REL row is 0 here and stays in its field.
    """
    model = load_model(data)
    forms, home = FORMS[model.arch.bits], section_of(data, name).index
    form = forms.rel if model.arch.rel else forms.rela
    out, number = bytearray(data), 0
    for section in model.sections:
        if section.type not in (SHT_REL, SHT_RELA) or section.info != home:
            continue
        rows = np.frombuffer(data, form, section.size // form.itemsize, section.offset).copy()
        for row in rows:
            info, addend = int(row["info"]), 0 if model.arch.rel else int(row["addend"])
            kind = info & ((1 << forms.type_bits) - 1)
            new = change(number, (int(row["offset"]), kind, info >> forms.type_bits, addend))
            row["offset"], row["info"] = new[0], new[2] << forms.type_bits | new[1]
            if not model.arch.rel:
                row["addend"] = new[3]
            number += 1
        out[section.offset : section.offset + section.size] = rows.tobytes()
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


def resize(data: bytes, name: str, size: int) -> bytes:
    """The file with another size in the header of a section; its bytes stay where they are."""
    model = load_model(data)
    if model.arch.bits != 64:
        raise ValueError("only for files of class 64")
    headers = int.from_bytes(data[40:48], "little")
    at = headers + 64 * section_of(data, name).index + 32
    return data[:at] + size.to_bytes(8, "little") + data[at + 8 :]
