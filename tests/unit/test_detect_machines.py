"""`megamod detect` on machines of many kinds, with Debian's module trees: what boots, and what the loader must refuse.

The machines are written down by hand from what sysfs shows of such hardware: the folders on the way to the disk and the
keyboard, with the modaliases that the kernel makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.loader.limits import LIMITS
from megamod.machine.detect import detect
from megamod.machine.detected_yaml import detected_profile
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from megamod.select.select import select
from tests.unit.machine_records import fake_machine, mapped, mounted

KEYS = "1000000000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe"
AMD64, ARM64, ARMHF = ("bookworm", "amd64"), ("bookworm", "arm64"), ("trixie", "armhf")


def way(*steps: str) -> tuple[str, str]:
    """(the last folder, the record) of devices in each other: "NAME" or "NAME MODALIAS"."""
    path, lines = "sys/devices", []
    for step in steps:
        name, _blank, modalias = step.partition(" ")
        path += f"/{name}"
        if modalias:
            lines += [f"{path}/modalias", f"| {modalias}"]
    return path, "\n".join(lines) + "\n"


def block(name: str, numbers: str, *steps: str, part: str = "") -> str:
    """A disk on its way, and with *part* ("sda1 8:1", …) partitions."""
    path, text = way(*steps, "block", name)
    places = [(name, numbers, path), *((*p.split(), f"{path}/{p.split()[0]}") for p in part.split(", ") if p)]
    for device, number, place in places:
        below = place.removeprefix("sys/devices/")
        if place != path:
            text += f"{place}/partition\n| 1\n"
        else:
            text += f"{place}/size\n| 9\nsys/block/{device} -> ../devices/{below}\n"
        text += f"sys/class/block/{device} -> ../../devices/{below}\nsys/dev/block/{number} -> ../../devices/{below}\n"
    return text


def keyboard(*steps: str) -> str:
    path, text = way(*steps)
    place = f"{path}/input/input1"
    return (
        f"{text}{place}/capabilities/key\n| {KEYS}\n{place}/device -> ../../../{path.rpartition('/')[2]}\n"
        f"sys/class/input/input1 -> ../../{place.removeprefix('sys/')}\n"
    )


PCI = "pci0000:00"
SCSI = ("target0:0:0", "0:0:0:0 scsi:t-0x00")
AHCI = (PCI, "0000:00:17.0 pci:v00008086d0000A352sv00001028sd0000085Cbc01sc06i01", "ata1", "host0", *SCSI)
NVME = (PCI, "0000:00:1d.0 pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", "nvme", "nvme0")
XHCI = (
    PCI,
    "0000:00:14.0 pci:v00008086d0000A36Dsv00001028sd0000085Cbc0Csc03i30",
    "usb1 usb:v1D6Bp0002d0601dc09dsc00dp01ic09isc00ip00in00",
)
STICK = (*XHCI, "1-2", "1-2:1.0 usb:v0781p5583d0100dc00dsc00dp00ic08isc06ip50in00", "host0", *SCSI)
USB_KEYS = (
    *XHCI,
    "1-3",
    "1-3:1.0 usb:v046DpC31Cd6402dc00dsc00dp00ic03isc01ip01in00",
    "0003:046D:C31C.0001 hid:b0003g0001v0000046Dp0000C31C",
)
CARD = ("mmc_host", "mmc0", "mmc0:0001 mmc:block")
LPSS = (PCI, "0000:00:1e.3 pci:v00008086d00009D2Asv00008086sd00007270bc11sc80i00", "pxa2xx-spi.3 platform:pxa2xx-spi")
VIRTIO = (
    PCI,
    "0000:00:04.0 pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00",
    "virtio1 virtio:d00000002v00001AF4",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A machine: its record, the modules that its critical stage must have, and the rows of LIMITS that apply."""

    text: str
    has: str
    limits: tuple[str, ...] = ()
    kernel: tuple[str, str] = AMD64


def kind(text: str, mounts: str, has: str, *limits: str, kernel: tuple[str, str] = AMD64) -> Kind:
    return Kind(text=text + mounted(*mounts.split("; ")), has=has, limits=limits, kernel=kernel)


