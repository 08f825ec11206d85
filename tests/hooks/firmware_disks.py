"""Disks that a machine's firmware starts: an EFI system partition, a root, and a boot loader from Debian's packages.

Made of a `Layer` on a loop device, in a mount namespace of its own; needs root. `boot_disk` runs one boot under OVMF,
from the firmware to the end of the script, or to the reset of whatever did not get so far. What a boot writes stays.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Literal

from megamod.boot.apt import suite_sources
from megamod.common.host import find_program, run_program
from tests.hooks.debian_systems import ROOT_UUID, Layer, need_root
from tests.hooks.system_boots import PROLOGUE, QUIET, GuestRun, disk_options

Loader = Literal["grub", "bls", "uki"]
OVMF = Path("/usr/share/OVMF")
_ESP_ID = "6D656761"
_ESP_MIB, _ROOT_MIB = 640, 3072
_START_MIB = 1
# systemd's and the Discoverable Partitions Specification's name for a root of x86-64.
_TABLE = f"""\
label: gpt
start={_START_MIB}MiB, size={_ESP_MIB}MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
start={_START_MIB + _ESP_MIB}MiB, size={_ROOT_MIB}MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
"""
# As a user would: services stop, file systems are unmounted.
_EPILOGUE = "\nsync\nsystemctl --no-block poweroff\nexit 0\n"
_WORDS = f"console=ttyS0 systemd.show_status=0 {QUIET}"

# The root on a loop device, named as udev would, and Debian's own scripts in a chroot. The ESP is a folder until it is
# copied to its partition: this machine's kernel may not have vfat.
_MOUNTS = """\
root=$(losetup -f --show -o $(((start + esp_mib) << 20)) --sizelimit $((root_mib << 20)) "$disk")
m=$(mktemp -d)
trap 'umount -R -l $m 2>/dev/null; rmdir $m; losetup -d $root' EXIT
mount -t overlay overlay -o "lowerdir=$lower" $m
mkfs.ext4 -q -F -U "$uuid" -d $m $root
umount $m
mount $root $m
mkdir -p $m/boot/efi
mount --bind "$esp" $m/boot/efi
mount -t proc proc $m/proc
mount -t sysfs sysfs $m/sys
mount -t tmpfs tmpfs $m/run
mount -t tmpfs tmpfs $m/dev
for name in null zero full random urandom tty ${root#/dev/}; do cp -a /dev/$name $m/dev/; done
mkdir -p $m/dev/disk/by-uuid $m/dev/pts $m/dev/shm
ln -s ../../${root#/dev/} $m/dev/disk/by-uuid/$uuid
chroot $m /bin/sh -ec "$script"
mkfs.vfat -F 32 -i "$esp_id" --offset $((start * 2048)) "$disk" $((esp_mib * 1024)) >/dev/null
mcopy -s -i "$disk@@${start}M" "$esp"/* ::
"""
_APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root"
_FIRST = f"""\
echo "UUID=6D65-6761 /boot/efi vfat umask=0077 0 1" >>/etc/fstab
mkdir -p /etc/kernel /etc/default
echo "root=UUID={ROOT_UUID} ro {_WORDS}" >/etc/kernel/cmdline
echo MODULES=list >/etc/initramfs-tools/conf.d/short # an emulated guest takes minutes for all modules
printf 'virtio_pci\\nvirtio_blk\\next4\\n' >/etc/initramfs-tools/modules
cat >/etc/apt/sources.list <<'END'
SOURCES
END
{_APT} update
(cd /var/tmp && {_APT} download UPDATE)
"""
# grub-install wants a vfat that is mounted: it is for the first boot, which this program starts.
_LOADERS = {
    "grub": f"""\
cat >/etc/default/grub <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="{_WORDS}"
GRUB_TERMINAL=console
END
{_APT} install -y --no-install-recommends grub-efi-amd64
update-initramfs -c -k all
mkdir -p /boot/efi/EFI/BOOT /boot/grub
update-grub
# One command a line, as the core image has no more than the rescue parser.
printf 'search.fs_uuid {ROOT_UUID} root\\nset prefix=($root)/boot/grub\\n' >/tmp/early.cfg
grub-mkimage -O x86_64-efi -o /boot/efi/EFI/BOOT/BOOTX64.EFI -p /boot/grub -c /tmp/early.cfg part_gpt ext2 \\
    search_fs_uuid normal
cp -R /usr/lib/grub/x86_64-efi /boot/grub/
""",
    "systemd": f"""\
export SYSTEMD_RELAX_ESP_CHECKS=1 BOOT_ROOT=/boot/efi
echo layout=LAYOUT >/etc/kernel/install.conf
{_APT} install -y --no-install-recommends systemd-boot UKIFY
bootctl --no-variables --esp-path=/boot/efi install
printf 'timeout 1\\n' >/boot/efi/loader/loader.conf
for kernel in /lib/modules/*; do
    update-initramfs -c -k "${{kernel##*/}}"
    kernel-install add "${{kernel##*/}}" "/boot/vmlinuz-${{kernel##*/}}"
