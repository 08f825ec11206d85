"""What the loader takes a disk for, beside libblkid's answer: `blkid -p`, and `partx` for partition tables."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.disks.zoo import BAD_CHECKSUM, BCACHEFS, TABLES, UUID, ZOO, run, write_at

_AMBIVALENT = 8
_MEMBERS = {"linux_raid_member", "isw_raid_member", "ddf_raid_member", "crypto_LUKS", "LVM2_member", "bcache", "drbd"}
_MEMBERS |= {"BitLocker", "DM_verity_hash", "ubi"}

_TOOLS = {
    **{"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs", "mkfs.f2fs": "f2fs-tools"},
    **{"mkfs.erofs": "erofs-utils", "mksquashfs": "squashfs-tools", "mkfs.vfat": "dosfstools"},
    **{"mkfs.exfat": "exfatprogs", "mkntfs": "ntfs-3g", "mkfs.jfs": "jfsutils", "mkfs.nilfs2": "nilfs-tools"},
    **{"mkreiserfs": "reiserfsprogs", "genisoimage": "genisoimage", "mkfs.ubifs": "mtd-utils"},
    **{"cryptsetup": "cryptsetup-bin", "make-bcache": "bcache-tools", "sgdisk": "gdisk", "sfdisk": "fdisk"},
    **{"blkid": "util-linux", "partx": "util-linux", "mkfs.cramfs": "util-linux-extra"},
}


@pytest.fixture(scope="module", autouse=True)
def tools(tool):
    """All programs that make disks are there."""
    for name, package in _TOOLS.items():
        if name != "mkfs.cramfs":
            tool(name, package=package)


def _ask_blkid(path: Path) -> tuple[int, dict[str, str]]:
    """(exit status, tags): 8 is an ambivalent result, 2 is nothing."""
    found = {}
    status = 0
    for tag in ("TYPE", "UUID", "LABEL"):
        result = subprocess.run(["blkid", "-p", "-o", "value", "-s", tag, path], capture_output=True, check=False)
        found[tag] = result.stdout.decode().removesuffix("\n")
        status = result.returncode
    return status, found


@pytest.mark.parametrize("name", ZOO)
def test_disk_is_taken_for_what_libblkid_takes_it_for(identify, tmp_path, name):
    path = tmp_path / "disk"
    ZOO[name](path)
    status, tags = _ask_blkid(path)
    seen = identify(path)
    if status == _AMBIVALENT:
        assert seen.second and not seen.member
    elif tags["TYPE"] in _MEMBERS:
        assert seen.member == tags["TYPE"]
        assert not (seen.member_uuid and tags["UUID"]) or seen.member_uuid.lower() == tags["UUID"].lower()
    else:
        assert (seen.member, seen.second) == ("", "")
        assert (seen.name, seen.uuid.lower(), seen.label) == (tags["TYPE"], tags["UUID"].lower(), tags["LABEL"])


def test_zoo_has_sixty_disks_and_each_answer_that_there_is(identify, tmp_path):
    assert len(ZOO) + len(TABLES) >= 60
    names = set()
    for number, name in enumerate(("ext4", "luks2", "ext4 and btrfs", "journal", "empty")):
        path = tmp_path / f"disk{number}"
        ZOO[name](path)
        seen = identify(path)
        names.add((bool(seen.member), bool(seen.name), bool(seen.second)))
    assert names == {(False, True, False), (True, False, False), (False, True, True), (False, False, False)}


def test_ext4_whose_checksum_is_wrong_is_unknown_as_it_is_to_the_kernel(identify, tmp_path):
    BAD_CHECKSUM(tmp_path / "disk")
    assert identify(tmp_path / "disk").name == ""


@pytest.mark.parametrize("magic", BCACHEFS)
def test_bcachefs_says_how_many_devices_it_is_made_of(identify, tmp_path, magic):
    BCACHEFS[magic](tmp_path / "disk")
    seen = identify(tmp_path / "disk")
    assert (seen.name, seen.uuid, seen.label, seen.devices) == ("bcachefs", UUID, "pool of two", 2)


def test_btrfs_says_how_many_devices_it_is_made_of(identify, tmp_path):
    ZOO["btrfs on two devices"](tmp_path / "disk")
    first, second = identify(tmp_path / "disk"), identify(tmp_path / "disk.second")
    assert (first.devices, second.devices) == (2, 2)
    assert first.uuid == second.uuid


def test_controllers_metadata_counts_on_whole_disks_only(identify, tmp_path):
    ZOO["imsm"](tmp_path / "disk")
    assert identify(tmp_path / "disk", "whole").member == "isw_raid_member"
    assert identify(tmp_path / "disk", "part").member == ""


@pytest.mark.parametrize("size", [0, 1, 511, 4095, 65536, 69631, 131071])
def test_disk_cut_off_anywhere_is_no_file_system_and_no_crash(identify, tmp_path, size):
    path = tmp_path / "disk"
    path.write_bytes(bytes(size))
    assert identify(path).name == ""


@pytest.mark.parametrize("name", TABLES)
def test_partitions_have_the_names_that_libblkid_gives_them(look, tmp_path, name):
    path = tmp_path / "disk"
    TABLES[name](path)
    command = ["partx", "-P", "-b", "-o", "NR,UUID,NAME,TYPE,FLAGS", path]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    listed = [dict(word.split("=", 1) for word in shlex.split(line)) for line in text.splitlines()]
    assert listed or "damaged twice" in name
    for entry in listed:
        uuid, label, kind, flags = look(path, entry["NR"]).split("|")
        name = entry["NAME"].encode().decode("unicode_escape").encode("latin-1").decode()  # partx writes \\xc3\\xb6
        assert (uuid, label) == (entry["UUID"].lower(), name)
        assert not kind or (kind, int(flags)) == (entry["TYPE"].lower(), int(entry["FLAGS"], 16))
    if not listed:
        assert look(path, "1") == ""


def test_entry_beyond_the_end_of_a_gpt_is_none(look, tmp_path):
    TABLES["gpt"](tmp_path / "disk")
    assert look(tmp_path / "disk", "129") == ""
    assert look(tmp_path / "disk", "0") == ""


def test_boot_sector_without_a_table_names_no_partition(look, tmp_path):
    path = tmp_path / "disk"
    run(["truncate", "-s", "8M", path])
    assert look(path, "1") == ""
    write_at(path, 510, b"\x55\xaa")
    assert look(path, "1").startswith("00000000-01|")
