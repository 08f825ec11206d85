"""`megamod tune` on a real kernel: a profile that has everything in its critical stage gets the split that it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.profile.schema import load_profile
from tests.boot.charted_boots import Kernels
from tests.boot.image_fixtures import MadeOnce, make_root

BAD = """\
# Everything at once, as somebody's first try.
critical:
  modules:
    - virtio_pci # the bus
    - virtio_blk
    # the root
    - ext4
    - btrfs # who knows
    - "=sound/pci/hda"
    - "?usb_storage"
    - "=fs/[jx]*"  # one of them is needed
unwind: drop
symbols: trim
compress: none
"""


@pytest.fixture(autouse=True)
def qemu(tool: Callable[..., str]) -> None:
    tool("qemu-system-x86_64", package="qemu-system-x86")


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("megamod"), "tune", "--timeout", "1000", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)


def stages(path: Path) -> dict[str, list[str]]:
    return {stage.name: [selector.text for selector in stage.selectors] for stage in load_profile(path).stages}


def test_the_split_halves_the_time_to_user_space_and_still_boots(
    kernels: Kernels, made_once: MadeOnce, tmp_path: Path
) -> None:
    kernel = kernels("bookworm")
    disk = make_root(made_once, "poweroff -f\n")
    path, log = tmp_path / "bad.yaml", tmp_path / "look.log"
    path.write_text(BAD)
    words = [path, "-k", kernel.modules, "-q"]
    done = run(*words, "--vmlinuz", kernel.vmlinuz, "--disk", disk, "--log", log, "--apply")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout

    booted = re.search(r"^booted: +(\d+\.\d+) → (\d+\.\d+) ms, user space reached$", done.stdout, re.M)
    assert booted, done.stdout
    before, after = float(booted[1]), float(booted[2])
    assert after < before / 2
    expected = re.search(r"^expected: \S+ → about (\d+\.\d+) ms$", done.stdout, re.M)
    assert expected
    assert abs(float(expected[1]) - after) < before / 10

    found = stages(path)
    assert found["critical"] == ["jbd2", "virtio_pci", "virtio_blk", "ext4"]
    assert found["later"] == ["btrfs", "=sound/pci/hda", "?usb_storage", "=fs/[jx]*"]
    assert "# Everything at once" in path.read_text() and "- btrfs # who knows\n" in path.read_text()

    again = run(*words, "--recorded", log)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing to move" in again.stdout, "the same boot, held against the profile that is good"

    path.write_text(BAD)
    needed = run(*words, "--recorded", log, "--need", "btrfs")
    assert needed.returncode == 0
    assert "-    - btrfs" not in needed.stdout and '-    - "=sound/pci/hda"' in needed.stdout
    assert path.read_text() == BAD, "without --apply nothing is written"


def test_a_mistake_is_one_line_and_status_1(kernels: Kernels, tmp_path: Path) -> None:
    kernel = kernels("bookworm")
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    log = tmp_path / "other.log"
    log.write_text("[    1.000000] megamod: start\n[    1.100000] megamod: exec /sbin/init\n")
    foreign = tmp_path / "foreign.log"
    foreign.write_text(f"[    0.000000] Linux version 5.0\n{log.read_text()}")
    cases: list[tuple[list[str | Path], str]] = [
        ([path], "megamod: nothing to look at (hint: --vmlinuz FILE, or --recorded LOG)\n"),
        ([path, "--disk", "x"], "megamod: --disk: only with --vmlinuz FILE\n"),
        ([path, "--recorded", log], f"megamod: {log}: it does not show what root and console use (hint: "),
        ([path, "--recorded", foreign], f"{foreign}: is of kernel 5.0, the modules are of {kernel.release}\n"),
        (["camera", "--apply"], "is shipped with megamod (hint: make one of your own: extends: camera)\n"),
    ]
    for words, message in cases:
        done = run(*words, "-k", kernel.modules, "-q")
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr and done.stderr.count("\n") == 1
