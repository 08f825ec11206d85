"""`@dtb:FILE#NODES` → the modules that drive the nodes of a device tree, each with the node that asks for it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.machine.device_tree import STORAGE, DeviceTree, Node, read_device_tree
from megamod.modules.aliases import normalise_alias
from megamod.modules.tree import ModuleTree

# What is behind a controller is found by its bus when the kernel runs; a tree seldom names it.
_MEDIA = (
    (re.compile(r"(e?mmc|sdmmc|dwmmc|sdhci|sd)\d*"), "mmc_block"),
    (re.compile(r"(sata|ahci|ide|ufs|ufshci?)\d*"), "sd_mod"),
)


def match_device_tree(pattern: str, base: Path, tree: ModuleTree) -> tuple[dict[str, str], frozenset[str]]:
    """(module → why, what is built in) of FILE#NODES, FILE relative to *base*; raises MegamodError."""
    file, _hash, what = pattern.partition("#")
    path = base / file
    devices = read_device_tree(path)
    try:
        chosen = _chosen(devices, what)
    except MegamodError as error:
        raise MegamodError(f"{path}: {error.message}", hint=error.hint) from None
    modules: dict[str, str] = {}
    builtin: set[str] = set()
    for place, why in chosen.items():
        for alias in _aliases(devices, devices.nodes[place]):
            found, inside = tree.aliases.providers(alias), tree.builtin_aliases.providers(alias)
            for name in found:
                modules.setdefault(name, f"device tree: {why}")
            builtin.update(inside)
    if what == STORAGE:
        for name, why in _media(devices, chosen):
            found, inside = tree.resolve(name)
            modules |= {module: f"device tree: {why}" for module in found if module not in modules}
            builtin.update(inside)
    for name, why in _cells(modules, tree):
        modules.setdefault(name, f"device tree: {why}")
    return modules, frozenset(builtin)


def _chosen(devices: DeviceTree, what: str) -> dict[str, str]:
    """Path → why: all devices, or those that *what* names with all that they need."""
    if not what:
        return {node.path: node.path for node in devices.devices()}
    starts = devices.storage() if what == STORAGE else [devices.find(what)]
    return devices.with_needs(starts)


def _aliases(devices: DeviceTree, node: Node) -> Iterator[str]:
    """What udev would be told. SPI devices have no `of:` modalias (spi_uevent(), drivers/spi/spi.c, 6.12), and I2C
    drivers need not have one; both take the part after the vendor (of_alias_from_compatible())."""
    if not node.compatible:
        return
    yield node.modalias
    bus = devices.nodes[node.parent].name if node.parent in devices.nodes else ""
    kind = next((kind for kind in ("i2c", "spi") if kind in bus), None)
    if kind is not None:
        yield f"{kind}:{node.compatible[0].rpartition(',')[2]}"


def _media(devices: DeviceTree, places: Iterable[str]) -> Iterator[tuple[str, str]]:
    for place in places:
        for names, module in _MEDIA:
            if any(map(names.fullmatch, devices.names_of(devices.nodes[place]))):
                yield module, f"what is behind {place}"


def _cells(modules: Iterable[str], tree: ModuleTree) -> list[tuple[str, str]]:
    """The drivers of the functions of multi-function devices (regulators of a power chip): its module makes platform
    devices by names that stand nowhere but among its strings (struct mfd_cell)."""
    names = {alias.removeprefix("platform:") for alias in tree.aliases.exact if alias.startswith("platform:")}
    whole = {need for name in modules for need in (name, *tree.modules[name].depends)}
    found = []
    for chip in sorted(name for name in whole if "/mfd/" in tree.modules[name].relpath):
        for cell in sorted(names & _strings(tree.modules[chip].path)):
            found += [(name, f"function of {chip}") for name in tree.aliases.exact[f"platform:{cell}"]]
    return found


def _strings(path: Path) -> set[str]:
    """The read-only strings of a module file, in the spelling of alias tables; none if it cannot be read."""
    from elftools.common.exceptions import ELFError  # for multi-function chips alone
    from elftools.elf.elffile import ELFFile

    try:
        file = ELFFile(io.BytesIO(read_module_bytes(path)))
        sections = [s.data() for s in file.iter_sections() if s.name.startswith(".rodata")]
    except (MegamodError, ELFError):
        return set()
    texts = (text for section in sections for text in section.split(b"\0") if 2 < len(text) < 64 and text.isascii())
    return {normalise_alias(text.decode()) for text in texts}
