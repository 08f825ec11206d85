"""Modules that stay packed in the image: what the loader unpacks is what lz4 packed, and damage is refused."""

from __future__ import annotations

import errno
import random
import subprocess
from collections.abc import Callable

import pytest

from megamod.common.compression import compress_inside
from megamod.common.host import data_folder
from megamod.loader.programs import compile_program

pytestmark = pytest.mark.heavy

_UNPACK = """
#include "files.h"
#include "unpack.h"
int main(int argc, char **argv, char **envp)
{
    struct unpacked out;
    long fd = sys_openat(AT_FDCWD, argv[1], O_RDONLY, 0), err;
    (void)argc; (void)envp;
    if (fd < 0)
        return 1;
    err = unpack_file((int)fd, &out);
    if (err < 0)
        return (int)-err;
    write_all(1, (const char *)out.data, out.size);
    return 0;
}
"""

Unpack = Callable[[bytes], "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def unpack(tmp_path_factory: pytest.TempPathFactory) -> Unpack:
    """``unpack(packed)``: the loader's own code, run on a file with these bytes."""
    folder = tmp_path_factory.mktemp("unpack")
    (folder / "main.c").write_text(_UNPACK)
    parts = (data_folder("loader") / part for part in ("unpack.c", "files.c", "text.c", "sys.c"))
    program, file = folder / "unpack", folder / "file"
    program.write_bytes(compile_program("x86_64", [folder / "main.c", *parts]))
    program.chmod(0o755)

    def run(packed: bytes) -> subprocess.CompletedProcess[bytes]:
        file.write_bytes(packed)
        return subprocess.run([program, file], capture_output=True, check=False)

    return run


def _content(size: int, seed: int) -> bytes:
    """Runs, repetitions near and far, and noise, as a module has them."""
    draw = random.Random(seed)
    data = bytearray()
    while len(data) < size:
        kind = draw.randrange(4)
        if kind == 0:
            data += draw.randbytes(draw.randrange(1, 400))
        elif kind == 1:
            data += bytes([draw.randrange(256)]) * draw.randrange(1, 3000)
        elif kind == 2:
            data += draw.randbytes(draw.randrange(1, 12)) * draw.randrange(1, 60)
        elif data:
            start = draw.randrange(max(0, len(data) - 70_000), len(data))
            data += data[start : start + draw.randrange(1, 600)]
    return bytes(data[:size])


@pytest.mark.parametrize("size", [1, 4, 12, 13, 15, 16, 64, 255, 4096, 100_001, 8 << 20, (8 << 20) + 1, 17_000_000])
def test_what_was_packed_comes_back(unpack: Unpack, size: int) -> None:
    content = _content(size, size)
    result = unpack(compress_inside(content))
    assert (result.returncode, len(result.stdout)) == (0, size)
    assert result.stdout == content


@pytest.mark.parametrize("level", ["-1", "-3", "-12"])
def test_what_the_program_lz4_packed_comes_back(unpack: Unpack, tool: Callable[..., str], level: str) -> None:
    content = _content(300_000, 7)
    packed = subprocess.run([tool("lz4", package="lz4"), "-l", level], input=content, capture_output=True, check=True)
    assert unpack(packed.stdout).stdout == content


def test_every_cut_and_any_damage_is_refused_or_harmless(unpack: Unpack) -> None:
    content = _content(2_000, 3)
    packed = compress_inside(content)
    draw = random.Random(11)
    for _ in range(150):
        damaged = bytearray(packed[: draw.choice((len(packed), draw.randrange(1, len(packed))))])
        for _ in range(draw.randrange(4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        assert unpack(bytes(damaged)).returncode in (0, errno.EBADMSG)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x02\x21\x4c\x18",
        b"\x7fELF" + bytes(60),
        b"\x04\x22\x4d\x18" + bytes(20),
        b"\x02\x21\x4c\x18\x05\0\0\0\x00\x00\x00\x00\x00",
        b"\x02\x21\x4c\x18\x04\0\0\0\x1fA\x00\x00",
        b"\x02\x21\x4c\x18\xff\xff\xff\xffA",
    ],
)
def test_what_is_no_frame_is_refused(unpack: Unpack, packed: bytes) -> None:
    result = unpack(packed)
    assert (result.returncode, result.stdout) == (errno.EBADMSG, b"")


def test_a_block_before_the_last_must_be_full(unpack: Unpack) -> None:
    one = compress_inside(b"short" * 10)
    assert unpack(one + one[4:]).returncode == errno.EBADMSG
