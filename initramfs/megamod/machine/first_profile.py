"""A first profile for a machine or a board: YAML with a comment on each line, which `megamod build` takes as it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.text import did_you_mean
from megamod.machine.detect import detect
from megamod.machine.detected_yaml import detected_profile
from megamod.machine.device_tree import STORAGE, DeviceTree, read_device_tree
from megamod.machine.dtb_modules import match_device_tree
from megamod.machine.machine import Machine
from megamod.modules.tree import ModuleTree

_ROOTS = ("ext4", "btrfs", "xfs", "f2fs", "squashfs", "erofs")
# The drivers of disks that a bus has behind it: on virtio's two, and on a board's PCI.
_VIRTIO_MMIO = ("virtio_mmio", "virtio_blk")
_VIRTIO_PCI = ("virtio_pci", "nvme")
_PCI = ("nvme", "ahci")
_UCODE = ("lib/firmware/intel-ucode", "lib/firmware/amd-ucode", "usr/lib/firmware/intel-ucode")
# Where packages have the device trees of a kernel, below the root of its tree: Debian, Fedora (the modules' own folder
# too), Arch Linux ARM, Alpine.
_TREES = ("usr/lib/linux-image-{release}", "boot/dtb-{release}", "boot/dtbs/{release}", "boot/dtbs", "boot/dtb")


def machine_profile(machine: Machine, tree: ModuleTree, *, name: str) -> str:
    """What `megamod detect` finds, as a profile of its own, with the processor's microcode where it is installed."""
    text = detected_profile(detect(machine, tree), tree, name=name)
    if "vendor_id" in machine.text("proc/cpuinfo") and any(machine.exists(folder) for folder in _UCODE):
        line = f"name: {name}\n"
        text = text.replace(
            line, f"{line}microcode: auto # what {_UCODE[0].rpartition('/')[0]} has for the processor\n", 1
        )
    return text


def find_board(text: str, tree: ModuleTree) -> Path:
    """The device tree that *text* is, or names among those of the kernel of *tree*; raises MegamodError."""
    path = Path(text)
    if path.is_file():
        return path
    known = {found.stem: found for folder in _device_tree_folders(tree) for found in sorted(folder.rglob("*.dtb"))}
    name = path.name.removesuffix(".dtb")
    if name in known:
        return known[name]
    hint = did_you_mean(name, known)
    if hint is None:
        hint = "give the board's .dtb" if not known else f"{len(known)} are there, such as {min(known)}; or give a .dtb"
    raise MegamodError(f"{text}: neither a file nor a device tree of {tree.release}", hint=hint)


def _device_tree_folders(tree: ModuleTree) -> Iterator[Path]:
    yield from (folder for name in ("dtb", "dtbs") if (folder := tree.folder / name).is_dir())
    for parent in tree.folder.resolve().parents[2:4]:
        for name in _TREES:
            folder = parent / name.format(release=tree.release)
            if folder.is_dir():
                yield folder


def board_profile(dtb: Path, tree: ModuleTree, *, name: str, beside: Path) -> str:
    """A profile for the board of *dtb*, which it names as seen from the folder *beside*."""
    devices = read_device_tree(dtb)
    compatible = devices.nodes["/"].compatible
    file = os.path.relpath(dtb, beside)
    if file.startswith(".."):
        file = str(dtb.absolute())
    storage, _built_in = _storage(dtb, tree)
    root = next((module for module in _ROOTS if any(tree.resolve(module))), "ext4")
    unseen = list(_unseen(devices, dtb, file, tree))
    others = match_device_tree(str(dtb), Path(), tree)[0].keys() - storage
    lines = [
        f"# {', '.join(compatible) or dtb.name}, as its device tree says, for {tree.release}.",
        f"name: {name}",
        f'board: "{file}" # whose firmware, of drivers that have one a board',
        "critical: # before user space: the way to the root",
        "  modules:",
        *([f'    - "@dtb:{file}#{STORAGE}" # the board\'s storage: {_listed(storage)}'] if storage else []),
        *([] if storage or unseen else ["    # all that the device tree says of storage is built into the kernel"]),
        *(f"    - {entry} # {why}" for entry, why in unseen),
        f"    - {root} # the root's file system: name yours",
    ]
    if others:
        lines += [
            "deferred:",
            "  - name: board",
            "    after: userspace # or {path: /run/…}, {delay: 2s}, {idle: 500ms}",
            f'    modules: ["@dtb:{file}"] # all other devices of the board: {_listed(others)}',
        ]
    lines += ["root: {from: cmdline} # root= names it; or {exec: /usr/bin/PROGRAM}"]
    return "".join(f"{line}\n" for line in lines)


def _unseen(devices: DeviceTree, dtb: Path, file: str, tree: ModuleTree) -> Iterator[tuple[str, str]]:
    """(entry, reason) of disks that no device tree names, as they are found behind a bus when the kernel runs."""
    virtual = next((node for node in devices.devices() if "virtio,mmio" in node.compatible), None)
    host = next((node for node in devices.devices() if node.device_type == "pci"), None)
    entries = []
    if virtual is not None:
        entries += [(name, "a virtual machine's disks, which its device tree does not name") for name in _VIRTIO_MMIO]
    if host is not None:
        why = f"disks behind {host.path}, which the device tree does not name"
        try:
            drivers, _built_in = match_device_tree(f"{dtb}#{host.path}", Path(), tree)
        except MegamodError:
            drivers = {}
        if drivers:
            entries.append((f'"@dtb:{file}#{host.path}"', f"the way to disks on PCI: {_listed(drivers)}"))
        entries += [(name, why) for name in (_VIRTIO_PCI if virtual is not None else _PCI)]
    for name, why in entries:
        # What is built in needs no line.
        if name.startswith('"') or tree.resolve(name)[0]:
            yield name, why


def _storage(dtb: Path, tree: ModuleTree) -> tuple[set[str], frozenset[str]]:
    try:
        modules, built_in = match_device_tree(f"{dtb}#{STORAGE}", Path(), tree)
    except MegamodError:
        # No storage in the tree: what is behind PCI or USB is found when the kernel runs.
        return set(), frozenset()
    return set(modules), built_in


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - 6} more" if len(found) > 6 else ""
    return ", ".join(found[:6]) + more
