"""The mask against the real thing: udev's coldplug and modprobe, of two releases of Debian; every member's file and
all index files are within their reach."""

from __future__ import annotations

import re

import pytest

from megamod.boot.debian import Kernel
from tests.boot.image_fixtures import END, Guest, make_data_disk, make_image, make_root, run
from tests.boot.udev_files import module_files, udev_files

# (kernel, udev and kmod)
CASES = (("bookworm", "bookworm"), ("bookworm-backports", "trixie"))

PROFILE = """
name: masked
critical: {modules: ["?virtio_pci", virtio_blk, ext4]}
deferred:
  - {name: usb, modules: [xhci_pci, usb_storage, sd_mod, usbhid, hid_generic], after: userspace}
  - {name: sound, modules: [snd_hda_intel, snd_hda_codec_generic, snd_pcm, soundcore], after: manual}
"""

# Stock modules that udev or modprobe may take: the members, what depends on them, and others.
STOCK = (
    *("virtio_pci", "virtio_blk", "ext4", "xhci_pci", "usb_storage", "sd_mod", "usbhid", "hid_generic"),
    *(
        "snd_hda_intel",
        "snd_hda_codec_generic",
        "uas",
        "ata_piix",
        "sr_mod",
        "snd_seq",
        "e1000",
        "i2c_piix4",
        "psmouse",
    ),
    *("tun", "usblp", "snd_usb_audio", "overlay"),
)

# Asked for by name, as a dependent of members, by alias.
ASKED = ("xhci-pci", "usb_storage", "snd_pcm", "usblp", "snd_usb_audio", "snd_seq", "tun", "fs-ext4", "scsi:t-0x00")

INIT = (
    """
mount -t tmpfs tmp /tmp
show udevd /lib/systemd/systemd-udevd --daemon
coldplug() {
	udevadm trigger --type=subsystems --action=add
	udevadm trigger --type=devices --action=add
	udevadm settle
}
coldplug
wait_for usb
coldplug
show early cut -d' ' -f1 /proc/modules
show blocked grep snd_usb_audio /run/modprobe.d/megamod.conf
echo sound >/run/megamod/control
wait_for sound
sleep 5
udevadm settle
show late cut -d' ' -f1 /proc/modules
coldplug
sleep 1
"""
    + "".join(f'show "modprobe {name}" /sbin/modprobe {name}\n' for name in ASKED)
    + """
show failing sh -c 'grep -h . /sys/module/megamod_*/parameters/result'
show links ls /dev/disk/by-id
show storage readlink /sys/bus/usb/drivers/usb-storage/module
show keyboard readlink /sys/bus/usb/drivers/usbhid/module
show config cat /run/modprobe.d/megamod.conf
"""
    + END
)

DEVICES = (
    *("-cpu", "max", "-device", "qemu-xhci", "-device", "usb-kbd", "-device", "usb-storage,drive=stick"),
    *("-device", "usb-audio,audiodev=none", "-audiodev", "none,id=none"),
    *("-device", "intel-hda", "-device", "hda-duplex,audiodev=none"),
    *("-device", "e1000,romfile=,netdev=net", "-netdev", "user,id=net,restrict=on"),
)


@pytest.fixture(params=CASES, ids=[f"{udev}'s udev" for _kernel, udev in CASES])
def case(request) -> tuple[str, str]:
    return request.param


@pytest.fixture
def kernel(case, kernels) -> Kernel:
    return kernels(case[0])


@pytest.fixture
def guest(made_once, kernel, case) -> Guest:
    files = {**udev_files(case[1]), **module_files(kernel, *STOCK)}
    root = make_root(made_once, INIT, files=files, size_mib=192)
    stick = make_data_disk(made_once, "ext4")
    extra = ["-drive", f"file={stick},format=raw,if=none,id=stick,snapshot=on", *DEVICES]
    image = make_image(made_once, kernel, PROFILE)
    return run(made_once, kernel, image, disks=[root], extra=extra, append="rw", memory=768, timeout=1200)


def members(guest: Guest) -> set[str]:
    return {line.split()[1] for line in guest.section("config") if re.match(r"install \S+ /bin/true$", line)}


def test_no_member_is_inserted_a_second_time_by_coldplug_or_by_modprobe(guest):
    masked = members(guest)
    assert {"virtio_blk", "ext4", "xhci_pci", "usb_storage", "snd_hda_intel"} <= masked
    assert masked & set(guest.modules()) == set()
    assert {"megamod_critical", "megamod_usb", "megamod_sound"} <= set(guest.modules())


def test_the_kernels_log_knows_of_no_second_insertion(guest):
    for words in ("duplicate symbol", "already registered", "already exists", "cannot create duplicate"):
        assert [line for line in guest.log() if words in line] == []
    assert guest.failures() == []


def test_udev_loads_drivers_that_are_not_members_or_depend_on_members(guest):
    """e1000 and psmouse have nothing to do with members; snd_usb_audio and ata_piix need some."""
    assert {"e1000", "snd_usb_audio"} <= set(guest.modules())
    assert any("ata_piix" in line for line in guest.modules())


def test_what_depends_on_a_waiting_stage_is_kept_back_until_it_comes(guest):
    """snd_usb_audio's device was there at the first coldplug, when snd was not."""
    assert "snd_usb_audio" not in guest.section("early")
    assert guest.section("blocked") == ["blacklist snd_usb_audio", "install snd_usb_audio /bin/false"]
    assert "snd_usb_audio" in guest.section("late")
    assert not any("snd_usb_audio" in line for line in guest.section("config"))


def test_modprobe_succeeds_for_a_member_a_dependent_of_one_and_an_alias(guest):
    assert {name: guest.status(f"modprobe {name}") for name in ASKED} == dict.fromkeys(ASKED, 0)
    assert {"usblp", "snd_seq", "tun"} <= set(guest.modules())


def test_udev_has_seen_the_members_devices(guest):
    assert any("usb-QEMU" in line for line in guest.section("links"))
    for name in ("storage", "keyboard"):
        assert guest.section(name) == ["../../../../module/megamod_usb"]
