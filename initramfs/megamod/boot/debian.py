"""Debian's kernels, unpacked in the cache and never installed, and the kernel of this machine.

Needs Debian's package tools and kmod. Guarantees that a folder of the cache is whole or not there (it is filled under
another name first), that `Kernel.modules` has depmod's indexes, and that a suite fetched once works offline.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.apt import Apt, Dependency, Package, find_package, host_architecture, open_apt, unpack, update
from megamod.common.errors import MegamodError
from megamod.common.host import file_lock, find_program, run_program

MAX_AGE_DAYS = 7.0
_MARKER = ".megamod-complete"
QEMU_NAMES = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "arm"}
# The flavour for all machines of an architecture, where it is not called like it.
_FLAVOURS = {"armhf": "armmp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An unpacked kernel: *modules* is its ``lib/modules/RELEASE``, *architecture* Debian's name (``amd64``)."""

    release: str
    modules: Path
    vmlinuz: Path
    config: Path
    architecture: str

    @property
    def arch(self) -> str:
        """QEMU's and the loader's name of the architecture."""
        return QEMU_NAMES.get(self.architecture, self.architecture)


def fetch_kernel(
    suite: str,
    *,
    flavour: str | None = None,
    architecture: str | None = None,
    cache: Path,
    refresh: bool = False,
    max_age_days: float = MAX_AGE_DAYS,
    say: Callable[[str], None] = lambda line: None,
) -> Kernel:
    """The newest kernel ``linux-image-FLAVOUR`` of a Debian suite (``bookworm``, ``bookworm-backports``, ``sid``).

    *architecture* is Debian's name, this machine's by default, *flavour* that of its usual kernel. What the *cache*
    holds is used without the network for *max_age_days* after the last look, longer if the network fails; *refresh*
    looks now. *say* gets a line for each slow step. Raises MegamodError when there is no such kernel, or none can be
    had.
    """
    architecture = architecture or host_architecture()
    tree = _fetch_tree(
        f"linux-image-{flavour or _FLAVOURS.get(architecture, architecture)}",
        suite,
        architecture=architecture,
        cache=cache,
        max_age_days=0 if refresh else max_age_days,
        say=say,
        finish=_index_modules,
    )
    return _kernel_in(tree, _release_in(tree), architecture=architecture)


def fetch_package_files(
    package: str,
    suite: str,
    *,
    architecture: str | None = None,
    cache: Path,
    max_age_days: float = MAX_AGE_DAYS,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """A folder with the files of one Debian package, without what it depends on; otherwise like `fetch_kernel`."""
    return _fetch_tree(
        package,
        suite,
        architecture=architecture or host_architecture(),
        cache=cache,
        max_age_days=max_age_days,
        say=say,
        finish=lambda tree: None,
    )


def host_kernel(*, root: Path = Path("/"), release: str | None = None) -> Kernel | None:
    """The kernel that this machine runs, if its modules, their indexes and its image can be read."""
    release = release or platform.release()
    try:
        kernel = _kernel_in(root, release, architecture=host_architecture())
    except MegamodError:
        return None
    # Debian derivatives exist that make the image readable for root alone.
    readable = os.access(kernel.vmlinuz, os.R_OK) and os.access(kernel.modules / "modules.dep", os.R_OK)
    return kernel if readable else None


def _fetch_tree(
    package: str,
    suite: str,
    *,
    architecture: str,
    cache: Path,
    max_age_days: float,
    say: Callable[[str], None],
    finish: Callable[[Path], None],
) -> Path:
    """The unpacked tree of *package*: from the cache while it is young enough, else looked up and fetched."""
    pointer = cache / "suites" / f"{suite}-{architecture}-{package}.json"
    # Two runs that want the same tree at once: the second waits and finds it.
    with file_lock(pointer.with_suffix(".lock")):
        known, age_days = _known_tree(pointer, cache)
        if known is not None and age_days < max_age_days:
            return known
        try:
            say(f"looking for {package} in {suite}")
            apt = open_apt(suite, architecture=architecture, folder=cache / "apt")
            update(apt)
            packages = _closure(apt, package)
        except MegamodError as error:
            if known is None:
                raise
            say(f"{error.message}: using {known.name} from the cache")
            return known
        tree = cache / "trees" / _tree_name(packages)
        if not (tree / _MARKER).exists():
            say(f"downloading {', '.join(each.name for each in packages)}")
            _make_tree(apt, packages, tree, finish)
        _write_pointer(pointer, tree)
        return tree


def _known_tree(pointer: Path, cache: Path) -> tuple[Path | None, float]:
    """What the last look found, if it is still whole, and how many days ago that was."""
    try:
        text = json.loads(pointer.read_text())
        tree = cache / "trees" / str(text["tree"])
        age_days = (time.time() - float(text["looked"])) / 86400
    except (OSError, ValueError, KeyError, TypeError):
        return None, 0.0
    # A clock that was set back must not keep a tree for ever.
    return (tree if (tree / _MARKER).exists() else None), (age_days if age_days >= 0 else MAX_AGE_DAYS)


def _write_pointer(pointer: Path, tree: Path) -> None:
    temporary = pointer.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"tree": tree.name, "looked": time.time()}))
    temporary.replace(pointer)


