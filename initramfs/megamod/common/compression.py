"""Compression of images and of module files: what a kernel can read, found by magic, bounded in memory.

Needs bytes, gives bytes. Every stream that is cut short, damaged, of an unknown kind or larger than its limit
when unpacked raises MegamodError; nothing here trusts a size that the input states.
"""

from __future__ import annotations

import bz2
import errno
import lzma
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import zstandard

from megamod.common.choices import Compress
from megamod.common.errors import MegamodError

MAX_OUTPUT = 1 << 30
MAX_MODULE = 256 << 20

# What is packed may become this many bytes, and this many times its size. Images and modules become ten times as large;
# what is packed to hurt becomes a thousand times (gzip, bzip2) to 30,000 times (zstd, xz) as large.
_ALWAYS_ALLOWED = 32 << 20
_MOST_TIMES = 128

# More than the dictionary of 128 MiB that kernels are packed with (scripts/xz_wrap.sh, 6.12).
_XZ_MEMORY = 192 << 20

# 40 MB of Debian 6.1 modules, one core, one thread:
#   level        1      3      5      6      7      9     12     15     19
#   output MB  9.7    8.8    8.4    8.0    7.9    7.5    7.5    7.4    6.6
#   seconds   0.08   0.12   0.24   0.34   0.40   0.63    1.2    5.3   15.6
# Unpacking takes 0.05 s at each of them. Past 9 the time grows and the size does not; 19 is for downloads.
# Windows: 4 MiB at this level. The kernel allocates the whole window at boot; RFC 8878 asks decoders for 8 MiB, and
# lib/decompress_unzstd.c (6.1) speaks of 8 MiB too.
_ZSTD_LEVEL = 9

# From this size on worker threads pay. They cut the data by its size alone, so one gives the same bytes as eight (zstd,
# ZSTD_c_nbWorkers); none gives others, 0.2 to 0.4 % fewer.
_ZSTD_THREADED = 32 << 20
_ZSTD_THREADS = 8

# What a decompressor is given at a time, so that what it has read too far is a copy of no more than this.
_PIECE = 64 << 10

# One RLE block of 4 bytes unpacks to 128 KiB (RFC 8878, 3.1.1.2), so a piece of this size to at most 32 MiB: that
# is how far the output may run past its limit before it is looked at.
_ZSTD_PIECE = 1 << 10

# A legacy frame is this magic, then blocks of a little-endian size and that many bytes, without an end mark; each
# block unpacks to 8 MiB but the last (lib/decompress_unlz4.c, 6.1; lz4's own tool writes it with -l).
_LZ4_LEGACY = b"\x02\x21\x4c\x18"

_LZ4_BLOCK = 8 << 20

_UNREAD = {
    b"\x04\x22\x4d\x18": "lz4 (frame format)",
}


# Kernels and images are packed with these too, modules never: neither kmod nor the kernel unpacks one.
_KERNELS_ONLY = frozenset(["bzip2", "lzma", "lzo"])


class _DamagedError(Exception):
    """Why a stream cannot be unpacked; becomes a MegamodError where the file's name is known."""


def compress(data: bytes, method: str) -> bytes:
    """*data* packed by *method*, one of METHODS; the same bytes whatever the number of processors."""
    return _PACKERS[method](data)


def _zstd(data: bytes) -> bytes:
    threads = min(os.cpu_count() or 1, _ZSTD_THREADS) if len(data) >= _ZSTD_THREADED else 0
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _ZSTD_LEVEL,
        source_size=len(data),
        threads=threads,
        write_content_size=True,
        write_checksum=True,
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def _gzip(data: bytes) -> bytes:
    # A gzip header without name and time.
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def _xz(data: bytes) -> bytes:
    # lib/xz of the kernel checks CRC32 alone: CRC64, the default, is an unsupported check to it.
    return lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, preset=6)


def compress_inside(data: bytes) -> bytes:
    """An lz4 file for the inside of an image. 34 MB of Debian 6.1 modules take 0.30 s and become 12.5 MB; level 9 takes
    1.05 s for 12.1 MB."""
    return _lz4(data, level=3)


def _lz4(data: bytes, *, level: int = 9) -> bytes:
    import lz4.block  # few images are packed by it

    blocks = [_LZ4_LEGACY]
    for start in range(0, len(data), _LZ4_BLOCK):
        piece = data[start : start + _LZ4_BLOCK]
        block = lz4.block.compress(piece, mode="high_compression", compression=level, store_size=False)
        blocks += [struct.pack("<I", len(block)), block]
    return b"".join(blocks)


