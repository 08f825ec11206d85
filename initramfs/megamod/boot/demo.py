"""``megamod demo``: the shipped profile ``vm`` booted twice in QEMU, its modules one by one and linked, side by side.

Needs QEMU, mkfs.ext4, a static busybox and a kernel: this machine's, or a Debian one that the package tools download.
Both boots have the same kernel, loader, stages, modules and root; the first loads the stock files, each with a call of
its own. Guest time counts instructions, so the figures do not depend on this machine.
"""

from __future__ import annotations

import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from megamod.boot.apt import host_architecture
from megamod.boot.console import Event, EventKind, Timeline
from megamod.boot.debian import Kernel, fetch_kernel, fetch_package_files, host_kernel
from megamod.boot.disk import busybox_root, host_busybox, make_disk
from megamod.boot.timeline import BootReport, boot_image, failure_words
from megamod.build.arguments import arguments
from megamod.build.link_stages import read_selection
from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.build.plan import CTL_PATH, PLAN_PATH, Plan, PlanLoad, PlanModule, PlanStage, plan_text
from megamod.build.recipe import build_image
from megamod.build.stages import import_edges
from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder, find_program
from megamod.common.progress import Steps
from megamod.common.text import human_bytes, human_seconds, table
from megamod.image.archive import read_image, write_image
from megamod.image.cpio import Entry
from megamod.modules.tree import ModuleTree, open_tree
from megamod.profile.model import Profile
from megamod.profile.schema import find_profile
from megamod.select.select import select

_PROFILE = "vm"
_SUITE = "bookworm"
_TIMEOUT = 300.0
_RUNS = 2

# The status file has "NAME STATE …" for each stage (loader/status.c). Sleeping costs no real time under icount.
_INIT = """\
echo "demo: user space"
n=0
while grep -qE '^[^ ]+ (waiting|loading) ' /run/megamod/status && [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done
echo "demo: /proc/modules"
cat /proc/modules
echo "demo: /run/megamod/status"
cat /run/megamod/status
echo "demo: end"
poweroff -f
"""


def run_demo(*, suite: str | None = None, keep: Path | None = None, out: TextIO = sys.stdout) -> int:
    """Run the demo and print what it shows to *out*; returns the exit status, 0 when both boots reached user space.

    *suite* names the Debian suite whose kernel is taken; by default this machine's own kernel is, if it can be read,
    and else that of bookworm. *keep* is a folder for images, disk and consoles, which are otherwise removed.
    """
    steps = Steps(sys.stderr)
    if keep is not None:
        _make_folder(keep)
        return _run_in(keep, suite, steps, out)
    with tempfile.TemporaryDirectory(prefix="megamod-demo-") as folder:
        return _run_in(Path(folder), suite, steps, out)


def _run_in(folder: Path, suite: str | None, steps: Steps, out: TextIO) -> int:
    # What is missing is said before anything is downloaded.
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("mkfs.ext4", "e2fsprogs")):
        find_program(program, package=package)
    profile = find_profile(_PROFILE)
    kernel = find_kernel(suite, profile=profile, cache=cache_folder(), steps=steps)
    tree = open_tree(str(kernel.modules))

    merged = folder / "megamod.img"
    build_image(profile, tree, merged, steps=steps)
    single = folder / "one-by-one.img"
    with steps.step("the same modules one by one"):
        write_image(single, one_by_one(profile, tree, read_image(merged)), method=profile.compress)
    disk = _make_root(folder, cache=cache_folder(), steps=steps)

    reports = []
    for title, image in (("one by one", single), ("megamod", merged)):
        runs = []
        for number in range(1, _RUNS + 1):
            with steps.step(f"boot {title}, {number} of {_RUNS}"):
                runs.append(boot_image(image, vmlinuz=kernel.vmlinuz, disks=[disk], icount=True, timeout=_TIMEOUT))
        # A wait for this machine's disk lets the guest's clock leap to its next timer.
        report = min(runs, key=lambda run: (not run.ok, run.timeline.load_seconds()))
        (folder / f"{image.stem}.console").write_text(report.result.console)
        reports.append(report)
    before, after = reports
    print(_text(kernel, before, after, images=(single, merged)), file=out)
    return 0 if before.ok and after.ok else 1


def find_kernel(suite: str | None, *, profile: Profile, cache: Path, steps: Steps) -> Kernel:
    """This machine's kernel if no *suite* is named and *profile* fits it, else the Debian kernel of the suite."""
    kernel = host_kernel() if suite is None else None
    if kernel is not None and not _fits(kernel, profile, steps):
        kernel = None
    if kernel is None:
        kernel = fetch_kernel(suite or _SUITE, architecture="amd64", cache=cache, say=steps.say)
    steps.say(f"kernel {kernel.release}: {kernel.vmlinuz}")
    return kernel


def _fits(kernel: Kernel, profile: Profile, steps: Steps) -> bool:
    """Whether the kernel has what the profile names: those made for clouds have no sound, for example."""
    if kernel.architecture != "amd64":
        return False
    try:
        select(profile, open_tree(str(kernel.modules)))
    except MegamodError as error:
        steps.say(f"this machine's kernel {kernel.release} is not taken: {error.message}")
        return False
    return True


