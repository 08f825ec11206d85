"""Profile and ModuleTree → requests: which module each stage asks for, once what is excluded has gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from megamod.common.errors import Location, MegamodError, fail
from megamod.common.text import listed
from megamod.modules.modprobe_d import ModprobeConfig
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile, Selector
from megamod.profile.selectors import SelectorKind, parse_selector
from megamod.select.match import Match, match
from megamod.select.selection import LeftOut

Detect = Callable[[], tuple[Mapping[str, str], Mapping[str, str]]]
"""What this machine needs: modules of the critical stage and all others, each with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A module that a stage asks for; *named* by its own name, or found by a pattern or an alias."""

    stage: int
    match: Match

    @property
    def named(self) -> bool:
        return self.match.exact


@dataclass(slots=True, kw_only=True)
class Notes:
    """What the user should hear, gathered so that a pattern over hundreds of modules gives a line, not hundreds."""

    lines: list[str] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)

    def group(self, heading: str, name: str) -> None:
        names = self.groups.setdefault(heading, [])
        if name not in names:
            names.append(name)

    def leave_out(self, name: str, reason: str, location: Location) -> None:
        self.left_out.setdefault(name, LeftOut(name=name, reason=reason, location=location))

    def result(self) -> tuple[str, ...]:
        grouped = (f"{heading}: {listed(names)}" for heading, names in self.groups.items())
        return (*self.lines, *grouped)


def find_excluded(profile: Profile, tree: ModuleTree, notes: Notes) -> dict[str, Location]:
    """Excluded module → where the profile says so."""
    excluded: dict[str, Location] = {}
    for selector in profile.exclude:
        if parse_selector(selector).kind is SelectorKind.DETECTED:
            raise fail(selector.location, "exclude: `@detected` would leave out what this machine needs")
        found = _match(selector, tree, notes)
        for name in found.modules:
            excluded.setdefault(name, selector.location)
        if found.selector.is_name and not found.modules:
            for name in found.builtin:
                notes.group("built into the kernel, so not excluded", name)
    return excluded


def forbidden_modules(config: ModprobeConfig | None, tree: ModuleTree) -> dict[str, Location]:
    """The modules that modprobe.d keeps from being loaded even by their name: `install NAME /bin/false`."""
    found = ((name, config.install(name)) for name in tree.modules) if config is not None and config.installs else ()
    return {name: command.location for name, command in found if command is not None and command.keeps_out}


def find_requests(
    profile: Profile, tree: ModuleTree, config: ModprobeConfig | None, detect: Detect, notes: Notes
) -> dict[str, Request]:
    """Module → the stage that asks for it: its name counts before a pattern, then the earlier stage."""
    requests: dict[str, Request] = {}
    wrong: list[MegamodError] = []
    for index, stage in enumerate(profile.stages):
        for selector in stage.selectors:
            detected: Mapping[str, str] = {}
            if parse_selector(selector).kind is SelectorKind.DETECTED:
                try:
                    detected = detect()[min(index, 1)]
                except MegamodError as error:
                    raise fail(selector.location, f"@detected: {error.message}", error.hint) from None
            try:
                found = _match(selector, tree, notes, detected)
            except MegamodError as error:
                wrong.append(error)
                continue
            for name in found.modules:
                if config is not None and not (found.exact or detected) and name in config.blacklist:
                    # As modprobe has it: a blacklist stands against aliases, not against the name. What was detected
                    # is loaded in spite of it, or the blacklist has been looked at already.
                    notes.group("left out, because modprobe.d has them blacklisted", name)
                    notes.leave_out(name, "blacklisted", config.blacklist[name])
                elif name not in requests or (found.exact and not requests[name].named):
                    requests[name] = Request(stage=index, match=found)
            if found.selector.is_name or not found.modules:
                for name in found.builtin:
                    notes.group("built into the kernel, skipped", name)
            for name in found.builtin:
                notes.leave_out(name, "built into the kernel", selector.location)
    if wrong:
        raise _all_of(wrong)
    return requests


def _all_of(errors: list[MegamodError]) -> MegamodError:
    """One error for all selectors that match nothing, so that nobody mends them one a run."""
    hints = list(dict.fromkeys(error.hint for error in errors if error.hint))
    messages = [error.message for error in errors]
    return MegamodError(listed(messages, separator="; "), hint=listed(hints, separator="; ") or None)


def _match(selector: Selector, tree: ModuleTree, notes: Notes, detected: Mapping[str, str] | None = None) -> Match:
    found = match(selector, tree, detected or {})
    if not found.modules and not found.builtin:
        plain = found.selector.text.removeprefix("?")
        notes.group("not in this kernel, and optional", plain)
        notes.leave_out(found.selector.pattern, "not in this kernel, and optional", selector.location)
    return found


def without_excluded(
    profile: Profile,
    requests: Mapping[str, Request],
    excluded: Mapping[str, Location],
    forbidden: Mapping[str, Location],
    tree: ModuleTree,
    notes: Notes,
) -> dict[str, Request]:
    """The requests that can be met; a module that is named and excluded, or needs an excluded one, is an error. What
    modprobe.d has *forbidden* is left out, as it is on the machine."""
    kept: dict[str, Request] = {}
    for name, request in requests.items():
        blocker = excluded_dependency(name, forbidden, tree)
        if blocker is not None:
            why = f"modprobe.d has an `install` command for {blocker} that loads nothing"
            notes.group(f"left out, because {why} ({forbidden[blocker].file}:{forbidden[blocker].line})", name)
            notes.leave_out(name, why, forbidden[blocker])
            continue
        blocker = excluded_dependency(name, excluded, tree)
        if blocker is None:
            kept[name] = request
            continue
        must = request.named and not request.match.selector.optional
        stage = profile.stages[request.stage].name
        if must and blocker == name:
            message = f"{name} is excluded, and stage {stage} names it at {request.match.selector.location}"
            raise fail(excluded[name], message, f'take one of the two out; `"!{name}"` removes an inherited entry')
        if must:
            message = f"{name} needs {blocker}, which is excluded at {excluded[blocker]}"
            raise fail(request.match.selector.location, message, f"`?{name}` leaves it out")
        if blocker != name:
            notes.group(f"left out, because they need {blocker}, which is excluded", name)
        notes.leave_out(
            name, "excluded" if blocker == name else f"needs {blocker}, which is excluded", excluded[blocker]
        )
    return kept


def excluded_dependency(name: str, excluded: Mapping[str, Location], tree: ModuleTree) -> str | None:
    """The excluded module that keeps *name* out: itself, or the first found of those it needs."""
    if not excluded:
        return None
    seen, queue = {name}, [name]
    for module in queue:
        if module in excluded:
            return module
        fresh = [need for need in tree.modules[module].depends if need not in seen]
        seen.update(fresh)
        queue.extend(fresh)
    return None
