"""The map of an image: written next to it by the build, read here by whatever carries addresses back.

Its form is `MapDocument`; the map that `megamod prelink --map` writes is one `MegamoduleMap` and is read too. Schemas
for other programs: initramfs/docs/schemas/map.json and megamodule-map.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megamod.common.documents import check_version, document_bytes, parse_json, typed, version_of
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write, read_file
from megamod.prelink.map_form import GLUE, Chunk, Function, MapMember, MegamoduleMap, Output

__all__ = [
    "GLUE",
    "Chunk",
    "Function",
    "LinkMap",
    "MapDocument",
    "MapMember",
    "Megamap",
    "Output",
    "map_bytes",
    "parse_map",
    "read_map",
    "write_map",
]

_HINT = "was the map made by another version of megamod?"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapDocument:
    """The map of an image. kernel: its release; megamodules: by name."""

    version: Literal[1] = 1
    kernel: str
    profile: str
    megamodules: Mapping[str, MegamoduleMap]


@dataclass(frozen=True, slots=True, kw_only=True)
class Megamap:
    """Where everything of one megamodule lies. functions: by (member, input section's index), sorted by value; member
    GLUE is what the prelinker added."""

    name: str
    machine: str
    build_id: str
    members: tuple[MapMember, ...]
    outputs: tuple[Output, ...]
    chunks: tuple[Chunk, ...]
    functions: Mapping[tuple[int, int], tuple[Function, ...]]

    def member_name(self, number: int) -> str:
        """The member's name; the glue's is the megamodule's own."""
        return self.members[number].name if number >= 0 else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMap:
    """All megamodules of an image. source: the file, for messages; kernel: "" if the map does not say."""

    source: str
    kernel: str
    profile: str
    megamodules: Mapping[str, Megamap]


def map_bytes(*, kernel: str, profile: str, megamodules: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The file for the maps that the linker has made; the same input gives the same bytes."""
    version = version_of(MapDocument)
    value = {"version": version, "kernel": kernel, "profile": profile, "megamodules": dict(megamodules)}
    return document_bytes(value, indent=None)


def write_map(path: Path, *, kernel: str, profile: str, megamodules: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the file by itself, whole or not at all; a build writes it together with its image."""
    atomic_write(path, map_bytes(kernel=kernel, profile=profile, megamodules=megamodules))


def read_map(path: Path) -> LinkMap:
    """Read and check a map; raises MegamodError with file and place for anything that is not one."""
    return parse_map(read_file(path), source=str(path))


def parse_map(data: bytes, *, source: str) -> LinkMap:
    """`read_map` of bytes."""
    value = parse_json(data, source=source, hint="megamod build writes the map as IMAGE.map")
    check_version(value, MapDocument, source=source)
    if "chunks" in value:
        only = _megamap(typed(value, MegamoduleMap, source=source, hint=_HINT), source, "")
        return LinkMap(source=source, kernel="", profile="", megamodules={only.name: only})
    found = {}
    items = value.get("megamodules")
    for name, item in items.items() if isinstance(items, dict) else ():
        place = f"megamodules.{name}"
        found[name] = _megamap(typed(item, MegamoduleMap, source=source, place=place, hint=_HINT), source, f"{place}.")
        if found[name].name != name:
            raise MegamodError(f"{source}: {place}: is called {found[name].name} inside")
    # Each megamodule was read above, where its name is known for messages.
    outer = typed({**value, "megamodules": {}} if found else value, MapDocument, source=source, hint=_HINT)
    return LinkMap(source=source, kernel=outer.kernel, profile=outer.profile, megamodules=found)


def _megamap(read: MegamoduleMap, source: str, place: str) -> Megamap:
    """*read* with what no type tells: that members and output sections are there, and chunks lie inside of them."""
    sizes = {output.name: output.size for output in read.outputs}
    for number, chunk in enumerate(read.chunks):
        at = f"{source}: {place}chunks[{number}]"
        _check_member(chunk.member, read, at)
        if chunk.output not in sizes:
            raise MegamodError(f"{at}.output: there is no output section {chunk.output}")
        if chunk.offset + chunk.size > sizes[chunk.output]:
            end = f"{chunk.offset:#x}+{chunk.size:#x}"
            raise MegamodError(f"{at}: {end} is outside {chunk.output}, {sizes[chunk.output]:#x} bytes")
    for number, section in enumerate(read.functions):
        _check_member(section.member, read, f"{source}: {place}functions[{number}]")
    return Megamap(
        name=read.name,
        machine=read.machine,
        build_id=read.build_id,
        members=tuple(read.members),
        outputs=tuple(read.outputs),
        chunks=tuple(read.chunks),
        functions={(section.member, section.index): tuple(section.symbols) for section in read.functions},
    )


def _check_member(number: int, read: MegamoduleMap, at: str) -> None:
    if number >= len(read.members):
        raise MegamodError(f"{at}.member: there is no member {number}")
