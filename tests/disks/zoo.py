"""Disks made by the programs that people make theirs with: file systems, members, partition tables, leftovers.

`ZOO` maps a name to the function that makes the disk; every one is a sparse file, and none needs root.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

UUID = "5f0c2d3a-8a54-4f0e-9c8e-0123456789ab"
_MIB = 1 << 20

Maker = Callable[[Path], None]


def run(command: Sequence[object], *, data: bytes = b"") -> None:
    """Run a program that makes a disk; its output is shown if it fails."""
    words = [str(word) for word in command]
    environment = dict(os.environ) | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(words, input=data, capture_output=True, check=False, env=environment)
    assert result.returncode == 0, (words, result.stdout, result.stderr)


def _by(*command: str, mib: int = 64) -> Maker:
    """A sparse file of *mib* MiB, and the command with `{}` for it."""

    def make(path: Path) -> None:
        _sparse(path, mib)
        run([word.replace("{}", str(path)) for word in command])

    return make


def _sparse(path: Path, mib: int) -> None:
    with path.open("wb") as file:
        file.truncate(mib * _MIB)


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Change some bytes of a disk."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _then(first: Maker, *changes: tuple[int, bytes]) -> Maker:
    """A disk of which some bytes are changed afterwards."""

    def make(path: Path) -> None:
        first(path)
        for offset, data in changes:
            write_at(path, offset, data)

    return make


def _folder(*command: str) -> Maker:
    """An image that a program makes of a folder, `{folder}`."""

    def make(path: Path) -> None:
        folder = path.with_suffix(".folder")
        folder.mkdir()
        (folder / "file").write_text("content\n" * 100)
        run([word.replace("{folder}", str(folder)).replace("{}", str(path)) for word in command])

    return make


def _luks(*options: str) -> Maker:
    def make(path: Path) -> None:
        _sparse(path, 32)
        fast = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-")
        run(["cryptsetup", "luksFormat", "-q", *fast, *options, path], data=b"secret")

    return make


def _verity(path: Path) -> None:
    data = path.with_suffix(".data")
    data.write_bytes(bytes(_MIB))
    path.write_bytes(b"")
    run(["veritysetup", "format", data, path])


def _ubi(path: Path) -> None:
    volume, settings = path.with_suffix(".ubifs"), path.with_suffix(".ini")
    _ubifs(volume)
    lines = f"[root]\nmode=ubi\nimage={volume}\nvol_id=0\nvol_type=dynamic\nvol_name=root\nvol_flags=autoresize\n"
    settings.write_text(lines)
    run(["ubinize", "-o", path, "-m", "2048", "-p", "128KiB", settings])


def _ubifs(path: Path) -> None:
    folder = path.with_suffix(".folder")
    folder.mkdir()
    run(["mkfs.ubifs", "-r", folder, "-m", "2048", "-e", "126976", "-c", "100", "-o", path])


def _over(first: Maker, second: Maker, *, keep: tuple[int, int]) -> Maker:
    """A disk of *first* with the bytes from `keep[0]` to `keep[1]` of *second*, as a careless mkfs leaves them."""

    def make(path: Path) -> None:
        other = path.with_suffix(".other")
        first(path)
        second(other)
        write_at(path, keep[0], other.read_bytes()[keep[0] : keep[1]])

    return make


def _bcachefs(magic: str) -> Maker:
    """The superblock of bcachefs on the first of two devices (struct bch_sb, fs/bcachefs/bcachefs_format.h, 6.7)."""

    def make(path: Path) -> None:
        _sparse(path, 32)
        head = struct.pack("<16xHH4x", 1, 1) + bytes.fromhex(magic) + bytes(16) + bytes.fromhex(UUID.replace("-", ""))
        head += b"pool of two".ljust(32, b"\0") + struct.pack("<QQHBBI", 8, 1, 8, 0, 2, 0)
        write_at(path, 4096, head)
        write_at(path, 4096 + 257, b"\x0b")  # layout.sb_max_size_bits

    return make


def _two_halves(path: Path) -> None:
    _sparse(path, 256)
    _sparse(path.with_suffix(".second"), 256)
    run(["mkfs.btrfs", "-q", "-L", "two halves", "-d", "raid1", "-m", "raid1", path, path.with_suffix(".second")])


_ext4 = _by("mkfs.ext4", "-q", "-U", UUID, "-L", "my root", "{}")
_btrfs = _by("mkfs.btrfs", "-q", "-U", UUID, "-L", "a label with spaces", "{}", mib=128)
_xfs = _by("mkfs.xfs", "-q", "-L", "twelve-bytes", "{}", mib=320)
_swap = _by("mkswap", "-q", "-L", "swapped", "{}")
_vfat = _by("mkfs.vfat", "-F", "16", "-n", "BOOT DISK", "{}")
_luks1 = _luks("--type", "luks1")
_MAGIC_OLD = "c68573f64e1a45ca8265f57f48ba6d81"
_MAGIC_NEW = "c68573f666ce90a9d96a60cf803df7ef"

# libblkid knows it since 2.39.
BCACHEFS = {"old": _bcachefs(_MAGIC_OLD), "new": _bcachefs(_MAGIC_NEW)}
# The kernel refuses it (ext4_superblock_csum_verify), and so does libblkid, but only since 2.39.
BAD_CHECKSUM = _then(_ext4, (1024 + 1020, b"\0\0\0\0"))

ZOO: dict[str, Maker] = {
    "empty": lambda path: _sparse(path, 8),
    "noise": lambda path: path.write_bytes(os.urandom(16) * (_MIB >> 4)),
    "ext2": _by("mkfs.ext2", "-q", "{}"),
    "ext2 of revision 0": _by("mkfs.ext2", "-q", "-r", "0", "-b", "4096", "{}"),
    "ext3": _by("mkfs.ext3", "-q", "-L", "three", "{}"),
    "ext4": _ext4,
    "ext4 with small blocks": _by("mkfs.ext4", "-q", "-b", "1024", "-L", "größe", "{}"),
    "ext4 without checksums": _by("mkfs.ext4", "-q", "-O", "^metadata_csum", "{}"),
    "ext4 without a journal": _by("mkfs.ext4", "-q", "-O", "^has_journal", "{}"),
    "ext4 with a full label": _by("mkfs.ext4", "-q", "-L", "sixteen-bytes-lo", "{}"),
    "ext4 with a label that ends in a space": _by("mkfs.ext4", "-q", "-L", "padded  ", "{}"),
    "ext4 with a damaged magic": _then(_ext4, (1080, b"\0\0")),
    "journal": _by("mkfs.ext4", "-q", "-O", "journal_dev", "{}"),
    "xfs": _xfs,
    "xfs without checksums": _by("mkfs.xfs", "-q", "-m", "crc=0", "{}", mib=320),
    "xfs with sectors of 4 KiB": _by("mkfs.xfs", "-q", "-s", "size=4096", "{}", mib=320),
    "xfs with a bad block size": _then(_xfs, (120, b"\x05")),
    "btrfs": _btrfs,
    "btrfs with xxhash": _by("mkfs.btrfs", "-q", "--csum", "xxhash", "{}", mib=128),
    "btrfs with sha256": _by("mkfs.btrfs", "-q", "--csum", "sha256", "{}", mib=128),
    "btrfs on two devices": _two_halves,
    "f2fs": _by("mkfs.f2fs", "-q", "-l", "größe", "{}"),
    "f2fs without a label": _by("mkfs.f2fs", "-q", "{}"),
    "erofs": _folder("mkfs.erofs", "-U", UUID, "{}", "{folder}"),
    "squashfs": _folder("mksquashfs", "{folder}", "{}", "-quiet", "-no-progress"),
    "squashfs with xz": _folder("mksquashfs", "{folder}", "{}", "-quiet", "-no-progress", "-comp", "xz"),
    "cramfs": _folder("mkfs.cramfs", "-n", "cram", "{folder}", "{}"),
    "vfat of 12 bits": _by("mkfs.vfat", "-F", "12", "-n", "TWELVE", "{}", mib=8),
    "vfat of 16 bits": _vfat,
    "vfat of 32 bits": _by("mkfs.vfat", "-F", "32", "-n", "THIRTYTWO", "{}"),
    "vfat without a label": _by("mkfs.vfat", "-F", "32", "{}"),
    "vfat with large clusters": _by("mkfs.vfat", "-F", "16", "-s", "32", "{}", mib=256),
    "vfat without its type's name": _then(_vfat, (54, b"        ")),
    "vfat with a media byte that is none": _then(_vfat, (21, b"\x11")),
    "exfat": _by("mkfs.exfat", "-L", "größe", "{}"),
    "exfat without a label": _by("mkfs.exfat", "{}"),
    "ntfs": _by("mkntfs", "-q", "-F", "-f", "-s", "512", "-p", "0", "-H", "0", "-S", "0", "{}"),
    "jfs": _by("mkfs.jfs", "-q", "-L", "journaled", "{}"),
    "jfs without a label": _by("mkfs.jfs", "-q", "{}"),
    "jfs with a bad block size": _then(_by("mkfs.jfs", "-q", "{}"), (32768 + 16, b"\x11")),
    "nilfs2": _by("mkfs.nilfs2", "-q", "-L", "log", "{}", mib=256),
    "nilfs2 whose checksum is wrong": _then(
        _by("mkfs.nilfs2", "-q", "{}", mib=256), (1024 + 16, b"\0"), (256 * _MIB - 4096, bytes(4096))
    ),
    "reiserfs": _by("mkreiserfs", "-q", "-f", "-f", "-l", "hans", "{}"),
    "iso9660": _folder("genisoimage", "-quiet", "-V", "LIVE_MEDIUM", "-o", "{}", "{folder}"),
    "iso9660 with Joliet": _folder("genisoimage", "-quiet", "-J", "-V", "Live medium", "-o", "{}", "{folder}"),
    "ubifs": _ubifs,
    "ubi": _ubi,
    "swap": _swap,
    "swap with pages of 64 KiB": _by("mkswap", "-q", "-p", "65536", "{}"),
    "swap without pages": _then(_swap, (1028, bytes(4))),
    "hibernation image": _then(_swap, (0xFF6, b"S1SUSPEND\0")),
    "hibernation image of uswsusp": _then(_swap, (0xFF6, b"ULSUSPEND\0")),
    "luks1": _luks1,
    "luks2": _luks("--type", "luks2", "--label", "vault"),
    "luks of a version to come": _then(_luks1, (6, b"\0\x07")),
    "bitlocker": _then(_vfat, (0, b"\xeb\x52\x90-FVE-FS-")),
    "verity hashes": _verity,
    "bcache": _by("make-bcache", "-B", "{}"),
    "bcache's cache": _by("make-bcache", "-C", "{}"),
    "drbd": _then(_ext4, (64 * _MIB - 4096 + 60, b"\x83\x74\x02\x6d"), (64 * _MIB - 4096 + 84, b"\0\0\x10\0")),
    "ddf": _then(_ext4, (64 * _MIB - 512, b"\xde\x11\xde\x11")),
    "imsm": _then(_ext4, (64 * _MIB - 1024, b"Intel Raid ISM Cfg Sig. 1.1.00")),
    "ext4 and btrfs": _over(_btrfs, _by("mkfs.ext4", "-q", "{}", mib=128), keep=(1024, 2048)),
    "ext4 and swap": _over(_ext4, _swap, keep=(1024 + 1024, 4096)),
    "ext4 and a squashfs": _then(_ext4, (0, b"hsqs"), (28, b"\x04\0\0\0")),
    "ext4 and iso9660": _over(_ext4, _folder("genisoimage", "-quiet", "-o", "{}", "{folder}"), keep=(32768, 36864)),
    "luks1 and ext4": _over(_luks1, _ext4, keep=(1024, 2048)),
    "luks1 and swap": _over(_luks1, _swap, keep=(4096 - 10, 4096)),
    "boot sector of a boot loader": _then(_by("true"), (0, b"\xeb\x63\x90"), (510, b"\x55\xaa")),
}


def _gpt(path: Path) -> None:
    _sparse(path, 64)
    words = ["--disk-guid", UUID, "-n", "1:2048:+8M", "-t", "1:ef00", "-c", "1:EFI system", "-n", "3:0:+20M"]
    words += ["-t", "3:8304", "-c", "3:größe", "-A", "3:set:60", "-n", "128:0:0", "-c", "128:the last"]
    run(["sgdisk", *words, path])


def _mbr(path: Path) -> None:
    _sparse(path, 64)
    lines = "label: dos\nlabel-id: 0x0a1b2c3d\n,8M,83\n,8M,82\n,,5\n,8M,83\n,8M,83\n"
    run(["sfdisk", "-q", path], data=lines.encode())


def _hybrid(path: Path) -> None:
    _gpt(path)
    run(["sgdisk", "-h", "1", path])


def _gpt_of_4k(path: Path) -> None:
    _sparse(path, 64)
    run(["sfdisk", "-q", "--sector-size", "4096", path], data=b"label: gpt\n,8M\nname=second\n")


_END = 64 * _MIB

TABLES: dict[str, Maker] = {
    "gpt": _gpt,
    "gpt whose first header is damaged": _then(_gpt, (512 + 16, b"\0\0\0\0")),
    "gpt whose first header is gone": _then(_gpt, (512, bytes(512))),
    "gpt whose first entries are damaged": _then(_gpt, (1024 + 56, b"X")),
    "gpt whose copy is damaged": _then(_gpt, (_END - 512, bytes(512))),
    "hybrid mbr": _hybrid,
    "gpt damaged twice": _then(_gpt, (512, bytes(512)), (_END - 512, bytes(512)), (446, bytes(64)), (510, b"\0\0")),
    "mbr with logical partitions": _mbr,
}
