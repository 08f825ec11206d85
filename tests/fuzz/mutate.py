"""Damage to module files that knows their structure: headers, symbols, relocations, strings, versions, compression.

Every function takes a `random.Random` and gives new bytes; the same seed gives the same bytes.
"""

from __future__ import annotations

import gzip
import lzma
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zstandard

# Where bounds are likely to be.
EDGES = (
    0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 24, 40, 63, 64, 65, 255, 256, 4095, 4096, 0x7FFF, 0x8000, 0xFEFF, 0xFF00, 0xFFF1,
    0xFFF2, 0xFFFF, 1 << 20, 1 << 21, 1 << 22, (1 << 30) - 1, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
    1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 8, (1 << 64) - 1,
)  # fmt: skip
TEXTS = (
    "", "A" * 300, "a\nb", "a.b", "a b", "\x1b[2J", "\u2028", "../x", "%s%n", "init_module", "__this_module",
    "__fentry__", "module_layout", "param_array_ops", "__x86_return_thunk", "result", "skip", ".text", "__param",
)  # fmt: skip
FORMS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The records of an ELF class: (offset, width) of their fields, struct formats, and sizes in bytes."""

    header: list[tuple[int, int]]
    section: list[tuple[int, int]]
    symbol: list[tuple[int, int]]
    relocation: list[tuple[int, int]]
    place: tuple[str, int]
    counts: int
    row: str
    symbol_size: int
    relocation_size: int
    relocations: int

    @property
    def row_size(self) -> int:
        return struct.calcsize(self.row)


ELF64 = Form(
    header=[(16, 2), (18, 2), (40, 8), (58, 2), (60, 2), (62, 2)],
    section=[(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)],
    symbol=[(0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8)],
    relocation=[(0, 8), (8, 4), (12, 4), (16, 8)],
    place=("<Q", 40),
    counts=60,
    row="<IIQQQQIIQQ",
    symbol_size=24,
    relocation_size=24,
    relocations=4,
)
ELF32 = Form(
    header=[(16, 2), (18, 2), (32, 4), (46, 2), (48, 2), (50, 2)],
    section=[(4 * number, 4) for number in range(10)],
    symbol=[(0, 4), (4, 4), (8, 4), (12, 1), (13, 1), (14, 2)],
    relocation=[(0, 4), (4, 1), (5, 1), (4, 4)],
    place=("<I", 32),
    counts=48,
    row="<10I",
    symbol_size=16,
    relocation_size=8,
    relocations=9,
)


@dataclass(slots=True)
class Image:
    """A file that is being damaged; sections are (name, type, file offset, size) of the undamaged one."""

    form: Form
    data: bytearray
    shoff: int
    sections: list[tuple[str, int, int, int]]


def parse(data: bytes) -> Image:
    """The sections of a good file."""
    form = ELF32 if data[4] == 1 else ELF64
    (shoff,), (count, strndx) = (
        struct.unpack_from(form.place[0], data, form.place[1]),
        struct.unpack_from("<HH", data, form.counts),
    )
    rows = [struct.unpack_from(form.row, data, shoff + form.row_size * i) for i in range(count)]
    names = data[rows[strndx][4] :][: rows[strndx][5]]
    sections = [(names[r[0] :].split(b"\0", 1)[0].decode(), r[1], r[4], 0 if r[1] in (0, 8) else r[5]) for r in rows]
    return Image(form, bytearray(data), shoff, sections)


def _number(rng: random.Random, old: int, width: int, near: Sequence[int]) -> int:
    """A new value for a field: an edge, a neighbour of the old one, another's value, a flipped bit, or anything."""
    choice = rng.randrange(6)
    if choice == 0:
        value = rng.choice(EDGES)
    elif choice == 1:
        value = old + rng.choice((-64, -8, -4, -2, -1, 1, 2, 4, 8, 24, 64))
    elif choice == 2:
        value = rng.choice(near)
    elif choice == 3:
        value = old ^ 1 << rng.randrange(8 * width)
    elif choice == 4:
        value = -rng.choice(EDGES)
    else:
        value = rng.getrandbits(8 * rng.randrange(1, width + 1))
    return value % (1 << 8 * width)


def _set(image: Image, rng: random.Random, at: int, field: tuple[int, int], near: Sequence[int]) -> None:
    offset, width = field
    if at + offset + width > len(image.data):
        return
    (old,) = struct.unpack_from(FORMS[width], image.data, at + offset)
    struct.pack_into(FORMS[width], image.data, at + offset, _number(rng, old, width, near))


def _file_header(image: Image, rng: random.Random) -> None:
    _set(image, rng, 0, rng.choice(image.form.header), [len(image.data), len(image.sections)])


def _section_header(image: Image, rng: random.Random) -> None:
    at = image.shoff + image.form.row_size * rng.randrange(len(image.sections))
    near = [len(image.data), len(image.sections), *(s[3] for s in image.sections), *(s[2] for s in image.sections)]
    _set(image, rng, at, rng.choice(image.form.section), near)


def _swap_headers(image: Image, rng: random.Random) -> None:
    """One section takes another's field: its name, its type, its place."""
    one, other = (image.shoff + image.form.row_size * rng.randrange(len(image.sections)) for _ in range(2))
    offset, width = rng.choice(image.form.section)
    image.data[one + offset : one + offset + width] = image.data[other + offset : other + offset + width]


