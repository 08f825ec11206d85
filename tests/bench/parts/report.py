"""What a run writes: JSON, a Markdown page, a bar chart of each kind as SVG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megamod.common.files import atomic_write
from tests.bench.parts.context import Part, Plot, Table
from tests.bench.shared.tables import markdown, title


def write_report(folder: Path, parts: Sequence[Part], facts: dict[str, str], command: str) -> str:
    """Write results.json, results.md and an SVG for each plot to *folder*; returns the page."""
    text = _page(parts, facts, command)
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {**facts, "command": command, **{part.name: part.data for part in parts}}
    atomic_write(folder / "results.json", f"{json.dumps(data, indent=1, sort_keys=True)}\n".encode())
    atomic_write(folder / "results.md", f"{text}\n".encode())
    for part in parts:
        for plot in part.plots:
            _draw(folder / f"{plot.name}.svg", plot, facts)
    return text


def _page(parts: Sequence[Part], facts: Mapping[str, str], command: str) -> str:
    lines = ["# Results", "", title(dict(facts)) + ".", "", f"    {command}"]
    for part in parts:
        for table in part.tables:
            lines += ["", *_table(table)]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    lines = [f"## {table.title}", markdown(table.heads, table.rows)]
    for note in table.notes:
        lines += ["", note]
    return lines


def _draw(path: Path, plot: Plot, facts: Mapping[str, str]) -> None:
    # The backend draws files only, and an SVG is to be the same each time it is made of the same figures.
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "megamod"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.35 * len(plot.bars) + 1.2), layout="constrained")
    labels = list(plot.bars)
    left = [0.0] * len(labels)
    for number, part in enumerate(plot.parts):
        widths = [plot.bars[label][number] for label in labels]
        axes.barh(labels, widths, left=left, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(plot.axis)
    axes.set_title(f"{plot.title} ({facts['kernel']})", fontsize="medium")
    if len(plot.parts) > 1:
        axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
