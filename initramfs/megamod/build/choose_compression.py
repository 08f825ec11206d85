"""Which compression an image gets: what the profile says, held against what the kernel can unpack; `auto` measures.

A kernel unpacks an initramfs only by the methods that CONFIG_RD_… names (usr/Kconfig, 6.1). `auto` adds for each of
them the time to read the packed image from the profile's storage and the time to unpack it, by the rates in
unpack-rates.tsv, and takes the least. How well the content packs is measured on samples of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from megamod.common.compression import METHODS, compress
from megamod.common.errors import MegamodError
from megamod.kernel.config import KernelConfig
from megamod.profile.model import Compress, Profile
from megamod.profile.values import DEFAULT_STORAGE

OPTIONS: Mapping[str, str] = {method: f"RD_{method.upper()}" for method in METHODS if method is not Compress.NONE}
"""Method → the option of the kernel that unpacks it; a plain archive needs none."""

_PIECE = 128 << 10
_PIECES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The method, and what the user should hear of the choice."""

    method: Compress
    note: str | None = None


def choose_packing(profile: Profile, config: KernelConfig | None, contents: Sequence[bytes]) -> Packing:
    """The compression for an image with *contents*; what the profile names must have passed `check_method`."""
    if profile.compress is not Compress.AUTO:
        return Packing(method=profile.compress)
    if config is None:
        # Every kernel that is still maintained has had gzip in its default configuration from the beginning.
        return Packing(method=Compress.GZIP, note="compress: auto: no configuration of the kernel is found, so gzip")
    able: list[Compress] = [method for method in METHODS if _is_able(method, config)]
    times = boot_times(able, contents, storage=profile.storage or DEFAULT_STORAGE)
    best = min(able, key=lambda method: times[method])
    listed = ", ".join(f"{method} {seconds:.2f} s" for method, seconds in times.items())
    return Packing(method=best, note=f"compress: auto takes {best}; to read and unpack: {listed}")


def _is_able(method: str, config: KernelConfig) -> bool:
    return method == Compress.NONE or config.enabled(OPTIONS[method])


def check_method(method: str, config: KernelConfig | None) -> None:
    """Refuse a *method* of which the kernel's configuration says that it is not built in."""
    if config is None or method == Compress.AUTO or _is_able(method, config):
        return
    able = [name for name in METHODS if _is_able(name, config)]
    raise MegamodError(
        f"compress: the kernel cannot unpack {method}: {config.line_of(OPTIONS[method])}",
        hint=f"it can: {', '.join(able)}",
    )


def boot_times(methods: Sequence[str], contents: Sequence[bytes], *, storage: int) -> dict[str, float]:
    """Method → seconds to read the packed *contents* at *storage* bytes a second and to unpack them."""
    size = sum(map(len, contents))
    sample = _sample(contents)
    times = {}
    for method in methods:
        share = len(compress(sample, method)) / len(sample) if sample else 1.0
        times[method] = size * share / storage + size / unpack_rates()[method]
    return times


def _sample(contents: Sequence[bytes]) -> bytes:
    """Pieces from all over: each of the larger files gives as many as its share of the whole is."""
    size = sum(map(len, contents))
    if size <= _PIECE * _PIECES:
        return b"".join(contents)
    step, position, pieces = size / _PIECES, 0, []
    for data in contents:
        first = -(-position // step)
        start = first * step
        while start < position + len(data):
            offset = int(start) - position
            pieces.append(data[offset : offset + _PIECE])
            start += step
        position += len(data)
    return b"".join(pieces)


@cache
def unpack_rates() -> Mapping[str, float]:
    """Method → unpacked bytes a second, from lines `method<TAB>bytes a second`."""
    text = resources.files("megamod.build").joinpath("unpack-rates.tsv").read_text("ascii")
    rows = (line.split("\t") for line in text.splitlines() if line[:1] not in ("", "#"))
    return {method: float(rate) for method, rate in rows}
