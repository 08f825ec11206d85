"""From the root's device to the mounted root: the loader's search and the mount, in guest time under icount.

    python -m tests.bench.root_time [--suite bookworm]

A row is a form of root= on a machine with one disk or four, of which the last has the root: GPT, ext4 on its first
partition. `appears` is from the kernel's line about the last disk to the mount, other drivers' inits included; `search`
from the end of the critical stage to the mount, `mount` is the part of it that the same machine needs for
root=/dev/NAME, the shortest way. Log lines are kept off the console (`quiet`); the guest shows its log at the end.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.disk import busybox_root, make_disk
from megamod.boot.qemu import run_qemu
from megamod.common.host import cache_folder
from tests.bench.loader_time import DISK, FILES
from tests.boot.loader_images import LABEL, PARTLABEL, PARTUUID, UUID, start_plan, write_loader_image
from tests.boot.partitioned_disks import ROOT_TYPE, Partition, write_gpt

DISKS = (1, 4)
FORMS = {
    "/dev/NAME": "root=/dev/{name}1",
    "PARTUUID=": f"root=PARTUUID={PARTUUID}",
    "PARTLABEL=": f"root=PARTLABEL={PARTLABEL}",
    "UUID=": f"root=UUID={UUID}",
    "LABEL=": f"root=LABEL={LABEL}",
    "nothing": "",
}
_LINE = re.compile(r"^\[ *(\d+\.\d{6})\] (.*)$", re.MULTILINE)


def milliseconds(console: str) -> tuple[float, float]:
    """(from the last disk's line, from the end of the critical stage) to the line about the mounted root."""
    lines = [(float(seconds) * 1000, text) for seconds, text in _LINE.findall(console)]
    mounted = next(at for at, text in lines if re.fullmatch(r"megamod: root \S+ ext4 mounted", text))
    disk = max(at for at, text in lines if at < mounted and "512-byte logical blocks" in text)
    done = next(at for at, text in lines if text == "megamod: stage critical done")
    return mounted - disk, mounted - done


def make_disks(folder: Path) -> list[Path]:
    """Three disks with file systems that nobody asks for, and one with the root."""
    init = "#!/bin/sh\ndmesg | grep -e megamod -e logical; poweroff -f\n"
    root = make_disk(folder / "root.ext4", busybox_root(folder / "root", init=init), label=LABEL, uuid=UUID)
    other = make_disk(folder / "other.ext4", busybox_root(folder / "other", init=init), label="other")
    parts = [Partition(name=PARTLABEL, content=root, kind=ROOT_TYPE, uuid=PARTUUID)]
    disks = [write_gpt(folder / f"other{n}.img", [Partition(name=f"other{n}", content=other)]) for n in range(3)]
    return [*disks, write_gpt(folder / "root.img", parts)]


def measure(kernel: Kernel, image: Path, disks: list[Path], words: str) -> tuple[float, float]:
    """One boot."""
    words = words.format(name=f"vd{'abcd'[len(disks) - 1]}")
    console = run_qemu(
        image=image, vmlinuz=kernel.vmlinuz, disks=disks, append=f"{words} quiet", icount=True, timeout=400
    ).console
    return milliseconds(console)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="bookworm")
    kernel = fetch_kernel(parser.parse_args().suite, cache=cache_folder())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disks = make_disks(folder)
        plan = start_plan(kernel.modules, critical=()).merged("megamod_critical", *DISK, *FILES)
        image = write_loader_image(folder / "image", plan)
        print(f"{kernel.release}, ms")
        print("| root= | disks | appears | search | more than /dev/NAME |\n| --- | --- | --- | --- | --- |")
        for count in DISKS:
            shortest = 0.0
            for form, words in FORMS.items():
                appears, search = measure(kernel, image, disks[-count:], words)
                shortest = shortest or search
                print(f"| {form} | {count} | {appears:.2f} | {search:.2f} | {search - shortest:.2f} |", flush=True)


if __name__ == "__main__":
    main()
