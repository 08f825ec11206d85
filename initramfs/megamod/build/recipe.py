"""The recipe of ``megamod build``: profile → selection → megamodules → plan → image."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from megamod.build.arguments import arguments, prefixes_of, usable_options
from megamod.build.choose_compression import check_method, choose_packing
from megamod.build.contents import Contents, collect_contents
from megamod.build.hash_trees import with_hash_trees
from megamod.build.kernel_fit import check_kernel
from megamod.build.link_map import map_bytes
from megamod.build.link_stages import (
    BuiltLoad,
    BuiltStage,
    build_stage,
    kernel_exports,
    loader_name,
    original_files,
    original_path,
    packed_stage,
    read_selection,
    require_signed,
    signed_stage,
    stage_notes,
)
from megamod.build.manifest import MANIFEST_PATH, Manifest, ManifestLoad, ManifestMember, ManifestStage
from megamod.build.microcode import EarlyArchive, early_archive
from megamod.build.plan import (
    CTL_PATH,
    MAX_STAGES,
    PLAN_PATH,
    Plan,
    PlanLoad,
    PlanModule,
    PlanStage,
    plan_text,
    trigger_text,
)
from megamod.build.root_requirements import check_root, limit_notes, root_text
from megamod.build.stages import import_edges
from megamod.build.write_output import write_output
from megamod.common.choices import Fallback, Shell
from megamod.common.errors import MegamodError
from megamod.common.progress import StageRow, Steps
from megamod.common.text import counted, human_bytes
from megamod.image.archive import holds_secrets, make_image
from megamod.image.cpio import Entry
from megamod.image.signing.sign import Signer
from megamod.kernel.config import find_config
from megamod.kernel.package import find_package
from megamod.loader.programs import ctl_binary, loader_binary
from megamod.modules.tree import ModuleTree
from megamod.prelink.emit import build_ids
from megamod.prelink.member import Member
from megamod.prelink.parameter_kinds import parameter_kinds
from megamod.prelink.read import read_member
from megamod.profile.model import Profile
from megamod.select.select import Selection, select

_FOLDERS = ("dev", "proc", "sys", "run", "root")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build made: the image's size in bytes, the manifest that lies in it, the rows of the closing table.

    *private*: others may not read all that is in it, so the image is 0600.
    """

    output: Path
    bytes: int
    manifest: Manifest
    rows: tuple[StageRow, ...]
    private: bool


def build_image(
    profile: Profile, tree: ModuleTree, output: Path, *, steps: Steps, map_file: Path | None = None
) -> BuildReport:
    """Build the image, and the map if *map_file* is given; nothing is written before everything has been linked and
    verified, then both or none."""
    profile = with_hash_trees(profile)
    with steps.step("select") as step:
        selection = select(profile, tree)
        step.note(", ".join(f"{s.name} {len(s.modules)}" for s in selection.stages))
    check_root(selection)
    for note in (*selection.notes, *limit_notes(profile)):
        steps.say(f"  note: {note}")

    config = find_config(tree.kernel_files)
    check_method(profile.compress, config)
    for note in check_kernel(profile, config):
        steps.say(f"  note: {note}")
    signer = Signer.for_profile(profile, config)

    with steps.step("read") as step:
        files, members = read_selection(selection)
        step.note(f"{counted(len(members), 'module')}, {human_bytes(sum(map(len, files.values())))}")
    options, notes = usable_options(selection.profile.options, members)
    selection = replace(selection, profile=replace(selection.profile, options=options))
    for note in notes:
        steps.say(f"  note: {note}")
    with steps.step("files") as step:
        contents = collect_contents(selection, members)
        step.note(contents.summary())
    arch = loader_name(members, tree)
    early = early_archive(profile, tree, config, machine=arch)
    for note in (*contents.notes, *early.notes):
        steps.say(f"  note: {note}")
    edges = import_edges(members)
    exports = kernel_exports(selection, members, steps)

    built = tuple(build_stage(stage, files, members, edges, exports, selection, steps) for stage in selection.stages)
    for note in stage_notes(built):
        steps.say(f"  note: {note}")
    if signer is not None:
        with steps.step("sign") as step:
            merged = {m.name for s in built for load in s.loads if load.merged for m in load.merged.members}
            require_signed({name: files[name] for name in sorted(merged)}, signer, tree)
            built = tuple(signed_stage(stage, signer) for stage in built)
            step.note(
                signer.name() if config else f"{signer.name()}; the kernel's configuration does not name a digest"
            )

    critical = [*(item.data for item in built[0].loads), *(file.entry.data for file in contents.files)]
    deferred = [item.data for stage in built[1:] for item in stage.loads]
    packing = choose_packing(profile, config, critical, deferred)
    if packing.note:
        steps.say(f"  note: {packing.note}")
    if packing.packs_deferred:
        built = (built[0], *map(packed_stage, built[1:]))
    chosen = replace(selection.profile, compress=packing.method, compress_deferred=packing.deferred)
    selection = replace(selection, profile=chosen)

    # Beyond this point only what has been decided is written down.
    plan = make_plan(selection, built, members, edges, packs_originals=packing.packs_deferred)
    manifest = make_manifest(selection, built, files, contents, early)
    originals = {}
    if profile.fallback is Fallback.MODULES:
        originals = original_files(built, files, packed=packing.packs_deferred)
    entries = image_entries(plan, manifest, built, loader_binary(arch), ctl_binary(arch), originals)
    entries += [file.entry for file in contents.files]
    with steps.step("image") as step:
        image = early.data + make_image(entries, method=packing.method)
        beside = [(map_file, make_map_file(selection, built))] if map_file else []
        private = holds_secrets(entries)
        size = write_output(output, image, profile, tree, beside=beside, private=private)
        step.note(f"{output} {human_bytes(size)}")
    rows = tuple(_row(stage) for stage in built)
    return BuildReport(output=output, bytes=size, manifest=manifest, rows=rows, private=private)


