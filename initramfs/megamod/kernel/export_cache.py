"""What a kernel exports, read once: unpacking an image of 60 MB takes longer than linking does."""

from __future__ import annotations

import json
from pathlib import Path

from megamod.common.cache import file_key, read_entry, write_entry
from megamod.kernel.exports import KernelExport, KernelExports, kernel_images, read_exports

_KIND = "exports"


def cached_exports(folder: Path, release: str) -> KernelExports | None:
    """As kernelexports.find_exports(), of which the answer is kept by the file's size, times and inode."""
    for path in (*kernel_images(folder, release), folder / "build" / "Module.symvers"):
        if path.is_file() and (exports := _cached(path)) is not None:
            return exports
    return None


def _cached(path: Path) -> KernelExports | None:
    key = file_key(path)
    body = read_entry(_KIND, key)
    if body is not None:
        known = json.loads(body)
        if known is None:
            return None
        symbols = {name: KernelExport(crc=crc, gpl=gpl, namespace=space) for name, crc, gpl, space in known}
        return KernelExports(source=path, symbols=symbols)
    exports = read_exports(path)
    rows = [[name, e.crc, e.gpl, e.namespace] for name, e in exports.symbols.items()] if exports else None
    write_entry(_KIND, key, json.dumps(rows).encode("ascii"))
    return exports
