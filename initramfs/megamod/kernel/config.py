"""The configuration that a kernel was built with: the config file beside it, or the one inside of its image."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.kernel.exports import unpacked_kernel

# kernel/configs.c (6.1) puts a gzip file between these two texts.
_START, _END = b"IKCFG_ST", b"IKCFG_ED"
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

    def line_of(self, option: str) -> str:
        """Where and how the file speaks of CONFIG_*option*, for messages."""
        value, number = self.values.get(f"CONFIG_{option}", ("", 0))
        if not number:
            return f"{self.source}: has no CONFIG_{option}"
        said = f"# CONFIG_{option} is not set" if value == "n" else f"CONFIG_{option}={value}"
        return f"{self.source}:{number}: {said}"


def find_config(folder: Path, release: str) -> KernelConfig | None:
    """The configuration of the kernel whose modules lie in *folder* (lib/modules/KVER); None if none is found."""
    for path in _candidates(folder, release, "config"):
        if path.is_file():
            return parse_config(read_file(path).decode("utf-8", "replace"), source=str(path))
    for path in _candidates(folder, release, "vmlinuz"):
        if path.is_file():
            return _inside(path)
    return None


def _candidates(folder: Path, release: str, name: str) -> Iterator[Path]:
    yield folder / name
    for parent in folder.absolute().parents[2:4]:
        yield parent / "boot" / f"{name}-{release}"
    if name == "config":
        yield folder / "build" / ".config"


def _inside(path: Path) -> KernelConfig | None:
    """What CONFIG_IKCONFIG has put into the image."""
    try:
        data = unpacked_kernel(path)
        start = data.find(_START)
        end = data.find(_END, start)
        if start < 0 or end < 0:
            return None
        text = zlib.decompress(data[start + len(_START) : end], wbits=31)
    except (MegamodError, zlib.error):
        return None
    return parse_config(text.decode("utf-8", "replace"), source=f"{path}: config")


def parse_config(text: str, *, source: str) -> KernelConfig:
    """The options of a .config file."""
    values: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match:
            values[match[1]] = (match[2] if match[2] is not None else "n", number)
    return KernelConfig(source=source, values=values)
