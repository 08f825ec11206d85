"""The recipe of ``megamod deploy``: the deferred stages of a profile, linked for the real root of a kernel.

Needs the kernel's modules and its initramfs: what that has is loaded before the real root is there, so it is not
deployed. Guarantees that everything was linked and verified before anything is written, and that a member is kept from
being loaded by itself only by the mask that the unit puts in place at boot, once it has seen that all fits.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megamod.build.arguments import usable_options
from megamod.build.contents import Contents
from megamod.build.link_stages import (
    BuiltStage,
    build_stage,
    kernel_exports,
    loader_name,
    read_selection,
    signed_stage,
    stage_notes,
)
from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.build.plan import plan_text
from megamod.build.recipe import make_manifest, make_plan
from megamod.build.stages import import_edges
from megamod.common.choices import Fallback
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.common.text import by_value, counted, human_bytes, listed
from megamod.hooks.link_set import options_for, untrusted, why_refused, with_dependents
from megamod.hooks.transaction import NewFile
from megamod.image.archive import read_image
from megamod.image.signing.member_trust import MemberTrust
from megamod.image.signing.sign import Signer
from megamod.loader.programs import ctl_binary
from megamod.machine.detect import detect
from megamod.machine.detected_yaml import detected_profile
from megamod.machine.device_path import ModuleReason
from megamod.machine.machine import Machine
from megamod.modules.modprobe_d import HOST_FOLDERS, ModprobeConfig, read_config
from megamod.modules.tree import ModuleTree, module_name, open_tree, read_index
from megamod.prelink.member import Member
from megamod.profile.model import Profile, Root, RootKind, TriggerKind
from megamod.profile.schema import find_profile, load_profile
from megamod.select.select import SelectedModule, SelectedStage, Selection, select

FOLDER = "usr/lib/megamod"
"""Where deployments lie, each as a link named as its kernel."""

VERSIONS = f"{FOLDER}/deployments"
"""What FOLDER/KVER is a link into: KVER-VERSION, a folder that is never changed."""

REQUEST = f"/{FOLDER}/request"
GATE = f"/{FOLDER}/gate"

# Where the generators put a kernel's image.
_IMAGES = ("boot/initrd.img-{}", "boot/initramfs-{}.img", "boot/initrd-{}")
# These stages are loaded as soon as the unit starts. For a member of one, udev waits; of others it is told nothing.
_AT_ONCE = (TriggerKind.NOW, TriggerKind.USERSPACE)
# Aliases that the kernel asks for by itself when a program needs what they name; a device's begins with its bus.
_BY_NAME = ("fs-", "crypto-", "net-pf-", "char-major-", "block-major-", "devname:", "nls_", "dm-", "ip_set_", "nft-")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest:
    """What to deploy for *kernel* below *root*: the deferred stages of *profile* (a name or a file; None: what
    *machine* needs). *again* are the members of earlier deployments: a machine that runs one shows them no more."""

    kernel: str
    root: Path
    profile: str | None
    machine: Machine
    again: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What was linked: path below the root → file; members by stage; the stages for their maps."""

    files: Mapping[str, NewFile]
    stages: tuple[BuiltStage, ...]
    members: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]

    def summary(self) -> str:
        size = sum(len(new.data) for name, new in self.files.items() if name.endswith(".ko"))
        stages = ", ".join(f"{stage} {len(names)}" for stage, names in self.members.items())
        return f"{counted(sum(map(len, self.members.values())), 'module')} in {stages}; {human_bytes(size)}"


