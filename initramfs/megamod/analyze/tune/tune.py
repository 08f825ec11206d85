"""``megamod tune``: boot a profile, find what its critical stage holds in vain, propose a split, and boot that to
prove it.

Both boots are under icount. What is compared is the time from the loader's start to user space, without waits for the
host's devices.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megamod.analyze.chart.advice import advice_lines
from megamod.analyze.chart.budget import USER_SPACE, spent
from megamod.analyze.chart.record import BootRecord
from megamod.analyze.chart.record_boot import boot_record
from megamod.analyze.chart.record_source import read_record, record_from_log
from megamod.analyze.chart.text import milliseconds
from megamod.analyze.tune.guest_probe import BREAK_WORD, has_look, look_archive, machine_of
from megamod.analyze.tune.split_profile import Usage, find_move, find_usage
from megamod.analyze.tune.yaml_edit import difference, moved
from megamod.boot.apt import host_architecture
from megamod.boot.debian import fetch_package_files
from megamod.boot.disk import host_busybox
from megamod.boot.timeline import BootReport, image_architecture
from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.build.recipe import build_image
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write
from megamod.common.host import cache_folder
from megamod.common.progress import Steps
from megamod.common.text import counted, table
from megamod.image.archive import read_image
from megamod.machine.machine import Machine
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile, RootKind
from megamod.profile.schema import load_profile
from megamod.select.select import select

_SHOWN = 20
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "arm": "armhf", "riscv64": "riscv64"}
_BUSYBOX_SUITE = "trixie"


@dataclass(frozen=True, slots=True, kw_only=True)
class Boots:
    """How to boot: kernel, disks, words for its command line, the guest's memory in MiB and the time it may take."""

    vmlinuz: Path
    disks: tuple[Path, ...]
    append: str
    memory: int
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What was found: *patch* is empty if there is nothing to move. *before* and *after* are nanoseconds from the
    loader's start to user space, *after* None without a boot to prove it. *advice*: what else would shorten it."""

    usage: Usage
    stage: str
    patch: str
    text: str
    before: int
    after: int | None
    advice: tuple[str, ...] = ()


def tune(
    path: Path,
    tree: ModuleTree,
    *,
    boots: Boots | None,
    recorded: Path | None,
    machine: Path | None,
    needs: Sequence[str],
    log: Path | None,
    steps: Steps,
) -> Proposal:
    """Look at a boot of the profile in the file *path*, from *recorded* or made now, and propose a split.

    Raises MegamodError where the boot does not come to its root, or the proposal does not reach user space.
    """
    profile = load_profile(path)
    if profile.root.kind != RootKind.CMDLINE:
        raise MegamodError(f"{path}: root: {profile.root.kind}: what its program needs is not known")
    selection = select(profile, tree)
    with tempfile.TemporaryDirectory(prefix="megamod-tune-") as name:
        folder = Path(name)
        image = folder / "before.img"
        _build(profile, tree, image, steps, "build")
        sizes = _sizes(image)
        if recorded is None:
            if boots is None:
                raise MegamodError("nothing to look at", hint="--vmlinuz FILE, or --recorded LOG")
            with steps.step("boot"):
                console = _look(image, boots, folder, steps=steps)
            if log is not None:
                atomic_write(log, console.encode())
            record = record_from_log(console, name=str(path))
        else:
            record = read_record(recorded)
            console = recorded.read_text(errors="replace").replace("\r", "")
            if record.kernel and record.kernel != tree.release:
                raise MegamodError(f"{recorded}: is of kernel {record.kernel}, the modules are of {tree.release}")
        seen = _machine(console, machine, folder / "machine", str(recorded or path))
        usage = find_usage(selection, tree, seen, needs=needs, record=record, sizes=sizes)
        before = spent(record, USER_SPACE).counted
        advice = record.advice
        if boots is not None:
            with steps.step("boot, with the kernel's initcalls"):
                advice = _boot(image, boots, append=boots.append, initcalls=True)[0].advice
        move = find_move(profile, path, tree, usage)
        text = path.read_bytes().decode("utf-8-sig")
        if move is None:
            return Proposal(usage=usage, stage="", patch="", text=text, before=before, after=None, advice=advice)
        changed = moved(text, move)
        after = None
        with _beside(path, changed, folder) as candidate:
            proposed = load_profile(candidate)
            if boots is not None:
                proof = folder / "after.img"
                _build(proposed, tree, proof, steps, "build the proposal")
                with steps.step("boot the proposal"):
                    after = _proof(proof, boots)
            else:
                select(proposed, tree)
        return Proposal(
            usage=usage,
            stage=move.stage,
            patch=difference(text, changed, path),
            text=changed,
            before=before,
            after=after,
            advice=advice,
        )


def _build(profile: Profile, tree: ModuleTree, image: Path, steps: Steps, what: str) -> None:
    with steps.step(what), Path(os.devnull).open("w") as nowhere:
        build_image(profile, tree, image, steps=Steps(nowhere, quiet=True))


