"""`files` and `firmware` of a profile in a booted image: a program with its files, a driver that finds its firmware.

e100 asks for its microcode when the network interface comes up; of a file of the wrong length it prints the length.
"""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.boot.disk import host_busybox
from megamod.image.archive import read_image
from tests.boot.image_fixtures import INIT, Guest, make_image, manifest_of, run

PROFILE = """
name: files
critical: {{modules: [e100, loop, dm_mod]}}
skip: [loop]
files:
  {folder}/main: /main
  {busybox}: /bin/busybox
  {folder}/key.pem: {{to: /etc/keys/key.pem, mode: 0600}}
  {folder}/tree/: /opt/camera
firmware: auto
firmware-dir: {folder}/firmware
root: {{exec: /main}}
"""

MAIN = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
{INIT}
show files sh -c 'find /etc /opt -type f -o -type l | sort | xargs ls -l'
show link cat /opt/camera/link
ip link set eth0 up
show status cat /run/megamod/status
show log dmesg
poweroff -f
"""

LENGTH = 11


@pytest.fixture(params=("bookworm", "bookworm-backports"))
def kernel(request, kernels) -> Kernel:
    return kernels(request.param)


@pytest.fixture
def folder(made_once) -> Path:
    """What the profile names."""

    def make(path: Path) -> None:
        for name, data in {
            "main": MAIN.encode(),
            "key.pem": b"secret",
            "tree/camera.conf": b"fps=30\n",
            "firmware/e100/d102e_ucode.bin.xz": lzma.compress(bytes(LENGTH), check=lzma.CHECK_CRC32),
        }.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        (path / "main").chmod(0o755)
        (path / "tree/link").symlink_to("camera.conf")

    return made_once("files-and-firmware", make)


@pytest.fixture
def image(made_once, kernel, folder) -> Path:
    return make_image(made_once, kernel, PROFILE.format(folder=folder, busybox=host_busybox()))


@pytest.fixture
def guest(made_once, kernel, image) -> Guest:
    return run(made_once, kernel, image, extra=["-device", "i82551,netdev=n,romfile=", "-netdev", "user,id=n"])


def test_files_arrive_with_their_modes_and_links(guest):
    rows = {line.split()[8]: line.split()[0] for line in guest.section("files")}
    assert rows == {
        "/etc/keys/key.pem": "-rw-------",
        "/opt/camera/camera.conf": "-rw-r--r--",
        "/opt/camera/link": "lrwxrwxrwx",
    }
    assert guest.section("link") == ["fps=30"]


def test_the_driver_finds_its_firmware_packed_as_it_is(guest, image):
    assert "lib/firmware/e100/d102e_ucode.bin.xz" in {entry.path for entry in read_image(image)}
    assert any(f'"e100/d102e_ucode.bin" has wrong size {LENGTH}' in line for line in guest.log())


def test_a_module_of_skip_is_not_initialised_and_all_others_are(guest, image):
    assert "megamod: member loop skipped: asked for" in guest.log()
    assert guest.timeline().loads[0].name == "megamod_critical"
    assert guest.stages()["critical"][2:] == (0, 1)
    assert manifest_of(image).skip == ("loop",)


def test_the_command_line_takes_a_skip_back(made_once, kernel, image):
    guest = run(made_once, kernel, image, append="megamod.run=loop")
    assert guest.stages()["critical"][2:] == (0, 0)


def test_the_manifest_names_files_and_firmware_and_what_is_missing(image):
    manifest = manifest_of(image)
    assert {(file.path, file.mode, file.reason) for file in manifest.files if file.type == "file"} == {
        ("main", "0755", "files"),
        ("bin/busybox", "0755", "files"),
        ("etc/keys/key.pem", "0600", "files"),
        ("opt/camera/camera.conf", "0644", "files"),
        ("lib/firmware/e100/d102e_ucode.bin.xz", "0644", "firmware of e100"),
    }
    assert any("e100/d101m_ucode.bin, e100/d101s_ucode.bin" in note for note in manifest.notes)
