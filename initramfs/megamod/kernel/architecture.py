"""Which architecture a kernel image is for: what a kernel without modules has to be asked."""

from __future__ import annotations

import struct
from pathlib import Path

from megamod.common.compression import decompress_stream, detect
from megamod.common.files import read_file

_LIMIT = 512 << 20
# e_machine (ELF) and IMAGE_FILE_HEADER.Machine (PE) → how the loader's programs are called.
_ELF = {0x3E: "x86_64", 0xB7: "aarch64", 0x28: "arm", 0xF3: "riscv64"}
_PE = {0x8664: "x86_64", 0xAA64: "aarch64", 0x1C2: "arm", 0x5064: "riscv64"}
_ZIMAGE = bytes.fromhex("18286f01")  # 0x016f2818 at 0x24 (Documentation/arm/booting.rst; head.S of the decompressor)


def kernel_architecture(path: Path) -> str | None:
    """x86_64, aarch64, arm or riscv64, None if the file *path* is no kernel of one of these."""
    data = read_file(path)
    if detect(data[:8], source=str(path)) != "none":
        data, _end = decompress_stream(data, 0, limit=_LIMIT, source=str(path))
    if data[:4] == b"\x7fELF":
        return _ELF.get(struct.unpack_from("<H", data, 18)[0])
    # Documentation/arm64/booting.rst and riscv/boot-image-header.rst: a magic number at 0x38.
    flat = {b"ARM\x64": "aarch64", b"RSC\x05": "riscv64"}.get(data[0x38:0x3C])
    if flat:
        return flat
    if data[0x24:0x28] == _ZIMAGE:
        return "arm"
    if data[0x202:0x206] == b"HdrS":
        return "x86_64"
    if data[:2] == b"MZ" and len(data) >= 0x40:
        (at,) = struct.unpack_from("<I", data, 0x3C)
        if data[at : at + 4] == b"PE\0\0":
            return _PE.get(struct.unpack_from("<H", data, at + 4)[0])
    return None
