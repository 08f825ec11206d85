"""Members of arrays and volume groups as mdadm and lvm make them in a guest, beside libblkid's answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.disks.arrays import ARRAYS, make_arrays
from tests.disks.zoo import UUID

_START = 1 << 20  # of the partition, where there is one
_VISIBLE = {"md 0.90", "md 1.0", "md 1.0 with a bitmap", "md 0.90 in a partition"}


@pytest.fixture
def member(made_once, kernels, tmp_path):
    """``member("md 1.0")``: the disk, or the partition on it, that mdadm or lvm was given."""

    def get(name: str) -> Path:
        folder = made_once("arrays", lambda path: make_arrays(path, kernels("bookworm")))
        disk = folder / f"{ARRAYS.index(name)}.img"
        if "in a partition" not in name:
            return disk
        part = tmp_path / "part"
        part.write_bytes(disk.read_bytes()[_START:])
        return part

    return get


@pytest.mark.parametrize("name", ARRAYS)
def test_member_is_what_libblkid_takes_it_for(identify, member, name):
    path = member(name)
    result = subprocess.run(["blkid", "-p", "-o", "value", "-s", "TYPE", path], capture_output=True, check=False)
    kind = result.stdout.decode().strip()
    seen = identify(path)
    assert seen.member == kind and kind.endswith("_member")
    # What makes the end of a device worth a look: from its start it is a file system with the root's UUID.
    assert (seen.uuid == UUID) == (name in _VISIBLE)
