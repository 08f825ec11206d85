"""Fake lib/modules/KVER folders for tests: index files as depmod writes them, and empty .ko files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

RELEASE = "6.1.0-test"


def make_tree(
    root: Path,
    modules: Mapping[str, Iterable[str]],
    *,
    softdep: Iterable[str] = (),
    weakdep: Iterable[str] = (),
    alias: Iterable[str] = (),
    builtin: Iterable[str] = (),
    builtin_modinfo: Iterable[str] = (),
    devname: Iterable[str] = (),
    order: Iterable[str] | None = None,
    release: str = RELEASE,
    modules_folder: str = "lib/modules",
) -> Path:
    """A module tree below *root*; returns its lib/modules/KVER folder.

    *modules*: "kernel/fs/ext4/ext4.ko" → the relative paths of its line in modules.dep, nearest first. The other
    arguments are the lines of the index files without their keyword ("ext4 pre: crc32c"); *order* defaults to the order
    of *modules*.
    """
    folder = root / modules_folder / release
    folder.mkdir(parents=True)
    for relpath in modules:
        path = folder / relpath
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7fELF")
    lines = {
        "modules.dep": [f"{relpath}: {' '.join(depends)}".rstrip() for relpath, depends in modules.items()],
        "modules.softdep": ["# Soft dependencies", *(f"softdep {line}" for line in softdep)],
        "modules.weakdep": ["# Weak dependencies", *(f"weakdep {line}" for line in weakdep)],
        "modules.alias": ["# Aliases", *(f"alias {line}" for line in alias)],
        "modules.devname": ["# Device nodes", *devname],
        "modules.builtin": list(builtin),
        "modules.order": list(modules if order is None else order),
    }
    for name, content in lines.items():
        (folder / name).write_text("".join(f"{line}\n" for line in content))
    if builtin_modinfo:
        (folder / "modules.builtin.modinfo").write_bytes(b"".join(f"{entry}\0".encode() for entry in builtin_modinfo))
    return folder


def small_tree(root: Path) -> Path:
    """A tree with the relations that matter: ext4 on jbd2, crc32c by alias and softdep, USB, sound, a built-in."""
    return make_tree(
        root,
        {
            "kernel/crypto/crc32c_generic.ko": [],
            "kernel/arch/x86/crypto/crc32c-intel.ko": [],
            "kernel/lib/libcrc32c.ko": [],
            "kernel/lib/crc16.ko": [],
            "kernel/fs/mbcache.ko": [],
            "kernel/fs/jbd2/jbd2.ko": [],
            "kernel/fs/ext4/ext4.ko": ["kernel/fs/jbd2/jbd2.ko", "kernel/lib/crc16.ko", "kernel/fs/mbcache.ko"],
            "kernel/fs/btrfs/btrfs.ko": ["kernel/lib/libcrc32c.ko"],
            "kernel/drivers/block/virtio_blk.ko": ["kernel/drivers/virtio/virtio_ring.ko"],
            "kernel/drivers/virtio/virtio_ring.ko": [],
            "kernel/drivers/usb/common/usb-common.ko": [],
            "kernel/drivers/usb/core/usbcore.ko": ["kernel/drivers/usb/common/usb-common.ko"],
            "kernel/drivers/usb/host/ehci-pci.ko": [
                "kernel/drivers/usb/core/usbcore.ko",
                "kernel/drivers/usb/common/usb-common.ko",
            ],
            "kernel/drivers/usb/host/uhci-hcd.ko": [
                "kernel/drivers/usb/core/usbcore.ko",
                "kernel/drivers/usb/common/usb-common.ko",
            ],
            "kernel/drivers/usb/storage/usb-storage.ko": [
                "kernel/drivers/usb/core/usbcore.ko",
                "kernel/drivers/usb/common/usb-common.ko",
            ],
            "kernel/sound/core/snd.ko": [],
            "kernel/sound/pci/hda/snd-hda-intel.ko": ["kernel/sound/core/snd.ko"],
            "kernel/net/mpls/mpls_gso.ko": [],
            "kernel/net/sched/act_mpls.ko": [],
        },
        softdep=[
            "ext4 pre: crypto-crc32c",
            "libcrc32c pre: crc32c",
            "uhci_hcd pre: ehci_pci",
            "act_mpls post: mpls_gso",
            "jbd2 nonsense pre: not-there",
        ],
        weakdep=["virtio_blk snd"],
        alias=[
            "crypto-crc32c crc32c_generic",
            "crc32c crc32c_generic",
            "crypto-crc32c crc32c_intel",
            "crc32c crc32c_intel",
            "virtio:d00000002v* virtio_blk",
            "usb:v0781p5580d*dc*dsc*dp*ic*isc*ip*in* usb_storage",
            "fs-ext4 ext4",
        ],
        builtin=["kernel/drivers/virtio/virtio_pci.ko", "kernel/crypto/aes_generic.ko"],
        builtin_modinfo=["aes_generic.alias=crypto-aes", "libblake2s_x86_64.file=arch/x86/crypto/libblake2s-x86_64"],
    )
