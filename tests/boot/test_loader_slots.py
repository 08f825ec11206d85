"""The root that the plan names: slots, a program before the mount, a layer that keeps what is written, what follows a
failure."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.boot.loader_images import DISK_MODULES, POWER_OFF, after, section, shell_files, show, start_plan
from tests.boot.loader_images import write_loader_image as write_image

KEEPING = "overlay device LABEL=data ext4 noatime {fallback} wipe -"
HEAD = ("device LABEL=root_${slot} ext4 -", "slot androidboot.slot_suffix rauc.slot", "on-failure reboot")


@pytest.fixture
def modules(kernels) -> Path:
    return kernels("bookworm").modules


@pytest.fixture
def slots(make_root, make_disk_image) -> list[Path]:
    """Root disks `root_a` and `root_b`, which count their boots in /count and show what lies below them."""
    init = """
    echo x >>/count; wc -l </count
    ls /run/megamod/lower/count || echo the lower one is as it was
    """ + show("mounts", "cat /proc/mounts")
    return [
        make_disk_image(make_root(f"echo this is {slot}\n{init}{POWER_OFF}"), label=f"root_{slot}") for slot in "ab"
    ]


@pytest.fixture
def data(tmp_path, tool) -> Path:
    """An empty file system with the label `data`."""
    path = tmp_path / "data.img"
    command = [tool("mkfs.ext4", package="e2fsprogs"), "-q", "-L", "data", str(path), "32m"]
    subprocess.run(command, check=True, capture_output=True)
    return path


def drives(*disks: Path, kept: Path | None = None) -> list[str]:
    words: list[str] = []
    for number, disk in enumerate([*disks, *filter(None, [kept])]):
        mode = "" if disk == kept else ",snapshot=on"
        words += ["-drive", f"file={disk},format=raw,if=none,id=d{number}{mode}"]
        words += ["-device", f"virtio-blk-pci,drive=d{number}"]
    return words


@pytest.fixture
def start(kernels, boot, modules, tmp_path):
    """``start(head, append, disks, kept=disk)``: the console of a boot of a plan with these records."""

    def run(head, append, disks, *, kept=None, program=None, **more):
        plan = start_plan(modules, critical=(*DISK_MODULES, "overlay"), head=head)
        image = write_image(tmp_path / "image", plan, files=program)
        vmlinuz = kernels("bookworm").vmlinuz
        return boot(image=image, vmlinuz=vmlinuz, append=append, extra=drives(*disks, kept=kept), **more).console

    return run


def test_the_slots_root_keeps_what_is_written_until_it_is_reset(start, slots, data):
    head = (*HEAD, "before-mount 60000 /check one%20word", KEEPING.format(fallback="none"))
    program = shell_files('echo "checked: $1"; ls -d /dev/vdc; ls /root', path="check")
    counts = []
    for word, name in (("rauc.slot=a", "a"), ("androidboot.slot_suffix=_b", "b"), ("rauc.slot=b wipe", "b")):
        console = start(head, word, slots, kept=data, program=program)
        rest = after(console, "checked: one word\n/dev/vdc\n", "root /dev/vd", f"this is {name}\n")
        counts.append(rest[:2].strip())
        after(rest, "No such file", "the lower one is as it was")
        mounts = section(console, "mounts")
        assert re.search(r"^/dev/vdc /run/megamod/upper ext4 rw,", mounts, re.MULTILINE)
        assert re.search(r"^/dev/vd[ab] /run/megamod/lower ext4 ro,", mounts, re.MULTILINE)
        assert "overlay / overlay rw" in mounts
    assert counts == ["1", "2", "1"], "one upper layer for both slots, emptied by the word"


FAILURES = [
    (
        (*HEAD, "before-mount 0 /check"),
        "rauc.slot=a",
        "exit 3",
        "/check failed (wait status 768): the root is not mounted",
    ),
    pytest.param(
        (*HEAD, "before-mount 300 /check"),
        "rauc.slot=a",
        "sleep 60",
        "/check did not end within 300 ms",
        marks=pytest.mark.slow,
    ),
    (
        HEAD,
        "quiet=0",
        "",
        "which slot is booted is not known: the kernel command line lacks androidboot.slot_suffix=",
    ),
]


@pytest.mark.parametrize(("head", "word", "program", "message"), FAILURES, ids=["failed", "too-long", "no-slot"])
def test_a_failure_restarts_the_machine_if_the_plan_wants_it(start, slots, head, word, program, message):
    files = shell_files(program, path="check") | shell_files("exit", path="bin/sh")
    console = start(head, word, slots, program=files)
    after(
        console,
        f"megamod: error: {message}",
        "the machine is restarted, as the image wants it",
        "reboot: Restarting system",
    )
    assert "this is" not in console


@pytest.mark.slow
def test_a_tmpfs_takes_the_place_of_a_layer_that_is_not_there(start, slots):
    console = start((*HEAD, KEEPING.format(fallback="tmpfs")), "rauc.slot=a rootwait=1", slots)
    after(console, "the layer over the root LABEL=data: it did not appear within 1 s", "a tmpfs takes its place", "1\n")


@pytest.mark.slow
def test_the_command_line_wins_over_the_plans_root(start, slots):
    console = start((*HEAD, "overlay tmpfs"), "root=/dev/vda rootfstype=ext4", slots)
    after(console, "root /dev/vda ext4 mounted", "this is a\n")


@pytest.mark.slow
def test_a_kept_layer_survives_twenty_power_cuts(kernels, make_root, make_disk_image, modules, tool, data, tmp_path):
    """The guest writes without an end and is killed at moments that differ; each boot must mount, and lose nothing that
    was synced."""
    init = """
    n=$(ls /kept 2>/dev/null | wc -l); echo "kept $n"; mkdir -p /kept
    i=$n; while :; do
    echo $i >/kept/$i; sync; echo "synced $((i + 1))"; i=$((i + 1)); dd if=/dev/zero of=/noise bs=64k count=9 2>&-
    done
    """
    root = make_disk_image(make_root(init), label="root_a")
    plan = start_plan(modules, critical=(*DISK_MODULES, "overlay"), head=(*HEAD, KEEPING.format(fallback="none")))
    image = write_image(tmp_path / "image", plan)
    qemu = tool("qemu-system-x86_64", package="qemu-system-x86")
    synced = 0
    for cut in range(20):
        command = [qemu, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-m", "256"]
        command += ["-kernel", str(kernels("bookworm").vmlinuz), "-initrd", str(image)]
        command += ["-append", "console=ttyS0 rauc.slot=a panic=-1", *drives(root, kept=data)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as guest:
            assert guest.stdout is not None
            kept = None
            seen = 0
            for line in guest.stdout:
                assert "megamod: error" not in line, line
                if match := re.search(r"kept (\d+)", line):
                    kept = int(match[1])
                elif match := re.search(r"synced (\d+)", line):
                    seen = int(match[1])
                    if seen >= synced + 2 + cut % 5:
                        break
            time.sleep(cut * 0.013)
            guest.send_signal(signal.SIGKILL)
            for line in guest.stdout:
                if match := re.search(r"synced (\d+)", line):
                    seen = int(match[1])
        assert kept is not None and kept >= synced, f"cut {cut}: {kept} files are left of {synced} that were synced"
        synced = seen
