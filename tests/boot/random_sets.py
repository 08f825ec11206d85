"""Boots of modules drawn at random, merged, against the same modules one by one by the same loader.

    python -m tests.boot.random_sets --boots 50 --seed 1 [--first N] [--suite bookworm] [--flavour rt-amd64]
                                     [--architecture amd64]

Each set is a profile with a critical and a deferred stage and drawn options. The merged boot must end by itself; no
module may be missing there and no complaint of the kernel be new; a kernel thread that waits in a module's code must
have the same stack. The same seed draws the same sets. A set whose modules do not let the machine end one by one is
not judged.
"""

from __future__ import annotations

import argparse
import collections
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.qemu import run_qemu
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from tests.boot.image_fixtures import END, Guest, add_program, make_image, make_stock_image, manifest_of, tree_of

# What takes the machine down, or tests it for minutes, by its nature.
_UNWANTED = re.compile(
    r"torture|kunit|(^|_)tests?($|_)|test_?$|^rcuscale$|^refscale$|_bench$|^lkdtm$|^kgdboc$|^netconsole$"
)
_ALWAYS = ("loop", "dummy")  # so that no stage is empty
_SCRIPT = (
    """
wait_for late
show stacks sh -c 'for p in /proc/[0-9]*; do echo "== $(cat $p/comm)"; cat $p/stack; done'
"""
    + END
)
_PROFILE = """
name: random
critical: {{modules: [{critical}]}}
deferred: [{{name: late, modules: [{late}], after: userspace}}]
root: {{exec: /main}}
unwind: {unwind}
symbols: {symbols}
tracing: {tracing}
allow-taint: true
compress: none
"""
_DEVICES = (
    *("-device", "qemu-xhci", "-device", "usb-kbd", "-device", "usb-tablet"),
    *("-device", "virtio-rng-pci", "-device", "virtio-balloon-pci", "-device", "virtio-serial-pci"),
    *("-device", "virtio-scsi-pci", "-device", "ahci,id=ahci"),
    *("-device", "e1000e,romfile=,netdev=net", "-netdev", "user,id=net,restrict=on"),
    *("-device", "intel-hda", "-device", "hda-duplex"),
)
_OWN = {"amd64": ("-cpu", "max")}
# "fn+0x1c/0x80 [module]": the size of the last function of a section depends on what comes next.
_FRAME = re.compile(r"([\w.]+\+0x[0-9a-f]+)/0x[0-9a-f]+(?: \[(\w+)\])?")
_CHANGING = re.compile(r"(CPU|PID): \d+|(?<=/0x)[0-9a-f]+|0x[0-9a-f]{8,}| \[\w+\]")
_MISSING = re.compile(r"megamod: (?:member|load) (\S+) (?:failed|skipped)\b.*")
# Their names say which work they do at the moment.
_PASSING = re.compile(r"kworker|sh$|cat$|main$|megamod")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One set: how it ended ("as one by one", "not judged", or what is wrong), and what shows it."""

    number: int
    profile: str
    members: int
    how: str
    lines: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.how in ("as one by one", "not judged")


def draw(kernel: Kernel, r: random.Random) -> str:
    """The text of a profile: a few modules, dozens, or some of a folder's."""
    modules = tree_of(kernel).modules
    names = sorted(name for name in modules if name not in _ALWAYS and not _UNWANTED.search(name))
    style = r.random()
    if style < 0.4:
        chosen = r.sample(names, r.randint(2, 12))
    elif style < 0.8:
        chosen = r.sample(names, r.randint(13, 90))
    else:
        folder = modules[r.choice(names)].path.parent
        near = [name for name in names if modules[name].path.parent == folder]
        chosen = r.sample(near, r.randint(1, min(len(near), 40)))
    cut = r.randint(0, len(chosen))
    return _PROFILE.format(
        critical=", ".join([_ALWAYS[0], *chosen[:cut]]),
        late=", ".join([_ALWAYS[1], *chosen[cut:]]),
        unwind=r.choice(["keep", "keep", "compact", "drop"]),
        symbols=r.choice(["keep", "keep", "trim"]),
        tracing=r.choice(["off", "off", "off", "keep"]),
    )


def run_sets(kernel: Kernel, *, seed: str, first: int, boots: int, timeout: float = 180.0) -> Iterator[Outcome]:
    """One outcome a set."""
    for number in range(first, first + boots):
        profile = draw(kernel, random.Random(f"{seed} {number}"))
        with tempfile.TemporaryDirectory(prefix="megamod-sets-") as scratch:
            yield _run_set(kernel, Path(scratch), number, profile, timeout=timeout)


