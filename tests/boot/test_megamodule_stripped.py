"""A root behind drivers that were stripped as OpenWrt strips them: without their inits it would not be mounted."""

from __future__ import annotations

import shutil

import pytest

from megamod.build.recipe import build_image
from megamod.common.compression import read_module_bytes
from megamod.common.progress import Steps
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.boot.image_fixtures import END, make_root, run, tree_of
from tests.unit.test_prelink_stripped import WAYS, renamed
from tests.unit.test_prelink_stripped import run as command

PROFILE = """
name: stripped
critical: {modules: [virtio_pci, virtio_blk, ext4, loop]}
"""
INIT = "show loops ls -1 /sys/block\n" + END

pytestmark = pytest.mark.slow


def test_members_without_names_are_initialised(made_once, kernels, tool, tmp_path):
    kernel = kernels("bookworm")
    tree, folder = tree_of(kernel), tmp_path / "lib/modules" / kernel.release
    wanted = ["virtio_pci", "virtio_blk", "ext4", "loop"]
    names = {need for name in wanted for need in (*tree.modules[name].depends, name)}
    names |= {need for name in tree.resolve("crypto-crc32c")[0] for need in (*tree.modules[name].depends, name)}
    for name in sorted(names):
        path = folder / tree.modules[name].relpath
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read_module_bytes(tree.modules[name].path))
        command(tool(WAYS["openwrt"][0], package="binutils"), *WAYS["openwrt"][1:], path)
        renamed(path, lambda program: tool(program, package="binutils"))
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(kernel.modules / name, folder)
    profile = tmp_path / "p.yaml"
    profile.write_text(PROFILE)

    def make(path):
        with (tmp_path / "said").open("w") as said:
            build_image(load_profile(profile), open_tree(str(folder)), path, steps=Steps(said))

    image = made_once("image-stripped", make)
    guest = run(made_once, kernel, image, disks=[make_root(made_once, INIT)], extra=("-cpu", "max"))
    assert guest.stages()["critical"][0] == "done" and guest.stages()["critical"][2:] == (0, 0)
    assert "loop0" in guest.section("loops")
    assert "megamod_critical" in guest.modules()
