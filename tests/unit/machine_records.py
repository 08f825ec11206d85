"""Recorded machines as one text each (tests/data/machines), and what turns a guest's /sys into such a text.

A line that begins with a tab is content of the file named before; `PATH -> TARGET` is a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from megamod.machine.machine import Machine
from megamod.machine.machine_recorder import Item, recorded, write_record

# A tree with a driver for each kind of device that the tests make up.
MODULES: dict[str, list[str]] = {
    f"kernel/{path}.ko": []
    for path in (
        *("fs/ext4/ext4", "fs/btrfs/btrfs", "fs/xfs/xfs", "fs/nfs/nfsv4", "fs/nfs/nfs", "fs/overlayfs/overlay"),
        *("drivers/block/virtio_blk", "drivers/virtio/virtio_pci", "drivers/nvme/host/nvme", "drivers/pci/vmd"),
        *("drivers/md/dm-mod", "drivers/md/dm-thin-pool", "drivers/md/raid456", "drivers/md/md-mod"),
        *("crypto/xts", "crypto/ecb", "arch/x86/crypto/aesni-intel", "arch/x86/crypto/aes-padlock", "crypto/twofish"),
        *("drivers/gpu/drm/i915/i915", "drivers/net/e1000e", "sound/snd-hda-intel", "drivers/misc/other"),
        *(
            "drivers/hid/hid-generic",
            "drivers/usb/xhci-pci",
            "drivers/clk/clock",
            "drivers/tty/serial",
            "crypto/crc32c",
        ),
        *("drivers/char/beeper", "drivers/misc/busy", "drivers/fs/zstd"),
    )
}
MODULES["kernel/drivers/md/dm-crypt.ko"] = ["kernel/drivers/md/dm-mod.ko"]
ALIASES = [
    "virtio:d00000002v* virtio_blk",
    "pci:v00001AF4* virtio_pci",
    "pci:v00008086d0010* nvme",
    "pci:v00008086d0020* vmd",
    "pci:v00008086d0030* i915",
    "pci:v00008086d0040* e1000e",
    "pci:v00008086d0050* snd_hda_intel",
    "pci:v00008086d0060* xhci_pci",
    "hid:b0003* hid_generic",
    "platform:clock clock",
    "platform:uart serial",
    "platform:beeper beeper",
    "platform:busy busy",
    "platform:busy other",
    "md-raid5 raid456",
    "md-level-5 raid456",
    "crypto-xts xts",
    "crypto-ecb ecb",
    "crypto-aes aesni_intel",
    "crypto-aes aes_padlock",
    "cpu:type:x86*:feature:*,0099,* aesni_intel",
    "cpu:type:x86*:feature:*,0777,* aes_padlock",
    "fs-ext4 ext4",
    "crc32c crc32c",
]
DATA = Path(__file__).parents[1] / "data/machines"

# Every file that is looked at, and all links, in few processes: a guest under TCG starts some fifty a second.
DUMP = """
B=/bin/busybox
echo DUMP-BEGIN
$B find /sys/devices /sys/block /sys/class /sys/dev /sys/bus /sys/fs -type l -print0 | $B xargs -0 $B ls -ld
echo DUMP-FILES
$B find /sys/devices /sys/power -type f "(" -name modalias -o -name partition -o -name operstate -o -name proc_name \
-o -path "*/dm/name" -o -path "*/dm/uuid" -o -path "*/md/level" -o -path "*/capabilities/key" \
-o -path "*/console/active" -o -name resume ")" -print0 | $B xargs -0 $B grep -H ""
$B grep -H "" /proc/self/mountinfo /proc/modules /proc/crypto
echo DUMP-END
"""
"""A shell script, to be run where the root to be recorded is /."""

_FILE = re.compile(
    r"/(sys/.*?/(?:modalias|partition|operstate|proc_name|dm/name|dm/uuid|md/level|key|active|resume)|proc/[a-z/]+):(.*)$"
)


def items_of_dump(console: str, scratch: Path) -> list[Item]:
    """What `recorded` makes of the tree that DUMP has printed on *console*; *scratch* is an empty folder."""
    links = console[console.index("DUMP-BEGIN") : console.index("DUMP-FILES")]
    files = console[console.index("DUMP-FILES") : console.index("DUMP-END")]
    for path, target in re.findall(r"/(sys/\S.*) -> (.*)$", links, re.MULTILINE):
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        (scratch / path).symlink_to(target)
    contents: dict[str, list[str]] = {}
    for line in files.splitlines():
        if match := _FILE.match(line):
            contents.setdefault(match[1], []).append(match[2])
    for path, lines in contents.items():
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        (scratch / path).write_text("\n".join(lines) + "\n")
    return sorted(recorded(Machine(root=scratch)), key=lambda item: item.path)


def record_text(items: Iterable[Item]) -> str:
    lines = []
    for item in items:
        lines.append(f"{item.path} -> {item.target}" if item.target is not None else item.path)
        lines += [f"\t{line}" for line in (item.text or "").splitlines()]
    return "".join(f"{line}\n" for line in lines)


def items_of_text(text: str) -> list[Item]:
    items: list[Item] = []
    contents: dict[str, list[str]] = {}
    for line in text.splitlines():
        path, arrow, target = line.partition(" -> ")
        if line.startswith("\t"):
            contents[items[-1].path].append(line[1:])
        else:
            items.append(Item(path=path, target=target if arrow else None))
            contents[path] = []
    return [
        item if item.target is not None else Item(path=item.path, text="\n".join(contents[item.path])) for item in items
    ]


def recorded_machine(name: str, folder: Path) -> Machine:
    """The machine of tests/data/machines/NAME.txt, unpacked into *folder*."""
    return machine_of(items_of_text((DATA / f"{name}.txt").read_text()), folder)


def machine_of(items: Iterable[Item], folder: Path) -> Machine:
    write_record(items, folder)
    return Machine(root=folder)


def fake_machine(folder: Path, text: str) -> Machine:
    """A machine written in the form of the recorded ones, indented as the test is; tabs as `| `."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return machine_of(items_of_text("\n".join(re.sub(r"^\| ?", "\t", line) for line in lines)), folder)


