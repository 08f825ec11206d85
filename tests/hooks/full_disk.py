"""Runs commands on a file system with too little space, and on one that cannot be written: as before or as after.

``python -m tests.hooks.full_disk WORK KERNEL FOLDER``, as root; WORK, KERNEL and FOLDER are those of killed_calls.py.
The disk is a tmpfs of which 0, 4 KiB, 8 KiB … are free until that is enough. Then the whole of it, and /boot alone, is
read-only. Each time the command is made once more, with room, and must do its work.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from megamod.cli import hooks as cli_hooks
from tests.hooks.killed_calls import Act, difference, everything, make_system, restore, status_of, works

_PAGE = 4096
_DEPLOYED = "usr/lib/megamod/"


def free_sizes() -> Iterator[int]:
    """Bytes that are left free: each page at first, then in larger steps."""
    size = 0
    while size < 64 << 20:
        yield size
        size += max(_PAGE, size // 6 // _PAGE * _PAGE)


def fill(folder: Path, *, free: int) -> Path:
    """A file that takes all of the file system of *folder* but *free* bytes."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    left = os.statvfs(folder)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(left.f_bavail * left.f_bsize - free, 1))
    return filler


def run(name: str, kernel: Path, folder: Path) -> str:
    """The work *name* on a disk that is full, and that is read-only."""
    disk, saved = folder / "disk", folder / "saved"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", disk], check=True)
    root = disk / "root"
    kernel = make_system(root, kernel)
    work = works(root, kernel)[name]
    if work.before is not None:
        assert status_of(work.before) == 0
    shutil.copytree(root, saved, symlinks=True)
    before = everything(root)
    assert status_of(work.act) == 0
    restore(saved, root)
    assert status_of(work.act) == 0
    after = everything(root)
    # An update that cannot be made takes the deployment away: at least the link, without which it is not loaded.
    updates = name == "update"
    sizes = refused = 0
    for free in free_sizes():
        restore(saved, root)
        filler = fill(disk, free=free)
        status = status_of(work.act)
        now = everything(root)
        filler.unlink()
        sizes += 1
        if now == after:
            if status == 0:
                break
            continue
        refused += 1
        _check(name, free, before, now, status, updates=updates)
        _again(work.act, after, root, updates=updates)
    else:
        raise AssertionError("it never has enough")
    for place in ("", "boot"):
        restore(saved, root)
        _read_only(root / place, disk, whole=not place)
        status = status_of(work.act)
        now = everything(root)
        _writable(root / place, disk, whole=not place)
        assert now in (before, after), (place, difference(before, now))
        assert (status == 0) == (now == after) or updates, (place, status)
    return f"{name}: {sizes} sizes of free space, refused at {refused}; read-only as a whole and /boot alone"


def _check(name: str, free: int, before: dict[str, str], now: dict[str, str], status: int, *, updates: bool) -> None:
    if updates:
        links = [path for path, value in now.items() if path.startswith(_DEPLOYED) and value.startswith("120")]
        assert links == [], (name, free, links)
        return
    assert status != 0, (name, free)
    assert now == before, (name, free, difference(before, now))


def _again(act: Act, after: dict[str, str], root: Path, *, updates: bool) -> None:
    status = status_of(act)
    now = everything(root)
    assert status == 0, status
    # What was taken away is not made again by itself.
    gone = updates and not any(path.startswith(_DEPLOYED) for path in now)
    assert gone or now == after, difference(after, now)


def _read_only(path: Path, disk: Path, *, whole: bool) -> None:
    if whole:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        return
    subprocess.run(["mount", "--bind", path, path], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)


def _writable(path: Path, disk: Path, *, whole: bool) -> None:
    subprocess.run(["mount", "-o", "remount,rw", disk] if whole else ["umount", path], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=list(works(Path("/"), Path("/"))))
    parser.add_argument("kernel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        # The mounts are gone with the process.
        command = ["unshare", "--mount", sys.executable, "-m", "tests.hooks.full_disk", *sys.argv[1:], "--inside"]
        return subprocess.run(command, check=False).returncode
    cli_hooks.own_program = lambda _root: Path("/opt/megamod/bin/megamod")
    print(run(options.work, options.kernel.resolve(), options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
