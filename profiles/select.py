"""Profile and ModuleTree → Selection: which module goes into which stage, and why.

1. Each selector is matched against the tree; what is excluded goes, and what needs it.
2. Each stage in turn takes its modules and everything they need that no earlier stage has. A module that a later stage
   asked for is so promoted, and a note says it.

Hard dependencies (modules.dep) and soft ones (`pre` and `post` of modules.softdep) come along. Weak ones do not: they
name what a module may ask the kernel for at run time, and modprobe itself never loads them beforehand.

Guarantees: a module is in one stage; everything that it needs is in that stage or an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megamod.profiles.errors import MegamodError
from megamod.profiles.levels import initcall_level
from megamod.profiles.match import Match, match, nearest_modules
from megamod.profiles.model import Location, Profile, Selector, Trigger
from megamod.profiles.tree import ModuleTree, Softdep
from megamod.profiles.yamlnodes import fail

_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedModule:
    """A module of a stage. *reason* is a short text ("named", "needed by ext4", "softdep of btrfs").

    *rank* is (initcall level, place in modules.order), the order of a static link among modules that do not depend on
    each other. *after* names selected modules whose init should come first by a softdep; a cycle may break the wish.
    """

    name: str
    path: Path
    relpath: str
    reason: str
    rank: tuple[int, int]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedStage:
    """A stage and its modules, sorted by name."""

    name: str
    trigger: Trigger | None
    modules: tuple[SelectedModule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The modules of all stages, the critical stage first; *notes* say what differs from what the profile asks for."""

    profile: Profile
    tree: ModuleTree
    stages: tuple[SelectedStage, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """A module that a stage asks for; *named* by its own name, or found by a pattern or an alias."""

    stage: int
    match: Match

    @property
    def named(self) -> bool:
        return self.match.exact


@dataclass(slots=True, kw_only=True)
class _Notes:
    """What the user should hear, gathered so that a pattern over hundreds of modules gives a line, not hundreds."""

    lines: list[str] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)

    def group(self, heading: str, name: str) -> None:
        names = self.groups.setdefault(heading, [])
        if name not in names:
            names.append(name)

    def result(self) -> tuple[str, ...]:
        grouped = (f"{heading}: {_names(names)}" for heading, names in self.groups.items())
        return (*self.lines, *grouped)


