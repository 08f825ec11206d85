"""A profile that follows a device tree boots the machine of that tree, and the kernel has no device that is not read.

The machine is QEMU's `virt`, which writes its device tree out; the disk is behind one of the tree's virtio_mmio nodes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.machine.device_tree import read_device_tree
from tests.boot.image_fixtures import END, Guest, make_image, make_root, manifest_of, run

KERNELS = (("bookworm", "arm64"), ("trixie", "riscv64"))
PROGRAMS = {"arm64": ("qemu-system-aarch64", "qemu-system-arm"), "riscv64": ("qemu-system-riscv64", "qemu-system-misc")}
CPU = {"arm64": ("-cpu", "max"), "riscv64": ()}

PROFILE = """
name: board
critical: {{modules: ["@dtb:{dtb}", virtio_blk, ext4]}}
deferred: [{{name: usb, modules: ["?xhci_pci"], after: userspace}}]
"""

INIT = """
show modalias sh -c 'find /sys/devices -name modalias | xargs cat | grep ^of:'
show mounts cat /proc/mounts
""" + END  # fmt: skip


@pytest.fixture(params=KERNELS, ids=lambda pair: "-".join(pair))
def kernel(request, kernels) -> Kernel:
    return kernels(*request.param)


@pytest.fixture
def dtb(made_once, kernel, tool) -> Path:
    name, package = PROGRAMS[kernel.architecture]

    def make(path: Path) -> None:
        # The tree names the processor, and with it the timer.
        command = [
            tool(name, package=package),
            "-machine",
            f"virt,dumpdtb={path}",
            "-m",
            "512",
            *CPU[kernel.architecture],
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=1200)

    return made_once(f"virt-{kernel.architecture}.dtb", make)


@pytest.fixture
def image(made_once, kernel, dtb) -> Path:
    return make_image(made_once, kernel, PROFILE.format(dtb=dtb))


@pytest.fixture
def guest(made_once, kernel, image) -> Guest:
    root = make_root(made_once, INIT, architecture=kernel.architecture)
    extra = ["-drive", f"file={root},format=raw,if=none,id=root,snapshot=on"]
    extra += ["-device", "virtio-blk-device,drive=root"]
    return run(made_once, kernel, image, append="root=/dev/vda", extra=extra)


def test_the_driver_that_the_tree_asks_for_finds_the_root(guest, image, kernel):
    assert any(line.startswith(("/dev/vda / ext4", "/dev/root / ext4")) for line in guest.section("mounts"))
    reasons = {m.name: m.reason for stage in manifest_of(image).stages for load in stage.loads for m in load.members}
    if "virtio_mmio" in reasons:
        assert reasons["virtio_mmio"].startswith("device tree: /")


def test_every_device_that_the_kernel_makes_of_the_tree_was_read_in_it(guest, dtb):
    ours = {node.modalias for node in read_device_tree(dtb).devices()}
    theirs = set(guest.section("modalias"))
    assert len(theirs) >= 5
    assert theirs <= ours
