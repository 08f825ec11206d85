"""Boots of whole systems: a kernel, an image, a root disk and a script on a second disk, and what the guest showed.

The script runs once multi-user.target is reached. What it prints with ``show NAME COMMAND…`` can be read by name; what
it writes to the third disk comes back as a tar archive.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from megamod.boot.console import Failure, parse_console
from megamod.boot.qemu import run_qemu
from megamod.common.host import find_program
from tests.hooks.debian_systems import ROOT_UUID, System

# A network card on PCI and one on virtio, USB with a keyboard, a random number generator: drivers of several kinds.
# The processor is new enough for numpy, without what only makes emulation slow.
MACHINE = (
    *("-cpu", "max,svm=off,la57=off"),
    *("-device", "e1000e,mac=52:54:00:00:00:01", "-device", "virtio-net-pci,mac=52:54:00:00:00:02"),
    *("-device", "qemu-xhci", "-device", "usb-kbd", "-device", "virtio-rng-pci"),
)
PROLOGUE = """\
dmesg -n 1
show() { name=$1; shift; echo "[[[ $name"; "$@" 2>&1; echo "]]] $name $?"; }
send() { tar -c "$@" >/dev/disk/by-id/virtio-out; sync; }
"""
REPORT = """\
show failed systemctl list-units --failed --no-legend --plain
show why sh -c 'systemctl list-units --failed --no-legend --plain | while read -r u _; do systemctl status $u; done'
show target systemctl is-active multi-user.target
show udev systemctl is-active systemd-udevd.service
show modules cat /proc/modules
show devices sh -c 'for d in /sys/bus/*/devices/*; do l=$(readlink -f $d/driver); echo "${d#/sys/bus/} ${l##*/}"; done'
show net ls /sys/class/net
show mask cat /run/modprobe.d/megamod.conf
show status cat /run/megamod/status
show log dmesg
"""
_EPILOGUE = "\nsync\npoweroff -f\nexit 0\n"
_SECTION = re.compile(r"^\[\[\[ (?P<name>.+)\n(?P<body>(?:.*\n)*?)\]\]\] (?P=name) (?P<status>\d+)$", re.MULTILINE)
_OUT_MIB = 160
# A guest of a busy machine stands still at times, which is neither a lockup nor a stall.
QUIET = "nowatchdog rcupdate.rcu_cpu_stall_suppress=1"


@dataclass(frozen=True, kw_only=True)
class GuestRun:
    """A boot that has ended; *out* is the folder with what the guest sent back."""

    console: str = field(repr=False)
    out: str
    seconds: float

    def section(self, name: str) -> list[str]:
        """The lines that ``show NAME`` printed."""
        return self._section(name)["body"].splitlines()

    def status(self, name: str) -> int:
        """The exit status of that command."""
        return int(self._section(name)["status"])

    def modules(self) -> set[str]:
        """The names in /proc/modules."""
        return {line.split()[0] for line in self.section("modules")}

    def devices(self) -> set[str]:
        """``BUS/devices/NAME DRIVER`` of all devices."""
        return set(self.section("devices"))

    def members(self) -> set[str]:
        """The members that are up, by the mask."""
        return {line.split()[1] for line in self.section("mask") if line.startswith("install ") and "/bin/true" in line}

    def failures(self) -> list[Failure]:
        """What the loader and the kernel complained about."""
        return list(parse_console(self.console).failures)

    def _section(self, name: str) -> re.Match[str]:
        for match in _SECTION.finditer(self.console):
            if match["name"] == name:
                return match
        raise AssertionError(f"the guest has not shown {name!r}; the console ends\n{self.console[-3000:]}")


def boot_system(
    system: System,
    image: Path,
    script: str,
    folder: Path,
    *,
    disk: Path | None = None,
    vmlinuz: Path | None = None,
    append: str = "",
    root: str = f"UUID={ROOT_UUID}",
    extra: Sequence[str] = (),
    icount: bool = False,
    timeout: float = 1200.0,
) -> GuestRun:
    """Boot *system* with *image* on *disk* (its own by default), whose changes are lost; run *script* in it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{PROLOGUE}{script}{_EPILOGUE}".encode()
    (folder / "script.img").write_bytes(text + b"\n" * (-len(text) % 4096))
    out = folder / "out.img"
    with out.open("wb") as file:
        file.truncate(_OUT_MIB << 20)
    result = run_qemu(
        image=image,
        vmlinuz=vmlinuz or system.vmlinuz,
        append=f"root={root} ro systemd.show_status=0 {QUIET} {append}",
        extra=[
            *MACHINE,
            *disk_options(disk or system.disk, "root", ",snapshot=on"),
            *disk_options(folder / "script.img", "script", ",readonly=on"),
            *disk_options(out, "out", ""),
            *extra,
        ],
        icount=icount,
        memory=1024,
        cpus=1 if icount else 2,
        timeout=timeout,
        accel="tcg",
    )
    _unpack(out, folder / "out")
    out.unlink()
    run = GuestRun(console=result.console, out=str(folder / "out"), seconds=result.seconds)
    print(f"the console's last lines, {run.seconds:.0f} s:\n" + "\n".join(run.console.splitlines()[-60:]))
    if result.timed_out:
        pytest.fail("the guest did not end by itself")
    return run


def type_and_boot(
    system: System,
    image: Path,
    script: str,
    folder: Path,
    *,
    disks: dict[str, Path],
    append: str,
    answers: dict[str, str],
) -> GuestRun:
    """Boot with somebody at the console: when it shows what matches a key of *answers*, its value is typed, each once.

    *disks* are attached by their serial numbers; changes of them are lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{PROLOGUE}{script}{_EPILOGUE}".encode()
    (folder / "script.img").write_bytes(text + b"\n" * (-len(text) % 4096))
    options = [word for serial, path in disks.items() for word in disk_options(path, serial, ",snapshot=on")]
    command = [
        *("timeout", "1800", find_program("qemu-system-x86_64", package="qemu-system-x86"), "-accel", "tcg"),
        *("-m", "1024", "-smp", "2", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(system.vmlinuz), "-initrd", str(image)),
        *("-append", f"console=ttyS0 panic=-1 ro systemd.show_status=0 {QUIET} {append}"),
        *MACHINE,
        *options,
        *disk_options(folder / "script.img", "script", ",readonly=on"),
    ]
    start = time.monotonic()
    console = ""
    left = dict(answers)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None and process.stdout is not None
        while data := os.read(process.stdout.fileno(), 1 << 16):
            console += data.decode("utf-8", "replace").replace("\r", "")
            for pattern in [pattern for pattern in left if re.search(pattern, console)]:
                process.stdin.write(left.pop(pattern).encode() + b"\n")
                process.stdin.flush()
    print("\n".join(console.splitlines()[-60:]))
    return GuestRun(console=console, out="", seconds=time.monotonic() - start)


def disk_options(path: Path, serial: str, options: str) -> list[str]:
    drive = f"file={path},format=raw,if=none,id={serial}{options}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={serial},serial={serial}"]


def _unpack(archive: Path, folder: Path) -> None:
    """What the guest has written, if it has."""
    folder.mkdir()
    with archive.open("rb") as file:
        if file.read(512)[257:262] != b"ustar":
            return
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="tar")
