"""Run QEMU: a kernel, an image and disks in; the console, and how it ended, out.

Needs qemu-system-*. Guarantees that QEMU and what it started are gone when the call returns, raises, or is interrupted,
and that nothing outlives the timeout even if this process is killed. Disks are not changed unless asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder, find_program

Accelerator = Literal["kvm", "tcg"]
DiskMode = Literal["snapshot", "readonly", "write"]

_KVM_PROBE_SECONDS = 10.0
_DAY = 86_400.0
_READ_SIZE = 1 << 16
# As a signal, or as timeout(1) hands it on.
_CPU_TIME_OVER = (-signal.SIGXCPU, 128 + signal.SIGXCPU)
_QUIET_OPTIONS = ("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How QEMU runs an architecture: program, package, machine options, serial console of the kernel."""

    program: str
    package: str
    options: tuple[str, ...]
    console: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuResult:
    """A finished run: *console* without carriage returns, *seconds* of this machine's time.

    *returncode* is QEMU's, or negative for the signal that ended it. *stopped* is set when the text that was waited for
    came, *timed_out* when the time was over before.
    """

    console: str
    returncode: int
    timed_out: bool
    stopped: bool
    seconds: float
    accel: str

    def tail(self, lines: int = 30) -> str:
        """The last *lines* lines of the console."""
        return "\n".join(self.console.splitlines()[-lines:])


_MACHINES = {
    "x86_64": Machine(
        program="qemu-system-x86_64", package="qemu-system-x86", options=("-machine", "pc"), console="ttyS0"
    ),
    "aarch64": Machine(
        program="qemu-system-aarch64",
        package="qemu-system-arm",
        # Pointer authentication in its own algorithm takes most of a guest's time; QEMU's makes the same traps.
        options=("-machine", "virt", "-cpu", "max,pauth-impdef=on"),
        console="ttyAMA0",
    ),
    "arm": Machine(
        program="qemu-system-arm",
        package="qemu-system-arm",
        # A kernel without LPAE does not reach what the board has above 4 GiB, PCI among it.
        options=("-machine", "virt,highmem=off", "-cpu", "max"),
        console="ttyAMA0",
    ),
    "riscv64": Machine(
        program="qemu-system-riscv64", package="qemu-system-misc", options=("-machine", "virt"), console="ttyS0"
    ),
}


def run_qemu(
    *,
    image: Path,
    vmlinuz: Path,
    disks: Sequence[Path] = (),
    append: str = "",
    icount: bool = False,
    timeout: float = 120.0,
    memory: int = 512,
    cpus: int = 1,
    arch: str = "x86_64",
    extra: Sequence[str] = (),
    disk_mode: DiskMode = "snapshot",
    until: str | None = None,
    linger: float = 0.0,
    accel: Accelerator | None = None,
    cpu_seconds: int | None = None,
) -> QemuResult:
    """Boot *vmlinuz* with the initramfs *image* until the guest powers off, panics or reboots.

    *disks* are raw images, ``/dev/vda`` and on. *append* goes on the kernel command line, after the console and
    ``panic=-1``. With *icount* one instruction is one nanosecond of guest time. *timeout* is in seconds, *memory* in
    MiB. *until* is a regular expression; when the console matches it the run ends *linger* seconds later. *accel* is
    KVM where that works and TCG elsewhere. *cpu_seconds* is a limit on QEMU's own processor time: with *icount* it says
    how far a guest may get, whatever else this machine does meanwhile. Raises MegamodError when a file or QEMU itself
    is missing, or QEMU refuses to start.
    """
    machine = _MACHINES.get(arch)
    if machine is None:
        raise MegamodError(f"{arch}: not an architecture that can be booted", hint=f"one of {', '.join(_MACHINES)}")
    if not 0 < timeout < _DAY:
        raise MegamodError(f"timeout {timeout}: not a number of seconds", hint="more than 0, less than a day")
    for file in (vmlinuz, image, *disks):
        _check_readable(file)
    program = find_program(machine.program, package=machine.package)
    accel = "tcg" if icount else accel or choose_accelerator(arch, vmlinuz)
    command = [
        program,
        *machine.options,
        *_accelerator_options(accel, icount=icount),
        *("-m", str(memory), "-smp", str(cpus)),
        *_QUIET_OPTIONS,
        *("-kernel", str(vmlinuz), "-initrd", str(image)),
        *("-append", f"console={machine.console} panic=-1 {append}".strip()),
        *_disk_options(disks, disk_mode),
        *extra,
    ]
    if cpu_seconds is not None:
        command = [find_program("prlimit", package="util-linux"), f"--cpu={cpu_seconds}", "--core=0", "--", *command]
    result = run_command(command, timeout=timeout, until=until, linger=linger, accel=accel)
    # Once the guest runs, QEMU's own status is 0; 1 with nothing on the console is a refused option or file.
    if result.returncode == 1 and "Linux version" not in result.console:
        raise MegamodError(f"{machine.program}: {result.tail(3).strip() or 'does not start'}")
    return result


