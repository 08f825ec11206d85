#!/usr/bin/env python3
"""Load overhead of one call beside that of one call a module, in instructions (README.md, "load.py").

Prints one Markdown table and the ratios that are aimed at; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from megamod.common.errors import MegamodError
from tests.bench.shared.arguments import add_kernel, run_main
from tests.bench.shared.compiler import compile_guest, compiler
from tests.bench.shared.guest import make_image
from tests.bench.shared.kernels import BenchKernel, open_kernel
from tests.bench.shared.overhead import Measured, measure
from tests.bench.shared.rows import Call, Row, rows
from tests.bench.shared.sets import ModuleSet, open_set
from tests.bench.shared.tables import markdown, title, versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """*row*'s overhead is to be at most *limit* of *base*'s on *arch*; *source* says who wants that."""

    row: str
    base: str
    limit: float
    source: str
    arch: str = "x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A row's image and its calls, without their data, which is *size* bytes."""

    row: Row
    image: Path
    calls: tuple[Call, ...]
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row with all its runs; *size* is the bytes of its files."""

    row: Row
    size: int
    runs: tuple[Measured, ...]

    @property
    def overhead(self) -> float:
        """Seconds, mean of the runs."""
        return fmean(run.overhead_ns for run in self.runs) / 1e9

    @property
    def spread(self) -> float:
        """What the largest overhead of the runs has over the smallest, as a share of that."""
        values = [run.overhead_ns for run in self.runs]
        return max(values) / min(values) - 1


TARGETS = (
    Target(row="keep", base="unsigned", limit=1 / 4, source="first"),
    Target(row="drop+trim", base="unsigned", limit=1 / 10, source="first"),
    Target(row="drop+trim", base="unsigned", limit=1 / 12, source="full"),
    Target(row="drop+trim", base="stripped", limit=1 / 7, source="full"),
    Target(row="drop+trim", base="stock", limit=1 / 25, source="full"),
    Target(row="keep", base="unsigned", limit=1 / 4.5, source="full"),
    Target(row="keep", base="stripped", limit=1 / 2.8, source="full"),
    Target(row="keep", base="stock", limit=1 / 10, source="full"),
    Target(row="compact", base="unsigned", limit=1 / 7, source="full"),
    Target(row="compact", base="stripped", limit=1 / 4.5, source="full"),
    Target(row="compact", base="stock", limit=1 / 17, source="full"),
    Target(row="drop+trim", base="pruned-drop", limit=2 / 3, source="full"),
    Target(row="compact", base="pruned", limit=2 / 3, source="full"),
    Target(row="drop+trim", base="alone-drop", limit=2 / 3, source="own"),
    Target(row="compact", base="alone", limit=2 / 3, source="own"),
    Target(row="drop+trim", base="unsigned", limit=0.4, source="boards", arch="aarch64"),
    Target(row="drop+trim", base="stock", limit=1 / 9, source="boards", arch="aarch64"),
)


def main() -> int:
    options = _parse()
    kernel = open_kernel(folder=options.kernel, suite=options.suite, architecture=options.architecture)
    chosen = open_set(options.set, kernel)
    _say(f"{len(chosen.members)} modules, not there: {' '.join(chosen.absent) or '-'}")
    wanted = [row for row in rows() if not options.rows or row.key in options.rows.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        program = compile_guest("loadall", Path(folder), arch=kernel.arch)
        prepared = [made for row in wanted if (made := _prepare(row, chosen, program, Path(folder)))]
        _say(f"{len(prepared)} images made")
        lines = [_measure(made, kernel, options.repeat) for made in prepared]
    _check_same(lines)
    facts = {**versions(kernel.release), "set": f"{chosen.name} ({len(chosen.members)} modules)"}
    print(_report(lines, chosen, kernel.arch, facts))
    if options.json:
        options.json.write_text(json.dumps(_as_json(lines, facts), indent=1) + "\n")
    return 0


def _prepare(row: Row, chosen: ModuleSet, program: Path, folder: Path) -> Prepared | None:
    try:
        calls = row.make(chosen)
    except MegamodError as error:
        _say(f"{row.key}: left out: {error}")
        return None
    size = sum(len(call.data) for call in calls)
    image = make_image(folder / f"{row.key}.cpio", program, calls)
    return Prepared(row=row, image=image, calls=tuple(replace(call, data=b"") for call in calls), size=size)


def _measure(made: Prepared, kernel: BenchKernel, repeat: int) -> Line:
    runs = []
    for seed in range(1, repeat + 1):
        try:
            runs.append(measure(kernel, made.image, made.calls, seed=seed))
        except MegamodError as error:
            raise MegamodError(f"{made.row.key}: {error}") from None
        _say(f"{made.row.key}, run {seed}: {runs[-1].overhead_ns / 1e9:.4f} s overhead")
    return Line(row=made.row, size=made.size, runs=tuple(runs))


def _check_same(lines: Sequence[Line]) -> None:
    """The same modules must have been initialised, with the same result, in every run of every row."""
    first = lines[0].runs[0]
    for line in lines:
        for run in line.runs:
            if (run.initialised, run.failed) != (first.initialised, first.failed):
                raise MegamodError(f"{line.row.key} did not load the same modules as {lines[0].row.key}")


def _report(lines: Sequence[Line], chosen: ModuleSet, arch: str, facts: dict[str, str]) -> str:
    table = [
        [
            f"{line.row.title} (`{line.row.key}`)",
            str(line.runs[0].calls),
            f"{line.size / 1e6:.1f}",
            f"{fmean(run.load_ns for run in line.runs) / 1e9:.3f}",
            f"{fmean(run.init_ns for run in line.runs) / 1e9:.3f}",
            f"{line.overhead:.4f}",
            f"{100 * line.spread:.2f} %",
            f"{fmean(run.memory_kib for run in line.runs) / 1024:.1f}",
        ]
        for line in lines
    ]
    heads = ["row", "calls", "MB", "load s", "inits s", "overhead s", "spread", "memory MiB"]
    parts = [title(facts), "", markdown(heads, table)]
    failed = lines[0].runs[0].failed
    parts += ["", f"Members whose init fails in every row alike: {', '.join(sorted(failed)) or 'none'}."]
    if chosen.singles:
        parts.append(f"Not merged, one call each as shipped: {', '.join(chosen.singles)}.")
    if ratios := _ratios({line.row.key: line.overhead for line in lines}, arch):
        parts += ["", markdown(["ratio", "is", "aim", "goal", "met"], ratios)]
    return "\n".join(parts)


def _ratios(overheads: Mapping[str, float], arch: str) -> list[list[str]]:
    table = []
    for target in TARGETS:
        if target.arch != arch or target.row not in overheads or target.base not in overheads:
            continue
        ratio = overheads[target.row] / overheads[target.base]
        met = "yes" if ratio <= target.limit else "no"
        table.append(
            [f"{target.row} / {target.base}", _fraction(ratio), f"≤ {_fraction(target.limit)}", target.source, met]
        )
    return table


def _fraction(value: float) -> str:
    return f"1/{1 / value:.2f}" if value < 0.5 else f"{value:.3f}"


def _as_json(lines: Sequence[Line], facts: dict[str, str]) -> dict[str, object]:
    return {
        **facts,
        "compiler": " ".join(compiler()),
        "rows": {
            line.row.key: {
                "title": line.row.title,
                "bytes": line.size,
                "runs": [
                    {
                        "calls": run.calls,
                        "load_ns": run.load_ns,
                        "init_ns": run.init_ns,
                        "overhead_ns": run.overhead_ns,
                        "memory_kib": run.memory_kib,
                        "failed": dict(run.failed),
                        "overhead_ns_by_call": dict(run.overhead),
                    }
                    for run in line.runs
                ],
            }
            for line in lines
        },
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_kernel(parser)
    parser.add_argument("--set", default="desktop", help="a file of sets/, or a path (default: desktop)")
    parser.add_argument("--rows", help=f"of these only, by commas: {','.join(row.key for row in rows())}")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each row, each with its own random seed (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, times of each call included")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
