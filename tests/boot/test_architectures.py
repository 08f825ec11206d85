"""arm64, arm and riscv64: images built on this machine boot Debian's kernels there, one call before user space, the
other after it; and a large arm64 set loads in one call, with nothing worse than its modules one by one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.boot.timeline import boot_image
from tests.boot.image_fixtures import (
    END,
    Guest,
    make_data_disk,
    make_image,
    make_root,
    make_stock_image,
    manifest_of,
    run,
    tree_of,
)

KERNELS = (
    ("bookworm", "arm64"),
    ("trixie", "arm64"),
    ("sid", "arm64"),
    ("trixie", "armhf"),
    ("trixie", "riscv64"),
    ("sid", "riscv64"),
)

PROFILE = """
name: board
critical: {modules: ["?virtio_pci", "?virtio_mmio", virtio_blk, ext4]}
deferred:
  - {name: usb, modules: ["?xhci_pci", usb_storage, sd_mod, usbhid, hid_generic], after: userspace}
  - {name: net, modules: [virtio_net], after: {delay: 500ms}}
unwind: drop
"""

INIT = """
say user space
wait_for usb
wait_for net
show machine uname -m
show mounts cat /proc/mounts
show disk sh -c 'until [ -e /dev/sda ]; do sleep 0.1; done; cat /sys/block/sda/device/vendor'
show net ls -1 /sys/class/net
show results sh -c 'cat /sys/module/megamod_*/parameters/result'
show times sh -c 'cat /sys/module/megamod_*/parameters/nanoseconds'
mount -o remount,rw /
show write sh -c 'dd if=/dev/zero of=/file bs=64k count=64 && sync && echo 3 > /proc/sys/vm/drop_caches && md5sum /file'
""" + END  # fmt: skip

MACHINES = {"arm64": "aarch64", "armhf": "armv7l", "riscv64": "riscv64"}
# 4 MiB of zeros.
SUM = "b5cfa9d6c8febd618f91ac2843d50a1c  /file"


@pytest.fixture(params=KERNELS, ids=lambda pair: "-".join(pair))
def kernel(request, kernels) -> Kernel:
    return kernels(*request.param)


@pytest.fixture
def image(made_once, kernel) -> Path:
    return make_image(made_once, kernel, PROFILE)


@pytest.fixture
def guest(made_once, kernel, image) -> Guest:
    stick = make_data_disk(made_once, "ext4")
    devices = [
        *("-device", "qemu-xhci", "-device", "usb-kbd"),
        *("-drive", f"file={stick},format=raw,if=none,id=stick,snapshot=on", "-device", "usb-storage,drive=stick"),
        *("-device", "virtio-net-pci,romfile=,netdev=net", "-netdev", "user,id=net,restrict=on"),
    ]
    disks = [make_root(made_once, INIT, architecture=kernel.architecture)]
    return run(made_once, kernel, image, disks=disks, extra=devices, memory=768)


def test_the_image_built_here_boots_the_board_to_its_root(kernel, guest):
    assert MACHINES[kernel.architecture] in guest.section("machine")[0]
    assert any(re.match(r"/dev/(vda|root) / ext4 ", line) for line in guest.section("mounts"))
    assert guest.section("write")[-1] == SUM


def test_each_stage_is_one_call_and_no_other_module_is_in_the_kernel(image, guest):
    loads = [load for stage in manifest_of(image).stages for load in stage.loads]
    merged = {load.module for load in loads}
    # A parameter's setter of the module's own, which may need another member's init.
    apart = {load.module for load in loads if "sets its parameter" in (load.reason or "")}
    assert apart <= {"usb_storage", "usbcore"}
    assert {"megamod_critical", "megamod_usb", "megamod_usb_2", "megamod_net"} >= merged - apart
    assert set(guest.modules()) == merged


def test_the_deferred_stages_come_after_user_space(guest):
    started = guest.place("megamod: exec /sbin/init")
    assert started < guest.place("megamod: stage usb triggered by userspace")
    assert started < guest.place("megamod: stage net triggered by delay")


def test_the_merged_drivers_drive_their_devices(guest):
    assert guest.section("disk") == ["QEMU    "]
    # Names of arm64 and riscv64 kernels' interfaces are the kernel's own: no udev runs.
    assert "eth0" in guest.section("net")
    assert any("QEMU USB Keyboard" in line and line.startswith("input:") for line in guest.log())


def test_every_init_is_well_and_its_time_is_known(guest):
    assert guest.failures() == []
    assert set(",".join(guest.section("results")).split(",")) == {"0"}
    assert any(int(number) > 0 for number in ",".join(guest.section("times")).split(","))


def test_binutils_find_nothing_wrong_with_the_megamodule(tmp_path, kernel, image):
    """readelf knows every architecture, whatever the one that it was built for."""
    from megamod.common.compression import decompress
    from megamod.image.archive import read_image

    for entry in read_image(image):
        # A single is as Debian built it; what readelf says of it is not ours.
        if Path(entry.path).name.startswith("megamod_") and entry.path.endswith((".ko", ".ko.lz4")):
            path = tmp_path / Path(entry.path).name
            path.write_bytes(decompress(entry.data))
            done = subprocess.run(["readelf", "-aW", path], capture_output=True, text=True, check=True)
            assert done.stderr == ""


def test_megamod_boot_takes_the_machine_from_the_image(made_once, kernel, image):
    disk = make_root(made_once, "poweroff -f", architecture=kernel.architecture)
    report = boot_image(
        image, vmlinuz=kernel.vmlinuz, disks=[disk], append="megamod.deferred=off", memory=768, timeout=1200
    )
    assert report.ok, report.as_table()


# A large set on arm64

LARGE = """
name: large
critical: {{modules: [{names}]}}
compress: none
unwind: drop
"""

WANTED = """
virtio_pci virtio_mmio
virtio_blk ext4 btrfs xfs f2fs drm drm_kms_helper virtio_gpu panfrost lima vc4 mmc_block mmc_core sdhci sdhci_of_arasan
dw_mmc_rockchip dw_mmc usb_storage uas xhci_pci xhci_plat_hcd dwc3 ehci_pci ohci_pci usbhid hid_generic snd_usb_audio
snd_soc_simple_card snd_soc_rockchip_i2s snd_hda_intel virtio_net e1000e igb stmmac dwmac_rk phy_rockchip_inno_usb2
nvme ahci sd_mod sr_mod dm_crypt dm_mod raid1 nf_conntrack nf_nat bridge tun loop squashfs overlay vfat fuse cfg80211
mac80211 ath10k_pci brcmfmac bluetooth btusb uvcvideo videodev videobuf2_v4l2 i2c_dev rtc_ds1307 pwm_rockchip
""".split()  # fmt: skip

LARGE_INIT = """
try() {
	mount -t $1 $2 /mnt && cat /mnt/hello && echo written > /mnt/new && umount /mnt &&
	mount -t $1 -o ro $2 /mnt && cat /mnt/new && umount /mnt
}
show btrfs try btrfs /dev/vdb
show ext4 try ext4 /dev/vdc
show gpu sh -c 'ls -1 /sys/class/drm'
""" + END  # fmt: skip

CHANGING = re.compile(r"(CPU|PID): \d+")


def large_profile(kernel: Kernel) -> str:
    there = [name for name in WANTED if name in tree_of(kernel).modules]
    return LARGE.format(names=", ".join(there))


def large_guest(made_once, kernel: Kernel, image: Path) -> Guest:
    disks = [
        make_root(made_once, LARGE_INIT, architecture="arm64"),
        make_data_disk(made_once, "btrfs"),
        make_data_disk(made_once, "ext4"),
    ]
    return run(made_once, kernel, image, disks=disks, extra=["-device", "virtio-gpu-pci"], memory=1024)


@pytest.fixture(params=["bookworm", "trixie"])
def large(request, made_once, kernels) -> tuple[Kernel, Path]:
    kernel = kernels(request.param, "arm64")
    return kernel, make_image(made_once, kernel, large_profile(kernel))


def test_a_large_arm64_set_loads_in_one_call_and_its_file_systems_mount(made_once, large):
    kernel, image = large
    guest = large_guest(made_once, kernel, image)
    loads = [load for stage in manifest_of(image).stages for load in stage.loads]
    assert [load.kind for load in loads] == ["merged"]
    assert len(loads[0].members) >= 100
    assert guest.modules() == ["megamod_critical"]
    for name in ("btrfs", "ext4"):
        assert guest.section(name) == [f"hello from {name}", "written"]
    assert any(line.startswith("card0") for line in guest.section("gpu"))


def test_a_large_arm64_set_complains_no_more_than_its_modules_do(made_once, large):
    kernel, image = large
    stock = large_guest(made_once, kernel, make_stock_image(made_once, kernel, large_profile(kernel)))
    merged = large_guest(made_once, kernel, image)

    def complaints(guest: Guest) -> set[str]:
        return {CHANGING.sub("", text) for text in guest.failures()}

    assert complaints(merged) <= complaints(stock)


def test_a_boards_image_is_built_without_any_program_of_this_machine(tmp_path, kernels):
    profile, image = tmp_path / "board.yaml", tmp_path / "board.img"
    profile.write_text(PROFILE)
    command = [Path(sys.executable).with_name("megamod"), "build", profile, "-o", image, "-q"]
    for pair in (("bookworm", "arm64"), ("trixie", "armhf"), ("trixie", "riscv64")):
        kernel = kernels(*pair)
        environment = {"PATH": "/nonexistent", "HOME": str(tmp_path)}
        subprocess.run([*command, "-k", kernel.modules], env=environment, check=True)
        assert manifest_of(image).kernel == kernel.release


# Tracing on boards

TRACED = """
name: traced
critical: {modules: ["?virtio_pci", "?virtio_mmio", virtio_blk, ext4]}
tracing: keep
"""

TRACED_INIT = """
mount -t tracefs none /sys/kernel/tracing
cd /sys/kernel/tracing
echo 'ext4_*' > set_ftrace_filter
echo function > current_tracer
echo 1 > events/ext4/enable
echo 1 > tracing_on
ls / > /dev/null
echo 0 > tracing_on
show functions grep -c megamod_critical available_filter_functions
show trace cat trace
cd /
""" + END  # fmt: skip


@pytest.mark.parametrize("pair", [("bookworm", "arm64"), ("trixie", "armhf"), ("trixie", "riscv64")], ids="-".join)
def test_members_can_be_traced_if_the_profile_says_so(made_once, kernels, pair):
    kernel = kernels(*pair)
    image = make_image(made_once, kernel, TRACED)
    disk = make_root(made_once, TRACED_INIT, architecture=kernel.architecture)
    guest = run(made_once, kernel, image, disks=[disk], memory=768)
    assert int(guest.section("functions")[0]) > 500
    trace = "\n".join(guest.section("trace"))
    assert re.search(r"ext4_readdir <-iterate_dir", trace)
    assert re.search(r": ext4_\w+: dev 254,0 ino", trace)
    assert guest.failures() == []