def link_deployment(request: DeployRequest, *, steps: Steps) -> Deployment:
    """Link everything; nothing is written. Raises MegamodError if nothing can be deployed, or must not be."""
    tree = open_kernel(request.root, request.kernel)
    stamps = _stamps(tree)
    config = read_config([request.root / name for name in HOST_FOLDERS])
    signer = Signer.for_machine(tree, host=request.root)
    full = _selection(request, tree)
    notes = list(config.notes)
    early = _in_the_image(request.root, request.kernel, notes)

    trust = signer.trust_for(tree, host=request.root) if signer is not None else None
    left, members = _left(full, early, tree, config, trust)
    stages = tuple(_without(stage, {*early, *left, *_critical(full)}) for stage in full.stages[1:])
    deployed = {module.name for stage in stages for module in stage.modules}
    if not deployed:
        raise MegamodError(
            f"{request.kernel}: nothing is left to deploy", hint="what the initramfs has is not deployed"
        )
    needed = sorted({need for name in deployed for need in tree.modules[name].depends} - deployed)
    # What is needed from outside is there by then: it is linked against, and not in the plan.
    outside = replace(
        full.stages[0],
        modules=tuple(m for stage in full.stages for m in stage.modules if m.name in needed),
    )
    selection = replace(
        full,
        stages=(outside, *(stage for stage in stages if stage.modules)),
        profile=replace(
            full.profile,
            root=Root(kind=RootKind.CHAIN, path="/init"),
            fallback=Fallback.NONE,
            options=(
                *usable_options(full.profile.options, members)[0],
                *options_for(config, {n: members[n] for n in deployed}, notes),
            ),
        ),
    )
    files, members = read_selection(selection)
    edges = {name: found & deployed for name, found in import_edges(members).items()}
    exports = kernel_exports(selection, members, steps)
    built = tuple(
        build_stage(stage, files, members, import_edges(members), exports, selection, steps)
        for stage in selection.stages[1:]
    )
    if signer is not None:
        built = tuple(signed_stage(stage, signer) for stage in built)

    # Beyond this point only what has been decided is written down.
    nothing = BuiltStage(stage=replace(outside, modules=()), loads=(), seconds=0.0)
    masks = [line for stage in selection.stages[1:] for line in _mask(stage, tree, members)]
    dep = read_index(tree.folder / "modules.dep").splitlines()
    paths = {name: tree.modules[name].relpath for name in sorted(deployed)}
    lines = {
        "mask": _lines(masks),
        "members": _lines(sorted(deployed)),
        "masked": _lines(f"install {name} /bin/true" for name in sorted(deployed)),
        "needed": _lines(needed),
        "files": _lines(paths.values()),
        "stamps": _lines(f"{stamps[name]} {path}" for name, path in paths.items()),
        "sums": _lines(_sums(tree, stamps, paths)),
        "digests": _lines(f"{hashlib.sha256(files[name]).hexdigest()} {name}" for name in paths),
        "held": _lines(name for name in sorted(tree.modules) if deployed & {name, *tree.modules[name].depends}),
        "dep": _lines(line for line in dep if module_name(line.split(":")[0].rpartition("/")[2]) in deployed),
    }

    def with_plan(place: str) -> tuple[tuple[BuiltStage, ...], dict[str, bytes]]:
        placed = tuple(_placed(stage, place) for stage in built)
        plan = replace(make_plan(selection, (nothing, *placed), members, edges, gate=GATE), dependents={})
        manifest = make_manifest(selection, (nothing, *placed), files, Contents(files=()))
        return placed, {**lines, "plan": plan_text(plan), "manifest.json": manifest.to_json()}

    # Another content is another folder, so that none is ever changed.
    place = f"{VERSIONS}/{request.kernel}"
    place = f"{place}-{_version(*with_plan(place))}"
    built, lines = with_plan(place)
    return Deployment(
        files={
            **{f"{place}/{name}": NewFile(data=data) for name, data in lines.items()},
            f"{place}/ctl": NewFile(data=ctl_binary(loader_name(members, tree)), mode=0o755),
            **{
                path: NewFile(data=data) for stage in built for load in stage.loads for path, data in load.files.items()
            },
        },
        stages=built,
        members={stage.name: tuple(m.name for m in stage.modules) for stage in selection.stages[1:]},
        notes=(
            *notes,
            *stage_notes(built),
            *(
                f"{listed(names)} {'is' if len(names) == 1 else 'are'} not deployed: {why}"
                for why, names in by_value(dict(sorted(left.items()))).items()
            ),
        ),
    )


def open_kernel(root: Path, kernel: str) -> ModuleTree:
    """The modules of *kernel* below *root*."""
    for place in ("usr/lib/modules", "lib/modules"):
        if (root / place / kernel).is_dir():
            return open_tree(str(root / place / kernel))
    raise MegamodError(f"{root / 'usr/lib/modules' / kernel}: no such folder", hint="name another kernel with -k")


def _selection(request: DeployRequest, tree: ModuleTree) -> Selection:
    if request.profile is not None:
        return select(find_profile(request.profile), tree, detect=lambda: detect(request.machine, tree).by_stage())
    detection = detect(request.machine, tree)
    known = {found.name for found in (*detection.critical, *detection.deferred)}
    more = [
        ModuleReason(name=name, why="was deployed before")
        for name in request.again
        if name in tree.modules.keys() - known
    ]
    detection = replace(detection, deferred=tuple(sorted((*detection.deferred, *more), key=lambda found: found.name)))
    return select(_written(detected_profile(detection, tree, name="detected")), tree)


