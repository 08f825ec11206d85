"""Whether megamod's own loader reaches the root of a machine, or a generator's image must."""

from __future__ import annotations

from megamod.machine.machine import Machine
from megamod.machine.root_devices import RootStack, root_stacks

# What the kernel or a program in the image makes of a name, and the loader does not (loader/README.md, "The root").
_REFUSED = ("/dev/nfs", "/dev/cifs", "/dev/ram", "ZFS=", "zfs:", "nfs:", "iscsi:", "nbd:", "live:", "/dev/mapper/")


def why_not_own(machine: Machine, command_line: str) -> str:
    """Why the loader cannot mount the root of *machine* as *command_line* names it; "" if it can."""
    for stack in root_stacks(machine):
        if why := _why_not(stack):
            return why
    named = [word.removeprefix("root=") for word in command_line.split() if word.startswith("root=")]
    if named and named[-1].startswith(_REFUSED):
        return f"root={named[-1]} is made by a program"
    return ""


def _why_not(stack: RootStack) -> str:
    if stack.assembled:
        return f"{stack.text}: a program must open that (cryptsetup, lvm, mdadm)"
    if stack.network:
        return f"{stack.text}: the network must be there first"
    if stack.mount.fstype == "zfs":
        return f"{stack.text}: a program must import the pool"
    return ""
