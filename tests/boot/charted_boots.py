"""Boots for the tests of chart, budget and tune: one profile merged and one by one, each booted once a session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from megamod.analyze.chart.record import BootRecord
from megamod.analyze.chart.record_source import record_from_log
from megamod.boot.debian import Kernel
from tests.boot.image_fixtures import MadeOnce, make_image, make_root, make_stock_image

Kernels = Callable[[str], Kernel]

PROFILE = """\
name: small
critical: {modules: [virtio_pci, virtio_blk, ext4]}
deferred: [{name: sound, modules: [snd_hda_intel], after: userspace}]
unwind: drop
symbols: trim
compress: none
"""

POWER_OFF = "wait_for sound\npoweroff -f\n"


def log_of(made_once: MadeOnce, kernel: Kernel, *, merged: bool, initcalls: bool = False) -> str:
    """The console of such a boot."""
    image = (make_image if merged else make_stock_image)(made_once, kernel, PROFILE)
    disk = make_root(made_once, POWER_OFF)

    def make(path: Path) -> None:
        command = [Path(sys.executable).with_name("megamod"), "chart", "--boot", image, "--vmlinuz", kernel.vmlinuz]
        command += ["--disk", disk, "--timeout", "1200", "--log", path, "-o", path.with_suffix(".svg")]
        command += ["--initcalls"] if initcalls else []
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert ElementTree.parse(path.with_suffix(".svg")).getroot().tag.endswith("svg")

    return made_once(f"chart-{kernel.release}-{merged}-{initcalls}.log", make).read_text()


def record_of(made_once: MadeOnce, kernel: Kernel, *, merged: bool, initcalls: bool = False) -> BootRecord:
    """The record of it."""
    log = log_of(made_once, kernel, merged=merged, initcalls=initcalls)
    return record_from_log(log, name="merged" if merged else "one by one")
