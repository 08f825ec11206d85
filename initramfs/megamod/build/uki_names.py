"""What a boot menu calls a UKI: its `.osrel` and `.uname`, so that two of them can be told from each other.

systemd-boot shows PRETTY_NAME, sorts by IMAGE_ID or ID, then by VERSION_ID and the like, newer first
(boot_entry_compare() and bootspec_pick_name_version_sort_key(), systemd 252).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path

from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.common.files import read_file
from megamod.image.archive import read_image

_LINE = re.compile(r"^([A-Z_][A-Z_0-9]*)=(.*)$", re.MULTILINE)


def os_release(*, profile: str, kernel: str, system: Path | None = None) -> bytes:
    """os-release(5) for an image of *profile* and the *kernel* of that release; *system* is the root of a system whose
    own file it builds on, if it has one."""
    fields = _fields_of(system) if system is not None else {}
    name = fields.get("PRETTY_NAME", "")
    title = ", ".join(filter(None, [name, f"Linux {kernel}" if kernel else "Linux", profile]))
    if not fields:
        fields = {"ID": "linux", "NAME": "Linux", **({"VERSION_ID": kernel} if kernel else {})}
    fields = {**fields, "PRETTY_NAME": f"{title} (megamod)"}
    return "".join(f'{name}="{_quoted(value)}"\n' for name, value in fields.items()).encode()


def names_of(image: Path, kernel: Path) -> tuple[bytes, str]:
    """`.osrel` and `.uname` for *image*, by its manifest; an image of somebody else is called after the kernel."""
    entry = next((each for each in read_image(image) if each.path == MANIFEST_PATH), None)
    if entry is None:
        release = _release_in(read_file(kernel))
        return os_release(profile="", kernel=release), release
    manifest = Manifest.from_json(entry.data, source=f"{image}: {MANIFEST_PATH}")
    return os_release(profile=manifest.profile, kernel=manifest.kernel), manifest.kernel


def system_of(folder: Path, release: str) -> Path | None:
    """The root of the system that has the modules in *folder*, if it has an os-release of its own."""
    for parent in folder.resolve().parents[2:4] if folder.name == release else ():
        if any((parent / name).is_file() for name in ("etc/os-release", "usr/lib/os-release")):
            return parent
    return None


def _fields_of(system: Path) -> Mapping[str, str]:
    for name in ("etc/os-release", "usr/lib/os-release"):
        if (system / name).is_file():
            text = (system / name).read_text(errors="replace")
            return {key: value.strip().strip("\"'") for key, value in _LINE.findall(text)}
    return {}


def _quoted(value: str) -> str:
    return re.sub(r'(["\\$`])', r"\\\1", value)


def _release_in(kernel: bytes) -> str:
    """The release in a bzImage's header (kernel_version at 0x20e, Documentation/x86/boot.rst); "" in other kernels."""
    if kernel[0x202:0x206] != b"HdrS":
        return ""
    (offset,) = struct.unpack_from("<H", kernel, 0x20E)
    text = kernel[0x200 + offset : 0x200 + offset + 128].split(b"\0")[0]
    return text.split(b" ")[0].decode("ascii", "replace") if offset else ""
