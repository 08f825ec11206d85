"""Where the exports of a flat kernel are, beside their names: addresses, CRCs, and the build id.

Addresses are places in the image as it lies in memory, so they may be compared with each other and nothing else. The
CRCs stand between the tables of symbols and their names (include/asm-generic/vmlinux.lds.h RO_DATA), so there they are
if and only if there is room for exactly as many. The build id is in the one note that is no vdso's.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from megamod.prelink.elf import Array

_NOTE = struct.pack("<III4s", 4, 20, 3, b"GNU\0")  # n_namesz, n_descsz, NT_GNU_BUILD_ID
_PAGE = 4096
_LARGEST_VDSO = 16  # pages


def image_size(data: bytes) -> int:
    """Bytes of memory that an Image of arm64 or riscv takes, .bss among them, by its header."""
    return int.from_bytes(data[0x10:0x18], "little")


def crcs_between(data: bytes, end: int, strings: int, count: int) -> Array | None:
    """The CRCs of *count* exports whose table ends at *end* and whose names start at *strings*."""
    start = -(-end // 4) * 4
    if not 4 * count <= strings - start < 4 * count + 8:
        return None
    return np.frombuffer(data, "<u4", count, start)


def find_build_id(data: bytes) -> tuple[str, int] | None:
    """The kernel's build id, in hex, and the place of its 20 bytes; None if that is not certain."""
    places = [found.end() for found in re.finditer(re.escape(_NOTE), data) if found.start() % 4 == 0]
    own = [at for at in places if not _in_vdso(data, at)]
    return (data[own[0] : own[0] + 20].hex(), own[0]) if len(own) == 1 else None


def _in_vdso(data: bytes, at: int) -> bool:
    """Whether an ELF file that starts at a page before *at* holds it: the vdso images are parts of .rodata."""
    page = at // _PAGE * _PAGE
    for start in range(page, max(page - _LARGEST_VDSO * _PAGE, -1), -_PAGE):
        if data[start : start + 4] == b"\x7fELF":
            wide = data[start + 4] == 2
            table = int.from_bytes(data[start + (32 if wide else 28) :][: 8 if wide else 4], "little")
            size, count = struct.unpack_from("<HH", data, start + (54 if wide else 42))
            for entry in range(start + table, start + table + size * count, size or 1):
                kind = int.from_bytes(data[entry : entry + 4], "little")
                form, fields = ("<Q16xQ", entry + 8) if wide else ("<I8xI", entry + 4)
                offset, length = struct.unpack_from(form, data, fields)
                if kind == 1 and start + offset <= at < start + offset + length:  # PT_LOAD
                    return True
    return False
