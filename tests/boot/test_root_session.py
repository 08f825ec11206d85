"""A session that was saved to disk: resumed from a swap partition and from a swap file, kept where it does not fit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot.loader_images import DISK_MODULES, POWER_OFF, after, start_plan, write_loader_image
from tests.boot.partitioned_disks import ext4_of_pages

SLEEP = """
echo session $$ begins; {swap}
echo disk >/sys/power/disk; echo shutdown >/sys/power/disk
marker=remembered
echo disk >/sys/power/state
echo "the session is back, $marker"
"""
BACK = "the session is back, remembered"
KEPT = "it is kept, so the root is not touched: boot what saved it, or add noresume"

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Sleeper:
    """A machine that goes to sleep in its first boot: its disks, and the words that find the session."""

    extra: list[str]
    words: str
    device: str


@pytest.fixture
def sleeper(make_root, make_disk_image, tool, tmp_path) -> Callable[[str], Sleeper]:
    """``sleeper("file")``: the session goes to a swap file on the root, or to a disk of its own."""

    def make(where: str) -> Sleeper:
        swap = tmp_path / "swap.img"
        with swap.open("wb") as file:
            file.truncate(300 << 20)
        mkswap = tool("mkswap", package="util-linux")
        subprocess.run([mkswap, str(swap)], check=True, capture_output=True)
        if where == "partition":
            folder, words = make_root(SLEEP.format(swap="swapon /dev/vdb") + POWER_OFF), "resume=/dev/vdb"
            root = make_disk_image(folder, size_mib=64)
        else:
            folder = make_root(SLEEP.format(swap="swapon /swap") + POWER_OFF)
            fill_swap_file(folder / "swap", mkswap)
            root = ext4_of_pages(tmp_path / "root.img", folder, size_mib=320)
            words = f"resume=/dev/vda resume_offset={first_page(root, '/swap', tool)}"
        extra: list[str] = []
        for number, disk in enumerate((root, swap)):
            extra += ["-drive", f"file={disk},format=raw,if=none,id=d{number}"]
            extra += ["-device", f"virtio-blk-pci,drive=d{number}"]
        return Sleeper(extra=extra, words=words, device="/dev/vdb" if where == "partition" else "/dev/vda")

    return make


def fill_swap_file(path: Path, mkswap: str) -> None:
    """mkfs makes holes of zeros, and swapon takes no file with holes: nothing but the header's fields may be zero
    (union swap_header, include/linux/swap.h)."""
    path.write_bytes(b"\xa5" * (160 << 20))
    subprocess.run([mkswap, str(path)], check=True, capture_output=True)
    with path.open("r+b") as file:
        for start, end in ((0, 1024), (1536, 4086)):
            file.seek(start)
            file.write(b"\xa5" * (end - start))
    path.chmod(0o600)


def first_page(root: Path, name: str, tool: Callable[..., str]) -> int:
    """Where a file begins, in blocks of 4 KiB, which are pages: what resume_offset= wants."""
    debugfs = tool("debugfs", package="e2fsprogs")

    def ask(request: str) -> str:
        return subprocess.run([debugfs, "-R", request, str(root)], capture_output=True, text=True, check=True).stdout

    return int(ask(f"bmap {name} 0"))


@pytest.fixture
def start(kernels, boot, tmp_path) -> Callable[..., str]:
    """``start(sleeper)``: the console of a boot of that machine, by Debian 12's kernel unless another is named."""

    def run(machine: Sleeper, *, suite="bookworm", memory=256, more=(), words="") -> str:
        kernel = kernels(suite)
        image = tmp_path / f"image-{suite}-{len(more)}"
        if not image.exists():
            write_loader_image(image, start_plan(kernel.modules, critical=(*DISK_MODULES, *more)))
        append = f"root=/dev/vda rw {machine.words} {words}"
        return boot(
            image=image, vmlinuz=kernel.vmlinuz, append=append, extra=machine.extra, memory=memory, timeout=240
        ).console

    return run


@pytest.fixture
def asleep(sleeper, start) -> Sleeper:
    """A machine that Debian 12's kernel has sent to sleep, with 256 MiB of memory."""
    machine = sleeper("partition")
    after(start(machine), "root /dev/vda ext4 mounted", "begins", "PM: hibernation")
    return machine


@pytest.mark.parametrize("where", ["partition", "file"])
def test_a_saved_session_is_resumed_before_the_root_is_touched(sleeper, start, where):
    machine = sleeper(where)
    first = start(machine)
    after(first, "root /dev/vda ext4 mounted", "begins", "PM: hibernation")
    assert "the session is back" not in first
    second = start(machine)
    after(second, f"megamod: resuming from {machine.device}", BACK)
    assert "mounted" not in second.partition("resuming from")[2].partition("the session is back")[0]


def test_a_session_is_resumed_by_another_image_of_the_same_kernel(asleep, start):
    after(start(asleep, more=("overlay", "dm_mod")), "megamod: resuming from /dev/vdb", BACK)


def test_a_session_of_another_machine_is_kept_for_that_machine(asleep, start):
    console = start(asleep, memory=320)
    after(console, "megamod: error: the session on /dev/vdb was not resumed: ", "mismatch", KEPT, "Kernel panic")
    assert "mounted" not in console
    after(start(asleep), "megamod: resuming from /dev/vdb", BACK)


def test_a_session_of_another_kernel_goes_on_where_the_kernel_takes_it(asleep, start):
    """x86 asks for equal memory, not for an equal release (ARCH_HIBERNATION_HEADER, arch/x86/power/hibernate.c)."""
    after(start(asleep, suite="bullseye"), "megamod: resuming from /dev/vdb", BACK)


def test_a_session_is_given_up_with_noresume(asleep, start):
    console = start(asleep, memory=320, words="noresume init=/bin/true")
    assert "resuming from" not in console
    after(console, "megamod: root /dev/vda ext4 mounted")
