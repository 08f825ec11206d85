"""Alias patterns of modules, matched as modprobe does: modules.alias of a distribution kernel has 25,000 of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from megamod.profiles.selectors import normalise_alias

_LITERAL = re.compile(r"[^*?\[]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasTable:
    """*exact*: aliases without wildcards → modules. *wild*: (text before the first wildcard, pattern, module)."""

    exact: Mapping[str, tuple[str, ...]]
    wild: tuple[tuple[str, str, str], ...]

    def providers(self, text: str) -> tuple[str, ...]:
        """The modules that have an alias pattern matching *text* (a modalias, a file system's alias…), sorted."""
        plain = normalise_alias(text)
        found = set(self.exact.get(plain, ()))
        # The text before the wildcard sorts out nearly all: compiling 25,000 patterns would take seconds.
        found.update(
            module for start, pattern, module in self.wild if plain.startswith(start) and fnmatchcase(plain, pattern)
        )
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


def parse_aliases(pairs: Iterable[tuple[str, str]]) -> AliasTable:
    """The table of (alias pattern, canonical module name) pairs."""
    exact: dict[str, tuple[str, ...]] = {}
    wild: list[tuple[str, str, str]] = []
    for alias, module in pairs:
        pattern = normalise_alias(alias)
        start = _LITERAL.match(pattern)
        assert start is not None
        if start.end() == len(pattern):
            if module not in exact.get(pattern, ()):
                exact[pattern] = (*exact.get(pattern, ()), module)
        else:
            wild.append((start.group(), pattern, module))
    return AliasTable(exact=exact, wild=tuple(wild))
