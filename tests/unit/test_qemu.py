"""Running QEMU: a program of its name, made here, takes its place, so that no kernel and no patience is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot import qemu
from megamod.boot.qemu import QemuResult, choose_accelerator, run_qemu
from megamod.common.errors import MegamodError

FakeQemu = Callable[[str], Path]

# Starts a program of its own that would run for ever, as a hung helper of QEMU would, and says both numbers.
HANGING = "sleep 1000 & echo pids $$ $!; wait"


@pytest.fixture
def fake_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeQemu:
    """``fake_qemu(script)``: what runs as qemu-system-x86_64 from now on; returns its path."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(script: str) -> Path:
        program = folder / "qemu-system-x86_64"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return make


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., QemuResult]:
    for name in ("vmlinuz", "image", "disk,1"):
        (tmp_path / name).write_bytes(b"")

    def run(**options: object) -> QemuResult:
        arguments = {"accel": "tcg", "image": tmp_path / "image", "vmlinuz": tmp_path / "vmlinuz", **options}
        return run_qemu(**arguments)  # type: ignore[arg-type]

    return run


def wait_until_gone(console: str) -> None:
    """Return when no process lives of those that the console names; they need a moment to be reaped."""
    numbers = [int(word) for word in console.split("pids", 1)[1].split()[:2]]
    for _ in range(1000):
        if not any(is_alive(number) for number in numbers):
            return
        time.sleep(0.02)
    pytest.fail(f"still alive: {[number for number in numbers if is_alive(number)]}")


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run_out_of_time(run: Callable[..., QemuResult]) -> QemuResult:
    """The run that a short timeout ended after the guest had started, which takes a busy machine a while."""
    for timeout in (0.5, 4.0, 32.0, 256.0):
        result = run(timeout=timeout)
        assert result.timed_out
        if result.console.endswith("\n"):
            return result
    pytest.fail("the guest printed nothing within minutes")


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_refused(run: Callable[..., QemuResult], timeout: float) -> None:
    with pytest.raises(MegamodError, match=r"^timeout .*: not a number of seconds"):
        run(timeout=timeout)


def test_a_hanging_guest_is_ended_at_the_timeout_with_its_children(
    fake_qemu: FakeQemu, run: Callable[..., QemuResult]
) -> None:
    fake_qemu(HANGING)
    wait_until_gone(run_out_of_time(run).console)


def test_a_guest_that_takes_no_notice_of_sigterm_is_killed(fake_qemu: FakeQemu, run: Callable[..., QemuResult]) -> None:
    fake_qemu(f"trap '' TERM; {HANGING}; {HANGING}")
    wait_until_gone(run_out_of_time(run).console)


def test_a_guest_that_ends_by_itself_has_not_timed_out(fake_qemu: FakeQemu, run: Callable[..., QemuResult]) -> None:
    fake_qemu("printf 'Linux version 6.1\\r\\nhello\\r\\n'; exit 3")
    result = run()
    assert not result.timed_out
    assert not result.stopped
    assert (result.console, result.returncode) == ("Linux version 6.1\nhello\n", 3)


def test_a_text_that_was_waited_for_ends_the_run(fake_qemu: FakeQemu, run: Callable[..., QemuResult]) -> None:
    fake_qemu(f"echo one; echo two; {HANGING}")
    result = run(until=r"one\ntwo\npids \d+ \d+\n", timeout=1200)
    assert result.stopped
    assert not result.timed_out
    wait_until_gone(result.console)


def test_a_guest_may_end_by_itself_after_the_text(fake_qemu: FakeQemu, run: Callable[..., QemuResult]) -> None:
    fake_qemu("echo ready; sleep 0.3; echo more")
    assert run(until="ready", linger=60).console == "ready\nmore\n"


def test_bytes_that_are_no_text_do_not_matter(fake_qemu: FakeQemu, run: Callable[..., QemuResult]) -> None:
    fake_qemu("printf 'a\\377\\376b\\n'")
    assert run().console == "a\ufffd\ufffdb\n"


