"""Words that a module refuses, or takes by a function of its own before its init: beside the modules one by one."""

from __future__ import annotations

import pytest

from tests.boot.image_fixtures import END, make_image, make_root, make_stock_image, manifest_of, run

# block2mtd opens a disk and registers a device as its parameter is set, phram registers a piece of memory.
PROFILE = """
name: words
critical: {modules: [virtio_pci, virtio_blk, ext4, e1000e, block2mtd, phram, dummy]}
deferred:
  - {name: usb, modules: [usb_storage, sd_mod, usbhid], after: userspace}
options:
  block2mtd: {block2mtd: "/dev/vdb,65536"}
  dummy: {numdummies: 3}
"""
MEMORY = "memmap=1M$0x10000000"
WORDS = f"{MEMORY} phram.phram=spare,0x10000000,0x100000"
EXTRA = ("-cpu", "max", "-device", "qemu-xhci")
REFUSED = f"{WORDS} usb-storage.delay_use=abc"

INIT = (
    """
wait_for usb
show mtd cat /proc/mtd
show links ls -1 /sys/class/net
show e1000e ls -1 /sys/bus/pci/drivers
show usb ls -1 /sys/bus/usb/drivers
show scsi ls -1 /sys/bus/scsi/drivers
"""
    + END
)


@pytest.fixture(scope="module")
def wrong_options(tmp_path_factory) -> str:
    """A profile with a folder of modprobe.d in which one value is none."""
    folder = tmp_path_factory.mktemp("modprobe.d")
    (folder / "wrong.conf").write_text("options e1000e debug=notanumber\n")
    return f"{PROFILE}modprobe-d: {folder}\n"


@pytest.fixture
def disks(made_once):
    def spare(path):
        path.write_bytes(bytes(4 << 20))

    return [make_root(made_once, INIT), made_once("spare-disk", spare)]


@pytest.fixture
def merged(made_once, kernels, disks, wrong_options):
    kernel = kernels("bookworm")
    image = make_image(made_once, kernel, wrong_options)
    return run(made_once, kernel, image, disks=disks, append=REFUSED, extra=EXTRA)


@pytest.fixture
def stock(made_once, kernels, disks):
    kernel = kernels("bookworm")
    image = make_stock_image(made_once, kernel, PROFILE)
    return run(made_once, kernel, image, disks=disks, append=REFUSED, extra=EXTRA)


def test_setters_find_their_devices_as_they_do_one_by_one(merged, stock):
    devices = [line.split(maxsplit=3)[1:] for line in merged.section("mtd")[1:]]
    assert sorted(devices) == sorted(line.split(maxsplit=3)[1:] for line in stock.section("mtd")[1:])
    assert [name for _size, _erase, name in sorted(devices)] == ['"spare"', '"block2mtd: /dev/vdb"']


def test_modules_with_such_setters_are_loaded_on_their_own(made_once, kernels, wrong_options, merged):
    manifest = manifest_of(make_image(made_once, kernels("bookworm"), wrong_options))
    reasons = {load.module: load.reason for stage in manifest.stages for load in stage.loads if load.kind == "single"}
    assert set(reasons) == {"block2mtd", "phram"}
    assert reasons["phram"] == "sets its parameter phram with the help of mtd, whose init must have run by then"
    assert reasons["block2mtd"].startswith("has a function of its own for the option block2mtd")
    assert {"block2mtd", "phram", "megamod_critical"} <= set(merged.modules())


def test_word_that_a_member_refuses_costs_that_member_as_it_does_one_by_one(merged, stock):
    assert "member usb_storage failed: -EINVAL" in merged.failures()
    assert any(text.startswith("load usb_storage failed: EINVAL") for text in stock.failures())
    for guest in (merged, stock):
        assert "usb-storage" not in guest.section("usb")
        assert "usbhid" in guest.section("usb") and "sd" in guest.section("scsi")
    assert merged.stages()["usb"][1:] == stock.stages()["usb"][1:]


def test_value_in_modprobe_d_that_a_module_refuses_costs_nothing(merged):
    assert merged.stages()["critical"][2:] == (0, 0)
    assert "e1000e" in merged.section("e1000e")
    assert {"dummy0", "dummy1", "dummy2"} <= set(merged.section("links"))
