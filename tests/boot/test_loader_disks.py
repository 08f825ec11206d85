"""Disks with more on them than one file system: members of arrays, copies, several devices, what only others open."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.boot.loader_images import DISK_MODULES, POWER_OFF, UUID, after, start_plan, write_loader_image
from tests.disks.arrays import ARRAYS, make_arrays
from tests.disks.stalling_disk import serve
from tests.disks.zoo import ZOO, run, write_at

_WAY_OUT = "boot an image of dracut, initramfs-tools or mkinitcpio (megamod hook install)"
_COPIES = "which look like copies: none is used"


@pytest.fixture
def modules(kernels) -> Path:
    return kernels("bookworm").modules


@pytest.fixture
def arrays(made_once, kernels):
    """``arrays("md 1.0")``: a disk that mdadm or lvm has made."""
    folder = made_once("arrays", lambda path: make_arrays(path, kernels("bookworm")))
    return lambda name: folder / f"{ARRAYS.index(name)}.img"


@pytest.fixture
def start(kernels, boot, tmp_path, modules):
    """``start([disk], "root=/dev/vda")``: the console of a boot with these disks, read or written by nobody else."""

    def start(disks: list[Path], append: str, *, critical=DISK_MODULES, **options) -> str:
        image = write_loader_image(tmp_path / "image", start_plan(modules, critical=critical))
        return boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=disks, append=append, **options).console

    return start


@pytest.fixture
def root_disk(make_root, make_disk_image):
    """``root_disk(label="my root")``: a root whose init ends the guest with a sentence of its own."""

    def make(**options) -> Path:
        return make_disk_image(make_root("echo the end" + POWER_OFF), **options)

    return make


@pytest.mark.parametrize("name", ["md 0.90", "md 1.0", "md 0.90 in a partition"])
def test_half_of_a_mirror_is_not_mounted_though_it_looks_like_a_root(arrays, start, name):
    console = start([arrays(name)], f"root=UUID={UUID} rw rootwait")
    device = "/dev/vda1" if "partition" in name else "/dev/vda"
    rest = after(console, f"megamod: error: root UUID={UUID}: {device} is a member of a RAID array (linux_raid_member)")
    after(rest, "which the loader does not open", _WAY_OUT, "Attempted to kill init!")
    assert "waiting for root" not in console and "mounted filesystem" not in console


def test_both_halves_of_a_mirror_are_refused_as_members_not_as_copies(arrays, start, tmp_path):
    second = shutil.copyfile(arrays("md 1.0"), tmp_path / "second.img")
    console = start([arrays("md 1.0"), second], f"root=UUID={UUID} rw")
    assert "is a member of a RAID array (linux_raid_member)" in console
    assert _COPIES not in console


def test_partition_inside_a_mirror_of_whole_disks_is_not_mounted(arrays, start, root_disk, tmp_path):
    disk = shutil.copyfile(arrays("md 1.0 around partitions"), tmp_path / "around.img")
    write_at(disk, 1 << 20, root_disk(uuid=UUID, size_mib=16).read_bytes())
    console = start([disk], "root=/dev/vda1 rootwait")
    assert "megamod: error: root /dev/vda1: /dev/vda1 is a member of a RAID array (linux_raid_member)" in console


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("luks2", "/dev/vda is encrypted (crypto_LUKS)"),
        ("swap", "/dev/vda holds swap, not a file system"),
        ("ext4 and btrfs", "/dev/vda holds ext4 and btrfs: name the right one in rootfstype="),
    ],
)
def test_what_cannot_be_a_root_is_named_at_once(start, tmp_path, name, words):
    ZOO[name](tmp_path / "disk")
    console = start([tmp_path / "disk"], "root=/dev/vda rootwait")
    after(console, f"megamod: error: root /dev/vda: {words}", "Attempted to kill init!")


def test_encrypted_disk_is_named_while_the_root_is_waited_for(start, tmp_path):
    ZOO["luks2"](tmp_path / "disk")
    console = start([tmp_path / "disk"], f"root=UUID={UUID} rootwait=1")
    rest = after(console, f"megamod: waiting for root UUID={UUID}", "vda is encrypted (crypto_LUKS)", _WAY_OUT)
    after(rest, "it did not appear within 1 s; block devices: vda (crypto_LUKS)")


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("/dev/nfs", "the loader sets up no network"),
        ("/dev/mapper/vg-root", "nothing here makes devices of the device mapper"),
        ("/dev/md0", "the loader assembles no RAID array"),
        ("/dev/vg/root", "the kernel makes no such name; the loader activates no LVM volume"),
        ("/dev/disk/by-id/wwn-1", "only udev makes that name, and there is no udev here"),
    ],
)
def test_name_that_can_never_appear_is_refused_even_with_rootwait(start, root_disk, root, words):
    console = start([root_disk()], f"root={root} rootwait")
    after(console, f"megamod: error: root {root}: {words}", _WAY_OUT, "Attempted to kill init!")


def test_network_root_is_refused_though_its_type_needs_no_device(start, root_disk):
    """As nfs is such a type; tmpfs is another one, and always there."""
    console = start([root_disk()], "root=/dev/nfs rootfstype=tmpfs rootwait")
    assert "megamod: error: root /dev/nfs: the loader sets up no network" in console


def test_two_copies_of_a_root_are_both_named_and_none_is_mounted(start, root_disk, tmp_path):
    first = root_disk(uuid=UUID)
    second = shutil.copyfile(first, tmp_path / "copy.img")
    console = start([first, second], f"root=UUID={UUID} rootwait")
    assert f"megamod: error: UUID={UUID} is on /dev/vd" in console and _COPIES in console
    assert "/dev/vda" in console and "/dev/vdb" in console and "the end" not in console


@pytest.mark.parametrize("root", [r"LABEL=my\x20root", 'LABEL="my root"', r"/dev/disk/by-label/my\x20root"])
def test_label_with_a_space_is_found_in_each_way_that_people_write_it(start, root_disk, root):
    other = root_disk(label="other")
    console = start([other, root_disk(label="my root")], f"root={root}")
    after(console, "megamod: root /dev/vdb ext4 mounted", "the end")


def test_device_number_in_hexadecimal_is_what_the_kernel_takes_it_for(start, root_disk):
    console = start([root_disk(), root_disk()], "root=fe10 rootfstype=auto")
    after(console, "megamod: root /dev/vdb ext4 mounted", "the end")


@pytest.fixture
def btrfs_parts(tmp_path, tool):
    """``btrfs_parts(3, "raid1c3")``: an empty btrfs on three devices: three files."""
    tool("mkfs.btrfs", package="btrfs-progs")

    def make(count: int, profile: str) -> list[Path]:
        paths = [tmp_path / f"part{number}.img" for number in range(count)]
        for path in paths:
            with path.open("wb") as file:
                file.truncate(256 << 20)
        run(["mkfs.btrfs", "-q", "-U", UUID, "-d", profile, "-m", profile, *paths])
        return paths

    return make


@pytest.fixture
def two_halves(btrfs_parts):
    """An empty btrfs on two devices: two files."""
    return btrfs_parts(2, "raid1")


_BTRFS = ("virtio_pci", "virtio_blk", "crc32c_generic", "btrfs")
# mkfs.btrfs fills only one device with files; what follows the mount is the same for all file systems.
_MOUNTED = ("btrfs mounted", "megamod: error: no init in the root file system")


@pytest.mark.parametrize("root", [f"UUID={UUID}", "/dev/vda", "/dev/vdb"])
def test_btrfs_on_two_devices_is_mounted_when_both_are_there(start, two_halves, root):
    after(start(two_halves, f"root={root}", critical=_BTRFS), *_MOUNTED)


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "root"), [("raid1c3", f"UUID={UUID}"), ("raid0", "/dev/vdc")])
def test_btrfs_on_three_devices_is_mounted_when_all_are_there(start, btrfs_parts, profile, root):
    after(start(btrfs_parts(3, profile), f"root={root}", critical=_BTRFS), *_MOUNTED)


@pytest.mark.slow
def test_btrfs_of_three_devices_is_waited_for_until_the_last_is_named(start, btrfs_parts):
    console = start(btrfs_parts(3, "raid1c3")[:2], f"root=UUID={UUID} rootwait=1", critical=_BTRFS)
    rest = after(console, "2 of its 3 devices are there", "1 of its 3 devices did not appear within 1 s")
    assert "btrfs mounted" not in rest


def test_btrfs_without_its_second_device_is_waited_for_and_then_named(start, two_halves):
    console = start(two_halves[:1], f"root=UUID={UUID} rootwait=1", critical=_BTRFS)
    rest = after(console, "megamod: /dev/vda: 1 of its 2 devices are there")
    after(rest, "1 of its 2 devices did not appear within 1 s (the option degraded mounts it without)")
    assert "btrfs mounted" not in console


def test_btrfs_without_its_second_device_is_mounted_if_asked_for_after_a_wait(start, two_halves):
    append = f"root=UUID={UUID} rootwait=1 rootflags=degraded"
    after(start(two_halves[:1], append, critical=_BTRFS), "megamod: waiting for root", *_MOUNTED)


_PLAIN = "file.driver=file,file.filename={}"


def _attached(path: Path, options: str) -> list[str]:
    return ["-drive", f"driver=raw,if=virtio,{options}".replace("{}", str(path))]


def test_disk_that_cannot_be_read_does_not_keep_the_root_from_being_found(start, root_disk, tmp_path):
    """QEMU lets every read of the first disk fail."""
    ZOO["swap"](tmp_path / "bad")
    broken = "file.driver=blkdebug,file.image.driver=file,file.image.filename={},file.inject-error.0.event=read_aio"
    disks = [
        *_attached(tmp_path / "bad", broken),
        *_attached(root_disk(uuid=UUID), _PLAIN),
    ]
    after(start([], f"root=UUID={UUID}", extra=disks), "megamod: root /dev/vdb ext4 mounted", "the end")


def test_disk_that_stops_answering_is_named_and_the_root_is_mounted(start, root_disk, tmp_path):
    serve(tmp_path / "socket")
    stalling = "file.driver=nbd,file.export=disk,file.server.type=unix,file.server.path={}"
    disks = [*_attached(tmp_path / "socket", stalling), *_attached(root_disk(uuid=UUID), _PLAIN)]
    console = start([], f"root=UUID={UUID}", extra=disks, until="the end")
    rest = after(console, "megamod: vda does not answer; continuing without it")
    after(rest, "megamod: root /dev/vdb ext4 mounted", "the end")
