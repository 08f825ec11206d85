"""Compression, held against the command-line tools."""

from __future__ import annotations

import gzip
import lzma
import os
import random
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megamod.common.compression import compress, decompress, detect, read_module_bytes
from megamod.common.errors import MegamodError

WORDS = [b"virtio", b"ext4", b"crc32c", b"jbd2", b"mbcache", b"\0\0\0\0", b"\x7fELF"]


def sample(size: int) -> bytes:
    """Reproducible bytes that compress to about a third."""
    source = random.Random(size)
    parts: list[bytes] = []
    while sum(map(len, parts[-1000:])) < size and len(parts) < size:
        parts.append(source.choice(WORDS) + source.randbytes(2))
    return b"".join(parts)[:size]


SAMPLE = sample(50_000)

PACK = {
    "gzip": ["gzip", "-9", "-n"],
    "zstd": ["zstd", "-q", "-15", "-T0"],
    "xz": ["xz", "--check=crc32"],
    "lz4": ["lz4", "-q", "-l", "-9"],
    "bzip2": ["bzip2", "-9"],
    "lzma": ["xz", "--format=lzma"],
    "lzo": ["lzop", "-9"],
}


def run(command: list[str], data: bytes) -> bytes:
    if shutil.which(command[0]) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{command[0]} is not installed")
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True, timeout=1200).stdout


@pytest.mark.parametrize("method", PACK)
def test_what_the_tools_pack_is_unpacked(method: str) -> None:
    packed = run(PACK[method], SAMPLE)
    assert detect(packed) == method
    assert decompress(packed) == SAMPLE


UNPACK = {
    "gzip": ["gzip", "-dc"],
    "zstd": ["zstd", "-q", "-dc"],
    "xz": ["xz", "-dc"],
    "lz4": ["lz4", "-q", "-dc"],
}


@pytest.mark.parametrize("data", [b"x" * 99, SAMPLE, bytes(20 << 20)], ids=["little", "sample", "zeros"])
@pytest.mark.parametrize("method", UNPACK)
def test_the_tools_unpack_what_is_packed_by_each_method(method: str, data: bytes) -> None:
    packed = compress(data, method)
    assert detect(packed) == method
    assert run(UNPACK[method], packed) == data
    assert decompress(packed) == data
    assert compress(data, method) == packed


def test_xz_has_the_only_check_that_the_kernel_knows() -> None:
    # Stream flags, 1 is CRC32 (The .xz File Format, 2.1.1.2).
    assert compress(SAMPLE, "xz")[6:8] == b"\0\1"


def test_gzip_has_neither_name_nor_time() -> None:
    assert compress(SAMPLE, "gzip")[:8] == b"\x1f\x8b\x08\0\0\0\0\0"


def test_lz4_is_the_legacy_frame_in_blocks_of_8_mib() -> None:
    packed = compress(bytes(20 << 20), "lz4")
    assert packed[:4] == b"\x02\x21\x4c\x18"
    sizes, position = [], 4
    while position < len(packed):
        sizes.append(int.from_bytes(packed[position : position + 4], "little"))
        position += 4 + sizes[-1]
    assert len(sizes) == 3 and position == len(packed)


def test_zstd_needs_no_larger_window_than_kernels_allow() -> None:
    packed = compress(bytes(64 << 20), "zstd")
    assert zstandard.get_frame_parameters(packed).window_size <= 8 << 20


@pytest.mark.parametrize("data", [b"", b"x", SAMPLE, bytes(1 << 20)], ids=["empty", "byte", "sample", "zeros"])
def test_the_zstd_tool_unpacks_what_is_packed(data: bytes) -> None:
    assert run(["zstd", "-q", "-dc"], compress(data, "zstd")) == data


@settings(deadline=None)
@given(st.binary(max_size=5000))
def test_what_is_packed_is_unpacked(data: bytes) -> None:
    assert decompress(compress(data, "zstd")) == data


def test_none_changes_nothing() -> None:
    assert compress(SAMPLE, "none") == SAMPLE
    assert decompress(SAMPLE) == SAMPLE
    assert decompress(b"") == b""


def test_a_method_that_is_not_written_is_a_bug() -> None:
    with pytest.raises(KeyError):
        compress(b"", "lzo")


def test_frames_have_a_window_for_every_decoder_a_checksum_and_a_size() -> None:
    data = random.Random(0).randbytes(20 << 20)
    frame = zstandard.get_frame_parameters(compress(data, "zstd"))
    assert frame.window_size <= 8 << 20
    assert frame.has_checksum
    assert frame.content_size == len(data)


def test_the_same_data_gives_the_same_bytes() -> None:
    assert compress(SAMPLE * 60, "zstd") == compress(bytes(bytearray(SAMPLE * 60)), "zstd")


@pytest.mark.parametrize("method", ["gzip", "zstd", "xz"])
def test_streams_that_follow_each_other_are_joined(method: str) -> None:
    packed = run(PACK[method], b"one") + run(PACK[method], b"two")
    assert decompress(packed) == b"onetwo"


@pytest.mark.parametrize("method", PACK)
def test_zeros_may_follow_the_data(method: str) -> None:
    assert decompress(run(PACK[method], SAMPLE) + bytes(512)) == SAMPLE


