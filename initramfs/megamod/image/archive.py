"""Image files: entries packed and written at once or not at all, and read back.

Needs entries or bytes, guarantees that the path holds either the whole new file or what it held before, whatever
fails or interrupts. The bytes depend on the entries, the method and SOURCE_DATE_EPOCH alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from megamod.common.compression import MAX_OUTPUT, compress, decompress_stream, detect, most_unpacked, skip_zeros
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write, read_file, source_date_epoch
from megamod.common.flat_tree import MAGIC, DamagedTreeError, read_tree, texts_of
from megamod.image.cpio import Entry, archive_end, read_cpio, write_cpio

# Entries: this many, and one more for so many bytes of the file. An empty file is 116 bytes in an archive, and a whole
# root file system of such has 16 for each when packed.
_ALWAYS_ALLOWED = 20_000
_LEAST_PACKED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One part of an image file as the kernel meets it: a plain archive, or a compressed stream of archives.

    ``method`` is the compression (``none`` for a plain archive), ``packed`` and ``unpacked`` are bytes.
    """

    method: str
    packed: int
    unpacked: int
    entries: tuple[Entry, ...]


def make_image(entries: Iterable[Entry], *, method: str) -> bytes:
    """*entries* as an initramfs image, packed by *method* (``zstd`` or ``none``)."""
    return compress(write_cpio(entries, mtime=source_date_epoch(os.environ)), method)


def holds_secrets(entries: Iterable[Entry]) -> bool:
    """Whether a file of *entries*, or a folder above it, is closed to others, so that the image must be too."""
    files: list[str] = []
    closed: set[str] = set()
    for entry in entries:
        mode = entry.mode
        if stat.S_ISREG(mode) and not mode & stat.S_IROTH:
            return True
        if stat.S_ISREG(mode):
            files.append(entry.path)
        elif stat.S_ISDIR(mode) and not mode & stat.S_IXOTH:
            closed.add(entry.path)
    return any(str(above) in closed for path in files for above in PurePosixPath(path).parents) if closed else False


def write_image(path: Path, entries: Iterable[Entry], *, method: str) -> int:
    """Write the image of *entries*, 0600 if others may not read all that is in it; returns its size in bytes."""
    listed = list(entries)
    packed = make_image(listed, method=method)
    atomic_write(path, packed, private=holds_secrets(listed))
    return len(packed)


def read_image(path: Path) -> list[Entry]:
    """The entries of an image of any compression that is read, early archives first, in the order of the file."""
    data = read_file(path)
    return [entry for segment in segments(data, source=str(path)) for entry in segment.entries]


def _ramdisk(data: bytes, *, source: str) -> bytes:
    """The first ramdisk of a FIT image."""
    try:
        images = read_tree(data).find("images")
    except DamagedTreeError as error:
        raise MegamodError(f"{source}: damaged FIT image: {error}") from None
    for node in images.children if images else ():
        if texts_of(node.properties.get("type", b"")) == ("ramdisk",) and "data" in node.properties:
            return node.properties["data"]
    raise MegamodError(f"{source}: a FIT image or device tree without a ramdisk in it")


def segments(data: bytes, *, source: str) -> Iterator[Segment]:
    """Walk an image as init/initramfs.c does (unpack_to_rootfs, 6.1): plain archives, zeros, compressed streams.

    Of a UKI or a FIT image it is the image inside. All that is unpacked is bounded to 1 GiB in sum, and the number of
    entries, by the size of the file. Raises MegamodError for anything that the kernel would call junk.
    """
    if data.startswith(MAGIC):
        data = _ramdisk(data, source=source)
    if data.startswith(b"MZ"):
        # pefile takes a while to import, and most images are not EFI programs.
        from megamod.image.uki import uki_sections

        data = uki_sections(data, file=source).get(".initrd", data)
    limit = most_unpacked(len(data), limit=MAX_OUTPUT)
    most = _ALWAYS_ALLOWED + len(data) // _LEAST_PACKED
    position = total = 0
    while position < len(data):
        if data[position] == 0:
            position = skip_zeros(data, position)
            continue
        # The kernel takes a plain archive only at a multiple of 4.
        if data[position : position + 1] == b"0" and position % 4 == 0:
            end = archive_end(data, position, source=source)
            method, content = "none", data[position:end]
        else:
            method = detect(data[position : position + 8], source=source)
            if method == "none":
                raise MegamodError(
                    f"{source}: offset {position}: neither a cpio archive nor compressed data",
                    hint="an image is a newc cpio archive, plain or packed with zstd, xz, gzip or lz4",
                )
            content, end = decompress_stream(data, position, limit=limit - total, source=source)
        total += len(content)
        entries = tuple(read_cpio(content, source=source, most=most))
        most -= len(entries)
        yield Segment(method=method, packed=end - position, unpacked=len(content), entries=entries)
        position = end
