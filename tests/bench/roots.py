#!/usr/bin/env python3
"""When the root is mounted on a machine with much slow hardware, beside parallel loading (README.md, "roots.py").

Prints a Markdown table; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import re
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from megamod.boot.disk import busybox_root, make_disk
from megamod.boot.qemu import run_qemu
from megamod.build.recipe import build_image
from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from megamod.modules.tree import open_tree
from megamod.prelink.read import strip_signature
from megamod.profile.schema import load_profile
from tests.bench.shared.arguments import add_kernel, run_main
from tests.bench.shared.compiler import compile_guest
from tests.bench.shared.kernels import BenchKernel, open_kernel
from tests.bench.shared.tables import markdown, title, versions

DISKS = (
    "ahci ata_piix nvme xhci_pci ehci_pci uhci_hcd usb_storage uas sdhci_pci mmc_block megaraid_sas sym53c8xx sd_mod"
)
ROOT = f"{DISKS} sr_mod crc32c_generic crc32c_intel ext4"
REST = """mptsas am53c974 snd_intel8x0 snd_hda_intel ipmi_si e1000 e1000e igb 8139cp 8139too pcnet32 vmxnet3 ne2k_pci
virtio_pci virtio_net virtio_scsi virtio_balloon virtio_rng usbhid hid_generic i2c_i801 i6300esb"""
# One of each beside the root, with nothing attached: what has no device is found out by waiting.
MACHINE = (
    *("-device", "ich9-ahci,id=sata", "-device", "megasas,id=sas", "-device", "lsi53c895a,id=lsi"),
    *("-device", "mptsas1068", "-device", "am53c974", "-device", "qemu-xhci,id=usb", "-device", "ich9-usb-ehci1"),
    *("-device", "sdhci-pci", "-audiodev", "none,id=none", "-device", "AC97,audiodev=none"),
    *("-device", "intel-hda", "-device", "hda-output,audiodev=none", "-device", "usb-kbd,bus=usb.0"),
    *("-drive", "if=none,id=flash,file.driver=null-co,format=raw,file.size=64M,file.read-zeroes=on"),
    *("-device", "nvme,drive=flash,serial=1", "-device", "virtio-scsi-pci", "-device", "virtio-rng-pci"),
)
CARDS = ("e1000", "e1000e", "rtl8139", "pcnet", "vmxnet3", "ne2k_pci", "virtio-net-pci")
PLACES: Mapping[str, tuple[str, ...]] = {
    "AHCI": ("-device", "ide-hd,bus=sata.5,drive=root"),
    "NVMe": ("-device", "nvme,drive=root,serial=2"),
    "USB": ("-device", "usb-storage,bus=usb.0,drive=root"),
    "SD": ("-device", "sd-card,drive=root"),
    "megasas": ("-device", "scsi-hd,bus=sas.0,drive=root"),
    "sym53c8xx": ("-device", "scsi-hd,bus=lsi.0,drive=root"),
}
PROFILES = {
    "all critical": "critical: {{modules: [{root}, {rest}]}}\n",
    "the rest beside the root": "critical: {{modules: [{root}]}}\n"
    "deferred: [{{name: rest, modules: [{rest}], after: now}}]\n",
}
_INIT = """#!/bin/sh
mount -t sysfs sysfs /sys 2>/dev/null
sleep 6
for folder in /sys/class/block /sys/class/net; do for name in $folder/*; do
  path=$(readlink $name); case $path in */pci*) echo "device ${name##*/} /pci${path#*/pci}" ;; esac
