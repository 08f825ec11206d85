#!/usr/bin/env python3
"""Boots of whole systems with and without the hooks: when the real init starts, image sizes, generation times.

Needs root. The first run makes Debian systems in the cache, which takes minutes (tests/hooks/debian_systems.py).
Prints a Markdown table; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.qemu import run_qemu
from megamod.common.host import find_program, run_program
from tests.bench.shared.tables import markdown, title, versions
from tests.hooks.debian_systems import (
    ROOT_UUID,
    Layer,
    System,
    build_wheel,
    install_wheel,
    make_disk,
    make_system,
    run_in,
)
from tests.hooks.system_boots import MACHINE, boot_system, disk_options

GENERATE = {
    "dracut": "dracut -q -N --force /boot/{name} {kernel}",
    # No systemd, no network, and of the drivers those of this disk alone: the least that finds a root by its UUID.
    "dracut, minimal": (
        "dracut -q -N --force -m 'base udev-rules rootfs-block kernel-modules fs-lib' {add}"
        " --drivers 'virtio_pci virtio_blk ext4 crc32c_generic' /boot/{name} {kernel}"
    ),
    "initramfs-tools": "mkinitramfs -o /boot/{name} {kernel}",
}
_RECORD = "/opt/megamod/bin/megamod detect --record /tmp/machine\nsend -C /tmp machine\n"
_PROBE = """\
#!/bin/sh
while read -r name a b c d e f used rest; do
	[ "$name" != cpu0 ] || echo "probe $used" >/dev/kmsg
done </proc/schedstat
while :; do sleep 60; done
"""
_UP = re.compile(r"\[ *(?P<clock>\d+\.\d+)\] probe (?P<used>\d+)\s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: *seconds* its generation took, *append* what its boot needs on the command line."""

    row: str
    path: Path
    seconds: float
    append: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--suite", default="bookworm", help="bookworm or trixie")
    parser.add_argument("--repeat", type=int, default=3, help="boots under TCG; the least counts; 0: none")
    parser.add_argument("--generator", choices=list(GENERATE), help="this one only")
    parser.add_argument(
        "--machine", type=Path, help="the guest as `megamod detect --record` saw it; default: a boot more"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="megamod-hooks-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        system = make_system(arguments.suite, lambda name, package: find_program(name, package=package))
        generators = [arguments.generator] if arguments.generator else list(GENERATE)
        images = list(_images(system, folder, generators, arguments.machine))
        disk = _disk(system, folder)
        rows = []
        for image in images:
            counted, _clock = _boot(system, image, disk, icount=True)
            times = [_boot(system, image, disk, icount=False)[1] for _ in range(arguments.repeat)]
            plain = f"{min(times):.2f}" if times else "-"
            size = f"{image.path.stat().st_size / (1 << 20):.1f}"
            rows.append([image.row, f"{counted:.2f}", plain, size, f"{image.seconds:.1f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    header = ["image", "processor, s (icount)", "real init, s (TCG)", "size, MiB", "generation, s"]
    print(f"{arguments.suite}, {title(versions(system.kernel))}; TCG: least of {arguments.repeat} boots\n")
    print(markdown(header, rows))
    return 0


def _images(system: System, folder: Path, generators: list[str], machine: Path | None) -> Iterator[Image]:
    print("systems and images", file=sys.stderr, flush=True)
    layer = install_wheel(system, build_wheel(folder / "build"), folder / "installed")
    machine = machine or _machine(system, layer, folder)
    for generator in generators:
        command = GENERATE[generator]
        # An overlay's option takes no comma in a folder's name.
        place = generator.replace(", ", "-")
        path, seconds = _generate(layer, folder, f"{place}-plain", command)
        yield Image(row=f"{generator}", path=path, seconds=seconds, append="")
        settings = (
            "mkdir -p /etc/megamod; printf 'MEGAMOD_STRICT=yes\\nMEGAMOD_MACHINE=/mnt\\n' >/etc/megamod/hook.conf"
        )
        upper = folder / f"{place}-hook"
        name = generator.partition(",")[0]
        run_in(system, layer, upper, f"/opt/megamod/bin/megamod hook install {name}\n{settings}")
        hooked = Layer(system=system, uppers=(upper, *layer.uppers))
        path, seconds = _generate(hooked, folder, f"{place}-hooked", command, machine, add="--add megamod")
        for row, append in (("hook points", ""), ("rdinit", "rdinit=/megamod-init")):
            yield Image(row=f"{generator}, {row}", path=path, seconds=seconds, append=append)


def _machine(system: System, layer: Layer, folder: Path) -> Path:
    path, _seconds = _generate(layer, folder, "first", GENERATE["initramfs-tools"])
    make_disk(layer, folder / "disk.img")
    boot_system(system, path, _RECORD, folder / "record", disk=folder / "disk.img")
    return folder / "record/out/machine"


def _generate(
    layer: Layer, folder: Path, name: str, command: str, machine: Path | None = None, *, add: str = ""
) -> tuple[Path, float]:
    upper = folder / name
    start = time.monotonic()
    bind = {machine: "mnt"} if machine else {}
    run_in(layer.system, layer, upper, command.format(name="image", kernel=layer.system.kernel, add=add), bind=bind)
    return upper / "boot/image", time.monotonic() - start


def _disk(system: System, folder: Path) -> Path:
    """The system's disk with the probe in it, which is started in place of the real init."""
    disk, probe = folder / "disk.img", folder / "probe"
    probe.write_text(_PROBE)
    run_program(["cp", "--sparse=always", system.disk, disk])
    debugfs = find_program("debugfs", package="e2fsprogs")
    for request in (f"write {probe} probe", "set_inode_field probe mode 0100755"):
        run_program([debugfs, "-w", "-R", request, disk])
    return disk


def _boot(system: System, image: Image, disk: Path, *, icount: bool) -> tuple[float, float]:
    """At the start of the real root's init: the first processor's seconds in use, and those of the kernel's clock.

    The former are the seventh field of its line in /proc/schedstat (Documentation/scheduler/sched-stats.rst, 6.1).
    """
    result = run_qemu(
        image=image.path,
        vmlinuz=system.vmlinuz,
        append=f"root=UUID={ROOT_UUID} ro systemd.show_status=0 init=/probe tsc=reliable {image.append}",
        extra=[*MACHINE, *disk_options(disk, "root", ",snapshot=on")],
        icount=icount,
        memory=1024,
        cpus=1 if icount else 2,
        timeout=600.0,
        until=_UP.pattern,
        accel="tcg",
    )
    found = _UP.search(result.console)
    if not result.stopped or found is None:
        raise SystemExit(f"{image.row}: no real init:\n{result.tail()}")
    return int(found["used"]) / 1e9, float(found["clock"])


if __name__ == "__main__":
    sys.exit(main())
