"""Fixtures that tests share: tools, kernels, root folders, disks, images made once, and a QEMU that shows its console.

A tool, a kernel or the network that is missing skips a test here and fails it where CI=true.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

import pytest

from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.disk import FileSystem, busybox_root, host_busybox, make_disk
from megamod.boot.qemu import QemuResult, run_qemu
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder, file_lock, find_program
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from tests.kernels.build import build_kernel, find_built
from tests.kernels.table import ROWS

# For root the cache is below /var, where kernels need not be fetched a second time for the tests.
os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))

# A run in the background of a shell, or below nohup, ignores these, and what it starts would inherit that.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(_number, _handler)

_CONSOLES = pytest.StashKey[list[QemuResult]]()
_TAIL_LINES = 60
_ID_LENGTH = 32
_HEAVY_FIXTURES = frozenset({"kernels", "boot", "systems"})


def missing(reason: str) -> NoReturn:
    """Skip the test for *reason*, or fail it where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing, and CI=true: {reason}")
    pytest.skip(reason)


class Disk(Protocol):
    def __call__(
        self,
        folder: Path,
        *,
        filesystem: FileSystem = "ext4",
        size_mib: int | None = None,
        label: str | None = None,
        uuid: str | None = None,
    ) -> Path: ...


class BusyboxRoot(Protocol):
    def __call__(self, init: str, *, files: Mapping[str, str | bytes] | None = None) -> Path: ...


class BusyboxImage(Protocol):
    def __call__(self, init: str, *, entries: Sequence[Entry] = ()) -> Path: ...


class Boot(Protocol):
    def __call__(
        self,
        *,
        image: Path,
        vmlinuz: Path,
        disks: Sequence[Path] = (),
        append: str = "",
        icount: bool = False,
        timeout: float = 1200.0,
        memory: int = 512,
        cpus: int = 1,
        extra: Sequence[str] = (),
        until: str | None = None,
        may_time_out: bool = False,
    ) -> QemuResult: ...


@pytest.fixture(scope="session")
def tool() -> Callable[..., str]:
    """``tool("readelf", package="binutils")``: the path of a program that a test needs."""

    def find(name: str, *, package: str) -> str:
        try:
            return find_program(name, package=package)
        except MegamodError as error:
            missing(str(error))

    return find


@pytest.fixture(scope="session")
def kernels(tool: Callable[..., str]) -> Callable[..., Kernel]:
    """``kernels("bookworm")``, ``kernels("trixie", "riscv64")``: the newest kernel of a Debian suite, unpacked in the
    cache."""

    def fetch(suite: str, architecture: str = "amd64") -> Kernel:
        for name, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("depmod", "kmod")):
            tool(name, package=package)
        try:
            return fetch_kernel(suite, architecture=architecture, cache=cache_folder())
        except MegamodError as error:
            missing(f"no kernel of {suite}: {error}")

    return fetch


@pytest.fixture(scope="session")
def selfbuilt(tool: Callable[..., str]) -> Callable[[str], Kernel]:
    """``selfbuilt("thumb2")``: a kernel of tests/kernels, from the cache; only where CI=true it is built, for it takes
    many minutes."""

    def find(name: str) -> Kernel:
        make = build_kernel if os.environ.get("CI") == "true" else find_built
        try:
            return make(ROWS[name], cache=cache_folder())
        except MegamodError as error:
            missing(str(error))

    return find


@pytest.fixture(scope="session")
def busybox() -> Path:
    """This machine's static busybox."""
    try:
        return host_busybox()
    except MegamodError as error:
        missing(str(error))


@pytest.fixture
def make_root(tmp_path: Path, busybox: Path) -> BusyboxRoot:
    """``make_root("echo hello; poweroff -f")``: a root folder whose /sbin/init is that script."""

    def make(init: str, *, files: Mapping[str, str | bytes] | None = None) -> Path:
        return busybox_root(_fresh(tmp_path, "root"), init=init, busybox=busybox, files=files)

    return make


@pytest.fixture
def make_disk_image(tmp_path: Path, tool: Callable[..., str]) -> Disk:
    """``make_disk_image(folder, filesystem="xfs", label="root")``: a disk image with what is in the folder."""
    packages = {"ext4": "e2fsprogs", "btrfs": "btrfs-progs", "xfs": "xfsprogs"}

    def make(
        folder: Path,
        *,
        filesystem: FileSystem = "ext4",
        size_mib: int | None = None,
        label: str | None = None,
        uuid: str | None = None,
    ) -> Path:
        tool(f"mkfs.{filesystem}", package=packages[filesystem])
        path = _fresh(tmp_path, filesystem).with_suffix(".img")
        return make_disk(path, folder, filesystem=filesystem, size_mib=size_mib, label=label, uuid=uuid)

    return make


