"""`megamod explain`: each module's stage and the reason, the load it goes into, its size, firmware and parameters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from megamod.build.arguments import parameters_of
from megamod.build.contents import firmware_of
from megamod.build.hash_trees import with_hash_trees
from megamod.build.link_stages import read_selection
from megamod.build.percpu import percpu_overflow
from megamod.build.plan import trigger_text
from megamod.build.root_requirements import limit_notes
from megamod.build.stages import Load, import_edges, split_into_loads
from megamod.common.text import counted, human_bytes, table
from megamod.kernel.exports import find_exports
from megamod.modules.levels import initcall_level, tagged_rank
from megamod.modules.tree import ModuleTree
from megamod.prelink.member import Member
from megamod.profile.model import Profile
from megamod.select.explain import chain_of, names_of, users_of, why_absent
from megamod.select.select import SelectedModule, SelectedStage, Selection, select


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleExplanation:
    """A selected module. *chain*: the steps up to the selector. *load*: the kernel module that it is loaded in or as;
    *single* says why it is alone. *bytes*: its file, plain. *missing*: what of its *firmware* was not found for
    the image. *skipped*: its init is left out at boot; *init*: it has one. *parameters* maps names to descriptions,
    *options* to the values that the profile gives."""

    name: str
    file: str
    stage: str
    reason: str
    promoted_from: str | None
    chain: tuple[str, ...]
    load: str
    single: str | None
    bytes: int
    level: int
    after: tuple[str, ...]
    needs: tuple[str, ...]
    users: tuple[str, ...]
    firmware: tuple[str, ...]
    missing: tuple[str, ...]
    skipped: bool
    init: bool
    parameters: Mapping[str, str]
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A module that is in no stage, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A profile on a kernel: *modules* by stage and name; *absent* is what was asked for, or spoken of, and is not in;
    *only* means that single modules were asked for."""

    profile: str
    kernel: str
    triggers: Mapping[str, str]
    modules: tuple[ModuleExplanation, ...]
    absent: tuple[Absence, ...]
    notes: tuple[str, ...]
    only: bool

    def as_json(self) -> str:
        """All of it, for programs."""
        value = dataclasses.asdict(self)
        del value["only"]
        return json.dumps(value, indent=2)

    def as_text(self) -> str:
        """A table a stage; for single modules all that is known of each."""
        if self.only:
            return "\n\n".join([*(_detail(module) for module in self.modules), *map(_absence, self.absent)])
        lines = [f"{self.profile} on {self.kernel}"]
        for stage, trigger in self.triggers.items():
            rows = [_row(module) for module in self.modules if module.stage == stage]
            lines += ["", f"stage {stage} ({trigger}): {counted(len(rows), 'module')}"]
            lines.append(table(["module", "why", "loaded", "size", "firmware", "parameters"], rows, left=3))
        alone = [module for module in self.modules if module.single]
        if alone:
            lines += ["", "loaded on their own", *(f"  {module.name}: it {module.single}" for module in alone)]
        if self.absent:
            lines += ["", "left out", *(f"  {_absence(gone)}" for gone in self.absent)]
        if self.notes:
            lines += ["", "notes", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines)


def explain(profile: Profile, tree: ModuleTree, *, module: str | None = None) -> Explanation:
    """Why the modules of *profile* are where they are; with *module* (a name or alias) only what that stands for."""
    selection = select(with_hash_trees(profile), tree)
    wanted = None if module is None else names_of(selection, module)
    files, members = read_selection(selection)
    loads = _loads(selection, members)
    missing = firmware_of(selection, members)[0].missing
    explained = tuple(
        _explain(selection, stage, chosen, loads[chosen.name], members[chosen.name], len(files[chosen.name]), missing)
        for stage in selection.stages
        for chosen in stage.modules
        if wanted is None or chosen.name in wanted
    )
    if wanted is None:
        absent = tuple(Absence(name=g.name, reason=f"{g.reason}, at {g.location}") for g in selection.left_out)
    else:
        gone = (name for name in wanted if selection.find(name) is None)
        absent = tuple(Absence(name=name, reason=why_absent(selection, name)) for name in gone)
    return Explanation(
        profile=profile.name,
        kernel=tree.release,
        triggers={stage.name: trigger_text(stage.trigger) for stage in selection.stages},
        modules=explained,
        absent=absent,
        notes=(*selection.notes, *limit_notes(profile)),
        only=wanted is not None,
    )


def _loads(selection: Selection, members: Mapping[str, Member]) -> dict[str, Load]:
    """Module → the load that it goes into."""
    exports = find_exports(selection.tree.kernel_files)
    edges, refused = import_edges(members), percpu_overflow(selection, members)
    loads = (
        load
        for stage in selection.stages
        for load in split_into_loads(
            stage,
            members,
            edges,
            exports,
            options=selection.profile.options,
            refused=refused,
            allow_taint=selection.profile.allow_taint,
        )
    )
    return {module.name: load for load in loads for module in load.modules}


def _explain(
    selection: Selection,
    stage: SelectedStage,
    module: SelectedModule,
    load: Load,
    member: Member,
    size: int,
    missing: Mapping[str, tuple[str, ...]],
) -> ModuleExplanation:
    described = dict(" ".join(text.split()).partition(":")[::2] for text in member.infos("parm"))
    return ModuleExplanation(
        name=module.name,
        file=module.relpath,
        stage=stage.name,
        reason=module.reason,
        promoted_from=module.promoted_from,
        chain=chain_of(selection, module.name),
        load=load.module,
        single=load.single,
        bytes=size,
        level=tagged_rank((initcall_level(module.name), 0), member.info("initlevel"))[0],
        after=module.after,
        needs=selection.tree.modules[module.name].depends,
        users=users_of(selection, module.name),
        firmware=tuple(member.infos("firmware")),
        missing=tuple(name for name in member.infos("firmware") if module.name in missing.get(name, ())),
        skipped=module.name in selection.skip,
        init=member.init is not None,
        parameters={name: described.get(name, "") for name in sorted(parameters_of(member))},
        options={option.parameter: option.value for option in selection.options_of(module.name)},
    )


def _row(module: ModuleExplanation) -> list[str]:
    options = f" ({len(module.options)} set)" if module.options else ""
    return [
        module.name,
        f"{module.reason}, skipped" if module.skipped else module.reason,
        "alone" if module.single else module.load,
        human_bytes(module.bytes),
        str(len(module.firmware) or ""),
        f"{len(module.parameters) or ''}{options}",
    ]


def _absence(gone: Absence) -> str:
    return f"{gone.name}: {gone.reason}"


def _detail(module: ModuleExplanation) -> str:
    how = f"on its own: it {module.single}" if module.single else f"as a member of {module.load}"
    facts = [
        ("file", f"{module.file}, {human_bytes(module.bytes)}"),
        ("loaded", how),
        ("init", "" if module.init else "none: it is a library, and there when it is linked"),
        ("initcall level", str(module.level)),
        ("after", ", ".join(module.after)),
        ("needs", ", ".join(module.needs)),
        ("needed by", ", ".join(module.users)),
        ("firmware", ", ".join(module.firmware)),
        ("firmware not found", ", ".join(module.missing)),
        ("skipped at boot", f"yes, unless megamod.run={module.name} is given" if module.skipped else ""),
    ]
    lines = [*module.chain, *(f"  {key}: {value}" for key, value in facts if value)]
    lines += ["  parameters:"] if module.parameters else []
    for name, text in module.parameters.items():
        value = f" = {module.options[name]}" if name in module.options else ""
        lines.append(f"    {name}{value}{f': {text}' if text else ''}")
    return "\n".join(lines)
