"""modprobe.d for builds on the host: options, blacklists and softdeps that modprobe will never apply to merged modules.

The rules are modprobe.d(5)'s: a file of an earlier folder hides those of the same name in later ones; files count in
the order of their names; a backslash at the end of a line continues it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import Location, MegamodError, fail
from megamod.common.text import canonical, shorten
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

_COMMANDS = ("options", "blacklist", "softdep", "install", "alias", "remove", "config", "include", "weakdep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A module parameter: *module* in canonical spelling, *value* as the kernel's parser wants it.

    *optional* (written `?module`) says that the module need not exist. *lenient*: it is modprobe.d's, where a mistake
    costs a module on its own nothing, or that module alone; so it is a note and not an error.
    """

    module: str
    parameter: str
    value: str
    location: Location
    optional: bool = False
    lenient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModprobeConfig:
    """What modprobe.d says. *blacklist* and *installs* (modules with a command of their own) map to the place."""

    options: tuple[Option, ...] = ()
    blacklist: Mapping[str, Location]
    installs: Mapping[str, Location]
    softdeps: Mapping[str, Softdep]


def host_config(root: Path = Path("/")) -> ModprobeConfig:
    """The configuration of the system below *root*; raises MegamodError for a file that cannot be read."""
    return read_config([root / folder for folder in HOST_FOLDERS])


def read_config(folders: Iterable[Path]) -> ModprobeConfig:
    """The configuration in the `*.conf` files of *folders*."""
    options: dict[tuple[str, str], Option] = {}
    blacklist: dict[str, Location] = {}
    installs: dict[str, Location] = {}
    softdeps: dict[str, Softdep] = {}
    for path in _files(folders):
        for place, words, rest in _lines(path):
            command, name = words[0], canonical(words[1])
            if command == "options":
                for option in _options(name, rest, place):
                    # modprobe passes all of them on, and in the kernel the last of equal ones stays.
                    options[option.module, canonical(option.parameter)] = option
            elif command == "blacklist":
                blacklist.setdefault(name, place)
            elif command == "install":
                installs.setdefault(name, place)
            elif command == "softdep" and name not in softdeps:
                softdeps[name] = parse_softdep(words[2:])
    return ModprobeConfig(options=tuple(options.values()), blacklist=blacklist, installs=installs, softdeps=softdeps)


def _files(folders: Iterable[Path]) -> list[Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name.endswith(".conf") and path.name != OWN_FILE:
                    found.setdefault(path.name, path)
        except OSError as error:
            raise MegamodError(f"{folder}: {error.strerror or error}") from None
    return [found[name] for name in sorted(found)]


def _lines(path: Path) -> Iterator[tuple[Location, list[str], str]]:
    """(place, words, the text after the second word) of each command."""
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror or error}") from None
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        whole, pending = (pending + line).strip(), ""
        if not whole or whole.startswith("#"):
            continue
        place = Location(file=str(path), line=start, column=1)
        words = whole.split()
        if words[0] not in _COMMANDS or len(words) < 2:
            raise fail(place, f"`{shorten(whole)}` is no command of modprobe.d")
        yield place, words, whole.split(None, 2)[2] if len(words) > 2 else ""


def _options(module: str, text: str, place: Location) -> Iterator[Option]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise fail(place, f"options {module}: {error}") from None
    for word in words:
        parameter, equals, value = word.partition("=")
        if not parameter:
            raise fail(place, f"options {module}: `{shorten(word)}` is no parameter=value")
        # A bare word is a switch: parse_one (kernel/params.c, 6.1) gives it to the parameter without a value, and
        # param_set_bool takes none for Y.
        yield Option(
            module=module,
            parameter=parameter,
            value=value if equals else "Y",
            location=place,
            optional=True,
            lenient=True,
        )