def _closure(apt: Apt, name: str) -> list[Package]:
    """The package and the kernel packages that it is split into, the one with the most telling name first.

    A kernel's parts depend on each other by ``linux-… (= version)``: the meta-package on the image, since 2026 the
    image on linux-modules-…, linux-binary-… and linux-base-…. Tools that it needs have no exact version.
    """
    found: dict[str, Package] = {}
    waiting = [Dependency(name=name, version=None)]
    while waiting:
        wanted = waiting.pop(0)
        if wanted.name in found:
            continue
        package = find_package(apt, wanted.name)
        if wanted.version not in (None, package.version):
            raise MegamodError(f"{apt.suite}: {wanted.name} is {package.version} there, {wanted.version} is needed")
        found[package.name] = package
        waiting += [each for each in package.depends if each.name.startswith("linux-") and each.version]
    return sorted(found.values(), key=lambda package: (package.name == name, package.name))


def _tree_name(packages: list[Package]) -> str:
    """``linux-image-6.1.0-50-amd64_6.1.176-1_amd64``; a colon of a version's epoch does not suit a file name."""
    telling = next((each for each in packages if each.name.startswith("linux-image-")), packages[0])
    return f"{telling.name}_{telling.version}_{telling.architecture}".replace(":", "%3a")


def _make_tree(apt: Apt, packages: list[Package], tree: Path, finish: Callable[[Path], None]) -> None:
    """Fill *tree* in a temporary folder beside it, which takes the name when all is there."""
    try:
        tree.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=tree.parent) as temporary:
            scratch, unpacked = Path(temporary) / "debs", Path(temporary) / "tree"
            scratch.mkdir()
            unpacked.mkdir()
            unpack(apt, packages, scratch=scratch, tree=unpacked)
            finish(unpacked)
            (unpacked / _MARKER).write_text("".join(f"{each.name} {each.version}\n" for each in packages))
            # A tree without the marker is left of a run by hand, or of a removal that was stopped.
            if tree.exists():
                shutil.rmtree(tree)
            unpacked.rename(tree)
    except OSError as error:
        raise MegamodError(f"{tree}: {error.strerror}", hint="XDG_CACHE_HOME names another cache folder") from None


def _index_modules(tree: Path) -> None:
    """Run depmod in *tree*; it looks below ``lib/modules`` where kernels of a merged /usr have ``usr/lib/modules``."""
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    run_program([find_program("depmod", package="kmod"), "-b", tree, _release_in(tree)])


def _release_in(tree: Path) -> str:
    releases = [folder.name for folder in sorted((tree / "lib/modules").glob("*")) if (folder / "kernel").is_dir()]
    if len(releases) != 1:
        raise MegamodError(f"{tree}/lib/modules: one kernel's modules expected, found {', '.join(releases) or 'none'}")
    return releases[0]


def _kernel_in(root: Path, release: str, *, architecture: str) -> Kernel:
    """The kernel *release* below *root*: image and config are in /boot or, since 2026, beside the modules."""
    modules = root / "lib/modules" / release
    places = {name: [root / "boot" / f"{name}-{release}", modules / name] for name in ("vmlinuz", "vmlinux", "config")}
    images = [path for path in places["vmlinuz"] + places["vmlinux"] if path.is_file()]
    configs = [path for path in places["config"] if path.is_file()]
    if not (modules / "modules.dep").is_file() or not images or not configs:
        raise MegamodError(f"{root}: no whole kernel {release} (modules with modules.dep, vmlinuz and config)")
    return Kernel(release=release, modules=modules, vmlinuz=images[0], config=configs[0], architecture=architecture)
