#!/usr/bin/env python3
"""megamod beside what people use today, on the same kernel, modules and root (README.md, "run.py").

Writes results.json, results.md and SVG plots to --out, where each figure has a file of its own too: a run that was
broken off goes on, and what has not changed is not measured again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from tests.bench.parts.boot import measure_boot
from tests.bench.parts.build import measure_build
from tests.bench.parts.context import Context, Part
from tests.bench.parts.limit import measure_limit
from tests.bench.parts.load import measure_load
from tests.bench.parts.report import write_report
from tests.bench.shared.arguments import run_main
from tests.bench.shared.kernels import open_kernel
from tests.bench.shared.progress import progress
from tests.bench.shared.store import Store, digest, qemu_version
from tests.bench.shared.system import open_system
from tests.bench.shared.tables import versions

if TYPE_CHECKING:
    from tests.hooks.debian_systems import System

PARTS = ("load", "boot", "build", "limit")


def main() -> int:
    options = _parse()
    for kernel in options.kernels.split(","):
        _run(options, kernel)
    return 0


def _run(options: argparse.Namespace, source: str) -> None:
    """All parts on one kernel: a suite's, or the unpacked one in a folder."""
    folder = Path(source) if "/" in source else None
    suite = options.suite if folder else source
    kernel = open_kernel(folder=folder, suite=suite)
    wanted = options.parts.split(",")
    sets = ["small"] if options.quick else options.sets.split(",")
    with tempfile.TemporaryDirectory() as name, progress(0) as shown:
        context = Context(
            kernel=kernel,
            store=Store(folder=options.out / "figures", fresh=options.fresh),
            folder=Path(name),
            facts={"kernel": digest(kernel.vmlinuz), "qemu": qemu_version()},
            step=shown.step,
            quick=options.quick,
            suite=options.system,
            system=None if options.quick else _system(options.system),
        )
        every: dict[str, Callable[[], Part]] = {
            "load": lambda: measure_load(context, sets, repeat=1 if options.quick else options.repeat),
            "boot": lambda: measure_boot(context, repeat=1 if options.quick else 3),
            "build": lambda: measure_build(context),
            "limit": lambda: measure_limit(context, sets),
        }
        parts = [every[part]() for part in wanted]
    facts = versions(kernel.release)
    command = shlex.join(["python", "-m", "tests.bench.run", *sys.argv[1:]])
    print(write_report(options.out / kernel.release, parts, facts, command))


def _system(suite: str) -> System | None:
    try:
        return open_system(suite)
    except MegamodError as error:
        print(f"rows of other tools are left out: {error}", file=sys.stderr)
        return None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="under two minutes: one set, a few rows, no other tools")
    parser.add_argument("--sets", default="small,medium,large", help="files of sets/ (small,medium,large)")
    parser.add_argument(
        "--kernels", default="bookworm", help="Debian suites or folders of unpacked kernels, by commas (bookworm)"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of these, by commas: {','.join(PARTS)}")
    parser.add_argument("--system", default="bookworm", help="the suite of the other tools and generators (bookworm)")
    parser.add_argument("--repeat", type=int, default=2, help="runs of a load row, each with its own random seed (2)")
    parser.add_argument(
        "--out", type=Path, default=cache_folder() / "bench", metavar="DIR", help="for all that is written"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what DIR already has")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_main(main))
