"""Per-CPU data: the kernel has one reserve of it for all modules, and what does not fit is refused with ENOMEM.

The reserve is PERCPU_MODULE_RESERVE (include/linux/percpu.h): 8 KiB, and more in kernels of 6.10 to 6.14 that count
allocations, whose modules have a counter for each place that allocates; later ones have these counters elsewhere.
Without SMP there is no such section.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from megamod.kernel.config import KernelConfig, find_config
from megamod.prelink.elf import align_up
from megamod.prelink.limits import PERCPU_RESERVE
from megamod.prelink.member import Member
from megamod.prelink.merge import PERCPU
from megamod.select.select import Selection

_COUNTING = {(6, 10): 8 << 12, (6, 11): 8 << 12, (6, 12): 8 << 13, (6, 13): 8 << 13, (6, 14): 8 << 13}


def percpu_reserve(config: KernelConfig | None, release: str) -> int:
    """Bytes that the kernel *release* has for the per-CPU data of all modules."""
    version = re.match(r"(\d+)\.(\d+)", release)
    known = (int(version[1]), int(version[2])) if version else (0, 0)
    counts = config is not None and config.enabled("MEM_ALLOC_PROFILING")
    return _COUNTING.get(known, PERCPU_RESERVE) if counts else PERCPU_RESERVE


def reserve_of(selection: Selection) -> int:
    """The same for the kernel of *selection*."""
    files = selection.tree.kernel_files
    return percpu_reserve(find_config(files), files.release)


def percpu_overflow(selection: Selection, members: Mapping[str, Member]) -> dict[str, str]:
    """Module → why it is to be loaded on its own: with it the per-CPU data of all modules before it is more than the
    kernel's reserve. So a megamodule has what fits, and the kernel refuses no more than of the stock modules.
    """
    used, reserve = 0, reserve_of(selection)
    over: dict[str, str] = {}
    for stage in selection.stages:
        for module in sorted(stage.modules, key=lambda module: (module.rank, module.name)):
            section = members[module.name].section(PERCPU)
            if section is None or not section.size:
                continue
            end = align_up(used, section.sh_addralign) + section.size
            if end > reserve:
                over[module.name] = (
                    f"has {section.size:,} bytes of per-CPU data, and the kernel has {reserve:,} for all modules, of "
                    f"which {used:,} are taken"
                )
            else:
                used = end
    return over
