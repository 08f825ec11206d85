"""What a build looks at: the files that it reads, the folders that it lists, the paths that it only asks about.

Seen are the calls themselves, so that no reader has to say what it reads and a new one is seen like all others. Opening
and listing raise audit events (PEP 578). Questions about a path raise none, and a path that is missing is an input too:
`os.stat`, `os.lstat`, `os.readlink` and `os.access`, through which pathlib, glob, shutil and os.path ask, are wrapped
while a recording runs.

Not seen is what other programs read, what comes over a network, and what stands in /proc, /sys and /dev, where no time
of change can be relied on: after any of these the recording is not complete. The program, the interpreter and the
libraries are left out: they are not looked at in each build of a process, and have a place of their own in the key.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from megamod.common.cache import file_facts
from megamod.common.host import cache_folder, data_folder

_QUESTIONS = ("stat", "lstat", "readlink", "access")
_BY_FOLDER = (*_QUESTIONS, "open")
_LISTINGS = frozenset({"os.listdir", "os.scandir"})
_ELSEWHERE = frozenset(
    {
        *("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system", "os.spawn"),
        *("pty.spawn", "socket.connect", "socket.getaddrinfo"),
    }
)
_WITHOUT_TIMES = ("/proc", "/sys", "/dev")
_EVENTS = frozenset({"open", *_LISTINGS, *_ELSEWHERE})
# What is imported is the program, and counts as such; import and importlib.metadata list the folders of sys.path, and
# the working folder may be among them.
_IMPORTS = frozenset({"<frozen importlib._bootstrap_external>", importlib.metadata.__file__})
_READLINK = os.readlink
_WRITING = os.O_WRONLY | os.O_CREAT


def own_folders() -> tuple[Path, ...]:
    """The program itself: the package, the loader's sources and programs, the shipped profiles and tables; and the file
    by which `data_folder` knows a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package, data_folder("loader"), data_folder("profiles"), package.parents[1] / "pyproject.toml"


class Reads:
    """A recording of all looks at the file system while `recording()` runs; it may run several times."""

    def __init__(self) -> None:
        self._looks: dict[str, bytes] = {}
        self._outputs: list[str] = []
        libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
        own = own_folders()
        self._left_out = (*map(_absolute, libraries), *map(str, own), str(cache_folder()))
        self._above = {str(parent) for folder in own for parent in folder.parents}
        self._running = False
        self._busy: set[int] = set()
        self._complete = True
        self._hooked = False

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what the body looks at, in any thread."""
        if not self._hooked:
            # A hook stays as long as the process; outside of a recording it does nothing.
            sys.addaudithook(self._event)
            self._hooked = True
        originals = {name: getattr(os, name) for name in _BY_FOLDER}
        wrapped = {name: self._asking(original, is_question=name in _QUESTIONS) for name, original in originals.items()}
        # shutil asks these sets what a function can do.
        abilities = (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids)
        able = [(known, wrapped[name]) for known in abilities for name in originals if originals[name] in known]
        try:
            for name, function in wrapped.items():
                setattr(os, name, function)
            for known, function in able:
                known.add(function)
            self._running = True
            yield
        finally:
            self._running = False
            for name, original in originals.items():
                setattr(os, name, original)
            for known, function in able:
                known.discard(function)

    def leave_out(self, *outputs: Path) -> None:
        """*outputs* are files and folders that the build itself is to write: asking about one is not an input, and a
        recording in which one is read is not complete."""
        self._outputs += map(_absolute, outputs)

    def looks(self) -> tuple[str, ...] | None:
        """Everything that was looked at, sorted, for `digest_of`; None if that is not all, or has changed meanwhile."""
        unchanged = all(_facts(look) == facts for look, facts in self._looks.items())
        return tuple(sorted(self._looks)) if self._complete and unchanged else None

    def _asking(self, original: Callable[..., Any], *, is_question: bool) -> Callable[..., Any]:
        def ask(path: Any, *words: Any, **options: Any) -> Any:
            # A path below a folder that is known by its descriptor; the event of os.open does not tell that.
            if (folder := options.get("dir_fd")) is not None:
                if self._is_left_out(folder):
                    with self._unseen():
                        return original(path, *words, **options)
                self._complete = False
            if is_question:
                self._look("?", path)
            return original(path, *words, **options)

        return ask

    def _is_left_out(self, descriptor: int) -> bool:
        """Whether an open folder is one that is left out: entries of the cache are read so."""
        try:
            return _is_below(_READLINK(f"/proc/self/fd/{descriptor}"), self._left_out)
        except OSError:
            return False

    @contextlib.contextmanager
    def _unseen(self) -> Iterator[None]:
        thread = threading.get_ident()
        known = thread in self._busy
        self._busy.add(thread)
        try:
            yield
        finally:
            if not known:
                self._busy.discard(thread)

    def _event(self, event: str, values: tuple[Any, ...]) -> None:
        if not self._running or event not in _EVENTS:
            return
        if event in _ELSEWHERE:
            self._complete = False
        elif sys._getframe(1).f_code.co_filename in _IMPORTS:
            return
        elif event in _LISTINGS:
            self._look("/", values[0] if values[0] is not None else ".")
        elif not isinstance(values[2], int) or not values[2] & _WRITING:
            self._look("<", values[0])

    def _look(self, how: str, path: Any) -> None:
        if isinstance(path, int):
            # What is open already has been seen; a folder that is listed by its number has not.
            self._complete = self._complete and (how != "/" or self._is_left_out(path))
            return
        thread = threading.get_ident()
        if thread in self._busy:
            return
        self._busy.add(thread)
        try:
            name = _absolute(path)
            if _is_below(name, self._outputs):
                self._complete = self._complete and how == "?"
            elif _is_below(name, _WITHOUT_TIMES):
                self._complete = False
            elif not _is_below(name, self._left_out) and (how == "/" or name not in self._above):
                look = ("/" if how == "/" else "?") + name
                if look not in self._looks:
                    self._looks[look] = _facts(look)
        finally:
            self._busy.discard(thread)


def digest_of(looks: Iterable[str]) -> str:
    """A digest of the present facts of *looks*: equal as long as a build that looks at them finds the same."""
    digest = hashlib.sha256()
    for look in looks:
        digest.update(f"{look}\0".encode("utf-8", "surrogateescape") + _facts(look))
    return digest.hexdigest()


def _facts(look: str) -> bytes:
    """Of a path what `file_facts` says; of a listing that of each entry, as the entries of os.scandir know it too."""
    try:
        if look[0] != "/":
            return file_facts(look[1:])
        with os.scandir(look[1:]) as listing:
            paths = sorted(entry.path for entry in listing)
        return hashlib.sha256(b"".join(map(file_facts, paths))).digest()
    except OSError as error:
        return f"{look}\0{error.errno}".encode("utf-8", "surrogateescape")


def _absolute(path: Any) -> str:
    # Links stay: where one leads is asked with the facts. A Path would cost more than all the rest.
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100


def _is_below(name: str, folders: Iterable[str]) -> bool:
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)