def disk(name: str = "nvme0n1", numbers: str = "259:0", pci: str = "0000:00:01.0", device: str = "0010") -> str:
    """An NVMe disk and its controller."""
    path = f"sys/devices/pci0000:00/{pci}"
    return f"""
        {path}/modalias
        | pci:v00008086d{device}
        {path}/subsystem -> ../../../bus/pci
        {path}/block/{name}/subsystem -> ../../../../../class/block
        sys/block/{name} -> ../devices/pci0000:00/{pci}/block/{name}
        sys/class/block/{name} -> ../../devices/pci0000:00/{pci}/block/{name}
        sys/dev/block/{numbers} -> ../../devices/pci0000:00/{pci}/block/{name}
    """


def mapped(name: str, numbers: str, uuid: str, title: str, *slaves: str) -> str:
    """A device-mapper or md device on others."""
    path = f"sys/devices/virtual/block/{name}"
    lines = [f"{path}/dm/uuid", f"| {uuid}", f"{path}/dm/name", f"| {title}"]
    if name.startswith("md"):
        lines = [f"{path}/md/level", f"| {title}"]
    lines += [f"sys/{where} -> ../../devices/virtual/block/{name}" for where in (f"class/block/{name}",)]
    lines += [f"sys/block/{name} -> ../devices/virtual/block/{name}"]
    lines += [f"sys/dev/block/{numbers} -> ../../devices/virtual/block/{name}"]
    lines += [f"{path}/slaves/{slave} -> ../../../../../class/block/{slave}" for slave in slaves]
    return "\n".join(lines) + "\n"


def mounted(*mounts: str) -> str:
    """mountinfo with lines "POINT NUMBERS TYPE SOURCE"."""
    fields = [mount.split() for mount in mounts]
    lines = [f"| {i} 1 {n} / {p} rw,relatime - {t} {s} rw" for i, (p, n, t, s) in enumerate(fields)]
    return "\n".join(["proc/self/mountinfo", *lines]) + "\n"
