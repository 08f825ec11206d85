"""Inits that go wrong, in each place that a driver can have, on four kernels, each beside insmod: never worse.

    python -m tests.boot.faulty_matrix [--kernel NAME]… [--place NAME]… [--folder FOLDER] [--table]

One boot for each kernel and place: every fault has a load of its own, with a member before it and one behind it, so one
boot shows them all. What came of a boot stays in FOLDER, and is not booted again. A module that insmod brings up must
have come up; user space, request_module(), mask and status must be as they should, no process be left but those that
the kernel does not let go, and another module must go in afterwards as it does with insmod.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.disk import busybox_root, host_busybox, make_disk
from megamod.boot.qemu import run_qemu
from megamod.common.host import cache_folder
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from tests.boot.bare_modules import FAULTS, build_bare_modules, module_names
from tests.boot.faulty_modules import faulty_tree
from tests.boot.image_fixtures import foreign_busybox
from tests.boot.loader_images import DISK_MODULES, POWER_OFF, Plan, section, show, start_plan, write_loader_image
from tests.boot.quick_kernel import quick_kernel, slow_clock

KERNELS = {
    "6.1": ("bookworm", "amd64"),
    "6.12": ("trixie", "amd64"),
    "7.2": ("sid", "amd64"),
    "arm64": ("bookworm", "arm64"),
}
ONE_BY_ONE = "one by one"
PLACES = ("critical", "deferred", "single", "hook", "rdinit", "deploy")
KINDS = ("before", "faulty", "after")
ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}
# Longer than the init that sleeps; the same for insmod.
WATCHDOG_SECONDS = 13
# Half seconds of the guest.
WAITS = 600
# Of this machine: what a guest may take of a processor under icount, and a bound for one that stands still.
CPU_SECONDS = 200
TIMEOUT_SECONDS = 1800
APPEND = "root=/dev/vda preempt=full"
RESTORED = "/sbin/modprobe"

MOUNTS = """\
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run
"""
INSMOD = """\
try() { insmod $1 & i=0; while kill -0 $! 2>/dev/null && [ $i -lt LOOKS ]; do i=$((i+1)); sleep 0.25; done; }
""".replace("LOOKS", str(4 * WATCHDOG_SECONDS))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a boot showed: the modules that are up, and everything that is not as it should be."""

    kernel: str
    place: str
    up: tuple[str, ...]
    wrong: tuple[str, ...]

    def lost(self, fault: str) -> tuple[str, ...]:
        """Those of a fault's modules that are not up: before, faulty, after."""
        return tuple(kind for kind in KINDS if f"{kind}_{fault}" not in self.up)


def _faulty_loads(plan: Plan, *, place: str) -> Plan:
    deferred = place in ("deferred", "deploy")
    for fault in FAULTS:
        if deferred:
            plan.stage(fault, "now" if place == "deploy" else "userspace")
        if place == "single":
            for kind in KINDS:
                plan.single(f"{kind}_{fault}")
            continue
        plan.merged(f"megamod_{fault}", *(f"{kind}_{fault}" for kind in KINDS))
        if deferred:
            plan.lines.append("requests -")
    if deferred:
        plan.stage("end", "now" if place == "deploy" else "userspace").single("last_one")
    return plan


def _look(place: str) -> str:
    """What a guest shows once all loads have been through."""
    at = "/run/deploy" if place == "deploy" else "/run"
    json_file = f"{at}/megamod/status.json"
    over = f"[ -s {json_file} ] && ! grep -q 'waiting\\|loading' {at}/megamod/status"
    waits = f"i=0; until {over} || [ $i -gt {WAITS} ]; do i=$((i+1)); sleep 0.5; done\n"
    last = "" if place in ("deferred", "deploy") else "try /last_one.ko\n"
    return (
        waits
        + INSMOD
        + last
        + "sleep 1\n"
        + show("modprobe", f"cat /proc/sys/kernel/modprobe; ls {at}/megamod")
        + show("json", f"cat {json_file}")
        + show("mask", f"cat {at}/modprobe.d/megamod.conf")
        + show("processes", "grep -h '^megamod' /proc/[0-9]*/comm")
        + show("modules", "cat /proc/modules")
    )