def _names(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def select(profile: Profile, tree: ModuleTree) -> Selection:
    """The selection of *profile* from *tree*; raises MegamodError, located in the profile or in the tree."""
    notes = _Notes()
    excluded = _excluded(profile, tree, notes)
    wishes = _wishes(profile, tree, notes)
    wishes = _without_excluded(profile, wishes, excluded, tree, notes)
    softdeps = _Softdeps(tree=tree)
    placed = _place(profile, wishes, excluded, softdeps, notes)
    # From here on no module changes its stage.
    _check_cycles(placed, tree)
    _check_files(placed, tree)
    _check_options(profile, placed, tree, notes)
    stages = _stages(profile, placed, softdeps, notes)
    return Selection(profile=profile, tree=tree, stages=stages, notes=notes.result())


def _match(selector: Selector, tree: ModuleTree, notes: _Notes) -> Match:
    found = match(selector, tree)
    if not found.modules and not found.builtin:
        notes.group("not in this kernel, and optional", found.selector.text.removeprefix("?"))
    return found


def _excluded(profile: Profile, tree: ModuleTree, notes: _Notes) -> dict[str, Location]:
    """Excluded module → where the profile says so."""
    excluded: dict[str, Location] = {}
    for selector in profile.exclude:
        found = _match(selector, tree, notes)
        for name in found.modules:
            excluded.setdefault(name, selector.location)
        if found.selector.is_name and not found.modules:
            for name in found.builtin:
                notes.group("built into the kernel, so not excluded", name)
    return excluded


def _wishes(profile: Profile, tree: ModuleTree, notes: _Notes) -> dict[str, _Wish]:
    """Module → the stage that asks for it: its name counts before a pattern, then the earlier stage."""
    wishes: dict[str, _Wish] = {}
    for index, stage in enumerate(profile.stages):
        for selector in stage.selectors:
            found = _match(selector, tree, notes)
            for name in found.modules:
                if name not in wishes or (found.exact and not wishes[name].named):
                    wishes[name] = _Wish(stage=index, match=found)
            if found.selector.is_name or not found.modules:
                for name in found.builtin:
                    notes.group("built into the kernel, skipped", name)
    return wishes


def _without_excluded(
    profile: Profile,
    wishes: Mapping[str, _Wish],
    excluded: Mapping[str, Location],
    tree: ModuleTree,
    notes: _Notes,
) -> dict[str, _Wish]:
    kept: dict[str, _Wish] = {}
    for name, wish in wishes.items():
        culprit = _culprit(name, excluded, tree)
        if culprit is None:
            kept[name] = wish
            continue
        must = wish.named and not wish.match.selector.optional
        stage = profile.stages[wish.stage].name
        if must and culprit == name:
            message = f"{name} is excluded, and stage {stage} names it at {wish.match.selector.location}"
            raise fail(excluded[name], message, f'take one of the two out; `"!{name}"` removes an inherited entry')
        if must:
            message = f"{name} needs {culprit}, which is excluded at {excluded[culprit]}"
            raise fail(wish.match.selector.location, message, f"`?{name}` leaves it out")
        if culprit != name:
            notes.group(f"left out, because they need {culprit}, which is excluded", name)
    return kept


def _culprit(name: str, excluded: Mapping[str, Location], tree: ModuleTree) -> str | None:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Softdeps:
    """Soft dependencies with their aliases resolved; unresolved ones are passed over, as modprobe does."""

    tree: ModuleTree
    _cache: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(modules to come before, modules to come after) *name*."""
        if name not in self._cache:
            softdep = self.tree.softdeps.get(name, Softdep())
            self._cache[name] = (self._resolve(name, softdep.pre), self._resolve(name, softdep.post))
        return self._cache[name]

    def _resolve(self, name: str, words: Iterable[str]) -> tuple[str, ...]:
        found = (module for word in words for module in self.tree.resolve(word)[0] if module != name)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    stage: int
    reason: str


def _place(
    profile: Profile,
    wishes: Mapping[str, _Wish],
    excluded: Mapping[str, Location],
    softdeps: _Softdeps,
    notes: _Notes,
) -> dict[str, _Placed]:
    """Module → stage and reason. Modules asked for come first in each stage, so that their reason is that one."""
    placed: dict[str, _Placed] = {}
    for index in range(len(profile.stages)):
        own = [name for name, wish in wishes.items() if wish.stage == index and name not in placed]
        own.sort(key=lambda name: (not wishes[name].named, name))
        for name in own:
            placed[name] = _Placed(stage=index, reason=wishes[name].match.reason)
        queue = own
        while queue:
            needs = [need for name in queue for need in _needs(name, softdeps, index, wishes)]
            queue = []
            for name, reason in needs:
                if name in placed:
                    continue
                if _culprit(name, excluded, softdeps.tree):
                    # Only a softdep gets here: what hard dependencies lack is out already.
                    notes.group("excluded, although a selected module has a softdep on them", name)
                    continue
                if name in wishes and wishes[name].stage != index:
                    reason = _promote(profile, name, reason, index, wishes[name], notes)
                placed[name] = _Placed(stage=index, reason=reason)
                queue.append(name)
    return placed


def _needs(name: str, softdeps: _Softdeps, stage: int, wishes: Mapping[str, _Wish]) -> Iterable[tuple[str, str]]:
    """(module, reason) of everything that comes along with *name*."""
    for need in softdeps.tree.modules[name].depends:
        yield need, f"needed by {name}"
    before, after = softdeps.of(name)
    for need in before:
        yield need, f"softdep of {name}"
    for need in after:
        # What is to come after a module may as well come with a later stage that asks for it.
        if need not in wishes or wishes[need].stage <= stage:
            yield need, f"softdep of {name}"


def _promote(profile: Profile, name: str, reason: str, stage: int, wish: _Wish, notes: _Notes) -> str:
    """The reason of a module that an earlier stage than the one that asked for it needs; a note tells the user."""
    old, new = profile.stages[wish.stage].name, profile.stages[stage].name
    if wish.named:
        notes.lines.append(f"{name} is promoted from {old} to {new}: {reason}")
    else:
        notes.group(f"promoted from {old} to {new}, where they are needed", name)
    return f"{reason}, promoted from {old}"


def _check_cycles(placed: Iterable[str], tree: ModuleTree) -> None:
    """No selected module may need itself, directly or not."""
    done: set[str] = set()
    for start in sorted(placed):
        path, pending = [start], [_written(start, tree)]
        while path:
            need = next((name for name in pending[-1] if name not in done), None)
            if need is None:
                done.add(path.pop())
                pending.pop()
            elif need in path:
                ring = [*path[path.index(need) :], need]
                raise MegamodError(
                    f"{tree.folder / 'modules.dep'}: cyclic dependency: {' → '.join(ring)}",
                    hint="such modules can never be loaded; depmod leaves them out",
                )
            else:
                path.append(need)
                pending.append(_written(need, tree))


def _written(name: str, tree: ModuleTree) -> Iterator[str]:
    """What *name* needs, in the order of modules.dep: the nearest first."""
    return reversed(tree.modules[name].depends)


def _check_files(placed: Iterable[str], tree: ModuleTree) -> None:
    for name in sorted(placed):
        module = tree.modules[name]
        if not module.path.is_file():
            message = f"{tree.folder / 'modules.dep'}: {module.relpath} is listed, but there is no such file"
            raise MegamodError(message, hint="run depmod, or unpack the kernel's modules again")


def _check_options(profile: Profile, placed: Mapping[str, _Placed], tree: ModuleTree, notes: _Notes) -> None:
    for option in profile.options:
        name = option.module
        if name in placed:
            continue
        if name in tree.builtin and name not in tree.modules:
            word = f"{name}.{option.parameter}={option.value}"
            notes.lines.append(f"{name} is built into the kernel: its option belongs on the command line, as {word}")
        elif name in tree.modules:
            notes.group("options without effect, the modules are in no stage", name)
        elif option.optional:
            notes.group("not in this kernel, and optional", name)
        else:
            hint = nearest_modules(name, tree) or f"`?{name}` is no error where there is none"
            raise fail(option.location, f"options: no module {name} in {tree.release}", hint)


def _stages(
    profile: Profile, placed: Mapping[str, _Placed], softdeps: _Softdeps, notes: _Notes
) -> tuple[SelectedStage, ...]:
    wishes_before = _init_wishes(placed, softdeps)
    stages = []
    for index, stage in enumerate(profile.stages):
        names = sorted(name for name, place in placed.items() if place.stage == index)
        if not names and index > 0:
            notes.lines.append(f"stage {stage.name} is left out: none of its modules remains")
            continue
        if not names:
            notes.lines.append("the critical stage is empty: nothing that it names is a module of this kernel")
        modules = tuple(
            SelectedModule(
                name=name,
                path=softdeps.tree.modules[name].path,
                relpath=softdeps.tree.modules[name].relpath,
                reason=placed[name].reason,
                rank=(initcall_level(name), softdeps.tree.modules[name].order),
                after=wishes_before[name],
            )
            for name in names
        )
        stages.append(SelectedStage(name=stage.name, trigger=stage.trigger, modules=modules))
    return tuple(stages)


def _init_wishes(placed: Mapping[str, _Placed], softdeps: _Softdeps) -> dict[str, tuple[str, ...]]:
    """Module → selected modules, of its stage or an earlier one, that a softdep wants before it."""
    wishes: dict[str, set[str]] = {name: set() for name in placed}
    for name in placed:
        before, after = softdeps.of(name)
        for first, second in (*((need, name) for need in before), *((name, need) for need in after)):
            if first in placed and second in placed and placed[first].stage <= placed[second].stage:
                wishes[second].add(first)
    return {name: tuple(sorted(names)) for name, names in wishes.items()}
