"""A flattened device tree (.dtb): its enabled nodes, and what a device of it needs before its driver can probe.

Enabled means that neither the node nor one above it has a `status` other than "okay" or "ok" (drivers/of/base.c,
__of_device_is_available(), 6.1). The properties through which a device names its suppliers are those of
of_supplier_bindings[] in drivers/of/property.c (6.12), except for `remote-endpoint`, which goes both ways, and with
`assigned-clocks` and `mmc-pwrseq`, which probe functions ask for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.flat_tree import MAGIC, DamagedTreeError, TreeNode, read_tree, texts_of, words_of
from megamod.common.text import did_you_mean, shorten

MAX_BYTES = 16 << 20
STORAGE = "storage"

_CELLS: Mapping[str, str | None] = {
    "assigned-clocks": "#clock-cells",
    "assigned-clock-parents": "#clock-cells",
    "clocks": "#clock-cells",
    "dmas": "#dma-cells",
    "hwlocks": "#hwlock-cells",
    "interconnects": "#interconnect-cells",
    "interrupts-extended": "#interrupt-cells",
    "io-channels": "#io-channel-cells",
    "iommus": "#iommu-cells",
    "mboxes": "#mbox-cells",
    "msi-parent": "#msi-cells",
    "nvmem-cells": "#nvmem-cell-cells",
    "phys": "#phy-cells",
    "power-domains": "#power-domain-cells",
    "pwms": "#pwm-cells",
    "resets": "#reset-cells",
    "backlight": None,
    "extcon": None,
    "leds": None,
    "mmc-pwrseq": None,
    "panel": None,
    "wakeup-parent": None,
}
"""Property that lists suppliers → the supplier's property that says how many words follow its phandle (None: none)."""

