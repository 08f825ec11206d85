"""Whether megamod's own loader reaches the root of a machine, or a generator's image must."""

from __future__ import annotations

from megamod.loader.limits import limits_of_layers, limits_of_words, refusal_of_device
from megamod.machine.machine import Machine
from megamod.machine.root_devices import RootStack, root_stacks


def why_not_own(machine: Machine, command_line: str) -> str:
    """Why the loader cannot mount the root of *machine* as *command_line* names it; "" if it can."""
    for stack in root_stacks(machine):
        if reason := _why_not(stack):
            return f"{stack.text}: {reason}"
    named = [word.removeprefix("root=") for word in command_line.split() if word.startswith("root=")]
    if named and (why := refusal_of_device(named[-1])):
        return f"root={named[-1]}: {why}"
    return next((f"{word}: {why}" for word, why in limits_of_words(command_line)), "")


def _why_not(stack: RootStack) -> str:
    if stack.network:
        return "the network must be up first"
    if stack.mount.fstype == "zfs":
        return "a program must import the pool"
    return next(iter(limits_of_layers(layer.what for layer in stack.layers)), "")
