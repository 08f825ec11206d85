"""Where the instructions of the load calls go: the QEMU plugin, and its counts folded by kernel function."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from megamod.common.host import find_program, run_program
from tests.bench.shared.compiler import compiler
from tests.bench.shared.guest import run_guest
from tests.bench.shared.kernels import BenchKernel

PLUGIN = Path(__file__).parent.parent / "plugin" / "functions.c"
# Where kernels put modules with nokaslr, as [start, end): MODULES_VADDR in Documentation/x86/x86_64/mm.rst, and in
# arch/arm64/include/asm/memory.h (48-bit addresses, 6.1: below the kernel).
MODULES = {
    "x86_64": (0xFFFFFFFFC0000000, 1 << 64),
    "aarch64": (0xFFFF800000000000, 0xFFFF800008000000),
}
_USER_END = 0x800000000000


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


def _program_symbols(program: Path) -> dict[str, int]:
    lines = run_program([find_program("nm", package="binutils"), program]).splitlines()
    words = [line.split() for line in lines]
    return {word[2]: int(word[0], 16) for word in words if len(word) == 3}


def _qemu(arch: str) -> str:
    return find_program(f"qemu-system-{arch}", package="qemu-system-x86" if arch == "x86_64" else "qemu-system-arm")
