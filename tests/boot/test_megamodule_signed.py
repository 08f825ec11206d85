"""Kernels that enforce signatures: what they refuse, and that the image then boots through the distribution's files.

No key of ours is trusted by Debian's kernel as it is; test_megamodule_trusted.py boots one that trusts ours.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.build.recipe import build_image
from megamod.common.progress import Steps
from megamod.image.archive import read_image, write_image
from megamod.image.signing.signature import read_signature
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.boot.image_fixtures import END, MadeOnce, make_root, run
from tests.unit.signing_keys import make_pair

PROFILE = """
name: signed
critical: {modules: [virtio_pci, virtio_blk, ext4]}
deferred: [{name: sound, modules: [snd_timer], after: userspace}]
sign: {key: modules.pem, cert: modules.crt}
fallback: modules
"""

MODULE = "megamod/megamod_critical.ko"
INIT = "wait_for sound" + END


@pytest.fixture
def kernel(kernels) -> Kernel:
    found: Kernel = kernels("bookworm")
    return found


@pytest.fixture
def image(made_once: MadeOnce, kernel: Kernel) -> Path:
    def make(path: Path) -> None:
        folder = path.with_name(f"{path.name}.keys")
        folder.mkdir()
        make_pair(folder)
        (folder / "signed.yaml").write_text(PROFILE)
        with Path("/dev/null").open("w") as nowhere:
            build_image(
                load_profile(folder / "signed.yaml"), open_tree(str(kernel.modules)), path, steps=Steps(nowhere)
            )

    return made_once("image-signed", make)


def with_critical(made_once: MadeOnce, image: Path, name: str, damage) -> Path:
    """*image* with its critical megamodule changed."""

    def make(path: Path) -> None:
        entries = read_image(image)
        changed = [
            type(entry)(path=entry.path, mode=entry.mode, data=damage(entry.data)) if entry.path == MODULE else entry
            for entry in entries
        ]
        write_image(path, changed, method="none")

    return made_once(f"image-signed-{name}", make)


def test_an_untrusted_signature_is_refused_and_the_originals_boot(
    made_once: MadeOnce, kernel: Kernel, image: Path
) -> None:
    guest = run(made_once, kernel, image, disks=[make_root(made_once, INIT)], append="module.sig_enforce=1")
    guest.place("Loading of module with unavailable key is rejected")
    guest.place(
        "megamod: load megamod_critical failed: EKEYREJECTED (the kernel wants a signature by a key that it knows)"
    )
    assert guest.stages()["critical"][0] == "done"
    assert guest.stages()["sound"][:1] == ("done",)
    assert not [name for name in guest.modules() if name.startswith("megamod")]
    assert {"virtio_blk", "ext4", "snd_timer"} <= set(guest.modules())


def test_without_enforcement_it_is_loaded_and_the_kernel_is_tainted(
    made_once: MadeOnce, kernel: Kernel, image: Path
) -> None:
    guest = run(made_once, kernel, image, disks=[make_root(made_once, INIT)])
    assert {"megamod_critical", "megamod_sound"} <= set(guest.modules())
    assert any("module verification failed: signature and/or required key missing" in line for line in guest.log())


def test_an_unreadable_signature_is_refused_even_without_enforcement(
    made_once: MadeOnce, kernel: Kernel, image: Path
) -> None:
    """A signature that is there and wrong is fatal whatever the settings (kernel/module/signing.c, 6.1)."""

    def without_cms(data: bytes) -> bytes:
        signature = read_signature(data, file=MODULE)
        assert signature is not None
        tail = len(data) - len(signature.content)
        return signature.content + bytes(tail - 40) + data[-40:]

    damaged = with_critical(made_once, image, "unreadable", without_cms)
    guest = run(made_once, kernel, damaged, disks=[make_root(made_once, INIT)])
    assert any(line.startswith("megamod: load megamod_critical failed: E") for line in guest.log())
    assert guest.stages()["critical"][0] == "done"
    assert "megamod_critical" not in guest.modules()
    assert "megamod_sound" in guest.modules()


def test_signer_and_kernel_agree_on_the_digest(kernel: Kernel, image: Path) -> None:
    data = next(entry.data for entry in read_image(image) if entry.path == MODULE)
    signature = read_signature(data, file=MODULE)
    assert signature is not None
    configured = [line for line in kernel.config.read_text().splitlines() if line.startswith("CONFIG_MODULE_SIG_HASH=")]
    assert configured == [f'CONFIG_MODULE_SIG_HASH="{signature.digest}"']
