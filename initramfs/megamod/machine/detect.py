"""Machine and ModuleTree → what this machine needs: the modules on the path to its root and its console, and the rest.

Critical is what the root file system, the devices under it, the console and the keyboard need. Deferred is what else is
loaded or asked for by a modalias, unless modprobe.d has it blacklisted. What is built into the tree's kernel is left
out. The tree may be of another kernel than the one that the machine ran when it was looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from megamod.common.errors import MegamodError
from megamod.loader.limits import WAY_OUT, limits_of_layers
from megamod.machine.device_path import ModuleReason, device_modules, label, modules_on_path
from megamod.machine.machine import Machine
from megamod.machine.root_devices import RootStack, root_stacks
from megamod.modules.modprobe_d import HOST_FOLDERS, read_config
from megamod.modules.tree import ModuleTree, Softdep

_NO_ROOT = ("rootfs", "tmpfs", "ramfs", "devtmpfs")
_FRAMEBUFFERS = frozenset(["simpledrm", "efifb", "vesafb", "simplefb"])
# include/uapi/linux/input-event-codes.h: Q, Enter and Space; power buttons and headsets have keys too, but not these.
_TYPING = (16, 28, 57)
# dm_crypt and LUKS ask for ciphers by name when a device is opened (crypto_alg_mod_lookup, crypto/api.c, 6.1): there is
# no modprobe to answer in an image. cryptsetup opens key slots through AF_ALG.
_CIPHERS = ("crypto-xts", "crypto-ecb", "crypto-cbc", "crypto-essiv", "crypto-aes", "crypto-sha256", "algif_skcipher")

GROUPS: Mapping[str, tuple[str, ...]] = {
    "display": ("kernel/drivers/gpu/", "kernel/drivers/video/"),
    "network": ("kernel/drivers/net/", "kernel/net/"),
    "sound": ("kernel/sound/",),
    "rest": ("",),
}
"""The deferred stages by the folders of their modules; the first that fits counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What a machine needs from the modules of one kernel; each module once.

    root: the names of those in *critical* that are on the path to the root; the others are for console and keyboard.
    """

    stacks: tuple[RootStack, ...]
    critical: tuple[ModuleReason, ...]
    root: frozenset[str]
    deferred: tuple[ModuleReason, ...]
    notes: tuple[str, ...]

    def by_stage(self) -> tuple[dict[str, str], dict[str, str]]:
        """Module → reason: those of a critical stage, and all others."""
        return {f.name: f.why for f in self.critical}, {f.name: f.why for f in self.deferred}


def detect(machine: Machine, tree: ModuleTree) -> Detection:
    """Look at *machine*; raises MegamodError where what its root needs cannot be told."""
    stacks = tuple(root_stacks(machine))
    _check(machine, stacks)
    notes: list[str] = []
    root = list(_once(_root(machine, tree, stacks, notes), ()))
    critical = list(_once((*root, *_console(machine, tree), *_keyboards(machine, tree)), ()))
    known = closure(tree, (found.name for found in critical))
    deferred = sorted(_once(_others(machine, tree, notes), known), key=lambda found: found.name)
    return Detection(
        stacks=stacks,
        critical=tuple(critical),
        root=frozenset(found.name for found in root),
        deferred=tuple(deferred),
        notes=tuple(notes),
    )


def _check(machine: Machine, stacks: Iterable[RootStack]) -> None:
    root = next((stack for stack in stacks if stack.mount.point == "/"), None)
    hint = "run it on the machine itself, not in a container, or name the modules"
    if root is None:
        raise MegamodError(f"{machine.root / 'proc/self/mountinfo'}: it has no root file system", hint=hint)
    if root.mount.fstype in _NO_ROOT or not (root.layers or root.network or root.shared):
        raise MegamodError(f"/ is {root.mount.fstype} on {root.mount.source}: no device below it is known", hint=hint)


def _once(found: Iterable[ModuleReason], known: Iterable[str]) -> Iterator[ModuleReason]:
    seen = set(known)
    for one in found:
        if one.name not in seen:
            seen.add(one.name)
            yield one


def closure(tree: ModuleTree, names: Iterable[str]) -> set[str]:
    """*names* and all that comes along with them, by hard and soft dependencies."""
    queue = list(dict.fromkeys(names))
    seen = set(queue)
    for name in queue:
        softdep = tree.softdeps.get(name, Softdep())
        soft = (need for word in (*softdep.pre, *softdep.post) for need in tree.resolve(word)[0])
        fresh = [need for need in dict.fromkeys((*tree.modules[name].depends, *soft)) if need not in seen]
        seen.update(fresh)
        queue += fresh
    return seen


def _root(machine: Machine, tree: ModuleTree, stacks: Iterable[RootStack], notes: list[str]) -> Iterator[ModuleReason]:
    for stack in stacks:
        if stack.needs:
            # Only the first is sure to exist: what else goes with it depends on the kernel.
            yield from _resolved(tree, stack.needs[:1], f"the file system of {stack.mount.point}", must=True)
            yield from _resolved(tree, stack.needs[1:], f"the file system of {stack.mount.point}")
        for layer in stack.layers:
            why = f"{layer.device}: {layer.what}"
            yield from _resolved(tree, layer.needs[:1], why, must=True)
            # What LVM's hidden volumes need is a guess by their names; ciphers and RAID levels are not.
            sure = any(need == "dm_crypt" or need.startswith("md-") for need in layer.needs[1:2])
            yield from _resolved(tree, layer.needs[1:2], why, must=sure)
            yield from _resolved(tree, layer.needs[2:], why)
            if layer.is_disk:
                yield from modules_on_path(machine, tree, layer.path, f"disk {layer.device}")
        if stack.encrypted:
            yield from _ciphers(machine, tree)
        if stack.network or any("/session" in layer.path for layer in stack.layers):
            # An iSCSI disk is below sys/devices/platform/hostN/sessionN.
            yield from _network(machine, tree)
        if stack.shared:
            for name in machine.entries("sys/bus/virtio/devices"):
                yield from modules_on_path(
                    machine, tree, machine.real_path(f"sys/bus/virtio/devices/{name}"), stack.mount.fstype
                )
    layers = [layer.what for stack in stacks for layer in stack.layers]
    network = ["the network"] if any(stack.network for stack in stacks) else []
    if limits := limits_of_layers([*network, *layers]):
        notes.append(
            f"this profile alone does not boot: {'; '.join(limits)}. {WAY_OUT[0].upper()}{WAY_OUT[1:]}, or let "
            "`root: {chain: /init}` go on with a generator's init"
        )


def _resolved(tree: ModuleTree, words: Iterable[str], why: str, *, must: bool = False) -> Iterator[ModuleReason]:
    """The modules that *words*, names or aliases, stand for; with *must* a word that stands for nothing is an error."""
    for word in words:
        found, built_in = tree.resolve(word)
        if not found and not built_in:
            found, built_in = tree.resolve(f"fs-{word}")
        if must and not found and not built_in:
            raise MegamodError(f"{tree.folder}: no module {word}, and {why} needs it", hint="is this the right kernel?")
        yield from (ModuleReason(name=name, why=why) for name in found)


def _ciphers(machine: Machine, tree: ModuleTree) -> Iterator[ModuleReason]:
    """The ciphers that encrypted devices use now, and those that LUKS uses by default."""
    for block in machine.text("proc/crypto").split("\n\n"):
        fields = dict(re.findall(r"^(\w+)\s*: (.*)$", block, re.MULTILINE))
        name, module = fields.get("name", ""), fields.get("module", "")
        # An algorithm that is merely there has one reference. Checksums belong to file systems.
        if int(fields.get("refcnt", "1")) > 1 and module in tree.modules and not name.startswith("crc"):
            yield ModuleReason(name=module, why=f"{name} is in use")
    modalias = machine.text("sys/devices/system/cpu/modalias")
    bound = {module for _start, pattern, module in tree.aliases.wild if pattern.startswith("cpu:")}
    fitting = set(tree.aliases.providers(modalias)) if modalias else set()
    for word in _CIPHERS:
        for found in _resolved(tree, [word], "LUKS asks for it by name"):
            # aesni_intel and its like say which processors have the instructions they use.
            if found.name not in bound or found.name in fitting:
                yield found


def _network(machine: Machine, tree: ModuleTree) -> Iterator[ModuleReason]:
    for name in machine.entries("sys/class/net"):
        path = machine.real_path(f"sys/class/net/{name}")
        if machine.exists(f"{path}/device") and machine.text(f"{path}/operstate") != "down":
            yield from modules_on_path(machine, tree, path, f"network card {name}, for the root")


def _console(machine: Machine, tree: ModuleTree) -> Iterator[ModuleReason]:
    for name in machine.text("sys/class/tty/console/active").split():
        path = machine.real_path(f"sys/class/tty/{name}")
        if path and not re.fullmatch(r"tty\d+", name):
            yield from modules_on_path(machine, tree, path, f"console {name}")
        elif not _FRAMEBUFFERS & tree.builtin:
            # With one of these built in a screen shows text from the start, and its own driver can wait.
            for card in (n for n in machine.entries("sys/class/drm") if re.fullmatch(r"card\d+", n)):
                path = machine.real_path(f"sys/class/drm/{card}")
                yield from modules_on_path(machine, tree, path, f"console {name} on {card}")


def _keyboards(machine: Machine, tree: ModuleTree) -> Iterator[ModuleReason]:
    for name in machine.entries("sys/class/input"):
        path = machine.real_path(f"sys/class/input/{name}")
        if name.startswith("input") and _types(machine.text(f"{path}/capabilities/key")):
            # The input device itself would ask for evdev, which no console needs.
            yield from modules_on_path(machine, tree, machine.real_path(f"{path}/device"), "keyboard")


def _types(bitmap: str) -> bool:
    """Whether the bitmap of keys, words of a long from the highest, is that of a keyboard."""
    words = bitmap.split()
    if not words or not all(re.fullmatch(r"[0-9a-f]+", word) for word in words):
        return False
    lowest = int(words[-1], 16)
    # The three codes are below 64; a 32-bit kernel writes words of 32 bits.
    if len(words) > 1 and all(len(word) <= 8 for word in words):
        lowest |= int(words[-2], 16) << 32
    return all(lowest >> code & 1 for code in _TYPING)


def _others(machine: Machine, tree: ModuleTree, notes: list[str]) -> Iterator[ModuleReason]:
    """What is loaded, then what modaliases ask for."""
    loaded = machine.loaded_modules()
    for name in loaded:
        if name in tree.modules:
            yield ModuleReason(name=name, why="loaded now")
    merged = [name for name in loaded if name.startswith("megamod_")]
    if merged:
        notes.append(f"{', '.join(merged)} hide their members, so only what modaliases ask for is known of those")
    config = read_config([machine.root / folder for folder in HOST_FOLDERS])
    notes += config.notes
    for folder, _modalias in machine.modaliases():
        for name in device_modules(machine, tree, folder):
            if name not in config.blacklist and config.install(name) is None:
                yield ModuleReason(name=name, why=f"for {label(machine, folder)}")


def group_of(tree: ModuleTree, name: str) -> str:
    """The deferred stage of the module *name*."""
    relpath = tree.modules[name].relpath
    return next(group for group, folders in GROUPS.items() if relpath.startswith(folders))
