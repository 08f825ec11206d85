"""Which compression an image gets: refused where the kernel cannot unpack it, else as named or the fastest."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from megamod.build.choose_compression import boot_times, check_method, choose_packing, unpack_rates
from megamod.common.compression import METHODS, compress
from megamod.common.errors import MegamodError
from megamod.kernel.config import KernelConfig, parse_config
from megamod.profile.model import Profile
from megamod.profile.schema import load_profile

FULL = parse_config("".join(f"CONFIG_RD_{name}=y\n" for name in ("GZIP", "LZ4", "XZ", "ZSTD")), source="config-6.1")
SMALL = parse_config("CONFIG_RD_GZIP=y\n# CONFIG_RD_ZSTD is not set\nCONFIG_RD_XZ=m\n", source="config-6.1")
TEXT = [random.Random(5).choice((b"mov ", b"call ", b"ret ")) * 200_000] * 5
NOISE = [random.Random(5).randbytes(3 << 20)]


def profile(folder: Path, text: str) -> Profile:
    (folder / "p.yaml").write_text(f"critical: {{modules: [ext4]}}\n{text}\n")
    return load_profile(folder / "p.yaml")


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("zstd", "config-6.1:2: # CONFIG_RD_ZSTD is not set"),
        ("xz", "config-6.1:3: CONFIG_RD_XZ=m"),
        ("lz4", "config-6.1: has no CONFIG_RD_LZ4"),
    ],
)
def test_what_the_kernel_cannot_unpack_is_refused_with_the_line_of_config(method: str, line: str) -> None:
    with pytest.raises(MegamodError) as caught:
        check_method(method, SMALL)
    assert str(caught.value) == f"compress: the kernel cannot unpack {method}: {line} (hint: it can: none, gzip)"


@pytest.mark.parametrize("method", (*METHODS, "auto"))
def test_what_it_can_unpack_or_what_is_not_known_is_taken(method: str) -> None:
    check_method(method, FULL)
    check_method(method, None)


def chosen(folder: Path, storage: str, contents: list[bytes], config: KernelConfig | None = FULL) -> str:
    return choose_packing(profile(folder, f"compress: auto\nstorage: {storage}"), config, contents).method


def test_slow_storage_gets_the_smallest_image_and_fast_storage_a_plain_one(tmp_path: Path) -> None:
    whole = b"".join(TEXT)
    assert chosen(tmp_path, "100kB/s", TEXT) == min(METHODS, key=lambda method: len(compress(whole, method)))
    assert chosen(tmp_path, "25MB/s", TEXT) in ("zstd", "lz4", "gzip")
    assert chosen(tmp_path, "9GB/s", TEXT) == "none"


def test_what_does_not_pack_is_not_packed(tmp_path: Path) -> None:
    assert chosen(tmp_path, "25MB/s", NOISE) == "none"


def test_auto_takes_what_the_kernel_can_unpack_or_gzip_if_unknown(tmp_path: Path) -> None:
    assert chosen(tmp_path, "100kB/s", TEXT, SMALL) == "gzip"
    packing = choose_packing(profile(tmp_path, "compress: auto"), None, TEXT)
    assert packing.method == "gzip"
    assert packing.note == "compress: auto: the kernel's configuration was not found, using gzip"


def test_auto_says_what_it_has_weighed(tmp_path: Path) -> None:
    note = choose_packing(profile(tmp_path, "compress: auto"), FULL, TEXT).note
    assert note is not None
    assert note.startswith("compress: auto takes ")
    assert all(f"{method} " in note for method in METHODS)


def test_the_time_is_that_of_reading_and_of_unpacking() -> None:
    [seconds] = boot_times(["none"], NOISE, storage=1_000_000).values()
    assert seconds == pytest.approx(len(NOISE[0]) / 1e6 + len(NOISE[0]) / unpack_rates()["none"])


def test_every_method_has_a_measured_rate() -> None:
    assert set(unpack_rates()) == set(METHODS)


def test_a_rate_is_read_as_bytes_a_second(tmp_path: Path) -> None:
    assert profile(tmp_path, "storage: 25MB/s").storage == 25_000_000
    assert profile(tmp_path, "storage: 1.5 GB/s").storage == 1_500_000_000
    assert profile(tmp_path, "").storage is None


def packs(folder: Path, text: str, deferred: list[bytes], method: str = "zstd") -> bool:
    return choose_packing(profile(folder, f"compress: {method}\n{text}"), FULL, TEXT, deferred).packs_deferred


def test_deferred_modules_are_packed_inside_where_that_is_faster(tmp_path: Path) -> None:
    assert packs(tmp_path, "", TEXT)
    assert packs(tmp_path, "storage: 1GB/s", TEXT, method="none")
    assert packs(tmp_path, "storage: 1GB/s", TEXT, method="auto")


def test_deferred_modules_are_left_to_a_smaller_image_from_slow_storage(tmp_path: Path) -> None:
    draw = random.Random(1)
    words = [draw.randbytes(3) for _ in range(500)]
    text = [b"".join(draw.choice(words) for _ in range(200_000))]
    assert not packs(tmp_path, "storage: 10kB/s", text)
    assert packs(tmp_path, "storage: 1GB/s", text)


def test_what_the_profile_says_of_deferred_modules_holds(tmp_path: Path) -> None:
    assert packs(tmp_path, "compress-deferred: lz4\nstorage: 1kB/s", NOISE)
    assert not packs(tmp_path, "compress-deferred: none", TEXT)
    assert not packs(tmp_path, "compress-deferred: lz4", [])
