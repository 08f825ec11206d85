"""ModuleTree: what the index files of a lib/modules/KVER folder say, without root and without running the kernel.

Needs modules.dep, modules.softdep and modules.alias; without one depmod is run into a temporary folder (depmod.py),
never into the tree. Beside a modules.dep the others are read from the modules where depmod cannot (modinfo.py).
modules.alias and modules.builtin.modinfo are read when an alias is first asked for. Works for a tree of any
architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.text import canonical, did_you_mean, shorten
from megamod.modules.aliases import AliasTable, parse_aliases
from megamod.modules.depmod import INDEXES, overlay_name
from megamod.modules.index_cache import indexes_of
from megamod.modules.kernel_files import KernelFiles, yocto_folders
from megamod.modules.modinfo import indexes_from

UNORDERED = 1 << 30
"""The rank of a module that modules.order does not list: after all others."""

RELEASE_FOLDERS = (Path("/lib/modules"), Path("/usr/lib/modules"))

_MADE = {"modules.softdep": "softdep", "modules.alias": "alias"}
"""Indexes that every depmod writes beside modules.dep, and the key in .modinfo that they copy: where one is missing,
somebody has taken it away."""

_ALIAS = re.compile(r"\s*alias\s+(\S|\S.*\S)\s+(\S+)\s*$")
_MODULE_FILE = re.compile(r"([^/]+)\.ko(?:\.(?:xz|zst|gz))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeModule:
    """One module file. *depends* is the whole closure that modules.dep lists, in the order in which modprobe loads it;
    *order* is the rank in modules.order."""

    name: str
    path: Path
    relpath: str
    depends: tuple[str, ...]
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Softdep:
    """The soft dependencies of a module: names or aliases to be loaded before and after it, if they exist."""

    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()


def parse_softdep(words: Iterable[str]) -> Softdep:
    """What follows the module's name in a softdep line. Words before the first `pre:` or `post:` mean nothing
    (kmod_config_add_softdep, libkmod-config.c, kmod 30)."""
    lists: dict[str, list[str]] = {"pre:": [], "post:": []}
    current: list[str] = []
    for word in words:
        if word in lists:
            current = lists[word]
        else:
            current.append(word)
    return Softdep(pre=tuple(lists["pre:"]), post=tuple(lists["post:"]))


@dataclass(frozen=True, kw_only=True)
class ModuleTree:
    """The modules of one kernel. Names are canonical ('_'); *folder* is lib/modules/KVER, *release* its name.

    *indexes* holds the text of the index files where *folder* has none of its own; *named* are files of the kernel that
    the user has named, of the fields of KernelFiles; *overlays* are folders with more modules for the same kernel.
    """

    release: str
    folder: Path
    modules: Mapping[str, TreeModule]
    indexes: Mapping[str, str]
    named: Mapping[str, Path] = field(default_factory=dict)
    overlays: tuple[Path, ...] = ()

    @cached_property
    def kernel_files(self) -> KernelFiles:
        """Where the kernel's own files lie."""
        return KernelFiles(folder=self.folder, release=self.release, **yocto_folders(), **self.named)

    def _index(self, name: str) -> str:
        return self.indexes[name] if name in self.indexes else read_index(self.folder / name)

    @cached_property
    def builtin(self) -> frozenset[str]:
        """Names of what is linked into the kernel, from modules.builtin and from `NAME.file=` of its modinfo."""
        described = (entry.split(".", 1)[0] for entry in self._builtin_modinfo if ".file=" in entry)
        return frozenset((*self.builtin_paths, *(canonical(name) for name in described)))

    @cached_property
    def builtin_paths(self) -> Mapping[str, str]:
        """Canonical name → "kernel/…/NAME.ko" of modules.builtin."""
        paths = (line.strip() for line in self._index("modules.builtin").splitlines())
        return {name: path for path in paths if (name := module_name(path))}

    @cached_property
    def has_builtin_list(self) -> bool:
        """Whether the tree says at all what is built in."""
        return bool(self.builtin_paths)

    @cached_property
    def softdeps(self) -> Mapping[str, Softdep]:
        """Soft dependencies by canonical module name: every line of modules.softdep, where modprobe takes a module's
        first line only (kmod issue 33) and leaves the rest to the kernel's own request_module."""
        found: dict[str, Softdep] = {}
        for name, words in self._dependency_lines("modules.softdep", "softdep"):
            softdep, old = parse_softdep(words), found.get(name, Softdep())
            found[name] = Softdep(pre=(*old.pre, *softdep.pre), post=(*old.post, *softdep.post))
        return found

    @cached_property
    def weakdeps(self) -> Mapping[str, tuple[str, ...]]:
        """Weak dependencies (modules.weakdep, kmod 33): what a module may ask for later, never loaded beforehand."""
        found: dict[str, tuple[str, ...]] = {}
        for name, words in self._dependency_lines("modules.weakdep", "weakdep"):
            found[name] = (*found.get(name, ()), *words)
        return found

    @cached_property
    def devnames(self) -> Mapping[str, str]:
        """Module → the device node (below /dev) whose opening loads it, from modules.devname."""
        lines = (line.split() for line in self._index("modules.devname").splitlines() if not line.startswith("#"))
        return {canonical(words[0]): words[1] for words in lines if len(words) == 3}

    @cached_property
    def aliases(self) -> AliasTable:
        """The alias patterns of the loadable modules, from modules.alias; modules that are not there are left out."""
        modules = self.modules
        return parse_aliases((alias, module) for alias, module in self._alias_lines() if module in modules)

    @cached_property
    def builtin_aliases(self) -> AliasTable:
        """The alias patterns of what is built in, from modules.builtin.modinfo."""
        pairs = (entry.split(".alias=", 1) for entry in self._builtin_modinfo if ".alias=" in entry)
        return parse_aliases((pattern, canonical(module)) for module, pattern in pairs)

    @cached_property
    def _builtin_modinfo(self) -> tuple[str, ...]:
        return tuple(self._index("modules.builtin.modinfo").split("\0"))

    def _alias_lines(self) -> Iterable[tuple[str, str]]:
        """(alias, canonical module name) of the `alias TEXT MODULE` lines of modules.alias, which has 25,000 of them.

        An alias may hold blanks: sound cards' names of 6.12 do ("mt8183_mt6358_ts3a227_max98357 soc card").
        """
        known: dict[str, str] = {}
        for number, line in enumerate(self._index("modules.alias").splitlines(), 1):
            if (match := _ALIAS.match(line)) is not None:
                alias, name = match.groups()
                if name not in known:
                    known[name] = canonical(name)
                yield alias, known[name]
            elif line.strip() and not line.lstrip().startswith("#"):
                message = f"`{shorten(line)}` is not a line of modules.alias"
                raise broken(self.folder / "modules.alias", number, message)

    def _dependency_lines(self, index: str, keyword: str) -> Iterable[tuple[str, list[str]]]:
        """(canonical module name, other words) of `KEYWORD MODULE WORD…` lines."""
        for number, line in enumerate(self._index(index).splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] != keyword or len(words) < 2:
                raise broken(self.folder / index, number, f"`{shorten(line)}` is not a line of {index}")
            yield canonical(words[1]), words[2:]

    def resolve(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(loadable modules, built-ins) that a module name or alias stands for, both empty if it stands for nothing.

        In modprobe's order (kmod_module_new_from_lookup, libkmod-module.c, kmod 30): a module's name, an alias of
        modules, a built-in's alias, a built-in's name; the first that finds something decides.
        """
        plain = canonical(name)
        if plain in self.modules:
            return (plain,), ()
        if loadable := self.aliases.providers(name):
            return loadable, ()
        if built_in := self.builtin_aliases.providers(name):
            return (), built_in
        return (), (plain,) if plain in self.builtin else ()


def open_tree(
    kernel: str, *, overlays: Iterable[str] = (), release_folders: tuple[Path, ...] = RELEASE_FOLDERS
) -> ModuleTree:
    """The module tree that *kernel* names, with the modules of *overlays*: folders of more modules for that kernel.

    *kernel* is a lib/modules/KVER folder, a folder with one KVER in its lib/modules or usr/lib/modules (an unpacked
    package, a sysroot), or a release name below *release_folders*. Raises MegamodError.
    """
    folder = _find_folder(kernel, release_folders)
    indexes: dict[str, str] = {}
    more = tuple(_overlay(overlay, release_folders) for overlay in overlays)
    dep = read_index(folder / "modules.dep") if not more else ""
    if not dep.strip():
        _refuse_twice((folder, *more))
        indexes = indexes_of(folder, more)
        dep = indexes["modules.dep"]
    order = indexes.get("modules.order") or read_index(folder / "modules.order")
    modules = _parse_dep(folder, dep, _parse_order(order), more)
    if not indexes:
        indexes = _lost_indexes(folder, modules)
    if not modules and not read_index(folder / "modules.builtin").strip():
        hint = "give a lib/modules/KVER folder; one of a kernel with everything built in has modules.builtin"
        raise MegamodError(f"{folder}: it has no kernel modules", hint=hint)
    return ModuleTree(release=folder.resolve().name, folder=folder, modules=modules, indexes=indexes, overlays=more)


def _lost_indexes(folder: Path, modules: Mapping[str, TreeModule]) -> dict[str, str]:
    """What is not there of modules.softdep and modules.alias: a build system may keep modules.dep alone, and they stand
    in the modules themselves. With a modules.dep, a missing depmod, or one that stumbles over a file, stops nothing."""
    lost = {name: keyword for name, keyword in _MADE.items() if not (folder / name).exists()}
    if not lost:
        return {}
    try:
        made = indexes_of(folder)
    except MegamodError:
        return indexes_from(((module.name, module.path) for module in modules.values()), keywords=lost)
    return {name: made[name] for name in lost}


def _overlay(name: str, release_folders: tuple[Path, ...]) -> Path:
    """The folder of an overlay: a vendor's may hold modules and nothing else that shows a module tree."""
    path = Path(name) / "lib/modules" if (Path(name) / "lib/modules").is_dir() else Path(name)
    if path.is_dir() and next(path.rglob("*.ko*"), None) is not None:
        return path
    return _find_folder(name, release_folders)


def _refuse_twice(trees: tuple[Path, ...]) -> None:
    """Raise MegamodError for a module that is in two of the *trees*: depmod would take either."""
    if len(trees) < 2:
        return
    seen: dict[str, Path] = {}
    for tree in trees:
        for path in sorted(tree.rglob("*.ko*")):
            name = module_name(path.name)
            if name is not None and seen.setdefault(name, tree) != tree:
                hint = "leave it out of one of them: only one can be loaded"
                raise MegamodError(f"{path}: the module {name} is in {seen[name]}, too", hint=hint)


def _find_folder(kernel: str, release_folders: tuple[Path, ...]) -> Path:
    path = Path(kernel)
    if not kernel or "\0" in kernel:
        raise MegamodError(
            "the kernel name is empty", hint="give a lib/modules/KVER folder or a release such as 6.1.0-50-amd64"
        )
    if "/" not in kernel:
        for folder in release_folders:
            if (folder / kernel).is_dir():
                return folder / kernel
    if path.is_file():
        raise MegamodError(f"{kernel}: a file, not a lib/modules/KVER folder")
    if not path.is_dir():
        known = [entry.name for folder in release_folders if folder.is_dir() for entry in folder.iterdir()]
        hint = did_you_mean(kernel, known) or (f"here are: {', '.join(sorted(set(known)))}" if known else None)
        raise MegamodError(f"{kernel}: no such folder, and no kernel of that release", hint=hint)
    return _descend(path)


def _descend(path: Path) -> Path:
    """*path*, or the one release folder inside of it."""
    try:
        if any((path / name).exists() for name in (*INDEXES, "kernel", "updates", "extra")):
            return path
        # On a merged /usr both are the same folder.
        inner = {(path / lib).resolve() for lib in ("lib/modules", "usr/lib/modules") if (path / lib).is_dir()}
        inner = inner or ({path} if path.name == "modules" else set())
        found = sorted(entry for folder in inner for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror or error}") from None
    if not found:
        hint = "a lib/modules/KVER folder has modules.dep, or kernel/ with .ko files"
        raise MegamodError(f"{path}: it has no kernel modules", hint=hint)
    if len(found) > 1:
        names = ", ".join(str(entry) for entry in found[:4])
        raise MegamodError(f"{path}: it has more than one kernel", hint=f"name one: {names}")
    return found[0]


def read_index(path: Path) -> str:
    """The text of an index file, "" if there is none; raises MegamodError if it cannot be read."""
    try:
        # Descriptions in modules.builtin.modinfo are free text in any encoding; nothing that is compared is not ASCII.
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror or error}") from None