def _script(place: str) -> str:
    if place == ONE_BY_ONE:
        names = " ".join(f"/{kind}_{fault}.ko" for fault in FAULTS for kind in KINDS)
        return f"{MOUNTS}{INSMOD}for f in {names} /last_one.ko; do try $f; done\n" + show(
            "modules", "cat /proc/modules"
        )
    if place == "hook":
        return f"{MOUNTS}/megamod/ctl --hook\n{_look(place)}"
    if place == "deploy":
        start = "mkdir /run/deploy; cp /megamod/* /run/deploy; /run/deploy/ctl --at /run/deploy --hook\n"
        return MOUNTS + start + _look(place)
    # The generator's init takes the mount of /run for its own.
    return MOUNTS.replace("; mount -t tmpfs run /run", "") + _look(place)


def _make_boot(kernel: Kernel, modules: dict[str, Path], place: str, folder: Path) -> tuple[Path, list[Path]]:
    """The image, and the disks."""
    arch = ARCHES[kernel.architecture]
    busybox = host_busybox() if kernel.architecture == "amd64" else foreign_busybox(kernel.architecture)
    tree = faulty_tree(kernel.modules, modules, folder)
    image = folder / "image"
    script = f"#!/bin/busybox sh\n{_script(place)}{POWER_OFF}".encode()
    last = {"last_one.ko": modules["last_one"].read_bytes()}
    watchdog = [f"watchdog {WATCHDOG_SECONDS}"]
    if place == ONE_BY_ONE:
        files = {f"{name}.ko": path.read_bytes() for name, path in modules.items()}
        entries = [Entry(path=name, mode=0o40755) for name in ("bin", "dev", "proc", "sys", "run")]
        own = {**files, "init": script, "bin/busybox": busybox.read_bytes()}
        entries += [Entry(path=name, mode=0o100755, data=data) for name, data in own.items()]
        write_image(image, entries, method="none")
        return image, []
    if place in ("hook", "rdinit", "deploy"):
        plan = start_plan(tree, critical=(), root="chain /bin/generator", fallback="modules", head=watchdog)
        files = {"bin/busybox": busybox.read_bytes(), "bin/generator": script, **last}
        _faulty_loads(plan, place=place)
        write_loader_image(image, plan, files=files, arch=arch)
        if place != "rdinit":
            _exchange_init(image, script)
        return image, []
    plan = start_plan(tree, critical=(), fallback="modules", head=watchdog)
    for name in DISK_MODULES:
        if any(f"/{name}." in line for line in (kernel.modules / "modules.dep").read_text().splitlines()):
            plan.singles(name)
    _faulty_loads(plan, place=place)
    write_loader_image(image, plan, arch=arch)
    # The loader has mounted everything for the real root's init.
    look = "/bin/busybox --install -s /bin\n" + _look(place) + POWER_OFF
    root = busybox_root(folder / "root", init=look, busybox=busybox, files=last)
    return image, [make_disk(folder / "disk", root)]


def _exchange_init(image: Path, script: bytes) -> None:
    """Another archive behind the first: what it has is unpacked over that."""
    entries = [Entry(path="init", mode=0o100755, data=script), Entry(path="bin", mode=0o40755)]
    second = image.with_name("second")
    write_image(second, entries, method="none")
    image.write_bytes(image.read_bytes() + second.read_bytes())


def boot_place(name: str, place: str, folder: Path) -> Outcome:
    """One boot; its console stays in *folder*."""
    suite, architecture = KERNELS[name]
    kernel = fetch_kernel(suite, architecture=architecture, cache=cache_folder())
    modules = build_bare_modules(kernel, folder / f"modules-{name}", module_names())
    scratch = folder / f"{name}-{place}".replace(" ", "-")
    scratch.mkdir(parents=True, exist_ok=True)
    for left in (scratch / kernel.modules.name, scratch / "root"):
        if left.exists():
            _remove(left)
    image, disks = _make_boot(kernel, modules, place, scratch)
    result = run_qemu(
        image=image,
        vmlinuz=quick_kernel(kernel, folder),
        disks=disks,
        append=APPEND,
        icount=True,
        timeout=TIMEOUT_SECONDS,
        cpu_seconds=CPU_SECONDS,
        arch=ARCHES[architecture],
        extra=slow_clock(3),
    )
    (scratch / "console").write_text(result.console)
    return judge(name, place, result.console)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
    folder.rmdir()


