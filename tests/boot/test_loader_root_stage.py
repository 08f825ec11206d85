"""A deferred stage with the driver of the root's file system is loaded at once; for another root it waits its turn."""

from __future__ import annotations

import pytest

from tests.boot.image_fixtures import END, Guest, make_image, make_root, run

PROFILE = """
name: on-demand
critical: {modules: [virtio_pci, virtio_blk, ext4]}
deferred:
  - {name: needed, modules: [libcrc32c], after: userspace}
  - {name: others, modules: [isofs], after: userspace}
  - {name: btrfs, modules: [btrfs], after: userspace}
"""
INIT = f"say user space\nwait_for others\nwait_for btrfs\n{END}"


@pytest.fixture
def boot(kernels, made_once):
    def boot(filesystem: str, *, append: str = "") -> Guest:
        kernel = kernels("bookworm")
        root = make_root(made_once, INIT, filesystem=filesystem)
        image = make_image(made_once, kernel, PROFILE)
        # Without -cpu the CRC drivers that come along find no instructions of theirs.
        return run(made_once, kernel, image, disks=[root], append=append, extra=["-cpu", "max"])

    return boot


@pytest.mark.parametrize("append", ["rootfstype=auto"])
def test_the_roots_driver_is_loaded_before_its_stages_turn(boot, append):
    guest = boot("btrfs", append=append)
    assert guest.failures() == []
    asked = guest.place("megamod: the driver of btrfs is in a deferred stage, which is loaded now")
    needed = guest.place("megamod: stage needed triggered by manual")
    mounted = guest.place("megamod: root /dev/vda btrfs mounted")
    assert asked < needed < guest.place("megamod: stage btrfs triggered by manual") < mounted
    assert mounted < guest.place("megamod: stage others triggered by userspace")


def test_a_root_of_the_critical_stages_type_asks_for_nothing(boot):
    guest = boot("ext4")
    assert guest.failures() == []
    assert guest.place("init: user space") < guest.place("megamod: stage btrfs done")
    assert guest.place("megamod: stage btrfs triggered by userspace") > guest.place("megamod: stage others done")


def test_without_deferred_stages_the_missing_driver_is_named(kernels, made_once):
    kernel = kernels("bookworm")
    root = make_root(made_once, INIT, filesystem="btrfs")
    guest = run(
        made_once, kernel, make_image(made_once, kernel, PROFILE), disks=[root], append="megamod.deferred=off panic=-1"
    )
    assert any("no driver for its file system" in line for line in guest.log())
