"""The image itself: the same bytes from everywhere, and an honest refusal by another kernel."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.boot.image_fixtures import make_image, make_root, run

PROFILE = """
name: small
critical: {modules: ["?virtio_pci", virtio_blk, ext4]}
deferred: [{name: usb, modules: [xhci_pci, usb_storage], after: userspace}]
"""


def build_elsewhere(
    folder: Path, kernel: str, profile: Path, *, umask: int = 0o022, **environment: str
) -> tuple[str, str]:
    """Build with the command, in the folder *folder*, with this environment; the image's SHA-256, and what it said."""
    folder.mkdir(parents=True)
    program = "import sys; from megamod.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "build", str(profile), "-k", kernel, "-o", "made.img"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **environment},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return hashlib.sha256((folder / "made.img").read_bytes()).hexdigest(), done.stderr


def test_an_image_does_not_depend_on_where_by_whom_and_when_it_is_built(kernels, made_once, tmp_path):
    kernel = kernels("bookworm")
    profile = tmp_path / "small.yaml"
    profile.write_text(PROFILE)
    here = hashlib.sha256(make_image(made_once, kernel, PROFILE).read_bytes()).hexdigest()
    modules = str(kernel.modules)
    builds = {
        "C locale": build_elsewhere(tmp_path / "a", modules, profile, LC_ALL="C", PYTHONHASHSEED="1"),
        "other locale": build_elsewhere(
            tmp_path / "b", modules, profile, LC_ALL="C.UTF-8", TZ="Asia/Tokyo", PYTHONHASHSEED="2"
        ),
        "other umask": build_elsewhere(tmp_path / "c", modules, profile, umask=0o077, PYTHONHASHSEED="3"),
        "relative path": build_elsewhere(
            tmp_path / "d" / "deep", os.path.relpath(modules, tmp_path / "d" / "deep"), profile, PYTHONHASHSEED="4"
        ),
    }
    # The same tree elsewhere, perhaps with another order in its folders.
    copy = tmp_path / "tree" / "lib" / "modules" / kernel.release
    shutil.copytree(kernel.modules, copy, copy_function=os.symlink, ignore=shutil.ignore_patterns("build", "source"))
    (copy.parents[2] / "boot").mkdir()
    (copy.parents[2] / "boot" / f"vmlinuz-{kernel.release}").symlink_to(kernel.vmlinuz)
    # The manifest names the kernel's package, from its changelog.
    (copy.parents[2] / "usr").symlink_to(kernel.modules.parents[2] / "usr")
    builds["copied tree"] = build_elsewhere(tmp_path / "e", str(copy), profile, PYTHONHASHSEED="5")
    assert {name: digest for name, (digest, _) in builds.items()} == dict.fromkeys(builds, here)


@pytest.mark.parametrize(("built_for", "booted"), [("bookworm", "bookworm-backports"), ("sid", "bookworm")])
def test_another_kernel_reports_a_foreign_image_and_does_not_hang(kernels, made_once, built_for, booted):
    image = make_image(made_once, kernels(built_for), PROFILE)
    guest = run(made_once, kernels(booted), image, disks=[make_root(made_once, "poweroff -f")])
    text = "\n".join(guest.log())
    assert "megamod: load megamod_critical failed: ENOEXEC (" in text
    assert f"megamod: the image is for kernel {kernels(built_for).release}, this is {kernels(booted).release}" in text
    # The kernel says which of its checks it was (kernel/module/main.c check_modinfo(), rewrite_section_headers()).
    assert re.search(r"megamod_critical: (version magic .* should be|.* must match the kernel's|disagrees about)", text)
    assert "megamod: error: the critical stage failed" in text
    assert re.search(r"megamod: error: root /dev/vda: it did not appear within \d+ s; block devices: none", text)
    assert "Kernel panic - not syncing: Attempted to kill init!" in text
