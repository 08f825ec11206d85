"""A profile as one file says it, and what `extends` makes of two: lists are appended, settings replaced.

`!name` in a list takes an inherited entry out; `"!usb"` in `deferred` takes out an inherited stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from megamod.common.errors import Location, fail
from megamod.common.text import canonical, did_you_mean, shorten
from megamod.modules.modprobe_d import Option
from megamod.profile.contents import merge_files
from megamod.profile.model import FileItem, Firmware, Microcode, Root, Selector, Sign, Trigger, Uki
from megamod.profile.selectors import REMOVE, parse_selector

Setting: TypeAlias = str | tuple[str, ...] | bool | int | Uki | Sign | Microcode | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDraft:
    """A stage as written: the trigger is None where `after` is missing, so that a child can inherit one."""

    name: str
    location: Location
    selectors: tuple[Selector, ...]
    trigger: Trigger | None
    trigger_location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A profile file: None or empty for what it does not say. In *deferred* a Selector is the removal of a stage."""

    path: Path
    location: Location
    name: str
    extends: Selector | None = None
    critical: StageDraft | None = None
    deferred: tuple[StageDraft | Selector, ...] = ()
    exclude: tuple[Selector, ...] = ()
    options: tuple[Option, ...] = ()
    skip: tuple[Selector, ...] = ()
    files: tuple[FileItem | Selector, ...] = ()
    firmware: Firmware | None = None
    root: Root | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[StageDraft, ...]:
        """The deferred stages; a removal with nothing to remove is an error."""
        for stage in self.deferred:
            if isinstance(stage, Selector):
                raise fail(stage.location, f"deferred: {shorten(stage.text)}: there is no such stage to remove")
        return tuple(stage for stage in self.deferred if isinstance(stage, StageDraft))


def merge(base: Draft, child: Draft) -> Draft:
    """What *child* says on top of *base*; raises MegamodError for a removal of what is not there."""
    critical = child.critical or base.critical
    if child.critical and base.critical:
        critical = _merge_stage(base.critical, child.critical)
    return Draft(
        path=child.path,
        location=child.location,
        name=child.name,
        critical=critical,
        deferred=_merge_deferred(base.stages, child.deferred),
        exclude=_merge_selectors(base.exclude, child.exclude),
        options=_merge_options(base.options, child.options),
        skip=_merge_selectors(base.skip, child.skip),
        files=merge_files(base.files, child.files),
        firmware=child.firmware or base.firmware,
        root=child.root or base.root,
        settings={**base.settings, **child.settings},
    )


def _merge_selectors(base: tuple[Selector, ...], child: tuple[Selector, ...]) -> tuple[Selector, ...]:
    kept = list(base)
    for selector in child:
        if not selector.text.startswith(REMOVE):
            kept.append(selector)
            continue
        body = selector.text.removeprefix(REMOVE)
        key = parse_selector(Selector(text=body, location=selector.location)).key
        rest = [other for other in kept if parse_selector(other).key != key]
        if len(rest) == len(kept):
            hint = did_you_mean(body, [other.text for other in kept])
            raise fail(selector.location, f"{shorten(selector.text)}: nothing of that name is inherited here", hint)
        kept = rest
    return tuple(kept)


def _merge_stage(base: StageDraft, child: StageDraft) -> StageDraft:
    return replace(
        child,
        selectors=_merge_selectors(base.selectors, child.selectors),
        trigger=child.trigger or base.trigger,
        trigger_location=child.trigger_location if child.trigger else base.trigger_location,
    )


def _merge_deferred(
    base: tuple[StageDraft, ...], child: tuple[StageDraft | Selector, ...]
) -> tuple[StageDraft | Selector, ...]:
    stages = {canonical(stage.name): stage for stage in base}
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


def _merge_options(base: tuple[Option, ...], child: tuple[Option, ...]) -> tuple[Option, ...]:
    merged = {(option.module, canonical(option.parameter)): option for option in base}
    for option in child:
        key = (option.module, canonical(option.parameter))
        merged.pop(key, None)
        merged[key] = option
    return tuple(merged.values())
