"""What depmod made of a tree without indexes, kept for the next time: a run reads every module file of the tree.

The indexes of a tree that has them are read each time, in a tenth of a second, so they need no cache. An entry is known
by path, size, times and inode of every file of the tree, and by those of depmod itself: whatever changes one of them
makes another entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from megamod.common.cache import read_entry, write_entry
from megamod.modules.depmod import INDEXES, find_depmod, run_depmod

_VERSION = 2
_KIND = "indexes"


def indexes_of(
    folder: Path, overlays: Sequence[Path] = (), *, run: Callable[..., dict[str, str]] = run_depmod
) -> dict[str, str]:
    """The texts of the indexes of the tree *folder* with the modules below *overlays*; raises what depmod does."""
    depmod = find_depmod(folder)
    try:
        key = _fingerprint((folder, *overlays), depmod)
    except OSError:
        # Something in the tree cannot be looked at: depmod will say what is wrong, if anything.
        return run(folder, *([overlays] if overlays else []))
    body = read_entry(_KIND, key)
    if body is not None and (known := _read(body)) is not None:
        return known
    texts = run(folder, *([overlays] if overlays else []))
    write_entry(_KIND, key, json.dumps(dict(texts)).encode())
    return texts


def _fingerprint(trees: Sequence[Path], depmod: str) -> str:
    names = "\0".join(str(folder.resolve()) for folder in trees)
    digest = hashlib.sha256(f"{_VERSION}\0{names}\0".encode("utf-8", "surrogateescape"))
    _add(digest, Path(depmod))

    def raised(error: OSError) -> None:
        raise error

    for folder in trees:
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


def _read(body: bytes) -> dict[str, str] | None:
    try:
        texts = json.loads(body)
    except ValueError:
        return None
    whole = isinstance(texts, dict) and set(texts) == set(INDEXES)
    return {name: str(text) for name, text in texts.items()} if whole else None
