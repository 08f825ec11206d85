"""Changes to a folder tree, made together or not at all: a generator's image root, or a system's configuration.

All that can fail comes first: new files are written under names of their own (`.megamod-…`) in the folders where they
are to be. Then one rename of the journal decides: up to it everything is taken back, from it on everything is
completed, whatever ends the process. Completing only renames and removes, and can be done any number of times, so the
next command does it, or a hook's shell script (generators/guard), which needs no Python.

The journal is a text of lines, fields separated by a tab, paths relative to the root without a link on the way:

    put STAGED PATH     STAGED takes the name PATH
    remove PATH
    made PATH           a folder that was made for what is put: goes if all is taken back
    prune PATH          a folder that goes in the end if it is empty
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from megamod.common.errors import MegamodError
from megamod.hooks.contained import inside

IMAGE_JOURNAL = ".megamod-journal"
"""Where the journal of an image root lies: the image is made of all that is there, so it is gone in the end."""

SYSTEM_JOURNAL = "var/lib/megamod/journal"
"""Where that of a system lies."""

IMAGE_LOCK, SYSTEM_LOCK = ".megamod-lock", "run/megamod.lock"
"""What holds a tree while a command of ours changes it. A lock on the tree's folder itself, which anybody can open,
would be anybody's to hold."""