def _sizes(image: Path) -> dict[str, int]:
    """Bytes of each module in the image's critical stage."""
    manifest = next(entry.data for entry in read_image(image) if entry.path == MANIFEST_PATH)
    loads = Manifest.from_json(manifest).stages[0].loads
    return {member.name: member.bytes for load in loads for member in load.members}


def _look(image: Path, boots: Boots, folder: Path, *, steps: Steps) -> str:
    """The console of a boot that shows times and, before user space, the guest's /sys."""
    architecture = _DEBIAN[image_architecture(image)]
    try:
        if architecture != host_architecture():
            raise MegamodError("another architecture")
        busybox = host_busybox()
    except MegamodError:
        tree = fetch_package_files(
            "busybox-static", _BUSYBOX_SUITE, architecture=architecture, cache=cache_folder(), say=steps.say
        )
        busybox = next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.is_file())
    data = image.read_bytes()
    both = folder / "look.img"
    # An archive begins at a multiple of four (unpack_to_rootfs, init/initramfs.c, 6.1); zeros before it are skipped.
    both.write_bytes(data + bytes(-len(data) % 4) + look_archive(busybox.read_bytes()))
    log = folder / "look.log"
    _record, report = _boot(both, boots, append=f"{boots.append} {BREAK_WORD}", log=log)
    if not report.ok:
        raise MegamodError(f"the boot failed: {report.result.tail(1).strip()}", hint="megamod boot shows more of it")
    return log.read_text()


def _proof(image: Path, boots: Boots) -> int:
    """Nanoseconds from the loader's start to user space."""
    record, report = _boot(image, boots, append=boots.append)
    if not report.ok:
        raise MegamodError(
            f"with the proposal the boot does not reach user space: {report.result.tail(1).strip()}",
            hint="--need names what must stay",
        )
    return spent(record, USER_SPACE).counted


def _boot(
    image: Path, boots: Boots, *, append: str, log: Path | None = None, initcalls: bool = False
) -> tuple[BootRecord, BootReport]:
    return boot_record(
        image,
        vmlinuz=boots.vmlinuz,
        disks=boots.disks,
        append=append.strip(),
        memory=boots.memory,
        timeout=boots.timeout,
        events=False,
        initcalls=initcalls,
        wait_for=(),
        log=log,
    )


def _machine(console: str, machine: Path | None, folder: Path, name: str) -> Machine:
    if machine is not None:
        return Machine(root=machine)
    if not has_look(console):
        hint = "record with `megamod tune … --log`, or give --machine a folder of `megamod detect --record`"
        raise MegamodError(f"{name}: it does not show what root and console use", hint=hint)
    folder.mkdir()
    return machine_of(console, folder)


@contextlib.contextmanager
def _beside(path: Path, text: str, folder: Path) -> Iterator[Path]:
    """The text as a file in the profile's own folder, where its relative paths hold, for a while."""
    place = path.parent if os.access(path.parent, os.W_OK) else folder
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".yaml", dir=place)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        yield Path(name)
    finally:
        Path(name).unlink()


def proposal_text(proposal: Proposal) -> str:
    """What was found, the patch, what it saves, and what else would."""
    return "\n".join([_found_text(proposal), *advice_lines(proposal.advice)])


def _found_text(proposal: Proposal) -> str:
    usage = proposal.usage
    total = counted(len(usage.used) + len(usage.idle), "module")
    lines = [
        f"critical: {total}, {len(usage.used)} of them for root, console and needs; "
        f"user space {milliseconds(proposal.before)} ms after the loader's start"
    ]
    if usage.idle:
        rows = [
            [each.name, milliseconds(each.init), milliseconds(each.share), milliseconds(each.init + each.share)]
            for each in usage.idle[:_SHOWN]
        ]
        if len(usage.idle) > _SHOWN:
            rest = usage.idle[_SHOWN:]
            sums = [sum(each.init for each in rest), sum(each.share for each in rest)]
            rows.append([counted(len(rest), "other"), *map(milliseconds, [*sums, sum(sums)])])
        rows.append(["all", *_totals(usage)])
        header = ["not needed before user space", "init ms", "part of the call ms", "together ms"]
        lines += ["", table(header, rows, left=1)]
    if not proposal.patch:
        return "\n".join([*lines, "", "nothing to move: everything that it names is needed"])
    expected = max(0, proposal.before - usage.saving)
    lines += ["", proposal.patch, f"expected: {milliseconds(proposal.before)} → about {milliseconds(expected)} ms"]
    if proposal.after is not None:
        was, is_now = milliseconds(proposal.before), milliseconds(proposal.after)
        lines.append(f"booted:   {was} → {is_now} ms, user space reached")
    return "\n".join(lines)


def _totals(usage: Usage) -> list[str]:
    sums = [sum(each.init for each in usage.idle), sum(each.share for each in usage.idle)]
    return [milliseconds(value) for value in (*sums, sum(sums))]
