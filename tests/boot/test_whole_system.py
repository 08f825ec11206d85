"""Images that are the whole system, of kernels without a module; and a board with 64 MiB."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.boot.disk import host_busybox
from tests.boot.image_fixtures import INIT, Guest, MadeOnce, add_program, make_image, run

WHOLE = """
name: whole
critical: {{modules: []}}
files: {{{system}/: /, {system}.conf: /lib/system.conf}}
root: {{exec: /sbin/init}}
"""
SYSTEM_INIT = f"""#!/bin/sh
{INIT}
show links ls -ld /bin /lib /tmp
show conf cat /usr/lib/system.conf
show modules cat /proc/modules
show status cat /run/megamod/status
show log dmesg
poweroff -f
"""
SMALL = """
name: small
critical: {modules: [virtio_mmio, virtio_pci, virtio_blk, ext4]}
root: {exec: /main}
"""
SMALL_MAIN = """
show memory free
show modules cat /proc/modules
show status cat /run/megamod/status
show log dmesg
poweroff -f
"""


@pytest.fixture
def builtin_kernel(kernels, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """A kernel as one that has everything built in leaves its folder: modules.builtin, and no module."""
    kernel = kernels("bookworm")
    folder = tmp_path_factory.mktemp("tree") / "lib/modules" / kernel.release
    folder.mkdir(parents=True)
    for name in ("modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(kernel.modules / name, folder / name)
    for name in ("modules.order", "modules.dep"):
        (folder / name).write_text("")
    boot = folder.parents[2] / "boot"
    boot.mkdir()
    (boot / kernel.vmlinuz.name).symlink_to(kernel.vmlinuz)
    return replace(kernel, modules=folder)


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A system with a merged /usr, and what image makers leave in one: nodes, pipes, links that lead nowhere or out."""
    top = tmp_path / "system"
    for name in ("usr/bin", "usr/sbin", "usr/lib", "dev", "proc", "run/lock", "etc"):
        (top / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib"):
        (top / name).symlink_to(f"usr/{name}")
    shutil.copy(host_busybox(), top / "usr/bin/busybox")
    for name in ("sh", "ls", "cat", "dmesg", "poweroff"):
        (top / "usr/bin" / name).symlink_to("busybox")
    (top / "usr/sbin/init").write_text(SYSTEM_INIT)
    (top / "usr/sbin/init").chmod(0o755)
    (top / "tmp").mkdir()
    (top / "tmp").chmod(0o1777)
    (top / "dev/null").write_text("")
    (top / "etc/mtab").symlink_to("../../proc/self/mounts")
    (top / "etc/gone").symlink_to("/nowhere")
    (tmp_path / "system.conf").write_text("found through a link\n")
    return top


@pytest.fixture
def whole(made_once: MadeOnce, builtin_kernel: Kernel, system: Path) -> Guest:
    image = make_image(made_once, builtin_kernel, WHOLE.format(system=system))
    return run(made_once, builtin_kernel, image)


def test_a_whole_system_is_an_image_of_a_kernel_without_modules(whole: Guest) -> None:
    assert whole.modules() == []
    assert whole.stages() == {"critical": ("done", 0, 0, 0)}
    assert [line.split()[0] for line in whole.section("links")] == ["lrwxrwxrwx", "lrwxrwxrwx", "drwxrwxrwt"]
    assert whole.section("conf") == ["found through a link"]


def test_a_board_with_64_mib_boots(made_once: MadeOnce, kernels) -> None:
    kernel = kernels("trixie", "armhf")
    image = add_program(made_once, make_image(made_once, kernel, SMALL), SMALL_MAIN, architecture="armhf")
    guest = run(made_once, kernel, image, memory=64)
    assert guest.modules() == ["megamod_critical"]
    total = int(guest.section("memory")[1].split()[1])
    assert total < 64 << 10
