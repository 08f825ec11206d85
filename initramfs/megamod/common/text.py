"""Words as the kernel and as people spell them: module names, hints, texts short enough for a message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def shorten(text: str, limit: int = 60) -> str:
    """*text* on one line and not longer than *limit* characters, for messages."""
    flat = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
