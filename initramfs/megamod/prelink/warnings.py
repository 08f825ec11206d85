"""What a choice will cost the kernel, said at build time where it grows with the square of the members."""

from __future__ import annotations

import numpy as np

from megamod.common.choices import Symbols, Tracing
from megamod.prelink import elf
from megamod.prelink.merge import Tables
from megamod.prelink.options import PrelinkOptions

# Nanoseconds for one trace site against one symbol, at one instruction a nanosecond: on Debian 6.1 24,898 sites and
# 34,167 symbols took 22.9 s longer to load than with no symbols (ftrace_module_enable(), find_kallsyms_symbol()).
_NANOSECONDS_A_PAIR = 27
_WORTH_SAYING = 0.1


def cost_notes(tables: Tables, options: PrelinkOptions) -> tuple[str, ...]:
    """A line for each choice whose cost is quadratic and above a tenth of a second."""
    if options.tracing == Tracing.OFF or options.symbols == Symbols.TRIM:
        return ()
    tables_of_sites = ("__mcount_loc", "__patchable_function_entries")
    sites = sum(
        s.size // m.architecture.word
        for m in tables.members
        for s in m.sections
        if s.alloc and s.name in tables_of_sites
    )
    symbols = sum(
        int(np.count_nonzero((m.symbols["st_info"] & 15 == elf.STT_FUNC) & (m.symbols["st_shndx"] != elf.SHN_UNDEF)))
        for m in tables.members
    )
    seconds = sites * symbols * _NANOSECONDS_A_PAIR / 1e9
    if seconds < _WORTH_SAYING:
        return ()
    return (
        f"tracing: keep: the kernel compares {sites:,} trace sites with {symbols:,} symbols, about {seconds:.1f} s "
        "at one instruction a nanosecond; symbols: trim avoids it, but then ftrace knows no names",
    )
