"""Changes to a folder tree, made together or not at all: a generator's image root, or a system's configuration.

A change that fails takes back all that were made before it. Files that are removed are kept in a folder beside the
root's own files until the end, so taking back needs no space.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megamod.profiles.errors import MegamodError


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to be written: its bytes and its permissions."""

    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """*write*: path below the root → content. *remove*: absolute paths of files below the root. *folders*: absolute
    paths where an empty folder is made in the end, what was removed among them."""

    write: Mapping[str, NewFile] = field(default_factory=dict)
    remove: Sequence[Path] = ()
    folders: Sequence[Path] = ()


def apply_changes(root: Path, changes: Changes) -> None:
    """Make all *changes* below *root*, or none; raises MegamodError naming the path that failed."""
    attic = root / f".megamod-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as undo:
        path = attic
        try:
            attic.mkdir()
            undo.callback(shutil.rmtree, attic, ignore_errors=True)
            for number, (name, new) in enumerate(changes.write.items()):
                path = root / name
                for folder in _missing_folders(path.parent):
                    folder.mkdir(mode=0o755)
                    undo.callback(_quietly_rmdir, folder)
                if path.is_symlink() or path.exists():
                    kept = attic / f"old-{number}"
                    path.rename(kept)
                    undo.callback(os.replace, kept, path)
                undo.callback(path.unlink, missing_ok=True)
                path.write_bytes(new.data)
                path.chmod(new.mode)
            for number, path in enumerate(changes.remove):
                kept = attic / f"removed-{number}"
                path.rename(kept)
                undo.callback(os.replace, kept, path)
            for path in changes.folders:
                for folder in _missing_folders(path):
                    folder.mkdir(mode=0o755)
                    undo.callback(_quietly_rmdir, folder)
        except OSError as error:
            hint = "the image is as the generator made it"
            raise MegamodError(f"{path}: {error.strerror or error}", hint=hint) from None
        # Everything is in place: what would take it back is forgotten.
        undo.pop_all()
    shutil.rmtree(attic, ignore_errors=True)


def _missing_folders(folder: Path) -> Iterator[Path]:
    """The folders above and including *folder* that are not there, the outermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    yield from reversed(missing)


def _quietly_rmdir(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
