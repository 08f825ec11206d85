"""Debian's kernels boot an image of megamod to a real ext4 root, and deferred stages come when their triggers say so.

One boot a kernel; its devices are there, so that the merged drivers have something to drive.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.boot.console import EventKind
from megamod.boot.debian import Kernel
from tests.boot.image_fixtures import END, Guest, make_data_disk, make_image, make_root, manifest_of, run

SUITES = ("bullseye", "bookworm", "bookworm-backports", "sid")

PROFILE = """
name: devices
critical: {modules: ["?virtio_pci", virtio_blk, ext4, qemu_fw_cfg, kvm]}
deferred:
  - {name: usb, modules: [xhci_pci, usb_storage, sd_mod, usbhid, hid_generic], after: userspace}
  - {name: sound, modules: [snd_hda_intel, snd_hda_codec_generic], after: {path: /run/test/go}}
  - {name: net, modules: [virtio_net], after: {delay: 800ms}}
  - {name: by-hand, modules: [tun], after: manual}
  - {name: late, modules: [loop], after: {path: /run/test/never, timeout: 1s}}
"""

INIT = """
say user space
show mounts cat /proc/mounts
wait_for usb
show early cat /proc/modules
mkdir /run/test
say marker
touch /run/test/go
wait_for sound
wait_for net
wait_for late
sleep 1
show before-by-hand cat /proc/modules
say by hand
echo by-hand > /run/megamod/control
wait_for by-hand
show disk sh -c 'until [ -e /dev/sda ]; do sleep 0.1; done; cat /sys/block/sda/device/vendor'
show cards cat /proc/asound/cards
show net ls -1 /sys/class/net
show tun ls -l /dev/net/tun
show owner readlink /sys/bus/virtio/drivers/virtio_blk/module
show firmware cat /sys/firmware/qemu_fw_cfg/rev
mount -o remount,rw /
show write sh -c 'dd if=/dev/zero of=/file bs=64k count=64 && sync && echo 3 > /proc/sys/vm/drop_caches && md5sum /file'
""" + END  # fmt: skip

DEVICES = (
    *("-cpu", "max"),  # or the CRC drivers that scsi_mod's dependencies bring along find no instructions of theirs
    *("-device", "qemu-xhci", "-device", "usb-kbd"),
    *("-device", "usb-storage,drive=stick"),
    *("-device", "virtio-net-pci,romfile=,netdev=net", "-netdev", "user,id=net,restrict=on"),
    *("-audiodev", "none,id=none", "-device", "intel-hda", "-device", "hda-duplex,audiodev=none"),
)
MERGED = {f"megamod_{stage}" for stage in ("critical", "usb", "sound", "net", "by_hand", "late")}


@pytest.fixture
def singles(image) -> set[str]:
    """What the builder had to leave a module of its own: of these modules only kvm, for which newer kernels reserve
    symbols by its name."""
    names = {load.module for stage in manifest_of(image).stages for load in stage.loads if load.kind == "single"}
    assert names <= {"kvm"}
    return names


@pytest.fixture(params=SUITES)
def kernel(request, kernels) -> Kernel:
    return kernels(request.param)


@pytest.fixture
def image(made_once, kernel) -> Path:
    return make_image(made_once, kernel, PROFILE)


@pytest.fixture
def guest(made_once, kernel, image) -> Guest:
    stick = make_data_disk(made_once, "ext4")
    extra = ["-drive", f"file={stick},format=raw,if=none,id=stick,snapshot=on", *DEVICES]
    return run(made_once, kernel, image, disks=[make_root(made_once, INIT)], extra=extra)


def test_the_kernel_boots_to_a_writable_ext4_root_on_a_virtio_disk(guest):
    assert any(
        line.startswith("/dev/vda / ext4 ro") or line.startswith("/dev/root / ext4 ro")
        for line in guest.section("mounts")
    )
    assert guest.section("write")[-1].endswith("  /file")
    assert guest.status("write") == 0


def test_proc_modules_shows_only_megamodules_and_named_singles(guest, singles):
    assert set(guest.modules()) == MERGED | singles


def test_every_stage_is_one_call_in_which_every_member_is_well(guest, singles):
    assert {name: row[0] for name, row in guest.stages().items()} == dict.fromkeys(guest.stages(), "done")
    assert {(row[2], row[3]) for row in guest.stages().values()} == {(0, 0)}
    assert sorted(load.name for load in guest.timeline().loads) == sorted(MERGED | singles)


def test_neither_the_loader_nor_the_kernel_complains(guest):
    assert guest.failures() == []


def test_the_merged_drivers_drive_their_devices(guest):
    assert guest.section("owner") == ["../../../../module/megamod_critical"]
    assert guest.section("disk") == ["QEMU    "]
    assert "HDA-Intel" in guest.section("cards")[0]
    assert "eth0" in guest.section("net")
    assert guest.status("tun") == 0
    assert guest.status("firmware") == 0
    assert any("QEMU USB Keyboard" in line and line.startswith("input:") for line in guest.log())


def test_a_stage_that_waits_for_user_space_comes_after_the_real_init(guest):
    assert guest.place("megamod: exec /sbin/init") < guest.place("megamod: stage usb triggered by userspace")


def test_a_stage_that_waits_for_a_path_comes_after_init_has_made_it(guest):
    triggered = guest.place("megamod: stage sound triggered by path")
    assert guest.place("megamod: exec /sbin/init") < guest.place("init: user space") < guest.place("init: marker")
    assert guest.place("init: marker") < triggered
    assert "megamod_sound" not in guest.modules("early")


def test_a_delay_counts_from_user_space_and_a_timeout_ends_a_wait(guest):
    events = guest.timeline()
    start = events.first(EventKind.USERSPACE).seconds
    assert events.first(EventKind.TRIGGERED, "net").seconds - start >= 0.8
    assert events.first(EventKind.TRIGGERED, "late").seconds - start >= 1.0
    assert events.first(EventKind.TRIGGERED, "net").detail == "delay"
    assert events.first(EventKind.TRIGGERED, "late").detail == "timeout"


def test_a_manual_stage_comes_when_the_control_file_gets_its_name(guest):
    assert "megamod_by_hand" not in guest.modules("before-by-hand")
    assert guest.place("init: by hand") < guest.place("megamod: stage by-hand triggered by manual")