@pytest.mark.parametrize("method", ["gzip", "zstd", "xz"])
def test_anything_else_after_the_data_is_an_error(method: str) -> None:
    with pytest.raises(MegamodError, match="x: 4 bytes of something else follow the compressed data"):
        decompress(run(PACK[method], SAMPLE) + b"junk", source="x")


@pytest.mark.parametrize("method", PACK)
def test_a_stream_cut_anywhere_is_an_error(method: str) -> None:
    packed = run(PACK[method], SAMPLE[:3000])
    for length in range(12, len(packed), 7):
        # A legacy lz4 frame has no end mark: cut between two blocks it is whole, as in the kernel.
        with pytest.raises(MegamodError, match=f"ext4.ko: {method} data is (cut short|damaged)"):
            decompress(packed[:length], source="ext4.ko")


@pytest.mark.parametrize("method", ["gzip", "zstd", "xz"])
def test_a_damaged_stream_is_an_error(method: str) -> None:
    packed = bytearray(run(PACK[method], SAMPLE))
    packed[len(packed) // 2] ^= 0x55
    with pytest.raises(MegamodError, match=f"ext4.ko: {method} data is (damaged|cut short)"):
        decompress(bytes(packed), source="ext4.ko")


@pytest.mark.heavy
@pytest.mark.parametrize("method", PACK)
def test_a_stream_that_unpacks_to_more_than_allowed_is_an_error(method: str) -> None:
    packed = run(PACK[method], bytes(100 << 20))
    with pytest.raises(MegamodError, match=r"x: .* data unpacks to more than the 1048576 bytes allowed here"):
        decompress(packed, limit=1 << 20, source="x")


@pytest.mark.parametrize("method", PACK)
def test_the_limit_itself_is_allowed(method: str) -> None:
    packed = run(PACK[method], SAMPLE)
    assert decompress(packed, limit=len(SAMPLE)) == SAMPLE
    with pytest.raises(MegamodError, match="allowed here"):
        decompress(packed, limit=len(SAMPLE) - 1)


def test_the_limit_counts_all_streams() -> None:
    packed = zlib.compress(bytes(600), wbits=31) * 2
    with pytest.raises(MegamodError, match="unpacks to more"):
        decompress(packed, limit=1000)


def test_uncompressed_data_has_the_limit_too() -> None:
    with pytest.raises(MegamodError, match="x: is larger than 10 bytes"):
        decompress(bytes(11), limit=10, source="x")


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (b"BZh91AY", "bzip2"),
        (b"\x5d\x00\x00\x80\x00\xff\xff", "lzma"),
        (b"\x89LZO\x00\r\n", "lzo"),
        (b"\x04\x22\x4d\x18\x64", r"lz4 \(frame format\)"),
    ],
)
def test_a_module_in_a_compression_that_kmod_lacks_is_refused(tmp_path: Path, magic: bytes, name: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(magic)
    with pytest.raises(MegamodError, match=f"x: is compressed with {name}, which is not read"):
        read_module_bytes(path)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["gzip", "zstd", "xz", "lz4"]), st.binary(max_size=200))
def test_noise_after_a_magic_is_refused_in_words(method: str, noise: bytes) -> None:
    magic = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\0", "lz4": b"\x02\x21\x4c\x18"}
    try:
        decompress(magic[method] + noise, limit=1 << 20)
    except MegamodError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".xz", lambda data: lzma.compress(data, check=lzma.CHECK_CRC32)),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_a_module_is_unpacked_whatever_its_name(tmp_path: Path, suffix: str, pack: object) -> None:
    assert callable(pack)
    for name in (f"ext4.ko{suffix}", "ext4.ko"):
        (tmp_path / name).write_bytes(pack(SAMPLE))
        assert read_module_bytes(tmp_path / name) == SAMPLE


def test_a_module_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match=r"ext4\.ko: No such file or directory"):
        read_module_bytes(tmp_path / "ext4.ko")
    with pytest.raises(MegamodError, match=f"{tmp_path}: Is a directory"):
        read_module_bytes(tmp_path)


def test_a_damaged_module_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ext4.ko.xz"
    path.write_bytes(lzma.compress(SAMPLE)[:-10])
    with pytest.raises(MegamodError, match=f"^{path}: xz data is cut short"):
        read_module_bytes(path)


@pytest.mark.heavy
def test_a_module_of_more_than_256_mib_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ko.zst"
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    chunk = bytes(1 << 20)
    noise = compressor.compress(random.Random(1).randbytes(2 << 20))  # what is smaller is refused for its size alone
    path.write_bytes(noise + b"".join(compressor.compress(chunk) for _ in range(255)) + compressor.flush())
    with pytest.raises(MegamodError, match="unpacks to more than the 268435456 bytes allowed here"):
        read_module_bytes(path)


@pytest.mark.heavy
def test_large_images_are_packed_by_all_processors_into_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(1).randbytes(1 << 20) * 33
    packed = []
    for processors in (1, 2, 7):
        monkeypatch.setattr("os.cpu_count", lambda count=processors: count)
        packed.append(compress(data, "zstd"))
    assert packed[0] == packed[1] == packed[2]
    assert decompress(packed[0], limit=1 << 30, source="x") == data
