"""SIGTERM and SIGHUP end the process with nothing left behind: as an exception that is raised where they come."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class _StoppedError(BaseException):
    """A signal that ends the process came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the process only after the cleaning up of all that is open in the body: temporary
    folders, files that are half written, child processes.

    Inside another one it leaves that to the outer. Only the main thread may set handlers, and a handler that somebody
    set stays.
    """
    changed: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # A second one must not cut the cleaning up short.
        for each in changed:
            signal.signal(each, signal.SIG_IGN)
        raise _StoppedError(number)

    if threading.current_thread() is threading.main_thread():
        changed = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    except _StoppedError as error:
        if error.number not in changed:
            raise
        # Ends the process as the signal would have, now that nothing is left behind.
        signal.signal(error.number, signal.SIG_DFL)
        signal.raise_signal(error.number)
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
