"""The board that an image is for, by the names that drivers give its firmware.

Broadcom's Wi-Fi and Bluetooth drivers ask for CHIP.BOARD.SUFFIX first. BOARD is the first of the root node's
`compatible` with `-` for `/` (brcmf_of_probe(), drivers/net/wireless/broadcom/brcm80211/brcmfmac/of.c;
btbcm_get_board_name(), drivers/bluetooth/btbcm.c), or "VENDOR-PRODUCT" of DMI (brcmf_dmi_probe(), dmi.c there, 6.1),
where a table gives some products other names. Other drivers read names from the device tree: `firmware-name`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.machine.device_tree import read_device_tree
from megamod.machine.machine import open_machine

HOST = "host"
COMPATIBLE = "sys/firmware/devicetree/base/compatible"
DMI = "sys/devices/virtual/dmi/id"

_FORM = re.compile(r"(?:brcm|cypress)/[^/.]+\.(?P<board>.+)\.(?:txt|bin|hcd|clm_blob|txcap_blob)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """*names* that stand in the names of firmware; *firmware* is what its device tree asks for."""

    names: tuple[str, ...]
    firmware: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether the firmware *name* is of use here: it names this board, or none."""
        match = _FORM.fullmatch(name)
        return match is None or match["board"] in self.names


def read_board(text: str) -> Board:
    """The board that *text* names: a .dtb, `host`, or a folder with a recorded machine; raises MegamodError."""
    path = Path(text)
    if text != HOST and not path.is_dir():
        tree = read_device_tree(path)
        wanted = (name for node in tree.nodes.values() for name in node.firmware)
        return Board(names=_as_named(tree.nodes["/"].compatible), firmware=tuple(dict.fromkeys(wanted)))
    machine = open_machine(None if text == HOST else path)
    if compatible := machine.text(COMPATIBLE):
        return Board(names=_as_named(tuple(filter(None, compatible.split("\0")))))
    vendor, product = machine.text(f"{DMI}/sys_vendor"), machine.text(f"{DMI}/product_name")
    if not vendor or not product:
        hint = "`megamod detect --record` writes it; or name the board: board: [NAME]"
        raise MegamodError(f"{machine.root}: neither a device tree nor DMI says which board this is", hint=hint)
    return Board(names=_as_named((f"{vendor}-{product}",)))


def _as_named(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.replace("/", "-") for name in names)
