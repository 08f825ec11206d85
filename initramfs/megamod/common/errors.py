"""The one exception that a user's mistake raises, and places in files; the command line prints it as one line."""

from __future__ import annotations

from dataclasses import dataclass

from megamod.common.text import printable


class MegamodError(Exception):
    """Bad input: *message* names file and place, *hint* says what to do about it.

    ``str()`` is the one line that the user sees. A bug of ours asserts instead.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        line = f"{self.message} (hint: {self.hint})" if self.hint else self.message
        return printable(" ".join(line.split("\n")))


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Location:
    """A place in a profile; *line* and *column* count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


def fail(location: Location, message: str, hint: str | None = None) -> MegamodError:
    """The error of a place in a profile, for `raise fail(…)`."""
    return MegamodError(f"{location}: {message}", hint=hint)
