"""What all parts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.shared.kernels import BenchKernel
from tests.bench.shared.store import Store

if TYPE_CHECKING:
    from tests.hooks.debian_systems import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """facts: what every figure depends on. step: says what is being done. quick: the least that shows that it works.

    system: a Debian system with other generators and tools, or None where none can be made.
    """

    kernel: BenchKernel
    store: Store
    folder: Path
    facts: Mapping[str, str]
    step: Callable[[str], None]
    quick: bool
    suite: str
    system: System | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the report: what it shows, and what a reader must know to read it."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A bar chart: label → one value for each of *parts*."""

    name: str
    title: str
    axis: str
    parts: Sequence[str]
    bars: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a part found; *data* is for the JSON file."""

    name: str
    tables: Sequence[Table]
    plots: Sequence[Plot]
    data: Any