done; done
dmesg | grep megamod:
echo; echo end
poweroff -f
"""
_LINE = re.compile(r"^\[ *(\d+\.\d{6})\] megamod: (.*)$", re.MULTILINE)
_DEVICE = re.compile(r"^device (\S+) (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """Milliseconds of guest time from the start of /init until the root was mounted; where each device name is."""

    mounted: float
    devices: Mapping[str, str]


def main() -> int:
    """Boots each row, prints the table."""
    options = _parse()
    kernel = open_kernel(folder=options.kernel, suite=options.suite)
    places = {name: PLACES[name] for name in options.root.split(",")} if options.root else PLACES
    rows, ratios = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disk = folder / "root.img"
        make_disk(disk, busybox_root(folder / "root", init=_INIT), label="bench-root")
        with disk.open("r+b") as file:
            file.truncate(1 << (disk.stat().st_size - 1).bit_length())  # an SD card's size is a power of two
        rival = _rival_image(folder, kernel)
        images = {label: _image(folder, kernel, label, text, options.probe) for label, text in PROFILES.items()}
        for place, devices in places.items():
            devices = (*_machine(), *("-drive", f"if=none,id=root,format=raw,snapshot=on,file={disk}"), *devices)
            one = _rival(kernel, rival, devices, threads=1)
            several = _rival(kernel, rival, devices, threads=options.threads)
            ours = {label: _ours(kernel, image, devices) for label, image in images.items()}
            best = ours["the rest beside the root"]
            ratios.append(best.mounted / several.mounted)
            same = all(boot.devices == one.devices for boot in ours.values())
            figures = [one.mounted, several.mounted, *(boot.mounted for boot in ours.values())]
            names = "yes" if same else "no: " + ", ".join(_differences(one, best) or ["none of the first"])
            rows.append([place, *(f"{figure:.0f}" for figure in figures), f"{ratios[-1]:.2f}", names])
            print(f"  {' '.join(rows[-1])}", file=sys.stderr, flush=True)
    print(title(versions(kernel.release)), "\n", sep="")
    head = ["root on", "one by one", f"{options.threads} threads", *PROFILES, "last / threads", "names as one by one"]
    print(markdown(head, rows))
    print(f"\nMilliseconds from /init to the mounted root; median ratio {median(ratios):.2f}.")
    return 0


def _machine() -> tuple[str, ...]:
    cards = [
        word
        for number, card in enumerate(CARDS)
        for word in ("-netdev", f"user,id=n{number}", "-device", f"{card},netdev=n{number}")
    ]
    return (*MACHINE, *cards)


def _differences(one: Boot, other: Boot) -> list[str]:
    return sorted(
        name for name in one.devices.keys() | other.devices.keys() if one.devices.get(name) != other.devices.get(name)
    )


def _words(text: str, kernel: BenchKernel) -> list[str]:
    return [word for word in text.split() if word in kernel.tree.modules]


def _rival_image(folder: Path, kernel: BenchKernel) -> Path:
    tree = kernel.tree
    wanted: dict[str, int] = {}
    for word in _words(f"{ROOT} {REST}", kernel):
        module = tree.modules[word]
        for name in (*module.depends, word):
            needs = tree.modules[name].depends
            wanted[name] = max((wanted[need] + 1 for need in needs if need in wanted), default=0)
    # A module's needs come before it in modules.dep's own order, but not always in ours: settle the waves.
    for _ in wanted:
        for name in wanted:
            wanted[name] = max((wanted[need] + 1 for need in tree.modules[name].depends), default=0)
    order = sorted(wanted, key=lambda name: wanted[name])
    file, program = stat.S_IFREG | 0o644, compile_guest("roots", folder)
    entries = [
        *(Entry(path=name, mode=stat.S_IFDIR | 0o755) for name in ("dev", "proc", "sys", "mnt")),
        Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
        Entry(path="init", mode=stat.S_IFREG | 0o755, data=program.read_bytes()),
        Entry(path="list", mode=file, data="".join(f"/modules/{n}.ko {wanted[n]}\n" for n in order).encode()),
        *(
            Entry(
                path=f"modules/{name}.ko",
                mode=file,
                data=strip_signature(read_module_bytes(tree.modules[name].path), file=name),
            )
            for name in order
        ),
    ]
    path = folder / "rival.img"
    write_image(path, entries, method="none")
    return path


def _image(folder: Path, kernel: BenchKernel, label: str, text: str, probe: str) -> Path:
    parts = {"root": ", ".join(_words(ROOT, kernel)), "rest": ", ".join(_words(REST, kernel))}
    profile, path = folder / "profile.yaml", folder / f"{label.replace(' ', '-')}.img"
    profile.write_text(f"name: roots\n{text.format(**parts)}probe: {probe}\ncompress: none\nfirmware: none\n")
    with open("/dev/null", "w") as nowhere:  # noqa: PTH123
        build_image(load_profile(profile), open_tree(str(kernel.tree.folder)), path, steps=Steps(nowhere, quiet=True))
    return path


def _run(kernel: BenchKernel, image: Path, devices: Sequence[str], words: str) -> str:
    result = run_qemu(
        image=image,
        vmlinuz=kernel.vmlinuz,
        append=f"{words} nokaslr",
        icount=True,
        memory=1024,
        timeout=1800,
        extra=devices,
    )
    console = result.console.replace("\r", "")
    if "\nend\n" not in console:
        raise MegamodError(f"the guest did not come to its end; its last lines:\n{result.tail()}")
    return console


def _rival(kernel: BenchKernel, image: Path, devices: Sequence[str], *, threads: int) -> Boot:
    console = _run(kernel, image, devices, f"threads={threads} loglevel=0")
    elapsed = re.search(r"^elapsed (\d+)$", console, re.MULTILINE)
    assert elapsed is not None
    return Boot(mounted=int(elapsed[1]) / 1e6, devices=dict(_DEVICE.findall(console)))


def _ours(kernel: BenchKernel, image: Path, devices: Sequence[str]) -> Boot:
    console = _run(kernel, image, devices, "root=LABEL=bench-root loglevel=0")
    lines = _LINE.findall(console)
    start = next(float(seconds) for seconds, text in lines if text == "start")
    end = next(float(seconds) for seconds, text in lines if text.startswith("root ") and text.endswith(" mounted"))
    return Boot(mounted=(end - start) * 1000, devices=dict(_DEVICE.findall(console)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_kernel(parser)
    parser.add_argument("--threads", type=int, default=8, help="of the rival (8)")
    parser.add_argument("--root", help=f"rows, of {', '.join(PLACES)} (default: all)")
    parser.add_argument("--probe", default="root", help="the profiles' word (root)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_main(main))
