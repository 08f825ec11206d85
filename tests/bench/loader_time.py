"""The loader's own time: from its first line to the exec, less the load calls, in guest time under icount.

    python -m tests.bench.loader_time [--suite bookworm]

Rows: a program in the image (no device is waited for), with a disk's drivers in one call and one by one; a root on a
virtio disk, where the mount is in the figure. Log lines are kept off the console (`quiet`), as their price there is the
console's; the guest shows its log at the end.

Two processors: one with RDRAND, as all of the last ten years have it, and QEMU's plain one. Without it the kernel's
random numbers are not seeded yet, and each fork() and exec hashes the whole pool anew (crng_make_state() and
extract_entropy(), drivers/char/random.c, 6.1).
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
from tests.boot.loader_images import Plan, shell_files, start_plan, write_loader_image

DISK = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
FILES = ("crc32c_generic", "crc16", "mbcache", "jbd2", "ext4")
SHOW = "dmesg | grep megamod; poweroff -f"
APP = "\n".join(f"/bin/busybox {command}" for command in ("dmesg", "poweroff -f"))
PROCESSORS = {"RDRAND": "qemu64,+rdrand", "plain": "qemu64"}
# With RDRAND, and no disk to wait for.
LIMIT_MILLISECONDS = 1.2

_LINE = re.compile(r"^\[ *(\d+\.\d{6})\] megamod: (.*)$", re.MULTILINE)
_TOOK = re.compile(r"load \S+ took (\d+) us")


def own_milliseconds(console: str) -> float:
    """What is left of the time from `start` to `exec` without the load calls."""
    lines = _LINE.findall(console)
    start = next(float(seconds) for seconds, text in lines if text == "start")
    end = next(float(seconds) for seconds, text in lines if text.startswith("exec "))
    before = [text for seconds, text in lines if float(seconds) <= end]
    calls = sum(int(match[1]) for text in before if (match := _TOOK.match(text)))
    return (end - start) * 1000 - calls / 1000


def plans(modules: Path) -> dict[str, Plan]:
    """The rows: name → plan."""
    one_call = start_plan(modules, root="exec /bin/app", critical=()).merged("megamod_critical", *DISK, *FILES)
    deferred = start_plan(modules, root="exec /bin/app", critical=()).merged("megamod_critical", *DISK, *FILES)
    deferred.stage("late", "manual").merged("megamod_late", "soundcore", "snd", "snd_timer")
    return {
        "program in the image, one call": one_call,
        "the same, and a deferred stage": deferred,
        "program in the image, one by one": start_plan(modules, root="exec /bin/app", critical=(*DISK, *FILES)),
        "root on a virtio disk, with its mount": start_plan(modules, critical=()).merged(
            "megamod_critical", *DISK, *FILES
        ),
    }


def measure(kernel: Kernel, plan: Plan, folder: Path, processor: str = "RDRAND") -> float:
    """One boot under icount: milliseconds of guest time."""
    image = write_loader_image(folder / "image", plan, files=shell_files(APP, path="bin/app"))
    disk = folder / "root.img"
    if not disk.exists():
        make_disk(disk, busybox_root(folder / "root", init=f"#!/bin/sh\n{SHOW}\n"))
    result = run_qemu(
        image=image,
        vmlinuz=kernel.vmlinuz,
        disks=[disk],
        append="root=/dev/vda quiet",
        icount=True,
        timeout=1800,
        extra=["-cpu", PROCESSORS[processor]],
    )
    return own_milliseconds(result.console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--suite", default="bookworm")
    kernel = fetch_kernel(parser.parse_args().suite, cache=cache_folder())
    with tempfile.TemporaryDirectory() as scratch:
        for name, plan in plans(kernel.modules).items():
            times = (f"{measure(kernel, plan, Path(scratch), each):7.3f} ms {each}" for each in PROCESSORS)
            print(f"{name:40} {', '.join(times)}", flush=True)


if __name__ == "__main__":
    main()