def broken(path: Path, line: int, message: str) -> MegamodError:
    """The error of a line in an index file."""
    return MegamodError(f"{path}:{line}: {message}", hint="depmod writes this file again")


def module_name(path: str) -> str | None:
    """The canonical name of the module file *path*, None if it is no .ko, .ko.xz, .ko.zst or .ko.gz."""
    match = _MODULE_FILE.search(path)
    return canonical(match.group(1)) if match else None


def _parse_order(text: str) -> dict[str, int]:
    """Path without the compression suffix → rank: modules.order is written before modules are compressed."""
    return {_plain(line.strip()): rank for rank, line in enumerate(text.splitlines())}


def _plain(relpath: str) -> str:
    end = relpath.rfind(".ko")
    return relpath[: end + 3] if end >= 0 else relpath


def _path_of(relpath: str, base: str, overlays: Sequence[Path]) -> Path:
    """The file that an index means by *relpath*."""
    first, _, rest = relpath.partition("/")
    for number, overlay in enumerate(overlays, start=1):
        if first == overlay_name(number):
            return overlay / rest
    return Path(relpath if relpath.startswith("/") else base + relpath)


def _parse_dep(
    folder: Path, text: str, order: Mapping[str, int], overlays: Sequence[Path] = ()
) -> dict[str, TreeModule]:
    index = folder / "modules.dep"
    rows: dict[str, tuple[int, str, list[str]]] = {}
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        relpath, colon, rest = line.partition(":")
        name = module_name(relpath)
        if not colon or name is None:
            raise broken(index, number, f"`{shorten(line)}` is not a `MODULE.ko: DEPENDENCY…` line")
        if name in rows:
            raise broken(index, number, f"{name} is given twice, as {rows[name][1]} and {relpath}")
        rows[name] = (number, relpath, rest.split())
        names[relpath] = name
    base = str(folder) + "/"
    modules: dict[str, TreeModule] = {}
    for name, (number, relpath, dependencies) in rows.items():
        try:
            # The last one of the line is loaded first (kmod_module_parse_depline, libkmod-module.c, kmod 30).
            depends = tuple(names[dependency] for dependency in reversed(dependencies))
        except KeyError as missing:
            raise broken(index, number, f"{name} needs {missing.args[0]}, which has no line of its own") from None
        modules[name] = TreeModule(
            name=name,
            path=_path_of(relpath, base, overlays),
            relpath=relpath,
            depends=depends,
            order=order.get(_plain(relpath), UNORDERED),
        )
    return modules
