#!/usr/bin/env python3
"""Where the instructions of the load calls go, by kernel function (README.md, "where.py")."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchkit.arguments import add_kernel, run_main
from benchkit.compiler import compile_guest, compiler
from benchkit.guest import make_image, run_guest
from benchkit.kernels import BenchKernel, open_kernel
from benchkit.rows import find_row, rows
from benchkit.sets import open_set
from benchkit.tables import markdown, title, versions

from megamod.initramfs.boot.host import find_program, run_program

PLUGIN = Path(__file__).parent / "plugin" / "functions.c"
# Where kernels put modules with nokaslr, as [start, end): MODULES_VADDR in Documentation/x86/x86_64/mm.rst, and in
# arch/arm64/include/asm/memory.h (48-bit addresses, 6.1: below the kernel).
_MODULES = {
    "x86_64": (0xFFFFFFFFC0000000, 1 << 64),
    "aarch64": (0xFFFF800000000000, 0xFFFF800008000000),
}
_USER_END = 0x800000000000


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
            print(_report(key, fold(counts, symbols, _MODULES[kernel.arch]), options.top))
    return 0


def compile_plugin(folder: Path, arch: str) -> Path:
    """The plugin for this machine's QEMU, whose interface has version 1 up to 8.1 and takes 2 from 8.2 on."""
    found = re.search(r"version (\d+)\.(\d+)", run_program([_qemu(arch), "--version"]))
    version = 1 if found and (int(found[1]), int(found[2])) < (8, 2) else 2
    path = folder / "functions.so"
    flags = ("-O2", "-fPIC", "-shared", "-fvisibility=hidden", f"-DAPI_VERSION={version}")
    run_program([*compiler(), *flags, "-o", path, PLUGIN])
    return path


def count(
    kernel: BenchKernel,
    image: Path,
    program: Path,
    plugin: Path,
    symbols: tuple[tuple[int, str], ...],
    folder: Path,
    *,
    inits: bool,
) -> dict[int, int]:
    """Address of a block → instructions executed in it during the load calls; of the inits too if *inits*."""
    points = _program_symbols(program)
    out = folder / "counts.txt"
    words = [f"file={plugin}", f"out={out}", f"begin={points['measure_begin']:#x}", f"end={points['measure_end']:#x}"]
    if not inits:
        # do_init_module() calls do_one_initcall(), which calls the init (kernel/module/main.c, init/main.c).
        addresses = {name: place for place, (_, name) in enumerate(symbols)}
        leave, back = symbols[addresses["do_one_initcall"]][0], addresses["do_init_module"]
        after = next(address for address, _ in symbols[back:] if address > symbols[back][0])
        words += [f"leave={leave:#x}", f"return={symbols[back][0]:#x}", f"limit={after:#x}"]
    run_guest(kernel, image, extra=("-plugin", ",".join(words)))
    counts: Counter[int] = Counter()
    for line in out.read_text().splitlines():
        address, length, times = line.split()
        counts[int(address, 16)] += int(length) * int(times)
    return dict(counts)


def fold(counts: Mapping[int, int], symbols: tuple[tuple[int, str], ...], modules: tuple[int, int]) -> Counter[str]:
    """Instructions by function; *modules* is where the kernel puts modules."""
    # Symbols below that are per-processor offsets.
    start, end = modules
    text = [(address, name) for address, name in symbols if address >= _USER_END and not start <= address < end]
    addresses = [address for address, _ in text]
    functions: Counter[str] = Counter()
    for address, instructions in counts.items():
        if address < _USER_END:
            name = "[user space]"
        elif start <= address < end:
            name = "[modules]"
        elif addresses and address >= addresses[0]:
            name = text[bisect_right(addresses, address) - 1][1]
        else:
            name = "[elsewhere]"
        functions[name] += instructions
    return functions


def _report(key: str, functions: Counter[str], top: int) -> str:
    total = functions.total()
    table = [[f"`{name}`", f"{n / 1e6:.2f}", f"{100 * n / total:.1f} %"] for name, n in functions.most_common(top)]
    rest = total - sum(n for _, n in functions.most_common(top))
    table.append([f"{max(len(functions) - top, 0)} others", f"{rest / 1e6:.2f}", f"{100 * rest / total:.1f} %"])
    return "\n".join(["", markdown([f"{key}: {total / 1e6:.1f} M instructions", "M", "share"], table)])


def _program_symbols(program: Path) -> dict[str, int]:
    lines = run_program([find_program("nm", package="binutils"), program]).splitlines()
    words = [line.split() for line in lines]
    return {word[2]: int(word[0], 16) for word in words if len(word) == 3}


def _qemu(arch: str) -> str:
    return find_program(f"qemu-system-{arch}", package="qemu-system-x86" if arch == "x86_64" else "qemu-system-arm")


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
