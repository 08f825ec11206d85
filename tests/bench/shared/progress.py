"""A progress bar on stderr, or a line for each step where stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import rich.progress
from rich.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a benchmark is doing; *bar* is None where it would only be noise."""

    bar: rich.progress.Progress | None
    task: rich.progress.TaskID

    def step(self, text: str) -> None:
        """One of the steps, *text*, begins."""
        if self.bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.bar.update(self.task, description=text, advance=1)


@contextmanager
def progress(total: int) -> Iterator[Progress]:
    """A bar of *total* steps, for the time of the `with`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Progress(bar=None, task=rich.progress.TaskID(0))
        return
    with rich.progress.Progress(*_columns(), console=console, transient=True) as bar:
        # A step is counted when it begins, so the first one is 0.
        yield Progress(bar=bar, task=bar.add_task("", total=total, completed=-1))


def _columns() -> tuple[rich.progress.ProgressColumn, ...]:
    return (
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("{task.description}"),
    )
