"""Microcode for the processor: a plain archive before the image, which x86 kernels read before they unpack anything.

The kernel looks in it for kernel/x86/microcode/GenuineIntel.bin and AuthenticAMD.bin (find_microcode_in_initrd(),
arch/x86/kernel/cpu/microcode/core.c, 6.1), each the files of lib/firmware/intel-ucode or amd-ucode one behind the other
(Documentation/x86/microcode.rst). It unpacks the archive with the rest, so that the files lie in the initramfs too.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megamod.build.files import ImageFile
from megamod.build.firmware import FirmwareFolder, firmware_folder
from megamod.build.manifest import ManifestFile
from megamod.common.compression import decompress, read_regular
from megamod.common.errors import MegamodError
from megamod.common.files import source_date_epoch
from megamod.common.text import counted
from megamod.image.cpio import Entry, write_cpio
from megamod.kernel.config import KernelConfig
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile

_PLACE = "kernel/x86/microcode"
_VENDORS = {"intel-ucode": "GenuineIntel", "amd-ucode": "AuthenticAMD"}
_BLOCK = 512
_MAX_FILE = 64 << 20
_AMD_MAGIC = b"DMA\0"  # UCODE_MAGIC, arch/x86/include/asm/microcode_amd.h
_INTEL = struct.Struct("<9I")  # struct microcode_header_intel: hdrver, …, ldrver at 5, datasize and totalsize at 7, 8
_INTEL_SIZE = 2048  # what a datasize of 0 stands for, the header of 48 bytes included


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyArchive:
    """*data* goes before the packed image, and is a multiple of 512 bytes long, so that what follows is aligned."""

    data: bytes = b""
    files: tuple[ImageFile, ...] = ()
    notes: tuple[str, ...] = ()

    def manifest(self) -> tuple[ManifestFile, ...]:
        """Its files for the manifest."""
        return tuple(
            ManifestFile(
                path=file.entry.path,
                type="file",
                mode="0644",
                bytes=len(file.entry.data),
                reason=f"{file.reason}, early archive",
            )
            for file in self.files
        )


def early_archive(profile: Profile, tree: ModuleTree, config: KernelConfig | None, *, machine: str) -> EarlyArchive:
    """What `microcode` of the profile asks for, for a kernel of the *machine* (the loader's name)."""
    wish = profile.microcode
    if not wish.auto and not wish.files:
        return EarlyArchive()
    if machine != "x86_64":
        if wish.files:
            raise MegamodError(f"microcode: for x86 alone, these modules are for {machine}")
        return EarlyArchive(notes=(f"microcode: auto: nothing for {machine}",))
    if config is not None and not config.enabled("MICROCODE"):
        raise MegamodError(f"microcode: the kernel loads none: {config.line_of('MICROCODE')}")
    if wish.auto:
        found = _in_folder(firmware_folder(profile, tree.folder, tree.release))
        if not found:
            # No path of this machine: notes go into the manifest.
            return EarlyArchive(notes=("microcode: auto: no intel-ucode and no amd-ucode in the firmware folder",))
    else:
        found = [Path(file) for file in wish.files]
    return _archive(found)


def _in_folder(folder: FirmwareFolder) -> list[Path]:
    return [
        path
        for name in _VENDORS
        for path in sorted((folder.path / name).glob("*"))
        # linux-firmware has a README and signatures (.asc) beside AMD's.
        if path.is_file() and not path.name.endswith(".asc") and not path.name.startswith("README")
    ]


def _archive(paths: Sequence[Path]) -> EarlyArchive:
    blobs: dict[str, list[bytes]] = {}
    for path in paths:
        data = decompress(read_regular(path, limit=_MAX_FILE), limit=_MAX_FILE, source=str(path))
        blobs.setdefault(_vendor(data, path), []).append(data)
    files = tuple(
        ImageFile(
            entry=Entry(path=f"{_PLACE}/{vendor}.bin", mode=stat.S_IFREG | 0o644, data=b"".join(parts)),
            reason=f"microcode of {counted(len(parts), 'file')}",
        )
        for vendor, parts in sorted(blobs.items())
    )
    data = write_cpio((file.entry for file in files), mtime=source_date_epoch(os.environ))
    return EarlyArchive(data=data + bytes(-len(data) % _BLOCK), files=files)


def _vendor(data: bytes, path: Path) -> str:
    """Whose microcode *data* is; each part of Intel's must be whole and add up to 0 (its checksum)."""
    if data.startswith(_AMD_MAGIC):
        return "AuthenticAMD"
    at = 0
    while at < len(data):
        if at + 48 > len(data):
            break
        fields = _INTEL.unpack_from(data, at)
        size = fields[8] if fields[7] else _INTEL_SIZE
        if fields[0] != 1 or fields[5] != 1 or size % 4 or size < 48 or at + size > len(data):
            break
        if int(np.frombuffer(data[at : at + size], "<u4").sum(dtype=np.uint64)) & 0xFFFFFFFF:
            raise MegamodError(f"{path}: microcode at {at:#x}: its checksum is wrong")
        at += size
    if not data or at < len(data):
        raise MegamodError(f"{path}: no microcode of Intel or AMD", hint="files of intel-ucode/ or amd-ucode/ are")
    return "GenuineIntel"
