"""Roots that are folders of another machine: by virtiofs, and by NFS over a network that a program of the image sets
up. (9p: `test_loader_found.py`.)"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.boot.loader_images import POWER_OFF, after, section, shell_files, show, start_plan, write_loader_image
from tests.boot.root_servers import nfs_server, virtiofsd
from tests.conftest import missing

pytestmark = pytest.mark.slow

_END = show("mounts", "cat /proc/mounts") + "echo kept >/written && echo the end" + POWER_OFF
_NET = "ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0"
_CARD = ("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=")
_MODULES = ("virtio_pci", "virtio_net", "nfsv4", "nfs")


@pytest.fixture
def need_root() -> None:
    if os.geteuid() != 0:
        missing("root: the server opens files by their handles")


@pytest.fixture
def folder(make_root) -> Path:
    """A root that shows its mounts and writes a file."""
    return make_root(_END)


def test_a_virtiofs_root_is_mounted_by_its_tag(kernels, boot, folder, tool, tmp_path, need_root):
    program = Path("/usr/lib/qemu/virtiofsd")  # of QEMU 7; newer ones have it in a package of its own
    found = str(program) if program.exists() else tool("virtiofsd", package="virtiofsd")
    kernel = kernels("bookworm")
    image = write_loader_image(tmp_path / "image", start_plan(kernel.modules, critical=("virtio_pci", "virtiofs")))
    with virtiofsd(found, folder, tmp_path) as extra:
        console = boot(
            image=image, vmlinuz=kernel.vmlinuz, append="root=rootfs rootfstype=virtiofs rw", extra=extra, timeout=240
        ).console
    after(console, "megamod: root rootfs virtiofs mounted", "the end")
    assert "rootfs / virtiofs rw" in section(console, "mounts")
    assert (folder / "written").read_text() == "kept\n"


def test_an_nfs_root_is_mounted_when_a_program_has_set_up_the_network(kernels, boot, folder, tool, tmp_path, need_root):
    """Debian's kernels have neither the kernel's ip= nor a card's driver: both come from the image."""
    program = tool("ganesha.nfsd", package="nfs-ganesha-vfs")
    kernel = kernels("bookworm")
    plan = start_plan(kernel.modules, critical=_MODULES, head=["before-mount 60000 /net"])
    files = shell_files(f"/bin/busybox --install -s /bin\nexport PATH=/bin\n{_NET}", path="net")
    image = write_loader_image(tmp_path / "image", plan, files=files)
    with nfs_server(program, folder, tmp_path) as port:
        append = f"root=10.0.2.2:/export rootfstype=nfs4 rw rootflags=vers=4.2,port={port}"
        console = boot(image=image, vmlinuz=kernel.vmlinuz, append=append, extra=_CARD, timeout=240).console
    after(console, "megamod: root 10.0.2.2:/export nfs4 mounted", "the end")
    assert "10.0.2.2:/export / nfs4 rw" in section(console, "mounts")
    assert (folder / "written").read_text() == "kept\n"
