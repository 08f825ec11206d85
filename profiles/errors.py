"""The one exception that a user's mistake raises; the command line catches it and prints one line."""

from __future__ import annotations


class MegamodError(Exception):
    """Bad input: *message* names file and place, *hint* says what to do about it.

    ``str()`` is the one line that the user sees. A bug of ours asserts instead.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        line = " ".join(self.message.split("\n"))
        return f"{line} (hint: {self.hint})" if self.hint else line
