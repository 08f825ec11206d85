"""Images that megamod builds, disks, and boots of them in QEMU, each made once a session, and what the guests said.

A guest's init is a shell script. `INIT` gives it ``say`` (a line of the kernel's log, so among the loader's own),
``show`` (a command's output, between brackets on the console) and ``wait_for`` (a stage). `Guest` reads these back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from megamod.boot.console import Timeline, parse_console
from megamod.boot.debian import Kernel, fetch_package_files
from megamod.boot.demo import one_by_one
from megamod.boot.disk import FileSystem, busybox_root, host_busybox, make_disk
from megamod.boot.qemu import run_qemu
from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.build.recipe import build_image
from megamod.common.compression import read_module_bytes
from megamod.common.host import cache_folder
from megamod.common.progress import Steps
from megamod.image.archive import read_image, write_image
from megamod.image.cpio import Entry
from megamod.modules.tree import ModuleTree, open_tree
from megamod.profile.schema import load_profile

MadeOnce = Callable[[str, Callable[[Path], None]], Path]

# While a section is printed the kernel keeps off the console; what it says meanwhile is in the log, shown at the end.
INIT = """\
say() { echo "init: $*" > /dev/kmsg; }
show() {
	name=$1; shift
	dmesg -n 1
	echo "[[[ $name"
	"$@" 2>&1
	echo "]]] $name $?"
	dmesg -n 8
}
wait_for() {
	tries=0
	until grep -q "^$1 \\(done\\|failed\\) " /run/megamod/status; do
		tries=$((tries + 1))
		[ $tries -lt 300 ] || { say "stage $1 did not come"; break; }
		sleep 0.1
	done
}
"""

END = """
show modules cat /proc/modules
show status cat /run/megamod/status
show log dmesg
poweroff -f
"""

_SECTION = re.compile(r"^\[\[\[ (?P<name>.+)\n(?P<body>(?:.*\n)*?)\]\]\] (?P=name) (?P<status>\d+)$", re.MULTILINE)
_PRINTK = re.compile(r"^\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? (.*)$")
_TAIL = 80


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A boot that has ended: all that its console showed; *seconds* of this machine's time."""

    console: str = field(repr=False)
    returncode: int
    timed_out: bool
    seconds: float

    def section(self, name: str) -> list[str]:
        """The lines that ``show NAME`` printed."""
        return self._section(name)["body"].splitlines()

    def status(self, name: str) -> int:
        """The exit status of the command of ``show NAME``."""
        return int(self._section(name)["status"])

    def modules(self, name: str = "modules") -> list[str]:
        """The names in a /proc/modules that was shown, the one loaded first first."""
        return [line.split()[0] for line in reversed(self.section(name))]

    def stages(self) -> dict[str, tuple[str, int, int, int]]:
        """Each stage's state and its numbers of members ok, failed, skipped."""
        rows = [line.split() for line in self.section("status")]
        return {row[0]: (row[1], int(row[4]), int(row[5]), int(row[6])) for row in rows}

    def log(self) -> list[str]:
        """The kernel's log without its times, with what the loader and init wrote to it; from the live console if the
        guest did not come to show it."""
        text = "\n".join(self.section("log")) if "\n[[[ log\n" in self.console else self.console
        return [match[1] for line in text.splitlines() if (match := _PRINTK.match(line))]

    def place(self, line: str) -> int:
        """Where in the log *line* is, for comparisons of two places."""
        log = self.log()
        assert line in log, f"{line!r} is not in the log"
        return log.index(line)

    def timeline(self) -> Timeline:
        """The boot's steps and failures."""
        return parse_console(self.console)

    def failures(self) -> list[str]:
        """What the loader and the kernel complained about."""
        return [failure.text for failure in self.timeline().failures]

    def _section(self, name: str) -> re.Match[str]:
        for match in _SECTION.finditer(self.console):
            if match["name"] == name:
                return match
        raise AssertionError(f"the guest has not shown {name!r}")


def make_image(made_once: MadeOnce, kernel: Kernel, profile: str) -> Path:
    """The image of the profile text for the kernel."""

    def make(path: Path) -> None:
        source = path.with_suffix(".yaml")
        source.write_text(profile)
        with Path(os.devnull).open("w") as nowhere:
            build_image(load_profile(source), open_tree(str(kernel.modules)), path, steps=Steps(nowhere))
        source.unlink()

    return made_once(f"image-{_digest(kernel.release, profile)}", make)


def make_stock_image(made_once: MadeOnce, kernel: Kernel, profile: str) -> Path:
    """The same modules in the same order with the same loader, but each of them a stock file with a call of its own."""
    merged = make_image(made_once, kernel, profile)

    def make(path: Path) -> None:
        source = path.with_suffix(".yaml")
        source.write_text(profile)
        write_image(path, one_by_one(load_profile(source), tree_of(kernel), read_image(merged)), method="none")
        source.unlink()

    return made_once(f"stock-{merged.name}", make)


