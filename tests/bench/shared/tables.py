"""Markdown tables, and what stands above them: versions and the date."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime

from megamod.common.host import find_program, run_program


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([line(heads), rule, *map(line, rows)])


def versions(release: str) -> dict[str, str]:
    """What a figure belongs to: kernel, QEMU, this machine's Python, the date."""
    qemu = run_program([find_program("qemu-system-x86_64", package="qemu-system-x86"), "--version"]).split("\n")[0]
    return {
        "kernel": release,
        "qemu": qemu.removeprefix("QEMU emulator version "),
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def title(facts: dict[str, str]) -> str:
    """One line of *facts*."""
    return ", ".join(f"{key} {value}" for key, value in facts.items())
