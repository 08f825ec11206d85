"""The set of a hook → linked megamodules: what may not be merged is left to the generator, all else is one stage.

Needs the choice of choice.py. Guarantees that the selection holds everything its members need, that every option of
modprobe.d for a member is either among the arguments or has kept the module out, and that all was verified by the
linker. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from megamod.build.arguments import usable_options
from megamod.build.link_stages import BuiltStage, build_stage, kernel_exports, read_selection, stage_notes
from megamod.build.plan import Plan
from megamod.build.recipe import make_plan
from megamod.build.stages import import_edges
from megamod.common.choices import Fallback, Unwind
from megamod.common.errors import Location, MegamodError
from megamod.common.progress import Steps
from megamod.hooks.select_modules import Choice, ImageModules
from megamod.image.signing.member_trust import MemberTrust
from megamod.machine.detect import closure
from megamod.modules.modprobe_d import ModprobeConfig, Option
from megamod.modules.tree import ModuleTree
from megamod.prelink.member import Member
from megamod.prelink.mergeable import GPL_COMPATIBLE
from megamod.profile.model import CRITICAL, Profile, Root, RootKind, Selector, Stage
from megamod.select.select import SelectedModule, Selection, select

_MOST_ROUNDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """What was linked. *files*: the plain bytes of each module; *merged*: the members' names, singles not among them;
    *left*: module → why it stays a file of its own."""

    selection: Selection
    stage: BuiltStage
    plan: Plan
    files: Mapping[str, bytes]
    members: Mapping[str, Member]
    merged: frozenset[str]
    left: Mapping[str, str]
    notes: tuple[str, ...]


def merge_choice(
    choice: Choice,
    image: ImageModules,
    tree: ModuleTree,
    config: ModprobeConfig,
    *,
    generator: str,
    fallback: Fallback,
    trust: MemberTrust | None,
    steps: Steps,
) -> Merge:
    """Link *choice*; *trust* is what members must be signed by if the megamodule will be.

    Raises MegamodError if nothing of it can be merged, or for what the linker refuses.
    """
    allowed = closure(tree, {*(image.files.keys() & tree.modules.keys()), *choice.merge})
    left = {name: "modprobe.d has an install command for it" for name in sorted(allowed) if config.install(name)}
    notes = list(config.notes)
    for _round in range(_MOST_ROUNDS):
        left = with_dependents(left, allowed, tree)
        wanted = {name: why for name, why in choice.merge.items() if name not in left}
        if not wanted:
            raise MegamodError("no module can be merged", hint="MEGAMOD_SELECT=all takes all modules")
        part = replace(tree, modules={name: tree.modules[name] for name in sorted(allowed - left.keys())})
        selection = _selection(wanted, part, config, generator, fallback)
        files, members = read_selection(selection)
        refused = {name: why for name, member in members.items() if (why := why_refused(member, config)) is not None}
        refused |= untrusted(files, trust)
        if not refused:
            break
        left = {**left, **refused}
    # From here on the set is fixed. The mask needs the dependents among all modules of the kernel.
    selection = replace(
        selection, tree=tree, profile=replace(selection.profile, options=options_for(config, members, notes))
    )
    edges = import_edges(members)
    exports = kernel_exports(selection, members, steps)
    stage = build_stage(selection.stages[0], files, members, edges, exports, selection, steps)
    for note in stage_notes([stage]):
        steps.say(f"  note: {note}")
    plan = make_plan(selection, (stage,), members, edges)
    merged = frozenset(m.name for load in stage.loads if load.merged is not None for m in load.merged.members)
    if not merged:
        raise MegamodError("no module can be merged")
    return Merge(
        selection=selection,
        stage=stage,
        plan=plan,
        files=files,
        members=members,
        merged=merged,
        left=left,
        notes=tuple(notes),
    )


def _selection(
    wanted: Mapping[str, str],
    tree: ModuleTree,
    config: ModprobeConfig,
    generator: str,
    fallback: Fallback,
) -> Selection:
    """One critical stage with *wanted* and all it needs in *tree*, for which modprobe.d's softdeps count too."""
    place = Location(file=generator, line=1, column=1)
    soft = {name: _soft_before(name, tree, config) for name in sorted(tree.modules)}
    names = dict.fromkeys([*wanted, *(need for name in wanted for need in soft[name])])
    profile = Profile(
        name=generator,
        source=generator,
        critical=Stage(
            name=CRITICAL, selectors=tuple(Selector(text=name, location=place) for name in names), trigger=None
        ),
        root=Root(kind=RootKind.CHAIN, path="/init"),
        unwind=Unwind.COMPACT,
        fallback=fallback,
    )
    selection = select(profile, tree)
    stage = selection.stages[0]
    inside = {module.name for module in stage.modules}

    def better(module: SelectedModule) -> SelectedModule:
        after = (*module.after, *(need for need in soft[module.name] if need in inside and need not in module.after))
        return replace(module, after=after, reason=wanted.get(module.name, module.reason))

    return replace(selection, stages=(replace(stage, modules=tuple(better(module) for module in stage.modules)),))


def _soft_before(name: str, tree: ModuleTree, config: ModprobeConfig) -> tuple[str, ...]:
    softdep = config.softdep(name, tree.softdeps.get(name))
    return tuple(dict.fromkeys(need for word in softdep.pre for need in tree.resolve(word)[0] if need != name))


def untrusted(files: Mapping[str, bytes], trust: MemberTrust | None) -> dict[str, str]:
    """Why each module of *files* must not come under our signature: the kernel takes it by its own, or not at all."""
    if trust is None:
        return {}
    return {
        name: f"{why}: the kernel may refuse it"
        for name, data in files.items()
        if (why := trust.why_refused(data, file=name)) is not None
    }


def with_dependents(left: Mapping[str, str], names: Iterable[str], tree: ModuleTree) -> dict[str, str]:
    """*left* and what needs one of them: it can only be loaded after that one, by the generator."""
    more = {
        name: f"needs {culprit}"
        for name in sorted(names)
        if name not in left and (culprit := next((need for need in tree.modules[name].depends if need in left), None))
    }
    return {**left, **more}


def why_refused(member: Member, config: ModprobeConfig) -> str | None:
    """Why *member* must stay an ordinary file, None if it may be merged."""
    licence = member.info("license")
    if licence not in GPL_COMPATIBLE:
        return f"its licence is {licence or 'not stated'}"
    if member.info("intree") is None:
        return "is out of tree"
    if member.info("staging") == "Y":
        return "is in staging"
    for option in config.options:
        if option.module == member.name and ('"' in option.value or not option.value.replace("\t", " ").isprintable()):
            return f"the kernel cannot take the value of {option.parameter}"
    return None


def options_for(config: ModprobeConfig, members: Mapping[str, Member], notes: list[str]) -> tuple[Option, ...]:
    """modprobe.d's options of *members*, without those that the kernel would not take; these are *notes*."""
    options, found = usable_options((option for option in config.options if option.module in members), members)
    notes += found
    return options