def make_plan(
    selection: Selection,
    built: tuple[BuiltStage, ...],
    members: Mapping[str, Member],
    edges: Mapping[str, frozenset[str]],
    *,
    gate: str = "-",
    packs_originals: bool = False,
) -> Plan:
    """The loader's instructions for what was built. gate: the program that stands for modprobe while inits run that
    may call request_module(); without one that fails."""
    options = selection.profile.options
    earlier: set[str] = set()
    stages = []
    for stage in built:
        loads = []
        for item in stage.loads:
            names = [m.name for m in item.merged.members] if item.merged else [item.load.module]
            loads.append(
                PlanLoad(
                    file=f"/{item.file}",
                    names=f"/{item.patch_file}" if item.patch is not None else None,
                    name=item.load.module,
                    merged=item.merged is not None,
                    has_results=item.merged is not None and item.merged.has_results,
                    modules=tuple(
                        PlanModule(
                            name=n,
                            needs=tuple(sorted(edges[n] & {*earlier, *names})),
                            parameters=tuple((one.name, one.kind) for one in parameter_kinds(members[n]))
                            if item.merged
                            else (),
                        )
                        for n in names
                    ),
                    arguments=arguments(options, members, names, merged=item.merged is not None),
                    prefixes=prefixes_of(members[n] for n in names) if item.merged else (),
                    requests=gate if item.merged is not None and item.merged.requests else None,
                    originals=tuple(f"/{original_path(n, packed=packs_originals)}" for n in names)
                    if item.merged and selection.profile.fallback is Fallback.MODULES
                    else (),
                )
            )
            earlier.update(names)
        stages.append(PlanStage(name=stage.stage.name, trigger=stage.stage.trigger, loads=tuple(loads)))
    if len(stages) > MAX_STAGES:
        hint = "put several modules into a stage"
        what = f"profile {selection.profile.name}: {len(stages)} stages, the loader takes {MAX_STAGES}"
        raise MegamodError(what, hint=hint)
    tree = selection.tree
    dependents: dict[str, list[str]] = {}
    for name in sorted(tree.modules.keys() - earlier):
        for needed in earlier.intersection(tree.modules[name].depends):
            dependents.setdefault(needed, []).append(name)
    return Plan(
        kernel=tree.release,
        root=selection.profile.root,
        probe=selection.profile.probe,
        stages=tuple(stages),
        softdeps=tuple(name for name in sorted(earlier) if name in tree.softdeps),
        dependents=dependents,
        skips=selection.skip,
        fallback=selection.profile.fallback,
        build_id=next((i.merged.build_id for s in built for i in s.loads if i.merged and i.merged.build_id), None),
        watchdog=-(-selection.profile.watchdog // 1000),
        shell=selection.profile.shell is not Shell.NONE,
    )


def make_manifest(
    selection: Selection,
    built: tuple[BuiltStage, ...],
    files: Mapping[str, bytes],
    contents: Contents,
    early: EarlyArchive | None = None,
) -> Manifest:
    profile = selection.profile
    return Manifest(
        megamod=version("megamod"),
        profile=profile.name,
        kernel=selection.tree.release,
        options={
            "tracing": profile.tracing,
            "unwind": profile.unwind,
            "symbols": profile.symbols,
            "static-calls": profile.static_calls,
            "order": profile.order,
            "imports": profile.imports,
            "probe": profile.probe,
            "compress": profile.compress,
            "compress-deferred": profile.compress_deferred,
            "fallback": profile.fallback,
        },
        root=root_text(profile.root),
        stages=tuple(
            ManifestStage(
                name=stage.stage.name,
                trigger=trigger_text(stage.stage.trigger),
                loads=tuple(_manifest_load(item, files) for item in stage.loads),
            )
            for stage in built
        ),
        notes=(*selection.notes, *contents.notes, *(early.notes if early else ()), *_without_results(built)),
        skip=selection.skip,
        files=(*(early.manifest() if early else ()), *contents.manifest()),
        package=find_package(selection.tree.folder, selection.tree.release),
    )


def _without_results(built: tuple[BuiltStage, ...]) -> tuple[str, ...]:
    """What an image should say of loads that cannot tell what became of their members."""
    return tuple(
        f"{item.load.module} records no results: whether a member's init failed is in the kernel's log alone"
        for stage in built
        for item in stage.loads
        if item.merged is not None and not item.merged.has_results
    )


def _manifest_load(item: BuiltLoad, files: Mapping[str, bytes]) -> ManifestLoad:
    selected = {module.name: module for module in item.load.modules}
    single = item.load.module
    members = item.merged.members if item.merged else (read_member(files[single], file=f"{single}.ko", lenient=True),)
    ids = build_ids(members)
    return ManifestLoad(
        file=item.file,
        module=item.load.module,
        kind="merged" if item.merged else "single",
        reason=item.load.single,
        bytes=len(item.data),
        signer=item.signer,
        relocations_before=item.merged.relocations[0] if item.merged else 0,
        relocations_after=item.merged.relocations[1] if item.merged else 0,
        members=tuple(
            ManifestMember(
                name=member.name,
                file=selected[member.name].relpath,
                reason=selected[member.name].reason,
                bytes=len(files[member.name]),
                version=member.info("version") or "",
                srcversion=member.info("srcversion") or "",
                build_id=ids.get(member.name, ""),
                license=member.info("license") or "",
                firmware=tuple(member.infos("firmware")),
                sha256=hashlib.sha256(files[member.name]).hexdigest(),
            )
            for member in members
        ),
    )


def make_map_file(selection: Selection, built: tuple[BuiltStage, ...]) -> bytes:
    """Where everything of all megamodules lies; singles are as the distribution's debuginfo knows them."""
    merged = {item.load.module: item.merged.map for stage in built for item in stage.loads if item.merged}
    return map_bytes(kernel=selection.tree.release, profile=selection.profile.name, megamodules=merged)


def image_entries(
    plan: Plan,
    manifest: Manifest,
    built: tuple[BuiltStage, ...],
    loader: bytes,
    ctl: bytes,
    originals: Mapping[str, bytes],
) -> list[Entry]:
    """Everything that goes into the archive."""
    entries = [Entry(path=folder, mode=stat.S_IFDIR | 0o755) for folder in _FOLDERS]
    entries.append(Entry(path="init", mode=stat.S_IFREG | 0o755, data=loader))
    entries.append(Entry(path=CTL_PATH, mode=stat.S_IFREG | 0o755, data=ctl))
    # The kernel opens it for PID 1 before anything is mounted (init/main.c console_on_rootfs()).
    entries.append(Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)))
    contents = {PLAN_PATH: plan_text(plan), MANIFEST_PATH: manifest.to_json()}
    for stage in built:
        for item in stage.loads:
            contents |= item.files
    contents |= dict(originals)
    entries += [Entry(path=path, mode=stat.S_IFREG | 0o644, data=data) for path, data in contents.items()]
    return entries


def _row(stage: BuiltStage) -> StageRow:
    merged = [item.merged for item in stage.loads if item.merged]
    return StageRow(
        stage=stage.stage.name,
        members=sum(len(item.members) for item in merged),
        singles=len(stage.loads) - len(merged),
        bytes=sum(len(item.data) for item in stage.loads),
        relocations_before=sum(item.relocations[0] for item in merged),
        relocations_after=sum(item.relocations[1] for item in merged),
        seconds=stage.seconds,
    )
