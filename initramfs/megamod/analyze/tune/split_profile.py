"""Which modules of the critical stage a boot's root, console and needs have used, and how the profile says the rest.

Used is what `megamod detect` finds for the machine that was looked at, and what is named, with all that these depend
on. What else was loaded did nothing before user space but take time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from megamod.analyze.chart.record import BootRecord, Kind
from megamod.analyze.tune.yaml_edit import Move
from megamod.common.errors import MegamodError
from megamod.common.text import canonical, did_you_mean
from megamod.machine.detect import closure, detect
from megamod.machine.machine import Machine
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile, RootKind, Selector, TriggerKind
from megamod.profile.selectors import REMOVE, SelectorKind, parse_selector
from megamod.select.match import match
from megamod.select.selection import Selection

_STAGE = "later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A critical module that nothing needed: *init* is its own time, *share* what it has of its call, by its size."""

    name: str
    init: int
    share: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """*used* modules of the critical stage with the reason, and the *idle* ones, the longest first."""

    used: Mapping[str, str]
    idle: tuple[Idle, ...]

    @property
    def saving(self) -> int:
        """Nanoseconds that would be saved by loading the idle ones later."""
        return sum(each.init + each.share for each in self.idle)


def find_usage(
    selection: Selection,
    tree: ModuleTree,
    machine: Machine,
    *,
    needs: Iterable[str],
    record: BootRecord,
    sizes: Mapping[str, int],
) -> Usage:
    """Look at *machine* and hold the critical modules against it; *sizes* are bytes of the modules.

    Raises MegamodError if a need is not a module, or if the machine has no root whose way can be told.
    """
    reasons = {found.name: found.why for found in detect(machine, tree).critical}
    for need in needs:
        found, built_in = tree.resolve(need)
        if not found and not built_in:
            raise MegamodError(f"--need {need}: the kernel has no such module", hint=did_you_mean(need, tree.modules))
        reasons |= dict.fromkeys(found, "named as needed")
    reasons |= _layers(selection.profile, tree)
    known = closure(tree, reasons)
    critical = [module.name for module in selection.stages[0].modules]
    used = {name: reasons.get(name, "needed by these") for name in critical if name in known}
    inits, calls = _times(record)
    idle = [_idle(name, inits, calls, sizes) for name in critical if name not in known]
    idle.sort(key=lambda each: (-(each.init + each.share), each.name))
    return Usage(used=used, idle=tuple(idle))


def _layers(profile: Profile, tree: ModuleTree) -> dict[str, str]:
    """What the loader itself makes of the root."""
    wanted = ["overlay"] if profile.root.overlay is not None else []
    wanted += ["dm_mod", "dm_verity"] if profile.root.verity is not None else []
    return {name: "the root's layers" for word in wanted for name in tree.resolve(word)[0]}


def _times(record: BootRecord) -> tuple[dict[str, int], dict[str, tuple[int, frozenset[str]]]]:
    """Of the critical stage: a member's init, and a call's time beside inits with the members that share it."""
    inits: dict[str, int] = {}
    calls: dict[str, tuple[int, frozenset[str]]] = {}
    for call in (call for stage in record.stages()[:1] for call in stage.parts if call.kind == Kind.CALL):
        own = {
            part.name: sum(leaf.duration for leaf in part.leaves() if leaf.kind == Kind.INIT)
            for part in call.parts
            if part.kind == Kind.INIT
        }
        inits |= own
        rest = call.duration - sum(part.duration for part in call.parts if part.kind == Kind.INIT)
        for name in own or {call.name: 0}:
            calls[name] = rest, frozenset(own or [call.name])
    return inits, calls


def _idle(
    name: str, inits: Mapping[str, int], calls: Mapping[str, tuple[int, frozenset[str]]], sizes: Mapping[str, int]
) -> Idle:
    rest, sharers = calls.get(name, (0, frozenset()))
    whole = sum(sizes.get(each, 0) for each in sharers)
    share = rest * sizes.get(name, 0) // whole if whole else 0
    return Idle(name=name, init=inits.get(name, 0), share=share)


def find_move(profile: Profile, path: Path, tree: ModuleTree, usage: Usage) -> Move | None:
    """How the selectors of the critical stage are to be moved; None if nothing would change."""
    away: list[str] = []
    split: dict[str, tuple[str, ...]] = {}
    inherited: set[str] = set()
    idle = {each.name for each in usage.idle}
    staying: set[str] = set()
    for selector in profile.critical.selectors:
        modules = _modules_of(selector, tree)
        if not idle.intersection(modules):
            staying.update(modules)
            continue
        used = tuple(name for name in modules if name in usage.used)
        if used:
            split[selector.text] = used
        else:
            away.append(selector.text)
        if Path(selector.location.file) != path:
            inherited.add(selector.text)
    if not away and not split:
        return None
    if not staying and not any(split.values()):
        raise MegamodError(f"{path}: root and console need nothing of its critical stage", hint="--need NAME")
    # Another selector may name the same module, and it need not be there twice.
    named: set[str] = set(staying)
    for text, names in split.items():
        split[text] = tuple(name for name in names if name not in named)
        named.update(names)
    early = TriggerKind.NOW if profile.root.kind is RootKind.CHAIN else TriggerKind.USERSPACE
    return Move(
        away=tuple(away), split=split, inherited=frozenset(inherited), stage=_free_name(profile), trigger=early.value
    )


def _modules_of(selector: Selector, tree: ModuleTree) -> tuple[str, ...]:
    parsed = parse_selector(selector)
    # What this machine needs is asked for as a whole.
    if parsed.kind is SelectorKind.DETECTED or selector.text.startswith(REMOVE):
        return ()
    return match(selector, tree, {}).modules


def _free_name(profile: Profile) -> str:
    taken = {canonical(stage.name) for stage in profile.stages}
    number, name = 2, _STAGE
    while name in taken:
        name, number = f"{_STAGE}{number}", number + 1
    return name