def choose_accelerator(arch: str, vmlinuz: Path) -> Accelerator:
    """KVM if a guest of *arch* really runs under it here, else TCG.

    A /dev/kvm that opens is not enough: in some virtual machines a boot sector runs under it, and a kernel hangs in
    its decompressor. So *vmlinuz* is started without a root, which must end in the kernel's panic within ten seconds;
    what came of it is remembered in the cache until the next boot of this machine.
    """
    if arch != "x86_64" or platform.machine() != arch or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    memory = cache_folder() / "kvm.json"
    here = boot_id.read_text().strip() if boot_id.exists() else ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text())
        if known["boot"] == here:
            return "kvm" if known["works"] is True else "tcg"
    works = _kvm_works(_MACHINES[arch], vmlinuz)
    # Only a convenience: without a cache folder the probe is made again.
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"boot": here, "works": works}))
        temporary.replace(memory)
    return "kvm" if works else "tcg"


def _kvm_works(machine: Machine, vmlinuz: Path) -> bool:
    command = [
        find_program(machine.program, package=machine.package),
        *machine.options,
        *_accelerator_options("kvm", icount=False),
        *_QUIET_OPTIONS,
        *("-m", "256", "-kernel", str(vmlinuz), "-append", f"console={machine.console} panic=-1"),
    ]
    until = "Kernel panic|KVM internal error|failed to initialize"
    result = run_command(command, timeout=_KVM_PROBE_SECONDS, until=until, linger=0.0, accel="kvm")
    return "Kernel panic" in result.console


def _accelerator_options(accel: Accelerator, *, icount: bool) -> list[str]:
    if accel == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    # sleep=off: an idle guest jumps to its next timer, so waiting costs no time here and is exact there.
    return ["-accel", "tcg", *(["-icount", "shift=0,sleep=off"] if icount else [])]


def _disk_options(disks: Sequence[Path], mode: DiskMode) -> list[str]:
    modes = {"snapshot": ",snapshot=on", "readonly": ",readonly=on", "write": ""}
    options: list[str] = []
    for number, disk in enumerate(disks):
        # A comma in a file name is doubled (QEMU, "QemuOpts").
        name = str(disk).replace(",", ",,")
        options += ["-drive", f"file={name},format=raw,if=none,id=disk{number}{modes[mode]}"]
        options += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    return options


def run_command(
    command: Sequence[str], *, timeout: float, until: str | None = None, linger: float = 0.0, accel: str = "tcg"
) -> QemuResult:
    """Run *command*, a QEMU with its console on standard output, until it ends or is ended as with `run_qemu`.

    For machines that `run_qemu` does not know; what the program writes as errors is on the console, too.
    """
    start = time.monotonic()
    # QEMU ends with this process, however that ends: Ctrl-C may come before Popen() has returned. coreutils' timeout is
    # the safety net beside it; it is 30 s late on purpose.
    guarded = [
        *(find_program("setpriv", package="util-linux"), "--pdeathsig", "TERM"),
        *(find_program("timeout", package="coreutils"), "--kill-after=5", f"{timeout + linger + 30:.0f}"),
        *command,
    ]
    pattern = re.compile(until) if until is not None else None
    console = bytearray()
    deadline = start + timeout
    stopped = timed_out = False
    process = subprocess.Popen(
        guarded,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A group of its own, so that all of it can be ended; Ctrl-C then comes to us alone.
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector, process.stdout:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                rest = deadline - time.monotonic()
                if rest <= 0:
                    timed_out = not stopped
                    break
                if not selector.select(rest):
                    continue
                data = os.read(process.stdout.fileno(), _READ_SIZE)
                if not data:
                    break
                console += data
                if pattern is not None and not stopped and pattern.search(_text(console)):
                    stopped = True
                    deadline = time.monotonic() + linger
        if not (timed_out or stopped):
            # The console is closed, so QEMU is about to end.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
    finally:
        _end(process)
    return QemuResult(
        console=_text(console),
        returncode=process.returncode,
        timed_out=timed_out or process.returncode in _CPU_TIME_OVER,
        stopped=stopped,
        seconds=time.monotonic() - start,
        accel=accel,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group, politely at first, and wait for it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)


def _text(data: bytes | bytearray) -> str:
    return data.decode("utf-8", "replace").replace("\r", "")


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror}") from None
