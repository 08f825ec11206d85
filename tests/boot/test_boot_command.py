"""Stock kernels in QEMU: how runs end, what the timeline makes of a real console, disks made without root, the demo."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from megamod.boot.console import EventKind, parse_console
from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.demo import run_demo
from megamod.boot.qemu import QemuResult
from megamod.boot.timeline import boot_image
from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from megamod.image.cpio import Entry
from megamod.modules.tree import open_tree

Kernels = Callable[[str], Kernel]
Make = Callable[..., Path]
Boot = Callable[..., QemuResult]

# Seconds: it ends what hangs, and lets a busy machine take its time.
LIMIT = 1200

# Says what the loader would say, by the same way.
SAY = 'say() { echo "megamod: $*" >/dev/kmsg; }\n'
PLAN = Entry(
    path="megamod/plan",
    mode=stat.S_IFREG | 0o644,
    data=b"megamod-plan 1\nstage critical now - 0\nstage usb userspace - 0\nstage rest manual - 0\n",
)


def modules(kernel: Kernel, names: Sequence[str]) -> tuple[list[Entry], str]:
    """Entries with these modules and what they need, and the shell command that inserts all of them in order."""
    tree = open_tree(str(kernel.modules))
    ordered: list[str] = []
    for name in names:
        ordered += [each for each in (*tree.modules[name].depends, name) if each not in ordered]
    entries = [
        Entry(path=f"m/{name}.ko", mode=stat.S_IFREG | 0o644, data=read_module_bytes(tree.modules[name].path))
        for name in ordered
    ]
    return entries, f"for m in {' '.join(ordered)}; do insmod /m/$m.ko; done\n"


@pytest.mark.parametrize("suite", ["bookworm", "sid"])
def test_the_timeline_of_a_real_console_has_the_kernels_times(
    kernels: Kernels, busybox_image: Make, boot: Boot, suite: str
) -> None:
    init = SAY + (
        "say start; say stage critical triggered by now\n"
        "say load megamod_critical took 1500 us: 2 ok, 0 failed, 0 skipped; say stage critical done\n"
        "say exec /sbin/init; dmesg; echo release $(uname -r); poweroff -f\n"
    )
    kernel = kernels(suite)
    result = boot(image=busybox_image(init), vmlinuz=kernel.vmlinuz, icount=True)
    assert f"release {kernel.release}\n" in result.console
    assert result.returncode == 0
    timeline = parse_console(result.console)
    kinds = ["kernel", "init", "triggered", "loaded", "userspace"]
    assert [event.kind.value for event in timeline.events] == kinds
    seconds = [event.seconds for event in timeline.events]
    assert None not in seconds
    assert seconds == sorted(seconds, key=lambda value: value or 0.0)
    assert timeline.failures == ()


def test_a_panic_ends_the_run_and_is_a_failure(kernels: Kernels, busybox_image: Make) -> None:
    image = busybox_image(SAY + "say start; exit 3\n", entries=[PLAN])
    report = boot_image(image, vmlinuz=kernels("bookworm").vmlinuz, timeout=LIMIT)
    assert not report.result.timed_out
    assert report.exit_status == 1
    assert "Kernel panic - not syncing: Attempted to kill init!" in report.as_table()


def test_an_init_that_hangs_is_ended_by_the_timeout(kernels: Kernels, busybox_image: Make) -> None:
    image = busybox_image(SAY + "say start; while true; do sleep 1; done\n", entries=[PLAN])
    report = boot_image(image, vmlinuz=kernels("bookworm").vmlinuz, timeout=15)
    assert report.result.timed_out
    assert report.exit_status == 1


def test_a_guest_that_stays_up_is_ended_after_its_last_automatic_stage(
    kernels: Kernels, busybox_image: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megamod.boot.timeline._LINGER_SECONDS", 0.5)
    init = SAY + "say stage critical done; say exec /sbin/init; say stage usb done; while true; do sleep 1; done\n"
    report = boot_image(busybox_image(init, entries=[PLAN]), vmlinuz=kernels("bookworm").vmlinuz, timeout=LIMIT)
    assert report.result.stopped
    assert report.exit_status == 0


def test_quiet_does_not_hide_the_timeline(kernels: Kernels, busybox_image: Make) -> None:
    init = SAY + 'echo "<6>megamod: stage critical done" >/dev/kmsg; say exec /sbin/init; poweroff -f\n'
    image = busybox_image(init, entries=[PLAN])
    report = boot_image(image, vmlinuz=kernels("bookworm").vmlinuz, append="quiet loglevel=3", timeout=LIMIT)
    assert report.timeline.stages_done() == {"critical"}
    assert report.exit_status == 0


def test_an_image_that_is_not_megamods_is_refused(kernels: Kernels, busybox_image: Make) -> None:
    with pytest.raises(MegamodError, match="has no megamod/plan"):
        boot_image(busybox_image("poweroff -f"), vmlinuz=kernels("bookworm").vmlinuz, timeout=LIMIT)


def test_disks_made_without_root_are_mounted_and_left_unchanged(
    kernels: Kernels, busybox_image: Make, make_root: Make, make_disk_image: Make, boot: Boot, tool: Callable[..., str]
) -> None:
    kernel = kernels("bookworm")
    folder = make_root("echo init", files={"etc/mark": "found\n"})
    uuid = "5f0c2d3a-8a54-4f0e-9c8e-0123456789ab"
    kinds = ("ext4", "btrfs", "xfs")
    disks = [make_disk_image(folder, filesystem=kind, label=f"l-{kind}", uuid=uuid) for kind in kinds]
    before = [hashlib.sha256(disk.read_bytes()).hexdigest() for disk in disks]
    blkid = tool("blkid", package="util-linux")
    for kind, disk in zip(kinds, disks, strict=True):
        found = subprocess.run([blkid, "-p", disk], capture_output=True, text=True, check=True).stdout
        assert f' LABEL="l-{kind}" ' in found and f' UUID="{uuid}" ' in found and f' TYPE="{kind}" ' in found
    entries, insert = modules(kernel, ["virtio_pci", "virtio_blk", "crc32c_generic", *kinds])
    init = insert
    for letter, kind in zip("abc", kinds, strict=True):
        init += (
            f"mount -t {kind} /dev/vd{letter} /mnt && echo {kind}: $(cat /mnt/etc/mark) $(ls -ld /mnt/sbin/init)"
            " $(readlink /mnt/bin/sh) && echo x >/mnt/new && sync && umount /mnt\n"
        )
    result = boot(image=busybox_image(init + "poweroff -f\n", entries=entries), vmlinuz=kernel.vmlinuz, disks=disks)
    for kind in kinds:
        assert re.search(rf"^{kind}: found -rwxr-xr-x 1 \S+ .*/mnt/sbin/init busybox$", result.console, re.M)
    assert [hashlib.sha256(disk.read_bytes()).hexdigest() for disk in disks] == before


def test_a_disk_that_is_too_small_is_an_error_and_leaves_nothing(
    make_root: Make, make_disk_image: Make, tmp_path: Path
) -> None:
    with pytest.raises(MegamodError, match=r"^mkfs\.ext4: "):
        make_disk_image(make_root("echo init", files={"big": b"x" * (4 << 20)}), size_mib=2)
    assert not list(tmp_path.glob("*.img")) and not list(tmp_path.glob(".*.tmp"))


def test_a_kernel_that_was_fetched_needs_no_program_and_no_network_again(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel = kernels("bookworm")
    monkeypatch.setattr("megamod.common.host._SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch_kernel("bookworm", architecture="amd64", cache=cache_folder()) == kernel


@pytest.mark.parametrize("suite", ["bookworm", "bookworm-backports", "sid"])
def test_a_fetched_kernel_is_whole(kernels: Kernels, suite: str) -> None:
    kernel = kernels(suite)
    # The version in the header of a bzImage: its offset less 0x200 stands at 0x20e (arch/x86/boot/header.S).
    data = kernel.vmlinuz.read_bytes()
    start = int.from_bytes(data[0x20E:0x210], "little") + 0x200
    assert data[start:].startswith(f"{kernel.release} ".encode())
    assert "CONFIG_MODULES=y" in kernel.config.read_text()
    tree = open_tree(str(kernel.modules))
    assert tree.release == kernel.release
    assert {"virtio_blk", "ext4", "xhci_pci"} <= tree.modules.keys()


@pytest.fixture(scope="module")
def command() -> str:
    """The installed console script."""
    path = Path(sys.executable).with_name("megamod")
    assert path.exists(), path
    return str(path)


def test_the_commands_build_and_boot_make_a_root_of_a_disk_and_print_json(
    kernels: Kernels, make_root: Make, make_disk_image: Make, tmp_path: Path, command: str
) -> None:
    kernel = kernels("bookworm")
    wait = "while grep -qE ' (waiting|loading) ' /run/megamod/status; do sleep 0.1; done\n"
    disk = make_disk_image(make_root(wait + "echo sentinel; poweroff -f"))
    image = tmp_path / "vm.img"
    subprocess.run([command, "build", "vm", "-k", kernel.modules, "-o", image], check=True, timeout=1200)
    words = [command, "boot", image, "--vmlinuz", kernel.vmlinuz, "--disk", disk, "--icount", "--json"]
    words += ["--timeout", str(LIMIT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    value = json.loads(done.stdout)
    assert value["user_space"] is True
    seconds = {(event["event"], event["name"]): event["seconds"] for event in value["events"]}
    assert seconds["init", ""] < seconds["loaded", "critical"] < seconds["root", ""] < seconds["userspace", ""]
    assert seconds["userspace", ""] < seconds["loaded", "usb"]


def test_the_command_boot_says_in_one_line_what_is_missing(kernels: Kernels, tmp_path: Path, command: str) -> None:
    absent = tmp_path / "absent.img"
    words = [command, "boot", absent, "--vmlinuz", kernels("bookworm").vmlinuz]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", f"megamod: {absent}: No such file or directory\n")


def test_the_demo_shows_both_boots_side_by_side(kernels: Kernels, tmp_path: Path) -> None:
    kernels("bookworm")
    out = io.StringIO()
    assert run_demo(suite="bookworm", keep=tmp_path, out=out) == 0
    text = out.getvalue()
    for name in (
        "init (the loader) started",
        "stage critical loaded",
        "root mounted",
        "user space",
        "stage usb loaded",
    ):
        row = re.search(rf"^{re.escape(name)} +(\d+\.\d+) +(\d+\.\d+)$", text, re.M)
        assert row, text
    lists = [
        re.findall(r"^(\w+) \d+ \d+ .* Live 0x", (tmp_path / f"{name}.console").read_text(), re.M)
        for name in ("one-by-one", "megamod")
    ]
    assert {"ext4", "virtio_blk", "xhci_hcd"} <= set(lists[0])
    assert lists[1] and all(name.startswith("megamod_") for name in lists[1])
    timeline = parse_console((tmp_path / "megamod.console").read_text())
    assert timeline.first(EventKind.USERSPACE) is not None


@pytest.mark.heavy
def test_the_quick_start_for_a_board_reaches_user_space(tmp_path: Path) -> None:
    """README.md: a kernel of Debian by name, a shipped profile, a root with busybox, all of arm64."""
    image, kernel = tmp_path / "camera.img", ("-k", "debian:bookworm:arm64")
    program = Path(sys.executable).with_name("megamod")
    build = [program, "build", "camera", *kernel, "-o", image]
    assert subprocess.run(build, capture_output=True, text=True, check=False).returncode == 0
    boot = [program, "boot", image, *kernel, "--busybox", "--json", "--timeout", str(LIMIT)]
    done = subprocess.run(boot, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    # Its init makes the file that both deferred stages wait for.
    assert {event["name"] for event in report["events"] if event["event"] == "loaded"} == {"critical", "usb", "sound"}
