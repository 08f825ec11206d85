"""Addresses ↔ places in members: by section and offset, by a symbol as the kernel prints it, by load addresses.

Needs a megamodule's map. Guarantees that what is found lies in the member's own input section, whose offset is what
the member's original file and its debug information go by.

Source: kernel/module/kallsyms.c find_kallsyms_symbol() (6.1): an address is shown with the nearest symbol that has a
name, and the size after the slash is the distance to the next one, not that of the symbol table.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from megamod.build.link_map import Chunk, Function, Megamap


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A byte of a member. index, offset: of the member's input section; function: None outside of every function."""

    megamodule: Megamap
    member: int
    section: str
    index: int
    offset: int
    function: Function | None

    @property
    def member_name(self) -> str:
        """The member's name."""
        return self.megamodule.member_name(self.member)

    @property
    def text(self) -> str:
        """``function+0x12/0x34`` with the member's own size, or ``.section+0x12``."""
        if self.function is None:
            return f"{self.section}+{self.offset:#x}"
        return f"{self.function.name}+{self.offset - self.function.value:#x}/{self.function.size:#x}"


@dataclass(frozen=True)
class Places:
    """Look-up tables of one megamodule."""

    megamodule: Megamap

    def at(self, output: str, offset: int, *, name: str | None = None, back: bool = False) -> Place | None:
        """What lies at *offset* of an output section; None where nothing does. A function called *name* is preferred to
        others at the same place. With *back* it is a return address, so the byte before it says whose it is."""
        chunks = self._chunks.get(output, [])
        number = bisect_right(chunks, offset - back, key=lambda chunk: chunk.offset) - 1
        if number < 0:
            return None
        chunk = chunks[number]
        inside = offset - chunk.offset
        if inside - back >= chunk.size and number + 1 == len(chunks):
            return None
        return Place(
            megamodule=self.megamodule,
            member=chunk.member,
            section=chunk.section,
            index=chunk.index,
            offset=inside,
            function=self._function(chunk.member, chunk.index, inside - back, name),
        )

    def by_symbol(self, name: str, offset: int, size: int | None) -> tuple[list[Place], bool]:
        """Where ``name+offset/size`` may be, one place for each function of that name, and whether *size* agrees.

        With a size only the functions that the kernel would print with it count, if there are any; if none, all are
        given and the second value is False: the map is probably of another build.
        """
        found = self._named.get(name, [])
        fitting = found if size is None else [(o, at) for o, at in found if self._fits(o, at, size)]
        # As the kernel looked it up (sprint_backtrace()): the end of a function belongs to it, not to the next one.
        back = offset > 0
        places = (self.at(output, at + offset, name=name, back=back) for output, at in (fitting or found))
        distinct = {(place.member, place.index, place.offset): place for place in places if place}
        return list(distinct.values()), bool(fitting)

    def by_base(self, offset: int) -> Place | None:
        """What lies *offset* bytes behind the start of the module's text, as far as that can be known."""
        return next((self.at(o, offset - start) for o, start, end in self.text_layout() if start <= offset < end), None)

    def text_layout(self) -> list[tuple[str, int, int]]:
        """(output section, start, end) in the text of the loaded module, from its start.

        KERNEL: kernel/module/main.c layout_sections() (6.1), __layout_sections() (6.4): executable sections that are
        no init sections, in the order of the file. What the kernel fills in itself (arm64's .plt) has an unknown size.
        """
        found, end = [], 0
        for output in self.megamodule.outputs:
            if not output.code:
                continue
            if output.name in (".plt", ".text.ftrace_trampoline"):
                break
            start = -(-end // output.align) * output.align
            end = start + output.size
            found.append((output.name, start, end))
        return found

    def _function(self, member: int, index: int, offset: int, name: str | None) -> Function | None:
        functions = self.megamodule.functions.get((member, index), ())
        number = bisect_right(functions, offset, key=lambda function: function.value) - 1
        if number < 0:
            return None
        same = [f for f in functions[: number + 1] if f.value == functions[number].value]
        return next((f for f in same if f.name == name), max(same, key=lambda f: f.size))

    def _fits(self, output: str, at: int, size: int) -> bool:
        starts = self._starts[output]
        following = bisect_right(starts, at)
        if following < len(starts):
            return size == starts[following] - at
        # The last one of a section goes on to whatever the kernel has put behind it.
        return size >= next(o.size for o in self.megamodule.outputs if o.name == output) - at

    @cached_property
    def _chunks(self) -> Mapping[str, list[Chunk]]:
        """By output section, those that hold bytes, in the order of their places."""
        found: dict[str, list[Chunk]] = {}
        for chunk in sorted(self.megamodule.chunks, key=lambda chunk: chunk.offset):
            if chunk.size:
                found.setdefault(chunk.output, []).append(chunk)
        return found

    @cached_property
    def _named(self) -> Mapping[str, list[tuple[str, int]]]:
        """Name → (output section, offset there) of each function of that name."""
        found: dict[str, list[tuple[str, int]]] = {}
        for output, at, function in self._all:
            found.setdefault(function.name, []).append((output, at))
        return found

    @cached_property
    def _starts(self) -> Mapping[str, list[int]]:
        found: dict[str, set[int]] = {}
        for output, at, _function in self._all:
            found.setdefault(output, set()).add(at)
        return {output: sorted(starts) for output, starts in found.items()}

    @cached_property
    def _all(self) -> list[tuple[str, int, Function]]:
        chunks = {(c.member, c.index): (c.output, c.offset) for c in self.megamodule.chunks}
        found = []
        for key, functions in self.megamodule.functions.items():
            if key in chunks:
                output, place = chunks[key]
                found += [(output, place + f.value, f) for f in functions]
        return found


@dataclass(frozen=True)
class Loaded:
    """A loaded megamodule: *sections* gives the address of its output sections, as far as known. unknown: they are all
    0, for somebody else to add the addresses."""

    places: Places
    sections: Mapping[str, int]
    unknown: bool = False

    def at(self, address: int, *, back: bool = False) -> Place | None:
        """What lies at an address of the running kernel; None if it is not this module's."""
        number = bisect_right(self._starts, address - back) - 1
        if number < 0:
            return None
        start, size, output = self._ranges[number]
        return self.places.at(output, address - start, back=back) if address - back < start + size else None

    @cached_property
    def _ranges(self) -> list[tuple[int, int, str]]:
        outputs = self.places.megamodule.outputs
        return sorted((self.sections[o.name], o.size, o.name) for o in outputs if o.name in self.sections and o.size)

    @cached_property
    def _starts(self) -> list[int]:
        return [row[0] for row in self._ranges]


def not_loaded(places: Places) -> Loaded:
    """The module before its sections have addresses."""
    return Loaded(places, {output.name: 0 for output in places.megamodule.outputs}, unknown=True)


def loaded_at(places: Places, base: int) -> Loaded:
    """The module with its text at *base*."""
    return Loaded(places, {output: base + start for output, start, _end in places.text_layout()})
