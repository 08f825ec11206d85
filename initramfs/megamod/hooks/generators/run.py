"""The recipe of ``megamod hook run``: a generator's image root in, the same with a megamodule in place of its members.

Everything is decided, linked and verified before the first byte of the image changes; then all changes are made or
none. So whatever fails, the image is the one that the generator would have made alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from megamod.build.contents import Contents
from megamod.build.firmware import FirmwareFolder
from megamod.build.link_stages import BuiltStage, loader_name, original_files, signed_stage
from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.build.microcode import EarlyArchive
from megamod.build.plan import PLAN_PATH, plan_text
from megamod.build.recipe import make_manifest
from megamod.common.choices import Fallback
from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.common.text import by_value, canonical, counted, human_bytes, listed
from megamod.hooks.contained import inside
from megamod.hooks.link_set import Merge, merge_choice
from megamod.hooks.map_store import keep_maps
from megamod.hooks.select_modules import Choice, ImageModules, choose, chosen_modules, read_image_modules
from megamod.hooks.transaction import IMAGE_JOURNAL, IMAGE_LOCK, Changes, NewFile, apply_changes, locked
from megamod.image.signing.sign import Signer
from megamod.loader.programs import ctl_binary, loader_binary
from megamod.machine.machine import Machine, open_machine
from megamod.modules.modprobe_d import HOST_FOLDERS, ModprobeConfig, read_config
from megamod.modules.tree import ModuleTree, module_name, open_tree, read_index
from megamod.prelink.read import read_member

LOADER_PATH = "megamod-init"
CTL_PATH = "megamod/ctl"
ORIGINALS = "megamod/originals"

Generator = Literal["dracut", "initramfs-tools", "mkinitcpio"]
GENERATORS: tuple[Generator, ...] = ("dracut", "initramfs-tools", "mkinitcpio")


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRequest:
    """What a hook asks for: *image_root* is the folder that becomes the image, *modules* the machine's own module
    folder, *machine* a recorded machine (None: this one), *exclude* globs of modules that stay files. *chosen* are the
    modules' files where the generator copies them later than it calls its hooks (mkinitcpio). *hold_places* leaves an
    empty folder where a member's file would be: dracut-install, which initramfs-tools calls once more after the hooks,
    takes it for the file (dracut_install, src/install/dracut-install.c, dracut-ng 106), and depmod and kmod find no
    module there."""

    generator: Generator
    image_root: Path
    kernel: str
    modules: Path
    machine: Path | None = None
    everything: bool = False
    exclude: tuple[str, ...] = ()
    fallback: Fallback = Fallback.MODULES
    chosen: tuple[Path, ...] | None = None
    hold_places: bool = False
    host: Path = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class HookReport:
    """What was changed: *members* in init order, *added* files that the generator had missed; bytes before packing."""

    members: tuple[str, ...]
    added: tuple[str, ...]
    bytes: int
    fallback_bytes: int
    notes: tuple[str, ...]

    def summary(self) -> str:
        """The line for the generator's output."""
        text = f"{counted(len(self.members), 'module')} merged into one, {human_bytes(self.bytes)}"
        if self.fallback_bytes:
            text += f"; kept for megamod=off: {human_bytes(self.fallback_bytes)} before compression"
        if self.added:
            text += f"; {counted(len(self.added), 'module')} added that the mask had hidden from the generator"
        return text


def run_hook(request: HookRequest, *, steps: Steps) -> HookReport:
    """Change the image root; raises MegamodError with the image root untouched."""
    with locked(request.image_root, lock=IMAGE_LOCK, journal=IMAGE_JOURNAL):
        return _run(request, steps)


def _run(request: HookRequest, steps: Steps) -> HookReport:
    if (done := _done_before(request)) is not None:
        return done
    tree = open_tree(str(request.modules))
    if tree.release != request.kernel:
        raise MegamodError(f"{request.modules}: the modules are of {tree.release}, the image is for {request.kernel}")
    image = (
        chosen_modules(request.image_root, tree, request.chosen)
        if request.chosen is not None
        else read_image_modules(request.image_root, request.kernel)
    )
    folders = [inside(request.image_root, name) for name in HOST_FOLDERS]
    config = read_config([*folders, *(request.host / name for name in HOST_FOLDERS)])
    choice = _choice(request, image, tree, _machine(request), config)
    signer = Signer.for_machine(tree, host=request.host)
    merge = merge_choice(
        choice,
        image,
        tree,
        config,
        generator=request.generator,
        fallback=request.fallback,
        trust=signer.trust_for(tree, host=request.host) if signer is not None else None,
        steps=steps,
    )
    stage = signed_stage(merge.stage, signer) if signer is not None else merge.stage
    # Beyond this point only what has been decided is written down.
    originals = original_files((merge.stage,), merge.files) if request.fallback == Fallback.MODULES else {}
    added = [name for name in choice.missed if name not in merge.merged]
    write = {
        **_loader_files(merge, stage),
        **{name: NewFile(data=data) for name, data in originals.items()},
        **_missed_files(added, image, tree),
        **_missed_firmware(sorted({*added, *merge.merged} - image.files.keys()), image, tree, request.host),
        **(_builtin_file(merge, image, tree) if request.chosen is None else {}),
    }
    # What mkinitcpio has yet to copy its hook takes from the list.
    gone = [] if request.chosen is not None else [path for name, path in image.files.items() if name in merge.merged]
    held = [_place(name, image, tree) for name in sorted(merge.merged)] if request.hold_places else []
    apply_changes(request.image_root, Changes(write=write, remove=gone, folders=held))
    no_map = keep_maps(request.host, request.kernel, "image", (stage,))
    return HookReport(
        members=tuple(m.name for load in merge.stage.loads if load.merged for m in load.merged.members),
        added=tuple(added),
        bytes=sum(len(load.data) for load in stage.loads),
        fallback_bytes=sum(map(len, originals.values())),
        notes=(
            *merge.notes,
            *(
                f"{listed(names)} {'stays a file' if len(names) == 1 else 'stay files'}: {why}"
                for why, names in by_value(dict(sorted(merge.left.items()))).items()
            ),
            *([no_map] if no_map else []),
        ),
    )


