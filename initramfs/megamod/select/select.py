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
from dataclasses import dataclass, field, replace
from pathlib import Path

from megamod.common.errors import Location, MegamodError, fail
from megamod.common.text import canonical
from megamod.modules.levels import inherited_ranks, static_rank
from megamod.modules.modprobe_d import ModprobeConfig, Option, host_config, read_config
from megamod.modules.tree import ModuleTree, Softdep
from megamod.profile.model import Profile, Selector
from megamod.profile.selectors import OPTIONAL, parse_selector
from megamod.profile.triggers import TriggerKind
from megamod.select.match import nearest_modules
from megamod.select.requests import (
    Detect,
    Notes,
    Request,
    excluded_dependency,
    find_excluded,
    find_requests,
    forbidden_modules,
    without_excluded,
)
from megamod.select.runtime_needs import certain_needs, open_needs
from megamod.select.selection import Cause, LeftOut, SelectedModule, SelectedStage, Selection

__all__ = ["Cause", "LeftOut", "SelectedModule", "SelectedStage", "Selection", "select"]


def select(profile: Profile, tree: ModuleTree, *, detect: Detect | None = None) -> Selection:
    """The selection of *profile* from *tree*; raises MegamodError, located in the profile or in the tree.

    *detect* answers for `@detected`; without it this machine is looked at, if the profile asks for that.
    """
    notes = Notes()
    config = _modprobe_config(profile)
    notes.lines += config.notes if config else ()
    forbidden = forbidden_modules(config, tree)
    excluded = find_excluded(profile, tree, notes)
    requests = find_requests(profile, tree, config, detect or _this_machine(tree), notes)
    requests = without_excluded(profile, requests, excluded, forbidden, tree, notes)
    excluded |= forbidden
    softdeps = _Softdeps(tree=tree, config=config)
    placed = _place(profile, requests, excluded, softdeps, notes)
    # From here on no module changes its stage.
    _check_cycles(placed, tree)
    _check_files(placed, tree)
    _note_commands(placed, config, notes)
    _check_options(profile, placed, tree, notes)
    skip = _skipped(profile, placed, tree, notes)
    profile = replace(profile, options=_merged_options(profile, placed, config))
    stages = _stages(profile, placed, softdeps, notes)
    left_out = tuple(gone for name, gone in sorted(notes.left_out.items()) if name not in placed)
    return Selection(profile=profile, tree=tree, stages=stages, notes=notes.result(), left_out=left_out, skip=skip)


def _this_machine(tree: ModuleTree) -> Detect:
    def look() -> tuple[Mapping[str, str], Mapping[str, str]]:
        from megamod.machine.detect import detect
        from megamod.machine.machine import Machine

        return detect(Machine(root=Path("/")), tree).by_stage()

    return look


def _modprobe_config(profile: Profile) -> ModprobeConfig | None:
    if profile.modprobe == "none":
        return None
    return host_config() if profile.modprobe == "host" else read_config([Path(profile.modprobe)])


