"""From a name to a device on a /sys and a /dev that are made up: what needs no disk to be read; and base64."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

_FIND = """
#include "find.h"
#include "limits.h"
int main(int argc, char **argv, char **envp)
{
    static struct boot boot;
    char name[NAME_ROOM] = "";
    const char *refusal;
    TEXT(t, 512);
    long err;
    (void)argc; (void)envp;
    boot.sys = (int)sys_openat(AT_FDCWD, argv[1], O_RDONLY | O_DIRECTORY, 0);
    boot.dev = (int)sys_openat(AT_FDCWD, argv[2], O_RDONLY | O_DIRECTORY, 0);
    err = find_device(&boot, argv[3], USE_RAW, name);
    refusal = refusal_of(&boot, argv[3], false);
    text_format(&t, "%s|%s", err < 0 ? errno_name(err) : name, refusal ? refusal : "");
    sys_write(1, t.data, t.used);
    return 0;
}
"""
_PARTS = ("efi.c", "device.c", "find.c", "scan.c", "superblock.c", "partition.c")
_PARTS += ("files.c", "log.c", "retry.c", "uevents.c", "cmdline.c")
_DECODE = """
#include "root_hash_signature.c"
int main(int argc, char **argv, char **envp)
{
    long size = decode(argv[1], length(argv[1]));
    (void)argc; (void)envp;
    if (size < 0)
        return 1;
    sys_write(1, signature, (size_t)size);
    return 0;
}
"""


@pytest.fixture(scope="module")
def finder(program) -> Path:
    return program(_FIND.replace('#include "limits.h"', '#include "limits.h"\n#include "log.h"'), *_PARTS)


@pytest.fixture
def find(finder, tmp_path):
    """``find("8:1")``: the device on a machine with two disks, partitions and a device of the device mapper; and why
    the name can never be there."""
    sys, dev = tmp_path / "sys", tmp_path / "dev"
    numbers = {
        "sda": "8:0",
        "sda1": "8:1",
        "sda2": "8:2",
        "cciss!c0d0": "104:0",
        "dm-0": "253:0",
        "ubiblock0_0": "252:0",
    }
    for name, number in numbers.items():
        disk = "sda" if name.startswith("sda") else name
        folder = sys / "devices" / disk / (name if name != disk else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dev").write_text(f"{number}\n")
        if name != disk:
            (folder / "partition").write_text(f"{name[-1]}\n")
        for place, key in (("class/block", name), ("dev/block", number)):
            (sys / place).mkdir(parents=True, exist_ok=True)
            (sys / place / key).symlink_to(folder)
        node = dev / name.replace("!", "/")
        node.parent.mkdir(parents=True, exist_ok=True)
        node.touch()
    (sys / "devices/dm-0/dm").mkdir()
    (sys / "devices/dm-0/dm/name").write_text("vroot\n")

    def run(wanted: str) -> tuple[str, str]:
        command = [finder, sys, dev, wanted]
        found, _, refusal = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("|")
        return found, refusal

    return run


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("/dev/sda2", "sda2"),
        ("/dev/cciss/c0d0", "cciss!c0d0"),
        ("8:1", "sda1"),
        ("801", "sda1"),
        ("104:0", "cciss!c0d0"),
        # A device that the kernel has made by dm-mod.create= has its name in sysfs alone.
        ("/dev/mapper/vroot", "dm-0"),
        ("/dev/dm-0", "dm-0"),
        ("/dev/ubiblock0_0", "ubiblock0_0"),
    ],
)
def test_a_name_leads_to_its_device(find, wanted, name):
    assert find(wanted) == (name, "")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("/dev/mapper/other", "device mapper"),
        ("/dev/md0", "RAID"),
        ("/dev/nfs", "network"),
        ("/dev/vg/root", "LVM"),
        ("/dev/disk/by-id/ata-x", "only udev"),
        ("/dev/sdb", ""),
        ("8:17", ""),
    ],
)
def test_a_name_that_leads_nowhere_is_waited_for_only_if_it_may_come(find, wanted, words):
    found, refusal = find(wanted)
    assert found == "ENODEV" and (words in refusal if words else not refusal)


@pytest.fixture(scope="module")
def decoder(program) -> Path:
    return program(_DECODE, "files.c", "log.c", "slot.c", "cmdline.c")


@pytest.mark.parametrize("data", [b"\0", b"ab", b"abc", bytes(range(256)), b"\xff" * 2000])
def test_base64_of_a_signature_is_what_it_stands_for(decoder, data):
    for text in (base64.b64encode(data).decode(), base64.b64encode(data).decode().rstrip("=")):
        assert subprocess.run([decoder, text], capture_output=True, check=True).stdout == data


@pytest.mark.parametrize("text", ["", "=", "a b", "ab-_", "ab=c"])
def test_what_is_not_base64_is_refused(decoder, text):
    assert subprocess.run([decoder, text], capture_output=True, check=False).returncode == 1
