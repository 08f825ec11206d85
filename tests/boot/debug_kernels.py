"""Debian's cloud kernel with the debug files of a few modules, and disks that make a file system's driver complain.

The debug package of the cloud kernel is a third of that of the usual one (283 MB instead of 858, 6.1). Only the modules
that are asked for are kept of it, about 80 MB. ext4 is built into that kernel, so the tests take XFS; those that take
ext4 and the usual kernel, or all of vmlinux, are marked slow.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from megamod.boot.apt import find_package, open_apt, update
from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.disk import make_disk
from megamod.build.recipe import build_image
from megamod.cli import main as cli
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder, file_lock, find_program, run_program
from megamod.common.progress import Steps
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.conftest import missing

SUITE = "bookworm"
FLAVOUR = "cloud-amd64"
TIMEOUT = 1200
MODULES = ("xfs", "btrfs", "virtio_blk", "virtio_pci")

# The usual driver of the root and two file systems, so that names repeat; the disk is free for the test.
PROFILE = """
name: debug
critical: {{modules: ["?virtio_pci", virtio_blk, btrfs, ext4, xfs, crc32c_generic]}}
deferred: [{{name: later, modules: [qemu_fw_cfg], after: manual}}]
root: {{exec: /main}}
symbols: {symbols}
tracing: {tracing}
compress: none
"""


def debug_kernel(flavour: str = FLAVOUR) -> Kernel:
    """The newest kernel of the suite and that flavour."""
    try:
        return fetch_kernel(SUITE, flavour=flavour, cache=cache_folder())
    except MegamodError as error:
        missing(f"no kernel of {SUITE}: {error}")


def debug_folder(kernel: Kernel, modules: Sequence[str] = MODULES) -> Path:
    """What would be /usr/lib/debug if the kernel's debug package were installed, with *modules* alone; one of them may
    be ``vmlinux``."""
    name = f"linux-image-{kernel.release}-dbg"
    folder = cache_folder() / "debug" / kernel.release
    with file_lock(folder.with_name(f"{folder.name}.lock")):
        if all((folder / f".{module}").exists() for module in modules):
            return folder / "usr/lib/debug"
        try:
            _fetch(name, modules, kernel, folder)
        except MegamodError as error:
            missing(f"{name}: {error}")
    return folder / "usr/lib/debug"


def _fetch(name: str, modules: Sequence[str], kernel: Kernel, folder: Path) -> None:
    apt = open_apt(SUITE, architecture=kernel.architecture, folder=cache_folder() / "apt")
    update(apt)
    package = find_package(apt, name)
    folder.mkdir(parents=True, exist_ok=True)
    # By now the folder of an older kernel serves nobody.
    for old in folder.parent.glob("[!.]*"):
        if old.is_dir() and old != folder and _flavour(old.name) == _flavour(kernel.release):
            shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as scratch:
        word = f"{package.name}={package.version}"
        run_program(
            [find_program("apt-get", package="apt"), *apt.options, "-qq", "download", word], folder=Path(scratch)
        )
        (archive,) = Path(scratch).glob("*.deb")
        patterns = ["*/boot/vmlinux-*" if m == "vmlinux" else f"*/{m.replace('_', '[-_]')}.ko*" for m in modules]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpacked:
            command = ["tar", "-x", "-C", folder, "--wildcards", "--no-anchored", *patterns]
            subprocess.run(command, stdin=unpacked.stdout, check=True)
    for module in modules:
        (folder / f".{module}").touch()


def _flavour(release: str) -> str:
    """``cloud-amd64`` of ``6.1.0-56-cloud-amd64`` and of ``6.12.95+deb12-cloud-amd64``."""
    return re.sub(r"^[\d.]+(-\d+)?(\+deb\d+)?-", "", release)


def debug_image(
    made_once: Callable[..., Path], kernel: Kernel, *, symbols: str = "keep", tracing: str = "off"
) -> tuple[Path, Path]:
    """The image of `PROFILE` and its map."""
    name = f"debug-{kernel.release}-{symbols}-{tracing}"

    def make(path: Path) -> None:
        source = path.with_suffix(".yaml")
        source.write_text(PROFILE.format(symbols=symbols, tracing=tracing))
        tree = open_tree(str(kernel.modules))
        with Path(os.devnull).open("w") as nowhere:
            build_image(load_profile(source), tree, path, steps=Steps(nowhere), map_file=path.with_name(f"{name}.map"))
        source.unlink()

    image = made_once(name, make)
    return image, image.with_name(f"{name}.map")


def overlapping_disk(made_once: Callable[..., Path], tool: Callable[..., str]) -> Path:
    """An XFS whose list of free space says that the end of the file /file is free: XFS complains when it is removed."""
    xfs_db = tool("xfs_db", package="xfsprogs")

    def make(path: Path) -> None:
        folder = path.with_name(f"{path.name}.data")
        folder.mkdir()
        (folder / "file").write_bytes(bytes(range(256)) * 12000)
        make_disk(path, folder, filesystem="xfs")
        shown = subprocess.run(
            [xfs_db, "-r", "-c", "agf 0", "-c", "addr bnoroot", "-c", "p recs", path],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        number, record = shown.split()[-1].split(":")
        start = int(record.strip("[]").split(",")[0])
        command = [xfs_db, "-x", "-c", "agf 0", "-c", "addr bnoroot"]
        command += ["-c", f"write recs[{number}].startblock {start - 50}", str(path)]
        subprocess.run(command, capture_output=True, check=True)

    return made_once("overlapping.xfs", make)


def megamod(*words: object) -> None:
    """Run a command that must succeed."""
    before = sys.argv
    sys.argv = ["megamod", *map(str, words)]
    try:
        assert cli.main() == 0
    finally:
        sys.argv = before


def connected(path: str) -> socket.socket:
    """A connection to the Unix socket *path*, as soon as QEMU has made it."""
    wire = socket.socket(socket.AF_UNIX)
    wire.settimeout(TIMEOUT)
    wait_for(lambda: Path(path).exists())
    wire.connect(path)
    return wire


def read_until(wire: socket.socket, end: str) -> str:
    """What comes until and with *end*."""
    text = ""
    while not text.endswith(end):
        data = wire.recv(65536)
        assert data, f"the guest has hung up after {text[-200:]!r}"
        text += data.decode().replace("\r", "")
    return text


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, or fail."""
    waiting = threading.Event()
    for _ in range(TIMEOUT * 10):
        if condition():
            return
        waiting.wait(0.1)
    pytest.fail("nothing has come in time")


@pytest.fixture(scope="session")
def cloud(tool: Callable[..., str]) -> Kernel:
    for name, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("depmod", "kmod")):
        tool(name, package=package)
    return debug_kernel()


@pytest.fixture(scope="session")
def debug_files(cloud: Kernel) -> Path:
    return debug_folder(cloud)
