"""Which modules of a generator's image go into the megamodule, and which the generator has missed.

Needs the module files in the image and the machine. The set is what this machine asks for among what the generator
took: loading a driver for every disk controller there is, because an image is general, would cost more than it saves
and leave traces (an empty floppy, a bus without devices). What stays an ordinary file is loaded by udev, as ever.

On a system that was booted this way the mask hides members from the generator: modprobe prints no path for them, and
their softdeps are empty. So what runs as a member counts as taken by the generator, and what the image's modules need
is read from modules.dep here, never asked of modprobe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.text import canonical
from megamod.hooks.contained import inside
from megamod.machine.detect import closure, detect
from megamod.machine.device_path import device_modules, label
from megamod.machine.machine import Machine
from megamod.modules.modprobe_d import OWN_FILE, ModprobeConfig
from megamod.modules.tree import ModuleTree, module_name, read_index

# Where the generators write what is to be loaded by name, without a device that asks for it.
_FORCED = ("conf/modules", "etc/modules-load.d", "usr/lib/modules-load.d", "lib/modules-load.d", "run/modules-load.d")
_DRIVER_WORD = re.compile(r"\brd\.driver\.(?:pre|post)=(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageModules:
    """The module files below *folder* (lib/modules/KVER in an image root) by canonical name."""

    root: Path
    folder: Path
    files: Mapping[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """*merge*: module → reason. *missed*: modules that the image needs and the generator left out."""

    merge: Mapping[str, str]
    missed: tuple[str, ...]


def read_image_modules(root: Path, release: str) -> ImageModules:
    """The modules that a generator has put into the image root *root*; raises MegamodError if there is no folder."""
    for place in ("lib/modules", "usr/lib/modules"):
        folder = inside(root, f"{place}/{release}")
        if folder.is_dir():
            # Links are not followed: on a merged /usr the same file would be found twice.
            found = {
                name: path
                for path in sorted(folder.rglob("*.ko*"))
                if path.is_file() and (name := module_name(path.name)) is not None
            }
            return ImageModules(root=root, folder=folder, files=found)
    raise MegamodError(f"{root}: no lib/modules/{release} in it", hint="run this from the generator's hook")


def chosen_modules(root: Path, tree: ModuleTree, files: Iterable[Path]) -> ImageModules:
    """The same from a list of *files* that the generator is going to copy to where they are on this machine."""
    named = {name: path for path in files if (name := module_name(path.name)) is not None}
    return ImageModules(root=root, folder=root / "usr/lib/modules" / tree.release, files=named)


def choose(
    image: ImageModules, tree: ModuleTree, config: ModprobeConfig, machine: Machine | None, *, everything: bool
) -> Choice:
    """What to merge of *image*; *machine* is the one that the image is for (None: not known), *everything* takes all.

    Raises MegamodError where what the machine's root needs cannot be told.
    """
    up = members_that_run(machine) & tree.modules.keys() if machine else frozenset()
    taken = (image.files.keys() & tree.modules.keys()) | up
    if everything:
        merge = dict.fromkeys(sorted(taken), "in the image")
    else:
        assert machine is not None
        merge = {}
        for name, why in _wanted(image, tree, config, machine, taken):
            merge.setdefault(name, why)
    missed: set[str] = set()
    if up:
        missed = closure(tree, {*(image.files.keys() & tree.modules.keys()), *merge}) - image.files.keys()
    return Choice(merge=merge, missed=tuple(sorted(missed)))


def members_that_run(machine: Machine) -> frozenset[str]:
    """The members that a megamodule has up on *machine*, by the loader's mask."""
    lines = machine.text(f"run/modprobe.d/{OWN_FILE}").splitlines()
    return frozenset(
        words[1] for line in lines if (words := line.split())[:1] == ["install"] and words[2] == "/bin/true"
    )


def _wanted(
    image: ImageModules, tree: ModuleTree, config: ModprobeConfig, machine: Machine, taken: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """(module, reason): the way to the root first, then what is loaded by name, then what devices ask for.

    Without the former there is no boot, so it is merged whatever the generator took; a console's or a keyboard's driver
    that it left out stays out.
    """
    detection = detect(machine, tree)
    inside = frozenset(taken)
    for found in detection.critical:
        if found.name in detection.root or found.name in inside:
            yield found.name, found.why
    for name in forced(image.root):
        yield from ((found, f"{name} is loaded by name") for found in tree.resolve(name)[0] if found in inside)
    for folder, _modalias in machine.modaliases():
        for name in device_modules(machine, tree, folder):
            if name in inside and name not in config.blacklist:
                yield name, f"for {label(machine, folder)}"


def forced(root: Path) -> list[str]:
    """The modules that an image loads by name, options cut off."""
    names: list[str] = []
    for place in _FORCED:
        path = inside(root, place)
        files = sorted(path.glob("*.conf")) if path.is_dir() else [path]
        for file in files:
            lines = (line.strip() for line in read_index(inside(root, file.relative_to(root))).splitlines())
            names += [line.split()[0] for line in lines if line and line[0] not in "#;"]
    for file in sorted(inside(root, "etc/cmdline.d").glob("*.conf")):
        text = read_index(inside(root, file.relative_to(root)))
        names += [name for word in _DRIVER_WORD.findall(text) for name in word.split(",") if name]
    return [canonical(name) for name in dict.fromkeys(names)]
