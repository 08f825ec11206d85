"""Ends a piece of work at each of its steps in turn: by SIGKILL, or as a full disk would.

The work runs in a forked child. A step is what Python reports to audit hooks just before it asks the kernel (open for
writing, rename, unlink, mkdir, …), and each write(2), which is cut in half first.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Literal

from megamod.common.errors import MegamodError

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")
_MOST_STEPS = 2000
How = Literal["killed", "full"]


def ended_at(step: int, how: How, work: Callable[[], object]) -> bool:
    """Run *work* in a child that is ended before its step *step* (from 0); False if it has fewer steps."""
    child = os.fork()
    if child == 0:
        status, fired = 3, lambda: False
        try:
            fired = _arm(step, how)
            work()
            # What could not be done need not have been needed.
            status = 4 if fired() else 0
        except BaseException as error:
            status = 4 if fired() and isinstance(error, MegamodError) else 3
            if status == 3:
                traceback.print_exc()
        finally:
            os._exit(status)
    _child, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) in ((0, 4) if how == "full" else (0,)), f"step {step}: status {status}"
    return os.WEXITSTATUS(status) == 4


def each_step(how: How, prepare: Callable[[], Callable[[], object]], check: Callable[[int], None]) -> int:
    """For each step of the work that *prepare* returns: prepare, end it there, *check*; the number of steps."""
    for step in range(_MOST_STEPS):
        if not ended_at(step, how, prepare()):
            return step
        check(step)
    raise AssertionError("the work does not end")


def _arm(step: int, how: How) -> Callable[[], bool]:
    """Returns whether the step has come."""
    left = step
    write = os.write

    def count() -> bool:
        nonlocal left
        left -= 1
        return left == -1

    def end() -> None:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        # A full disk lets files be removed and renamed in their folder.
        frees = how == "full" and event in ("os.remove", "os.rmdir", "os.rename", "os.chmod")
        if (opened or event in _CHANGES) and not frees and count():
            end()

    def write_half(descriptor: int, data: bytes) -> int:
        if count():
            write(descriptor, bytes(data)[: len(data) // 2])
            end()
        return write(descriptor, data)

    os.write = write_half  # type: ignore[assignment]
    # The machine goes on: what is written is not lost.
    os.fsync = lambda _descriptor: None
    sys.addaudithook(audit)
    return lambda: left < 0
