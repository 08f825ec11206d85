"""`megamod bootimg`: the bytes are those of AOSP's mkbootimg, and its unpack_bootimg takes them apart again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import fetch_package_files
from megamod.cli import main as cli
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from megamod.image.archive import write_image
from megamod.image.bootimg import read_boot_image
from megamod.image.cpio import Entry
from megamod.inspect.inspection import inspect_file
from tests.conftest import missing

Run = Callable[..., str]
LONG = "androidboot.hardware=board console=ttyMSM0,115200n8 " * 20
OPTIONS = {
    "2": ["--header", "2", "--dtb", "board.dtb"],
    "2-long": ["--header", "2", "--dtb", "board.dtb", "--page-size", "4096", "--base", "0x80000000", "--cmdline", LONG],
    "2-os": ["--header", "2", "--dtb", "board.dtb", "--os-version", "14.0.1", "--patch-level", "2024-05"],
    "3": ["--header", "3", "--cmdline", "quiet root=LABEL=x"],
    "4": ["--header", "4", "--os-version", "14", "--patch-level", "2026-11"],
}
VENDOR = {
    "3": ["--header", "3", "--dtb", "board.dtb", "--cmdline", LONG],
    "4": [
        "--header",
        "4",
        "--dtb",
        "board.dtb",
        "--cmdline",
        "quiet",
        "--bootconfig",
        "bootconfig",
        "--page-size",
        "4096",
    ],
}
THEIRS = {"--header": "--header_version", "--page-size": "--pagesize", "--os-version": "--os_version"} | {
    "--patch-level": "--os_patch_level",
    "--bootconfig": "--vendor_bootconfig",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("vmlinuz").write_bytes(b"kernel" * 1001)
    Path("board.dtb").write_bytes(b"\xd0\x0d\xfe\xed" + b"tree" * 99)
    Path("bootconfig").write_text("androidboot.slot_suffix=_a\n")
    write_image(Path("image"), [Entry(path="init", mode=0o100755, data=b"x" * 5000)], method="gzip")
    return tmp_path


@pytest.fixture
def megamod(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str, status: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["megamod", "bootimg", "image", "--vmlinuz", "vmlinuz", *words])
        assert cli.main() == status
        return capsys.readouterr().err

    return run


@pytest.fixture
def theirs() -> Path:
    """Debian 13's mkbootimg: Debian 12's knows no version after 2."""
    try:
        return fetch_package_files("mkbootimg", "trixie", architecture="amd64", cache=cache_folder()) / "usr/bin"
    except MegamodError as error:
        missing(str(error))


def oracle(program: Path, *words: str) -> str:
    return subprocess.run([sys.executable, program, *words], check=True, capture_output=True, text=True).stdout


@pytest.mark.heavy
@pytest.mark.parametrize("name", OPTIONS)
def test_a_boot_image_is_what_mkbootimg_writes(megamod: Run, theirs: Path, folder: Path, name: str) -> None:
    megamod(*OPTIONS[name], "-o", "boot.img")
    words = [THEIRS.get(word, word) for word in OPTIONS[name]]
    oracle(theirs / "mkbootimg", *words, "--kernel", "vmlinuz", "--ramdisk", "image", "-o", "their.img")
    assert Path("boot.img").read_bytes() == Path("their.img").read_bytes()
    oracle(theirs / "unpack_bootimg", "--boot_img", "boot.img", "--out", "out")
    assert Path("out/ramdisk").read_bytes() == Path("image").read_bytes()


@pytest.mark.heavy
@pytest.mark.parametrize("name", VENDOR)
def test_a_vendor_boot_image_is_what_mkbootimg_writes(megamod: Run, theirs: Path, folder: Path, name: str) -> None:
    megamod(*VENDOR[name], "-o", "boot.img", "--vendor-boot", "vendor.img")
    words = [THEIRS.get(word, word).replace("--cmdline", "--vendor_cmdline") for word in VENDOR[name]]
    oracle(theirs / "mkbootimg", *words, "--vendor_ramdisk", "image", "--vendor_boot", "their.img")
    assert Path("vendor.img").read_bytes() == Path("their.img").read_bytes()
    oracle(theirs / "mkbootimg", *words[:2], "--kernel", "vmlinuz", "-o", "their.img")
    assert Path("boot.img").read_bytes() == Path("their.img").read_bytes()


@pytest.mark.parametrize("name", [*OPTIONS, *(f"vendor {name}" for name in VENDOR)])
def test_inspect_shows_the_parts(megamod: Run, folder: Path, name: str) -> None:
    vendor = name.startswith("vendor ")
    words = VENDOR[name.removeprefix("vendor ")] if vendor else OPTIONS[name]
    megamod(*words, "-o", "boot.img", *(["--vendor-boot", "vendor.img"] if vendor else []))
    path = Path("vendor.img" if vendor else "boot.img")
    shown = json.loads(inspect_file(path).as_json())
    assert shown["kind"] == ("vendor_boot.img" if vendor else "boot.img")
    assert {"ramdisk": Path("image").stat().st_size}.items() <= {p["name"]: p["bytes"] for p in shown["parts"]}.items()
    found = read_boot_image(path.read_bytes(), str(path))
    assert found.parts["ramdisk"] == Path("image").read_bytes()
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert found.command_line == given.get("--cmdline", "")
    for cut in (11, 43, 1000, path.stat().st_size - 4096):
        with pytest.raises(MegamodError, match=r"truncated|ends|version|page size"):
            read_boot_image(path.read_bytes()[:cut], "cut")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--header", "2"], "--dtb: a boot.img of version 2 must have a device tree"),
        (["--header", "3", "--dtb", "board.dtb"], "--dtb: a boot.img of version 3 has no place for it"),
        (["--header", "2", "--dtb", "board.dtb", "--vendor-boot", "v"], "--vendor-boot: header version 2 has none"),
        (["--header", "3", "--vendor-boot", "v", "--bootconfig", "bootconfig"], "--bootconfig: a vendor_boot.img of"),
        (["--header", "3", "--cmdline", "x" * 1536], "--cmdline: 1536 bytes, room is for 1535"),
        (["--header", "2", "--dtb", "vmlinuz"], "vmlinuz: is not a device tree"),
        (["--header", "3", "--os-version", "14.x"], "--os-version 14.x: not a version"),
        (["--header", "3", "--patch-level", "2024-13"], "--patch-level 2024-13: not a month"),
        (["--header", "2", "--dtb", "board.dtb", "--base", "0xffff0000"], "base 0xffff0000: too high"),
    ],
)
def test_what_a_header_has_no_place_for_is_refused(megamod: Run, folder: Path, words: list[str], message: str) -> None:
    assert message in megamod(*words, "-o", "boot.img", status=1)
    assert not Path("boot.img").exists()
