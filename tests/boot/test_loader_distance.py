"""Imports bound by distance: in its own kernel under KASLR, in another build by name, and never by a wrong address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megamod.kernel.exports import find_exports, image_of
from megamod.modules.tree import open_tree
from megamod.prelink.distance import KernelImage
from megamod.prelink.link import Megamodule, prelink
from megamod.prelink.names_form import make_patch
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_members
from tests.boot.loader_images import (
    LABEL,
    POWER_OFF,
    UUID,
    Plan,
    after,
    module_path,
    section,
    show,
    start_plan,
    write_loader_image,
)

DISK = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
FILES = ("crc32c_generic", "crc16", "mbcache", "jbd2", "ext4")
LOOK = show("status", "cat /run/megamod/status") + show("taint", "cat /proc/sys/kernel/tainted")
UNSIGNED = 1 << 13


@pytest.fixture
def run(kernels, boot, make_root, make_disk_image, tmp_path):
    """``run(plan)``: boot with a root disk; returns the console."""

    def run(plan: Plan) -> str:
        disk = make_disk_image(make_root(LOOK + POWER_OFF), label=LABEL, uuid=UUID)
        image = write_loader_image(tmp_path / "image", plan)
        return boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[disk], append="root=/dev/vda").console

    return run


def kernel_image(modules: Path) -> KernelImage:
    found = image_of(find_exports(open_tree(str(modules)).kernel_files))
    assert found is not None
    return found


def linked(modules: Path, image: KernelImage) -> Megamodule:
    options = PrelinkOptions(name="megamod_critical")
    members = read_members([module_path(modules, name) for name in (*DISK, *FILES)])
    found = prelink(members, options, donors={n: s.crc for n, s in image.symbols.items() if s.crc}, image=image)
    assert found.build_id == image.build_id and found.names is not None
    return found


def plan_for(modules: Path, build_id: str, made: Megamodule, *, names: bool = True, fallback: str = "none") -> Plan:
    plan = start_plan(modules, critical=(), fallback=fallback, head=[f"build-id {build_id}"])
    plan.merged("megamod_critical", *DISK, *FILES, data=made.data)
    if names:
        plan.files["megamod/megamod_critical.names"] = make_patch(made.data, made.names or b"")
        plan.lines.append("names /megamod/megamod_critical.names")
    return plan


def fine(console: str) -> str:
    assert "WARNING:" not in console and "BUG:" not in console and "Oops" not in console
    assert int(section(console, "taint")) & ~UNSIGNED == 0
    return console


def test_in_its_own_kernel_no_name_is_looked_for(run, kernels):
    modules = kernels("bookworm").modules
    image = kernel_image(modules)
    console = fine(run(plan_for(modules, image.build_id, linked(modules, image))))
    assert "by names" not in console
    after(console, "load megamod_critical took ", "stage critical done", "root /dev/vda ext4 mounted")
    assert section(console, "status").split()[:3] == ["critical", "done", "0"]


def test_in_another_build_the_names_form_is_loaded(run, kernels):
    """The kernel is the same, but the plan knows another build id; the distances are all wrong, too."""
    modules = kernels("bookworm").modules
    image = shifted(kernel_image(modules), 64)
    console = fine(run(plan_for(modules, "ab" * 20, linked(modules, replace(image, build_id="ab" * 20)))))
    after(
        console,
        "load megamod_critical: by names",
        "load megamod_critical took ",
        "root /dev/vda ext4 mounted",
    )


def test_a_wrong_file_by_itself_calls_no_member(run, kernels):
    """A plan that does not know: the file is for a kernel whose upper half lies 64 bytes farther."""
    modules = kernels("bookworm").modules
    image = kernel_image(modules)
    made = linked(modules, shifted(image, 64))
    console = fine(run(plan_for(modules, image.build_id, made, names=False, fallback="modules")))
    rest = after(
        console, "load megamod_critical failed: ENOEXEC", "load megamod_critical: its 11 modules are loaded one"
    )
    after(rest, "load ext4 took ", "root /dev/vda ext4 mounted")


def shifted(image: KernelImage, by: int) -> KernelImage:
    """The same kernel, rebuilt with some bytes more in the middle of its code."""
    places = sorted(symbol.address for symbol in image.symbols.values())
    middle = places[len(places) // 3]
    symbols = {
        name: replace(symbol, address=symbol.address + by * (symbol.address > middle))
        for name, symbol in image.symbols.items()
    }
    return replace(image, symbols=symbols)
