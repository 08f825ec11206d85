"""Debian's U-Boot under QEMU starts FIT images of megamod's: it checks every hash, and the kernel reaches the root."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from megamod.common.host import find_program
from megamod.image.fit import write_fit
from tests.boot.image_fixtures import make_image, make_root

PROFILE = """
critical: {modules: ["?virtio_pci", "?virtio_mmio", virtio_blk, ext4]}
unwind: drop
"""
INIT = "say user space reached\nuname -m\npoweroff -f\n"
_U_BOOT = Path("/usr/lib/u-boot")
_TIMEOUT = 600.0


@dataclass(frozen=True, kw_only=True)
class Board:
    """How QEMU starts U-Boot; *address* is where its loader puts the FIT image."""

    suite: str
    architecture: str
    program: str
    package: str
    machine: tuple[str, ...]
    console: str
    address: int
    load: int | None = None


BOARDS = [
    Board(
        suite="bookworm",
        architecture="arm64",
        program="qemu-system-aarch64",
        package="qemu-system-arm",
        machine=("-M", "virt", "-cpu", "cortex-a57", "-bios", str(_U_BOOT / "qemu_arm64/u-boot.bin")),
        console="ttyAMA0",
        address=0x50000000,
    ),
    Board(
        suite="trixie",
        architecture="armhf",
        program="qemu-system-arm",
        package="qemu-system-arm",
        machine=("-M", "virt,highmem=off", "-cpu", "cortex-a15", "-bios", str(_U_BOOT / "qemu_arm/u-boot.bin")),
        console="ttyAMA0",
        address=0x50000000,
        load=0x41000000,
    ),
    Board(
        suite="trixie",
        architecture="riscv64",
        program="qemu-system-riscv64",
        package="qemu-system-misc",
        machine=("-M", "virt", "-kernel", str(_U_BOOT / "qemu-riscv64_smode/u-boot.bin")),
        console="ttyS0",
        address=0x90000000,
    ),
]


def board_tree(board: Board, made_once) -> Path:
    """The device tree of the machine with that firmware, as QEMU writes it: it depends on the firmware."""

    def make(path: Path) -> None:
        kind, *rest = board.machine[1:]
        command = [_qemu(board), "-M", f"{kind},dumpdtb={path}", *rest, "-m", "1024", "-display", "none"]
        subprocess.run(command, check=True, capture_output=True)

    return made_once(f"tree-{board.architecture}.dtb", make)


def _qemu(board: Board) -> str:
    return find_program(board.program, package=board.package)


def start(board: Board, fit: Path, disk: Path) -> str:
    """Boot: stop U-Boot's countdown, type the commands, and read until QEMU ends; returns the console."""
    words = f"setenv bootargs console={board.console} panic=-1 root=/dev/vda\n"
    # The arm board's environment leaves initramfs and tree where they lie, at no page's start; without a limit they go
    # to the end of memory, which an arm kernel does not have mapped.
    limit = board.address + (256 << 20)
    words += f"setenv initrd_high {limit:#x}; setenv fdt_high {limit:#x}\nbootm {board.address:#x}\n"
    command = [
        *("timeout", "--kill-after=5", str(_TIMEOUT + 30), _qemu(board), *board.machine, "-m", "1024"),
        *("-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-device", f"loader,file={fit},addr={board.address:#x},force-raw=on"),
        *("-drive", f"file={disk},format=raw,if=none,id=disk,snapshot=on", "-device", "virtio-blk-pci,drive=disk"),
    ]
    typed = [("autoboot", "\n"), ("=> ", words)]
    text, end = "", time.monotonic() + _TIMEOUT
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < end:
            if not selector.select(end - time.monotonic()):
                break
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                break
            text += data.decode("utf-8", "replace").replace("\r", "")
            while typed and typed[0][0] in text:
                process.stdin.write(typed.pop(0)[1].encode())
                process.stdin.flush()
        process.terminate()
    print("\n".join(text.splitlines()[-80:]))
    return text


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.architecture)
def test_u_boot_checks_the_hashes_and_its_kernel_reaches_the_root(board, kernels, made_once) -> None:
    kernel = kernels(board.suite, board.architecture)
    image = make_image(made_once, kernel, PROFILE)
    tree = board_tree(board, made_once)

    def make(path: Path) -> None:
        write_fit(path, image=image, vmlinuz=kernel.vmlinuz, dtbs=[tree], load=board.load)

    fit = made_once(f"fit-{board.architecture}.itb", make)
    console = start(board, fit, make_root(made_once, INIT, architecture=board.architecture))
    assert console.count("Verifying Hash Integrity ... sha256+ OK") == 3
    assert "megamod: stage critical done" in console
    assert "init: user space reached" in console
