"""The package that a kernel comes from: what lists of vulnerabilities name it by.

Debian's packages have it in their changelog, which begins with source and version (deb-changelog(5)), installed or
unpacked. A signed kernel is a source package of its own (linux-signed-amd64), which says what it was made from; that is
the one that trackers name. dpkg's list would tell the same, but changes with every package, and an image is built again
when something changes that was looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from megamod.common.compression import decompress
from megamod.common.errors import MegamodError
from megamod.common.files import read_file

_LIMIT = 64 << 20
_ENTRY = re.compile(r"(?P<source>[a-z0-9][a-z0-9+.-]+) \((?P<version>[^\s)]+)\) (?P<suite>[^\s;]+)")
_SIGNED = re.compile(r"^ +\* Sign kernel from (\S+) (\S+)$", re.MULTILINE)
# The packages that bring lib/modules/KVER: one for all, or modules apart from the image (Debian from 7.0 on, Ubuntu).
_PACKAGES = ("linux-image-{}", "linux-modules-{}", "linux-image-unsigned-{}", "linux-image-{}-unsigned")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPackage:
    """*name* and *version* of the binary package, *source* and *source_version* of what it was built from; *vendor* is
    the distribution's identifier (``debian``), *suite* what its changelog was written for."""

    name: str
    version: str
    source: str
    source_version: str
    vendor: str
    suite: str


def find_package(folder: Path, release: str) -> KernelPackage | None:
    """The package of the kernel whose modules lie in *folder* (lib/modules/KVER); None if nothing tells it."""
    for root in folder.absolute().parents[2:4]:
        for name in (pattern.format(release) for pattern in _PACKAGES):
            if (found := _by_changelog(root, name)) is not None:
                return found
    return None


def _by_changelog(root: Path, name: str) -> KernelPackage | None:
    for path in (root / f"usr/share/doc/{name}/{each}" for each in ("changelog.Debian.gz", "changelog.gz")):
        try:
            if not path.is_file():
                continue
            text = decompress(read_file(path), limit=_LIMIT, source=str(path))[: 1 << 16].decode("utf-8", "replace")
        except (MegamodError, OSError):
            continue
        if (entry := _ENTRY.match(text)) is None:
            continue
        source, version = entry["source"], entry["version"]
        signed = _SIGNED.search(text.partition("\n -- ")[0])
        made_from = (signed[1], signed[2]) if signed else (source, version)
        return KernelPackage(
            name=name,
            version=made_from[1],
            source=made_from[0],
            source_version=made_from[1],
            vendor=_vendor(root, version),
            suite=entry["suite"],
        )
    return None


def _vendor(root: Path, version: str) -> str:
    """ID of os-release where the tree is a whole system; an unpacked package shows it in its version alone."""
    for path in (root / "etc/os-release", root / "usr/lib/os-release"):
        try:
            if path.is_file() and (found := re.search(r'^ID="?([a-z0-9._-]+)"?$', path.read_text(), re.MULTILINE)):
                return found[1]
        except (OSError, UnicodeDecodeError):
            continue
    return "ubuntu" if "ubuntu" in version else "debian"
