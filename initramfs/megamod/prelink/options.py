"""What the caller may choose about a prelink."""

from __future__ import annotations

from dataclasses import dataclass

from megamod.common.choices import Imports, Order, StaticCalls, Symbols, Tracing, Unwind
from megamod.prelink.limits import PERCPU_RESERVE

# struct module's name[] holds MODULE_NAME_LEN = 64 - sizeof(unsigned long) bytes, one of them the NUL
# (include/linux/moduleparam.h).
NAME_LIMIT = {64: 55, 32: 59}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrelinkOptions:
    """One megamodule's options; the defaults are those of ``megamod prelink``.

    unwind:  keep the ORC tables whole, keep only what a return address can use, or drop them.
    tracing: off replaces ``call __fentry__`` by a NOP and drops the tables that ftrace reads.
    static_calls: leave each static call going through its trampoline, or let the kernel patch every site at load.
    symbols: keep the function symbols that make an oops readable, or only what the kernel needs.
    order:   inside an initcall level hosts of disks and of USB first and long computations last, or as linked.
    imports: where the kernel's build is known, bind imports of it by their distance from one of them (distance.py).
    results: have the parameters that tell what became of the members. Without them a member need not have an init: so
             a single module can be pruned, which is what tests/bench compares with.
    kcfi:    the kernel's configuration names kCFI; members that show it need no such word.
    percpu_reserve: bytes that the kernel has for the per-CPU data of all modules.
    """

    name: str
    unwind: Unwind = Unwind.KEEP
    tracing: Tracing = Tracing.OFF
    symbols: Symbols = Symbols.KEEP
    static_calls: StaticCalls = StaticCalls.TRAMPOLINE
    order: Order = Order.WAITS
    imports: Imports = Imports.DISTANCE
    results: bool = True
    allow_taint: bool = False
    kcfi: bool = False
    percpu_reserve: int = PERCPU_RESERVE
