#!/usr/bin/env python3
"""Boots of whole systems with and without the hooks: when the real init starts, image sizes, generation times.

As root. The first run makes Debian systems in the cache, which takes minutes (tests/hooks/treekit.py). Prints a
Markdown table; progress goes to stderr.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchkit.tables import markdown
from hooks.guestkit import MACHINE, boot_system, disk_options
from hooks.treekit import ROOT_UUID, Layer, System, build_wheel, install_wheel, make_disk, make_system, run_in

from megamod.initramfs.boot.host import find_program
from megamod.initramfs.boot.qemu import run_qemu

GENERATE = {
    "dracut": "dracut -q -N --force /boot/{name} {kernel}",
    "initramfs-tools": "mkinitramfs -o /boot/{name} {kernel}",
}
_RECORD = "/opt/megamod/bin/megamod detect --record /tmp/machine\nsend -C /tmp machine\n"
# systemd says so once in the real root, and in an image that has it once more before.
_UP = "systemd 2.* running in system mode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: *seconds* its generation took, *append* what its boot needs on the command line."""

    row: str
    path: Path
    seconds: float
    append: str
    systemd: bool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--suite", default="bookworm", help="bookworm or trixie")
    parser.add_argument("--repeat", type=int, default=3, help="boots of each image; the least time counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="megamod-hooks-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        system = make_system(arguments.suite, lambda name, package: find_program(name, package=package))
        images = list(_images(system, folder))
        rows = []
        for image in images:
            counted = min(_boot(system, image, icount=True) for _ in range(arguments.repeat))
            plain = min(_boot(system, image, icount=False) for _ in range(arguments.repeat))
            size = f"{image.path.stat().st_size / (1 << 20):.1f}"
            rows.append([image.row, f"{counted:.2f}", f"{plain:.2f}", size, f"{image.seconds:.1f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    header = ["image", "real init, s (icount)", "real init, s (TCG)", "size, MiB", "generation, s"]
    print(f"{arguments.suite}, {system.kernel}, virtio disk, ext4 root, least of {arguments.repeat} boots\n")
    print(markdown(header, rows))
    return 0


def _images(system: System, folder: Path) -> Iterator[Image]:
    print("systems and images", file=sys.stderr, flush=True)
    layer = install_wheel(system, build_wheel(folder / "build"), folder / "installed")
    machine = _machine(system, layer, folder)
    for generator, command in GENERATE.items():
        systemd = generator == "dracut"
        path, seconds = _generate(layer, folder, f"{generator}-plain", command)
        yield Image(row=f"{generator}", path=path, seconds=seconds, append="", systemd=systemd)
        settings = (
            "mkdir -p /etc/megamod; printf 'MEGAMOD_STRICT=yes\\nMEGAMOD_MACHINE=/mnt\\n' >/etc/megamod/hook.conf"
        )
        upper = folder / f"{generator}-hook"
        run_in(system, layer, upper, f"/opt/megamod/bin/megamod hook install {generator}\n{settings}")
        hooked = Layer(system=system, uppers=(upper, *layer.uppers))
        path, seconds = _generate(hooked, folder, f"{generator}-hooked", command, machine)
        for row, append in (("hook points", ""), ("rdinit", "rdinit=/megamod-init")):
            yield Image(row=f"{generator}, {row}", path=path, seconds=seconds, append=append, systemd=systemd)


def _machine(system: System, layer: Layer, folder: Path) -> Path:
    path, _seconds = _generate(layer, folder, "first", GENERATE["initramfs-tools"])
    make_disk(layer, folder / "disk.img")
    boot_system(system, path, _RECORD, folder / "record", disk=folder / "disk.img")
    return folder / "record/out/machine"


def _generate(layer: Layer, folder: Path, name: str, command: str, machine: Path | None = None) -> tuple[Path, float]:
    upper = folder / name
    start = time.monotonic()
    bind = {machine: "mnt"} if machine else {}
    run_in(layer.system, layer, upper, command.format(name="image", kernel=layer.system.kernel), bind=bind)
    return upper / "boot/image", time.monotonic() - start


def _boot(system: System, image: Image, *, icount: bool) -> float:
    """Seconds of the kernel's clock at the start of the real root's init."""
    until = rf"(?s){_UP}.*{_UP}" if image.systemd else _UP
    result = run_qemu(
        image=image.path,
        vmlinuz=system.vmlinuz,
        append=f"root=UUID={ROOT_UUID} ro systemd.show_status=0 {image.append}",
        extra=[*MACHINE, *disk_options(system.disk, "root", ",snapshot=on")],
        icount=icount,
        memory=1024,
        cpus=1 if icount else 2,
        timeout=600.0,
        until=until,
        accel="tcg",
    )
    times = re.findall(rf"\[ *(\d+\.\d+)\] systemd\[1\]: {_UP}", result.console)
    if not result.stopped or not times:
        raise SystemExit(f"{image.row}: no real init:\n{result.tail()}")
    return float(times[-1])


if __name__ == "__main__":
    sys.exit(main())
