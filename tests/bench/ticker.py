#!/usr/bin/env python3
"""The longest stall of a 1 ms ticker while deferred stages load (README.md, "ticker.py")."""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.disk import busybox_root, make_disk
from megamod.boot.qemu import run_qemu
from megamod.build.recipe import build_image
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.profile.schema import load_profile
from tests.bench.shared.arguments import add_kernel, run_main
from tests.bench.shared.compiler import compile_guest
from tests.bench.shared.kernels import BenchKernel, open_kernel
from tests.bench.shared.tables import markdown, title, versions

_PROFILE = """\
name: ticker
critical:
  modules: ["?virtio_pci", virtio_blk, ext4]
deferred:
  - name: usb
    modules: [xhci_pci, "?ehci_pci", "?uhci_hcd", usb_storage, usbhid, hid_generic]
    after: {trigger}
  - name: sound
    modules: [snd_hda_intel, "?snd_hda_codec_generic"]
    after: {trigger}
unwind: {unwind}
symbols: {symbols}
compress: none
"""
_TRIGGERS = {"userspace": "userspace", "path": "{path: /run/ticking, timeout: 20s}"}
_DEVICES = (
    *("-device", "qemu-xhci", "-device", "usb-kbd"),
    *("-audiodev", "none,id=none", "-device", "intel-hda", "-device", "hda-output,audiodev=none"),
)
_HEADS = "unwind symbols|clock|CPUs|deferred|loads ms|longest ms|next|next|> 2 ms|> 10 ms|ticks".split("|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """How a guest runs: *clock* is icount or tcg; without *deferred* the deferred stages are not loaded at all."""

    clock: str
    cpus: int
    deferred: bool
    devices: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """What the ticker saw, and the milliseconds of each deferred stage's load calls by the loader's clock."""

    ticks: int
    over_2_ms: int
    over_10_ms: int
    gaps_us: tuple[tuple[int, int], ...]
    loads_ms: tuple[int, ...]


def main() -> int:
    options = _parse()
    kernel = open_kernel(folder=options.kernel, suite=options.suite, architecture=options.architecture)
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disk = _root(folder, kernel)
        for unwind, symbols in [pair.split("+") for pair in options.options.split(",")]:
            images = {t: _image(folder, kernel, t, unwind, symbols) for t in _TRIGGERS}
            for clock, cpus in [("icount", 1), ("tcg", 1), ("tcg", 2)]:
                for trigger in ("off", *_TRIGGERS):
                    guest = Guest(clock=clock, cpus=cpus, deferred=trigger != "off", devices=options.devices)
                    image = images["userspace" if trigger == "off" else trigger]
                    runs = 1 if clock == "icount" else options.runs
                    stalls = [_run(kernel, image, disk, guest) for _ in range(runs)]
                    least = min(stalls, key=lambda stall: stall.gaps_us[0])
                    table.append([f"{unwind} {symbols}", clock, str(cpus), trigger, *_cells(least)])
                    print(" ".join(table[-1]), file=sys.stderr, flush=True)
    print(title(versions(kernel.release)), "\n", sep="")
    print(markdown(_HEADS, table))
    return 0


def _cells(stall: Stall) -> list[str]:
    return [
        " + ".join(map(str, stall.loads_ms)) or "-",
        *(f"{length / 1000:.2f}" for length, _ in stall.gaps_us[:3]),
        str(stall.over_2_ms),
        str(stall.over_10_ms),
        str(stall.ticks),
    ]


def _image(folder: Path, kernel: BenchKernel, trigger: str, unwind: str, symbols: str) -> Path:
    profile = folder / "ticker.yaml"
    text = _PROFILE.replace("{trigger}", _TRIGGERS[trigger]).replace("{unwind}", unwind)
    profile.write_text(text.replace("{symbols}", symbols))
    image = folder / f"{trigger}.img"
    build_image(load_profile(profile), kernel.tree, image, steps=Steps(io.StringIO(), quiet=True))
    return image


def _root(folder: Path, kernel: BenchKernel) -> Path:
    """An ext4 disk whose /sbin/init is the ticker."""
    root = busybox_root(folder / "root", init="exit")
    (root / "sbin/init").write_bytes(compile_guest("ticker", folder, arch=kernel.arch).read_bytes())
    return make_disk(folder / "root.img", root)


def _run(kernel: BenchKernel, image: Path, disk: Path, guest: Guest) -> Stall:
    # Quiet, for each line on a serial console stalls everybody.
    words = "quiet root=/dev/vda ro " + ("ticker=20000" if guest.deferred else "ticker=2000 megamod.deferred=off")
    devices = _DEVICES if guest.devices else ()
    result = run_qemu(
        image=image,
        vmlinuz=kernel.vmlinuz,
        disks=[disk],
        append=words,
        icount=guest.clock == "icount",
        accel="tcg",
        cpus=guest.cpus,
        timeout=300,
        extra=("-rtc", "base=2026-01-01T00:00:00,clock=vm", *devices),
    )
    if "\nend\n" not in result.console:
        raise MegamodError(f"the ticker did not come to its end; the guest's last lines:\n{result.tail()}")
    ticks = re.search(r"^ticks (\d+) (\d+) (\d+)$", result.console, re.MULTILINE)
    assert ticks is not None
    gaps = re.findall(r"^gap (\d+) (\d+)$", result.console, re.MULTILINE)
    status = re.findall(r"^status (\S+) (\S+) \S+ (\d+)", result.console, re.MULTILINE)
    unfinished = [name for name, state, _ in status if state != "done"]
    if guest.deferred and (not status or unfinished):
        raise MegamodError(f"stages {unfinished} did not load:\n{result.tail()}")
    return Stall(
        ticks=int(ticks[1]),
        over_2_ms=int(ticks[2]),
        over_10_ms=int(ticks[3]),
        gaps_us=tuple((int(length), int(start)) for length, start in gaps),
        loads_ms=tuple(int(ms) for name, _, ms in status if guest.deferred and name != "critical"),
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_kernel(parser)
    parser.add_argument("--options", default="keep+keep,drop+trim", help="unwind+symbols pairs (keep+keep,drop+trim)")
    parser.add_argument("--runs", type=int, default=3, help="boots a row without icount; the least stall counts (3)")
    parser.add_argument("--devices", action="store_true", help="an xHCI with a keyboard and an HDA sound card to probe")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_main(main))