def _run_set(kernel: Kernel, folder: Path, number: int, profile: str, *, timeout: float) -> Outcome:
    made_once = _maker(folder)
    try:
        image = make_image(made_once, kernel, profile)
    except MegamodError as error:
        return Outcome(number=number, profile=profile, members=0, how="is not built", lines=(str(error),))
    merged_members = sum(
        len(load.members) for stage in manifest_of(image).stages for load in stage.loads if load.kind == "merged"
    )
    stock = make_stock_image(made_once, kernel, profile)
    wanted, found = (
        _boot(kernel, add_program(made_once, each, _SCRIPT, architecture=kernel.architecture), timeout=timeout)
        for each in (stock, image)
    )
    # A trace has neither frames below those of members without unwind tables, nor names of functions that were trimmed.
    traces = "unwind: drop" not in profile and "symbols: trim" not in profile
    how, lines = _judge(wanted, found, traces=traces)
    return Outcome(number=number, profile=profile, members=merged_members, how=how, lines=lines)


def _maker(folder: Path) -> Callable[[str, Callable[[Path], None]], Path]:
    def made_once(name: str, make: Callable[[Path], None]) -> Path:
        path = folder / name
        if not path.exists():
            make(path)
        return path

    return made_once


def _boot(kernel: Kernel, image: Path, *, timeout: float) -> Guest:
    result = run_qemu(
        image=image,
        vmlinuz=kernel.vmlinuz,
        arch=kernel.arch,
        disks=(),
        # A watchdog's or an oops's reboot is an end, too.
        append="panic=-1",
        extra=(*_OWN.get(kernel.architecture, ()), *_DEVICES),
        memory=2048,
        timeout=timeout,
        accel="tcg",
    )
    return Guest(
        console=result.console, returncode=result.returncode, timed_out=result.timed_out, seconds=result.seconds
    )


def _ended(guest: Guest) -> bool:
    return not guest.timed_out and "\n]]] log 0" in guest.console


def _judge(wanted: Guest, found: Guest, *, traces: bool) -> tuple[str, tuple[str, ...]]:
    if not _ended(wanted):
        return "not judged", ()
    if not _ended(found):
        return "does not end", tuple(found.console.splitlines()[-60:])
    usual = _missing(wanted)
    new = [line for name, line in _missing(found).items() if name not in usual]
    if new:
        return "a module is missing", tuple(new)
    complaints = sorted(_complaints(found) - _complaints(wanted))
    if complaints:
        return "the kernel complains", tuple(complaints)
    if traces:
        stacks = _stacks(found)
        for name, there in _stacks(wanted).items():
            if not there <= stacks.get(name, set()):
                lines = (f"{name}: {frames}" for frames in (*there, "but", *stacks.get(name, ["not there"])))
                return "another stack", tuple(lines)
    return "as one by one", ()


def _missing(guest: Guest) -> dict[str, str]:
    return {match[1]: line for line in guest.log() if (match := _MISSING.fullmatch(line))}


def _complaints(guest: Guest) -> set[str]:
    return {_CHANGING.sub("", text) for text in guest.failures() if not text.startswith(("member ", "load "))}


def _stacks(guest: Guest) -> dict[str, set[tuple[str, ...]]]:
    """By the name of a process, the stacks that go through a module, without the modules' names."""
    stacks: dict[str, set[tuple[str, ...]]] = {}
    for text in "\n".join(guest.section("stacks")).split("== ")[1:]:
        name, *lines = text.splitlines()
        frames = [match for line in lines if (match := _FRAME.search(line))]
        if any(frame[2] for frame in frames) and not _PASSING.match(name):
            stacks.setdefault(name, set()).add(tuple(frame[1] for frame in frames))
    return stacks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--boots", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--flavour")
    parser.add_argument("--architecture", default="amd64")
    arguments = parser.parse_args()
    kernel = fetch_kernel(
        arguments.suite, flavour=arguments.flavour, architecture=arguments.architecture, cache=cache_folder()
    )
    counts: collections.Counter[str] = collections.Counter()
    members = 0
    for outcome in run_sets(kernel, seed=arguments.seed, first=arguments.first, boots=arguments.boots):
        counts[outcome.how] += 1
        members += outcome.members
        print(f"{outcome.number}: {outcome.members} members: {outcome.how}", flush=True)
        if not outcome.good:
            print(outcome.profile, *(f"    {line}" for line in outcome.lines), sep="\n", flush=True)
    ends = ", ".join(f"{how}: {count}" for how, count in counts.most_common())
    print(f"{kernel.release}, {members} members merged: {ends}")
    return 0 if set(counts) <= {"as one by one", "not judged"} else 1


if __name__ == "__main__":
    sys.exit(main())
