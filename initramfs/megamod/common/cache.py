"""What was made once and is kept for the next time: entries by kind and key, whole or not there.

An entry that is damaged is made again; a folder that cannot be written, or looked at, is not an error. Entries may hold
secrets, so nobody else may read the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from megamod.common.host import cache_folder

_KEPT = 16


_KEPT_BYTES = 512 << 20


def paths_below(folder: Path, *, skip: Iterable[str] = ()) -> Iterator[str]:
    """The folder and all files and links below it; links to folders are gone into, as the readers do."""
    seen: set[str] = set()
    yield str(folder)
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if name not in skip) if real not in seen else []
        seen.add(real)
        yield from (f"{parent}/{name}" for name in folders)
        yield from (f"{parent}/{name}" for name in sorted(files))


def file_facts(path: str) -> bytes:
    # No Path for each of thousands of files: making them takes longer than all the rest.
    target = ""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(path)  # noqa: PTH115
            status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return f"{path}\0{target}\0none\0".encode("utf-8", "surrogateescape")
    mode = status.st_mode
    # Of a folder its mode alone: its times change with files that do not matter.
    times = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino) if stat.S_ISREG(mode) else ()
    return f"{path}\0{target}\0{mode}\0{times}\0".encode("utf-8", "surrogateescape")


def read_entry(kind: str, key: str) -> bytes | None:
    """The bytes of the entry, None if there is none or it is damaged."""
    try:
        checksum, _newline, body = (cache_folder() / kind / key).read_bytes().partition(b"\n")
    except (OSError, RuntimeError):
        return None
    return body if hashlib.sha256(body).hexdigest().encode() == checksum else None


def write_entry(kind: str, key: str, body: bytes) -> None:
    """Keep *body*; under another name first, so that of two that write at once the last whole one stays."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = cache_folder() / kind
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file:
            try:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
                file.close()
                Path(file.name).replace(folder / key)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        _prune(folder)


def _prune(folder: Path) -> None:
    entries = sorted(folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    total = 0
    for number, entry in enumerate(entries):
        total += entry.stat().st_size
        if number >= _KEPT or (number and total > _KEPT_BYTES):
            entry.unlink(missing_ok=True)


def file_key(path: Path) -> str:
    """The name of an entry that was made of one file, and of this program."""
    own = Path(__file__).parents[1]
    facts = [file_facts(str(path.absolute())), *(file_facts(name) for name in paths_below(own, skip=("__pycache__",)))]
    return hashlib.sha256(b"".join(facts)).hexdigest()[:32]
