"""From nothing to a booted image, by the commands that a newcomer types and no others: two, and four of a board.

The first command of each, `pip install megamod`, is the environment that the tests run in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.build import recipe

SOURCE = Path(recipe.__file__).parents[2]
MACHINE = """\
megamod build vm -k debian:bookworm:amd64
megamod boot vm-{release}.img -k debian:bookworm:amd64 --busybox
"""
BOARD = """\
megamod init --board virt.dtb -k debian:bookworm:arm64
megamod build virt.yaml -k debian:bookworm:arm64
megamod boot virt-{release}.img -k debian:bookworm:arm64 --busybox
"""
_RUN = "import sys; from megamod.cli.main import main; sys.exit(main())"


def type_in(commands: str, folder: Path, **names: str) -> str:
    """What the commands show; each must end well. They know nothing of the caller's settings."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MEGAMOD")},
        "PYTHONPATH": str(SOURCE),
    }
    shown = ""
    for line in commands.format(**names).splitlines():
        words = line.split()[1:]
        done = subprocess.run(
            [sys.executable, "-c", _RUN, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        shown += f"$ {line}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, shown[-3000:]
    return shown


@pytest.mark.slow
def test_a_machines_kernel_boots_after_two_commands(kernels, tmp_path: Path) -> None:
    """On a machine that has this kernel -k is not needed."""
    shown = type_in(MACHINE, tmp_path, release=kernels("bookworm").release)
    print(shown)
    assert "all stages loaded, the guest was still up" in shown


@pytest.mark.slow
def test_a_board_boots_after_four_commands(kernels, tmp_path: Path, tool: Callable[..., str]) -> None:
    """QEMU's board; its device tree is what a board's maker gives."""
    emulator = tool("qemu-system-aarch64", package="qemu-system-arm")
    subprocess.run([emulator, "-machine", f"virt,dumpdtb={tmp_path / 'virt.dtb'}", "-cpu", "max"], check=True)
    shown = type_in(BOARD, tmp_path, release=kernels("bookworm", "arm64").release)
    print(shown)
    assert "all stages loaded, the guest was still up" in shown
