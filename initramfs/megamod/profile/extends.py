"""A profile as one file says it, and what `extends` makes of two: each key's record says how it is merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megamod.common.errors import Location
from megamod.profile.keys import ABSENT, Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A profile file: *values* has the keys that it says, by field, each as its parser made it."""

    path: Path
    location: Location
    values: Mapping[str, Any]


def merge(base: Draft, child: Draft, keys: Iterable[Key]) -> Draft:
    """What *child* says on top of *base*; raises MegamodError for a removal of what is not there."""
    values = {key.field: _merged(key, base.values, child.values) for key in keys}
    said = {field: value for field, value in values.items() if value is not ABSENT}
    return Draft(path=child.path, location=child.location, values=said)


def _merged(key: Key, base: Mapping[str, Any], child: Mapping[str, Any]) -> Any:
    merge = key.merge
    new = child.get(key.field, merge.empty)
    old = base.get(key.field, merge.empty) if merge.inherited else ABSENT
    if old is ABSENT or new is ABSENT:
        return old if new is ABSENT else new
    return merge.join(old, new) if merge.join else new
