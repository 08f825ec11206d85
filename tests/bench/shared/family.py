"""Nested sets of modules that load without hardware: each is part of the next, each closed under modules.dep.

Found when they are needed, so any kernel has them: drivers of buses, protocols, ciphers and file systems from a few
folders, in the order of a hash of their names but for one thing: the average size of the files is to be the same in
small sets as in large ones. One call of them all shows whose init fails; those and what needs them are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch

from megamod.common.errors import MegamodError
from tests.bench.shared.kernels import BenchKernel

_TRIES = 4
_LOOK_AHEAD = 60

_FOLDERS = tuple(
    f"kernel/{name}/"
    for name in (
        "crypto fs lib net drivers/hid drivers/hwmon drivers/iio drivers/input drivers/leds drivers/media "
        "drivers/net/ethernet drivers/net/phy drivers/net/usb drivers/usb sound/soc/codecs"
    ).split()
)
# Not drivers but programs that test, and what watches or waits for the machine.
_NEVER = ("*test*", "*torture*", "*_selftest", "tcrypt", "*dummy*", "*loopback*", "g_*", "vivid*", "vim2m", "*_wdt")


def find_family(
    kernel: BenchKernel, size: int, *, results: Callable[[Sequence[str]], Mapping[str, int]]
) -> tuple[str, ...]:
    """*size* names, or as many as this kernel has; each comes after what it needs, so any first part is closed too.

    *results* loads modules in one call and gives what became of each member: 0, an error, or a mark for a skipped one.
    """
    seeds = _seeds(kernel)
    bad: set[str] = set()
    for _ in range(_TRIES):
        # A tenth more, for what will not load.
        tried = _closed(kernel, seeds, bad, size * 11 // 10)
        became = results(tried)
        bad |= {name for name in tried if became.get(name) != 0}
        chosen = _closed(kernel, seeds, bad, size)
        if set(chosen) <= set(tried):
            return tuple(chosen)
    raise MegamodError(f"no {size} modules that load were found in {_TRIES} tries")


def _seeds(kernel: BenchKernel) -> list[str]:
    names = [
        name
        for name, module in kernel.tree.modules.items()
        if module.relpath.startswith(_FOLDERS) and not any(fnmatch(name, pattern) for pattern in _NEVER)
    ]
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def _closed(kernel: BenchKernel, seeds: Sequence[str], bad: set[str], size: int) -> list[str]:
    """The first *size* modules that are not bad, each after what it needs.

    Of the next few seeds that one is taken with which the modules so far are nearest to the average file: else small
    sets would be full of the large libraries that everybody needs, and no growth could be seen.
    """
    sizes = {name: module.path.stat().st_size for name, module in kernel.tree.modules.items()}
    wholes = {name: [*kernel.tree.modules[name].depends, name] for name in seeds}
    left = [name for name in seeds if bad.isdisjoint(wholes[name])]
    average = sum(sizes[name] for name in left) / max(len(left), 1)
    chosen: dict[str, None] = {}
    total = 0

    def miss(name: str) -> float:
        added = [module for module in wholes[name] if module not in chosen]
        count, after = len(chosen) + len(added), total + sum(sizes[module] for module in added)
        return abs(after / count - average)

    while left and len(chosen) < size:
        name = min(left[:_LOOK_AHEAD], key=miss)
        left.remove(name)
        total += sum(sizes[module] for module in wholes[name] if module not in chosen)
        chosen |= dict.fromkeys(wholes[name])
        left = [other for other in left if other not in chosen] if len(wholes[name]) > 1 else left
    return list(chosen)[:size]
