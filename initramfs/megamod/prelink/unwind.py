"""Pass 3b, unwind: the entries of the members' ORC tables, which become one table that is sorted already.

The kernel sorts the table of each module by heapsort as it loads it (arch/x86/kernel/unwind_orc.c
unwind_module_init(), called by module_finalize() for the sections .orc_unwind and .orc_unwind_ip): two thirds of the
time that a large megamodule took, beside a relocation for each entry, a third of all. So those two sections hold the
glue's own few entries only. All entries lie, sorted, in two sections that the kernel does not know, as distances from
the start of their code's section; the glue's init turns them into distances from themselves and puts this table in the
place of the small one, before it calls any member (x86_64.py).

Needs: the members in init order. Guarantees: every entry lies in code of its member; the groups of the table are in
the order of their code. What that rests on: the kernel lays code out in the order of the sections in the file, all that
is not init in one piece of memory, all that is in another (kernel/module/main.c layout_sections(), 5.10 to 7.2). Which
of the two lies lower is seen at load: there is a gap before the table, so that the entries of init code can be moved
before the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from megamod.common import choices
from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.arch.encoder import UnwindTable
from megamod.prelink.arch.interface import ORC_IP, ORC_STATE
from megamod.prelink.elf import Array, Section
from megamod.prelink.member import Member
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.prune_unwind import entries_to_keep
from megamod.prelink.section_rules import output_position, place

IP_SIZE = 4
_GLUE_CODE = ".init.text"
# struct orc_entry (arch/x86/include/asm/orc_types.h): the first field is the stack offset in all versions since 4.14,
# the last one holds flags; an undefined entry has none of them set.
STATE = np.dtype([("sp_offset", "<i2"), ("bp_offset", "<i2"), ("flags", "<u2")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """The entries of one module that stay: section (its own number) and offset of each address, and the state."""

    home: Array
    address: Array
    state: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwind:
    """What the glue needs to know. entries: by member. usual: what follows the stack offset at a function's start.

    anchors: per group of the table, the (member, section) that starts its output section. slots: entries of the members
    and gap, the glue's own not counted.
    """

    entries: tuple[Entries | None, ...]
    usual: bytes
    table: UnwindTable
    anchors: Mapping[str, tuple[int, int]]
    slots: int

    def with_own(self, output: str) -> Unwind:
        """The same with a function of the glue in that output section, too."""
        core = self.table.core
        if output not in [name for name, _ in core]:
            core = sorted((*core, (output, 0)), key=lambda group: output_position(group[0]))
        return replace(self, table=replace(self.table, core=core, own=(*self.table.own, output)))


def gather(members: Sequence[Member], options: PrelinkOptions) -> Unwind | None:
    """The members' entries; None if there are none, or if the kernel would not call the glue, which has to settle them.

    Raises MegamodError for an entry that points to no place in code.
    """
    if options.unwind == choices.Unwind.DROP or ORC_IP not in members[0].architecture.tables:
        return None
    if all(member.init is None for member in members):
        return None
    anchors: dict[str, tuple[int, int]] = {}
    entries, counts = [], {_GLUE_CODE: 0}
    for position, member in enumerate(members):
        outputs = {
            section.index: output
            for section in member.sections
            if section.sh_flags & elf.SHF_EXECINSTR
            and (output := place(section, options, member.architecture, own_keys=False).output)
        }
        for index, output in outputs.items():
            anchors.setdefault(output, (position, index))
        found = _entries_of(member, options, outputs)
        entries.append(found)
        for index, count in zip(*np.unique(found.home, return_counts=True), strict=True) if found else ():
            counts[outputs[int(index)]] = counts.get(outputs[int(index)], 0) + int(count)
    usual = _usual_rest([found for found in entries if found is not None])
    if usual is None:
        return None
    names = sorted(counts, key=output_position)
    core = [(name, counts[name]) for name in names if not is_init(name)]
    init = [(name, counts[name]) for name in names if is_init(name)]
    struct_module = members[0].sections[members[0].this_module]
    return Unwind(
        entries=tuple(entries),
        usual=usual,
        table=UnwindTable(
            core=core,
            init=init,
            own=(_GLUE_CODE,),
            module_size=struct_module.size,
        ),
        anchors={name: anchors[name] for name in names if name in anchors},
        slots=sum(count for _, count in core) + 2 * sum(count for _, count in init),
    )


def is_init(output: str) -> bool:
    """kernel/module/main.c module_init_section()"""
    return output.startswith(".init")


def _entries_of(member: Member, options: PrelinkOptions, outputs: Mapping[int, str]) -> Entries | None:
    ips, states = member.section(ORC_IP), member.section(ORC_STATE)
    if ips is None or states is None or not ips.size:
        return None
    if ips.size % IP_SIZE or states.size * IP_SIZE != ips.size * STATE.itemsize:
        raise MegamodError(f"{member.file}: {ORC_STATE}: {states.size} bytes for {ips.size} bytes of addresses")
    home, address = addresses(member, ips)
    state = np.frombuffer(states.data, STATE)
    sizes = np.array([section.size if section.index in outputs else -1 for section in member.sections], np.int64)
    if (sizes[home] < 0).any():
        raise MegamodError(f"{member.file}: {ORC_IP}: entry {int(np.argmax(sizes[home] < 0))} points to no code")
    # What lies outside says nothing of its section, and in the table it would stand among another's.
    kept = (address >= 0) & (address <= sizes[home])
    if "mod_unload" not in (member.info("vermagic") or "").split():
        # Such a kernel never runs exit code: it leaves it out, or puts it with init's (module_exit_section()).
        kept &= ~np.isin(home, [index for index, output in outputs.items() if output.startswith(".exit")])
    home, address, state = home[kept], address[kept], state[kept]
    if options.unwind == choices.Unwind.COMPACT:
        kept = entries_to_keep(member, home, address, state)
        home, address, state = home[kept], address[kept], state[kept]
    return Entries(home=home, address=address, state=state)


def addresses(member: Member, ips: Section) -> tuple[Array, Array]:
    """Section and offset that each .orc_unwind_ip entry points to."""
    count = ips.size // IP_SIZE
    home, address = np.full(count, -1, np.int64), np.zeros(count, np.int64)
    for target, rows in member.relas:
        if target != ips.index:
            continue
        entry = rows["r_offset"].astype(np.int64) // IP_SIZE
        symbols = member.symbols[rows["r_sym"]]
        home[entry] = symbols["st_shndx"]
        address[entry] = symbols["st_value"].astype(np.int64) + rows["r_addend"]
    nowhere = (home <= 0) | (home >= len(member.sections))
    if nowhere.any():
        raise MegamodError(f"{member.file}: {ORC_IP}: entry {int(np.argmax(nowhere))} points nowhere")
    return home, address


def _usual_rest(entries: Sequence[Entries]) -> bytes | None:
    """What stands beside the stack offset in the commonest entry at a function's start, whatever this kernel's layout
    of it is; None without any."""
    starts = [found.state[found.state["sp_offset"] == 8] for found in entries]
    rest = np.concatenate(
        [np.empty(0, "<u4"), *(each.view("<u2").reshape(-1, 3)[:, 1:].copy().view("<u4")[:, 0] for each in starts)]
    )
    if not len(rest):
        return None
    values, counts = np.unique(rest, return_counts=True)
    return int(values[np.argmax(counts)]).to_bytes(4, "little")
