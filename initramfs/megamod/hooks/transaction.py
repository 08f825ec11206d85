"""Changes to a folder tree, made together or not at all: a generator's image root, or a system's configuration.

A change that fails takes back all that were made before it. Files that are replaced or removed keep their content under
another name in their own folder until the end, so taking back needs no space, and other file systems may be mounted
below the root.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megamod.common.errors import MegamodError


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to be written: its bytes and its permissions; or a symbolic link to *link*."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """*write*: path below the root → content. *remove*: absolute paths of files below the root. *folders*: absolute
    paths where an empty folder is made in the end, what was removed among them."""

    write: Mapping[str, NewFile] = field(default_factory=dict)
    remove: Sequence[Path] = ()
    folders: Sequence[Path] = ()


def apply_changes(root: Path, changes: Changes) -> None:
    """Make all *changes* below *root*, or none; raises MegamodError naming the path that failed."""
    path, old = root, []
    with contextlib.ExitStack() as undo:
        try:
            for name, new in changes.write.items():
                path = root / name
                for folder in _missing_folders(path.parent):
                    folder.mkdir(mode=0o755)
                    undo.callback(_quietly_rmdir, folder)
                if path.is_symlink() or path.exists():
                    old.append(_put_aside(path, undo))
                undo.callback(path.unlink, missing_ok=True)
                if new.link:
                    path.symlink_to(new.link)
                else:
                    path.write_bytes(new.data)
                    path.chmod(new.mode)
            for path in changes.remove:
                old.append(_put_aside(path, undo))
            for path in changes.folders:
                for folder in _missing_folders(path):
                    folder.mkdir(mode=0o755)
                    undo.callback(_quietly_rmdir, folder)
        except OSError as error:
            raise MegamodError(f"{path}: {error.strerror or error}", hint="nothing was changed") from None
        # Everything is in place: what would take it back is forgotten.
        undo.pop_all()
    for path in old:
        with contextlib.suppress(OSError):
            path.unlink()


def _put_aside(path: Path, undo: contextlib.ExitStack) -> Path:
    """Rename *path*; where it is then."""
    kept = path.with_name(f".megamod-{secrets.token_hex(8)}")
    path.rename(kept)
    undo.callback(os.replace, kept, path)
    return kept


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