def judge(kernel: str, place: str, console: str) -> Outcome:
    """What the console shows."""
    if "[[[ modules\n" not in console:
        return Outcome(kernel=kernel, place=place, up=(), wrong=("user space has not come to its end",))
    modules = [line.split() for line in section(console, "modules").splitlines() if line.strip()]
    live = {fields[0] for fields in modules if fields[4] == "Live"}
    if place == ONE_BY_ONE:
        return Outcome(kernel=kernel, place=place, up=tuple(sorted(live & set(module_names()))), wrong=())
    wrong = []
    path, *files = section(console, "modprobe").split()
    if path != RESTORED or "modprobe" in files:
        wrong.append(f"request_module executes {path}")
    status = json.loads(section(console, "json"))
    members = {m["name"]: m for stage in status["stages"] for load in stage["loads"] for m in load["members"]}
    wrong += [f"stage {s['name']} is {s['state']}" for s in status["stages"] if s["state"] not in ("done", "failed")]
    wrong += [f"{name} is {m['state']}" for name, m in members.items() if m["state"] == "waiting"]
    mask = section(console, "mask")
    for name in members.keys() & set(module_names()):
        word = "true" if members[name]["state"] == "ok" else "false"
        if f"install {name} /bin/{word}\n" not in mask:
            wrong.append(f"the mask has another word than {word} for {name}")
    # A task in an init that never comes back is the kernel's.
    processes = section(console, "processes").split() if "[[[ processes\n]]]" not in console else []
    stuck = sum(members[f"faulty_{fault}"]["result"] == -110 for fault in ("hang", "loop"))
    if processes.count("megamod-load") > stuck or set(processes) > {"megamod-load"}:
        wrong.append(f"processes are left: {' '.join(processes)}")
    up = {name for name, m in members.items() if m["state"] == "ok"} & set(module_names())
    up |= live & {"last_one"}
    return Outcome(kernel=kernel, place=place, up=tuple(sorted(up)), wrong=tuple(wrong))


def worse(outcome: Outcome, stock: Outcome) -> list[str]:
    """What is up with insmod and not here, and what is wrong beside that."""
    return [*outcome.wrong, *(f"{name} is not up" for name in sorted(set(stock.up) - set(outcome.up)))]


def _cell(outcomes: Iterable[Outcome | None], fault: str) -> str:
    """What the fault costs, for each kernel if they differ."""
    words = {}
    for outcome in outcomes:
        if outcome is not None:
            lost = outcome.lost(fault)
            words[outcome.kernel] = "nothing" if not lost else "it" if lost == ("faulty",) else " ".join(lost)
    if len(set(words.values())) <= 1:
        return next(iter(words.values()), "-")
    return ", ".join(f"{kernel} {word}" for kernel, word in words.items())


def table(found: dict[tuple[str, str], Outcome]) -> str:
    """Markdown: a row for each fault, a column for each place: which of the three modules are not up."""
    columns = (ONE_BY_ONE, *PLACES)
    lines = [f"| init | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for fault in FAULTS:
        cells = [_cell((found.get((kernel, place)) for kernel in KERNELS), fault) for place in columns]
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


@functools.cache
def _results(folder: Path) -> dict[tuple[str, str], Outcome]:
    found = {}
    for path in sorted(folder.glob("*/outcome.json")):
        fields = json.loads(path.read_text())
        outcome = Outcome(**{**fields, "up": tuple(fields["up"]), "wrong": tuple(fields["wrong"])})
        found[outcome.kernel, outcome.place] = outcome
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kernel", action="append", choices=KERNELS)
    parser.add_argument("--place", action="append", choices=(ONE_BY_ONE, *PLACES))
    parser.add_argument("--folder", type=Path, default=cache_folder() / "faulty-matrix")
    parser.add_argument("--again", action="store_true", help="boot what has been booted before, too")
    parser.add_argument("--table", action="store_true", help="boot nothing, show what is there")
    arguments = parser.parse_args()
    for kernel in () if arguments.table else arguments.kernel or KERNELS:
        for place in arguments.place or (ONE_BY_ONE, *PLACES):
            path = arguments.folder / f"{kernel}-{place}".replace(" ", "-") / "outcome.json"
            if path.exists() and not arguments.again:
                continue
            outcome = boot_place(kernel, place, arguments.folder)
            path.write_text(json.dumps(asdict(outcome)))
            print(f"{kernel}, {place}: {'; '.join(outcome.wrong) or 'good'}", flush=True)
    found = _results(arguments.folder)
    print(table(found))
    bad = [
        f"{kernel}, {place}: {text}"
        for (kernel, place), outcome in found.items()
        if place != ONE_BY_ONE
        for text in worse(outcome, found.get((kernel, ONE_BY_ONE), outcome))
    ]
    print("; ".join(f"{kernel}: {', '.join(place for each, place in found if each == kernel)}" for kernel in KERNELS))
    print("\n".join(bad) or "never worse")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
