"""What depmod made of a tree without indexes, kept for the next time: a run reads every module file of the tree.

The indexes of a tree that has them are read each time, in a tenth of a second, so they need no cache. An entry is known
by path, size, times and inode of every file of the tree, and by those of depmod itself: whatever changes one of them
makes another entry. An entry that is damaged is made again, and a folder that cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from megamod.modules.depmod import INDEXES, find_depmod, run_depmod

_VERSION = 1
_KEPT = 16


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/megamod/indexes``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored (XDG Base Directory Specification 0.8).
    return (Path(base) if base.startswith("/") else Path("~/.cache").expanduser()) / "megamod" / "indexes"


def indexes_of(folder: Path, *, run: Callable[[Path], dict[str, str]] = run_depmod) -> dict[str, str]:
    """The texts of the indexes of the tree *folder*, which has none of its own; raises MegamodError as depmod does."""
    depmod = find_depmod(folder)
    try:
        entry = cache_folder() / f"{_fingerprint(folder, depmod)}.json"
    except (OSError, RuntimeError):
        # Something in the tree cannot be looked at, or there is no home: depmod will say what is wrong, if anything.
        return run(folder)
    known = _read(entry)
    if known is not None:
        return known
    texts = run(folder)
    _write(entry, texts)
    return texts


def _fingerprint(folder: Path, depmod: str) -> str:
    digest = hashlib.sha256(f"{_VERSION}\0{folder.resolve()}\0".encode("utf-8", "surrogateescape"))
    _add(digest, Path(depmod))

    def raised(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=raised, followlinks=True):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in ("build", "source")]
        folders.sort()
        for name in sorted(files):
            _add(digest, Path(parent, name))
    return digest.hexdigest()[:32]


def _add(digest: hashlib._Hash, path: Path) -> None:
    status = path.stat()
    if stat.S_ISREG(status.st_mode):
        facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
        digest.update(f"{path}\0{facts}\0".encode("utf-8", "surrogateescape"))


def _read(entry: Path) -> dict[str, str] | None:
    """What the entry holds: a checksum in its first line, then JSON; None if it is missing or damaged."""
    try:
        checksum, _newline, body = entry.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != checksum:
            return None
        texts = json.loads(body)
    except (OSError, ValueError):
        return None
    whole = isinstance(texts, dict) and set(texts) == set(INDEXES)
    return {name: str(text) for name, text in texts.items()} if whole else None


def _write(entry: Path, texts: Mapping[str, str]) -> None:
    """Under another name first: of two that make the same entry at once, the last whole one stays."""
    body = json.dumps(dict(texts)).encode()
    # Without a cache the next time takes as long as this time did.
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=entry.parent, prefix=".new-", delete=False) as file:
            try:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
                file.close()
                Path(file.name).replace(entry)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        _prune(entry.parent)


def _prune(folder: Path) -> None:
    entries = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in entries[_KEPT:]:
        old.unlink(missing_ok=True)
