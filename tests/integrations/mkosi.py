"""mkosi of Debian 13 builds the disk of `initramfs/integrations/mkosi`, which OVMF then boots without a root=.

    python -m tests.integrations.mkosi WORK [--wheel WHEEL]

makes a copy of Debian 13's system (`tests/hooks/debian_systems.py`) with mkosi and megamod in it, and runs there what
the README of that folder says. Needs root, debootstrap, ovmf, qemu-system-x86 and a Debian mirror.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from megamod.common.host import find_program
from tests.hooks.debian_systems import Layer, build_wheel, install_wheel, make_system
from tests.hooks.firmware_disks import OVMF
from tests.hooks.system_boots import disk_options

RECIPE = Path(__file__).resolve().parents[2] / "initramfs/integrations/mkosi"
_PACKAGES = "mkosi systemd-repart systemd-boot-efi systemd-ukify dosfstools mtools e2fsprogs apt cpio zstd xz-utils"
# In a root of its own and not in a chroot: mkosi makes user namespaces, which no process in a chroot may.
_MOUNTS = """\
m=$(mktemp -d)
mount -t tmpfs -o size=64m tmpfs $m
mkdir $m/upper $m/work $m/root
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/overlay" $m/root
cd $m/root
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mkdir -p src old
mount --bind "$work/src" src
mount --make-rprivate /
pivot_root . old
exec chroot . /bin/sh -ec 'umount -l /old; eval "$script"'
"""
_MAIN = "import sys; from megamod.cli.main import main; sys.exit(main())"
_BUILD = f"""\
echo 'deb http://deb.debian.org/debian trixie main' >/etc/apt/sources.list
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends {_PACKAGES}
cp -a /opt/megamod /usr/local/megamod # of the host a script of mkosi's sees /usr alone
printf '#!/bin/sh\nexec /usr/local/megamod/bin/python -c "{_MAIN}" "$@"\n' >/usr/local/bin/megamod
chmod 755 /usr/local/bin/megamod
megamod --version
cd /src
mkosi --version
mkosi summary | grep -i 'kernel command line'
mkosi --workspace-directory=/src/space build
ls -l /src
"""
_SEEN = ("megamod: root", " login:")


def build_disk(layer: Layer, work: Path) -> Path:
    """Run mkosi in *layer*; the disk."""
    shutil.copytree(RECIPE, work / "src")
    for name in ("upper", "overlay", "src/space"):
        (work / name).mkdir(exist_ok=True)
    variables = {
        "lower": ":".join(map(str, [*layer.uppers, layer.system.tree])),
        "work": str(work),
        "script": _BUILD,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
    }
    with (work / "mkosi.log").open("wb") as log:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", _MOUNTS],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise AssertionError((work / "mkosi.log").read_text(errors="replace")[-4000:])
    return work / "src/image.raw"


def boot_disk(disk: Path, work: Path, *, timeout: float) -> str:
    """The console of one boot, up to the login prompt; changes of the disk are lost."""
    shutil.copy(OVMF / "OVMF_VARS_4M.fd", work / "vars")
    command = [
        *("timeout", str(timeout), find_program("qemu-system-x86_64", package="qemu-system-x86"), "-accel", "tcg"),
        *("-machine", "q35", "-cpu", "max,svm=off,la57=off", "-m", "1024", "-smp", "2"),
        *("-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci"),
        *("-drive", f"if=pflash,format=raw,readonly=on,file={OVMF / 'OVMF_CODE_4M.fd'}"),
        *("-drive", f"if=pflash,format=raw,file={work / 'vars'}"),
        *disk_options(disk, "system", ",snapshot=on"),
    ]
    console = ""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in iter(lambda: process.stdout.read1(4096), b""):
            console += line.decode("utf-8", "replace").replace("\r", "")
            if " login:" in console:
                process.terminate()
                break
    (work / "console.txt").write_text(console)
    return console


def main() -> None:
    parser = argparse.ArgumentParser(description="mkosi builds a disk with megamod's image, and it boots")
    parser.add_argument("work", type=Path)
    parser.add_argument("--wheel", type=Path, help="a wheel of megamod; default: made of this tree")
    parser.add_argument("--disk", type=Path, help="boot this disk, which was built before")
    parser.add_argument("--timeout", type=float, default=1200.0, help="of the boot, in seconds")
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    disk = options.disk
    if disk is None:
        for name in ("made", "installed", "upper", "overlay", "src"):
            subprocess.run(["rm", "-rf", str(work / name)], check=True)
        (work / "made").mkdir()
        (work / "installed").mkdir()
        system = make_system("trixie", lambda name, package: find_program(name, package=package))
        layer = install_wheel(system, options.wheel or build_wheel(work / "made"), work / "installed")
        disk = build_disk(layer, work)
        disk.rename(work / "image.raw")
        disk = work / "image.raw"
        print(f"built {disk}: {disk.stat().st_blocks * 512 >> 20} MiB")
    console = boot_disk(disk, work, timeout=options.timeout)
    missing = [text for text in _SEEN if text not in console]
    if missing:
        raise SystemExit(f"not on the console: {', '.join(missing)}\n{console[-3000:]}")
    lines = [line for line in console.splitlines() if "megamod: root" in line or "Command line:" in line]
    print("\n".join(lines))
    if any(" root=" in line for line in lines if "Command line:" in line):
        raise SystemExit("the command line has a root=")
    print("booted to the login prompt, without a root=")


if __name__ == "__main__":
    main()
