"""Selected stages → linked ones: modules read, held against the kernel, merged, signed; the rest stay single."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from megamod.build.late_users import late_notes
from megamod.build.percpu import percpu_overflow, reserve_of
from megamod.build.stages import Load, second_half, split_into_loads
from megamod.common.choices import Merging
from megamod.common.compression import compress_inside, read_module_bytes
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.common.text import by_value, counted, human_bytes, listed
from megamod.image.signing.sign import Signer, read_certificate
from megamod.kernel.architecture import kernel_architecture
from megamod.kernel.config import find_config, has_kcfi
from megamod.kernel.export_sources import KernelExports
from megamod.kernel.exports import check_imports, image_of, kernel_image_of, search_exports
from megamod.modules.levels import tagged_rank
from megamod.modules.tree import ModuleTree
from megamod.prelink.kernel_crcs import find_glue_crcs, imported_anywhere
from megamod.prelink.link import Megamodule, RefusedError, prelink
from megamod.prelink.member import Member
from megamod.prelink.names_form import apply_patch, make_patch
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member
from megamod.select.select import SelectedStage, Selection

PACKED_ENDING = ".lz4"
"""What ends the name of a module's file that the loader is to unpack (loader/unpack.h)."""

ORIGINALS = "megamod/originals"
"""Where the members' own files lie in the image, for the loader's fallback."""