def decompress(data: bytes, *, limit: int = MAX_OUTPUT, source: str = "input") -> bytes:
    """The whole of *data* unpacked: none, gzip, zstd, xz, legacy lz4, bzip2, lzma or lzo, told apart by magic.

    Bytes with no known magic come back as they are. Several streams of one method may follow each other, and zero
    bytes may follow the last. *source* begins the text of an error; *limit* is in bytes, and what is small when packed
    may not become as large as that (`most_unpacked`).
    """
    if detect(data, source=source) == "none":
        if len(data) > limit:
            raise MegamodError(f"{source}: is larger than {limit} bytes")
        return data
    limit = most_unpacked(len(data), limit=limit)
    parts: list[bytes] = []
    total = position = 0
    while position < len(data):
        if data[position] == 0 and skip_zeros(data, position) == len(data):
            break
        if detect(data[position : position + 8], source=source) == "none":
            raise MegamodError(f"{source}: {len(data) - position} bytes of something else follow the compressed data")
        part, position = decompress_stream(data, position, limit=limit - total, source=source)
        parts.append(part)
        total += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def most_unpacked(packed: int, *, limit: int) -> int:
    """How many bytes *packed* bytes may become: not more than *limit*, nor than honest data does."""
    return min(limit, _ALWAYS_ALLOWED + _MOST_TIMES * packed)


def skip_zeros(data: bytes, position: int) -> int:
    """The position of the first byte from *position* on that is not zero, or the end."""
    while position < len(data):
        block = data[position : position + _PIECE]
        rest = block.lstrip(b"\0")
        if rest:
            return position + len(block) - len(rest)
        position += len(block)
    return position


def decompress_stream(data: bytes, start: int, *, limit: int, source: str) -> tuple[bytes, int]:
    """Unpack the one compressed stream at *start*; returns its content and the position after it."""
    method = detect(data[start : start + 8], source=source)
    if method == "none":
        raise MegamodError(f"{source}: offset {start}: no compressed data")
    limit = most_unpacked(len(data) - start, limit=limit)
    try:
        return _STREAMS[method](data, start, limit)
    except _DamagedError as error:
        raise MegamodError(f"{source}: {method} data {error}") from None


