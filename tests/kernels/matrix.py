"""What megamod makes of each kernel that the tests have built: merged, booted, compared with the modules one by one.

    python -m tests.kernels.matrix [NAME…] [--report FILE] [--keep DIR] [--cases N] [--no-boot]

For each kernel `megamod build` makes an image of all its modules; the machine starts with it, its root on a virtio
disk, and starts again with the same modules as stock files in the same order by the same loader. The oracle judges
each megamodule of the image, and N random prelinks more. Exit status 1 if a row has a fault: an image that is not
built or does not boot, a module that is missing or a complaint that the stock modules do not have, a difference.
Modules that stay on their own are counted, with their reasons, and are not faults.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megamod.boot.debian import Kernel
from megamod.boot.demo import one_by_one
from megamod.boot.qemu import run_qemu
from megamod.build.percpu import percpu_reserve
from megamod.common.compression import decompress
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from megamod.image.archive import read_image, write_image
from megamod.kernel.config import parse_config
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.boot.image_fixtures import Guest, add_program, make_root, manifest_of
from tests.kernels.build import find_built
from tests.kernels.table import ROWS, Row
from tests.oracle import judge
from tests.properties.cases import draw, run_case
from tests.properties.modules import open_folder, plain

_CRITICAL = ("virtio_pci", "virtio_blk", "ext4")
"""What a root on a disk needs; a kernel that lacks some of it runs from the image."""
_PROFILE = """
name: matrix
critical: {{modules: [{critical}]}}
deferred: [{{name: late, modules: [{late}], after: userspace}}]
root: {{{root}}}
tracing: keep
allow-taint: true
compress: gzip
"""
# A kernel without ACPI cannot turn a PC off; QEMU ends at a reboot, too.
_SCRIPT = """
wait_for late
show mounts mount
show modules cat /proc/modules
show status cat /run/megamod/status
show log dmesg
reboot -f
"""
_DEVICES = ("-device", "virtio-rng-pci", "-device", "virtio-balloon-pci")
# The processor that has what the optimized hash drivers want.
_OWN = {"amd64": ("-cpu", "max")}
_CHANGING = re.compile(r"(CPU|PID): \d+|(?<=/0x)[0-9a-f]+|0x[0-9a-f]{8,}| \[\w+\]|\b[0-9a-f]{16}\b")
_MISSING = re.compile(r"megamod: (?:member|load) (\S+) (?:failed|skipped)\b.*")
# Unlike the project's own list this one may be wrong about a line: it is only shown.
_ODD = re.compile(r"CFI failure|BUG:|Oops|Internal error|Unable to handle|WARNING:|Invalid relocation|Kernel panic")
# mm/percpu.c pcpu_embed_first_chunk() and pcpu_page_first_chunk(): r is the reserve for modules.
_RESERVE = re.compile(r"percpu: .* pages/cpu .*\br(\d+) ")
_UNSET = "-"
_SHOWN = 12

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Result:
    """A row of the report; *faults* are what must not be, *notes* what explains a figure."""

    name: str
    release: str
    modules: int
    merged: int = 0
    singles: dict[str, int] = field(default_factory=dict)
    build: str = _UNSET
    boot: str = _UNSET
    stock: str = _UNSET
    status: str = _UNSET
    complaints: str = _UNSET
    oracle: str = _UNSET
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run_row(row: Row, kernel: Kernel, folder: Path, *, cases: int, boot: bool, timeout: float, say: Say) -> Result:
    """One kernel; images and consoles are left in *folder*. An exception becomes a fault: other rows are to follow."""
    result = Result(name=row.name, release=kernel.release, modules=0)
    try:
        _run_steps(row, kernel, folder, result, cases=cases, boot=boot, timeout=timeout, say=say)
    except Exception as error:
        result.faults.append(f"the row is broken off: {error!r}")
    return result


def _run_steps(
    row: Row, kernel: Kernel, folder: Path, result: Result, *, cases: int, boot: bool, timeout: float, say: Say
) -> None:
    tree = open_tree(str(kernel.modules))
    result.modules = len(tree.modules)
    profile, image = folder / "matrix.yaml", folder / "merged.img"
    profile.write_text(profile_text(tree.modules))
    say(f"{row.name}: build")
    problem = build_by_command(profile, kernel, image)
    if problem is None:
        result.build = "ok"
        _count_loads(image, result)
        say(f"{row.name}: oracle")
        _judge_image(image, kernel, result)
    else:
        result.build = "refused"
        result.faults.append(f"build: {problem}")
    _judge_cases(row, kernel, cases, result)
    if boot and problem is None:
        stock = folder / "stock.img"
        write_image(stock, one_by_one(load_profile(profile), tree, read_image(image)), method="gzip")
        say(f"{row.name}: boot one by one")
        wanted = start(kernel, stock, folder, timeout=timeout)
        say(f"{row.name}: boot merged")
        found = start(kernel, image, folder, timeout=timeout)
        compare_boots(wanted, found, result)
        config = parse_config(kernel.config.read_text(), source=kernel.config.name)
        compare_reserve(found.console, percpu_reserve(config, kernel.release), result)


def profile_text(modules: Iterable[str]) -> str:
    """The profile that has all *modules*: what the root needs before user space, all others after it; without a root on
    a disk the first half of them by name and the second."""
    names = sorted(modules)
    disk = _has_disk(names)
    critical = [*_CRITICAL] if disk else names[: len(names) // 2]
    return _PROFILE.format(
        critical=", ".join(critical),
        late=", ".join(name for name in names if name not in critical),
        root="from: cmdline" if disk else "exec: /main",
    )


def _has_disk(modules: Iterable[str]) -> bool:
    return set(_CRITICAL) <= set(modules)


def compare_boots(wanted: Guest, found: Guest, result: Result) -> None:
    """Enter into *result* how the boot *found* of the merged modules differs from *wanted*, the one of stock files."""
    result.stock, result.boot = _ending(wanted), _ending(found)
    if not _ended(wanted):
        result.notes += [f"one by one: {line}" for line in _last_words(wanted)]
    if not _ended(found):
        result.faults += [f"boot: {line}" for line in _last_words(found)]
        return
    stages = found.stages()
    counts = [sum(stage[number] for stage in stages.values()) for number in (1, 2, 3)]
    states = sorted({stage[0] for stage in stages.values()})
    result.status = f"{'/'.join(states)}: {counts[0]} ok, {counts[1]} failed, {counts[2]} skipped"
    result.faults += [f"stage {name}: {stage[0]}" for name, stage in stages.items() if stage[0] != "done"]
    if not found.log():
        result.notes.append("its log has no times: the kernel's own complaints are not recognized")
    usual = _missing(wanted)
    gone = [line for name, line in _missing(found).items() if name not in usual]
    result.faults += [f"missing: {line}" for line in gone]
    new = sorted(_complaints(found) - _complaints(wanted))
    result.complaints = str(len(new)) if _ended(wanted) else f"{len(new)}, not compared"
    result.faults += [f"complaint: {line}" for line in new]


def compare_reserve(console: str, assumed: int, result: Result) -> None:
    """Hold the reserve of per-CPU data that the build reckons with against what the kernel says that it has.

    A kernel without SMP says nothing, and one that allocates from the whole area says 0.
    """
    match = _RESERVE.search(console)
    if match and int(match[1]) not in (0, assumed):
        result.faults.append(f"per-CPU reserve: the kernel has {match[1]} bytes, the build reckons with {assumed}")


def report_text(results: Sequence[Result]) -> str:
    """The results as a table in Markdown, with faults and reasons below it."""
    lines = [
        "| kernel | merged | singles | build | boot | one by one | status | new complaints | oracle |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        cells = (
            r.release, f"{r.merged} of {r.modules}", str(sum(r.singles.values())),
            r.build, r.boot, r.stock, r.status, r.complaints, r.oracle,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for r in results:
        below = [f"- {count} on their own: {reason}" for reason, count in r.singles.items()]
        below += [f"- **{fault}**" for fault in r.faults[:_SHOWN]]
        if len(r.faults) > _SHOWN:
            below.append(f"- and {len(r.faults) - _SHOWN} faults more")
        below += [f"- {note}" for note in r.notes]
        if below:
            lines += ["", f"{r.release}:", "", *below]
    return "\n".join(lines) + "\n"


def build_by_command(profile: Path, kernel: Kernel, image: Path, *words: str | Path) -> str | None:
    """Run `megamod build` as a user does; its error, or None when there is an image."""
    program = Path(sys.executable).with_name("megamod")
    command = [program, "build", profile, "-k", kernel.modules, "-o", image, "--no-cache", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("megamod: ")]
    return " ".join(errors or done.stderr.splitlines()[-1:]) or f"exit status {done.returncode}"


def _count_loads(image: Path, result: Result) -> None:
    reasons: collections.Counter[str] = collections.Counter()
    for stage in manifest_of(image).stages:
        for load in stage.loads:
            if load.kind == "merged":
                result.merged += len(load.members)
            else:
                reasons[load.reason or "alone in its stage"] += 1
    result.singles = dict(reasons.most_common())


def _judge_image(image: Path, kernel: Kernel, result: Result) -> None:
    """Have the oracle compare each megamodule of the image with its members."""
    files = open_folder(kernel.modules).files
    contents = {entry.path: entry.data for entry in read_image(image)}
    maps = json.loads(image.with_name(f"{image.name}.map").read_text())["megamodules"]
    count = 0
    for stage in manifest_of(image).stages:
        for load in stage.loads:
            if load.kind != "merged":
                continue
            members = [(member.name, plain(files[member.name])) for member in load.members]
            found = judge(members, decompress(contents[load.file]), maps[load.module])
            count += len(found)
            result.faults += [f"oracle: {load.module}: {difference}" for difference in found[:_SHOWN]]
    result.oracle = f"{count} differences"


def _judge_cases(row: Row, kernel: Kernel, cases: int, result: Result) -> None:
    if not cases:
        return
    tree = open_folder(kernel.modules)
    failed = 0
    for number in range(cases):
        outcome = run_case(tree, draw(tree, f"{row.name}-{number}"))
        if outcome.kinds:
            failed += 1
            result.faults.append(f"case {number}: {', '.join(outcome.kinds)}: {outcome.lines[0]}")
    result.oracle += f"; {cases} sets, {failed} failed"


def start(kernel: Kernel, image: Path, folder: Path, *, timeout: float) -> Guest:
    """A boot of *kernel* with *image*, its own root or program put beside it in *folder*; the console is left there."""
    disks = []
    if _has_disk(open_tree(str(kernel.modules)).modules):
        disks = [make_root(_maker(folder), _SCRIPT, architecture=kernel.architecture)]
        whole = image
    else:
        whole = add_program(_maker(folder), image, _SCRIPT, architecture=kernel.architecture)
    done = run_qemu(
        image=whole,
        vmlinuz=kernel.vmlinuz,
        arch=kernel.arch,
        disks=disks,
        # A kernel without PRINTK_TIME has no times otherwise, by which its lines are told from others.
        append="root=/dev/vda printk.time=1",
        extra=(*_OWN.get(kernel.architecture, ()), *(_DEVICES if disks else ())),
        memory=1024,
        timeout=timeout,
        accel="tcg",
    )
    image.with_suffix(".console").write_text(done.console)
    return Guest(console=done.console, returncode=done.returncode, timed_out=done.timed_out, seconds=done.seconds)


def _maker(folder: Path) -> Callable[[str, Callable[[Path], None]], Path]:
    def made_once(name: str, make: Callable[[Path], None]) -> Path:
        path = folder / name
        if not path.exists():
            make(path)
        return path

    return made_once


def _ended(guest: Guest) -> bool:
    return not guest.timed_out and "\n]]] log 0" in guest.console


def _ending(guest: Guest) -> str:
    if _ended(guest):
        return "ok"
    if "Kernel panic" in guest.console:
        return "panic"
    return "too slow" if guest.timed_out else "ends early"


def _last_words(guest: Guest) -> list[str]:
    """What the kernel said first of something gone wrong, and its panic; or else the console's last line."""
    lines = [line.strip() for line in guest.console.splitlines() if line.strip()]
    first = next((line for line in lines if _ODD.search(line)), None)
    panic = next((line for line in lines if "Kernel panic - not syncing" in line), None)
    return list(dict.fromkeys(line for line in (first, panic) if line)) or lines[-1:] or ["nothing on the console"]


