"""``-k`` given again: a vendor's modules beside those of the kernel, with depmod's word on who needs whom."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.common.errors import MegamodError
from megamod.image.archive import read_image
from megamod.modules.tree import open_tree
from tests.unit.module_factory import Ko
from tests.unit.test_cli_build import VERSION, Builder, builder, module_tree  # noqa: F401


@pytest.fixture
def vendor(tmp_path: Path, tool: Callable[..., str]) -> Path:
    """A folder as vendors have it: modules, an order, and nothing that shows the kernel's release."""
    tool("depmod", package="kmod")
    folder = tmp_path / "vendor/lib/modules"
    folder.mkdir(parents=True)
    (folder / "camera.ko").write_bytes(bytes(Ko("camera", info=VERSION).calls("sensor_add", 3).calls("core_add", 1)))
    (folder / "sensor.ko").write_bytes(bytes(Ko("sensor", info=VERSION).exports("sensor_add", 3)))
    (folder / "modules.order").write_text("sensor.ko\ncamera.ko\n")
    return folder


@pytest.mark.parametrize("whole", [False, True], ids=["the folder of modules", "the folder that it lies in"])
def test_modules_of_both_trees_need_each_other(tmp_path: Path, vendor: Path, whole: bool) -> None:
    folder = module_tree(tmp_path)
    before = sorted(path.name for path in (*folder.rglob("*"), *vendor.rglob("*")))
    tree = open_tree(str(folder), overlays=[str(vendor.parents[1] if whole else vendor)])
    camera = tree.modules["camera"]
    assert camera.path == vendor / "camera.ko"
    assert camera.relpath == "overlay-1/camera.ko"
    assert set(camera.depends) == {"core", "sensor"}
    assert tree.modules["sensor"].order < camera.order
    assert set(tree.modules) == {"core", "disk", "usb_storage", "camera", "sensor"}
    assert sorted(path.name for path in (*folder.rglob("*"), *vendor.rglob("*"))) == before


def test_a_module_of_an_overlay_is_merged_with_those_of_the_kernel(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
    vendor: Path,
) -> None:
    (tmp_path / "p.yaml").write_text("critical: {modules: [camera, disk]}\n")
    for _ in range(2):
        status, _out, err = builder.run("p.yaml", "-k", module_tree(tmp_path), "-k", vendor, "-o", "out.img")
        assert status == 0, err
        shutil.rmtree(tmp_path / "lib")
    entry = next(entry for entry in read_image(tmp_path / "out.img") if entry.path == MANIFEST_PATH)
    (load,) = Manifest.from_json(entry.data, source="manifest").stages[0].loads
    assert {member.name: member.file for member in load.members} == {
        "core": "kernel/core.ko",
        "disk": "kernel/disk.ko",
        "sensor": "overlay-1/sensor.ko",
        "camera": "overlay-1/camera.ko",
    }


def test_a_module_that_is_in_both_is_refused(tmp_path: Path, vendor: Path) -> None:
    folder = module_tree(tmp_path)
    (vendor / "disk.ko").write_bytes(bytes(Ko("disk", info=VERSION)))
    with pytest.raises(MegamodError, match=rf"^{vendor}/disk.ko: the module disk is in {folder}, too"):
        open_tree(str(folder), overlays=[str(vendor)])


def test_an_overlay_without_modules_is_refused(tmp_path: Path, tool: Callable[..., str]) -> None:
    tool("depmod", package="kmod")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MegamodError, match="empty: it has no kernel modules"):
        open_tree(str(module_tree(tmp_path)), overlays=[str(tmp_path / "empty")])
