"""Words of a configuration that make a boot impossible: what the build says, and what a kernel that has the word does.

Seen in a boot are those that Debian's kernel can be given on its command line, where they do what the configuration
would do (CONFIG_CMDLINE, CONFIG_MODULE_SIG_FORCE, CONFIG_LOCK_DOWN_KERNEL_FORCE_*). The others are known from the
source alone: tests/kernels/README.md lists each with its place.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.boot.qemu import run_qemu
from megamod.build.kernel_fit import check_kernel
from megamod.common.errors import MegamodError
from megamod.kernel.config import parse_config
from megamod.profile.schema import load_profile
from tests.boot.image_fixtures import END, MadeOnce, make_image, make_root

PROFILE = """
name: words
critical: {modules: [virtio_pci, virtio_blk, ext4]}
"""
REFUSED = "Attempted to kill init!"

# On the command line, as lines of a configuration, and how the boot ends.
WORDS = [
    ("nomodule", 'CONFIG_CMDLINE="nomodule"', REFUSED),
    ("module.sig_enforce=1", "CONFIG_MODULE_SIG_FORCE=y", REFUSED),
    ("module.sig_enforce=1", 'CONFIG_CMDLINE="module.sig_enforce"', REFUSED),
    ("lockdown=integrity", "CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y", REFUSED),
    ("lockdown=confidentiality", "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY=y", REFUSED),
    ("rdinit=/nowhere", 'CONFIG_CMDLINE="rdinit=/nowhere"', "VFS: Unable to mount root fs"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("word", "line", "end"), WORDS, ids=lambda value: value.replace(" ", "-")[:40])
def test_what_the_build_refuses_does_not_boot(
    made_once: MadeOnce, kernels, tmp_path: Path, word: str, line: str, end: str
) -> None:
    kernel: Kernel = kernels("bookworm")
    image, disk = make_image(made_once, kernel, PROFILE), make_root(made_once, END)
    path = tmp_path / "words.yaml"
    path.write_text(PROFILE)
    text = kernel.config.read_text()
    assert isinstance(check_kernel(load_profile(path), parse_config(text, source="config")), tuple)
    with pytest.raises(MegamodError, match=r"^this kernel cannot boot the image: "):
        check_kernel(load_profile(path), parse_config(f"{text}{line}\n", source="config"))
    guest = run_qemu(
        image=image,
        vmlinuz=kernel.vmlinuz,
        disks=[disk],
        append=f"root=/dev/vda {word} panic=-1",
        timeout=1200,
        accel="tcg",
    )
    assert not guest.timed_out
    assert end in guest.console
