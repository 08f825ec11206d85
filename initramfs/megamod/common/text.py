"""Words and numbers as the kernel and as people spell them: module names, hints, sizes, durations, small tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


def canonical(name: str) -> str:
    """The kernel's spelling of a module or parameter name: '-' and '_' are the same letter, written '_', and so is a
    comma, which kbuild takes for one too (scripts/Makefile.lib name-fix-token, 6.12; thead,th1520-aon.ko, riscv64)."""
    return name.replace("-", "_").replace(",", "_")


def nearest(word: str, candidates: Iterable[str], *, count: int = 3) -> list[str]:
    """The *count* candidates most like *word*, best first; empty when none is like it."""
    return difflib.get_close_matches(word, sorted(set(candidates)), n=count, cutoff=0.6)


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """A hint naming the candidates nearest to *word*, or None."""
    names = nearest(word, candidates)
    return f"did you mean {' or '.join(names)}?" if names else None


def printable(text: str) -> str:
    """*text* on one line, and as characters alone: what a terminal would act on is written as Python writes it.

    Names of files, modules and members come from anywhere: they may hold line breaks, terminal sequences, marks that
    turn the direction of the text, and bytes that are not UTF-8.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """`printable` of each line of *text*, and of what stands between tabs in it."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def shorten(text: str, limit: int = 60) -> str:
    """*text* on one line and not longer than *limit* characters, for messages."""
    flat = printable(text)
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def by_value(facts: Mapping[str, str]) -> dict[str, list[str]]:
    """Each value of *facts* → the names that have it, in order."""
    found: dict[str, list[str]] = {}
    for name, fact in facts.items():
        found.setdefault(fact, []).append(name)
    return found


def listed(items: Sequence[str], *, shown: int = 8, separator: str = ", ") -> str:
    """The first *shown* of *items*, and how many more there are: a note is one line, however many it is about."""
    more = f" and {human_count(len(items) - shown)} more" if len(items) > shown else ""
    return separator.join(items[:shown]) + more


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Columns two spaces apart under *header*: the first *left* of them flush left, the others flush right."""
    lines = [header, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def human_bytes(count: int) -> str:
    """``812 B``, ``39.2 KiB``, ``7.5 MiB``, ``1.2 GiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        # 1023.96 would print as 1024.0.
        if value < 1023.95 or unit == "GiB":
            break
    return f"{value:.1f} {unit}"


def human_count(count: int) -> str:
    """``750,123``."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """``1 member``, ``1,234 members``."""
    return f"{human_count(count)} {noun}{'' if count == 1 else 's'}"


def human_seconds(seconds: float) -> str:
    """``0.8 ms``, ``312 ms``, ``2.41 s``."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s"
