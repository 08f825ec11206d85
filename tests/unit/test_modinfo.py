"""The .modinfo of a module file: the pairs that modinfo shows, in either byte order, and nothing of a damaged file."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from megamod.modules.modinfo import read_modinfo
from tests.fuzz.damage import some_bytes
from tests.unit.module_factory import Ko

GOOD = bytes(Ko("one", info={"alias": "of:N*T*Cacme,one", "softdep": "pre: sums"}))


def big_endian(text: bytes) -> bytes:
    """A 32-bit big-endian file, as a MIPS router's modules are, with *text* in its .modinfo."""
    names = b"\0.shstrtab\0.modinfo\0"
    content = names + text
    rows = [(0,) * 10, (1, 3, 0, 0, 52, len(names), 0, 0, 1, 0), (11, 1, 2, 0, 52 + len(names), len(text), 0, 0, 1, 0)]
    start = 52 + len(content)
    head = struct.pack(">4s4B8x2H5I6H", b"\x7fELF", 1, 2, 1, 0, 1, 8, 1, 0, 0, start, 0, 52, 0, 0, 40, 3, 1)
    return head + content + b"".join(struct.pack(">10I", *row) for row in rows)


def test_pairs_are_those_that_modinfo_shows(tmp_path: Path, tool: Callable[..., str]) -> None:
    path = tmp_path / "one.ko"
    path.write_bytes(GOOD)
    for key in ("alias", "softdep", "license", "vermagic"):
        done = subprocess.run(
            [tool("modinfo", package="kmod"), "-F", key, path], capture_output=True, text=True, check=True
        )
        assert [value for name, value in read_modinfo(GOOD) if name == key] == done.stdout.splitlines()


def test_a_big_endian_module_is_read() -> None:
    data = big_endian(b"license=GPL\0alias=platform:gpio\0\0")
    assert list(read_modinfo(data)) == [("license", "GPL"), ("alias", "platform:gpio")]


@given(st.integers(min_value=0))
def test_a_damaged_module_ends_in_pairs_or_in_none(seed: int) -> None:
    rng = random.Random(seed)
    head = some_bytes(GOOD[:64], rng)
    for data in (some_bytes(GOOD, rng), head + GOOD[len(head) :]):
        assert all(isinstance(key, str) for key, _value in read_modinfo(data))


def test_a_table_beyond_all_addresses_is_none() -> None:
    data = bytearray(GOOD)
    data[40:48] = b"\xff" * 8  # e_shoff
    assert list(read_modinfo(bytes(data))) == []
