"""A kernel that enforces signatures and trusts ours: the signed megamodule is loaded, a damaged one falls back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.build.recipe import build_image
from megamod.common.progress import Steps
from megamod.image.archive import read_image, write_image
from megamod.image.signing.sign import Signer
from megamod.image.signing.signature import read_signature
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.boot.image_fixtures import END, Guest, MadeOnce, make_root, run
from tests.boot.trusting_kernel import trusting_kernel

PROFILE = """
name: signed
critical: {modules: [virtio_pci, virtio_blk, ext4]}
sign: {key: modules.pem, cert: modules.crt}
fallback: modules
"""

MODULE = "megamod/megamod_critical.ko"
ENFORCED = "module.sig_enforce=1"
INIT = "show taint cat /proc/sys/kernel/tainted\n" + END


@pytest.fixture
def kernel(made_once: MadeOnce, kernels) -> Kernel:
    """bookworm's, with our certificate in it."""

    def make(path: Path) -> None:
        path.mkdir()
        trusting_kernel(kernels("bookworm").vmlinuz, path)

    return replace(kernels("bookworm"), vmlinuz=made_once("trusting", make) / "vmlinux")


@pytest.fixture
def image(made_once: MadeOnce, kernel: Kernel) -> Path:
    """All modules in it are signed with our key: in this kernel it stands for the distribution's too."""
    folder = kernel.vmlinuz.parent
    signer = Signer(key=folder / "modules.pem", certificate=folder / "modules.crt", digest="sha256")

    def resigned(path: str, data: bytes) -> bytes:
        signature = read_signature(data, file=path) if path.startswith("megamod/originals/") else None
        return signer.sign(signature.content) if signature else data

    def make(path: Path) -> None:
        (folder / "signed.yaml").write_text(PROFILE)
        with Path("/dev/null").open("w") as nowhere:
            build_image(
                load_profile(folder / "signed.yaml"), open_tree(str(kernel.modules)), path, steps=Steps(nowhere)
            )
        write_image(path, [replace(e, data=resigned(e.path, e.data)) for e in read_image(path)], method="none")

    return made_once("image-trusted", make)


def boot(made_once: MadeOnce, kernel: Kernel, image: Path) -> Guest:
    return run(made_once, kernel, image, disks=[make_root(made_once, INIT)], append=ENFORCED)


def test_a_megamodule_with_a_trusted_signature_loads_under_enforcement(
    made_once: MadeOnce, kernel: Kernel, image: Path
) -> None:
    guest = boot(made_once, kernel, image)
    assert guest.modules() == ["megamod_critical"]
    assert guest.section("taint") == ["0"]
    assert not any("verification failed" in line for line in guest.log())


@pytest.mark.parametrize("part", ["module", "signature"])
def test_a_flipped_bit_is_refused_and_the_originals_boot_to_the_root(
    made_once: MadeOnce, kernel: Kernel, image: Path, part: str
) -> None:
    def flipped(data: bytes) -> bytes:
        signature = read_signature(data, file=MODULE)
        assert signature is not None
        # The value of the signature ends where the trailer and the marker begin.
        place = len(signature.content) // 2 if part == "module" else len(data) - 100
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    def make(path: Path) -> None:
        entries = read_image(image)
        changed = [replace(e, data=flipped(e.data)) if e.path == MODULE else e for e in entries]
        write_image(path, changed, method="none")

    guest = boot(made_once, kernel, made_once(f"image-trusted-{part}", make))
    (refused,) = [line for line in guest.log() if line.startswith("megamod: load megamod_critical failed: ")]
    assert refused.split(": ")[2].startswith(("EBADMSG", "EKEYREJECTED"))
    assert "megamod_critical" not in guest.modules()
    assert {"virtio_blk", "ext4"} <= set(guest.modules())
    assert guest.section("taint") == ["0"]
