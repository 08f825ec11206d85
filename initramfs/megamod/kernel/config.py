"""The configuration that a kernel was built with: the config file beside it, or the one inside of its image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from megamod.common.compression import decompress
from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.kernel.kernel_image import kernel_release, unpacked_kernel
from megamod.modules.kernel_files import KernelFiles

# kernel/configs.c (6.1) puts a gzip file between these two texts.
_START, _END = b"IKCFG_ST", b"IKCFG_ED"
_LIMIT = 16 << 20
_LINE = re.compile(r"(?:# )?(CONFIG_\w+)(?:=(.*)| is not set)")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelConfig:
    """*values*: option (with CONFIG_) → ("y", "m", a number, a text, or "n" for what is not set, its line)."""

    source: str
    values: Mapping[str, tuple[str, int]]

    def enabled(self, option: str) -> bool:
        """Whether CONFIG_*option* is built in."""
        return self.values.get(f"CONFIG_{option}", ("n", 0))[0] == "y"

    def is_off(self, option: str) -> bool:
        """Whether CONFIG_*option* is known not to be built in. A whole .config, which begins with the compiler's name,
        leaves out what depends on something else that is off; a part of one says nothing of what it leaves out."""
        name = f"CONFIG_{option}"
        return self.values[name][0] != "y" if name in self.values else "CONFIG_CC_VERSION_TEXT" in self.values

    def words(self, option: str) -> list[str]:
        """The words in the text of CONFIG_*option*, as the kernel reads a command line; - and _ are one to it."""
        text = self.values.get(f"CONFIG_{option}", ("", 0))[0].strip('"')
        return [
            f"{name.replace('-', '_')}{sign}{value}" for name, sign, value in (w.partition("=") for w in text.split())
        ]

    def line_of(self, option: str) -> str:
        """Where and how the file speaks of CONFIG_*option*, for messages."""
        value, number = self.values.get(f"CONFIG_{option}", ("", 0))
        if not number:
            return f"{self.source}: has no CONFIG_{option}"
        said = f"# CONFIG_{option} is not set" if value == "n" else f"CONFIG_{option}={value}"
        return f"{self.source}:{number}: {said}"


def find_config(files: KernelFiles) -> KernelConfig | None:
    """The configuration of the kernel that *files* belong to; None if none is found."""
    for path in files.configs():
        config = _parsed(read_file(path), str(path))
        if config.values:
            return config
        if files.is_named(path):
            raise MegamodError(f"{path}: is not a kernel configuration: no line of it sets an option")
    return next(filter(None, (_inside(path, files.release) for path in files.images())), None)


@lru_cache(maxsize=2)
def _parsed(data: bytes, source: str) -> KernelConfig:
    """The file is read whenever it is asked for, and its 10,000 lines are looked at once."""
    text = decompress(data, limit=_LIMIT, source=source)  # it may be a /proc/config.gz
    return parse_config(text.decode("utf-8", "replace"), source=source)


def _inside(path: Path, release: str) -> KernelConfig | None:
    """What CONFIG_IKCONFIG has put into the image; None too where the image is of another kernel."""
    try:
        data = unpacked_kernel(path)
        if kernel_release(data) not in (release, None):
            return None
        start = data.find(_START)
        end = data.find(_END, start)
        if start < 0 or end < 0:
            return None
        text = decompress(data[start + len(_START) : end], limit=_LIMIT, source=str(path))
    except MegamodError:
        return None
    return parse_config(text.decode("utf-8", "replace"), source=f"{path}: config")


def has_kcfi(config: KernelConfig | None) -> bool:
    """Whether *config*, if it is known, names kCFI: CFI since 6.18, CFI_CLANG before."""
    return config is not None and (config.enabled("CFI") or config.enabled("CFI_CLANG"))


def parse_config(text: str, *, source: str) -> KernelConfig:
    """The options of a .config file."""
    values: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match:
            values[match[1]] = (match[2] if match[2] is not None else "n", number)
    return KernelConfig(source=source, values=values)
