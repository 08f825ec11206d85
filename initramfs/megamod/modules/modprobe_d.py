"""modprobe.d for builds on the host: options, blacklists and softdeps that modprobe will never apply to merged modules.

Read as kmod reads it, and as tolerant: a line that it passes over is a note. A file of an earlier folder hides those of
the same name in later ones; files count in the order of their names, and modules.softdep among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from megamod.common.errors import Location, MegamodError
from megamod.common.text import canonical, listed
from megamod.modules.modprobe_lines import BadLine, Line, argument_words, read_lines
from megamod.modules.tree import Softdep, parse_softdep

HOST_FOLDERS = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)
"""Below the root, the first one first (default_config_paths, libkmod/libkmod.c, kmod 30)."""

OWN_FILE = "megamod.conf"
"""The loader's mask of modules that are loaded already (/run/modprobe.d); it says nothing about the next image."""

_INDEX = "modules.softdep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A module parameter: *module* in canonical spelling, *value* as the kernel's parser wants it.

    *optional* (written `?module`) says that the module need not exist. *lenient*: it is modprobe.d's, where a mistake
    costs a module on its own nothing, or that module alone; so it is a note and not an error. *bare*: the parameter
    stands alone, which is a value for few (parse_one(), kernel/params.c).
    """

    module: str
    parameter: str
    value: str
    location: Location
    optional: bool = False
    lenient: bool = False
    bare: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallCommand:
    """What modprobe runs in place of loading the modules that *pattern* matches."""

    pattern: str
    command: str
    location: Location

    @property
    def keeps_out(self) -> bool:
        """Whether the command does nothing but end, so that the module is never loaded."""
        words = self.command.split()
        return len(words) == 1 and PurePosixPath(words[0]).name in ("false", "true", ":")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternSoftdep:
    """The softdep of the modules that *pattern* matches; *first*: its file is read before the kernel's
    modules.softdep, and of two the first counts."""

    pattern: str
    softdep: Softdep
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModprobeConfig:
    """What modprobe.d says. *blacklist* maps to the place; *notes* are about what modprobe passes over, too."""

    options: tuple[Option, ...] = ()
    blacklist: Mapping[str, Location]
    installs: tuple[InstallCommand, ...] = ()
    softdeps: tuple[PatternSoftdep, ...] = ()
    notes: tuple[str, ...] = ()

    def install(self, name: str) -> InstallCommand | None:
        """The command that modprobe runs for the module *name*, the first one that fits."""
        return next((one for one in self.installs if fnmatchcase(name, one.pattern)), None)

    def softdep(self, name: str, indexed: Softdep | None) -> Softdep:
        """The soft dependencies of the module *name*, of which modules.softdep says *indexed*."""
        own = next((one for one in self.softdeps if fnmatchcase(name, one.pattern)), None)
        if own is not None and (own.first or indexed is None):
            return own.softdep
        return indexed or Softdep()


def host_config(root: Path = Path("/")) -> ModprobeConfig:
    """The configuration of the system below *root*."""
    return read_config([root / folder for folder in HOST_FOLDERS])


def read_config(folders: Iterable[Path]) -> ModprobeConfig:
    """The configuration in the `*.conf` files of *folders*; raises MegamodError for a folder that cannot be read."""
    lines: list[Line] = []
    bad: list[BadLine] = []
    for path in _files(folders):
        try:
            text = path.read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            place = Location(file=str(path), line=1, column=1)
            bad.append(BadLine(text=error.strerror or str(error), location=place))
            continue
        for line in read_lines(text, str(path)):
            if isinstance(line, Line):
                lines.append(line)
            else:
                bad.append(line)
    blacklist: dict[str, Location] = {}
    for line in lines:
        if line.command == "blacklist":
            blacklist.setdefault(line.name, line.location)
    return ModprobeConfig(
        options=_options(lines),
        blacklist=blacklist,
        installs=tuple(
            InstallCommand(pattern=line.name, command=line.rest.strip(), location=line.location)
            for line in lines
            if line.command == "install"
        ),
        softdeps=tuple(
            PatternSoftdep(
                pattern=line.name,
                softdep=parse_softdep(line.rest.split()),
                first=PurePosixPath(line.location.file).name < _INDEX,
            )
            for line in lines
            if line.command == "softdep"
        ),
        notes=_notes(bad),
    )


def _notes(bad: Iterable[BadLine]) -> tuple[str, ...]:
    found = [f"{one.location.file}:{one.location.line} `{one.text}`" for one in bad]
    return (f"passed over, as modprobe does: {listed(found)}",) if found else ()


def _files(folders: Iterable[Path]) -> list[Path]:
    """As conf_files_list() and conf_files_filter_out() find them (libkmod/libkmod-config.c)."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            for path in folder.iterdir() if folder.is_dir() else ():
                named = path.name.endswith(".conf") and not path.name.startswith(".") and path.name != OWN_FILE
                # A link that leads nowhere, and a folder, hide nothing.
                if named and path.exists() and not path.is_dir():
                    found.setdefault(path.name, path)
        except OSError as error:
            raise MegamodError(f"{folder}: {error.strerror or error}") from None
    return [found[name] for name in sorted(found)]


def _options(lines: Iterable[Line]) -> tuple[Option, ...]:
    """modprobe passes all options of a module on in turn, and in the kernel the last of equal ones stays."""
    options: dict[tuple[str, str], Option] = {}
    ended: set[str] = set()
    for line in lines:
        if line.command != "options" or line.name in ended:
            continue
        for parameter, value in argument_words(line.rest):
            options.pop((line.name, canonical(parameter)), None)
            options[line.name, canonical(parameter)] = Option(
                module=line.name,
                parameter=parameter,
                value="Y" if value is None else value,
                bare=value is None,
                location=line.location,
                lenient=True,
            )
        if _has_end(line.rest):
            ended.add(line.name)
    return tuple(options.values())


def _has_end(text: str) -> bool:
    """Whether a lone `--` ends what the kernel looks at, in the options that follow, too."""
    return "--" in text and len(list(argument_words(f"{text} x"))) == len(list(argument_words(text)))