def _record(image: Image, rng: random.Random, kind: int, fields: Sequence[tuple[int, int]], length: int) -> None:
    tables = [s for s in image.sections if s[1] == kind and s[3] >= length]
    if not tables:
        return
    # Small tables are as interesting as large ones.
    _, _, offset, size = rng.choice(tables)
    near = [s[3] for s in image.sections] + list(range(len(image.sections))) + [size // length]
    _set(image, rng, offset + length * rng.randrange(size // length), rng.choice(fields), near)


def _symbol(image: Image, rng: random.Random) -> None:
    _record(image, rng, 2, image.form.symbol, image.form.symbol_size)


def _relocation(image: Image, rng: random.Random) -> None:
    form = image.form
    _record(image, rng, form.relocations, form.relocation, form.relocation_size)


def _swap_records(image: Image, rng: random.Random) -> None:
    sizes = {2: image.form.symbol_size, image.form.relocations: image.form.relocation_size}
    tables = [s for s in image.sections if s[3] >= 2 * sizes.get(s[1], 1 << 40)]
    if tables:
        _, kind, offset, size = rng.choice(tables)
        length = sizes[kind]
        one, other = (offset + length * rng.randrange(size // length) for _ in range(2))
        image.data[one : one + length], image.data[other : other + length] = (
            image.data[other : other + length],
            image.data[one : one + length],
        )


def _content(image: Image, rng: random.Random) -> None:
    """Bytes of a section: flipped, zeroed or replaced; tables and strings more often than code."""
    wanted = [s for s in image.sections if s[3] and not s[0].startswith((".text", ".debug", ".rela"))]
    _, _, offset, size = rng.choice(wanted or [s for s in image.sections if s[3]])
    at = offset + rng.randrange(size)
    length = min(rng.choice((1, 1, 1, 4, 8, 64)), offset + size - at)
    fill = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    image.data[at : at + length] = fill


def _strings_end(image: Image, rng: random.Random) -> None:
    """A string table, .modinfo or the like that no longer ends in NUL."""
    found = [s for s in image.sections if s[3] and (s[1] == 3 or s[0] in (".modinfo", "__ksymtab_strings", ".rodata"))]
    _, _, offset, size = rng.choice(found)
    length = rng.choice((1, 1, size))
    image.data[offset + size - length : offset + size] = b"A" * length


def _text(image: Image, rng: random.Random) -> None:
    """Another text over a string: a symbol's name, a modinfo value, a version's name."""
    found = [
        s for s in image.sections
        if s[3] and (s[1] == 3 or s[0] in (".modinfo", "__versions", "__ksymtab_strings", "__version_ext_names"))
    ]  # fmt: skip
    _, _, offset, size = rng.choice(found)
    new = rng.choice(TEXTS).encode()[: size - 1] + rng.choice((b"", b"\0"))
    at = offset + rng.randrange(size)
    # At the start of a string, mostly: after a NUL or a modinfo key.
    start = max(image.data.rfind(b"\0", offset, at), image.data.rfind(b"=", offset, at)) + 1
    at = start if start > offset and rng.random() < 0.8 else at
    new = new[: offset + size - at]
    image.data[at : at + len(new)] = new


def _resize(image: Image, rng: random.Random) -> None:
    """Cut the file, or let it grow."""
    if rng.random() < 0.7:
        del image.data[rng.randrange(len(image.data)) :]
    else:
        image.data += rng.choice((bytes(100), b"\xff" * 12, b"~Module signature appended~\n"))


DAMAGES: tuple[tuple[int, Callable[[Image, random.Random], None]], ...] = (
    (1, _file_header), (6, _section_header), (3, _swap_headers), (6, _symbol), (8, _relocation), (3, _swap_records),
    (5, _content), (2, _strings_end), (4, _text), (1, _resize),
)  # fmt: skip


def damage(data: bytes, rng: random.Random) -> bytes:
    """*data* with one to four damages."""
    image = parse(data)
    functions = [function for weight, function in DAMAGES for _ in range(weight)]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        if len(image.data) < 64:
            break
        rng.choice(functions)(image, rng)
    return bytes(image.data)


def pack(data: bytes, rng: random.Random) -> bytes:
    """*data* compressed, and in some cases the stream damaged, cut, doubled or followed by something else."""
    # Never lzma.compress() of large data at the default level: 100 MB of memory in the fuzzer itself.
    method = rng.randrange(3)
    if method == 0:
        packed = gzip.compress(data, 1, mtime=0)
    elif method == 1:
        packed = lzma.compress(data, check=lzma.CHECK_CRC32, preset=0)
    else:
        packed = zstandard.ZstdCompressor(level=1).compress(data)
    choice = rng.randrange(6)
    out = bytearray(packed)
    if choice == 0:
        del out[rng.randrange(len(out)) :]
    elif choice == 1:
        for _ in range(rng.randrange(1, 4)):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif choice == 2:
        out += rng.choice((packed, bytes(7), b"junk", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
    elif choice == 3:
        # Header fields: window, dictionary, content size, check.
        out[rng.randrange(min(24, len(out)))] = rng.randrange(256)
    return bytes(out)


def bomb(rng: random.Random) -> bytes:
    """A few kilobytes that unpack to gigabytes, in each method."""
    method = rng.randrange(3)
    size = rng.choice((300, 1100)) << 20
    if method == 0:
        out = gzip.compress(bytes(1 << 20), 1, mtime=0)
        return out * (size >> 20)
    if method == 1:
        out = lzma.compress(bytes(1 << 20), check=lzma.CHECK_CRC32, preset=0)
        return out * (size >> 20)
    # One frame of RLE blocks of 128 KiB each (RFC 8878, 3.1.1.2); window 128 KiB, no content size.
    block = struct.pack("<I", (1 << 17) << 3 | 1 << 1)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * (size >> 17) + b"\x01\0\0"