# The journal while it is written, while everything can be taken back, and once everything is to be completed.
_DRAFT, _UNDO, _REDO = ".draft", ".undo", ".redo"
_STAGED = ".megamod-"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to be written: its bytes and its permissions; or a symbolic link to *link*."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """*write*: path below the root → content, put in this order. *remove*: absolute paths of files below the root.
    *folders*: absolute paths where an empty folder is made in the end, what was removed among them. *prune*: paths
    below the root of folders that go in the end if they are empty, the innermost first."""

    write: Mapping[str, NewFile] = field(default_factory=dict)
    remove: Sequence[Path] = ()
    folders: Sequence[Path] = ()
    prune: Sequence[str] = ()


@contextlib.contextmanager
def locked(root: Path, *, lock: str = SYSTEM_LOCK, journal: str = SYSTEM_JOURNAL) -> Iterator[None]:
    """Hold the tree *root* against other commands of ours; what one of them has left half done is settled first.

    The file *lock* below it is nobody else's to open, and goes in the end. A tree without a folder for it is locked
    itself.
    """
    if not root.is_dir():
        raise MegamodError(f"{root}: {os.strerror(errno.ENOTDIR if root.exists() else errno.ENOENT)}")
    path = _place(root, lock)
    own = path.parent.is_dir()
    descriptor = _hold(path if own else root.resolve())
    try:
        recover(root, journal)
        yield
    finally:
        if own:
            # Who waits for it finds that it is not the file of that name any more, and takes the next one.
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _hold(path: Path) -> int:
    """A descriptor of *path*, a folder or a file that is made, locked."""
    flags = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT
    while True:
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MegamodError(f"{path}: {error.strerror}", hint="it keeps two commands from one change") from None
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        os.close(descriptor)


def apply_changes(root: Path, changes: Changes, *, journal: str = IMAGE_JOURNAL, durable: bool = False) -> None:
    """Make all *changes* below *root*, or none; raises MegamodError naming the path that failed.

    *durable* has them outlast a power cut: each step is on the disk before the next.
    """
    recover(root, journal)
    place = _place(root, journal)
    staged, lines = _planned(root, changes)
    path = place
    try:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(place.with_name(place.name + _DRAFT), NewFile(data="".join(lines).encode("utf-8", "surrogateescape")))
        place.with_name(place.name + _DRAFT).rename(place.with_name(place.name + _UNDO))
        _sync([place.parent], durable)
        for path, new in staged:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if new is None:
                path.mkdir(mode=0o755)
            else:
                _write(path, new, durable=durable)
        path = place
        _sync({path.parent for path, _new in staged}, durable)
        # Beyond this point everything is completed, now or by the next command.
        place.with_name(place.name + _UNDO).rename(place.with_name(place.name + _REDO))
    except BaseException as error:
        recover(root, journal)
        if isinstance(error, OSError):
            raise MegamodError(f"{path}: {error.strerror or error}", hint="nothing was changed") from None
        raise
    _sync([place.parent], durable)
    try:
        _complete(root, place, durable=durable)
    except OSError as error:
        what = f"{error.filename or place}: {error.strerror or error}"
        raise MegamodError(what, hint="the change is half done; the next megamod command completes it") from None
    except BaseException:
        recover(root, journal)
        raise
    if journal != IMAGE_JOURNAL:
        _quietly_rmdir(place.parent)


def recover(root: Path, journal: str) -> bool:
    """Complete or take back what a process that was ended has left below *root*; whether there was anything.

    Raises MegamodError for a journal that is not ours, and where it cannot be done.
    """
    place = _place(root, journal)
    if not place.parent.is_dir():
        return False
    try:
        found = [name for name in (_REDO, _UNDO, _DRAFT) if place.with_name(place.name + name).is_file()]
        if _REDO in found:
            _complete(root, place, durable=True)
        elif _UNDO in found:
            _take_back(root, place)
        place.with_name(place.name + _DRAFT).unlink(missing_ok=True)
        if journal != IMAGE_JOURNAL:
            _quietly_rmdir(place.parent)
    except OSError as error:
        what = f"{error.filename or place}: {error.strerror or error}"
        raise MegamodError(what, hint="an earlier command was interrupted; this must work to settle it") from None
    return bool(found)


def _planned(root: Path, changes: Changes) -> tuple[list[tuple[Path, NewFile | None]], list[str]]:
    """What is staged where, None for an empty folder; the lines of the journal."""
    token = secrets.token_hex(8)
    staged: list[tuple[Path, NewFile | None]] = []
    lines: list[str] = []
    made: dict[Path, None] = {}
    puts: list[tuple[str, NewFile | None]] = [*changes.write.items()]
    removed = [inside(root, path.relative_to(root), follow=False) for path in changes.remove]
    puts += [(str(path.relative_to(root)), None) for path in changes.folders]
    after: list[str] = []
    for number, (name, new) in enumerate(puts):
        # What is put takes the place of a link; what is above it may be one.
        path = inside(root, PurePosixPath(name).parent) / PurePosixPath(name).name
        if new is None and path.is_dir() and path not in removed:
            continue
        # The file system's own rename would do so in the middle.
        if new is not None and path.is_dir() and not path.is_symlink():
            raise MegamodError(f"{path}: {os.strerror(errno.EISDIR)}", hint="nothing was changed")
        made |= dict.fromkeys(_missing_folders(path.parent))
        temporary = path.with_name(f"{_STAGED}{token}-{number}")
        staged.append((temporary, new))
        (lines if new is not None else after).append(_line(root, "put", temporary, path))
    lines += [_line(root, "remove", path) for path in removed]
    lines += after
    lines += [_line(root, "made", folder) for folder in made]
    lines += [_line(root, "prune", inside(root, name, follow=False)) for name in changes.prune]
    return staged, lines


def _complete(root: Path, place: Path, *, durable: bool) -> None:
    journal = place.with_name(place.name + _REDO)
    touched = set()
    prune = []
    for kind, paths in _read(root, journal):
        if kind == "put" and os.path.lexists(paths[0]):
            paths[0].replace(paths[1])
        elif kind == "remove" and (paths[0].is_symlink() or not paths[0].is_dir()):
            # A folder already exists in place of the file: this was done before.
            paths[0].unlink(missing_ok=True)
        elif kind == "prune":
            prune.append(paths[0])
        touched.add(paths[-1].parent)
    _sync(touched, durable)
    for folder in prune:
        _quietly_rmdir(folder)
    journal.unlink()
    # Those that held the journal.
    for folder in prune:
        _quietly_rmdir(folder)


def _take_back(root: Path, place: Path) -> None:
    journal = place.with_name(place.name + _UNDO)
    lines = _read(root, journal)
    for kind, paths in lines:
        if kind != "put":
            continue
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(paths[0].lstat().st_mode):
                paths[0].rmdir()
            else:
                paths[0].unlink()
    for kind, paths in reversed(lines):
        if kind == "made":
            _quietly_rmdir(paths[0])
    journal.unlink()


def _read(root: Path, journal: Path) -> list[tuple[str, list[Path]]]:
    """The lines of *journal*; raises MegamodError unless each is one that `_planned` writes."""
    fields = {"put": 2, "remove": 1, "made": 1, "prune": 1}
    lines = []
    for number, line in enumerate(journal.read_bytes().decode("utf-8", "surrogateescape").splitlines(), 1):
        kind, *names = line.split("\t")
        right = fields.get(kind) == len(names) and all(names) and not any(_leads_out(name) for name in names)
        if not right or (kind == "put" and not PurePosixPath(names[0]).name.startswith(_STAGED)):
            raise MegamodError(f"{journal}:{number}: is not a line of a journal", hint="was the file changed?")
        lines.append((kind, [root / name for name in names]))
    return lines


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _line(root: Path, kind: str, *paths: Path) -> str:
    names = [str(path.relative_to(root)) for path in paths]
    for name in names:
        if "\t" in name or len(name.splitlines()) != 1:
            raise MegamodError(f"{root / name}: a tab or a line break in a name is not supported")
    return "\t".join([kind, *names]) + "\n"


def _place(root: Path, journal: str) -> Path:
    return inside(root, PurePosixPath(journal).parent) / PurePosixPath(journal).name


def _write(path: Path, new: NewFile, *, durable: bool = False) -> None:
    if new.link:
        path.symlink_to(new.link)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(new.data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fchmod(descriptor, new.mode)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folders: Sequence[Path] | set[Path], durable: bool) -> None:
    for folder in sorted(folders) if durable else ():
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            except OSError as error:
                # Some file systems have no such thing as a folder on the disk.
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                    raise
            finally:
                os.close(descriptor)


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