def add_program(
    made_once: MadeOnce,
    image: Path,
    script: str,
    files: Mapping[str, bytes] | None = None,
    *,
    architecture: str = "amd64",
) -> Path:
    """*image* with a second archive behind it: busybox with its applets, *script* as /main, and *files*.

    For profiles with ``root: {exec: /main}``: what their stages lack is not needed for a root.
    """

    def make(path: Path) -> None:
        extra = path.with_suffix(".cpio")
        start = "#!/bin/busybox sh\n/bin/busybox --install -s /bin\n"
        program = host_busybox() if architecture == "amd64" else foreign_busybox(architecture)
        own = {"bin/busybox": program.read_bytes(), "main": f"{start}{INIT}{script}".encode()}
        entries = [
            Entry(path=name, mode=stat.S_IFREG | (0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644), data=data)
            for name, data in {**own, **(files or {})}.items()
        ]
        write_image(extra, entries, method="none")
        # An archive begins at a multiple of four (init/initramfs.c unpack_to_rootfs()); zeros before it are skipped.
        data = image.read_bytes()
        path.write_bytes(data + bytes(-len(data) % 4) + extra.read_bytes())
        extra.unlink()

    return made_once(f"program-{_digest(image.name, script, sorted((files or {}).items()))}", make)


def make_root(
    made_once: MadeOnce,
    script: str,
    *,
    files: Mapping[str, bytes] | None = None,
    size_mib: int | None = None,
    architecture: str = "amd64",
    filesystem: FileSystem = "ext4",
) -> Path:
    """A disk with busybox and *files* whose /sbin/init is *script* after `INIT`."""

    def make(path: Path) -> None:
        folder = path.with_name(f"{path.name}.root")
        program = None if architecture == "amd64" else foreign_busybox(architecture)
        root = busybox_root(folder, init=INIT + script, files=files, busybox=program)
        make_disk(path, root, size_mib=size_mib, filesystem=filesystem)

    return made_once(f"root-{_digest(script, sorted((files or {}).items()), size_mib, architecture, filesystem)}", make)


def foreign_busybox(architecture: str) -> Path:
    """Debian's static busybox for another architecture."""
    tree = fetch_package_files("busybox-static", "trixie", architecture=architecture, cache=cache_folder())
    return next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.is_file())


def make_data_disk(made_once: MadeOnce, filesystem: FileSystem) -> Path:
    """A disk with one file, ``hello``, on this file system."""

    def make(path: Path) -> None:
        folder = path.with_name(f"{path.name}.data")
        folder.mkdir()
        (folder / "hello").write_text(f"hello from {filesystem}\n")
        make_disk(path, folder, filesystem=filesystem)

    return made_once(f"data-{filesystem}", make)


def run(
    made_once: MadeOnce,
    kernel: Kernel,
    image: Path,
    *,
    disks: Sequence[Path] = (),
    append: str = "",
    extra: Sequence[str] = (),
    memory: int = 512,
    timeout: float = 1200.0,
) -> Guest:
    """Boot, once a session for the same arguments; a test that fails shows the end of the console."""

    def make(path: Path) -> None:
        result = run_qemu(
            image=image,
            vmlinuz=kernel.vmlinuz,
            arch=kernel.arch,
            disks=disks,
            append=append if "root=" in append or not disks else f"root=/dev/vda {append}",
            extra=extra,
            memory=memory,
            timeout=timeout,
            accel="tcg",
        )
        guest = Guest(
            console=result.console, returncode=result.returncode, timed_out=result.timed_out, seconds=result.seconds
        )
        path.write_text(json.dumps(asdict(guest)))

    names = [kernel.release, image.name, *(disk.name for disk in disks)]
    path = made_once(f"boot-{_digest(names, append, list(extra), memory)}.json", make)
    guest = Guest(**json.loads(path.read_text()))
    # pytest shows what a test has printed only if it fails.
    print(f"the console's last {_TAIL} lines, {guest.seconds:.0f} s:")
    print("\n".join(guest.console.splitlines()[-_TAIL:]))
    if guest.timed_out:
        pytest.fail("the guest did not end by itself")
    return guest


def manifest_of(image: Path) -> Manifest:
    """What the builder says is in *image*."""
    return Manifest.from_json(next(entry.data for entry in read_image(image) if entry.path == MANIFEST_PATH))


def tree_of(kernel: Kernel) -> ModuleTree:
    """The kernel's modules."""
    return open_tree(str(kernel.modules))


def read_stock(kernel: Kernel, name: str) -> bytes:
    """The plain bytes of a module as Debian ships it."""
    return read_module_bytes(tree_of(kernel).modules[name].path)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
