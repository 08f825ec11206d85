"""GPT disks of several partitions, written by sgdisk; file systems with blocks as large as pages."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megamod.common.host import find_program

_MIB = 1 << 20
ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
"""Of x86_64, in the discoverable partitions specification."""
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """*content* in a partition with this name, and with a type and a UUID if they are given."""

    name: str
    content: Path
    kind: str = ""
    uuid: str = ""


def write_gpt(path: Path, partitions: Sequence[Partition]) -> Path:
    """A disk of these partitions, in their order."""
    starts: list[int] = []
    end = 1
    for partition in partitions:
        starts.append(end)
        end += -(-partition.content.stat().st_size // _MIB)
    with path.open("wb") as file:
        file.truncate((end + 1) * _MIB)
    words: list[str] = []
    for number, (partition, start) in enumerate(zip(partitions, starts, strict=True), start=1):
        size = -(-partition.content.stat().st_size // _MIB)
        words += ["-n", f"{number}:{start * 2048}:{(start + size) * 2048 - 1}", "-c", f"{number}:{partition.name}"]
        words += ["-t", f"{number}:{partition.kind}"] if partition.kind else []
        words += ["-u", f"{number}:{partition.uuid}"] if partition.uuid else []
    command = [find_program("sgdisk", package="gdisk"), "-a", "1", *words, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("r+b") as file:
        for partition, start in zip(partitions, starts, strict=True):
            file.seek(start * _MIB)
            file.write(partition.content.read_bytes())
    return path


def ext4_of_pages(path: Path, folder: Path, *, size_mib: int, label: str | None = None) -> Path:
    """An ext4 of *folder*. Left alone, a small one has smaller blocks, which verity's are not, and in which files begin
    in the middle of a page, which swapon leaves out."""
    program = find_program("mkfs.ext4", package="e2fsprogs")
    command = [program, "-q", "-b", "4096", "-E", "root_owner=0:0", "-d", str(folder)]
    command += ["-L", label] if label else []
    subprocess.run([*command, str(path), f"{size_mib}M"], check=True, capture_output=True)
    return path
