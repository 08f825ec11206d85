"""Unified Kernel Images: what other tools read in them, and what is refused. test_uki_boot.py boots them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from megamod.boot.debian import fetch_package_files
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from megamod.image.archive import read_image, write_image
from megamod.image.cpio import Entry
from megamod.image.uki import SecureBootKey, find_stub, uki_sections, write_uki
from megamod.image.ukify import ukify
from megamod.profile.schema import load_profile
from tests.conftest import missing


@pytest.fixture(scope="module")
def kernel(kernels) -> Path:
    return kernels("bookworm").vmlinuz


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "image"
    write_image(path, [Entry(path="hello", mode=0o100644, data=b"world")], method="zstd")
    return path


def make(tmp_path: Path, kernel: Path, image: Path, **options) -> Path:
    output = tmp_path / "out.efi"
    write_uki(output, kernel=kernel, image=image, command_line="root=LABEL=x quiet", **options)
    return output


def section(path: Path, name: str, folder: Path) -> bytes:
    """objcopy's view of a section."""
    found = folder / "section"
    words = ["-O", "binary", f"--only-section={name}", path, found]
    subprocess.run(["objcopy", *words], check=True, capture_output=True)
    return found.read_bytes()


def test_binutils_find_every_section_with_its_content(tmp_path, kernel, image):
    release = tmp_path / "os-release"
    release.write_text("ID=camera\n")
    path = make(tmp_path, kernel, image, os_release=release, release="6.1.0")
    assert section(path, ".cmdline", tmp_path) == b"root=LABEL=x quiet"
    assert section(path, ".initrd", tmp_path) == image.read_bytes()
    assert section(path, ".linux", tmp_path) == kernel.read_bytes()
    assert section(path, ".osrel", tmp_path) == b"ID=camera\n"
    assert section(path, ".uname", tmp_path) == b"6.1.0"


def test_sections_keep_apart_and_in_their_pages_and_the_kernel_is_last(tmp_path, kernel, image):
    text = subprocess.run(
        ["objdump", "-h", make(tmp_path, kernel, image)], check=True, capture_output=True, text=True
    ).stdout
    rows = re.findall(r"^ *\d+ (\S+) +([0-9a-f]+) +([0-9a-f]+)", text, re.MULTILINE)
    spans = [(name, int(start, 16), int(start, 16) + int(size, 16)) for name, size, start in rows]
    ours = spans[[name for name, _, _ in spans].index(".osrel") :]
    assert all(a[2] <= b[1] for a, b in pairwise(spans))
    assert all(start % 4096 == 0 for _, start, _ in ours)
    assert ours[-1][0] == ".linux"


def test_the_image_inside_is_read_like_any_other(tmp_path, kernel, image):
    path = make(tmp_path, kernel, image)
    assert [entry.path for entry in read_image(path)] == ["hello"]
    assert uki_sections(path.read_bytes(), file="x")[".cmdline"] == b"root=LABEL=x quiet"


def test_the_same_input_gives_the_same_bytes(tmp_path, kernel, image):
    assert make(tmp_path, kernel, image).read_bytes() == make(tmp_path, kernel, image).read_bytes()


