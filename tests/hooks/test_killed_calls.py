"""Commands that are ended at each of their system calls, that run two at once, on full disks: as before or as after."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from tests.hooks.debian_systems import need_root

HERE = Path(__file__).parent
TOP = HERE.parents[1]
WORKS = ("install", "remove", "run", "deploy", "update", "take-away", "image", "image-away")


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory, tool: Callable[..., str]) -> Path:
    """kill_calls.c, compiled."""
    library = tmp_path_factory.mktemp("kill") / "kill_calls.so"
    compiler = tool("gcc", package="gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, HERE / "kill_calls.c"], check=True)
    return library


def said_by(module: str, *words: object, killer: Path) -> str:
    """What the script prints, with kill_calls.c preloaded."""
    need_root()
    environment = {**os.environ, "LD_PRELOAD": str(killer), "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{TOP}/initramfs:{TOP}"
    command = [sys.executable, "-m", f"tests.hooks.{module}", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TOP, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def ended(work: str, every: int, killer: Path, kernels: Callable[[str], Kernel], folder: Path) -> int:
    """The number of calls that *work* makes; each *every*-th has ended it."""
    kernel = kernels("bookworm").modules
    said = said_by("killed_calls", work, kernel, folder / work, "--every", every, killer=killer)
    found = re.fullmatch(rf"{work}: (\d+) calls, each {every}\. of them ended: \d+ as before, \d+ as after\n", said)
    assert found is not None, said
    return int(found[1])


@pytest.mark.parametrize("work", ["install", "remove"])
def test_a_hook_is_installed_or_removed_after_each_call(
    work: str, killer: Path, kernels: Callable[[str], Kernel], tmp_path: Path
) -> None:
    assert ended(work, 5, killer, kernels, tmp_path) > 40


@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
def test_every_call_of_every_command_may_be_the_last(
    work: str, killer: Path, kernels: Callable[[str], Kernel], tmp_path: Path
) -> None:
    assert ended(work, 1, killer, kernels, tmp_path) > 40


@pytest.mark.slow
def test_two_commands_at_once_are_one_after_the_other(
    killer: Path, kernels: Callable[[str], Kernel], tmp_path: Path
) -> None:
    lines = said_by("at_once", kernels("bookworm").modules, tmp_path / "at-once", killer=killer).splitlines()
    assert len(lines) == 7
    assert all(": 10 times at once, " in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("work", ["install", "run", "deploy", "update", "image"])
def test_a_full_or_read_only_disk_leaves_all_as_it_was(
    work: str, killer: Path, kernels: Callable[[str], Kernel], tmp_path: Path
) -> None:
    said = said_by("full_disk", work, kernels("bookworm").modules, tmp_path / work, killer=killer)
    assert re.fullmatch(rf"{work}: \d+ sizes of free space, refused at [1-9]\d*; read-only as a whole .*\n", said)
