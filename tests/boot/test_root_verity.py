"""dm-verity by boot, with images that megamod builds: the hash from the command line, from a file for each slot, and
signed for a kernel that takes nothing else."""

from __future__ import annotations

import base64
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from tests.boot.image_fixtures import make_image
from tests.boot.loader_images import POWER_OFF, after
from tests.boot.partitioned_disks import Partition, ext4_of_pages, write_gpt
from tests.boot.test_loader_layers import veritysetup  # noqa: F401
from tests.boot.trusting_kernel import trusting_kernel

pytestmark = pytest.mark.slow

PROFILE = """
name: verity
critical: {{modules: [virtio_pci, virtio_blk, ext4, dm_verity]}}
root: {root}
{more}
"""
_SIGNED = "dm_verity.require_signatures=1"
_REFUSED = "megamod: error: no dm-verity device over /dev/vda1 with the hashes of "


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A root, its hash tree, the root hash and what veritysetup has printed."""

    data: Path
    hashes: Path
    root_hash: str
    printed: str


@pytest.fixture
def make_tree(make_root, tmp_path, veritysetup):  # noqa: F811
    """``make_tree("a")``: a root that shows who it is, with its hash tree."""

    def make(name: str) -> Tree:
        init = f"echo this is {name}; cat /sys/block/dm-0/ro /sys/block/dm-0/dm/name" + POWER_OFF
        data = ext4_of_pages(tmp_path / f"{name}.ext4", make_root(init), size_mib=16)
        hashes = tmp_path / f"{name}.hashes"
        command = [*veritysetup, "format", str(data), str(hashes)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.search(r"^Root hash:\s+(\w+)", printed, re.MULTILINE)
        assert found is not None
        return Tree(data=data, hashes=hashes, root_hash=found[1], printed=printed)

    return make


def uuid_of(half: str) -> str:
    """32 digits as a UUID."""
    return "-".join(half[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def disk_by_hash(path: Path, tree: Tree) -> Path:
    """A disk whose partitions have the halves of the root hash as UUIDs, as systemd-repart makes it."""
    return write_gpt(
        path,
        [
            Partition(name="root", content=tree.data, uuid=uuid_of(tree.root_hash[:32])),
            Partition(name="hashes", content=tree.hashes, uuid=uuid_of(tree.root_hash[32:])),
        ],
    )


def test_a_root_is_found_and_checked_by_its_hash_alone(made_once, kernels, boot, make_tree, tmp_path):
    kernel, tree = kernels("bookworm"), make_tree("checked")
    image = make_image(made_once, kernel, PROFILE.format(root="{from: cmdline, verity: {from: cmdline}}", more=""))
    disk = disk_by_hash(tmp_path / "disk.img", tree)

    def start(words: str) -> str:
        return boot(image=image, vmlinuz=kernel.vmlinuz, disks=[disk], append=words, timeout=240).console

    after(start(f"roothash={tree.root_hash}"), "megamod: root /dev/dm-0 ext4 mounted", "this is checked", "1\nroot\n")
    # The first half finds the partitions; the rest of the hash is wrong.
    wrong = tree.root_hash[:-1] + ("0" if tree.root_hash[-1] != "0" else "1")
    console = start(f"roothash={wrong} rootwait=1")
    after(console, "megamod: error: root ", "did not appear within 1 s", "Kernel panic")
    console = start(f"root=/dev/vda1 roothash={wrong} rootwait=1")
    assert "mounted" not in console and "this is" not in console
    after(start("root=/dev/vda1"), "megamod: error: no roothash= on the kernel command line, and the image has none")


SLOTS = """
  device: "PARTLABEL=rootfs_${{slot}}"
  slot-from: rauc.slot
  verity: {{from: "{folder}/verity_${{slot}}.txt", hash-device: "PARTLABEL=hash_${{slot}}"}}
