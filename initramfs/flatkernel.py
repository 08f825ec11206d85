"""The exports of a kernel image without section headers: arm64's Image, which is the kernel as it lies in memory.

__ksymtab is found by its shape: entries of three distances (value, name, namespace; struct kernel_symbol with
CONFIG_HAVE_ARCH_PREL32_RELOCATIONS), one of which leads to the name of a symbol that every kernel exports. Around it
lie all the others, sorted by name. The CRCs are not read: their place is not told by anything.

Source: Documentation/arch/arm64/booting.rst (header), include/asm-generic/vmlinux.lds.h RO_DATA (order of the tables).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

ENTRY = 12
# EXPORT_SYMBOL of all kernels since 4.x; a name may be the tail of another string and so not be found as such.
_ANCHORS = (b"param_ops_int", b"module_layout", b"kfree", b"jiffies")
_FEWEST = 500  # the smallest configuration that loads modules exports more
_LONGEST = 512


def is_flat(data: bytes) -> bool:
    """Whether *data* is an arm64 Image: the magic at 0x38 is ``ARM\\x64``."""
    return data[0x38:0x3C] == b"ARM\x64"


def is_other_image(data: bytes) -> bool:
    """Whether *data* is a kernel whose exports cannot be read: a zImage of arm (the magic number at 0x24), an Image of
    riscv (``RSC\\x05`` at 0x38), an EFI image that unpacks itself (``zimg`` at 4), or a compressed Image."""
    packed = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zX", b"\x02\x21\x4c\x18", b"BZh")
    return (
        data[0x24:0x28] == bytes.fromhex("18286f01")
        or data[0x38:0x3C] == b"RSC\x05"
        or data[4:8] == b"zimg"
        or data.startswith(packed)
    )


def flat_exports(data: bytes) -> Iterator[tuple[str, str, bool]]:
    """(name, namespace, GPL only) of each export, nothing if the table is not found."""
    words = np.frombuffer(data[: len(data) // 4 * 4], "<i4").astype(np.int64)
    targets = words + np.arange(len(words)) * 4
    best: list[tuple[bytes, bytes]] = []
    for anchor in _ANCHORS:
        places = [found.start() + 1 for found in re.finditer(b"\0" + anchor + b"\0", data)]
        for word in np.flatnonzero(np.isin(targets, places)).tolist():
            run = _run(data, 4 * word - 4)
            if len(run) > len(best):
                best = run
        if len(best) >= _FEWEST:
            break
    else:
        return
    # The plain exports end where the names begin anew; from 7.0 on there is one table, and flags beside it.
    second = next((number for number, (a, b) in enumerate(pairwise(best), start=1) if a[0] > b[0]), len(best))
    for number, (name, namespace) in enumerate(best):
        yield name.decode("ascii"), namespace.decode("ascii"), number >= second


def _run(data: bytes, start: int) -> list[tuple[bytes, bytes]]:
    """The whole table that the entry at *start* is part of."""
    before: list[tuple[bytes, bytes]] = []
    at = start - ENTRY
    while (entry := _entry(data, at)) is not None:
        before.append(entry)
        at -= ENTRY
    after: list[tuple[bytes, bytes]] = []
    at = start
    while (entry := _entry(data, at)) is not None:
        after.append(entry)
        at += ENTRY
    return [*reversed(before), *after]


def _entry(data: bytes, at: int) -> tuple[bytes, bytes] | None:
    if at < 0 or at + ENTRY > len(data):
        return None
    _value, name, namespace = np.frombuffer(data, "<i4", 3, at).tolist()
    texts = _text(data, at + 4 + name), _text(data, at + 8 + namespace)
    return (texts[0], texts[1]) if texts[0] and texts[1] is not None else None


def _text(data: bytes, at: int) -> bytes | None:
    """The symbol name or namespace at *at*, b"" for an empty one, None for what is no text."""
    if not 0 < at < len(data):
        return None
    text, end, _ = data[at : at + _LONGEST].partition(b"\0")
    return text if end and re.fullmatch(rb"[\x21-\x7e]*", text) else None
