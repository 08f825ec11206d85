"""Bad days: files that the kernel refuses, devices that hang or come late, folders that are not there."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.boot.loader_images import (
    LABEL,
    POWER_OFF,
    UUID,
    Plan,
    after,
    read_module,
    section,
    shell_files,
    show,
    start_plan,
    write_loader_image,
)

DISK = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
FILES = ("crc32c_generic", "crc16", "mbcache", "jbd2", "ext4")


@pytest.fixture
def modules(kernels) -> Path:
    return kernels("bookworm").modules


@pytest.fixture
def run(kernels, boot, make_root, make_disk_image, tmp_path):
    """``run(plan, "echo hello")``: boot with a root disk; returns the console."""

    def run(
        plan: Plan, init: str = "true", *, append: str = "", suite: str = "bookworm", files=None, without=()
    ) -> str:
        disk = make_disk_image(make_root(init + POWER_OFF), label=LABEL, uuid=UUID)
        image = write_loader_image(tmp_path / "image", plan, files=files, without=without)
        append = f"root=/dev/vda {append}"
        vmlinuz = kernels(suite).vmlinuz
        return boot(image=image, vmlinuz=vmlinuz, disks=[disk], append=append).console

    return run


def with_signature_of(data: bytes, other: bytes) -> bytes:
    """*data* with the signature that ends *other* (struct module_signature: its length, big-endian)."""
    magic = b"~Module signature appended~\n"
    assert other.endswith(magic)
    length = int.from_bytes(other[-len(magic) - 4 : -len(magic)], "big")
    return data + other[-len(magic) - 12 - length :]


def test_signed_originals_go_in_for_a_file_with_a_wrong_signature(run, modules):
    plan = start_plan(modules, critical=(), fallback="modules")
    plan.merged("megamod_critical", *DISK, *FILES)
    name = "megamod/megamod_critical.ko"
    plan.files[name] = with_signature_of(plan.files[name], read_module(modules, "ext4"))
    console = run(plan, show("modules", "cut -d' ' -f1 /proc/modules"), append="module.sig_enforce=1")
    rest = after(console, "megamod: load megamod_critical failed: EKEYREJECTED (the kernel wants a signature")
    after(rest, "its 11 modules are loaded one by one", "load ext4 took ", "root /dev/vda ext4 mounted")
    assert set(section(console, "modules").split()) == {*DISK, *FILES}


def test_unsigned_file_is_refused_with_a_message_where_no_fallback_is(run, modules):
    plan = start_plan(modules, critical=())
    plan.merged("megamod_critical", *DISK, *FILES)
    console = run(plan, append="module.sig_enforce=1 rootwait=1")
    rest = after(
        console, "load megamod_critical failed: EKEYREJECTED (the kernel wants a signature by a key that it knows)"
    )
    rest = after(
        rest, "error: the critical stage failed; continuing", "error: root /dev/vda: it did not appear within 1 s"
    )
    after(rest, "giving up", "Kernel panic")


def test_image_for_another_kernel_names_both_and_ends_in_a_panic(run, modules):
    plan = start_plan(modules, critical=(), fallback="modules")
    plan.merged("megamod_critical", *DISK, *FILES)
    console = run(plan, append="rootwait=1", suite="bookworm-backports")
    rest = after(console, f"megamod: the image is for kernel {modules.name}, this is 6.", "loaded one by one")
    rest = after(rest, "load virtio_ring failed: ENOEXEC", "member virtio skipped: needs virtio_ring")
    after(rest, "error: the critical stage failed", "error: root /dev/vda: it did not appear", "Kernel panic")


def test_hanging_probe_does_not_hold_up_the_rest_with_async_probe(kernels, boot, modules, tmp_path):
    """The first disk takes an hour for a block: the probe of virtio_blk waits for its partition table."""
    slow = tmp_path / "slow.img"
    slow.write_bytes(bytes(1 << 20))
    plan = start_plan(modules, root="exec /bin/app", critical=(), head=["probe async"])
    plan.merged("megamod_critical", *DISK, "dummy")
    plan.stage("late", "userspace").merged("megamod_late", "soundcore", "snd")
    script = """
    /bin/busybox sleep 2; /bin/busybox cat /run/megamod/status; /bin/busybox ls /sys/class/net
    echo "stuck: $(/bin/busybox cat /proc/*/stack 2>/dev/null | /bin/busybox grep -c device_add_disk)"
    echo "the end"; /bin/busybox sleep 99
    """
    image = write_loader_image(tmp_path / "image", plan, files=shell_files(script, path="bin/app"))
    console = boot(
        image=image,
        vmlinuz=kernels("bookworm").vmlinuz,
        extra=(
            *("-bios", "qboot.rom"),  # SeaBIOS reads from every disk
            *("-drive", f"file={slow},format=raw,if=none,id=slow,throttling.bps-total=1,snapshot=on"),
            *("-device", "virtio-blk-pci,drive=slow"),
        ),
        until="the end",  # a shutdown would wait for the probe
    ).console
    rest = after(console, "load megamod_critical took ", "7 ok, 0 failed", "exec /bin/app", "stage late done")
    after(rest, "critical done 0", "late done 0", "dummy0", "stuck: 1")


def test_root_on_a_usb_disk_that_is_plugged_in_after_8_seconds_is_mounted(
    kernels, boot, make_root, make_disk_image, modules, tmp_path
):
    disk = make_disk_image(make_root("echo the end" + POWER_OFF), label=LABEL)
    monitor = tmp_path / "monitor"
    plan = start_plan(modules, critical=["xhci_pci", "usb_storage", "sd_mod", "crc32c_generic", "ext4"])
    image = write_loader_image(tmp_path / "image", plan)
    waits = threading.Thread(target=plug_in, args=(monitor, 40.0))
    waits.start()
    console = boot(
        image=image,
        vmlinuz=kernels("bookworm").vmlinuz,
        append=f"root=LABEL={LABEL} rootwait",
        extra=(
            *("-monitor", f"unix:{monitor},server,nowait", "-device", "qemu-xhci,id=xhci"),
            *("-drive", f"file={disk},format=raw,if=none,id=stick,snapshot=on"),
        ),
    ).console
    waits.join()
    rest = after(console, f"megamod: waiting for root LABEL={LABEL}", "USB Mass Storage device detected")
    after(rest, "megamod: root /dev/sda ext4 mounted", "the end")


def plug_in(monitor: Path, seconds: float) -> None:
    """Plugs the stick in some seconds after QEMU has started: the kernel needs about four of them."""
    with socket.socket(socket.AF_UNIX) as talk:
        for _ in range(300):
            with contextlib.suppress(OSError):
                talk.connect(str(monitor))
                break
            time.sleep(0.1)
        time.sleep(seconds)
        talk.sendall(b"device_add usb-storage,bus=xhci.0,drive=stick\n")
        talk.settimeout(1200)
        with contextlib.suppress(OSError):
            while talk.recv(4096):
                pass


def test_run_that_cannot_be_mounted_costs_mask_and_status_and_nothing_else(kernels, boot, modules, tmp_path):
    """A file in the place of the folder; deferred stages are loaded all the same."""
    plan = start_plan(modules, root="exec /bin/app", critical=["dummy"])
    plan.stage("late", "userspace").singles("loop")
    script = "/bin/busybox sleep 1; /bin/busybox cut -d' ' -f1 /proc/modules; /bin/busybox poweroff -f"
    image = write_loader_image(tmp_path / "image", plan, files=shell_files(script, path="bin/app"), without=["run"])
    console = boot(image=image, vmlinuz=kernels("bookworm").vmlinuz).console
    rest = after(console, "megamod: /run cannot be mounted: ENOTDIR", "stage critical done")
    assert "/run/modprobe.d/megamod.conf cannot be written" in rest and "/run/megamod/status cannot be written" in rest
    after(rest, "exec /bin/app", "stage late triggered by userspace", "loop\ndummy\n")


def test_machine_without_any_console_boots(kernels, boot, modules, tmp_path):
    """No serial line, so no /dev/console can be opened; what the program has to say it writes to a disk."""
    out = tmp_path / "out.img"
    out.write_bytes(bytes(1 << 20))
    plan = start_plan(modules, root="exec /bin/app", critical=("virtio_pci", "virtio_blk"))
    script = """
    { echo "app: $(/bin/busybox head -n 1 /run/megamod/status)"; /bin/busybox ls -l /proc/1/fd
      /bin/busybox dmesg | /bin/busybox grep -e console -e megamod; } 2>&1 |
    /bin/busybox dd of=/dev/vda bs=65536 conv=sync
    /bin/busybox sync; /bin/busybox poweroff -f
    """
    image = write_loader_image(tmp_path / "image", plan, files=shell_files(script, path="bin/app"))
    console = boot(
        image=image,
        vmlinuz=kernels("bookworm").vmlinuz,
        append="8250.nr_uarts=0",
        extra=("-drive", f"file={out},format=raw,if=none,id=out", "-device", "virtio-blk-pci,drive=out"),
    ).console
    assert "app:" not in console
    said = out.read_bytes().rstrip(b"\0").decode()
    rest = after(said, "app: critical done 0", "0 -> /dev/null", "unable to open an initial console")
    after(rest, "megamod: start", "megamod: exec /bin/app")


def test_proc_and_sys_that_cannot_be_mounted_leave_a_message_each(run, modules):
    """The command line cannot be read without /proc, so no root is known."""
    plan = start_plan(modules)
    console = run(plan, without=["proc", "sys"])
    rest = after(console, "megamod: /proc cannot be mounted: ENOTDIR", "megamod: /sys cannot be mounted: ENOTDIR")
    rest = after(
        rest, "/proc/cmdline cannot be read", "stage critical done", "and no root= is on the kernel command line"
    )
    after(rest, "giving up", "Kernel panic")


def test_image_without_the_keepers_program_says_so_and_boots(run, modules):
    plan = start_plan(modules).stage("late", "userspace").singles("dummy")
    console = run(plan, "sleep 1; wc -l </proc/modules", without=["megamod/ctl"])
    rest = after(
        console, "megamod: error: /megamod/ctl: ENOENT: no mask, no status, and nothing that is deferred is loaded"
    )
    after(rest, "megamod: exec /sbin/init", "11\n")


def test_keepers_program_that_cannot_be_executed_costs_the_same(run, modules):
    plan = start_plan(modules).stage("late", "userspace").singles("dummy")
    console = run(plan, "sleep 1; wc -l </proc/modules", files={"megamod/ctl": b"no program"}, without=["megamod/ctl"])
    rest = after(console, "megamod: error: /megamod/ctl cannot be executed: ENOEXEC", "megamod: exec /sbin/init")
    after(rest, "11\n")
