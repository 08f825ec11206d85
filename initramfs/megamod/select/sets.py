"""The sets that `@builtin:NAME` stands for: lists of selectors in profiles/sets.yaml, each of which may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from yaml.nodes import ScalarNode

from megamod.common.errors import Location, fail
from megamod.common.host import data_folder
from megamod.common.text import did_you_mean, shorten
from megamod.profile.model import Selector
from megamod.profile.yaml_reader import items_of, pairs_of, read_yaml, where


def shipped_sets() -> Mapping[str, tuple[Selector, ...]]:
    """The sets: name → selectors."""
    return _sets()


def shipped_set(name: str, location: Location) -> tuple[Selector, ...]:
    """The selectors of the set *name*; an unknown one is an error at *location*."""
    sets = _sets()
    if name not in sets:
        hint = did_you_mean(name, sets) or f"there are: {', '.join(sets)}"
        raise fail(location, f"`@builtin:{shorten(name)}`: there is no such set", hint)
    return sets[name]


@cache
def _sets() -> Mapping[str, tuple[Selector, ...]]:
    return MappingProxyType(_read(data_folder("profiles") / "sets.yaml"))


def _read(path: Path) -> dict[str, tuple[Selector, ...]]:
    sets: dict[str, tuple[Selector, ...]] = {}
    for name, _node, value in pairs_of(read_yaml(path), str(path), "sets"):
        items = [item for item in items_of(value, str(path), name) if isinstance(item, ScalarNode)]
        sets[name] = tuple(Selector(text=item.value, location=where(item, str(path))) for item in items)
    return sets