def one_by_one(profile: Profile, tree: ModuleTree, merged: Sequence[Entry]) -> list[Entry]:
    """The entries of an image like *merged* whose plan has every member as a single, in the same order.

    The files are those of the tree, signature included, unpacked where they are compressed.
    """
    contents = {entry.path: entry.data for entry in merged}
    manifest = Manifest.from_json(contents[MANIFEST_PATH])
    selection = select(profile, tree)
    members = read_selection(selection)[1]
    edges = import_edges(members)
    triggers = {stage.name: stage.trigger for stage in selection.stages}
    stages: list[PlanStage] = []
    files: dict[str, bytes] = {}
    earlier: set[str] = set()
    for stage in manifest.stages:
        loads = []
        for name in (member.name for load in stage.loads for member in load.members):
            files[f"megamod/{name}.ko"] = read_module_bytes(tree.modules[name].path)
            loads.append(
                PlanLoad(
                    file=f"/megamod/{name}.ko",
                    name=name,
                    merged=False,
                    has_results=False,
                    modules=(PlanModule(name=name, needs=tuple(sorted(edges[name] & earlier))),),
                    arguments=arguments(profile.options, members, [name], merged=False),
                )
            )
            earlier.add(name)
        stages.append(PlanStage(name=stage.name, trigger=triggers[stage.name], loads=tuple(loads)))
    plan = Plan(
        kernel=tree.release,
        root=profile.root,
        probe=profile.probe,
        stages=tuple(stages),
        softdeps=(),
        dependents={},
    )
    kept = [entry for entry in merged if not entry.path.startswith("megamod/") or entry.path == CTL_PATH]
    files[PLAN_PATH] = plan_text(plan)
    return kept + [Entry(path=path, mode=stat.S_IFREG | 0o644, data=data) for path, data in files.items()]


def _make_root(folder: Path, *, cache: Path, steps: Steps) -> Path:
    """A small ext4 disk with busybox."""
    try:
        busybox = host_busybox()
    except MegamodError:
        # Nothing is installed for a demo: the package's one file is enough.
        tree = fetch_package_files(
            "busybox-static", _SUITE, architecture=host_architecture(), cache=cache, say=steps.say
        )
        busybox = next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.exists())
    with steps.step("ext4 root with busybox"), tempfile.TemporaryDirectory(prefix="megamod-root-") as root:
        return make_disk(folder / "root.ext4", busybox_root(Path(root), init=_INIT, busybox=busybox), label="demo")


def _text(kernel: Kernel, before: BootReport, after: BootReport, *, images: tuple[Path, Path]) -> str:
    parts = [f"kernel {kernel.release}, profile {_PROFILE}, QEMU with one instruction per nanosecond of guest time", ""]
    parts += [side_by_side(before.timeline, after.timeline), ""]
    parts += ["/proc/modules in the guest that megamod booted:"]
    parts += [f"  {line}" for line in _section(after.result.console, "demo: /proc/modules")]
    if after.timeline.failures:
        parts += ["", f"failures there ({len(after.timeline.failures)}; {len(before.timeline.failures)} one by one):"]
        parts += [f"  {failure_words(failure)}" for failure in after.timeline.failures[:10]]
    parts += ["", _summary(before.timeline, after.timeline, images)]
    for title, report in (("one by one", before), ("megamod", after)):
        if not report.ok:
            parts += ["", f"the boot {title} failed:", report.as_table()]
    return "\n".join(parts)


def side_by_side(before: Timeline, after: Timeline) -> str:
    """A table of the events of both boots, in the order of the second; times in seconds on the kernel's clock."""
    rows = []
    for event in after.events:
        if event.kind == EventKind.TRIGGERED:
            continue
        same = before.first(event.kind, event.name)
        rows.append([_name(event), _seconds(same), _seconds(event)])
    return table(["seconds since kernel start", "one by one", "megamod"], rows, left=1)


def _summary(before: Timeline, after: Timeline, images: tuple[Path, Path]) -> str:
    calls = [f"{len(each.loads)} calls {human_seconds(each.load_seconds())}" for each in (before, after)]
    critical = [human_seconds(each.load_seconds("critical")) for each in (before, after)]
    sizes = [human_bytes(path.stat().st_size) for path in images]
    lines = [
        f"all stages:  {calls[0]} → {calls[1]}, in the load calls, the drivers' own inits included",
        f"critical:    {critical[0]} → {critical[1]}, before user space can start",
        f"image:       {sizes[0]} → {sizes[1]}",
    ]
    spaces = [each.first(EventKind.USERSPACE) for each in (before, after)]
    if all(event is not None and event.seconds is not None for event in spaces):
        lines.append(f"user space:  {_seconds(spaces[0])} s → {_seconds(spaces[1])} s after the kernel's start")
    lines += [
        "The faster of two runs each. Guest time counts instructions: work is compared, not seconds of a real machine.",
        "Part of the gain is the link itself, part is what it leaves out: signatures, tracing tables, version lists.",
    ]
    return "\n".join(lines)


def _name(event: Event) -> str:
    match event.kind:
        case EventKind.KERNEL:
            return "kernel start"
        case EventKind.INIT:
            return "init (the loader) started"
        case EventKind.ROOT:
            return "root mounted"
        case EventKind.USERSPACE:
            return "user space"
        case _:
            return f"stage {event.name} loaded"


def _seconds(event: Event | None) -> str:
    return "-" if event is None or event.seconds is None else f"{event.seconds:.3f}"


def _section(console: str, title: str) -> list[str]:
    """The lines that the guest's init printed under *title*, without the kernel's between them."""
    lines = console.partition(f"{title}\n")[2].partition("\ndemo: ")[0].splitlines()
    return [line for line in lines if not line.startswith("[")]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MegamodError(f"{folder}: {error.strerror}") from None
