"""Where the x86_64 kernel puts the sections of a module: several ways, for runs of the glue at real addresses.

From layout_sections(), kernel/module/main.c, Linux 5.10 to 7.2: sections of one kind of memory follow each other in the
order of their headers, each at its alignment. Which kind lies below which is chance.
"""

import random
from dataclasses import dataclass

import unicorn

from tests.oracle.elffile import Section
from tests.oracle.machine import StuckError
from tests.oracle.model import SHF_EXEC, SHF_WRITE, Model, in_init_memory

MODULES = -0x40000000  # MODULES_VADDR with CONFIG_RANDOMIZE_BASE, as a signed number
_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One way to be loaded. order: kinds of memory by address; gap: bytes between sections beside alignment.

    slot: which of the possible places in struct module the kernel uses, from 0 (first) to 1 (last); None: none of them.
    """

    text: str
    order: tuple[str, ...]
    gap: int
    slot: float | None


# Up to 6.3 there are two allocations, core and init, each in the order text, constants, data. Since 6.4 each kind is
# one of its own (enum mod_mem_type), anywhere. The first has gaps, which tell one section's end from the next's start.
LOADS = (
    Load(
        text="each kind of memory apart, init text above",
        order=("init rodata", "text", "data", "init text", "init data", "rodata"),
        gap=64,
        slot=0.5,
    ),
    Load(
        text="each kind of memory apart, init text below",
        order=("data", "init data", "init text", "rodata", "init rodata", "text"),
        gap=64,
        slot=0,
    ),
    Load(
        text="init memory above",
        order=("text", "rodata", "data", "init text", "init rodata", "init data"),
        gap=0,
        slot=1,
    ),
    Load(
        text="init memory below",
        order=("init text", "init rodata", "init data", "text", "rodata", "data"),
        gap=0,
        slot=0.3,
    ),
    Load(
        text="no table in struct module",
        order=("text", "rodata", "data", "init text", "init rodata", "init data"),
        gap=64,
        slot=None,
    ),
)


def addresses(merged: Model, load: Load) -> tuple[dict[int, int], list[tuple[int, int, int]]]:
    """Section → address, and the memory as (address, size, Unicorn's rights)."""
    rng = random.Random(f"{load.text} {len(merged.data)}")
    at = MODULES + _PAGE * rng.randrange(256)
    home: dict[int, int] = {}
    regions = []
    for kind in load.order:
        start, at = at, at + load.gap
        for section in merged.sections[1:]:
            if section.alloc and _kind(merged, section) == kind:
                at = -(-at // max(section.align, 1)) * max(section.align, 1)
                home[section.index] = at
                at += section.size + load.gap
        at = (at // _PAGE + 1) * _PAGE
        rights = unicorn.UC_PROT_READ
        rights |= unicorn.UC_PROT_EXEC if kind.endswith("text") else 0
        rights |= unicorn.UC_PROT_WRITE if kind in ("data", "init data") else 0
        regions.append((start, at - start, rights))
        at += _PAGE * rng.randrange(1, 64)
    if at > 0:
        raise StuckError("the megamodule does not fit into the module area")
    return home, regions


def _kind(merged: Model, section: Section) -> str:
    """The memory that layout_sections() puts a section into; per-CPU data is copied elsewhere."""
    if section.name == ".data..percpu":
        return ""
    kind = "text" if section.flags & SHF_EXEC else "data" if section.flags & SHF_WRITE else "rodata"
    return f"init {kind}" if in_init_memory(merged, section.name) else kind
