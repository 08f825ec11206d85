"""The form of the map of one megamodule: what `make_map` writes and all readers of a map get.

The schema for other programs is initramfs/docs/schemas/megamodule-map.json. Numbers are bytes, if not said otherwise;
`member` is a position in *members*, or GLUE for what the prelinker added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import msgspec

from megamod.common.documents import Count

GLUE = -1

MemberNumber = Annotated[int, msgspec.Meta(ge=GLUE)]


class Function(NamedTuple):
    """A function symbol of a member: offset in its input section, size (0: not known); an array in the file."""

    value: Count
    size: Count
    name: str


class UnwindGroup(NamedTuple):
    """A group of the sorted unwind table: its output section, its number of entries; an array in the file."""

    output: str
    entries: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """How the megamodule was linked, as in PrelinkOptions."""

    unwind: str
    tracing: str
    symbols: str
    static_calls: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MapMember:
    """A member. build_id in hexadecimal digits and srcversion are "" without one; depends: the members it needs; init:
    whether it has an init function."""

    name: str
    file: str
    build_id: str
    srcversion: str = ""
    depends: list[str] = field(default_factory=list)
    init: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An output section. code: the kernel puts it into the memory of the module's text."""

    name: str
    size: Count
    align: Count
    code: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """An input section's place: bytes into its output section, and size. index: its section header."""

    member: MemberNumber
    section: str
    index: Count
    output: str
    offset: Count
    size: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """An input section that is not in the megamodule as it was, and why; ``rebuilt``: the prelinker made it again."""

    member: MemberNumber
    section: str
    index: Count
    size: Count
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionFunctions:
    """The function symbols of one input section, sorted by value."""

    member: MemberNumber
    index: Count
    symbols: list[Function]


@dataclass(frozen=True, slots=True, kw_only=True)
class MegamoduleMap:
    """The map of one megamodule: members in init order, output sections in the file's order, the groups of the sorted
    unwind table in its order. kernel_build_id: of the one kernel that its imports are bound for, "" if for any."""

    version: Literal[1] = 1
    name: str
    machine: str
    build_id: str
    kernel_build_id: str
    options: MapOptions
    members: list[MapMember]
    outputs: list[Output]
    chunks: list[Chunk]
    dropped: list[Dropped]
    unwind: list[UnwindGroup]
    functions: list[SectionFunctions]
