"""Files read whole and within bounds, and written at once or not at all.

Needs bytes, guarantees that a path holds either the whole new file or what it held before,
whatever fails or interrupts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from megamod.common.compression import MAX_OUTPUT, read_regular
from megamod.common.errors import MegamodError
from megamod.common.signals import ended_by_signals

_HINTS = {
    errno.ENOSPC: "free some space; what stood there before is unchanged",
    errno.EDQUOT: "free some space; what stood there before is unchanged",
    errno.ENOENT: "make its folder first",
}


def read_file(path: Path) -> bytes:
    """The bytes of *path*, at most 1 GiB."""
    return read_regular(path, limit=MAX_OUTPUT)


def source_date_epoch(environment: os._Environ[str] | dict[str, str]) -> int:
    """The time of all files of an image in seconds: SOURCE_DATE_EPOCH, 0 if unset, so that two builds are equal."""
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return 0
    # newc holds 32 bits, unsigned.
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > 0xFFFFFFFF:
        raise MegamodError(
            f"SOURCE_DATE_EPOCH={text[:40]}: not a number of seconds from 0 to {0xFFFFFFFF}",
            hint="date +%s prints one",
        )
    return int(text)


def not_an_input(output: Path, inputs: Iterable[Path | None]) -> None:
    """Raises MegamodError if *output* is one of the files that are read, which would be lost."""
    place = os.path.realpath(output)
    if any(path is not None and os.path.realpath(path) == place for path in inputs):
        raise MegamodError(f"{output}: cannot be written: is read, too", hint="choose another name")


def is_private(*paths: Path | None) -> bool:
    """Whether one of these files may not be read by everybody, so that what is made of it must not either."""
    return any(path is not None and path.exists() and not path.stat().st_mode & stat.S_IROTH for path in paths)


def atomic_write(path: Path, data: bytes, *, private: bool = False) -> None:
    """Put *data* at *path* by way of a file beside it, on the disk before it takes the name.

    Its mode is 0644 less the umask, or 0600 if *private*.

    A symbolic link is kept and what it points to is written. Raises MegamodError naming *path* when the folder is
    missing, cannot be written or is full. On any error, on Ctrl-C, SIGTERM and SIGHUP the file beside it is removed
    and *path* is as it was.
    """
    atomic_write_all([(path, data)], private=private)


def atomic_write_all(files: Sequence[tuple[Path, bytes]], *, private: bool = False) -> None:
    """`atomic_write` for files that belong together: all lie on the disk, beside their paths, before the first takes
    its name. So what can fail leaves every one as it was."""
    with ended_by_signals(), contextlib.ExitStack() as temporaries:
        ready = []
        for path, data in files:
            with _errors_of(path):
                target = _target_of(path)
                # The name may be as long as the file system allows, so the temporary one does not contain it.
                temporary = target.with_name(f".megamod-{os.urandom(8).hex()}.tmp")
                temporaries.callback(_remove, temporary)
                _write_whole(temporary, data, 0o600 if private else 0o644)
                ready.append((path, temporary, target))
        for path, temporary, target in ready:
            with _errors_of(path):
                temporary.replace(target)
                _sync_folder(target.parent)


def check_writable(path: Path) -> None:
    """Raise the MegamodError that writing *path* would end in, as far as it can be known before there is something to
    write: the folder is not there, may not be written, or lies on a file system that is read-only."""
    with _errors_of(path):
        folder = _target_of(path).parent
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise OSError(errno.ENOTDIR, "")
        if not os.access(folder, os.W_OK | os.X_OK):
            read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
            raise OSError(errno.EROFS if read_only else errno.EACCES, "")


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        raise MegamodError(f"{path}: cannot be written: {os.strerror(number)}", hint=_HINTS.get(number)) from None


def _target_of(path: Path) -> Path:
    """The regular file, there or not, that *path* stands for."""
    if str(path) == "-":
        raise MegamodError("-: standard output is not supported", hint="give a file name")
    with contextlib.suppress(FileNotFoundError):
        path.stat()  # for a loop of links: what resolve() says of one differs between Python versions
    target = path.resolve()
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "not a regular file"
        raise MegamodError(f"{path}: cannot be written: is {what}")
    return target


def _write_whole(temporary: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    # After the rename there is nothing of this name.
    with contextlib.suppress(OSError):
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the rename last over a power cut, where the file system can; a folder may be writable but unreadable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(descriptor)