done
ls -R /boot/efi
""",
}


def make_firmware_disk(layer: Layer, loader: Loader, path: Path, *, update: str) -> None:
    """A disk of *layer* that *loader* starts, with the package *update* in /var/tmp."""
    need_root()
    for name, package in (
        ("sfdisk", "fdisk"),
        ("mkfs.vfat", "dosfstools"),
        ("losetup", "util-linux"),
        ("mcopy", "mtools"),
    ):
        find_program(name, package=package)
    with path.open("wb") as file:
        file.truncate((_START_MIB + _ESP_MIB + _ROOT_MIB + 1) << 20)
    subprocess.run(["sfdisk", "-q", path], input=_TABLE, text=True, check=True)
    suite = layer.system.suite
    targets = run_program([find_program("apt-get", package="apt"), "indextargets"])
    sources = suite_sources(suite, targets=targets, read=lambda file: file.read_text(errors="replace"))
    kind = "grub" if loader == "grub" else "systemd"
    # kernel-install makes UKIs by ukify, which bookworm's systemd does not have yet.
    by_ukify = loader == "uki" and suite != "bookworm"
    script = _FIRST + _LOADERS[kind]
    script = script.replace("LAYOUT", "uki" if by_ukify else "bls").replace(
        "UKIFY", "systemd-ukify" if by_ukify else ""
    )
    script = script.replace("SOURCES", "\n".join(sources)).replace("UPDATE", update)
    lower = ":".join(map(str, [*layer.uppers, layer.system.tree]))
    esp = path.with_suffix(".esp")
    esp.mkdir()
    variables = {
        "disk": str(path),
        "esp": str(esp),
        "lower": lower,
        "uuid": ROOT_UUID,
        "esp_id": _ESP_ID,
        "script": script,
        "start": str(_START_MIB),
        "esp_mib": str(_ESP_MIB),
        "root_mib": str(_ROOT_MIB),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", _MOUNTS],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    shutil.rmtree(esp)
    if done.returncode != 0:
        raise AssertionError(f"no disk of {suite}, {loader}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def boot_disk(disk: Path, script: str, folder: Path, *, timeout: float = 3000.0) -> GuestRun:
    """One boot of *disk*; the variables of the firmware lie beside it. Ends with the first reset or power-off."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = disk.with_suffix(".vars")
    if not variables.exists():
        shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
    text = f"{PROLOGUE}{script}{_EPILOGUE}".encode()
    (folder / "script.img").write_bytes(text + b"\n" * (-len(text) % 4096))
    command = [
        *("timeout", str(timeout), find_program("qemu-system-x86_64", package="qemu-system-x86"), "-accel", "tcg"),
        *("-machine", "q35", "-cpu", "max,svm=off,la57=off", "-m", "1536", "-smp", "2"),
        *("-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci"),
        *("-drive", f"if=pflash,format=raw,readonly=on,file={OVMF / 'OVMF_CODE_4M.fd'}"),
        *("-drive", f"if=pflash,format=raw,file={variables}"),
        *disk_options(disk, "system", ",cache=unsafe"),
        *disk_options(folder / "script.img", "script", ",readonly=on"),
    ]
    start = time.monotonic()
    raw = folder / "console.raw"
    with raw.open("wb") as file:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False)
    console = raw.read_bytes().decode("utf-8", "replace").replace("\r", "")
    (folder / "console.txt").write_text(console)
    raw.unlink()
    return GuestRun(console=console, out="", seconds=time.monotonic() - start)
