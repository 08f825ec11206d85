"""The map of an image: written beside it by the build, read here by whatever carries addresses back.

Form (JSON): ``{"version": 1, "kernel": RELEASE, "profile": NAME, "megamodules": {NAME: …}}``, each megamodule as
prelink/mapfile.py describes it. The map that `megamod prelink --map` writes is one such megamodule and is read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write, read_file

VERSION = 1
GLUE = -1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function symbol of a member: offset in its input section, size in bytes (0: not known)."""

    value: int
    size: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An output section. code: the kernel puts it into the memory of the module's text."""

    name: str
    size: int
    align: int
    code: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """An input section's place: bytes into its output section, and size."""

    member: int
    section: str
    index: int
    output: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MapMember:
    """A member; build_id in hex, "" without one."""

    name: str
    file: str
    build_id: str


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
    value = {"version": VERSION, "kernel": kernel, "profile": profile, "megamodules": megamodules}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def write_map(path: Path, *, kernel: str, profile: str, megamodules: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the file by itself, whole or not at all; a build writes it together with its image."""
    atomic_write(path, map_bytes(kernel=kernel, profile=profile, megamodules=megamodules))


def read_map(path: Path) -> LinkMap:
    """Read and check a map; raises MegamodError with file and place for anything that is not one."""
    return parse_map(read_file(path), source=str(path))


def parse_map(data: bytes, *, source: str) -> LinkMap:
    """`read_map` of bytes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        hint = "megamod build writes IMAGE.map beside IMAGE"
        raise MegamodError(f"{source}: no map: {error}", hint=hint) from None
    reader = _Reader(source=source)
    if not isinstance(value, dict) or "version" not in value:
        reader.fail("", "no map: it has no version")
    if value["version"] != VERSION:
        reader.fail("version", f"{value['version']!r} is not known, only {VERSION} is", hint="use a newer megamod")
    if "chunks" in value:
        only = reader.megamap(value, "")
        return LinkMap(source=source, kernel="", profile="", megamodules={only.name: only})
    found = {}
    for name, item in reader.get(value, "megamodules", dict, "").items():
        found[name] = reader.megamap(reader.of(item, dict, f"megamodules.{name}"), f"megamodules.{name}.")
        if found[name].name != name:
            reader.fail(f"megamodules.{name}", f"calls itself {found[name].name}")
    return LinkMap(
        source=source,
        kernel=reader.get(value, "kernel", str, ""),
        profile=reader.get(value, "profile", str, ""),
        megamodules=found,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Takes the JSON apart; places in messages are paths like ``chunks[3].size``."""

    source: str

    def fail(self, where: str, what: str, *, hint: str | None = None) -> NoReturn:
        raise MegamodError(f"{self.source}: {where}{': ' if where else ''}{what}", hint=hint)

    def of(self, value: Any, kind: type[_T], where: str) -> _T:
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            names = {dict: "an object", list: "a list", str: "a text", int: "a number", bool: "true or false"}
            self.fail(where, f"{names[kind]} is needed")
        if isinstance(value, int) and value < -1:
            self.fail(where, f"{value} is out of range")
        return value

    def get(self, value: Mapping[str, Any], key: str, kind: type[_T], where: str) -> _T:
        if key not in value:
            self.fail(f"{where}{key}", "is missing", hint="was the map made by another version of megamod?")
        return self.of(value[key], kind, f"{where}{key}")

    def rows(self, value: Mapping[str, Any], key: str, where: str) -> list[tuple[str, dict[str, Any]]]:
        items = self.get(value, key, list, where)
        places = [f"{where}{key}[{number}]" for number in range(len(items))]
        return [(f"{place}.", self.of(item, dict, place)) for place, item in zip(places, items, strict=True)]

    def megamap(self, value: Mapping[str, Any], at: str) -> Megamap:
        members = tuple(
            MapMember(
                name=self.get(row, "name", str, where),
                file=self.get(row, "file", str, where),
                build_id=self.get(row, "build_id", str, where),
            )
            for where, row in self.rows(value, "members", at)
        )
        outputs = tuple(
            Output(
                name=self.get(row, "name", str, where),
                size=self.get(row, "size", int, where),
                align=self.get(row, "align", int, where),
                code=self.get(row, "code", bool, where),
            )
            for where, row in self.rows(value, "outputs", at)
        )
        sizes = {output.name: output.size for output in outputs}
        functions: dict[tuple[int, int], tuple[Function, ...]] = {}
        for where, row in self.rows(value, "functions", at):
            number = self._member(row, where, members)
            listed = tuple(self._function(item, where) for item in self.get(row, "symbols", list, where))
            functions[number, self.get(row, "index", int, where)] = listed
        return Megamap(
            name=self.get(value, "name", str, at),
            machine=self.get(value, "machine", str, at),
            build_id=self.get(value, "build_id", str, at),
            members=members,
            outputs=outputs,
            chunks=tuple(self._chunk(row, where, members, sizes) for where, row in self.rows(value, "chunks", at)),
            functions=functions,
        )

    def _member(self, row: Mapping[str, Any], where: str, members: tuple[MapMember, ...]) -> int:
        number = self.get(row, "member", int, where)
        if number >= len(members):
            self.fail(f"{where}member", f"there is no member {number}")
        return number

    def _function(self, item: Any, where: str) -> Function:
        match item:
            case [int(value), int(size), str(name)] if value >= 0 and size >= 0:
                return Function(value=value, size=size, name=name)
        self.fail(f"{where}symbols", "[value, size, name] is needed")

    def _chunk(
        self, row: Mapping[str, Any], where: str, members: tuple[MapMember, ...], sizes: Mapping[str, int]
    ) -> Chunk:
        output = self.get(row, "output", str, where)
        if output not in sizes:
            self.fail(f"{where}output", f"there is no output section {output}")
        place, size = self.get(row, "offset", int, where), self.get(row, "size", int, where)
        if place < 0 or size < 0 or place + size > sizes[output]:
            self.fail(where.rstrip("."), f"{place:#x}+{size:#x} is outside {output}, {sizes[output]:#x} bytes")
        return Chunk(
            member=self._member(row, where, members),
            section=self.get(row, "section", str, where),
            index=self.get(row, "index", int, where),
            output=output,
            offset=place,
            size=size,
        )
