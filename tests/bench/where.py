#!/usr/bin/env python3
"""Where the instructions of the load calls go, by kernel function (README.md, "where.py")."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.bench.shared.arguments import add_kernel, run_main
from tests.bench.shared.compiler import compile_guest
from tests.bench.shared.functions import MODULES, compile_plugin, count, fold
from tests.bench.shared.guest import make_image, run_guest
from tests.bench.shared.kernels import open_kernel
from tests.bench.shared.rows import find_row, rows
from tests.bench.shared.sets import open_set
from tests.bench.shared.tables import markdown, title, versions


def main() -> int:
    options = _parse()
    kernel = open_kernel(folder=options.kernel, suite=options.suite, architecture=options.architecture)
    chosen = open_set(options.set, kernel)
    print(title({**versions(kernel.release), "set": f"{chosen.name} ({len(chosen.members)} modules)"}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program, plugin = compile_guest("loadall", folder, arch=kernel.arch), compile_plugin(folder, kernel.arch)
        symbols: tuple[tuple[int, str], ...] = ()
        for key in options.rows.split(","):
            image = make_image(folder / "image.cpio", program, find_row(key).make(chosen))
            # The functions' addresses are the kernel's, so one look is enough; instructions need not be counted for it.
            symbols = symbols or run_guest(kernel, image, symbols=True, icount=False).symbols
            counts = count(kernel, image, program, plugin, symbols, folder, inits=options.inits)
            print(_report(key, fold(counts, symbols, MODULES[kernel.arch]), options.top))
    return 0


def _report(key: str, functions: Counter[str], top: int) -> str:
    total = functions.total()
    table = [[f"`{name}`", f"{n / 1e6:.2f}", f"{100 * n / total:.1f} %"] for name, n in functions.most_common(top)]
    rest = total - sum(n for _, n in functions.most_common(top))
    table.append([f"{max(len(functions) - top, 0)} others", f"{rest / 1e6:.2f}", f"{100 * rest / total:.1f} %"])
    return "\n".join(["", markdown([f"{key}: {total / 1e6:.1f} M instructions", "M", "share"], table)])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_kernel(parser)
    parser.add_argument("--set", default="desktop", help="a file of sets/, or a path (default: desktop)")
    parser.add_argument(
        "--rows",
        default="keep,drop+trim",
        help=f"by commas, of: {','.join(row.key for row in rows())} (keep,drop+trim)",
    )
    parser.add_argument("--top", type=int, default=20, help="functions shown (20)")
    parser.add_argument("--inits", action="store_true", help="count what the members' inits do, too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_main(main))
