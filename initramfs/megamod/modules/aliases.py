"""Alias patterns of modules, matched as modprobe does: modules.alias of a distribution kernel has 25,000 of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

_LITERAL = re.compile(r"[^*?\[]*")

# What depmod writes of an of_device_id without name and type, twice: with and without the end (do_of_entry_multi(),
# scripts/mod/file2alias.c, 6.1). There are thousands, and all begin alike.
_COMPATIBLE = re.compile(r"of:N\*T\*C([^*?\[]+?)(C\*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasTable:
    """*exact*: aliases without wildcards → modules. *wild*: (text before the first wildcard, pattern, module).
    *compatible*: the patterns of device trees, (what is compatible, whether more may follow it) → modules."""

    exact: Mapping[str, tuple[str, ...]]
    wild: tuple[tuple[str, str, str], ...]
    compatible: Mapping[tuple[str, bool], tuple[str, ...]]

    def providers(self, text: str) -> tuple[str, ...]:
        """The modules that have an alias pattern matching *text* (a modalias, a file system's alias…), sorted."""
        plain = normalise_alias(text)
        found = set(self.exact.get(plain, ()))
        # The text before the wildcard sorts out nearly all: compiling 25,000 patterns would take seconds.
        found.update(
            module for start, pattern, module in self.wild if plain.startswith(start) and fnmatchcase(plain, pattern)
        )
        if plain.startswith("of:N"):
            found.update(module for key in _compatible_keys(plain) for module in self.compatible.get(key, ()))
        return tuple(sorted(found))

    def matching(self, glob: str) -> tuple[str, ...]:
        """The modules that have an alias which, taken as a plain text, matches *glob*, sorted."""
        pattern = normalise_alias(glob)
        return tuple(sorted({module for alias, module in self._pairs() if fnmatchcase(alias, pattern)}))

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for alias, modules in self.exact.items():
            for module in modules:
                yield alias, module
        for _start, alias, module in self.wild:
            yield alias, module
        for (text, more), modules in self.compatible.items():
            for module in modules:
                yield f"of:N*T*C{text}{'C*' if more else ''}", module


def _compatible_keys(modalias: str) -> Iterator[tuple[str, bool]]:
    """What patterns of the kind of _COMPATIBLE match *modalias*: `of:NmmcT(null)Cacme,newCacme,old` has two strings,
    but a `C` may as well be a letter of one."""
    start = modalias.find("T", 4)
    places = [place for place in range(start + 1, len(modalias)) if start >= 0 and modalias[place] == "C"]
    for number, place in enumerate(places):
        yield modalias[place + 1 :], False
        for end in places[number + 1 :]:
            yield modalias[place + 1 : end], True


def parse_aliases(pairs: Iterable[tuple[str, str]]) -> AliasTable:
    """The table of (alias pattern, canonical module name) pairs."""
    exact: dict[str, tuple[str, ...]] = {}
    wild: list[tuple[str, str, str]] = []
    compatible: dict[tuple[str, bool], tuple[str, ...]] = {}
    for alias, module in pairs:
        pattern = normalise_alias(alias)
        start = _LITERAL.match(pattern)
        assert start is not None
        if start.end() == len(pattern):
            if module not in exact.get(pattern, ()):
                exact[pattern] = (*exact.get(pattern, ()), module)
        elif start.end() == 4 and (match := _COMPATIBLE.fullmatch(pattern)):
            key = (match[1], match[2] is not None)
            compatible[key] = (*compatible.get(key, ()), module)
        else:
            wild.append((start.group(), pattern, module))
    return AliasTable(exact=exact, wild=tuple(wild), compatible=compatible)


def normalise_alias(text: str) -> str:
    """*text* with '-' written '_' outside of brackets, as kmod's alias_normalize (libkmod/libkmod-util.c, kmod 30)."""
    if "-" not in text:
        return text
    if "[" not in text:
        return text.replace("-", "_")
    parts = re.split(r"(\[[^\]]*\])", text)
    return "".join(part if part.startswith("[") else part.replace("-", "_") for part in parts)
