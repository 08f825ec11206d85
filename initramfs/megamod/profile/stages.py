"""`critical` and `deferred` of a profile: YAML nodes → stages as written, merged by `extends`, then checked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from megamod.common.errors import Location, fail
from megamod.common.text import canonical, did_you_mean, shorten
from megamod.profile.keys import Json, Key, Merge, mapping_schema, parse_values, read_keys, required_of
from megamod.profile.root import Root, check_fit
from megamod.profile.selectors import (
    APPENDED,
    REMOVE,
    SELECTORS,
    Selector,
    SelectorKind,
    finished_selectors,
    merge_selectors,
    parse_selector,
    parse_selectors,
    parse_selectors_or_none,
)
from megamod.profile.triggers import AFTER, Trigger, TriggerKind, parse_trigger, trigger_schema
from megamod.profile.yaml_reader import items_of, kind_of, pairs_of, text_of, where

CRITICAL = "critical"
"""The name of the first stage."""

MAX_STAGE = 55 - len("megamod_")
"""A stage becomes the module `megamod_<stage>`; struct module's name holds 55 characters on 64-bit kernels
(MODULE_NAME_LEN, include/linux/module.h, 6.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A group of modules that one call loads; *trigger* is None for the critical stage."""

    name: str
    selectors: tuple[Selector, ...]
    trigger: Trigger | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDraft:
    """A stage as written: the trigger is None where `after` is missing, so that a child can inherit one. *is_empty* is
    a critical stage whose list of modules was written, and is empty."""

    name: str
    location: Location
    selectors: tuple[Selector, ...]
    trigger: Trigger | None
    trigger_location: Location
    is_empty: bool = False


Deferred: TypeAlias = tuple[StageDraft | Selector, ...]
"""The entries of `deferred`; a Selector is `!name`, the removal of an inherited stage."""


def _name(node: Node, path: Path, what: str) -> str:
    text, place = text_of(node, str(path), f"{what}: a stage name"), where(node, str(path))
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", text):
        raise fail(place, f"{what}: `{shorten(text)}` is not a stage name", "small letters, digits, `_` and `-`")
    if len(text) > MAX_STAGE:
        message = f"{what}: `{shorten(text)}` has {len(text)} characters, a stage name at most {MAX_STAGE}"
        raise fail(place, message, "the module is called megamod_<stage>, and the kernel takes 55 characters")
    if text == CRITICAL:
        raise fail(place, f"{what}: `critical` is the stage before user space", "it has a key of its own")
    return text


_NAME = Key(
    name="name",
    field="name",
    parse=_name,
    schema={
        "type": ["string", "number"],
        "pattern": r"^[a-z0-9][a-z0-9_-]*$",
        "maxLength": MAX_STAGE,
        "not": {"const": CRITICAL},
    },
    values=f"small letters, digits, `_`, `-`; at most {MAX_STAGE}",
    help="The stage's name; its module is called `megamod_<stage>`, and the kernel takes 55 characters.",
)
_MODULES = Key(
    name="modules",
    field="selectors",
    parse=parse_selectors,
    schema=SELECTORS,
    values="a list of selectors",
    help="What the stage loads; dependencies come along.",
    merge=APPENDED,
    default=(),
    default_text="the inherited ones",
)
_AFTER = Key(
    name="after",
    field="trigger",
    parse=parse_trigger,
    schema=trigger_schema(),
    values="a trigger",
    help="When the stage is loaded.",
    default=None,
    default_text="`userspace`",
    inside=AFTER,
)
_CRITICAL_MODULES = replace(
    _MODULES,
    parse=parse_selectors_or_none,
    schema={**SELECTORS, "minItems": 0},
    help="What the stage loads; dependencies come along. An empty list: the kernel has all of it built in.",
)
CRITICAL_KEYS = (_CRITICAL_MODULES,)
"""The keys of `critical`."""

STAGE_KEYS = (_NAME, _MODULES, _AFTER)
"""The keys of an entry of `deferred`."""


def critical_schema() -> Json:
    """The JSON Schema of `critical`."""
    return mapping_schema(CRITICAL_KEYS)


def deferred_schema() -> Json:
    """The JSON Schema of `deferred`."""
    stage = mapping_schema(STAGE_KEYS, required=required_of(STAGE_KEYS))
    return {"type": "array", "minItems": 1, "items": {"anyOf": [stage, {"type": "string", "pattern": r"^!."}]}}


def parse_critical(node: Node, path: Path, what: str) -> StageDraft:
    """The critical stage."""
    if isinstance(node, MappingNode):
        for key_node, _value in node.value:
            if isinstance(key_node, ScalarNode) and key_node.value == _AFTER.name:
                place = where(key_node, str(path))
                raise fail(place, f"{what}: `after` is for deferred stages", "critical is always first")
    return _stage(node, path, what, CRITICAL_KEYS)


def _stage(node: Node, path: Path, name: str, keys: Iterable[Key]) -> StageDraft:
    place = where(node, str(path))
    if isinstance(node, SequenceNode):
        raise fail(place, f"{name}: a mapping expected, not a list", f"write {name}: {{modules: […]}}")
    nodes = read_keys(node, path, name, keys)
    values = parse_values(nodes, keys, path)
    after = where(nodes[_AFTER.name][1], str(path)) if _AFTER.name in nodes else place
    is_empty = not values.get("selectors", True)
    values = {"selectors": (), "trigger": None, **values, "name": name}
    return StageDraft(location=place, trigger_location=after, is_empty=is_empty, **values)


def parse_deferred(node: Node, path: Path, what: str) -> Deferred:
    """Stages in the order written; a bare `!name` (removal of an inherited stage) stays a Selector."""
    stages: list[StageDraft | Selector] = []
    seen: dict[str, Location] = {}
    for item in items_of(node, str(path), what):
        place = where(item, str(path))
        if isinstance(item, ScalarNode):
            text = text_of(item, str(path), f"{what}: a stage")
            if not text.startswith(REMOVE):
                hint = f"write {{name: {shorten(text)}, modules: […]}}"
                raise fail(place, f"{what}: a mapping expected, not {kind_of(item)}", hint)
            stages.append(Selector(text=text, location=place))
            continue
        name, name_location = _stage_name(item, path, what)
        if canonical(name) in seen:
            first = seen[canonical(name)]
            raise fail(name_location, f"{what}: duplicate stage `{name}`", f"first in line {first.line}")
        seen[canonical(name)] = name_location
        stages.append(_stage(item, path, name, STAGE_KEYS))
    return tuple(stages)


def _stage_name(node: Node, path: Path, what: str) -> tuple[str, Location]:
    """The name comes first, whatever its place in the mapping: messages about the other keys begin with it."""
    for key, _key_node, value in pairs_of(node, str(path), f"{what}: a stage"):
        if key == _NAME.name:
            return _NAME.parse(value, path, key), where(value, str(path))
    raise fail(where(node, str(path)), f"{what}: a stage without a name", "write name: usb")


def _merge_stage(base: StageDraft, child: StageDraft) -> StageDraft:
    return replace(
        child,
        selectors=merge_selectors(base.selectors, child.selectors),
        trigger=child.trigger or base.trigger,
        trigger_location=child.trigger_location if child.trigger else base.trigger_location,
    )


def _merge_deferred(base: Deferred, child: Deferred) -> Deferred:
    stages = {canonical(stage.name): stage for stage in stages_of(base)}
    for stage in child:
        if isinstance(stage, StageDraft):
            key = canonical(stage.name)
            stages[key] = _merge_stage(stages[key], stage) if key in stages else stage
            continue
        name = stage.text.removeprefix(REMOVE)
        if stages.pop(canonical(name), None) is None:
            hint = did_you_mean(name, [other.name for other in stages.values()])
            raise fail(stage.location, f"deferred: {shorten(stage.text)}: no such stage is inherited", hint)
    return tuple(stages.values())


CRITICAL_MERGED = Merge(words='`modules` is appended; `"!entry"` removes', join=_merge_stage)
DEFERRED_MERGED = Merge(
    words='stages of the same name are merged, others appended; `"!name"` removes', join=_merge_deferred, empty=()
)


def stages_of(deferred: Deferred) -> tuple[StageDraft, ...]:
    """The stages of `deferred`; a removal with nothing to remove is an error."""
    for stage in deferred:
        if isinstance(stage, Selector):
            raise fail(stage.location, f"deferred: {shorten(stage.text)}: no such stage to remove")
    return tuple(stage for stage in deferred if isinstance(stage, StageDraft))


def finished_stages(critical: StageDraft, deferred: Deferred, root: Root) -> tuple[Stage, ...]:
    """The stages of a whole profile, the critical one first: each has modules and a trigger that can fire."""
    stages = []
    for stage in (critical, *stages_of(deferred)):
        finished_selectors(stage.selectors)
        if not stage.selectors and not stage.is_empty:
            raise fail(stage.location, f"{stage.name}: the stage has no modules", "modules: [ext4, …]")
        trigger = None
        if stage is not critical:
            trigger = stage.trigger or Trigger(kind=TriggerKind.USERSPACE)
            check_fit(trigger, root, stage.trigger_location)
        stages.append(Stage(name=stage.name, selectors=stage.selectors, trigger=trigger))
    return tuple(stages)


def check_twice(stages: Iterable[Stage]) -> None:
    """Refuse a selector that stands twice in a profile."""
    seen: dict[tuple[SelectorKind, str, bool], tuple[str, Location]] = {}
    for stage in stages:
        for selector in stage.selectors:
            parsed = parse_selector(selector)
            # `@detected` stands for other modules in the critical stage than in a deferred one.
            key = (*parsed.key, parsed.kind is SelectorKind.DETECTED and stage.name == CRITICAL)
            if key in seen:
                other, first = seen[key]
                again = "twice in" if other == stage.name else f"in two stages, {other} and"
                place = f"first at {first}" if first.file != selector.location.file else f"first in line {first.line}"
                raise fail(selector.location, f"{shorten(selector.text)} is {again} {stage.name}", place)
            seen[key] = (stage.name, selector.location)
