"""Pass 8b, sort unwind: the one unwind table, sorted as the kernel would sort it.

Needs: the entries (unwind.py), the layout, the contents. Guarantees: the order of orc_sort_cmp()
(arch/x86/kernel/unwind_orc.c): by address, at one address an undefined entry first; each address as the distance from
the start of its output section, which the glue turns into one from the entry.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megamod.prelink.arch.interface import ORC_IP, ORC_STATE, SORTED_IP, SORTED_STATE
from megamod.prelink.elf import Array
from megamod.prelink.layout import Layout
from megamod.prelink.merge import Tables
from megamod.prelink.unwind import STATE, Entries, Unwind, addresses, is_init


def sort_unwind(contents: Sequence[Array], tables: Tables, places: Layout, unwind: Unwind | None) -> tuple[Array, ...]:
    """*contents* with the sorted table in them."""
    if unwind is None:
        return tuple(contents)
    glue = tables.members[-1]
    ips, states = glue.section(ORC_IP), glue.section(ORC_STATE)
    assert ips is not None and states is not None
    home, address = addresses(glue, ips)
    own = Entries(home=home, address=address, state=np.frombuffer(states.data, STATE))
    output, offset, state = [], [], []
    for position, found in enumerate((*unwind.entries, own)):
        if found is not None:
            homes = found.home + int(tables.section_base[position])
            output.append(tables.section_output[homes])
            offset.append(places.offset[homes] + found.address)
            state.append(found.state)
    all_output, all_offset, all_state = np.concatenate(output), np.concatenate(offset), np.concatenate(state)
    init = np.array([is_init(each.name) for each in tables.outputs], bool)[all_output]
    order = np.lexsort((all_state["flags"] != 0, all_offset, all_output, init))
    gap = int(init.sum())
    table = {
        SORTED_IP: np.concatenate([np.zeros(gap, "<u4"), all_offset[order].astype("<u4")]),
        SORTED_STATE: np.concatenate([np.zeros(gap, STATE), all_state[order]]),
    }
    filled = []
    for content, into in zip(contents, tables.outputs, strict=True):
        filled.append(np.frombuffer(table[into.name].tobytes(), np.uint8) if into.name in table else content)
        assert len(filled[-1]) == len(content)
    return tuple(filled)