_STORAGE_NAMES = re.compile(
    r"(e?mmc|sdmmc|dwmmc|sdhci|sd|sata|ahci|ide|ufs|ufshci?|nand|nand-controller|flash|spi-flash|nor|disk|nvme)\d*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node: *name* without the unit address, *device_type* "" if there is none, *words* the properties that are
    lists of 32-bit numbers, *firmware* its `firmware-name`."""

    path: str
    name: str
    compatible: tuple[str, ...]
    device_type: str
    words: Mapping[str, tuple[int, ...]]
    firmware: tuple[str, ...] = ()

    @property
    def parent(self) -> str:
        """The path of the node above."""
        return self.path.rpartition("/")[0] or "/"

    @property
    def modalias(self) -> str:
        """What udev would be told of the device (of_modalias(), drivers/of/module.c, 6.12)."""
        kinds = "".join(f"C{text.replace(' ', '_')}" for text in self.compatible)
        return f"of:N{self.name}T{self.device_type or '(null)'}{kinds}"


@dataclass(frozen=True, kw_only=True)
class DeviceTree:
    """*nodes*: path → enabled node; *disabled* the paths of all others. *phandles* and *aliases* lead to paths, *below*
    from the path of a node to those of its enabled children."""

    nodes: Mapping[str, Node]
    disabled: frozenset[str]
    phandles: Mapping[int, str]
    aliases: Mapping[str, str]
    below: Mapping[str, tuple[str, ...]]

    def devices(self) -> list[Node]:
        """The nodes that become devices: enabled, with `compatible`, and not the board itself."""
        return [node for path, node in self.nodes.items() if node.compatible and path != "/"]

    def storage(self) -> list[Node]:
        """The devices whose names say that they are storage, or whose alias does (`mmc0`)."""
        return [node for node in self.devices() if any(map(_STORAGE_NAMES.fullmatch, self.names_of(node)))]

    def names_of(self, node: Node) -> list[str]:
        """The node's own name and its aliases."""
        return [node.name, *self._aliases_of.get(node.path, ())]

    @cached_property
    def _aliases_of(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for alias, path in self.aliases.items():
            found.setdefault(path, []).append(alias)
        return found

    def find(self, text: str) -> Node:
        """The enabled node with the path or alias *text*; raises MegamodError with the nearest ones."""
        path = text if text.startswith("/") else self.aliases.get(text, text)
        if path in self.nodes:
            return self.nodes[path]
        if path in self.disabled:
            raise MegamodError(f"the node {shorten(text)} is disabled in the device tree")
        hint = did_you_mean(text, [*self.nodes, *self.aliases])
        raise MegamodError(f"no node {shorten(text)} in the device tree", hint=hint)

    def with_needs(self, starts: Iterable[Node]) -> dict[str, str]:
        """Path → reason of *starts* and of every device that one of them needs, directly or not."""
        reasons = {node.path: node.path for node in starts}
        queue = list(reasons)
        for path in queue:
            for need, why in self._needs(self.nodes[path]):
                if need not in reasons:
                    reasons[need] = f"{need}, {why} {path}"
                    queue.append(need)
        return reasons

    def _needs(self, node: Node) -> Iterator[tuple[str, str]]:
        """(path, relation) of the devices above *node* and of its suppliers."""
        above = self._device_at(node.parent)
        if above is not None:
            yield above, "above"
        for path in self.below.get(node.path, ()):
            # Of a flash chip: the driver asks for the parser of its partitions by this node's `compatible`.
            if self.nodes[path].name == "partitions" and self.nodes[path].compatible:
                yield path, "the partitions of"
        for part in self._parts(node):
            for name, path in self._suppliers(part):
                supplier = self._device_at(path)
                if supplier is not None and supplier != node.path:
                    yield supplier, f"{name} of"

    def _parts(self, node: Node) -> Iterator[Node]:
        """*node* and the nodes below it that are not devices of their own, as of_fwnode_add_links() has it."""
        waiting = [node]
        for part in waiting:
            yield part
            below = (self.nodes[path] for path in self.below.get(part.path, ()))
            waiting += [child for child in below if not child.compatible]

    def _device_at(self, path: str) -> str | None:
        """The nearest device at or above *path*; None if there is none, or if it is disabled."""
        while path != "/" and path in self.nodes:
            if self.nodes[path].compatible:
                return path
            path = self.nodes[path].parent
        return None

    def _suppliers(self, node: Node) -> Iterator[tuple[str, str]]:
        """(property, path) of what *node* names by phandle."""
        for name, words in node.words.items():
            if name in _CELLS:
                targets = self._listed(words, _CELLS[name])
            elif name.endswith("-supply"):
                targets = [words[0]]
            elif name.endswith(("-gpios", "-gpio")) or name == "gpios":
                targets = self._listed(words, "#gpio-cells")
            elif re.fullmatch(r"pinctrl-\d+", name):
                targets = list(words)
            elif name in ("iommu-map", "msi-map"):
                targets = list(words[1::4])
            else:
                continue
            yield from ((name, self.phandles[target]) for target in targets if target in self.phandles)
        if "interrupts" in node.words:
            yield from self._interrupt_parent(node)

    def _interrupt_parent(self, node: Node) -> Iterator[tuple[str, str]]:
        current: Node | None = node
        while current is not None:
            if "interrupt-parent" in current.words:
                path = self.phandles.get(current.words["interrupt-parent"][0])
                if path is not None:
                    yield "interrupts", path
                return
            current = self.nodes.get(current.parent) if current.path != "/" else None

    def _listed(self, words: tuple[int, ...], cells: str | None) -> list[int]:
        """The phandles of a list in which each is followed by as many words as its node says."""
        targets: list[int] = []
        position = 0
        while position < len(words):
            target = words[position]
            position += 1
            if not target:
                continue
            targets.append(target)
            if cells is not None:
                supplier = self.nodes.get(self.phandles.get(target, ""))
                if supplier is None:
                    # A disabled or unknown supplier: how long its specifier is cannot be known.
                    break
                position += supplier.words.get(cells, (0,))[0]
        return targets


def read_device_tree(path: Path) -> DeviceTree:
    """The device tree in the .dtb *path*; raises MegamodError naming it."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror or error}") from None
    if data[:4] != MAGIC or len(data) > MAX_BYTES:
        raise MegamodError(f"{path}: is not a device tree", hint="give a .dtb file; `dtc` makes one of a .dts")
    try:
        return _read(read_tree(data))
    except DamagedTreeError as error:
        raise MegamodError(f"{path}: damaged device tree: {error}") from error


def _read(root: TreeNode) -> DeviceTree:
    nodes: dict[str, Node] = {}
    disabled: set[str] = set()
    phandles: dict[int, str] = {}
    aliases: dict[str, str] = {}
    waiting = [(root, "/", True)]
    while waiting:
        item, path, enabled = waiting.pop()
        texts = {name: texts_of(value) for name, value in item.properties.items()}
        enabled = enabled and texts.get("status", ())[:1] in ((), ("okay",), ("ok",))
        node = Node(
            path=path,
            name=item.name.partition("@")[0],
            compatible=texts.get("compatible", ()),
            device_type="".join(texts.get("device_type", ())[:1]),
            words={name: words for name, value in item.properties.items() if (words := words_of(value))},
            firmware=texts.get("firmware-name", ()),
        )
        if enabled:
            nodes[path] = node
        else:
            disabled.add(path)
        if path == "/aliases":
            aliases = {name: found[0] for name, found in texts.items() if found}
        for name in ("phandle", "linux,phandle"):
            if node.words.get(name):
                phandles[node.words[name][0]] = path
        waiting += reversed([(child, f"{path.rstrip('/')}/{child.name}", enabled) for child in item.children])
    below: dict[str, list[str]] = {}
    for path, node in nodes.items():
        if path != "/":
            below.setdefault(node.parent, []).append(path)
    children = {path: tuple(found) for path, found in below.items()}
    return DeviceTree(nodes=nodes, disabled=frozenset(disabled), phandles=phandles, aliases=aliases, below=children)