SATA = block("sda", "8:0", *AHCI, part="sda1 8:1, sda2 8:2")
SSD = block("nvme0n1", "259:0", *NVME, part="nvme0n1p1 259:1, nvme0n1p2 259:2")
EMMC = "179:2 ext4 /dev/mmcblk0p2"
MACHINES = {
    "sata-desktop": kind(
        SATA + keyboard(*USB_KEYS), "/ 8:1 ext4 /dev/sda1", "ahci sd_mod ext4 usbhid hid_generic xhci_pci"
    ),
    "nvme-laptop": kind(SSD, "/ 259:2 xfs /dev/nvme0n1p2", "nvme xfs"),
    "emmc-tablet": kind(
        block("mmcblk0", "179:0", "platform", "80860F14:00 acpi:80860F14:PNP0D40:", *CARD, part="mmcblk0p2 179:2"),
        f"/ {EMMC}",
        "sdhci_acpi mmc_block ext4",
    ),
    "emmc-laptop": kind(
        block(
            "mmcblk0",
            "179:0",
            PCI,
            "0000:00:1c.0 pci:v00008086d00005ACCsv00008086sd00007270bc08sc05i01",
            *CARD,
            part="mmcblk0p2 179:2",
        ),
        f"/ {EMMC}",
        "sdhci_pci mmc_block",
    ),
    "spi-keyboard-laptop": kind(
        SSD + keyboard(*LPSS, "spi_master", "spi2", "spi-APP000D:00 acpi:APP000D:APPLE-SPI-TOPCASE:"),
        "/ 259:2 ext4 /dev/nvme0n1p2",
        "applespi spi_pxa2xx_platform intel_lpss_pci nvme",
    ),
    "surface-hub-laptop": kind(
        SSD
        + keyboard(
            *("pci0000:00", "MSHW0084:00 acpi:MSHW0084:", "ssam", "01:15:02:01:00 ssam:d01c15t02i01f00"),
            "0000:045E:09AE.0001 hid:b001Cg0001v0000045Ep000009AE",
        ),
        "/ 259:2 ext4 /dev/nvme0n1p2",
        "surface_hid surface_aggregator nvme",
    ),
    "ufs-laptop": kind(
        block(
            "sda", "8:0", PCI, "0000:00:12.5 pci:v00008086d00009DFAsv0sd0bc01sc09i00", "host0", *SCSI, part="sda2 8:2"
        ),
        "/ 8:2 ext4 /dev/sda2",
        "ufshcd_pci sd_mod",
    ),
    "usb-only": kind(block("sda", "8:0", *STICK, part="sda1 8:1"), "/ 8:1 ext4 /dev/sda1", "xhci_pci uas sd_mod"),
    "md-raid1": kind(
        SATA
        + block("sdb", "8:16", *AHCI[:2], "ata2", "host1", "target1:0:0", "1:0:0:0 scsi:t-0x00", part="sdb1 8:17")
        + mapped("md0", "9:0", "", "raid1", "sda1", "sdb1"),
        "/ 9:0 ext4 /dev/md0",
        "ahci md_mod raid1 ext4",
        "array",
    ),
    "luks-on-lvm": kind(
        SSD
        + mapped("dm-0", "253:0", "LVM-abc", "vg-root", "nvme0n1p2")
        + mapped("dm-1", "253:1", "CRYPT-LUKS2-abc-root", "root", "dm-0"),
        "/ 253:1 ext4 /dev/mapper/root",
        "dm_crypt dm_mod nvme",
        "encrypted",
        "volume",
    ),
    "btrfs-on-two": kind(
        SSD
        + block("nvme1n1", "259:8", PCI, NVME[1].replace("1d.0", "1b.0"), "nvme", "nvme1")
        + "sys/fs/btrfs/5f0c/devices/nvme0n1p2 -> ../../../../class/block/nvme0n1p2\n"
        + "sys/fs/btrfs/5f0c/devices/nvme1n1 -> ../../../../class/block/nvme1n1\n",
        "/ 0:30 btrfs /dev/nvme0n1p2",
        "btrfs nvme",
    ),
    "nfs": kind(
        "sys/class/net/eth0 -> ../../devices/pci0000:00/0000:00:19.0/net/eth0\n"
        + way(PCI, "0000:00:19.0 pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00")[1]
        + "sys/devices/pci0000:00/0000:00:19.0/net/eth0/operstate\n| up\n"
        + "sys/devices/pci0000:00/0000:00:19.0/net/eth0/device -> ../../../0000:00:19.0\n",
        "/ 0:20 nfs 10.0.0.1:/root",
        "nfs nfsv3 e1000e",
        "network",
    ),
    "separate-usr": kind(SATA, "/ 8:1 ext4 /dev/sda1; /usr 8:2 xfs /dev/sda2", "ahci ext4 xfs"),
    "virtio-guest": kind(
        block("vda", "254:0", *VIRTIO, part="vda1 254:1"), "/ 254:1 ext4 /dev/vda1", "virtio_blk virtio_pci"
    ),
    "hyperv-guest": kind(
        block(
            "sda", "8:0", "LNXSYSTM:00", "VMBUS:00", "f8b3781a vmbus:d96361baa104294db60572e2ffb1dc7f", "host0", *SCSI
        ),
        "/ 8:0 ext4 /dev/sda",
        "hv_storvsc sd_mod",
    ),
    "xen-guest": kind(block("xvda", "202:0", "vbd-51712 xen:vbd"), "/ 202:0 ext4 /dev/xvda", "xen_blkfront"),
    "vmware-guest": kind(
        block("sda", "8:0", PCI, "0000:00:10.0 pci:v000015ADd000007C0sv000015ADsd000007C0bc01sc07i00", "host0", *SCSI),
        "/ 8:0 ext4 /dev/sda",
        "vmw_pvscsi sd_mod",
    ),
    "bcache": kind(
        SATA + mapped("bcache0", "252:0", "", "", "sda1").replace("/dm/", "/x/"),
        "/ 252:0 ext4 /dev/bcache0",
        "bcache ahci",
        "pool",
    ),
    "hibernating": kind(SATA + "sys/power/resume\n| 8:2\n", "/ 8:1 ext4 /dev/sda1", "ahci sd_mod"),
    "vmd-laptop": kind(
        block(
            "nvme0n1",
            "259:0",
            PCI,
            "0000:00:0e.0 pci:v00008086d00009A0Bsv0sd0bc01sc04i00",
            "pci10000:e0",
            NVME[1].replace("0000:00:1d.0", "10000:e1:00.0"),
            "nvme",
            "nvme0",
        ),
        "/ 259:0 ext4 /dev/nvme0n1",
        "vmd nvme",
    ),
    "raspberry-pi-4": kind(
        block(
            "mmcblk0",
            "179:0",
            *("platform", "emmc2bus", "fe340000.mmc of:NmmcT(null)Cbrcm,bcm2711-emmc2"),
            *CARD,
            part="mmcblk0p2 179:2",
        ),
        f"/ {EMMC}",
        "sdhci_iproc mmc_block ext4",
        kernel=ARM64,
    ),
    "imx6": kind(
        block(
            "mmcblk2",
            "179:0",
            *("platform", "soc", "2198000.mmc of:NmmcT(null)Cfsl,imx6q-usdhc"),
            *CARD,
            part="mmcblk2p1 179:1",
        ),
        "/ 179:1 ext4 /dev/mmcblk2p1",
        "sdhci_esdhc_imx mmc_block ext4",
        kernel=ARMHF,
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_gets_a_profile_that_boots_or_the_right_refusal(
    name: str, kernels: Callable[..., Kernel], tmp_path: Path
) -> None:
    wanted = MACHINES[name]
    tree = open_tree(str(kernels(*wanted.kernel).modules))
    found = detect(fake_machine(tmp_path / "m", wanted.text), tree)
    notes = " ".join(found.notes)
    assert [key for key, limit in LIMITS.items() if limit.text in notes] == sorted(
        wanted.limits, key=list(LIMITS).index
    )
    (tmp_path / "p.yaml").write_text(detected_profile(found, tree))
    [critical, *_deferred] = select(load_profile(tmp_path / "p.yaml"), tree).stages
    there = {module.name for module in critical.modules} | tree.builtin
    assert set(wanted.has.split()) - there == set()
