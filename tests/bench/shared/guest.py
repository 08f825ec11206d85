"""One guest that does nothing but load modules: guest/loadall.c as /init, and what it prints."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.qemu import run_qemu
from megamod.common.errors import MegamodError
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from tests.bench.shared.kernels import BenchKernel
from tests.bench.shared.rows import Call

MEMORY_MIB = 1024
_TIMEOUT = 1200.0
# Nothing may be printed while modules load; addresses are the same in each boot.
_APPEND = "loglevel=0 nokaslr log_buf_len=8M"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRun:
    """What one guest printed.

    loads: name → (nanoseconds of the call, errno). memory_kib: free memory before less after. modules: lines of
    /proc/modules. initcalls: with initcall_debug, (name or "?", result, microseconds) of each init in order.
    parameters: (module, file) → numbers. symbols: (address, name) of the kernel's functions, sorted, if asked for.
    elapsed: nanoseconds of all that command.c or waves.c did. names: of the modules that were loaded at the end.
    times: what limit.c timed, in nanoseconds.
    """

    loads: Mapping[str, tuple[int, int]]
    memory_kib: int
    vmalloc_kib: int
    modules: int
    initcalls: tuple[tuple[str, int, int], ...]
    parameters: Mapping[tuple[str, str], tuple[int, ...]]
    symbols: tuple[tuple[int, str], ...]
    elapsed: int
    names: tuple[str, ...]
    times: Mapping[str, int]


def make_image(path: Path, program: Path, calls: Sequence[Call]) -> Path:
    """An uncompressed initramfs of the guest's program and the files of *calls*: in memory from the start."""
    file, folder = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
    listing = "".join(f"/modules/{call.name}.ko{call.packed}\n" for call in calls)
    entries = [
        *(Entry(path=name, mode=folder) for name in ("dev", "proc", "sys")),
        Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
        Entry(path="init", mode=stat.S_IFREG | 0o755, data=program.read_bytes()),
        Entry(path="list", mode=file, data=listing.encode()),
        *(Entry(path=f"modules/{call.name}.ko{call.packed}", mode=file, data=call.data) for call in calls),
    ]
    write_image(path, entries, method="none")
    return path


def run_guest(
    kernel: BenchKernel,
    image: Path,
    *,
    seed: int = 1,
    initcalls: bool = False,
    symbols: bool = False,
    icount: bool = True,
    cpus: int = 1,
    words: Sequence[str] = (),
    extra: Sequence[str] = (),
) -> GuestRun:
    """Boot *image* and parse what it prints. The clock, and with *seed* the random numbers, are the same each time.

    *words* go on the kernel command line too.
    """
    line = [_APPEND, *(["initcall_debug"] if initcalls else []), *(["show_symbols=1"] if symbols else []), *words]
    result = run_qemu(
        image=image,
        vmlinuz=kernel.vmlinuz,
        arch=kernel.arch,
        append=" ".join(line),
        icount=icount,
        accel="tcg",
        memory=MEMORY_MIB,
        cpus=cpus,
        timeout=_TIMEOUT,
        extra=("-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", str(seed), *extra),
    )
    if "\nend\n" not in result.console:
        raise MegamodError(f"the guest did not come to its end; its last lines:\n{result.tail()}")
    return _parse(result.console)


def _parse(console: str) -> GuestRun:
    loads: dict[str, tuple[int, int]] = {}
    initcalls = []
    parameters: dict[tuple[str, str], tuple[int, ...]] = {}
    symbols = []
    memory = vmalloc = modules = elapsed = 0
    names = []
    times = {}
    for line in console.splitlines():
        match line.split(" "):
            case ["load", path, nanoseconds, error]:
                loads[path.partition(".ko")[0]] = (int(nanoseconds), int(error))
            case ["elapsed", nanoseconds]:
                elapsed = int(nanoseconds)
            case ["time", what, nanoseconds]:
                times[what] = int(nanoseconds)
            case ["name", name]:
                names.append(name)
            case ["vmalloc", before, after]:
                vmalloc = int(after) - int(before)
            case ["memory", before, after]:
                memory = int(before) - int(after)
            case ["modules", count]:
                modules = int(count)
            case ["initcall", name, result, microseconds]:
                initcalls.append((name, int(result), int(microseconds)))
            case ["parameter", module, file, values]:
                parameters[module, file] = tuple(int(value) for value in values.split(","))
            case ["symbol", address, name]:
                symbols.append((int(address, 16), name))
    return GuestRun(
        loads=loads,
        memory_kib=memory,
        vmalloc_kib=vmalloc,
        modules=modules,
        initcalls=tuple(initcalls),
        parameters=parameters,
        symbols=tuple(sorted(symbols)),
        elapsed=elapsed,
        names=tuple(names),
        times=times,
    )
