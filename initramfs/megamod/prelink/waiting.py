"""Ranks by what waits: in an initcall level first the hosts whose devices appear by themselves, last what computes.

A disk takes its time to spin up and to answer, a USB port to be debounced, whatever the processor does meanwhile; so
the sooner a host's init has run, the less of that time the boot stands still. And a library that tries out its
algorithms by the clock (raid6_pq, xor) makes nobody wait but those that import from it.

Both are known by what a module imports, on any kernel and by no module's name. A host has an alias by which a bus finds
its hardware, and calls one of the functions that register a host, itself or through modules that have no such alias
(sdhci_pci through sdhci). A computation exports, has no alias, reads a clock, and neither registers nor creates
anything, so all that can be seen of its init is what it exports: it may run at any time before its first user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from megamod.modules.levels import LAST, Rank, inherited_ranks
from megamod.prelink.member import Member
from megamod.prelink.resolve import Resolution

# The functions that make a host known to its subsystem, 5.10 to 7.2: drivers/ata/libata-core.c, drivers/scsi/hosts.c,
# drivers/nvme/host/core.c, drivers/mmc/core/host.c, drivers/usb/core/{hcd,hcd-pci}.c, block/genhd.c. A module that
# brings disks of its own is a host if a bus finds it: what is made by hand (loop, zram) has no alias of one.
_HOSTS = frozenset(
    {
        *("ata_host_activate", "ata_host_register", "ata_pci_sff_init_one", "ata_pci_bmdma_init_one"),
        *("scsi_add_host_with_dma", "nvme_init_ctrl", "mmc_add_host", "usb_add_hcd", "usb_hcd_pci_probe"),
        # What brings the bus that such a host is on: virtio_pci, vmd.
        *("register_virtio_device", "pci_create_root_bus"),
    }
)
_DISKS = frozenset({"device_add_disk", "add_disk"})
# Buses whose devices need nobody else. What is found by a device tree or by ACPI may wait for clocks, regulators and
# pins of other drivers: there the order of the link stays, or hosts would be put off, and come in another order.
_BUSES = ("pci:", "virtio:", "xen:", "vmbus:", "vio:", "pcmcia:", "eisa:")
_CLOCKS = frozenset({"jiffies", "jiffies_64", "ktime_get", "ktime_get_raw", "sched_clock", "get_cycles"})
# A function by which an init shows itself outside of its own exports.
_SEEN = re.compile(r"register|create|_add|_alloc_|insert|queue|netlink|subsys|attach|notifier|kobject|sysfs|proc_")

_FIRST, _USUAL, _LAST = -1, 0, 1
_TIER = 1 << 40  # above every place, SYNC's too (modules/levels.py)


def waiting_ranks(
    members: Sequence[Member],
    resolution: Resolution,
    ranks: Mapping[str, Rank],
    after: Mapping[str, Sequence[str]],
) -> dict[str, Rank]:
    """*ranks* with hosts before and computations behind their neighbours of the same level; hosts keep their order
    among each other, so disks keep their names. after: wishes, by which a host's needs come early too."""
    hosts, computing = _hosts(members, resolution), _computing(members, resolution)
    if not hosts and not computing:
        return dict(ranks)
    own: dict[str, Rank] = {}
    for number, member in enumerate(members):
        level, place = ranks.get(member.name, (6, number))
        tier = _FIRST if number in hosts else _LAST if number in computing else _USUAL
        if number in computing and _is_computation(member):
            level = LAST + 1  # its users' level counts
        own[member.name] = (level, tier * _TIER + place)
    needs = {
        member.name: [*(members[n].name for n in needed), *after.get(member.name, ())]
        for member, needed in zip(members, resolution.depends, strict=True)
    }
    return inherited_ranks(own, needs)


def _hosts(members: Sequence[Member], resolution: Resolution) -> frozenset[int]:
    """The members that bring hosts."""
    reaches: dict[int, bool] = {}
    for start in range(len(members)):
        path = [start]
        while path:
            number = path[-1]
            through = [n for n in sorted(resolution.depends[number]) if not _has_bus(members[n])]
            missing = [n for n in through if n not in reaches and n not in path]
            if missing:
                path.append(missing[0])
                continue
            called = not _HOSTS.isdisjoint(members[number].imports.values())
            reaches[number] = called or any(reaches.get(n, False) for n in through)
            path.pop()
    return frozenset(
        number
        for number, member in enumerate(members)
        if _has_bus(member) and (reaches[number] or not _DISKS.isdisjoint(member.imports.values()))
    )


def _has_bus(member: Member) -> bool:
    return any(alias.startswith(_BUSES) for alias in member.infos("alias"))


def _computing(members: Sequence[Member], resolution: Resolution) -> frozenset[int]:
    """The members that compute, and those that need one of them: they would only pull it forward."""
    found = {number for number, member in enumerate(members) if _is_computation(member)}
    users: list[list[int]] = [[] for _ in members]
    for number, needed in enumerate(resolution.depends):
        for other in needed:
            users[other].append(number)
    queue = sorted(found)
    for number in queue:
        queue += [user for user in users[number] if user not in found]
        found.update(users[number])
    return frozenset(found)


def _is_computation(member: Member) -> bool:
    """Whether its init can only compute, by the clock, what it exports."""
    imports = member.imports.values()
    return (
        member.init is not None
        and bool(member.exports)
        and not member.infos("alias")
        and not _CLOCKS.isdisjoint(imports)
        and not any(_SEEN.search(name) for name in imports)
    )
