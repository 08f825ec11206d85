"""Which compression an image gets: what the profile says, held against what the kernel can unpack; `auto` measures.

A kernel unpacks an initramfs only by the methods that CONFIG_RD_… names (usr/Kconfig, 6.1). `auto` adds for each of
them the time to read the packed image from the profile's storage and the time to unpack it, by the rates in
unpack-rates.tsv, and takes the least. How well the content packs is measured on samples of it.

The kernel unpacks the whole image before user space, deferred modules included. Those that lie in it as lz4 files it
only copies, some ten times faster, and the keeper unpacks each when its stage comes (loader/unpack.c). Zstd would have
made them smaller: `compress-deferred: auto` weighs the one against the other by the same figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from megamod.common.choices import CompressDeferred
from megamod.common.compression import METHODS, compress, compress_inside
from megamod.common.errors import MegamodError
from megamod.kernel.config import KernelConfig
from megamod.profile.model import Compress, Profile
from megamod.profile.values import DEFAULT_STORAGE

OPTIONS: Mapping[str, str] = {method: f"RD_{method.upper()}" for method in METHODS if method is not Compress.NONE}
"""Method → the option of the kernel that unpacks it; a plain archive needs none."""

_AUTO = CompressDeferred.AUTO
# Where both take the same time, the smaller image is taken.
_DEFERRED = (CompressDeferred.NONE, CompressDeferred.LZ4)

_PIECE = 128 << 10
_PIECES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The image's method, whether deferred modules are packed inside it, and what the user should hear of it."""

    method: Compress
    packs_deferred: bool = False
    note: str | None = None

    @property
    def deferred(self) -> CompressDeferred:
        return CompressDeferred.LZ4 if self.packs_deferred else CompressDeferred.NONE


def choose_packing(
    profile: Profile, config: KernelConfig | None, critical: Sequence[bytes], deferred: Sequence[bytes] = ()
) -> Packing:
    """The compression for an image with *critical* and *deferred* contents; what the profile names must have passed
    `check_method`."""
    packs = [choice == CompressDeferred.LZ4 for choice in _DEFERRED if profile.compress_deferred in (choice, _AUTO)]
    if not deferred:
        packs = [False]
    if profile.compress is not Compress.AUTO:
        able, note = [profile.compress], None
    elif config is None:
        # Every kernel that is still maintained has had gzip in its default configuration from the beginning.
        able, note = [Compress.GZIP], "compress: auto: the kernel's configuration was not found, using gzip"
    else:
        able, note = [method for method in METHODS if _is_able(method, config)], None
    storage = profile.storage or DEFAULT_STORAGE
    times = {
        pack: _sums(boot_times(able, critical, storage=storage), _deferred_times(able, deferred, pack, storage=storage))
        for pack in packs
    }
    best, pack = min(((method, pack) for pack in packs for method in able), key=lambda pair: times[pair[1]][pair[0]])
    if len(able) > 1:
        listed = ", ".join(f"{method} {seconds:.2f} s" for method, seconds in times[pack].items())
        note = f"compress: auto takes {best}; to read and unpack: {listed}"
    return Packing(method=best, packs_deferred=pack, note=note)


def _sums(left: Mapping[Compress, float], right: Mapping[Compress, float]) -> dict[Compress, float]:
    return {method: left[method] + right[method] for method in left}


def _deferred_times(
    methods: Sequence[Compress], contents: Sequence[bytes], packed: bool, *, storage: int
) -> dict[Compress, float]:
    """Method → what deferred *contents* add to the time before user space. What has been packed already no method makes
    smaller, and all of them copy it."""
    if not packed:
        return boot_times(methods, contents, storage=storage)
    sample = _sample(contents)
    size = sum(map(len, contents)) * _share(sample, compress_inside(sample))
    return dict.fromkeys(methods, size / storage + size / unpack_rates()[Compress.NONE])


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


def boot_times(methods: Sequence[Compress], contents: Sequence[bytes], *, storage: int) -> dict[Compress, float]:
    """Method → seconds to read the packed *contents* at *storage* bytes a second and to unpack them."""
    size = sum(map(len, contents))
    sample = _sample(contents)
    times = {}
    for method in methods:
        times[method] = size * _share(sample, compress(sample, method)) / storage + size / unpack_rates()[method]
    return times


def _share(sample: bytes, packed: bytes) -> float:
    return len(packed) / len(sample) if sample else 1.0


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
