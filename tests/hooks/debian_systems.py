"""Whole Debian systems for the hooks: made with debootstrap once, kept in the cache, changed in layers over them.

A `System` is a folder tree with a kernel, systemd, udev, dracut, initramfs-tools, LUKS, LVM, and a Python environment
in /opt/megamod with all that megamod needs. A `Layer` is what a script in a chroot has changed of it: an overlay whose
mounts are in a namespace of their own, so that nothing of them outlives the script. Needs root.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.apt import suite_sources
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder, file_lock, find_program, run_program
from tests.conftest import missing

TOP = Path(__file__).resolve().parents[2]
PYTHONS = {"bookworm": "311", "trixie": "313", "sid": "314"}
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_27_x86_64")
_FIRST = "initramfs-tools busybox"
_PACKAGES = (
    "linux-image-amd64 systemd-sysv udev kmod dracut-core cpio zstd cryptsetup cryptsetup-initramfs lvm2 python3 "
    "python3-venv libarchive13 iproute2 dbus e2fsprogs binutils dmsetup"
)
# Of what Debian's systemd has beyond that, bookworm knows nothing.
_MORE = {"bookworm": "", "trixie": "systemd-cryptsetup", "sid": "systemd-cryptsetup"}
_MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer "
    "e2scrub_reap.service getty@tty1.service serial-getty@ttyS0.service"
)

# In a chroot nothing of the caller's environment holds but a proxy; a TMPDIR would not be there.
_ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    # What a power cut would leave of a system of the tests is of no use anyway.
    "DPKG_FORCE": "unsafe-io",
}

ROOT_UUID = "6d656761-6d6f-6400-8000-726f6f740000"

# The guest runs what is on its second disk once it is up; a shell reads no further than `exit`.
_UNIT = """\
[Unit]
Description=Run the script of the test
After=multi-user.target systemd-udev-settle.service
Wants=systemd-udev-settle.service
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh /dev/disk/by-id/virtio-script
[Install]
WantedBy=default.target
"""

_SET_UP = f"""
rm -rf /var/lib/apt/lists /var/cache/apt/*.bin /usr/share/doc /usr/share/man /usr/share/locale /boot/initrd.img*
mkdir -p /etc/systemd/system/default.target.wants
ln -sf ../megamod-test.service /etc/systemd/system/default.target.wants/megamod-test.service
ln -sf /lib/systemd/system/multi-user.target /etc/systemd/system/default.target
for unit in {_MASKED}; do ln -sf /dev/null "/etc/systemd/system/$unit"; done
echo "UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1" >/etc/fstab
echo megamod >/etc/hostname
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
printf 'COMPRESS=zstd\\nCOMPRESSLEVEL=1\\n' >/etc/initramfs-tools/conf.d/quick
printf 'compress="zstd -1 -q -T0"\\n' >/etc/dracut.conf.d/quick.conf
passwd -d root
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A Debian system in the cache: *tree*, its *kernel* release, and *disk*, an ext4 image of it."""

    suite: str
    folder: Path
    tree: Path
    kernel: str
    disk: Path

    @property
    def vmlinuz(self) -> Path:
        return self.tree / "boot" / f"vmlinuz-{self.kernel}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What was changed of *system*; the upper folders of an overlay, the last one first."""

    system: System
    uppers: tuple[Path, ...] = ()

    def read(self, path: str) -> Path:
        """The file *path* (without a leading slash) as the layer has it."""
        for folder in (*self.uppers, self.system.tree):
            if (folder / path).exists():
                return folder / path
        raise AssertionError(f"/{path} is not there")


def need_root() -> None:
    if os.geteuid() != 0:
        missing("root: Debian systems are made in chroots")


def make_system(suite: str, tool: Callable[..., str]) -> System:
    """The system of *suite*, from the cache or made now, which takes minutes and a network."""
    need_root()
    for name, package in (("debootstrap", "debootstrap"), ("unshare", "util-linux"), ("mkfs.ext4", "e2fsprogs")):
        tool(name, package=package)
    # A change of what goes in makes another system.
    stamp = hashlib.sha256(
        repr((_FIRST, _PACKAGES, _MORE[suite], _UNIT, _SET_UP, sorted(_requirements()))).encode()
    ).hexdigest()[:12]
    folder = cache_folder() / "systems" / f"{suite}-{stamp}"
    with file_lock(folder.with_suffix(".lock")):
        if not (folder / "done").exists():
            # What has failed takes minutes to fail: once in a run of the tests is enough.
            failed = folder.with_suffix(".failed")
            run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
            if failed.exists() and failed.read_text() == run:
                missing(f"no system of {suite}: this run has tried to make it before, see the first failure")
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _make(suite, folder)
            except (MegamodError, subprocess.CalledProcessError, OSError) as error:
                failed.write_text(run)
                said = (getattr(error, "stderr", None) or b"")[-3000:].decode(errors="replace")
                free = shutil.disk_usage(folder.parent).free >> 20
                missing(f"no system of {suite}: {error}\n{said}\n{free} MiB free")
    tree = folder / "tree"
    kernel = next((tree / "lib/modules").iterdir()).name
    return System(suite=suite, folder=folder, tree=tree, kernel=kernel, disk=folder / "disk.img")


def run_in(
    system: System,
    layer: Layer | None,
    upper: Path | None,
    script: str,
    *,
    bind: Mapping[Path, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run *script* in a chroot of *layer* (None: the system itself); changes go to *upper* (None: are lost).

    *bind* puts folders of this machine into the chroot.
    """
    need_root()
    lower = [*(layer.uppers if layer else ()), system.tree]
    work = (upper or Path("/tmp/none")).with_name(f"{(upper or Path('none')).name}.work")
    top = [f"upperdir={upper}", f"workdir={work}"] if upper else []
    if upper:
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
    options = ",".join([f"lowerdir={':'.join(map(str, lower))}", *top])
    mounts = [
        "m=$(mktemp -d)",
        "trap 'umount -R -l $m; rmdir $m' EXIT",
        f"mount -t overlay overlay -o {options} $m",
        "mount -t proc proc $m/proc",
        "mount -t tmpfs tmpfs $m/run",
        "mount --bind /dev $m/dev",
        *(f"mkdir -p $m/{place} && mount --bind {source} $m/{place}" for source, place in (bind or {}).items()),
        'chroot $m /bin/sh -ec "$1"',
    ]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", "\n".join(mounts), "sh", script],
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if upper:
        subprocess.run(["rm", "-rf", str(work)], check=True)
    if check and done.returncode != 0:
        raise AssertionError(f"exit status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def make_disk(layer: Layer, path: Path, *, size_mib: int = 2048) -> None:
    """An ext4 image of what the chroot of *layer* sees."""
    lower = ":".join(map(str, [*layer.uppers, layer.system.tree]))
    what = f"overlay -o lowerdir={lower}" if layer.uppers else ""
    mount = f"mount -t overlay {what} $m" if what else f"mount --bind {layer.system.tree} $m"
    script = f"m=$(mktemp -d); trap 'umount $m; rmdir $m' EXIT; {mount}; mkfs.ext4 -q -F -U {ROOT_UUID} -d $m {path}"
    with path.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(["unshare", "--mount", "sh", "-ec", script], check=True, capture_output=True)


def build_wheel(folder: Path) -> Path:
    """A wheel of the tree as it is now."""
    source = folder / "source"
    for name in ("initramfs", "loader", "profiles"):
        shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source / name)
    out = folder / "wheel"
    run_program([sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", out, source])
    return next(out.glob("*.whl"))


def install_wheel(system: System, wheel: Path, upper: Path) -> Layer:
    """*system* with megamod installed by pip from a folder of wheels, without a network."""
    script = (
        "/opt/megamod/bin/pip install -q --no-index --find-links /mnt megamod && /opt/megamod/bin/megamod --version"
    )
    run_in(system, None, upper, script, bind={wheel.parent: "mnt"})
    return Layer(system=system, uppers=(upper,))


def _requirements() -> list[str]:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def _make(suite: str, folder: Path) -> None:
    tree = folder / "tree"
    tree.parent.mkdir(parents=True)
    debootstrap = [find_program("debootstrap", package="debootstrap"), "--variant=minbase", suite, tree, _mirror(suite)]
    subprocess.run(debootstrap, env=_ENVIRONMENT, check=True, capture_output=True)
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    (tree / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
    (tree / "etc/systemd/system/megamod-test.service").write_text(_UNIT)
    wheels = tree / "wheels"
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    download = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary=:all:", *platforms]
    run_program([*download, "--python-version", PYTHONS[suite], "-d", wheels, *_requirements()])
    apt = "apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install -y --no-install-recommends"
    venv = "python3 -m venv /opt/megamod && /opt/megamod/bin/pip install -q --no-index --no-deps /wheels/*.whl"
    script = f"apt-get -qq update\n{apt} {_FIRST}\n{apt} {_PACKAGES} {_MORE[suite]}\n{venv}\nrm -r /wheels\n{_SET_UP}"
    mounts = "mount -t proc proc $1/proc; trap 'umount $1/proc' EXIT"
    subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f'{mounts}; chroot $1 sh -ec "$2"', "sh", str(tree), script],
        env={**_ENVIRONMENT, "DEBIAN_FRONTEND": "noninteractive"},
        check=True,
        capture_output=True,
    )
    system = System(suite=suite, folder=folder, tree=tree, kernel="", disk=folder / "disk.img")
    make_disk(Layer(system=system), folder / "disk.img")
    (folder / "done").write_text(json.dumps({"suite": suite}))


def _mirror(suite: str) -> str:
    targets = run_program([find_program("apt-get", package="apt"), "indextargets"])
    lines = suite_sources(suite, targets=targets, read=lambda path: path.read_text(errors="replace"))
    return next(word for line in lines for word in line.split() if "://" in word)


def image_files(image: Path, names: Sequence[str] = ()) -> dict[str, bytes]:
    """Path → content of the files and links in an image."""
    from megamod.image.archive import read_image

    entries = [entry for entry in read_image(image) if not stat.S_ISDIR(entry.mode)]
    return {entry.path: entry.data for entry in entries if not names or entry.path in names}
