"""The exports of a kernel without section headers, as it lies in memory: the Image of arm64 and riscv, and what is
packed in a zImage of arm.

__ksymtab is found by its shape: entries of value, name and namespace (struct kernel_symbol, kernel/module/internal.h),
distances with CONFIG_HAVE_ARCH_PREL32_RELOCATIONS and pointers without. One leads to the name of a symbol that every
kernel exports; around it lie all the others. Pointers are link addresses; what has to be taken from them to get a place
in the image is what several such symbols agree on.

Source: include/asm-generic/vmlinux.lds.h RO_DATA (order of the tables).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from megamod.kernel.flat_addresses import crcs_between, image_size
from megamod.prelink.elf import Array

# EXPORT_SYMBOL of all kernels since 4.x; a name may be the tail of another string and so not be found as such.
_ANCHORS = (b"param_ops_int", b"module_layout", b"kfree", b"jiffies", b"param_ops_bool", b"memcpy", b"vfree", b"strcmp")
_FEWEST = 500  # the smallest configuration that loads modules exports more
_LONGEST = 512
_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Of an entry: *word* bytes a field; relative: distances from the field itself, else addresses less *base*."""

    word: int
    relative: bool
    base: int = 0

    @property
    def entry(self) -> int:
        return 3 * self.word


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatExport:
    """One export: address is its place in the image, None if it is not part of it; crc None without versions."""

    name: str
    namespace: str
    gpl: bool
    address: int | None
    crc: int | None


def flat_exports(data: bytes) -> Iterator[FlatExport]:
    """The exports of a flat kernel, nothing if the table is not found."""
    best: list[tuple[bytes, bytes]] = []
    first, form = 0, _Shape(word=4, relative=True)
    for shape, words in _shapes(data):
        for anchor in _ANCHORS:
            for at in _entries_of(data, anchor, shape, words):
                start, run = _run(data, at, shape)
                if len(run) > len(best):
                    best, first, form = run, start, shape
            if len(best) >= _FEWEST:
                break
        else:
            continue
        break
    else:
        return
    # The plain exports end where the names begin anew; from 7.0 on there is one table, and flags beside it.
    second = next((number for number, (a, b) in enumerate(pairwise(best), start=1) if a[0] > b[0]), len(best))
    places = [first + form.entry * number for number in range(len(best))]
    names = min(_target(data, place + form.word, form) for place in places)
    crcs = crcs_between(data, places[-1] + form.entry, names, len(best))
    size = image_size(data) if form.word == 8 or form.relative else 0
    for number, ((name, namespace), place) in enumerate(zip(best, places, strict=True)):
        address = _target(data, place, form)
        yield FlatExport(
            name=name.decode("ascii"),
            namespace=namespace.decode("ascii"),
            gpl=number >= second,
            address=address if 0 <= address < size else None,
            crc=int(crcs[number]) if crcs is not None else None,
        )


def _shapes(data: bytes) -> Iterator[tuple[_Shape, Array]]:
    """Each shape that the entries may have, with the image's words as what they would point to."""
    whole = len(data) // 8 * 8
    distances = np.frombuffer(data[:whole], "<i4").astype(np.int64)
    yield _Shape(word=4, relative=True), distances + np.arange(len(distances)) * 4
    for word, kind in ((8, "<u8"), (4, "<u4")):
        words = np.frombuffer(data[:whole], kind).astype(np.int64)
        base = _agreed_base(data, words)
        if base is not None:
            yield _Shape(word=word, relative=False, base=base), words - base


def _agreed_base(data: bytes, words: Array) -> int | None:
    """The page-aligned number that most anchors' addresses are larger by than their places."""
    votes: Counter[int] = Counter()
    # Kernel addresses are negative as 64-bit numbers, and in the upper half as 32-bit ones.
    high = words[(words < 0) | (words >= 1 << 31) & (words < 1 << 32)]
    for anchor in _ANCHORS:
        bases = [high - place for place in _places(data, anchor)]
        votes.update({int(base) for found in bases for base in np.unique(found[found % _PAGE == 0])})
    return max(votes, key=lambda base: (votes[base], base)) if votes else None


def _places(data: bytes, name: bytes) -> Sequence[int]:
    return [found.start() + 1 for found in re.finditer(b"\0" + name + b"\0", data)]


def _entries_of(data: bytes, anchor: bytes, shape: _Shape, words: Array) -> Iterator[int]:
    """Where the entries may start whose name is *anchor*."""
    for number in np.flatnonzero(np.isin(words, _places(data, anchor))).tolist():
        yield shape.word * (number - 1)


def _run(data: bytes, start: int, shape: _Shape) -> tuple[int, list[tuple[bytes, bytes]]]:
    """The whole table that the entry at *start* is part of, and its place."""
    before: list[tuple[bytes, bytes]] = []
    at = start - shape.entry
    while (entry := _entry(data, at, shape)) is not None:
        before.append(entry)
        at -= shape.entry
    after: list[tuple[bytes, bytes]] = []
    at = start
    while (entry := _entry(data, at, shape)) is not None:
        after.append(entry)
        at += shape.entry
    return start - shape.entry * len(before), [*reversed(before), *after]


def _entry(data: bytes, at: int, shape: _Shape) -> tuple[bytes, bytes] | None:
    if at < 0 or at + shape.entry > len(data):
        return None
    places = [_target(data, at + shape.word, shape), _target(data, at + 2 * shape.word, shape)]
    name = _text(data, places[0])
    # No namespace: an empty string, or no pointer at all.
    namespace = b"" if not shape.relative and places[1] == -shape.base else _text(data, places[1])
    return (name, namespace) if name and namespace is not None else None


def _target(data: bytes, at: int, shape: _Shape) -> int:
    """The place in the image that the field at *at* refers to."""
    if shape.relative:
        return at + int.from_bytes(data[at : at + 4], "little", signed=True)
    # A negative base is that of 64-bit addresses.
    return int.from_bytes(data[at : at + shape.word], "little", signed=shape.base < 0) - shape.base


def _text(data: bytes, at: int) -> bytes | None:
    """The symbol name or namespace at *at*, b"" for an empty one, None for what is not text."""
    if not 0 < at < len(data):
        return None
    text, end, _ = data[at : at + _LONGEST].partition(b"\0")
    return text if end and re.fullmatch(rb"[\x21-\x7e]*", text) else None
