"""Words of a configuration that make a boot impossible: what the build says, and what a kernel that has the word does.

Seen in a boot are those that Debian's kernel can be given on its command line, where they do what the configuration
would do (CONFIG_CMDLINE, MODULE_SIG_FORCE, LOCK_DOWN_KERNEL_FORCE_*, the rule of IMA), and decompressors that a
self-built kernel has not. tests/kernels/README.md lists the others, each with its place in the source.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.boot.qemu import run_qemu
from megamod.build.kernel_fit import check_kernel
from megamod.build.recipe import build_image
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.image.archive import read_image, write_image
from megamod.kernel.config import parse_config
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.boot.image_fixtures import END, MadeOnce, make_image, make_root

PROFILE = """
name: words
critical: {modules: [virtio_pci, virtio_blk, ext4]}
"""
REFUSED = "Attempted to kill init!"
NO_ROOT = "VFS: Unable to mount root fs"

# On the command line, as lines of a configuration that do the same, and how the boot ends.
WORDS = [
    ("nomodule", ['CONFIG_CMDLINE="nomodule"'], REFUSED),
    ("module.sig_enforce=1", ["CONFIG_MODULE_SIG_FORCE=y", 'CONFIG_CMDLINE="module.sig_enforce"'], REFUSED),
    (
        "lockdown=integrity",
        ["CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y", 'CONFIG_CMDLINE="lockdown=integrity"'],
        REFUSED,
    ),
    (
        "lockdown=confidentiality",
        ["CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY=y", 'CONFIG_CMDLINE="lockdown=confidentiality"'],
        REFUSED,
    ),
    # The same rule as the option's (security/integrity/ima/ima_policy.c: secure_boot_rules[] "includes all of the build
    # time rules").
    ("ima_policy=secure_boot", ["CONFIG_IMA_APPRAISE_REQUIRE_MODULE_SIGS=y"], REFUSED),
    ("rdinit=/nowhere", ['CONFIG_CMDLINE="rdinit=/nowhere"'], NO_ROOT),
]


@pytest.mark.slow
@pytest.mark.parametrize(("word", "lines", "end"), WORDS, ids=[word for word, _lines, _end in WORDS])
def test_what_the_build_refuses_does_not_boot(
    made_once: MadeOnce, kernels, tmp_path: Path, word: str, lines: list[str], end: str
) -> None:
    kernel: Kernel = kernels("bookworm")
    image, disk = make_image(made_once, kernel, PROFILE), make_root(made_once, END)
    path = tmp_path / "words.yaml"
    path.write_text(PROFILE)
    text = kernel.config.read_text()
    assert isinstance(check_kernel(load_profile(path), parse_config(text, source="config")), tuple)
    for line in lines:
        with pytest.raises(MegamodError, match=r"^this kernel cannot boot the image: "):
            check_kernel(load_profile(path), parse_config(f"{text}{line}\n", source="config"))
    assert_ends(kernel, image, disk, end, word)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["xz", "lz4"])
def test_an_image_packed_as_the_kernel_cannot_unpack_does_not_boot(
    made_once: MadeOnce, selfbuilt, tmp_path: Path, method: str
) -> None:
    kernel: Kernel = selfbuilt("kcfi-arm64")  # RD_GZIP and RD_ZSTD alone
    path, image = tmp_path / "words.yaml", tmp_path / "packed.img"
    path.write_text(f"{PROFILE}compress: {method}\n")
    with (
        Path(os.devnull).open("w") as nowhere,
        pytest.raises(MegamodError, match=f"the kernel cannot unpack {method}: "),
    ):
        build_image(load_profile(path), open_tree(str(kernel.modules)), image, steps=Steps(nowhere))
    assert not image.exists()
    write_image(image, read_image(make_image(made_once, kernel, f"{PROFILE}compress: gzip\n")), method=method)
    disk = make_root(made_once, END, architecture=kernel.architecture)
    console = assert_ends(kernel, image, disk, NO_ROOT, "")
    assert f"compression method {method} not configured" in console


def assert_ends(kernel: Kernel, image: Path, disk: Path, end: str, word: str) -> str:
    guest = run_qemu(
        image=image,
        vmlinuz=kernel.vmlinuz,
        arch=kernel.arch,
        disks=[disk],
        append=f"root=/dev/vda {word} panic=-1",
        timeout=1200,
        accel="tcg",
    )
    assert not guest.timed_out
    assert end in guest.console
    return guest.console
