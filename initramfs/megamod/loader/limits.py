"""What the loader cannot do, known in one place: in `detect`, in a build, in `explain`, and in the loader itself.

`python -m megamod.loader.limits loader/limits.h` writes the loader's half; a test holds both together.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from megamod.common.files import atomic_write

WAY_OUT = "boot an image of dracut, initramfs-tools or mkinitcpio (megamod hook install)"
"""What to do where another program must make the root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """*text*: what does not happen. *names*: what stands behind `/dev/` where it is meant, by its beginning; `#` is a
    digit, a lone `/` any name with a slash. *words*: the same on the kernel command line, by their beginning. *layers*:
    beginnings of what root_devices.py calls a layer."""

    text: str
    names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "network": Limit(
            text="the loader sets up no network",
            names=("nfs", "cifs"),
            words=("nfsroot=", "netroot=", "iscsi_", "rd.iscsi", "ISCSI_", "root=nfs", "root=iscsi"),
            layers=("the network", "a network block device", "DRBD"),
        ),
        "udev": Limit(
            text="only udev makes that name, and there is no udev here: use UUID=, LABEL= or PARTUUID=",
            names=("disk/",),
        ),
        "encrypted": Limit(
            text="the loader opens no encrypted device",
            words=("rd.luks.", "luks.", "cryptdevice=", "cryptopts="),
            layers=("LUKS", "plain dm-crypt", "dm-integrity"),
        ),
        "mapper": Limit(
            text="nothing here makes devices of the device mapper, and the kernel has not made it "
            "(dm-mod.create= needs dm_mod and the disk's driver to be built in)",
            names=("mapper/", "dm-"),
            words=("dm-mod.create=",),
            layers=("multipath", "dmraid", "VDO", "stratis", "a device-mapper device"),
        ),
        "array": Limit(
            text="the loader assembles no RAID array",
            names=("md#", "md/", "md_"),
            words=("rd.md.",),
            layers=("RAID",),
        ),
        "pool": Limit(
            text="the loader opens no pool and no cache",
            words=("zfs=", "root=zfs", "root=ZFS", "bootfs="),
            layers=("bcache",),
        ),
        "volume": Limit(
            text="the kernel makes no such name; the loader activates no LVM volume",
            names=("/",),
            words=("rd.lvm.",),
            layers=("LVM",),
        ),
        "live": Limit(text="the loader knows no live system", words=("rd.live.", "boot=live", "boot=casper")),
    }
)
"""In the order in which names are compared."""

KNOWN_NAMES = ("disk/by-uuid/", "disk/by-label/", "disk/by-part", "cciss/", "ida/", "rd/", "etherd/", "i2o/", "root")
"""Names below `/dev/` that the loader finds by itself, or that are the kernel's own."""


def refusal_of_device(device: str) -> str | None:
    """Why a root that is written as *device* can never be there by itself, None if it can."""
    if not device.startswith("/dev/"):
        return None
    name = device.removeprefix("/dev/")
    if name.startswith(KNOWN_NAMES[:-1]) or name == KNOWN_NAMES[-1]:
        return None
    return next((limit.text for limit in LIMITS.values() if any(_fits(name, n) for n in limit.names)), None)


def limits_of_words(cmdline: str) -> list[tuple[str, str]]:
    """(word, why it cannot be met) for each word of a kernel command line that asks for more than the loader does."""
    found = ((word, limit_of_word(word)) for word in cmdline.split())
    return [(word, limit) for word, limit in found if limit is not None]


def limit_of_word(word: str) -> str | None:
    """What a word of the kernel command line asks for and does not get."""
    return next((limit.text for limit in LIMITS.values() if word.startswith(limit.words)), None) if word else None


def limits_of_layers(layers: Iterable[str]) -> list[str]:
    """What the loader does not do for a root on *layers*, each once."""
    found = (limit.text for layer in layers for limit in LIMITS.values() if layer.startswith(limit.layers or ("\0",)))
    return list(dict.fromkeys(found))


def _fits(name: str, pattern: str) -> bool:
    if pattern == "/":
        return "/" in name
    digit = "[0-9]"
    return re.match(re.escape(pattern).replace(r"\#", digit), name) is not None


def c_header() -> str:
    """The text of loader/limits.h."""
    keys = list(LIMITS)
    lines = [
        "/* SPDX-License-Identifier: MIT",
        " *",
        " * What the loader cannot do. Made by `python -m megamod.loader.limits loader/limits.h` from the table in",
        " * initramfs/megamod/loader/limits.py: change it there.",
        " */",
        "#ifndef LIMITS_H",
        "#define LIMITS_H",
        "",
        '#include "text.h"',
        "",
        "/* clang-format off */",
        f'#define WAY_OUT "{WAY_OUT}"',
        "",
        "static const char *const limits[] = {",
        *(f'\t"{limit.text}",' for limit in LIMITS.values()),
        "};",
        "",
        "struct limit {",
        "\tu8 text; /* into limits */",
        "\tchar start[15];",
        "};",
        "",
        "/* Of what stands behind /dev/; `#` is a digit, a lone slash any name with one. */",
        "static const struct limit limited_names[] = {",
        *(f'\t{{ {keys.index(key)}, "{name}" }},' for key, limit in LIMITS.items() for name in limit.names),
        "};",
        "",
        "/* Of the words on the kernel command line. */",
        "static const struct limit limited_words[] = {",
        *(f'\t{{ {keys.index(key)}, "{word}" }},' for key, limit in LIMITS.items() for word in limit.words),
        "};",
        "",
        "/* These names the loader finds by itself, or the kernel makes them. */",
        "static const char known_names[][16] = {",
        *(f'\t"{name}",' for name in KNOWN_NAMES[:-1]),
        "};",
        "/* clang-format on */",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print the header, or write it into the file that is named."""
    if not arguments:
        print(c_header(), end="")
    for name in arguments:
        atomic_write(Path(name), c_header().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