def _done_before(request: HookRequest) -> HookReport | None:
    """The report of an image root that has been through this already: whatever else is in it by now, its megamodule is
    whole, and the members' files are not there to make another one."""
    path = inside(request.image_root, MANIFEST_PATH)
    if not path.is_file() or not inside(request.image_root, PLAN_PATH).is_file():
        return None
    manifest = Manifest.from_json(path.read_bytes(), source=str(path))
    if manifest.kernel != request.kernel:
        raise MegamodError(f"{path}: the image has a megamodule for {manifest.kernel}, not {request.kernel}")
    loads = [load for stage in manifest.stages for load in stage.loads]
    originals = inside(request.image_root, ORIGINALS)
    return HookReport(
        members=tuple(member.name for load in loads if load.kind == "merged" for member in load.members),
        added=(),
        bytes=sum(load.bytes for load in loads),
        fallback_bytes=sum(file.stat().st_size for file in originals.iterdir()) if originals.is_dir() else 0,
        notes=("the image already has its megamodule: nothing was changed",),
    )


def _machine(request: HookRequest) -> Machine | None:
    if request.everything and request.machine is None:
        machine = Machine(root=request.host)
        return machine if machine.entries("sys/devices") else None
    return open_machine(request.machine) if request.machine else Machine(root=request.host)


def _choice(
    request: HookRequest, image: ImageModules, tree: ModuleTree, machine: Machine | None, config: ModprobeConfig
) -> Choice:
    choice = choose(image, tree, config, machine, everything=request.everything)
    patterns = [canonical(pattern) for pattern in request.exclude]
    excluded = {name for name in tree.modules if any(fnmatchcase(name, pattern) for pattern in patterns)}
    kept = {
        name: why
        for name, why in choice.merge.items()
        if name not in excluded and not excluded.intersection(tree.modules[name].depends)
    }
    return replace(choice, merge=kept)


def _loader_files(merge: Merge, stage: BuiltStage) -> dict[str, NewFile]:
    arch = loader_name(merge.members, merge.selection.tree)
    manifest = make_manifest(merge.selection, (stage,), merge.files, Contents(files=()), EarlyArchive())
    return {
        LOADER_PATH: NewFile(data=loader_binary(arch), mode=0o755),
        CTL_PATH: NewFile(data=ctl_binary(arch), mode=0o755),
        PLAN_PATH: NewFile(data=plan_text(merge.plan)),
        MANIFEST_PATH: NewFile(data=manifest.to_json()),
        **{path: NewFile(data=data) for load in stage.loads for path, data in load.files.items()},
    }


def _missed_files(names: Sequence[str], image: ImageModules, tree: ModuleTree) -> dict[str, NewFile]:
    """Modules that the image needs, with their firmware, where the generator would have put them."""
    files = {}
    for name in names:
        place = _place(name, image, tree).relative_to(image.root)
        files[str(place)] = NewFile(data=tree.modules[name].path.read_bytes())
    return files


def _place(name: str, image: ImageModules, tree: ModuleTree) -> Path:
    """Where the file of a module is in the image, or would be."""
    return image.files.get(name) or image.folder / tree.modules[name].relpath


def _missed_firmware(names: Sequence[str], image: ImageModules, tree: ModuleTree, host: Path) -> dict[str, NewFile]:
    """The firmware of *names* that is not in the image, packed as it is: the same kernel reads it on the real root."""
    firmware = host / "lib/firmware"
    folder = FirmwareFolder(path=firmware, release=tree.release)
    files: dict[str, NewFile] = {}
    for name in names:
        module = tree.modules[name]
        member = read_member(read_module_bytes(module.path), file=module.path.name)
        for wanted in member.infos("firmware"):
            found = folder.find(wanted)
            if found is None:
                continue
            place = f"lib/firmware/{found.relative_to(firmware)}"
            if not inside(image.root, place).exists():
                files[place] = NewFile(data=found.read_bytes())
    return files


def _builtin_file(merge: Merge, image: ImageModules, tree: ModuleTree) -> Mapping[str, NewFile]:
    """modules.builtin with the members in it, for the generator's depmod: then `modprobe MEMBER` is content."""
    path = image.folder / "modules.builtin"
    text = read_index(inside(image.root, path.relative_to(image.root))) or read_index(tree.folder / "modules.builtin")
    known = {module_name(line.strip()) for line in text.splitlines()}
    lines = [
        f"{relpath[: relpath.index('.ko') + 3]}\n"
        for name in sorted(merge.merged - known)
        if (relpath := tree.modules[name].relpath)
    ]
    separator = "" if not text or text.endswith("\n") else "\n"
    return {str(path.relative_to(image.root)): NewFile(data=f"{text}{separator}{''.join(lines)}".encode())}
