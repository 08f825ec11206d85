"""What a build shows while it works: a line a step, a closing table, and numbers as people read them.

Lines go to one stream, plain where it is not a terminal. The functions that make text are pure.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from megamod.common.text import human_bytes, human_count, human_seconds, printable, printable_lines, table

_ERASE_LINE = "\r\x1b[K"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """A stage in the closing table: sizes in bytes, the time that its making took in seconds."""

    stage: str
    members: int
    singles: int
    bytes: int
    relocations_before: int
    relocations_after: int
    seconds: float


class Step:
    """A running step; `note` adds what it found to its line."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        """Add *text* to the line that is printed when the step ends."""
        self._notes.append(text)

    def line(self, name: str, seconds: float) -> str:
        """The finished line of the step."""
        return f"{name}: {', '.join([*self._notes, human_seconds(seconds)])}"


class Steps:
    """Prints a line for each step that has ended, with its time.

    On a terminal the name of the running step is shown until then. With *quiet* nothing is printed, only with *verbose*
    the details. A step that fails leaves no line: the error that follows says what happened.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, verbose: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._verbose = verbose
        self._live = not quiet and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Run the body as the step *name*."""
        step = Step()
        if self._live:
            self._write(f"{printable(name)} …")
        start = time.monotonic()
        try:
            yield step
        finally:
            if self._live:
                self._write(_ERASE_LINE)
        self.say(step.line(name, time.monotonic() - start))

    def say(self, text: str) -> None:
        """Print a line."""
        if not self._quiet:
            self._write(f"{printable_lines(text)}\n")

    def detail(self, text: str) -> None:
        """Print a line that only a reader who has asked for more wants to see."""
        if self._verbose:
            self.say(text)

    def closing_table(self, rows: Sequence[StageRow]) -> None:
        """Print `closing_table` of *rows*."""
        self.say(closing_table(rows))

    def _write(self, text: str) -> None:
        # Progress is not worth failing for: the reader of a pipe may be gone, the terminal closed.
        with contextlib.suppress(OSError):
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()


def closing_table(rows: Sequence[StageRow]) -> str:
    """The table at the end of a build, one line a stage and, for several, one for all of them."""
    total = StageRow(
        stage="all",
        members=sum(row.members for row in rows),
        singles=sum(row.singles for row in rows),
        bytes=sum(row.bytes for row in rows),
        relocations_before=sum(row.relocations_before for row in rows),
        relocations_after=sum(row.relocations_after for row in rows),
        seconds=sum(row.seconds for row in rows),
    )
    return table(
        ["stage", "members", "singles", "size", "relocations before", "after", "time"],
        [
            [
                row.stage,
                human_count(row.members),
                human_count(row.singles),
                human_bytes(row.bytes),
                human_count(row.relocations_before),
                human_count(row.relocations_after),
                human_seconds(row.seconds),
            ]
            for row in ([*rows, total] if len(rows) > 1 else rows)
        ],
        left=1,
    )
