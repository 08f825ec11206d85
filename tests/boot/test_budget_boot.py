"""``megamod boot --budget`` on real kernels: a budget that holds, one that does not, the profile camera."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from junitparser import JUnitXml

from tests.boot.charted_boots import POWER_OFF, PROFILE, Kernels
from tests.boot.image_fixtures import MadeOnce, make_image, make_root

CAMERA = "extends: camera\n"


@pytest.fixture(autouse=True)
def qemu(tool) -> None:
    tool("qemu-system-x86_64", package="qemu-system-x86")


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("megamod"), "boot", "--timeout", "1000", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)


def test_a_budget_that_holds_is_status_0_a_broken_one_status_1_and_a_table(
    kernels: Kernels, made_once: MadeOnce, tmp_path: Path
) -> None:
    kernel = kernels("bookworm")
    image, disk = make_image(made_once, kernel, PROFILE), make_root(made_once, POWER_OFF)
    junit = tmp_path / "junit.xml"
    words = [image, "--vmlinuz", kernel.vmlinuz, "--disk", disk, "--runs", "1"]
    good = run(*words, "--budget", "critical=10s,userspace=10s,boot=100s,sound=10s")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.count("holds") == 4 and "what took the time" not in good.stdout
    bad = run(*words, "--budget", "critical=1us,boot=100s", "--junit", junit)
    assert (bad.returncode, bad.stderr) == (1, "")
    assert "init of virtio_blk" in bad.stdout[bad.stdout.index("what took the time") :]
    document = JUnitXml.fromfile(str(junit))
    assert (document.tests, document.failures) == (2, 1)


@pytest.mark.parametrize(
    "suite", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("bookworm", "sid")), "trixie"]
)
def test_camera_reaches_user_space_within_500_ms_of_the_loaders_start(
    kernels: Kernels, made_once: MadeOnce, suite: str
) -> None:
    kernel = kernels(suite)
    image, disk = make_image(made_once, kernel, CAMERA), make_root(made_once, "poweroff -f\n")
    words = [image, "--vmlinuz", kernel.vmlinuz, "--disk", disk, "--runs", "1", "--json"]
    done = run(*words, "--budget", "userspace=500ms,boot=60s")
    value = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    taken = {each["name"]: each["taken"] for each in value["budget"]}
    assert 0 < taken["userspace"] < 500_000_000 < taken["boot"]


def test_a_boot_that_fails_is_no_budget_that_holds(kernels: Kernels, made_once: MadeOnce) -> None:
    kernel = kernels("bookworm")
    image = make_image(made_once, kernel, PROFILE)
    done = run(image, "--vmlinuz", kernel.vmlinuz, "--runs", "1", "--budget", "boot=100s", "--append", "panic=-1")
    assert done.returncode == 1
    assert done.stderr == (f"megamod: {image}: the boot failed, so there is nothing to compare with the budget\n")