def make_key(folder: Path) -> SecureBootKey:
    key, cert = folder / "db.key", folder / "db.crt"
    words = ["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "10"]
    subprocess.run([*words, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return SecureBootKey(key=key, certificate=cert)


def test_sbverify_accepts_the_signature_and_not_a_changed_byte(tmp_path, kernel, image):
    keys = make_key(tmp_path)
    path = make(tmp_path, kernel, image, secure_boot=keys)
    verify = ["sbverify", "--cert", keys.certificate, path]
    assert subprocess.run(verify, capture_output=True).returncode == 0
    data = bytearray(path.read_bytes())
    data[data.index(b"root=LABEL=x")] ^= 1
    path.write_bytes(data)
    assert subprocess.run(verify, capture_output=True).returncode != 0


def test_a_device_tree_and_a_picture_are_looked_at(tmp_path, kernel, image):
    junk = tmp_path / "junk"
    junk.write_bytes(b"junk")
    for name, text in (("device_tree", "not a device tree"), ("splash", "not a BMP picture")):
        with pytest.raises(MegamodError, match=f"junk: {text}"):
            make(tmp_path, kernel, image, **{name: junk})


def test_what_efi_cannot_start_is_refused(tmp_path, kernel, image):
    with pytest.raises(MegamodError, match=r"image: not an EFI program .hint: a kernel with CONFIG_EFI_STUB"):
        make(tmp_path, image, image)
    with pytest.raises(MegamodError, match="image: not an EFI program"):
        make(tmp_path, kernel, image, stub=image)


def test_a_stub_that_has_a_kernel_already_is_refused(tmp_path, kernel, image):
    first = make(tmp_path, kernel, image)
    used = first.rename(tmp_path / "used.efi")
    with pytest.raises(MegamodError, match=r"used\.efi: has a kernel or a signature already"):
        make(tmp_path, kernel, image, stub=used)


def test_a_stub_of_another_machine_is_refused(tmp_path, kernels, image):
    with pytest.raises(MegamodError, match="for EFI machine 0x8664, the kernel is for 0xaa64"):
        make(tmp_path, kernels("bookworm", "arm64").vmlinuz, image, stub=find_stub(0x8664))


# The profile's side

HEAD = "critical: {modules: [ext4]}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: iso", "output: `iso` is neither `image` nor `uki`"),
        ("output: {}", "output: nothing"),
        ("output: {uki: {cmdline: x, kernel: y}}", "output: uki: unknown key `kernel`"),
        ("output: {uki: {splash: none.bmp}}", "output: uki: splash: no such file: none.bmp"),
        ("output: {uki: {key: p.yaml}}", "output: uki: no `cert`"),
    ],
)
def test_a_wrong_output_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(HEAD + text)
    with pytest.raises(MegamodError, match=rf"p\.yaml:2:\d+: .*{re.escape(message)}"):
        load_profile(path)


def test_an_output_of_the_profile_is_inherited(tmp_path):
    (tmp_path / "base.yaml").write_text(HEAD + "output: {uki: {cmdline: quiet}}")
    child = tmp_path / "child.yaml"
    child.write_text("extends: ./base.yaml\n")
    found = load_profile(child).output
    assert found is not None
    assert found.cmdline == "quiet"
    child.write_text("extends: ./base.yaml\noutput: image\n")
    assert load_profile(child).output is None


def test_ukify_makes_what_the_own_writer_does_not(tmp_path, kernel, image, monkeypatch):
    """Debian 13's ukify, as there is none in Debian 12."""
    try:
        tree = fetch_package_files("systemd-ukify", "trixie", architecture="amd64", cache=cache_folder())
    except MegamodError as error:
        missing(str(error))
    program = tmp_path / "bin/ukify"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {tree}/usr/lib/systemd/ukify "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    output = tmp_path / "out.efi"
    given = {"kernel": kernel, "image": image, "command_line": "root=LABEL=x", "os_release": b"ID=camera\n"}
    ukify(output, release="6.1.0", options=["--profile=ID=factory"], **given)
    assert section(output, ".profile", tmp_path) == b"ID=factory"
    assert section(output, ".osrel", tmp_path) == b"ID=camera\n"
    assert section(output, ".initrd", tmp_path) == image.read_bytes()
    with pytest.raises(MegamodError, match=r"--linux=x: is megamod's own to give to ukify"):
        ukify(output, release="6.1.0", options=["--linux=x"], **given)
    with pytest.raises(MegamodError, match=r"^ukify: .*unrecognized arguments: --nosuch"):
        ukify(output, release="6.1.0", options=["--nosuch"], **given)
