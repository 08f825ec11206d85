"""What the loader cannot do: one table, in Python and in C."""

from __future__ import annotations

import subprocess
import sys

import pytest

from megamod.common.host import data_folder
from megamod.loader.limits import LIMITS, c_header, limits_of_layers, limits_of_words, refusal_of_device


def test_the_loaders_header_is_that_of_the_table() -> None:
    assert (data_folder("loader") / "limits.h").read_text() == c_header()
    printed = subprocess.run(
        [sys.executable, "-m", "megamod.loader.limits"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == c_header()


def test_what_stands_in_the_header_fits_into_its_places() -> None:
    assert all(len(start) < 15 for limit in LIMITS.values() for start in (*limit.names, *limit.words))


@pytest.mark.parametrize(
    ("device", "refusal"),
    [
        ("/dev/sda1", None),
        ("/dev/cciss/c0d0p1", None),
        ("/dev/disk/by-uuid/5f0c", None),
        ("/dev/root", None),
        ("UUID=5f0c", None),
        ("/dev/disk/by-id/ata-X", "udev"),
        ("/dev/mapper/vg-root", "mapper"),
        ("/dev/md0", "array"),
        ("/dev/mdmon", None),
        ("/dev/vg/root", "volume"),
        ("/dev/nfs", "network"),
    ],
)
def test_a_device_that_can_never_be_there_is_known_by_its_name(device: str, refusal: str | None) -> None:
    assert refusal_of_device(device) == (LIMITS[refusal].text if refusal else None)


def test_words_that_other_programs_would_answer_are_known() -> None:
    line = "root=UUID=1 rd.luks.uuid=x rd.lvm=0 quiet dm-mod.create=root,,,ro,0 netroot=iscsi:1.2.3.4::::t"
    assert limits_of_words(line) == [
        ("rd.luks.uuid=x", LIMITS["encrypted"].text),
        ("dm-mod.create=root,,,ro,0", LIMITS["mapper"].text),
        ("netroot=iscsi:1.2.3.4::::t", LIMITS["network"].text),
    ]


def test_layers_of_a_running_root_are_known() -> None:
    layers = ["a partition", "LUKS root", "LVM vg-root", "RAID, level raid1", "LUKS x", "", "zram"]
    assert limits_of_layers(layers) == [LIMITS[key].text for key in ("encrypted", "volume", "array")]