def test_ctrl_c_ends_qemu(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    fake_qemu(f'echo "pids $$ $$" >{tmp_path}/started; {HANGING}')
    for name in ("vmlinuz", "image"):
        (tmp_path / name).write_bytes(b"")
    code = (
        "from pathlib import Path\nfrom megamod.boot.qemu import run_qemu\n"
        f"run_qemu(image=Path({str(tmp_path / 'image')!r}), vmlinuz=Path({str(tmp_path / 'vmlinuz')!r}), accel='tcg')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    started = tmp_path / "started"
    while process.poll() is None and not (started.exists() and started.read_text().endswith("\n")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=1200)
    assert b"KeyboardInterrupt" in errors
    wait_until_gone(started.read_text())


def test_counting_instructions_means_tcg_without_a_real_clock(
    fake_qemu: FakeQemu, run: Callable[..., QemuResult]
) -> None:
    fake_qemu('echo "$@"')
    result = run(icount=True, accel="kvm")
    assert "-accel tcg -icount shift=0,sleep=off" in result.console
    assert "kvm" not in result.console
    assert result.accel == "tcg"


def test_panics_end_the_run_and_words_are_appended(fake_qemu: FakeQemu, run: Callable[..., QemuResult]) -> None:
    fake_qemu('for word; do echo "$word"; done')
    words = run(append="root=/dev/vda ro", memory=333, extra=["-device", "qemu-xhci"]).console.splitlines()
    assert words[words.index("-append") + 1] == "console=ttyS0 panic=-1 root=/dev/vda ro"
    assert "-no-reboot" in words
    assert words[words.index("-m") + 1] == "333"
    assert words[-2:] == ["-device", "qemu-xhci"]


@pytest.mark.parametrize(("mode", "word"), [("snapshot", ",snapshot=on"), ("readonly", ",readonly=on"), ("write", "")])
def test_a_disk_is_changed_only_on_request_and_its_name_may_have_a_comma(
    fake_qemu: FakeQemu, run: Callable[..., QemuResult], tmp_path: Path, mode: str, word: str
) -> None:
    fake_qemu('for word; do echo "$word"; done')
    console = run(disks=[tmp_path / "disk,1"], disk_mode=mode).console
    assert f"file={tmp_path}/disk,,1,format=raw,if=none,id=disk0{word}\n" in console


@pytest.mark.parametrize("which", ["vmlinuz", "image", "disks"])
def test_a_file_that_is_missing_is_named(
    fake_qemu: FakeQemu, run: Callable[..., QemuResult], tmp_path: Path, which: str
) -> None:
    fake_qemu("echo not reached")
    absent = tmp_path / "absent"
    with pytest.raises(MegamodError, match=f"^{absent}: No such file or directory$"):
        run(**{which: [absent] if which == "disks" else absent})


def test_without_qemu_the_package_is_named(
    run: Callable[..., QemuResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MegamodError, match=r"qemu-system-x86_64: .* not installed .*apt install qemu-system-x86"):
        run()


def test_what_qemu_says_when_it_does_not_start_is_the_error(
    fake_qemu: FakeQemu, run: Callable[..., QemuResult]
) -> None:
    fake_qemu("echo 'qemu-system-x86_64: invalid accelerator foo' >&2; exit 1")
    with pytest.raises(MegamodError, match="invalid accelerator foo"):
        run()


def test_an_architecture_that_cannot_be_booted_is_refused(run: Callable[..., QemuResult]) -> None:
    with pytest.raises(MegamodError, match=r"sparc: not an architecture .*x86_64"):
        run(arch="sparc")


@pytest.fixture
def dev_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that seems to have KVM, with nothing remembered."""
    monkeypatch.setattr(qemu.os, "access", lambda path, mode: True)
    monkeypatch.setattr(qemu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(qemu, "_KVM_PROBE_SECONDS", 0.5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("dev_kvm")
def test_kvm_whose_guests_hang_is_not_used_and_not_tried_again(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    fake_qemu(f"echo tried >>{tmp_path}/tries; sleep 1000")
    assert [choose_accelerator("x86_64", tmp_path / "vmlinuz") for _ in range(3)] == ["tcg"] * 3
    assert (tmp_path / "tries").read_text() == "tried\n"


@pytest.mark.usefixtures("dev_kvm")
def test_kvm_that_runs_a_kernel_to_its_panic_is_used(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    fake_qemu("echo 'Kernel panic - not syncing: VFS: Unable to mount root fs'")
    assert choose_accelerator("x86_64", tmp_path / "vmlinuz") == "kvm"


@pytest.mark.usefixtures("dev_kvm")
def test_kvm_is_never_used_for_another_architecture(fake_qemu: FakeQemu, tmp_path: Path) -> None:
    fake_qemu("echo 'Kernel panic'")
    assert choose_accelerator("aarch64", tmp_path / "vmlinuz") == "tcg"
