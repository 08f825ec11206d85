"""What we use of this machine: its programs, run with clear errors, a cache folder, a lock; and where our data lies.

Nothing here needs root, and nothing is written outside the cache folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.trust import first_untrusted, is_anothers, is_called_by_user

# Where mkfs and depmod live; the PATH of an ordinary user lacks these on Debian.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


_ROOTS_CACHE = Path("/var/cache/megamod")


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of all that is downloaded or kept: ``$XDG_CACHE_HOME/megamod``, by default ``~/.cache/megamod``.

    For root it is /var/cache/megamod, unless XDG_CACHE_HOME names a folder that only root can change: sudo and su may
    keep the HOME of the user who has called them.
    """
    base = environment.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored (XDG Base Directory Specification 0.8).
    named = Path(base) if base.startswith("/") else None
    if os.geteuid() == 0:
        return named / "megamod" if named and first_untrusted([named]) is None else _ROOTS_CACHE
    return (named or Path.home() / ".cache") / "megamod"


def data_folder(name: str) -> Path:
    """The project's folder *name*, ``profiles``, ``loader`` or ``docs``: in a checkout, or in an installed package."""
    package = Path(__file__).resolve().parents[1]
    project = package.parents[1]
    if (project / "pyproject.toml").is_file():
        return project / "initramfs/docs" if name == "docs" else project / name
    return package / f"_{name}"


def find_program(name: str, *, package: str) -> str:
    """The path of the program *name*; MegamodError with Debian's *package* as the hint where it is missing."""
    folders = [*os.environ.get("PATH", os.defpath).split(":"), *_SYSTEM_FOLDERS]
    if is_called_by_user():
        # The PATH may be his.
        folders = [folder for folder in folders if not is_anothers(Path(folder).absolute())]
    found = shutil.which(name, path=":".join(folders))
    if found is None:
        raise MegamodError(f"{name}: this program is not installed", hint=f"apt install {package}")
    return found


def run_program(command: Sequence[str | Path], *, folder: Path | None = None) -> str:
    """Run *command* to its end and return its standard output.

    Messages are English whatever the locale. Raises MegamodError with its last words on standard error when it fails.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise MegamodError(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        name = Path(command[0]).name
        raise MegamodError(f"{name}: {_last_words(done.stderr or done.stdout) or f'exit status {done.returncode}'}")
    return done.stdout


def _last_words(text: str) -> str:
    """What a failed program said: its errors (apt marks them with ``E:``), or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
    return "; ".join(errors[:3] or lines[-1:])


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold *path* locked against other processes while the body runs; waits for them. The file stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror}", hint="XDG_CACHE_HOME names another cache folder") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
