"""`megamod install` below a folder: a real kernel's image, everything taken back, GRUB's script by GRUB's checker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.hooks.installer import pieces
from megamod.hooks.installer.grubenv import read_grubenv
from tests.unit.boot_systems import grub_system, put, systemd_boot_system

SOURCE = Path(pieces.__file__).parents[3]
FILES = Path(pieces.__file__).parent / "files"
PROFILE = "name: machine\ncritical: {modules: [virtio_pci, virtio_blk, ext4]}\n"
LIBRARY = """\
prepare_grub_to_access_device() { echo "insmod part_gpt"; }
make_system_path_relative_to_its_root() { echo "${1#"$TOP"}"; }
grub_quote() { sed "s/'/'\\\\\\\\''/g"; }
"""


def megamod(*words: object, status: int = 0) -> str:
    """What the command prints."""
    command = [
        sys.executable,
        "-c",
        "import sys; from megamod.cli.main import main; sys.exit(main())",
        *map(str, words),
    ]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def everything(root: Path) -> Iterator[tuple[str, str]]:
    """Path and content of all files below *root* but the kernel's."""
    for path in sorted(root.rglob("*")):
        if "modules" not in path.parts and not path.name.startswith("vmlinuz"):
            yield str(path.relative_to(root)), path.read_bytes().hex() if path.is_file() else ""


@pytest.fixture
def kernel(kernels) -> Kernel:
    return kernels("bookworm")


@pytest.fixture(params=["grub", "bls", "uki"])
def root(request: pytest.FixtureRequest, kernel: Kernel, tmp_path: Path) -> Path:
    make = grub_system if request.param == "grub" else systemd_boot_system
    root = make(tmp_path / "root", kernel=kernel.release)
    shutil.rmtree(root / "lib/modules" / kernel.release)
    (root / "lib/modules" / kernel.release).symlink_to(kernel.modules)
    (root / "boot" / f"vmlinuz-{kernel.release}").unlink()
    (root / "boot" / f"vmlinuz-{kernel.release}").symlink_to(kernel.vmlinuz)
    layout = f"layout={request.param if request.param != 'grub' else 'bls'}\n"
    return put(root, {"etc/megamod/own.yaml": PROFILE, "etc/kernel/install.conf": layout})


def test_install_is_the_same_twice_and_remove_takes_everything_back(root: Path) -> None:
    before = dict(everything(root))
    first = megamod("install", "--root", root, "-p", root / "etc/megamod/own.yaml")
    assert "the next boot tries it" in first
    installed = dict(everything(root))
    assert len(installed) > len(before) + 8
    megamod("install", "--root", root, "-p", root / "etc/megamod/own.yaml")
    assert dict(everything(root)) == installed
    assert "boots are counted" in megamod("install", "--root", root, "--status")
    megamod("install", "--root", root, "--remove")
    after = dict(everything(root))
    # GRUB's own file may be there now, without a word of ours.
    if (env := after.pop("boot/grub/grubenv", None)) is not None:
        assert read_grubenv(root / "boot/grub/grubenv") == {}
        assert env
    assert after == before


def test_a_dry_run_writes_nothing(root: Path) -> None:
    before = dict(everything(root))
    assert "kernel " in megamod("install", "--root", root, "-p", root / "etc/megamod/own.yaml", "--dry-run")
    assert dict(everything(root)) == before


def test_a_kernel_whose_image_cannot_be_made_again_boots_the_generators(root: Path, kernel: Kernel) -> None:
    megamod("install", "--root", root, "-p", root / "etc/megamod/own.yaml")
    (root / "etc/megamod/own.yaml").write_text("critical: {modules: [nothing]}\n")
    message = megamod("install", "--root", root, "--update", "-k", kernel.release, status=1)
    assert "no module or alias nothing" in message
    assert not list(root.glob("boot/**/*megamod*.img"))
    assert not list(root.glob("boot/**/*megamod*.conf"))
    assert not list(root.glob("boot/**/*megamod*.efi"))


def test_grub_reads_the_entries_that_its_script_writes(tmp_path: Path, tool: Callable[..., str]) -> None:
    checker = tool("grub-script-check", package="grub-common")
    top = put(tmp_path, {"lib/grub-mkconfig_lib": LIBRARY, "boot/grub/grubenv": "", "boot/vmlinuz-6.1": ""})
    put(top, {"boot/megamod/entries": "6.1 aaa\n6.1 bbb\n6.2 ccc\n"})
    put(top, {"boot/megamod/6.1-aaa.img": "", "boot/megamod/6.1-bbb.img": "", "boot/megamod/6.2-ccc.img": ""})
    (top / "probe").write_text("#!/bin/sh\necho ext2\n")
    (top / "probe").chmod(0o755)
    script = top / "45_megamod"
    script.write_text((FILES / "grub-entries").read_text().replace("/boot", f"{top}/boot"))
    environment = {
        "PATH": os.environ["PATH"],
        "TOP": str(top),
        "pkgdatadir": str(top / "lib"),
        "grub_probe": str(top / "probe"),
        "GRUB_DEVICE": "/dev/sda2",
        "GRUB_DEVICE_BOOT": "/dev/sda2",
        "GRUB_CMDLINE_LINUX": "rdinit=/megamod-init quiet",
    }
    done = subprocess.run(["sh", script], check=True, capture_output=True, text=True, env=environment)
    (top / "grub.cfg").write_text(done.stdout)
    subprocess.run([checker, top / "grub.cfg"], check=True)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "linux /boot/vmlinuz-6.1 root=/dev/sda2 ro quiet panic=10 megamod.image=6.1-aaa" in lines
    assert "initrd /boot/megamod/6.1-bbb.img" in lines
    # The kernel 6.2 is not there.
    assert not any("6.2" in line for line in lines)
    assert "save_env megamod_try" in lines
    (top / "probe").write_text("#!/bin/sh\necho btrfs\n")
    done = subprocess.run(["sh", script], check=True, capture_output=True, text=True, env=environment)
    assert "megamod_try" not in done.stdout
    assert "megamod_good" in done.stdout
