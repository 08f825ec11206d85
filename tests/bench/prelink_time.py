#!/usr/bin/env python3
"""Time and memory of ``megamod prelink`` and ``megamod build`` on this machine (README.md, "prelink_time.py")."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from megamod.common.errors import MegamodError
from tests.bench.shared.arguments import add_kernel, run_main
from tests.bench.shared.kernels import open_kernel
from tests.bench.shared.sets import open_set, set_names
from tests.bench.shared.tables import markdown, title, versions

_MEGAMOD = "import sys; from megamod.cli.main import main; sys.exit(main())"
_STARTER = """\
import os, sys, time
start = time.monotonic()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
wall = time.monotonic() - start
print(os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One process: seconds of the clock, seconds of processors, peak resident memory in MiB."""

    wall: float
    processor: float
    peak_mib: float


def main() -> int:
    options = _parse()
    kernel = open_kernel(folder=options.kernel, suite=options.suite, architecture=options.architecture)
    chosen = open_set(options.set, kernel)
    merged = [module.path for load in chosen.loads if load.single is None for module in load.modules]
    table = []
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "bench.ko"
        for words in ("", "--unwind compact", "--unwind drop --symbols trim"):
            command = ["prelink", "-q", "-o", str(output), *words.split(), *map(str, merged)]
            text = " ".join(["megamod prelink", *words.split()])
            table.append(_row(f"`{text}`, {len(merged)} modules", command, options.runs))
        image = Path(name) / "bench.img"
        profile = Path(name) / "set.yaml"
        modules = "".join(f'    - "?{word}"\n' for word in set_names(options.set))
        profile.write_text(f"critical:\n  modules:\n{modules}unwind: drop\nsymbols: trim\nfirmware: none\n")
        for what in ("camera", "vm", "desktop", str(profile)):
            command = ["build", "-q", "-k", str(kernel.tree.folder), "-o", str(image), what]
            text = f"`megamod build {Path(what).stem}`"
            table.append(_row(f"{text}, `--no-cache`", [*command, "--no-cache"], options.runs))
            _cost(command)
            table.append(_row(f"{text}, unchanged", command, options.runs))
    print(
        title({**versions(kernel.release), "processors": str(os.cpu_count()), "runs": str(options.runs)}), "\n", sep=""
    )
    print(markdown(["command", "wall s", "least", "most", "processor s", "peak MiB"], table))
    return 0


def _row(text: str, command: Sequence[str], runs: int) -> list[str]:
    costs = [_cost(command) for _ in range(runs)]
    walls = [cost.wall for cost in costs]
    figures = (median(walls), min(walls), max(walls), median(cost.processor for cost in costs))
    return [text, *(f"{figure:.2f}" for figure in figures), f"{median(cost.peak_mib for cost in costs):.0f}"]


def _cost(words: Sequence[str]) -> Cost:
    """Run ``megamod WORDS`` in a process of its own.

    A small process starts it: a child begins with its parent's peak memory (fs/exec.c exec_mmap(), 6.1).
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", _STARTER, sys.executable, "-c", _MEGAMOD, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    status, wall, processor, peak = done.stdout.split()
    if int(status):
        raise MegamodError(f"megamod {words[0]} ended with status {status}")
    return Cost(wall=float(wall), processor=float(processor), peak_mib=int(peak) / 1024)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_kernel(parser)
    parser.add_argument("--set", default="desktop", help="a file of sets/, or a path (default: desktop)")
    parser.add_argument("--runs", type=int, default=5, help="processes a row; the middle one is shown (5)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_main(main))
