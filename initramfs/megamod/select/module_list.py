"""`@list:FILE`: modules as other tools list them, one file for all of their forms.

| file | a line |
| --- | --- |
| modules-load.d(5), initramfs-tools' and postmarketOS' `modules-initfs` | `ext4`; `#` or `;` begins a comment |
| Debian's /etc/modules, initramfs-tools' `modules` | `loop max_loop=8`: parameters are left to `options` |
| Android's `modules.load` and `modules.load.recovery` | `kernel/drivers/block/virtio_blk.ko`, `virtio_blk.ko` |
| Android's `modules.blocklist`, modprobe.d | `blocklist virtio_blk`, `blacklist virtio_blk` |
| the value of Yocto's KERNEL_MODULE_AUTOLOAD | several names |

A folder stands for its `*.conf`, as modules-load.d is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import Location, MegamodError
from megamod.common.text import canonical

_MAX_BYTES = 1 << 20
_KEYWORDS = ("blocklist", "blacklist")
_FILE = re.compile(r"\.ko(\.xz|\.zst|\.gz)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A module of a list, and where it stands."""

    name: str
    location: Location


def listed_modules(path: Path) -> list[Listed]:
    """The modules that the file or folder *path* lists, in its order; raises MegamodError naming it."""
    files = sorted(path.glob("*.conf")) if path.is_dir() else [path]
    return [found for file in files for found in _of_file(file)]


def _of_file(path: Path) -> Iterator[Listed]:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        hint = "a path relative to the profile"
        raise MegamodError(f"{path}: {error.strerror or error}", hint=hint) from None
    for number, line in enumerate(text.splitlines(), 1):
        for match in re.finditer(r"\S+", re.split("[#;]", line)[0]):
            word = match[0]
            if "=" in word:
                break
            if match.start() == 0 and word in _KEYWORDS:
                continue
            name = canonical(_FILE.sub("", word.rpartition("/")[2]))
            yield Listed(name=name, location=Location(file=str(path), line=number, column=match.start() + 1))
