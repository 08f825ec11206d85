"""Commands that are ended at each of their system calls: the next command leaves what a whole run would have left."""

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


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory, tool: Callable[..., str]) -> Path:
    """kill_calls.c, compiled."""
    library = tmp_path_factory.mktemp("kill") / "kill_calls.so"
    compiler = tool("gcc", package="gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, HERE / "kill_calls.c"], check=True)
    return library


def ended(work: str, every: int, killer: Path, kernels: Callable[[str], Kernel], folder: Path) -> int:
    """The number of calls that *work* makes; each *every*-th has ended it."""
    need_root()
    kernel = kernels("bookworm").modules
    command = [sys.executable, "-m", "tests.hooks.killed_calls", work, kernel, folder / work, "--every", str(every)]
    environment = {**os.environ, "LD_PRELOAD": str(killer), "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{TOP}/initramfs:{TOP}"
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TOP, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.fullmatch(
        rf"{work}: (\d+) calls, each {every}\. of them ended: \d+ as before, \d+ as after\n", done.stdout
    )
    assert found is not None, done.stdout
    return int(found[1])


@pytest.mark.parametrize("work", ["install", "remove"])
def test_a_hook_is_installed_or_removed_after_each_call(
    work: str, killer: Path, kernels: Callable[[str], Kernel], tmp_path: Path
) -> None:
    assert ended(work, 5, killer, kernels, tmp_path) > 40


@pytest.mark.slow
@pytest.mark.parametrize("work", ["install", "remove", "run", "deploy", "update", "take-away"])
def test_every_call_of_every_command_may_be_the_last(
    work: str, killer: Path, kernels: Callable[[str], Kernel], tmp_path: Path
) -> None:
    assert ended(work, 1, killer, kernels, tmp_path) > 40