_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltLoad:
    """A load with its file: *data* is the module that goes into the image as *file*; merged is None for a single.
    *signer* is whose signature the build has put at its end, "" for none."""

    load: Load
    file: str
    data: bytes
    merged: Megamodule | None
    signer: str = ""
    patch: bytes | None = None

    @property
    def patch_file(self) -> str:
        """Path of the patch in the image."""
        packed = self.file.endswith(PACKED_ENDING)
        plain = self.file.removesuffix(PACKED_ENDING).removesuffix(".ko")
        return f"{plain}.names{PACKED_ENDING if packed else ''}"

    @property
    def files(self) -> dict[str, bytes]:
        """Path in the image → bytes of all that the call may need."""
        contents = {self.file: self.data} | ({self.patch_file: self.patch} if self.patch is not None else {})
        return {name: compress_inside(x) if name.endswith(PACKED_ENDING) else x for name, x in contents.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltStage:
    """A stage with its files; seconds is what linking it took."""

    stage: SelectedStage
    loads: tuple[BuiltLoad, ...]
    seconds: float


def read_selection(selection: Selection) -> tuple[dict[str, bytes], dict[str, Member]]:
    """The plain bytes and the parsed form of every selected module, by name; checks that they are of this kernel."""
    files: dict[str, bytes] = {}
    members: dict[str, Member] = {}
    for stage in selection.stages:
        for module in stage.modules:
            files[module.name] = read_module_bytes(module.path)
            member = read_member(files[module.name], file=module.path.name, lenient=True)
            if member.name != module.name:
                raise MegamodError(f"{module.path}: the module inside calls itself {member.name}")
            release = (member.info("vermagic") or "").split(" ", 1)[0]
            if release != selection.tree.release:
                raise MegamodError(
                    f"{module.path}: built for {release}, the tree is of {selection.tree.release}",
                    hint="take all modules from one lib/modules folder",
                )
            members[module.name] = member
    return files, members


def build_stage(
    stage: SelectedStage,
    files: Mapping[str, bytes],
    members: Mapping[str, Member],
    edges: Mapping[str, frozenset[str]],
    exports: KernelExports | None,
    selection: Selection,
    steps: Steps,
) -> BuiltStage:
    """Link the megamodules of *stage*. What the linker refuses in a member becomes a single, and the rest is linked
    without it; with `merge: required` it is an error."""
    start = time.monotonic()
    profile = selection.profile
    refused = percpu_overflow(selection, members)
    rounds_from: dict[str, int] = {}
    merged: dict[tuple[str, ...], Megamodule] = {}
    while True:
        loads = split_into_loads(
            stage,
            members,
            edges,
            exports,
            options=profile.options,
            refused=refused,
            rounds_from=rounds_from,
            allow_taint=profile.allow_taint,
        )
        if profile.merge is Merging.REQUIRED:
            _refuse_singles(loads, members)
        again = False
        for load in loads:
            names = tuple(module.name for module in load.modules)
            if load.single is not None or names in merged:
                continue
            try:
                merged[names] = _link_load(load, members, exports, selection, steps)
            except RefusedError as error:
                again = True
                if error.limit and len(names) > 1:
                    later = second_half(load, members, edges)
                    rounds_from |= dict.fromkeys(later, load.round + 1)
                    steps.say(f"  note: {load.module} is split in two: {error.message}")
                elif profile.merge is Merging.REQUIRED:
                    raise
                else:
                    refused[error.member] = error.reason
                break
        if not again:
            break
    built = []
    for load in loads:
        file, whole = f"megamod/{load.module}.ko", merged.get(tuple(module.name for module in load.modules))
        if load.single is None and whole is not None:
            patch = make_patch(whole.data, whole.names) if whole.names is not None else None
            # The patch has all of it.
            whole = replace(whole, names=None)
            built.append(BuiltLoad(load=load, file=file, data=whole.data, merged=whole, patch=patch))
        else:
            built.append(BuiltLoad(load=load, file=file, data=files[load.module], merged=None))
    for note in late_notes({m.name: load.module for load in loads for m in load.modules}, members, edges):
        steps.say(f"  note: {note}")
    return BuiltStage(stage=stage, loads=tuple(built), seconds=time.monotonic() - start)


def _link_load(
    load: Load, members: Mapping[str, Member], exports: KernelExports | None, selection: Selection, steps: Steps
) -> Megamodule:
    with steps.step(f"prelink {load.module}") as step:
        merged = _prelink(load, members, exports, selection)
        step.note(f"{counted(len(merged.members), 'member')}, {human_bytes(len(merged.data))}")
    return merged


def _refuse_singles(loads: Sequence[Load], members: Mapping[str, Member]) -> None:
    for load in loads:
        if load.single is not None:
            raise MegamodError(
                f"{members[load.module].file}: it {load.single}", hint="the profile says merge: required; leave it out"
            )


def stage_notes(built: Iterable[BuiltStage]) -> list[str]:
    """What the user should hear of the linked stages: a line for each fact, however many modules it holds for."""
    loads = [item for stage in built for item in stage.loads]
    reasons = {item.load.module: item.load.single for item in loads if item.load.single is not None}
    notes = []
    for reason, names in by_value(reasons).items():
        if len(names) == 1:
            notes.append(f"{names[0]} stays a module of its own: it {reason}")
            continue
        notes.append(f"{len(names)} modules stay on their own ({listed(names, shown=_SHOWN)}): each {reason}")
    return list(dict.fromkeys((*notes, *(note for item in loads if item.merged for note in item.merged.notes))))


def signed_stage(stage: BuiltStage, signer: Signer) -> BuiltStage:
    """*stage* with its megamodules signed; a single has the signature of whoever built it."""
    return replace(stage, loads=tuple(_signed(item, signer) if item.merged else item for item in stage.loads))


def _signed(item: BuiltLoad, signer: Signer) -> BuiltLoad:
    data, patch = signer.sign(item.data), None
    if item.patch is not None:
        patch = make_patch(data, signer.sign(apply_patch(item.data, item.patch)))
    return replace(item, data=data, patch=patch, signer=signer.name())


def require_signed(files: Mapping[str, bytes], signer: Signer, tree: ModuleTree) -> None:
    """Raises MegamodError for members that must not get *signer*'s signature: the kernel would not take them by their
    own. Without an image of the kernel its certificates are not known, and nothing is checked."""
    from megamod.image.signing.member_trust import member_trust  # with cryptography, which few builds need

    trust = member_trust(tree.kernel_files, host=None, own=read_certificate(signer.certificate))
    if trust is None:
        return
    for name, data in files.items():
        if why := trust.why_refused(data, file=name):
            hint = "if it is yours, sign it with your own key first: megamod sign"
            raise MegamodError(f"{tree.modules[name].path}: {why}", hint=hint)


def kernel_exports(selection: Selection, members: Mapping[str, Member], steps: Steps) -> KernelExports | None:
    """The kernel's own exports, checked against what the modules import."""
    files = selection.tree.kernel_files
    with steps.step("kernel") as step:
        exports, notes = search_exports(files)
        step.note(f"{exports.source}, {counted(len(exports.symbols), 'export')}" if exports else "no exports found")
    for note in notes:
        steps.say(f"  note: {note}")
    provided = frozenset(export.name for member in members.values() for export in member.exports)
    for member in members.values():
        check_imports(member, exports, provided)
    if exports is None and members:
        versions = any(member.has_versions for member in members.values())
        cost = "symbols reserved for one module's name are not known" if versions else "nor by the modules' versions"
        steps.say(
            f"  note: no kernel image, Module.symvers or System.map of {files.release} is found (--vmlinuz, --symvers, "
            f"--system-map): whether the kernel exports what modules import is not checked, {cost}"
        )
    return exports


def _prelink(
    load: Load, members: Mapping[str, Member], exports: KernelExports | None, selection: Selection
) -> Megamodule:
    profile = selection.profile
    chosen = [members[module.name] for module in load.modules]
    return prelink(
        chosen,
        PrelinkOptions(
            name=load.module,
            unwind=profile.unwind,
            tracing=profile.tracing,
            symbols=profile.symbols,
            static_calls=profile.static_calls,
            order=profile.order,
            imports=profile.imports,
            allow_taint=profile.allow_taint,
            kcfi=has_kcfi(find_config(selection.tree.kernel_files)),
            percpu_reserve=reserve_of(selection),
        ),
        ranks={m.name: tagged_rank(m.rank, members[m.name].info("initlevel")) for m in load.modules},
        after={module.name: module.after for module in load.modules},
        donors=_donors(chosen, exports, selection.tree),
        exported=_exported(chosen, exports, selection.tree),
        image=image_of(exports),
    )


def _donors(chosen: Sequence[Member], exports: KernelExports | None, tree: ModuleTree) -> dict[str, int]:
    """CRCs for the glue's imports: the kernel's own word, or that of any module that imports them."""
    if exports is not None and exports.has_crcs:
        return {name: export.crc for name, export in exports.symbols.items() if export.crc is not None}
    return find_glue_crcs(chosen, (module.path for module in tree.modules.values()))


def _exported(chosen: Sequence[Member], exports: KernelExports | None, tree: ModuleTree) -> Container[str] | None:
    """What the kernel exports, as far as the glue may want it; None if it is left to what versions there are."""
    if exports is not None:
        return exports.symbols
    if any(member.has_versions for member in chosen):
        return None
    return imported_anywhere(chosen, (module.path for module in tree.modules.values()))


def packed_stage(stage: BuiltStage) -> BuiltStage:
    """*stage* with files that the kernel does not unpack before user space: the loader does when their time comes."""
    return replace(stage, loads=tuple(replace(item, file=item.file + PACKED_ENDING) for item in stage.loads))


def original_path(name: str, *, packed: bool = False) -> str:
    """The path in the image of a member's own file."""
    return f"{ORIGINALS}/{name}.ko" + (PACKED_ENDING if packed else "")


def original_files(
    built: tuple[BuiltStage, ...], files: Mapping[str, bytes], *, packed: bool = False
) -> dict[str, bytes]:
    """What `fallback: modules` adds: path in the image → bytes of every member's own file, signature included."""
    names = [member.name for stage in built for item in stage.loads if item.merged for member in item.merged.members]
    return {
        original_path(name, packed=packed): compress_inside(files[name]) if packed else files[name] for name in names
    }


def loader_name(members: Mapping[str, Member], tree: ModuleTree) -> str:
    """The loader's name of the modules' architecture; if none is selected, of any module of the tree, or its kernel."""
    for member in members.values():
        return member.architecture.loader
    for module in tree.modules.values():
        return read_member(read_module_bytes(module.path), file=module.path.name).architecture.loader
    path = kernel_image_of(tree.kernel_files)
    if path is not None and (found := kernel_architecture(path)) is not None:
        return found
    hint = f"have the kernel's image there as {tree.folder / 'vmlinuz'}"
    raise MegamodError(
        f"{tree.folder}: no module and no kernel image near it: its architecture is not known", hint=hint
    )
