"""Traces, as the kernel, ftrace and perf print them, with the members' names instead of the megamodule's.

Needs the map; load addresses for what is printed as a bare number; debug files for lines of source. Guarantees that
what is no place in a megamodule stays as it is, byte for byte.

Source: lib/vsprintf.c symbol_string() and kernel/kallsyms.c __sprint_symbol() (6.1) for ``name+0x1/0x2 [module]`` and
``name+0x1/0x2 [module BUILDID]``; arch/x86/kernel/dumpstack.c, arch/arm64/kernel/process.c, arch/arm/kernel/process.c,
arch/riscv/kernel/process.c for what stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from megamod.build.link_map import LinkMap
from megamod.common.errors import MegamodError
from megamod.inspect.debug.debug_files import DebugFiles
from megamod.inspect.debug.dwarf import SourceLine
from megamod.inspect.debug.places import Loaded, Place, Places

_NAME = r"[A-Za-z_][\w.$]*"
# After these the address is where something happened; elsewhere in a trace it is where a call returns to.
_EXACT = re.compile(r"(?:\b(?:RIP: [0-9a-f]{4}:|EIP:|e?pc ?:|PC is at|IP:|Caller)|\bWARNING: .*)\s*$")
_TRACE = re.compile(r"(?:^|[\]:>])\s*(?:\[<[0-9a-f]+>\]\s*)?(?:\? |=> )?$")
_END = re.compile(r"\s*(?:\(unreliable\))?\s*")
_CALLER = re.compile(r"(?:<-|lr ?:|ra ?:|LR is at|detected at|called from)\s*$")
_STAMP = re.compile(r"(?:<\d+>)?(?:\[ *[\d.]+\](?:\[ *[CT]\d+\])?)? *")
_PERF = re.compile(r"^\s+[0-9a-f]{8,16} ")
# Who calls these is the hardware: the frame above is where it was, not where a call returns to.
_ENTRY = re.compile(
    r"\b(?:asm_(?:exc|sysvec|common|spurious)\w*|ret_from_intr|el[01]\w*_(?:irq|fiq|sync|error)\w*|handle_exception"
    r"|ret_from_exception|__(?:irq|dabt|pabt|und)_svc)\+0x"
)


@dataclass(frozen=True, kw_only=True)
class Symbolizer:
    """Rewrites text line by line. loaded: the megamodules whose addresses are known. complain: gets a line about what
    cannot be right, once each."""

    link_map: LinkMap
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    debug: DebugFiles | None = None
    complain: Callable[[str], None] = lambda line: None
    _said: set[str] = field(default_factory=set)
    _places: dict[str, Places] = field(default_factory=dict)
    _sources: dict[tuple[str, str, int], list[SourceLine]] = field(default_factory=dict)

    def rewrite(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines, without their ends, and before a line those of the functions inlined at its place."""
        pattern = self._pattern()
        boundary = False
        framed = False
        for line in lines:
            perf = _PERF.match(line) is not None
            yield from self._line(line, pattern, exact=boundary or (perf and not framed))
            boundary = _ENTRY.search(line) is not None
            framed = perf

    def _pattern(self) -> re.Pattern[str]:
        known = sorted(self.link_map.megamodules, key=len, reverse=True)
        names = "|".join(map(re.escape, known)) or r"(?!)"
        return re.compile(
            rf"(?:\[?<(?P<at>[0-9a-f]{{8,16}})>\]? |(?<=\s)(?P<ip>[0-9a-f]{{8,16}}) )?"
            rf"(?<![\w.$])(?P<name>{_NAME})(?:\+(?P<offset>0x[0-9a-f]+)(?:/(?P<size>0x[0-9a-f]+))?)?"
            rf" (?P<open>\[|\(\[?)(?P<module>{names})(?: (?P<id>[0-9a-f]{{16,40}}))?(?P<close>\]?\)|\])"
            rf"|(?<![\w.$])(?P<event>{names}):(?P<point>{_NAME})(?:\+(?P<away>0x[0-9a-f]+|\d+))?"
            rf"|(?<![\w.$])(?P<base>{names})\+(?P<distance>0x[0-9a-f]+)(?:/0x[0-9a-f]+)?"
            rf"|(?P<bracket>\[?<(?P<address>[0-9a-f]{{8,16}})>\]?)"
            rf"|(?<![\w.$+/])0x(?P<number>[0-9a-f]{{8,16}})(?:/0x[0-9a-f]+)?\b"
            # perf takes what it finds no module file of for the kernel itself; bpftrace's offsets are decimal.
            rf"|(?<=\s)(?P<raw>[0-9a-f]{{8,16}}) (?:\[unknown\]|{_NAME}\+(?:0x[0-9a-f]+|\d+))"
            rf"(?:(?P<dso> \(\[(?:{names}|unknown|kernel\.kallsyms)\]\S*\))|(?=\s*$))"
        )

    def _line(self, line: str, pattern: re.Pattern[str], *, exact: bool) -> Iterator[str]:
        inlined: list[str] = []

        def replace(match: re.Match[str]) -> str:
            before = line[: match.start()]
            back = not exact and not _EXACT.search(before) and self._returns(before, line, match)
            text, frames = self._match(match, back=back)
            if text is None:
                return match[0]
            inlined.extend(self._inlined(line, before, frames))
            return text

        text = pattern.sub(replace, line)
        yield from inlined
        yield text

    def _returns(self, before: str, line: str, match: re.Match[str]) -> bool:
        if _CALLER.search(before) or _PERF.match(line):
            return True
        return _TRACE.search(before) is not None and _END.fullmatch(line, match.end()) is not None

    def _match(self, match: re.Match[str], *, back: bool) -> tuple[str | None, list[tuple[str, SourceLine]]]:
        """What to write instead, None for the same, and the functions inlined there, each with its member."""
        if match["name"] is not None:
            return self._symbol(match, back=back)
        if match["event"] is not None:
            offset = int(match["away"] or "0", 0)
            places, _ = self._of(match["event"]).by_symbol(match["point"], offset, None)
            names = " or ".join(dict.fromkeys(place.member_name for place in places))
            return (match[0].replace(match["event"], names, 1) if names else None), []
        if match["base"] is not None:
            place = self._of(match["base"]).by_base(int(match["distance"], 16))
            return self._shown([place], back=back) if place else (None, [])
        address = int(match["address"] or match["number"] or match["raw"], 16)
        for loaded in self.loaded.values():
            place = loaded.at(address, back=back)
            if place is not None:
                brackets = ("([", "])") if match["dso"] else ("[", "]")
                text, frames = self._shown([place], back=back, brackets=brackets)
                lead = f"{match['bracket']} " if match["bracket"] else f"{match['raw']} " if match["raw"] else ""
                return f"{lead}{text}", frames
        return None, []

    def _symbol(self, match: re.Match[str], *, back: bool) -> tuple[str | None, list[tuple[str, SourceLine]]]:
        module, name = match["module"], match["name"]
        size = int(match["size"], 16) if match["size"] else None
        offset = int(match["offset"], 16) if match["offset"] else 0
        own = self.link_map.megamodules[module]
        if match["id"] and match["id"] != own.build_id[: len(match["id"])]:
            self._say(f"{module} {match['id']}: the map is of {own.build_id}: nothing of it is rewritten")
            return None, []
        number = match["at"] or match["ip"]
        known = self.loaded[module].at(int(number, 16), back=back) if number and module in self.loaded else None
        if known is not None:
            places = [known]
        else:
            places, fits = self._of(module).by_symbol(name, offset, size)
            if not places:
                self._say(f"{module}: no function {name} in it: is the map of another build?")
                return None, []
            if not fits:
                self._say(
                    f"{name}/{match['size']}: no function of {module} has this size: is the map of another build?"
                )
        lead = match[0][: match.start("name") - match.start()]
        text, frames = self._shown(
            places, back=back, printed=match[0][len(lead) : match.start("open") - match.start() - 1], name=name,
            brackets=(match["open"], match["close"]), bare=match["offset"] is None,
        )  # fmt: skip
        return lead + text, frames

    def _shown(
        self,
        places: list[Place],
        *,
        back: bool,
        printed: str = "",
        name: str = "",
        brackets: tuple[str, str] = ("[", "]"),
        bare: bool = False,
    ) -> tuple[str, list[tuple[str, SourceLine]]]:
        """``function+0x1/0x2 [member] (file:line)``; *printed* is kept if the function is the same."""
        first = places[0]
        same = first.function is not None and first.function.name == name
        what = printed if same else first.text
        sources = [self._lines(place, back=back) if not bare else [] for place in places]
        members = list(dict.fromkeys(place.member_name for place in places))
        texts = [f"{lines[-1].file}:{lines[-1].line or '?'}" for lines in sources if lines and lines[-1].file]
        where = f" ({' or '.join(dict.fromkeys(texts))})" if texts else ""
        frames = [(first.member_name, line) for line in sources[0][:-1]] if len(places) == 1 else []
        return f"{what} {brackets[0]}{' or '.join(members)}{brackets[1]}{where}", frames

    def _lines(self, place: Place, *, back: bool) -> list[SourceLine]:
        if self.debug is None or place.member < 0:
            return []
        member = place.megamodule.members[place.member]
        file = self.debug.find(member)
        if file is None:
            return []
        index = file.section_index(place.section)
        key = (member.name, place.section, place.offset - back)
        if key not in self._sources:
            try:
                self._sources[key] = file.lines(index, place.offset - back) if index is not None else []
            except MegamodError as error:
                self._say(str(error))
                self._sources[key] = []
        return self._sources[key]

    def _inlined(self, line: str, before: str, frames: list[tuple[str, SourceLine]]) -> Iterator[str]:
        stamp = _STAMP.match(line)
        lead = stamp[0] if stamp else ""
        indent = " " * (len(before) - len(before.lstrip())) if not lead.strip() else lead
        for member, frame in frames:
            yield f"{indent}  {frame.function} [{member}] ({frame.file}:{frame.line or '?'}, inlined)"

    def _of(self, module: str) -> Places:
        if module not in self._places:
            self._places[module] = Places(self.link_map.megamodules[module])
        return self._places[module]

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.complain(line)