def _missing(guest: Guest) -> dict[str, str]:
    return {match[1]: line for line in _log(guest) if (match := _MISSING.fullmatch(line))}


def _complaints(guest: Guest) -> set[str]:
    return {_CHANGING.sub("", text) for text in guest.failures() if not text.startswith(("member ", "load "))}


def _log(guest: Guest) -> list[str]:
    """The log's lines; a kernel without PRINTK_TIME has no times before them."""
    return guest.log() or [line for line in guest.console.splitlines() if line.startswith("megamod: ")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows of the table; default: all that are built")
    parser.add_argument("--report", type=Path, help="write the table here, too")
    parser.add_argument("--keep", type=Path, help="folder for images and consoles, one below it for each kernel")
    parser.add_argument("--cases", type=int, default=0, help="random prelinks for the oracle, each kernel (default 0)")
    parser.add_argument("--timeout", type=float, default=400.0, help="seconds a boot may take (default 400)")
    parser.add_argument("--no-boot", action="store_true", help="build and judge only")
    arguments = parser.parse_args()
    results = []
    for name in arguments.names or ROWS:
        try:
            kernel = find_built(ROWS[name], cache=cache_folder())
        except MegamodError as error:
            if arguments.names:
                parser.error(str(error))
            continue
        with tempfile.TemporaryDirectory(prefix="megamod-matrix-") as scratch:
            folder = arguments.keep / name if arguments.keep else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            result = run_row(
                ROWS[name],
                kernel,
                folder,
                cases=arguments.cases,
                boot=not arguments.no_boot,
                timeout=arguments.timeout,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
        results.append(result)
        # After each row, so that a run that is stopped leaves the rows before.
        if arguments.report:
            arguments.report.write_text(report_text(results))
    print(report_text(results))
    return 1 if any(result.faults for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