def _merged_options(
    profile: Profile, placed: Mapping[str, _Placed], config: ModprobeConfig | None
) -> tuple[Option, ...]:
    """The profile's options and, for what it says nothing of, those that modprobe.d has for selected modules."""
    said = {(option.module, canonical(option.parameter)) for option in profile.options}
    more = config.options if config else ()
    fresh = (o for o in more if o.module in placed and (o.module, canonical(o.parameter)) not in said)
    return (*profile.options, *fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Softdeps:
    """Soft dependencies with their aliases resolved; unresolved ones are passed over, as modprobe does."""

    tree: ModuleTree
    config: ModprobeConfig | None
    _cache: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(modules to come before, modules to come after) *name*."""
        if name not in self._cache:
            softdep = self.tree.softdeps.get(name)
            if self.config is not None:
                softdep = self.config.softdep(name, softdep)
            softdep = softdep or Softdep()
            self._cache[name] = (self._resolve(name, softdep.pre), self._resolve(name, softdep.post))
        return self._cache[name]

    def _resolve(self, name: str, words: Iterable[str]) -> tuple[str, ...]:
        found = (module for word in words for module in self.tree.resolve(word)[0] if module != name)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """Where a module goes and why: what SelectedModule says of it."""

    stage: int
    reason: str
    cause: Cause
    selector: Selector | None = None
    by: str | None = None
    promoted_from: str | None = None


_REASONS = {
    Cause.DEPENDENCY: "needed by {}",
    Cause.SOFTDEP: "softdep of {}",
    Cause.REQUEST: "asked for by {} at run time",
}


def _place(
    profile: Profile,
    requests: Mapping[str, Request],
    excluded: Mapping[str, Location],
    softdeps: _Softdeps,
    notes: Notes,
) -> dict[str, _Placed]:
    """Module → stage and reason. Modules asked for come first in each stage, so that their reason is that one."""
    placed: dict[str, _Placed] = {}

    def excluded_at(name: str) -> Location:
        return excluded[excluded_dependency(name, excluded, softdeps.tree) or name]

    for index in range(len(profile.stages)):
        own = [name for name, request in requests.items() if request.stage == index and name not in placed]
        own.sort(key=lambda name: (not requests[name].named, name))
        for name in own:
            found = requests[name].match
            cause = Cause.NAMED if found.exact else Cause.MATCHED
            placed[name] = _Placed(
                stage=index, reason=found.reason_of(name), cause=cause, selector=found.selector.written
            )
        queue = own
        while queue:
            needs = [
                (need, cause, name)
                for name in queue
                for need, cause in (
                    *_needs(name, softdeps, index, requests),
                    *((need, Cause.REQUEST) for need, _first in certain_needs(name, profile, index, softdeps.tree)),
                )
            ]
            queue = []
            for name, cause, by in needs:
                if name in placed:
                    continue
                if excluded_dependency(name, excluded, softdeps.tree):
                    # No hard dependency gets here: what hard dependencies lack is out already.
                    has = "has a softdep on" if cause is Cause.SOFTDEP else "asks at run time for"
                    notes.group(f"excluded, although a selected module {has} them", name)
                    notes.leave_out(name, f"excluded, although {by} {has} it", excluded_at(name))
                    continue
                reason = _REASONS[cause].format(by)
                request = requests.get(name)
                promoted = request is not None and request.stage != index
                if request is not None and promoted:
                    reason = _promote(profile, name, reason, index, request, notes)
                placed[name] = _Placed(
                    stage=index,
                    reason=reason,
                    cause=cause,
                    selector=request.match.selector.written if request else None,
                    by=by,
                    promoted_from=profile.stages[request.stage].name if request and promoted else None,
                )
                queue.append(name)
    return placed


def _needs(name: str, softdeps: _Softdeps, stage: int, requests: Mapping[str, Request]) -> Iterable[tuple[str, Cause]]:
    """(module, cause) of everything that comes along with *name*."""
    for need in softdeps.tree.modules[name].depends:
        yield need, Cause.DEPENDENCY
    before, after = softdeps.of(name)
    for need in before:
        yield need, Cause.SOFTDEP
    for need in after:
        # What is to come after a module may as well come with a later stage that asks for it.
        if need not in requests or requests[need].stage <= stage:
            yield need, Cause.SOFTDEP


def _promote(profile: Profile, name: str, reason: str, stage: int, request: Request, notes: Notes) -> str:
    """The reason of a module that an earlier stage than the one that asked for it needs; a note tells the user."""
    old, new = profile.stages[request.stage].name, profile.stages[stage].name
    if request.named:
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


def _note_commands(placed: Iterable[str], config: ModprobeConfig | None, notes: Notes) -> None:
    for name in sorted(placed):
        if config is not None and config.install(name) is not None:
            notes.group("loaded without the `install` command that modprobe.d has for them", name)


def _check_options(profile: Profile, placed: Mapping[str, _Placed], tree: ModuleTree, notes: Notes) -> None:
    for option in profile.options:
        name = option.module
        if name in placed:
            continue
        if name in tree.builtin and name not in tree.modules:
            word = f"{name}.{option.parameter}={option.value}"
            notes.group("options of what is built into the kernel belong on its command line, as", word)
        elif name in tree.modules:
            notes.group("options without effect, the modules are in no stage", name)
        elif option.optional:
            notes.group("not in this kernel, and optional", name)
        else:
            hint = nearest_modules(name, tree) or f"`?{name}` if it may be missing"
            raise fail(option.location, f"options: no module {name} in {tree.release}", hint)


def _skipped(profile: Profile, placed: Mapping[str, _Placed], tree: ModuleTree, notes: Notes) -> tuple[str, ...]:
    """The selected modules that `skip` names; what needs them is not initialised either, and a note says so."""
    skipped: list[str] = []
    for selector in profile.skip:
        name = parse_selector(selector).pattern
        if name in placed:
            skipped.append(name)
            users = sorted(user for user in placed if name in tree.modules[user].depends)
            for user in users:
                notes.group(f"not initialised either, because they need {name}, which is skipped", user)
        elif name in tree.modules:
            notes.group("skip without effect, the modules are in no stage", name)
        elif name in tree.builtin:
            notes.group("built into the kernel, so not skipped (initcall_blacklist= on the command line does)", name)
        elif selector.text.startswith(OPTIONAL):
            notes.group("not in this kernel, and optional", name)
        else:
            hint = nearest_modules(name, tree) or f"`?{name}` if it may be missing"
            raise fail(selector.location, f"skip: no module {name} in {tree.release}", hint)
    return tuple(sorted(set(skipped)))


def _stages(
    profile: Profile, placed: Mapping[str, _Placed], softdeps: _Softdeps, notes: Notes
) -> tuple[SelectedStage, ...]:
    softdeps_before = _init_after(profile, placed, softdeps)
    notes.lines += open_needs((n for n, place in placed.items() if place.stage == 0), profile, softdeps.tree)
    modules_of = softdeps.tree.modules
    own = {name: static_rank(name, modules_of[name].order) for name in placed}
    ranks = inherited_ranks(own, {name: (*modules_of[name].depends, *softdeps_before[name]) for name in placed})
    stages = []
    for index, stage in enumerate(profile.stages):
        names = sorted(name for name, place in placed.items() if place.stage == index)
        if not names and index > 0:
            notes.lines.append(f"stage {stage.name} is left out: none of its modules remains")
            continue
        if not names:
            named = "nothing that it names is a module of this kernel" if stage.selectors else "nothing is named"
            notes.lines.append(f"the critical stage is empty: {named}")
        if stage.trigger is not None and stage.trigger.kind is TriggerKind.PATH and not stage.trigger.timeout_ms:
            endless = "waits without a timeout, for ever if the path never comes (`timeout: 30s` in `after`)"
            notes.group(endless, f"stage {stage.name} for {stage.trigger.path}")
        modules = tuple(
            SelectedModule(
                name=name,
                path=modules_of[name].path,
                relpath=modules_of[name].relpath,
                reason=placed[name].reason,
                rank=ranks[name],
                after=softdeps_before[name],
                cause=placed[name].cause,
                selector=placed[name].selector,
                by=placed[name].by,
                promoted_from=placed[name].promoted_from,
            )
            for name in names
        )
        stages.append(SelectedStage(name=stage.name, trigger=stage.trigger, modules=modules))
    return tuple(stages)


def _init_after(profile: Profile, placed: Mapping[str, _Placed], softdeps: _Softdeps) -> dict[str, tuple[str, ...]]:
    """Module → selected modules, of its stage or an earlier one, that a softdep or its init wants before it."""
    wanted: dict[str, set[str]] = {name: set() for name in placed}
    for name in placed:
        before, after = softdeps.of(name)
        asked = (need for need, first in certain_needs(name, profile, placed[name].stage, softdeps.tree) if first)
        for first, second in (*((need, name) for need in (*before, *asked)), *((name, need) for need in after)):
            if first in placed and second in placed and placed[first].stage <= placed[second].stage:
                wanted[second].add(first)
    return {name: tuple(sorted(names)) for name, names in wanted.items()}
