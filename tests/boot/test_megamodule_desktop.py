"""The drivers of a desktop as one stage: one call, nothing worse than with Debian's own files, file systems mount.

Two boots a kernel, equal but for the modules: merged, and one by one with a call each, by the same loader. What the
second one complains about (hardware that QEMU has not, a self-test without its random numbers) the first one may, too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.boot.image_fixtures import (
    END,
    Guest,
    make_data_disk,
    make_image,
    make_root,
    make_stock_image,
    manifest_of,
    run,
)

NAMES = [
    name
    for line in (Path(__file__).parents[1] / "bench/sets/desktop.txt").read_text().splitlines()
    if not line.startswith("#")
    for name in line.split()
]
# Newer kernels have some of them no more (crc32c_generic).
PROFILE = f"""
name: desktop
critical: {{modules: [{", ".join(f'"?{name}"' for name in NAMES)}]}}
compress: none
"""

INIT = """
try() {
	mount -t $1 $2 /mnt && cat /mnt/hello && echo written > /mnt/new && umount /mnt &&
	mount -t $1 -o ro $2 /mnt && cat /mnt/new && umount /mnt
}
show ext4 try ext4 /dev/vdb
show btrfs try btrfs /dev/sda
show xfs try xfs /dev/nvme0n1
tries=0
until grep -qs "USB Keyboard" /sys/class/input/input*/name || [ $tries = 50 ]; do tries=$((tries + 1)); sleep 0.1; done
show devices sh -c 'ls -1 /sys/class/net; cat /sys/class/input/input*/name'
show results sh -c 'cat /sys/module/megamod_*/parameters/result*'
""" + END  # fmt: skip

SUITES = ("bookworm", "bookworm-backports", "sid")
_CHANGING = re.compile(r"(CPU|PID): \d+")


@pytest.fixture(params=SUITES)
def kernel(request, kernels):
    return kernels(request.param)


def boot(made_once, kernel, image) -> Guest:
    xfs, btrfs = (make_data_disk(made_once, name) for name in ("xfs", "btrfs"))
    devices = [
        *("-cpu", "max"),
        *("-drive", f"file={xfs},format=raw,if=none,id=xfs,snapshot=on", "-device", "nvme,drive=xfs,serial=1"),
        *("-drive", f"file={btrfs},format=raw,if=none,id=btrfs,snapshot=on"),
        *("-device", "ahci,id=ahci", "-device", "ide-hd,drive=btrfs,bus=ahci.0"),
        *("-device", "qemu-xhci", "-device", "usb-kbd"),
        *("-device", "e1000e,romfile=,netdev=net", "-netdev", "user,id=net,restrict=on"),
    ]
    disks = [make_root(made_once, INIT), make_data_disk(made_once, "ext4")]
    return run(made_once, kernel, image, disks=disks, extra=devices, memory=1024)


@pytest.fixture
def image(made_once, kernel) -> Path:
    return make_image(made_once, kernel, PROFILE)


@pytest.fixture
def merged(made_once, kernel, image) -> Guest:
    return boot(made_once, kernel, image)


@pytest.fixture
def stock(made_once, kernel) -> Guest:
    return boot(made_once, kernel, make_stock_image(made_once, kernel, PROFILE))


def failed_inits(guest: Guest) -> set[tuple[str, str]]:
    """Name and errno of the modules whose init failed, alone or as members."""
    found = (re.fullmatch(r"megamod: (?:member|load) (\S+) failed: -?(\w+).*", line) for line in guest.log())
    return {(match[1], match[2]) for match in found if match}


def complaints(guest: Guest) -> set[str]:
    """What the kernel itself complained about, without what changes from boot to boot."""
    return {_CHANGING.sub("", text) for text in guest.failures() if not text.startswith(("member ", "load "))}


def test_the_desktop_set_is_one_call_for_all_that_may_be_merged(merged, image):
    loads = manifest_of(image).stages[0].loads
    assert merged.modules() == [load.module for load in loads]
    assert [load.name for load in merged.timeline().loads] == merged.modules()
    assert sum(len(load.members) for load in loads if load.kind == "merged") > 90


def test_no_init_fails_that_does_not_fail_with_the_stock_module(merged, stock):
    assert failed_inits(merged) <= failed_inits(stock)
    assert {row[0] for row in merged.stages().values()} == {"done"}
    assert {row[3] for row in merged.stages().values()} == {0}


def test_the_kernel_complains_no_more_than_with_the_stock_modules(merged, stock):
    assert complaints(merged) <= complaints(stock)


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs", "xfs"])
def test_a_file_system_can_be_mounted_written_and_read_again(merged, filesystem):
    assert merged.section(filesystem) == [f"hello from {filesystem}", "written"]


def test_the_same_devices_come_up_as_with_the_stock_modules(merged, stock):
    assert merged.section("devices") == stock.section("devices")
    assert {"eth0", "QEMU QEMU USB Keyboard"} <= set(merged.section("devices"))
