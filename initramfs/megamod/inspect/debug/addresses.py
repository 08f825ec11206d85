"""Where megamodules lie in a running kernel's memory, from what can be copied off it.

Sources: the folder /sys/module or a part of it, copied (``cp -r`` works as root); text: what ``grep -r .`` prints of
``/sys/module/NAME/sections``, or /proc/modules, whose address is that of the module's text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from megamod.build.link_map import LinkMap, Megamap
from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.inspect.debug.places import Loaded, Places, loaded_at

_HIDDEN = "read it as root: the kernel shows addresses to nobody else (kptr_restrict, kernel/kallsyms.c)"
_SECTION = re.compile(r"(?:.*/)?(?P<module>\w+)/sections/(?P<section>[^:\s]+)[:\s]\s*(?P<address>0x[0-9a-f]+)\s*")
_MODULE = re.compile(r"(?P<module>\w+) \d+ \S+ \S+ \w+ (?P<address>0x[0-9a-f]+)(?: .*)?")
_BASE = re.compile(r"(?:(?P<module>\w+)=)?(?P<address>(?:0x)?[0-9a-fA-F]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Addresses by module: of its text, of its sections."""

    bases: dict[str, int]
    sections: dict[str, dict[str, int]]


def load_addresses(link_map: LinkMap, *, sections: Path | None = None, base: str | None = None) -> dict[str, Loaded]:
    """The megamodules of the map whose addresses are given, by name.

    *sections* is a folder or a text file, as above; *base* ``NAME=ADDRESS``, or an address if there is one megamodule.
    """
    found = _Found(bases={}, sections={})
    if sections is not None:
        if sections.is_dir():
            _read_folder(sections, link_map, found)
        else:
            text = sys.stdin.read() if str(sections) == "-" else read_file(sections).decode("utf-8", "replace")
            parse_addresses(text, found.bases, found.sections)
        if not link_map.megamodules.keys() & (found.bases.keys() | found.sections.keys()):
            raise MegamodError(
                f"{sections}: no address of {', '.join(link_map.megamodules) or 'any megamodule'}",
                hint="give /sys/module/NAME/sections, or what grep -r . prints of it, or /proc/modules",
            )
    if base is not None:
        name, address = _parse_base(base, link_map)
        found.bases[name] = address
    loaded = {}
    for name, megamodule in link_map.megamodules.items():
        places = Places(megamodule)
        if name in found.sections:
            loaded[name] = Loaded(places, _checked(found.sections[name], megamodule, str(sections)))
        elif name in found.bases:
            loaded[name] = loaded_at(places, _shown(found.bases[name], name))
    return loaded


def parse_addresses(text: str, bases: dict[str, int], sections: dict[str, dict[str, int]]) -> None:
    """Fill in what lines of /proc/modules and of /sys/module/NAME/sections say; others mean nothing."""
    for line in text.splitlines():
        if match := _SECTION.fullmatch(line):
            sections.setdefault(match["module"], {})[match["section"]] = int(match["address"], 16)
        elif match := _MODULE.fullmatch(line):
            bases[match["module"]] = int(match["address"], 16)


def _read_folder(folder: Path, link_map: LinkMap, found: _Found) -> None:
    """/sys/module, /sys/module/NAME or /sys/module/NAME/sections, or a copy of any."""
    for name, megamodule in link_map.megamodules.items():
        only = len(link_map.megamodules) == 1
        homes = [folder / name, *([folder] if only or folder.absolute().name == name else [])]
        if folder.absolute().parent.name == name:
            homes.append(folder.parent)
        for home in homes:
            place = home / "sections" if (home / "sections").is_dir() else None
            if place is None and home == folder and (folder / ".text").is_file():
                place = folder
            if place is None:
                continue
            _check_build_id(home / "notes/.note.gnu.build-id", megamodule)
            found.sections[name] = {
                file.name: int(text, 16)
                for file in sorted(place.iterdir())
                if re.fullmatch(r"0x[0-9a-f]+", text := read_file(file).decode("utf-8", "replace").strip())
            }
            break


def _check_build_id(note: Path, megamodule: Megamap) -> None:
    if not note.is_file():
        return
    found = read_file(note)[16:].hex()
    if found != megamodule.build_id:
        raise MegamodError(
            f"{note}: build id {found}, the map is of {megamodule.name} {megamodule.build_id}",
            hint="take the map that was written with the image that runs",
        )


def _checked(sections: Mapping[str, int], megamodule: Megamap, source: str) -> dict[str, int]:
    """The sections that the map knows; an error if they cannot be those of this megamodule."""
    known = {output.name: output for output in megamodule.outputs}
    found = {name: address for name, address in sections.items() if name in known}
    for name, address in found.items():
        _shown(address, f"{megamodule.name}: {name}")
        if address % max(known[name].align, 1):
            raise MegamodError(
                f"{source}: {megamodule.name}: {name} at {address:#x}, which is not a multiple of {known[name].align}",
                hint="is the map of another build?",
            )
    rows = sorted((address, known[name].size, name) for name, address in found.items() if known[name].size)
    for (start, size, name), (following, _size, other) in pairwise(rows):
        # What is freed after the init may have been given to somebody else, but not to a section of the same module.
        if start + size > following:
            raise MegamodError(
                f"{source}: {megamodule.name}: {name} with its {size:#x} bytes reaches into {other}",
                hint="is the map of another build?",
            )
    return found


def _shown(address: int, what: str) -> int:
    if address == 0:
        raise MegamodError(f"{what}: its address is hidden (0)", hint=_HIDDEN)
    return address


def _parse_base(text: str, link_map: LinkMap) -> tuple[str, int]:
    match = _BASE.fullmatch(text)
    if match is None:
        raise MegamodError(f"--base {text}: must be [NAME=]ADDRESS", hint="--base megamod_critical=0xffffffffc0200000")
    name = match["module"] or (next(iter(link_map.megamodules)) if len(link_map.megamodules) == 1 else None)
    if name is None or name not in link_map.megamodules:
        names = ", ".join(link_map.megamodules)
        raise MegamodError(f"--base {text}: of which megamodule?", hint=f"--base NAME=ADDRESS; the map has {names}")
    return name, int(match["address"], 16)
