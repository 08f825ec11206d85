"""`microcode` in a profile: the early archive, judged by GNU cpio, and what goes into it."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from megamod.common.files import read_file
from megamod.image.archive import segments
from megamod.inspect.inspection import ImageInspection, inspect_file
from megamod.profile.model import Microcode
from megamod.profile.reference import profile_schema
from megamod.profile.schema import load_profile
from tests.unit.test_cli_build import GOOD, Builder, builder, module_tree

__all__ = ["builder"]

INTEL, AMD = "kernel/x86/microcode/GenuineIntel.bin", "kernel/x86/microcode/AuthenticAMD.bin"


def intel(signature: int = 0x806EA, body: bytes = b"code" * 500) -> bytes:
    """A microcode file of Intel's form: header, body, and a checksum that makes the words add up to 0."""
    fields = [1, 0xF4, 0x01012026, signature, 0, 1, 0xC0, len(body), len(body) + 48, 0, 0, 0]
    words = struct.unpack(f"<{len(body) // 4}I", body)
    fields[4] = -(sum(fields) + sum(words)) & 0xFFFFFFFF
    return struct.pack("<12I", *fields) + body


def amd(body: bytes = b"container") -> bytes:
    return b"DMA\0" + body


@pytest.fixture
def tree(builder: Builder, tmp_path: Path) -> Path:
    """Modules with a firmware folder that has microcode for both."""
    tree = module_tree(tmp_path)
    for name, data in {
        "intel-ucode/06-8e-0a": intel(),
        "intel-ucode/06-9e-09": intel(0x906E9),
        "amd-ucode/microcode_amd_fam17h.bin.zst": zstandard.compress(amd()),
        "amd-ucode/microcode_amd_fam17h.bin.asc": b"-----BEGIN PGP SIGNATURE-----",
        "amd-ucode/README": b"text",
    }.items():
        path = tmp_path / "lib/firmware" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tree


def built(builder: Builder, tree: Path, line: str) -> str:
    """Builds out.img; returns what the build said."""
    (builder.folder / "p.yaml").write_text(f"{GOOD}{line}\n")
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img")
    assert status == 0, err
    return err


def test_auto_puts_the_firmware_folders_microcode_before_the_packed_part(
    builder: Builder, tree: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    built(builder, tree, "microcode: auto")
    data = read_file(tmp_path / "out.img")
    early, main = segments(data, source="out.img")
    assert (early.method, main.method) == ("none", "zstd")
    files = {entry.path: entry.data for entry in early.entries if entry.data}
    assert files == {INTEL: intel() + intel(0x906E9), AMD: amd()}
    # The packed archive begins at a multiple of 512, with nothing but zeros before it.
    start = data.index(b"\x28\xb5\x2f\xfd")
    assert start % 512 == 0
    listed = subprocess.run([tool("cpio", package="cpio"), "-t"], input=data, capture_output=True, check=True)
    assert listed.stdout.decode().splitlines() == [
        *("kernel", "kernel/x86", "kernel/x86/microcode", AMD, INTEL),
    ]


def test_inspect_shows_the_microcode(builder: Builder, tree: Path, tmp_path: Path) -> None:
    built(builder, tree, "microcode: auto")
    inspection = inspect_file(tmp_path / "out.img")
    assert isinstance(inspection, ImageInspection)
    text = [line.split(maxsplit=4) for line in inspection.as_text().splitlines()]
    assert [part.compression for part in inspection.segments] == ["none", "zstd"]
    assert [f"/{INTEL}", "0644", "4.0", "KiB", "microcode of 2 files, early archive"] in text
    assert [f"/{AMD}", "0644", "13", "B", "microcode of 1 file, early archive"] in text


def test_files_of_a_list_are_taken_by_what_they_hold(builder: Builder, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(intel())
    built(builder, tree, "microcode: [one]")
    early, _main = segments(read_file(tmp_path / "out.img"), source="out.img")
    assert [entry.path for entry in early.entries if entry.data] == [INTEL]


def test_without_the_key_and_with_none_there_is_no_early_archive(builder: Builder, tree: Path, tmp_path: Path) -> None:
    for line in ("", "microcode: none"):
        built(builder, tree, line)
        assert len(list(segments(read_file(tmp_path / "out.img"), source="out.img"))) == 1


def test_auto_with_nothing_there_is_a_note(builder: Builder, tmp_path: Path) -> None:
    said = built(builder, module_tree(tmp_path), "microcode: auto")
    assert "note: microcode: auto: no intel-ucode and no amd-ucode in the firmware folder\n" in said


def test_a_kernel_without_a_microcode_loader_is_refused(builder: Builder, tree: Path) -> None:
    (tree / "config").write_text("CONFIG_RD_ZSTD=y\n# CONFIG_MICROCODE is not set\n")
    said = builder.refused(profile=f"{GOOD}microcode: auto\n", tree=tree)
    assert said == ("microcode: the kernel loads none: lib/modules/6.1.0-test/config:2: # CONFIG_MICROCODE is not set")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.bin: no microcode of Intel or AMD (hint: files of intel-ucode/ or amd-ucode/ are)"),
        (b"text" * 100, "x.bin: no microcode of Intel or AMD"),
        (intel()[:-4], "x.bin: no microcode of Intel or AMD"),
        (intel() + b"rest", "x.bin: no microcode of Intel or AMD"),
        (intel() + intel()[:-1] + b"\xff", "x.bin: microcode at 0x800: its checksum is wrong"),
    ],
)
def test_a_file_that_is_no_microcode_is_refused(builder: Builder, tree: Path, data: bytes, message: str) -> None:
    (builder.folder / "x.bin").write_bytes(data)
    assert builder.refused(profile=f"{GOOD}microcode: [x.bin]\n", tree=tree).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("microcode: all", "2:12: microcode: `all` is none of auto, none"),
        ("microcode: [none.bin]", "2:13: microcode: no such file: none.bin (hint: a path relative to the profile)"),
        ("microcode: []", "2:12: microcode: the list is empty"),
    ],
)
def test_a_wrong_microcode_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"critical: {{modules: [ext4]}}\n{text}\n")
    with pytest.raises(Exception) as caught:
        load_profile(tmp_path / "p.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/p.yaml:{message}")


def test_the_schema_has_it_and_a_child_can_take_it_back(tmp_path: Path) -> None:
    assert "microcode" in profile_schema()["properties"]
    (tmp_path / "base.yaml").write_text("critical: {modules: [ext4]}\nmicrocode: auto\n")
    (tmp_path / "p.yaml").write_text("extends: ./base.yaml\n")
    assert load_profile(tmp_path / "p.yaml").microcode == Microcode(auto=True)
    (tmp_path / "p.yaml").write_text("extends: ./base.yaml\nmicrocode: none\n")
    assert load_profile(tmp_path / "p.yaml").microcode == Microcode()