"""


def test_each_slot_is_checked_by_what_veritysetup_printed_for_it(made_once, kernels, boot, make_tree, tmp_path):
    kernel = kernels("bookworm")
    trees = {slot: make_tree(slot) for slot in "ab"}
    for slot, tree in trees.items():
        (tmp_path / f"verity_{slot}.txt").write_text(tree.printed)
    image = make_image(made_once, kernel, PROFILE.format(root=SLOTS.format(folder=tmp_path), more=""))

    def start(slot: str, *, data_of: str) -> str:
        disk = write_gpt(
            tmp_path / f"disk-{slot}-{data_of}.img",
            [
                *(Partition(name=f"rootfs_{name}", content=trees[data_of].data) for name in [slot]),
                *(Partition(name=f"hash_{name}", content=tree.hashes) for name, tree in trees.items()),
            ],
        )
        append = f"rauc.slot={slot} rootwait=1"
        return boot(image=image, vmlinuz=kernel.vmlinuz, disks=[disk], append=append, timeout=240).console

    for slot in trees:
        after(start(slot, data_of=slot), "megamod: root /dev/dm-0 ext4 mounted", f"this is {slot}", "1\nroot\n")
    console = start("a", data_of="b")
    after(console, "/dev/dm-0 cannot be mounted")
    assert "this is" not in console


def signature_of(tree: Tree, folder: Path, key: str, tool) -> Path:
    """The signature of the root hash as `veritysetup --root-hash-signature` takes it."""
    text = folder / "roothash.txt"
    text.write_text(tree.root_hash)
    path = folder / f"{key}.p7s"
    command = [tool("openssl", package="openssl"), "smime", "-sign", "-nocerts", "-noattr", "-binary", "-in", str(text)]
    command += ["-inkey", str(folder / f"{key}.pem"), "-signer", str(folder / f"{key}.crt"), "-outform", "der"]
    subprocess.run([*command, "-out", str(path)], check=True, capture_output=True)
    return path


def other_key(folder: Path, tool) -> None:
    """A key that no kernel trusts."""
    command = [
        tool("openssl", package="openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=other",
    ]
    command += ["-keyout", str(folder / "other.pem"), "-out", str(folder / "other.crt")]
    subprocess.run(command, check=True, capture_output=True)


def test_a_signed_root_hash_is_taken_by_a_kernel_that_asks_for_one(made_once, kernels, boot, make_tree, tmp_path, tool):
    """Debian's kernel with our certificate; the signature comes from the image or from the command line."""
    plain: Kernel = kernels("bookworm")
    kernel = replace(plain, vmlinuz=trusting_kernel(plain.vmlinuz, tmp_path))
    tree = make_tree("signed")
    other_key(tmp_path, tool)
    good, bad = (signature_of(tree, tmp_path, key, tool) for key in ("modules", "other"))
    disk = disk_by_hash(tmp_path / "disk.img", tree)
    images = {
        name: make_image(
            made_once,
            plain,
            PROFILE.format(
                root=f"{{from: cmdline, verity: {{from: cmdline{key}}}}}", more=f"files: {{{good}: /etc/roothash.p7s}}"
            ),
        )
        for name, key in (("without", ""), ("with", ", signature: /etc/roothash.p7s"))
    }

    def start(image: str, words: str = "") -> str:
        append = f"roothash={tree.root_hash} {_SIGNED} {words}"
        return boot(image=images[image], vmlinuz=kernel.vmlinuz, disks=[disk], append=append, timeout=240).console

    here = ("megamod: root /dev/dm-0 ext4 mounted", "this is signed", "1\nroot\n")
    after(start("with"), *here)
    text = base64.b64encode(good.read_bytes()).decode()
    after(start("without", f"roothashsig=base64:{text}"), *here)
    console = start("without")
    after(console, _REFUSED, "(its root hash has no signature by a key that the kernel trusts)")
    assert "this is" not in console
    text = base64.b64encode(bad.read_bytes()).decode()
    console = start("with", f"roothashsig=base64:{text}")
    after(console, _REFUSED)
    assert "this is" not in console
    console = start("without", "roothashsig=/nowhere")
    after(console, "megamod: error: the signature of the root hash, /nowhere: ENOENT")
