"""UKIs, EFI programs and FIT images as `megamod inspect` shows them; FIT images are made by mkimage, too."""

from __future__ import annotations

import json
import re
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.build.uki_names import names_of, os_release, system_of
from megamod.common.errors import MegamodError
from megamod.common.flat_tree import DamagedTreeError, TreeNode, read_tree, texts_bytes, tree_bytes, words_bytes
from megamod.image.archive import read_image, write_image
from megamod.image.cpio import Entry
from megamod.image.uki import find_stub, make_uki
from megamod.inspect.container import ContainerInspection
from megamod.inspect.inspection import inspect_file

REGULAR = stat.S_IFREG | 0o644
MANIFEST = Manifest(
    megamod="1", profile="camera", kernel="6.1.0-9-amd64", options={}, root="cmdline", stages=(), notes=()
)
ITS = """\
/dts-v1/;
/ {
	description = "board";
	images {
		kernel-1 { description = "k"; data = /incbin/("kernel"); type = "kernel"; arch = "arm64"; os = "linux";
			compression = "none"; load = <0>; entry = <0>; hash-1 { algo = "crc32"; }; };
		ramdisk-1 { description = "r"; data = /incbin/("image"); type = "ramdisk"; arch = "arm64"; os = "linux";
			compression = "none"; hash-1 { algo = "sha256"; }; hash-2 { algo = "sha1"; }; };
	};
	configurations { default = "conf-1"; conf-1 { description = "one"; kernel = "kernel-1"; ramdisk = "ramdisk-1"; }; };
};
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    write_image(path, [Entry(path=MANIFEST_PATH, mode=REGULAR, data=MANIFEST.to_json())], method="zstd")
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "foreign"
    write_image(path, [Entry(path="init", mode=REGULAR, data=b"x")], method="gzip")
    return path


def bzimage(release: str) -> bytes:
    """The header of a bzImage with its version text (Documentation/x86/boot.rst)."""
    data = bytearray(0x1000)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x20E, 0x400)
    text = f"{release} (builder) #1\0".encode()
    data[0x600 : 0x600 + len(text)] = text
    return bytes(data)


def fields(data: bytes) -> dict[str, str]:
    """os-release as a shell reads it."""
    script = 'set -a; . "$0"; env -u PWD -u SHLVL -u _'
    done = subprocess.run(["env", "-i", "sh", "-c", script, "/dev/stdin"], input=data, capture_output=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.decode().splitlines())


def inspected(path: Path) -> ContainerInspection:
    found = inspect_file(path)
    assert isinstance(found, ContainerInspection)
    return found


def test_a_uki_is_shown_with_title_kernel_command_line_and_its_image(image: Path, tmp_path: Path) -> None:
    try:
        stub = find_stub(0x8664)
    except MegamodError:
        pytest.skip("systemd-boot-efi is not installed")
    names, release = names_of(image, tmp_path / "kernel")
    sections = {
        ".osrel": names,
        ".uname": release.encode(),
        ".cmdline": b"root=LABEL=x quiet",
        ".initrd": image.read_bytes(),
        ".linux": b"kernel",
    }
    path = tmp_path / "x.efi"
    path.write_bytes(make_uki(stub.read_bytes(), sections, machine=0x8664, file="stub"))
    found = inspected(path)
    assert (found.kind, found.title) == ("uki", "Linux 6.1.0-9-amd64, camera (megamod)")
    assert dict(found.properties) == {
        "machine": "x86_64",
        "signature": "none",
        "kernel": "6.1.0-9-amd64",
        "command line": "root=LABEL=x quiet",
    }
    assert found.inside.manifest == MANIFEST
    assert "profile camera, kernel 6.1.0-9-amd64" in found.as_text()
    assert json.loads(found.as_json())["image"]["manifest"]["profile"] == "camera"
    plain = inspected(stub)
    assert (plain.kind, plain.inside) == ("efi", None)


@pytest.mark.parametrize("external", [[], ["-E"]], ids=["inside", "behind"])
def test_a_fit_image_of_mkimage_is_shown_and_its_hashes_are_checked(
    external: list[str], image: Path, tmp_path: Path, tool: Callable[..., str]
) -> None:
    (tmp_path / "kernel").write_bytes(b"kernel" * 100)
    (tmp_path / "x.its").write_text(ITS)
    command = [tool("mkimage", package="u-boot-tools"), *external, "-f", "x.its", "x.itb"]
    tool("dtc", package="device-tree-compiler")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = inspected(tmp_path / "x.itb")
    assert (found.kind, found.title) == ("fit", "board")
    assert {part.name: (part.bytes, part.what) for part in found.parts} == {
        "kernel-1": (600, "kernel, arm64, linux, none, crc32 holds"),
        "ramdisk-1": (image.stat().st_size, "ramdisk, arm64, linux, none, sha256 holds, sha1 holds"),
    }
    assert dict(found.properties)["conf-1"] == "one: kernel kernel-1, ramdisk ramdisk-1"
    assert found.inside.manifest == MANIFEST
    data = (tmp_path / "x.itb").read_bytes()
    (tmp_path / "x.itb").write_bytes(data.replace(b"kernelkernel", b"Kernelkernel", 1))
    assert "crc32 DOES NOT HOLD" in inspected(tmp_path / "x.itb").as_text()


def test_the_files_of_a_fits_image_are_listed(image: Path, tmp_path: Path) -> None:
    top = TreeNode("")
    node = top.child("images").child("ramdisk-1")
    node.put(type="ramdisk")
    node.properties["data"] = image.read_bytes()
    (tmp_path / "x.itb").write_bytes(tree_bytes(top))
    assert [entry.path for entry in read_image(tmp_path / "x.itb")][-1] == MANIFEST_PATH


def test_a_device_tree_is_no_fit_image(tmp_path: Path) -> None:
    (tmp_path / "x.dtb").write_bytes(tree_bytes(TreeNode("")))
    with pytest.raises(MegamodError, match="is a device tree, not a FIT image"):
        inspect_file(tmp_path / "x.dtb")


def test_two_ukis_have_two_titles(image: Path, foreign: Path, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(bzimage("6.12.1-other"))
    own, release = names_of(image, kernel)
    assert release == "6.1.0-9-amd64"
    assert fields(own) == {
        "ID": "linux",
        "NAME": "Linux",
        "VERSION_ID": "6.1.0-9-amd64",
        "PRETTY_NAME": "Linux 6.1.0-9-amd64, camera (megamod)",
    }
    others, release = names_of(foreign, kernel)
    assert release == "6.12.1-other"
    assert fields(others)["PRETTY_NAME"] == "Linux 6.12.1-other (megamod)"


def test_a_systems_own_os_release_is_built_on(tmp_path: Path) -> None:
    modules = tmp_path / "usr/lib/modules/6.1"
    modules.mkdir(parents=True)
    assert system_of(modules, "6.1") is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('ID=debian\n# x\nPRETTY_NAME="Debian \\"12\\""\nVERSION_ID=12\n')
    assert system_of(modules, "6.1") == tmp_path
    names = fields(os_release(profile="camera", kernel="6.1", system=tmp_path))
    assert names["ID"] == "debian"
    assert names["VERSION_ID"] == "12"
    assert re.fullmatch(r"Debian .*12.*, Linux 6.1, camera \(megamod\)", names["PRETTY_NAME"])


def test_dtc_reads_the_tree_that_is_written(tmp_path: Path, tool: Callable[..., str]) -> None:
    top = TreeNode("")
    top.properties = {"model": texts_bytes("a", "b"), "#cells": words_bytes(1, 0xDEADBEEF), "empty": b""}
    top.child("node@1").properties["data"] = b"\x01\x02\x03"
    path = tmp_path / "x.dtb"
    path.write_bytes(tree_bytes(top))
    dtc = tool("dtc", package="device-tree-compiler")
    text = subprocess.run([dtc, "-I", "dtb", "-O", "dts", path], check=True, capture_output=True, text=True).stdout
    assert 'model = "a\\0b";' in text or 'model = "a", "b";' in text
    assert "#cells = <0x01 0xdeadbeef>;" in text
    assert "data = [01 02 03];" in text
    assert read_tree(path.read_bytes()) == top


@pytest.mark.parametrize("cut", [0, 20, 40, 60, 80, 100])
def test_a_tree_that_is_cut_short_is_refused(cut: int) -> None:
    top = TreeNode("")
    top.child("node").put(name="value")
    data = tree_bytes(top)
    assert len(data) > 100
    with pytest.raises(DamagedTreeError):
        read_tree(data[:cut])
