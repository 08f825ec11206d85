"""File systems for QEMU: a root folder with busybox, and disk images of it made without root and without mount.

Each image is one file system without a partition table. What is in the folder becomes owned by root.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal

from megamod.common.errors import MegamodError
from megamod.common.host import find_program, run_program

FileSystem = Literal["ext4", "btrfs", "xfs"]

# The least that mkfs takes: btrfs with two copies of its metadata, xfs since xfsprogs 5.19. The files are sparse.
_SIZES_MIB = {"ext4": 64, "btrfs": 256, "xfs": 320}
_PACKAGES = {"ext4": "e2fsprogs", "btrfs": "btrfs-progs", "xfs": "xfsprogs"}
_FOLDERS = ("bin", "dev", "etc", "mnt", "proc", "root", "run", "sbin", "sys", "tmp")


def make_disk(
    path: Path,
    folder: Path,
    *,
    filesystem: FileSystem = "ext4",
    size_mib: int | None = None,
    label: str | None = None,
    uuid: str | None = None,
) -> Path:
    """Write *folder* to the new image *path* as *filesystem*; returns *path*.

    *size_mib* is what the file system spans, by default 64 (ext4), 256 (btrfs) or 320 (xfs); the content must fit. An
    existing file is replaced only when the new one is complete.
    """
    program = find_program(f"mkfs.{filesystem}", package=_PACKAGES[filesystem])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.truncate((size_mib or _SIZES_MIB[filesystem]) << 20)
        match filesystem:
            case "ext4":
                _make_ext4(program, temporary, folder, label, uuid)
            case "btrfs":
                _make_btrfs(program, temporary, folder, label, uuid)
            case "xfs":
                _make_xfs(program, temporary, folder, label, uuid)
        temporary.replace(path)
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def busybox_root(
    folder: Path, *, init: str, busybox: Path | None = None, files: Mapping[str, str | bytes] | None = None
) -> Path:
    """Fill *folder* with a root file system around a static busybox; returns it.

    *init* is the text of ``/sbin/init``, a script for ``/bin/sh`` (the ``#!`` line may be left out). *files* maps
    further paths (``etc/hostname``) to contents; those whose text begins with ``#!`` and programs become executable.
    *busybox* is this machine's by default.
    """
    program = busybox or host_busybox()
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copyfile(program, folder / "bin/busybox")
    (folder / "bin/busybox").chmod(0o755)
    for applet in _applets(program):
        if applet not in ("busybox", "init"):
            (folder / "bin" / applet).symlink_to("busybox")
    script = init if init.startswith("#!") else f"#!/bin/sh\n{init}"
    for name, content in {"sbin/init": script, **(files or {})}.items():
        data = content.encode() if isinstance(content, str) else content
        place = folder / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644)
    return folder


def host_busybox() -> Path:
    """This machine's busybox; MegamodError unless it is static and so runs in a root without libraries."""
    path = Path(find_program("busybox", package="busybox-static"))
    if not is_static(path):
        raise MegamodError(f"{path}: is not static", hint="apt install busybox-static")
    return path


def is_static(path: Path) -> bool:
    """Whether *path* is a 64-bit or 32-bit ELF program of this byte order without an interpreter (PT_INTERP)."""
    data = path.read_bytes()
    if data[:4] != b"\x7fELF":
        return False
    wide = data[4] == 2
    order: Literal["little", "big"] = "little" if data[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    # Elf64_Ehdr and Elf32_Ehdr: e_phoff, e_phentsize, e_phnum; p_type is the first word of a program header.
    table, entry, count = (
        (number(32, 8), number(54, 2), number(56, 2)) if wide else (number(28, 4), number(42, 2), number(44, 2))
    )
    return all(number(table + index * entry, 4) != 3 for index in range(count))


def _applets(program: Path) -> list[str]:
    """The names that *program* answers to, or, when it is of another architecture, this machine's busybox."""
    try:
        text = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        text = run_program([host_busybox(), "--list"])
    return text.split()


def _make_ext4(program: str, image: Path, folder: Path, label: str | None, uuid: str | None) -> None:
    options = _options({"-L": label, "-U": uuid})
    run_program([program, "-q", "-F", *options, "-E", "root_owner=0:0", "-d", folder, image])


def _make_btrfs(program: str, image: Path, folder: Path, label: str | None, uuid: str | None) -> None:
    run_program([program, "-q", "-f", *_options({"-L": label, "-U": uuid}), "-r", folder, image])


def _make_xfs(program: str, image: Path, folder: Path, label: str | None, uuid: str | None) -> None:
    options = _options({"-L": label}) + (["-m", f"uuid={uuid}"] if uuid else [])
    with NamedTemporaryFile("w", prefix="megamod-", suffix=".proto") as prototype:
        prototype.write(xfs_prototype(folder))
        prototype.flush()
        run_program([program, "-q", "-f", *options, "-p", prototype.name, image])


def xfs_prototype(folder: Path) -> str:
    """The prototype file of mkfs.xfs(8) that describes *folder*: one line an entry, folders closed by ``$``."""
    lines = ["/", "0 0", f"{_prototype_mode(folder.lstat().st_mode)} 0 0"]
    _add_prototype_lines(folder, lines)
    return "\n".join([*lines, "$", ""])


def _add_prototype_lines(folder: Path, lines: list[str]) -> None:
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        target = str(path.readlink()) if path.is_symlink() else str(path.absolute())
        if len(f"{path.name} {target}".split()) != 2:
            raise MegamodError(f"{path}: mkfs.xfs takes no names with white space")
        line = f"{path.name} {_prototype_mode(mode)} 0 0"
        if stat.S_ISDIR(mode):
            lines.append(line)
            _add_prototype_lines(path, lines)
            lines.append("$")
        else:
            lines.append(f"{line} {target}")


def _prototype_mode(mode: int) -> str:
    """``d--755``: type, set-uid, set-gid, permissions. The format has no place for the sticky bit."""
    kinds = {stat.S_IFREG: "-", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}
    kind = kinds.get(stat.S_IFMT(mode))
    if kind is None:
        raise MegamodError(f"mode {mode:#o}: only files, folders and links can be put on a disk")
    set_uid, set_gid = "u" if mode & stat.S_ISUID else "-", "g" if mode & stat.S_ISGID else "-"
    return f"{kind}{set_uid}{set_gid}{mode & 0o777:03o}"


def _options(values: Mapping[str, str | None]) -> list[str]:
    return [word for name, value in values.items() if value is not None for word in (name, value)]
