"""`megamod init --board`: what a first profile has for the disks of a board, and that it is taken as it is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.machine.first_profile import board_profile
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from megamod.select.select import select
from tests.unit.module_trees import make_tree

VIRTUAL = """
/dts-v1/;
/ {
    compatible = "acme,virtual";
    virtio_mmio@1000 { compatible = "virtio,mmio"; };
    pcie@2000 { compatible = "acme,pcie"; device_type = "pci"; };
};
"""
PCI = """
/dts-v1/;
/ {
    compatible = "acme,board";
    mmc@1000 { compatible = "acme,mmc"; };
    pcie@2000 { compatible = "acme,pcie"; device_type = "pci"; };
};
"""
PLAIN = '/dts-v1/;\n/ { compatible = "acme,plain"; serial@1000 { compatible = "acme,uart"; }; };\n'
MODULES = (
    *("drivers/virtio/virtio_mmio", "drivers/block/virtio_blk", "drivers/nvme/host/nvme", "drivers/pci/acme-pcie"),
    *("drivers/mmc/host/acme-mmc", "fs/ext4/ext4"),
)
_DRIVERS = {"virtio,mmio": "virtio_mmio", "acme,pcie": "acme_pcie", "acme,mmc": "acme_mmc"}
ALIASES = [f"of:N*T*C{device}{end} {driver}" for device, driver in _DRIVERS.items() for end in ("", "C*")]
Critical = Callable[[str], set[str]]


@pytest.fixture
def critical(tmp_path: Path, tool: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Critical:
    """The modules that the profile of a device tree has before user space."""
    monkeypatch.chdir(tmp_path)
    modules = {f"kernel/{name}.ko": () for name in MODULES}
    tree = open_tree(str(make_tree(tmp_path, modules, alias=ALIASES)))

    def make(text: str) -> set[str]:
        Path("board.dts").write_text(text)
        dtc = tool("dtc", package="device-tree-compiler")
        subprocess.run([dtc, "-q", "-O", "dtb", "-o", "board.dtb", "board.dts"], check=True)
        written = board_profile(Path("board.dtb"), tree, name="board", beside=Path())
        print(written)
        Path("board.yaml").write_text(written)
        return {module.name for module in select(load_profile(Path("board.yaml")), tree).stages[0].modules}

    return make


def test_a_virtual_machine_has_its_disks_behind_virtio_and_pci(critical: Critical) -> None:
    # virtio_pci is built in, or not there, so it has no line.
    assert critical(VIRTUAL) == {"virtio_mmio", "virtio_blk", "acme_pcie", "nvme", "ext4"}


def test_a_board_with_pci_may_have_its_root_there(critical: Critical) -> None:
    assert critical(PCI) == {"acme_mmc", "acme_pcie", "nvme", "ext4"}


def test_a_board_without_storage_in_its_tree_is_told_so(critical: Critical, capsys: pytest.CaptureFixture[str]) -> None:
    assert critical(PLAIN) == {"ext4"}
    assert "# all that the device tree says of storage is built into the kernel" in capsys.readouterr().out