@pytest.fixture
def busybox_image(tmp_path: Path, busybox: Path) -> BusyboxImage:
    """``busybox_image("echo hello; poweroff -f")``: an initramfs of nothing but busybox, whose /init is that script.

    /dev, /proc and /sys are mounted and every applet is in /bin when the script starts. *entries* are added.
    """
    prologue = (
        "#!/bin/busybox sh\n"
        "/bin/busybox --install -s /bin\n"
        "mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys\n"
    )

    def make(init: str, *, entries: Sequence[Entry] = ()) -> Path:
        program = stat.S_IFREG | 0o755
        folders = [Entry(path=name, mode=stat.S_IFDIR | 0o755) for name in ("dev", "proc", "run", "sys", "mnt")]
        path = _fresh(tmp_path, "busybox").with_suffix(".cpio")
        own = [
            Entry(path="init", mode=program, data=(prologue + init).encode()),
            Entry(path="bin/busybox", mode=program, data=busybox.read_bytes()),
        ]
        write_image(path, [*folders, *own, *entries], method="none")
        return path

    return make


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """``made_once("vm.img", make)``: a file that ``make(path)`` writes once a session, for all pytest-xdist workers.

    Only for what is not changed afterwards. The name stands for the content.
    """
    base = tmp_path_factory.getbasetemp()
    # Each worker has a folder of its own in that of the whole run.
    shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "made-once"

    def get(name: str, make: Callable[[Path], None]) -> Path:
        path = shared / name
        with file_lock(shared / f"{name}.lock"):
            if not path.exists():
                unfinished = path.with_name(f"{path.name}.unfinished")
                make(unfinished)
                unfinished.rename(path)
        return path

    return get


@pytest.fixture
def boot(request: pytest.FixtureRequest, tool: Callable[..., str]) -> Boot:
    """``boot(image=…, vmlinuz=…, disks=[…])``: run QEMU under TCG; a test that fails shows the end of the console.

    A run that does not end by itself within *timeout* seconds fails the test unless it *may_time_out*.
    """
    results = request.node.stash.setdefault(_CONSOLES, [])
    tool("qemu-system-x86_64", package="qemu-system-x86")

    def run(
        *,
        image: Path,
        vmlinuz: Path,
        disks: Sequence[Path] = (),
        append: str = "",
        icount: bool = False,
        timeout: float = 1200.0,
        memory: int = 512,
        cpus: int = 1,
        extra: Sequence[str] = (),
        until: str | None = None,
        may_time_out: bool = False,
    ) -> QemuResult:
        result = run_qemu(
            image=image,
            vmlinuz=vmlinuz,
            disks=disks,
            append=append,
            icount=icount,
            timeout=timeout,
            memory=memory,
            cpus=cpus,
            extra=extra,
            until=until,
            accel="tcg",
        )
        results.append(result)
        if result.timed_out and not may_time_out:
            pytest.fail(f"QEMU did not end within {timeout:g} seconds")
        return result

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a kernel of Debian's, a guest or a system that is made first is left out of run.sh --unit."""
    for item in items:
        if _HEAVY_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.heavy)


def pytest_make_parametrize_id(val: object) -> str | None:
    """The id of a parameter that is a whole text: its beginning, without what a shell or a log would choke on."""
    if isinstance(val, bytes):
        val = val.decode("ascii", "replace")
    if not isinstance(val, str) or len(val) <= _ID_LENGTH:
        return None
    return re.sub(r"[^A-Za-z0-9_.,:=/@]+", "-", val)[:_ID_LENGTH].strip("-")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for number, result in enumerate(item.stash.get(_CONSOLES, []), start=1):
            title = f"console of boot {number}, its last {_TAIL_LINES} lines, {result.accel}, {result.seconds:.0f} s"
            report.sections.append((title, result.tail(_TAIL_LINES)))
    return report


def _fresh(folder: Path, name: str) -> Path:
    """A path in *folder* that nothing has yet."""
    number = 1
    while list(folder.glob(f"{name}-{number}*")):
        number += 1
    return folder / f"{name}-{number}"
