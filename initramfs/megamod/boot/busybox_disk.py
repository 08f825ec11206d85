"""A disk to boot from where there is none yet: Debian's static busybox of any architecture, which says that it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from megamod.boot.debian import QEMU_NAMES, fetch_package_files
from megamod.boot.disk import busybox_root, make_disk

_SUITE = "bookworm"
_WAITS = 300
# The status file has "NAME STATE …" for each stage (loader/status.c).
_INIT = f"""\
mkdir -p /run/camera
echo "busybox: user space on $(uname -m)"
echo >/run/camera/first-frame
n=0
while grep -qE '^[^ ]+ (waiting|loading) ' /run/megamod/status && [ $n -lt {_WAITS} ]; do sleep 0.1; n=$((n + 1)); done
poweroff -f
"""


def busybox_disk(path: Path, *, arch: str, cache: Path, say: Callable[[str], None]) -> Path:
    """Write an ext4 disk to *path* for the architecture *arch* (as QEMU calls it), and return it.

    Its init makes /run/camera/first-frame, waits for the deferred stages, and powers off. busybox is from the *cache*,
    or from Debian's mirror; *say* gets a line for each slow step. Raises MegamodError.
    """
    architecture = next((debian for debian, qemu in QEMU_NAMES.items() if qemu == arch), arch)
    tree = fetch_package_files("busybox-static", _SUITE, architecture=architecture, cache=cache, say=say)
    program = next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.is_file())
    with tempfile.TemporaryDirectory(prefix="megamod-root-") as folder:
        return make_disk(path, busybox_root(Path(folder), init=_INIT, busybox=program), label="busybox")