def detect(data: bytes, *, source: str = "input") -> str:
    """The name of the compression that *data* begins with, ``none`` for anything unknown.

    A method that kernels know but that is not read here is an error.
    """
    if data[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return "zstd"
    if data[:6] == b"\xfd7zXZ\0":
        return "xz"
    if data[:4] == _LZ4_LEGACY:
        return "lz4"
    if data[:3] == b"BZh":
        return "bzip2"
    if data[:3] == b"\x5d\x00\x00":
        return "lzma"
    if data[:4] == b"\x89LZO":
        return "lzo"
    for magic, name in _UNREAD.items():
        if data.startswith(magic):
            raise _unread(source, name)
    return "none"


def _unread(source: str, method: str) -> MegamodError:
    hint = "unpack it first, or pack it with zstd, xz or gzip"
    return MegamodError(f"{source}: is compressed with {method}, which is not read", hint=hint)


def read_module_bytes(path: Path) -> bytes:
    """The content of a module file: plain, .xz, .zst or .gz, told apart by magic, at most 256 MiB unpacked.

    Whether it is an ELF file is for the reader of it to say. Errors begin with *path*.
    """
    data = read_regular(path, limit=MAX_MODULE)
    method = detect(data, source=str(path))
    if method in _KERNELS_ONLY:
        raise _unread(str(path), method)
    return decompress(data, limit=MAX_MODULE, source=str(path))


def read_regular(path: Path, *, limit: int) -> bytes:
    """The bytes of a regular file, at most *limit*; a device or a pipe could go on for ever, or never begin."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                what = os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "not a regular file"
                raise MegamodError(f"{path}: {what}")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                # read() makes room for all that it is asked for, which a machine with 1 GiB does not have.
                said = min(os.fstat(file.fileno()).st_size, limit)
                data = file.read(said + 1)
                if len(data) > said:  # it has grown, or is one of /proc
                    data += file.read(limit - said)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise MegamodError(f"{path}: is larger than {limit} bytes")
    return data


def _gunzip(data: bytes, start: int, limit: int) -> tuple[bytes, int]:
    stream = zlib.decompressobj(wbits=31)
    view = memoryview(data)
    parts: list[bytes] = []
    total, position = 0, start
    try:
        while position < len(data) and not stream.eof and total <= limit:
            piece = view[position : position + _PIECE]
            parts.append(stream.decompress(piece, limit + 1 - total))
            total += len(parts[-1])
            position += len(piece)
    except zlib.error as error:
        raise _DamagedError(f"is damaged ({str(error).rpartition(': ')[2]})") from None
    _check(total, limit, ended=stream.eof)
    return b"".join(parts), position - len(stream.unused_data)


def _unxz(data: bytes, start: int, limit: int) -> tuple[bytes, int]:
    return _by_stream(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), data, start, limit)


def _unzstd(data: bytes, start: int, limit: int) -> tuple[bytes, int]:
    stream = zstandard.ZstdDecompressor().decompressobj()
    view = memoryview(data)
    parts: list[bytes] = []
    total, position = 0, start
    try:
        while position < len(data) and not stream.eof and total <= limit:
            parts.append(stream.decompress(view[position : position + _ZSTD_PIECE]))
            total += len(parts[-1])
            position += _ZSTD_PIECE
    except zstandard.ZstdError as error:
        raise _DamagedError(f"is damaged ({str(error).rpartition(': ')[2]})") from None
    _check(total, limit, ended=stream.eof)
    return b"".join(parts), min(position, len(data)) - len(stream.unused_data)


def _unbzip2(data: bytes, start: int, limit: int) -> tuple[bytes, int]:
    return _by_stream(bz2.BZ2Decompressor(), data, start, limit)


def _by_stream(
    stream: lzma.LZMADecompressor | bz2.BZ2Decompressor, data: bytes, start: int, limit: int
) -> tuple[bytes, int]:
    view = memoryview(data)
    parts: list[bytes] = []
    total, position = 0, start
    try:
        while position < len(data) and not stream.eof and total <= limit:
            piece = view[position : position + _PIECE]
            # It gives all that the piece holds, as there is room for more than may come.
            parts.append(stream.decompress(piece, limit + 1 - total))
            total += len(parts[-1])
            position += len(piece)
    except (lzma.LZMAError, OSError, ValueError, EOFError) as error:
        raise _DamagedError(f"is damaged ({error})") from None
    _check(total, limit, ended=stream.eof)
    return b"".join(parts), position - len(stream.unused_data)


def _unlzma(data: bytes, start: int, limit: int) -> tuple[bytes, int]:
    return _by_stream(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_XZ_MEMORY), data, start, limit)


def _unlzo(data: bytes, start: int, limit: int) -> tuple[bytes, int]:
    """An lzop file, to the end of *data*; libarchive runs the program lzop where it was built without LZO."""
    return _by_libarchive(data[start:], "lzop", limit), len(data)


def _unlz4(data: bytes, start: int, limit: int) -> tuple[bytes, int]:
    """Cut the legacy frame out by its block sizes; libarchive unpacks it."""
    position = start + len(_LZ4_LEGACY)
    while position + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, position)
        # Zero is padding; no block is larger than LZ4_compressBound(8 MiB), so anything more is another magic.
        if size == 0 or size > (8 << 20) + (8 << 20) // 255 + 16:
            break
        position += 4 + size
    if position > len(data):
        raise _DamagedError("is cut short")
    return _by_libarchive(data[start:position], "lz4", limit), position


def _by_libarchive(data: bytes, filter_name: str, limit: int) -> bytes:
    from megamod.common.archive_library import libarchive  # few files are unpacked by it

    parts: list[bytes] = []
    total = 0
    try:
        with libarchive.memory_reader(data, format_name="raw", filter_name=filter_name) as archive:
            for entry in archive:
                for block in entry.get_blocks(1 << 20):
                    parts.append(block)
                    total += len(block)
                    if total > limit:
                        break
    except libarchive.exception.ArchiveError as error:
        raise _DamagedError(f"is damaged ({error.msg})") from None
    _check(total, limit, ended=True)
    return b"".join(parts)


def _check(size: int, limit: int, *, ended: bool) -> None:
    if size > limit:
        raise _DamagedError(f"unpacks to more than the {limit} bytes allowed here")
    if not ended:
        raise _DamagedError("is cut short")


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    Compress.NONE: lambda data: data,
    Compress.GZIP: _gzip,
    Compress.LZ4: _lz4,
    Compress.XZ: _xz,
    Compress.ZSTD: _zstd,
}

METHODS = tuple(method for method in Compress if method is not Compress.AUTO)
"""What images are packed with."""

_STREAMS: dict[str, Callable[[bytes, int, int], tuple[bytes, int]]] = {
    "gzip": _gunzip,
    "xz": _unxz,
    "zstd": _unzstd,
    "lz4": _unlz4,
    "bzip2": _unbzip2,
    "lzma": _unlzma,
    "lzo": _unlzo,
}
