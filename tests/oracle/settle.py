"""The unwind table of a megamodule whose table is sorted already: what the kernel has once the glue's init has run.

Such a megamodule (x86_64) has its own few entries in .orc_unwind_ip and .orc_unwind. unwind_module_init() sorts those
and stores num_orcs, orc_unwind_ip and orc_unwind in struct module. All entries, sorted, stand in the two sections
.sorted: first a gap as long as the entries of init code, then the entries of other code, then those of init code; an
address is an offset into its section. Before it calls anything the glue's init makes distances of these offsets, moves
the entries of init code into the gap where they come first, and puts the table in the place of the small one.

Here the init is run in Unicorn, at kernel addresses, for several ways in which the kernel may lay the sections out; and
the table is read back as __orc_find() would read it (arch/x86/kernel/unwind_orc.c, struct mod_arch_specific in
arch/x86/include/asm/module.h, Linux 5.10 to 7.2).
"""

import numpy as np

from tests.oracle.machine import StuckError
from tests.oracle.memory import LOADS
from tests.oracle.model import SHF_EXEC, SHF_RO_AFTER_INIT, SHF_WRITE, Ints, Model, in_init_memory
from tests.oracle.placement import Layout
from tests.oracle.settlerun import Kernel, code_of
from tests.oracle.tables import SORTED_UNWIND, Unwind, unwind_table
from tests.oracle.trial import Place

_NONE = np.zeros(0, np.int64)
_EMPTY = Unwind(_NONE, _NONE, _NONE)


def registered_table(merged: Model, layout: Layout) -> tuple[Unwind, list[str]]:
    """The table in which the unwinder searches, and sentences on what is wrong with it or with how it came there.

    Empty where it cannot be had. A module whose table the kernel sorts itself has the one of tables.unwind_table().
    """
    if not any(merged.find(name) for name in SORTED_UNWIND):
        return unwind_table(merged)
    small, problems = unwind_table(merged)
    problems = _form(merged, small) + problems
    entry = _init_of(merged, layout)
    if entry is None:
        problems.append("a sorted table without an init that settles it")
    if problems or entry is None:
        return _EMPTY, problems
    try:
        return _settle(merged, layout, small, entry)
    except StuckError as stuck:
        return _EMPTY, [f"the glue's init: {stuck}"]


def _form(merged: Model, small: Unwind) -> list[str]:
    """What can be said of the sections before anything runs."""
    ips, states = (merged.find(name) for name in SORTED_UNWIND)
    if ips is None or states is None:
        return [f"only one of {' and '.join(SORTED_UNWIND)} is there"]
    problems = []
    for section in (ips, states):
        if section.nobits or not section.flags & SHF_WRITE or section.flags & SHF_EXEC:
            problems.append(f"{section.name} is not initialized, writable data")
        if not section.flags & SHF_RO_AFTER_INIT:
            problems.append(f"{section.name} stays writable, which no other unwind table does")
        if in_init_memory(merged, section.name):
            problems.append(f"{section.name} is in init memory, which is freed")
        span = merged.rows(section)
        if span.start != span.stop:
            problems.append(f"{section.name} has relocations")
    if ips.size % 4 or states.size % 6 or ips.size // 4 != states.size // 6:
        problems.append(f"{ips.name} has {ips.size} bytes, {states.name} {states.size}: not the same number of entries")
    if not len(small.home):
        problems.append("a sorted table without a small one: the kernel leaves nothing in struct module to be found")
    return problems


def _init_of(merged: Model, layout: Layout) -> Place | None:
    """The code of the glue that struct module names."""
    owner = merged.find(".gnu.linkonce.this_module")
    for at in merged.place[merged.rows(owner)].tolist() if owner is not None else ():
        place = merged.refers(owner, at) if owner is not None else None
        if place is not None and layout.in_glue(np.array(place[:1]), np.array(place[1:]))[0]:
            return place
    return None


def _settle(merged: Model, layout: Layout, small: Unwind, entry: Place) -> tuple[Unwind, list[str]]:
    table, problems, code = None, [], code_of(merged, layout, entry)
    for load in LOADS:
        kernel = Kernel(merged, layout, small, code, load)
        kernel.run()
        problems += [f"{load.text}: {problem}" for problem in kernel.problems]
        if kernel.problems and table is None:
            break
        if kernel.problems or load.slot is None:
            continue
        address, state = kernel.read_table()
        problems += [f"{load.text}: {problem}" for problem in _order(address, state)]
        if table is None:
            table, more = kernel.decode(address, state)
            problems += [f"{load.text}: {problem}" for problem in (*more, *_counts(merged, table), *_own(table, small))]
        elif not _same(kernel.addresses_of(table), table.data, address, state):
            problems.append(f"{load.text}: other entries than with {LOADS[0].text}")
    return table or _EMPTY, problems


def _order(address: Ints, state: Ints) -> list[str]:
    """What __orc_find() needs: ascending, and at one address the terminator first, as orc_sort_cmp() has it."""
    real = state >> 32 != 0
    down = address[1:] < address[:-1]
    weak = (address[1:] == address[:-1]) & real[:-1] & ~real[1:]
    problems = []
    if down.any():
        problems.append(f"{int(down.sum())} entries not in order, the first is {int(np.argmax(down)) + 1}")
    if weak.any():
        problems.append(f"{int(weak.sum())} terminators behind a real entry, the first is {int(np.argmax(weak)) + 1}")
    return problems


def _counts(merged: Model, table: Unwind) -> list[str]:
    """The gap holds as many zero entries as there are entries of init code, and nothing is left out behind it."""
    ips, states = (merged.find(name) for name in SORTED_UNWIND)
    assert ips is not None and states is not None
    init = np.array([in_init_memory(merged, s.name) for s in merged.sections])
    late = int(init[table.home].sum())
    problems = []
    if ips.size // 4 != len(table.home) + late:
        problems.append(f"room for {ips.size // 4} entries, used by {len(table.home)}, {late} of them of init code")
    if merged.content(ips)[: 4 * late].any() or merged.content(states)[: 6 * late].any():
        problems.append(f"the first {late} entries, the gap, are not all zeros")
    return problems


def _own(table: Unwind, small: Unwind) -> list[str]:
    """What the kernel knew of the glue before must be in the table too."""
    rows = np.isin(table.home, small.home) & np.isin(table.offset, small.offset)
    found = set(zip(table.home[rows].tolist(), table.offset[rows].tolist(), table.data[rows].tolist(), strict=True))
    lost = set(zip(small.home.tolist(), small.offset.tolist(), small.data.tolist(), strict=True)) - found
    return [f"{len(lost)} of the glue's own entries are not in the sorted table"] if lost else []


def _same(address: Ints, state: Ints, other: Ints, data: Ints) -> bool:
    first, second = np.lexsort((state, address)), np.lexsort((data, other))
    return np.array_equal(address[first], other[second]) and np.array_equal(state[first], data[second])
