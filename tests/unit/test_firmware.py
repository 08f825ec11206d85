"""Firmware for the image: where it is looked for, in which form it goes in, and what is said of what is missing."""

from __future__ import annotations

import lzma
import stat
from pathlib import Path

import pytest
import zstandard

from megamod.build.firmware import Firmware, FirmwareFolder, can_read, collect_firmware, wanted_early
from megamod.common.errors import Location, MegamodError
from megamod.image.cpio import Entry
from megamod.kernel.config import KernelConfig, find_config, parse_config
from megamod.modules.kernel_files import KernelFiles
from megamod.profile.model import Root, Selector, Trigger, TriggerKind
from megamod.profile.schema import load_profile

RELEASE = "6.1.0-test"
BOTH = parse_config("CONFIG_FW_LOADER_COMPRESS_XZ=y\nCONFIG_FW_LOADER_COMPRESS_ZSTD=y\n", source="config")
NONE = parse_config("# CONFIG_FW_LOADER_COMPRESS is not set\n", source="config")


def put(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def collect(
    folder: Path, *names: str, patterns: tuple[str, ...] = (), config: KernelConfig | None = BOTH
) -> tuple[dict[str, Entry], Firmware]:
    place = Location(file="p.yaml", line=1, column=1)
    found = collect_firmware(
        {"e100": names},
        [Selector(text=text, location=place) for text in patterns],
        folder=FirmwareFolder(path=folder, release=RELEASE),
        config=config,
    )
    return {file.entry.path: file.entry for file in found.files}, found


def test_a_plain_file_goes_to_its_place(tmp_path: Path) -> None:
    put(tmp_path, "e100/a.bin", b"one")
    entries, found = collect(tmp_path, "e100/a.bin")
    assert entries == {"lib/firmware/e100/a.bin": Entry(path="lib/firmware/e100/a.bin", mode=0o100644, data=b"one")}
    assert [file.reason for file in found.files] == ["firmware of e100"]


def test_the_releases_updates_come_first_and_plain_before_packed_files(tmp_path: Path) -> None:
    put(tmp_path, "a.bin", b"")
    put(tmp_path, f"updates/{RELEASE}/a.bin", b"newest")
    put(tmp_path, "b.bin", b"plain")
    put(tmp_path, "updates/b.bin.xz", lzma.compress(b"packed"))
    put(tmp_path, "c.bin.xz", lzma.compress(b"xz"))
    put(tmp_path, "c.bin.zst", zstandard.compress(b"zstd"))
    entries, _found = collect(tmp_path, "a.bin", "b.bin", "c.bin")
    assert set(entries) == {
        f"lib/firmware/updates/{RELEASE}/a.bin",
        "lib/firmware/b.bin",
        "lib/firmware/c.bin.zst",
    }


@pytest.mark.parametrize("suffix", [".xz", ".zst"])
def test_a_packed_file_stays_packed_only_where_the_kernel_can_read_it(tmp_path: Path, suffix: str) -> None:
    packed = lzma.compress(b"data") if suffix == ".xz" else zstandard.compress(b"data")
    put(tmp_path, f"a.bin{suffix}", packed)
    assert collect(tmp_path, "a.bin")[0][f"lib/firmware/a.bin{suffix}"].data == packed
    for config in (NONE, None):
        assert collect(tmp_path, "a.bin", config=config)[0]["lib/firmware/a.bin"].data == b"data"


def test_the_one_option_of_kernels_before_5_19_stands_for_xz() -> None:
    old = parse_config("CONFIG_FW_LOADER_COMPRESS=y\n", source="config")
    assert can_read(old, ".xz")
    assert not can_read(old, ".zst")
    new = parse_config("CONFIG_FW_LOADER_COMPRESS=y\nCONFIG_FW_LOADER_COMPRESS_ZSTD=y\n", source="config")
    assert not can_read(new, ".xz")


def test_a_link_goes_in_with_what_it_leads_to(tmp_path: Path) -> None:
    put(tmp_path, "cypress/real.bin.xz", lzma.compress(b"data"))
    (tmp_path / "brcm").mkdir()
    (tmp_path / "brcm/name.bin.xz").symlink_to("../cypress/real.bin.xz")
    entries, _found = collect(tmp_path, "brcm/name.bin")
    link = entries["lib/firmware/brcm/name.bin.xz"]
    assert (stat.S_ISLNK(link.mode), link.data) == (True, b"../cypress/real.bin.xz")
    assert "lib/firmware/cypress/real.bin.xz" in entries
    entries, _found = collect(tmp_path, "brcm/name.bin", config=None)
    assert entries["lib/firmware/brcm/name.bin"].data == b"../cypress/real.bin"
    assert entries["lib/firmware/cypress/real.bin"].data == b"data"


def test_a_link_out_of_the_folder_becomes_a_file(tmp_path: Path) -> None:
    put(tmp_path, "etc/regulatory.db-debian", b"db")
    (tmp_path / "firmware").mkdir()
    (tmp_path / "firmware/regulatory.db").symlink_to("../etc/regulatory.db-debian")
    entries, _found = collect(tmp_path / "firmware", "regulatory.db")
    assert entries["lib/firmware/regulatory.db"] == Entry(path="lib/firmware/regulatory.db", mode=0o100644, data=b"db")


def test_firmware_patterns_match_by_parts_and_folders_as_a_whole(tmp_path: Path) -> None:
    for name in ("brcm/a-sdio.txt", "brcm/b-sdio.bin.xz", "brcm/deep/c-sdio.txt", "other/x"):
        put(tmp_path, name, lzma.compress(b"") if name.endswith(".xz") else b"")
    assert set(collect(tmp_path, "brcm/*-sdio.*")[0]) == {
        "lib/firmware/brcm/a-sdio.txt",
        "lib/firmware/brcm/b-sdio.bin.xz",
    }
    assert len(collect(tmp_path, patterns=("brcm/",))[0]) == 3
    assert collect(tmp_path, patterns=("?nothing/*",))[0] == {}


def test_a_pattern_of_the_profile_that_matches_nothing_is_a_located_error(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match=r"^p\.yaml:1:1: firmware: no brcm/\* below .*\(hint: write `\?` before it"):
        collect(tmp_path, patterns=("brcm/*",))


def test_what_is_missing_is_listed_once_with_the_modules_that_name_it(tmp_path: Path) -> None:
    put(tmp_path.parent, "secret", b"")
    found = collect(tmp_path, "a.bin", "b-*.bin", "../secret", "/etc/passwd")[1]
    assert found.files == ()
    assert found.missing == dict.fromkeys(["../secret", "/etc/passwd", "a.bin", "b-*.bin"], ("e100",))


def test_stages_that_may_precede_the_root_need_firmware_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("critical: {modules: [ext4]}\n")
    profile = load_profile(tmp_path / "p.yaml")
    assert profile.root == Root(kind="cmdline")
    early = {kind for kind in TriggerKind if wanted_early(profile, Trigger(kind=kind))}
    assert early == {TriggerKind.NOW, TriggerKind.DELAY}
    assert wanted_early(profile, None)
    (tmp_path / "p.yaml").write_text("critical: {modules: [ext4]}\nroot: {exec: /bin/camera}\n")
    profile = load_profile(tmp_path / "p.yaml")
    assert all(wanted_early(profile, Trigger(kind=kind)) for kind in TriggerKind)


def test_the_configuration_is_found_with_the_modules_or_in_their_boot(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/modules" / RELEASE
    folder.mkdir(parents=True)
    files = KernelFiles(folder=folder, release=RELEASE)
    assert find_config(files) is None
    put(tmp_path, f"boot/config-{RELEASE}", b"# comment\nCONFIG_RD_ZSTD=y\n# CONFIG_RD_LZ4 is not set\n")
    config = find_config(files)
    assert config is not None
    assert (config.enabled("RD_ZSTD"), config.enabled("RD_LZ4"), config.enabled("RD_XZ")) == (True, False, False)
    assert config.line_of("RD_LZ4").endswith(f"config-{RELEASE}:3: # CONFIG_RD_LZ4 is not set")
    assert config.line_of("RD_XZ").endswith("has no CONFIG_RD_XZ")
    put(folder, "config", b"CONFIG_RD_XZ=y\n")
    config = find_config(files)
    assert config is not None and config.enabled("RD_XZ")