def _written(text: str) -> Profile:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detected.yaml"
        path.write_text(text)
        return load_profile(path)


def _in_the_image(root: Path, kernel: str, notes: list[str]) -> set[str]:
    """The modules that the initramfs of *kernel* has, as files or merged."""
    path = next((path for name in _IMAGES if (path := root / name.format(kernel)).is_file()), None)
    if path is None:
        notes.append(f"no initramfs of {kernel} below {root / 'boot'}: only the critical stage counts as loaded there")
        return set()
    found: set[str] = set()
    for entry in read_image(path):
        name = module_name(entry.path.rpartition("/")[2]) if "/modules/" in entry.path else None
        if name is not None:
            found.add(name)
        if entry.path == MANIFEST_PATH:
            manifest = Manifest.from_json(entry.data)
            found |= {m.name for stage in manifest.stages for load in stage.loads for m in load.members}
    return found


def _critical(selection: Selection) -> set[str]:
    return {module.name for module in selection.stages[0].modules}


def _left(
    selection: Selection, early: Iterable[str], tree: ModuleTree, config: ModprobeConfig, trust: MemberTrust | None
) -> tuple[dict[str, str], dict[str, Member]]:
    """Why each module that is not deployed is not, with all that needs one of them; the parsed modules."""
    files, members = read_selection(selection)
    there = {*early, *_critical(selection)}
    left = untrusted({name: data for name, data in files.items() if name not in there}, trust)
    left |= {
        name: "modprobe.d has an install command for it"
        for name in members
        if name not in there and config.install(name)
    }
    left |= {
        name: why
        for name, member in members.items()
        if name not in there and (why := why_refused(member, config)) is not None
    }
    return with_dependents(left, members.keys() - there, tree), members


def _without(stage: SelectedStage, gone: set[str]) -> SelectedStage:
    def better(module: SelectedModule) -> SelectedModule:
        return replace(module, after=tuple(name for name in module.after if name not in gone))

    return replace(stage, modules=tuple(better(module) for module in stage.modules if module.name not in gone))


def _version(stages: Iterable[BuiltStage], lines: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for data in (*(load.data for stage in stages for load in stage.loads), *lines.values()):
        digest.update(b"%d\n" % len(data) + data)
    return digest.hexdigest()[:16]


def _stamps(tree: ModuleTree) -> dict[str, str]:
    """Size and time of each module's file, as stat(1) prints them, taken before the files are read."""
    found = {}
    for name, module in tree.modules.items():
        with contextlib.suppress(OSError):
            status = module.path.stat()
            found[name] = f"{status.st_size} {status.st_mtime_ns // 10**9}"
    return found


def _sums(tree: ModuleTree, stamps: Mapping[str, str], paths: Mapping[str, str]) -> list[str]:
    """SHA-256 and path of the files whose time says nothing: ostree gives all files the time 0, and Nix 1."""
    old = [name for name in paths if int(stamps[name].split()[1]) <= 1]
    return [f"{hashlib.sha256(tree.modules[name].path.read_bytes()).hexdigest()}  {paths[name]}" for name in old]


def _placed(stage: BuiltStage, place: str) -> BuiltStage:
    """The loads at their paths on the real root: what lies outside /megamod the keeper never removes."""
    return replace(
        stage,
        loads=tuple(replace(load, file=f"{place}/{load.load.module}.ko") for load in stage.loads),
    )


def _mask(stage: SelectedStage, tree: ModuleTree, members: Mapping[str, Member]) -> Sequence[str]:
    """modprobe.d lines that have a request for a member wait for its stage. Devices of members that are loaded later
    are kept from asking, unless something else could ask by an alias: that would be turned away without a word."""
    late = stage.trigger is not None and stage.trigger.kind not in _AT_ONCE
    lines = []
    for module in stage.modules:
        if late and not any(alias.startswith(_BY_NAME) for alias in members[module.name].infos("alias")):
            lines.append(f"blacklist {module.name}")
        lines.append(f"install {module.name} {REQUEST} {stage.name} {module.name}")
        if module.name in tree.softdeps:
            # kmod 30 ignores `install` for a module that has a softdep.
            lines.append(f"softdep {module.name} pre:")
    return lines


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
