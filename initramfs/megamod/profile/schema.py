"""YAML → Profile: reads a profile and those that it extends, and checks everything that needs no module tree.

Every mistake is one MegamodError, `file:line:column: message`, with a hint where there is one to give. The keys
are those of model.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from yaml.nodes import MappingNode

from megamod.common.errors import MegamodError, fail
from megamod.common.host import data_folder
from megamod.common.text import did_you_mean, shorten
from megamod.profile.extends import Draft, merge
from megamod.profile.keys import Key, parse_values, read_keys
from megamod.profile.model import Profile, profile_keys
from megamod.profile.stages import check_twice, finished_stages
from megamod.profile.yaml_reader import kind_of, read_yaml, where

P = TypeVar("P", bound=Profile)

_MAX_EXTENDS = 16


def shipped_profiles() -> Mapping[str, Path]:
    """The profiles that come with megamod: name → file."""
    folder = data_folder("profiles")
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.name != "sets.yaml"}


def find_profile(text: str) -> Profile:
    """The profile that a user names: a file if *text* looks like one or exists, else a shipped profile."""
    return load_profile(_find(text, beside=None))


def find_path(text: str) -> Path:
    """The file of the profile that a user names, as `find_profile` takes it."""
    return _find(text, beside=None)


def load_profile(path: Path) -> Profile:
    """The profile in the file *path*, with everything it extends; raises MegamodError for every mistake."""
    return load_as(path, Profile)


def load_as(path: Path, form: type[P]) -> P:
    """The same with the keys of *form*."""
    keys = profile_keys(form)
    drafts = [_read_draft(path, keys)]
    while (parent := drafts[-1].values.get("extends")) is not None:
        if len(drafts) >= _MAX_EXTENDS:
            raise fail(parent.location, f"extends: more than {_MAX_EXTENDS} profiles in one chain")
        try:
            base = _find(parent.text, beside=drafts[-1].path.parent)
        except MegamodError as error:
            raise fail(parent.location, f"extends: {error.message}", error.hint) from None
        chain = [draft.path.resolve() for draft in drafts]
        if base.resolve() in chain:
            ring = [p.name for p in (*chain[chain.index(base.resolve()) :], base)]
            raise fail(parent.location, f"extends: circular: {' → '.join(ring)}")
        drafts.append(_read_draft(base, keys))
    merged = drafts.pop()
    for child in reversed(drafts):
        merged = merge(merged, child, keys)
    return _finish(merged, form)


def _find(text: str, *, beside: Path | None) -> Path:
    shipped = shipped_profiles()
    listing = f"shipped: {', '.join(shipped)}; a file is given as ./NAME or NAME.yaml"
    if not text:
        raise MegamodError("the profile name is empty", hint=listing)
    if "\0" in text:
        raise MegamodError(f"{shorten(text)}: no such profile", hint=listing)
    candidate = Path(text) if beside is None else beside / text
    if "/" in text or text.endswith((".yaml", ".yml")):
        if not candidate.exists():
            raise MegamodError(f"{candidate}: no such profile")
        return candidate
    if candidate.is_file() or (beside is None and text not in shipped and candidate.exists()):
        return candidate
    if text in shipped:
        return shipped[text]
    raise MegamodError(f"{shorten(text)}: no such profile", hint=did_you_mean(text, shipped) or listing)


def _read_draft(path: Path, keys: Iterable[Key]) -> Draft:
    root = read_yaml(path)
    place = where(root, str(path))
    if not isinstance(root, MappingNode):
        raise fail(place, f"a profile is a mapping, not {kind_of(root)}", "it begins with `name:`")
    nodes = read_keys(root, path, "profile", keys)
    return Draft(path=path, location=place, values=parse_values(nodes, keys, path))


def _finish(draft: Draft, form: type[P]) -> P:
    said = {"name": draft.path.stem, "deferred": (), **draft.values}
    if "critical" not in said:
        raise fail(draft.location, "profile: `critical` is missing", "write critical: {modules: […]}")
    defaults = {key.field: key.default for key in profile_keys(form) if not key.required}
    values = {**defaults, **said}
    critical, *deferred = finished_stages(values["critical"], values["deferred"], values["root"])
    for key in profile_keys(form):
        if key.finish is not None:
            values[key.field] = key.finish(values[key.field])
    check_twice((critical, *deferred))
    return form(source=str(draft.path), **{**values, "critical": critical, "deferred": tuple(deferred)})
