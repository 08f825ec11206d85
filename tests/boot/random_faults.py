"""Boots with faults drawn at random: damaged files, missing folders, strange command lines, roots that are not there.

    python -m tests.boot.random_faults --boots 200 --seed 1 [--first N] [--suite bookworm]

Each boot must reach user space or end in the loader's stated failure, an `error:` line and the panic it announces.
A boot that hangs, or panics without a message, is shown with its faults. The same seed draws the same faults.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.disk import busybox_root, make_disk
from megamod.boot.qemu import run_qemu
from megamod.common.host import cache_folder
from tests.boot.loader_images import LABEL, POWER_OFF, UUID, Plan, shell_files, start_plan, write_loader_image

DISK = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
FILES = ("crc32c_generic", "crc16", "mbcache", "jbd2", "ext4")
SENTINEL = "user space is there"
# One second is enough for a deferred stage that comes at all.
INIT = f"echo {SENTINEL}; sleep 1; cat /run/megamod/status; wc -l </proc/modules" + POWER_OFF
STATED = "megamod: error: nothing is left to try: the kernel panics now"


@dataclass(kw_only=True)
class Case:
    """One boot in the making; *faults* says what was done to it."""

    plan: list[str]
    files: dict[str, bytes]
    words: list[str] = field(default_factory=lambda: ["root=/dev/vda", "rootwait=2"])
    disk: bytes | None = None
    without: list[str] = field(default_factory=list)
    shell: bool = False
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a boot ended: "user space", "stated failure", or what is wrong; *console* for the latter."""

    number: int
    faults: tuple[str, ...]
    how: str
    console: str

    @property
    def good(self) -> bool:
        return self.how in ("user space", "stated failure")


def damage_file(case: Case, r: random.Random) -> str:
    name = r.choice(sorted(case.files))
    data = bytearray(case.files[name])
    kind = r.choice(["cut", "flip", "zero", "empty", "gone"])
    if kind == "gone":
        del case.files[name]
    elif kind == "empty":
        case.files[name] = b""
    elif kind == "cut":
        case.files[name] = bytes(data[: r.randrange(len(data))]) if data else b""
    elif data:
        for _ in range(r.choice([1, 8, 64])):
            at = r.randrange(min(len(data), 4096)) if kind == "zero" else r.randrange(len(data))
            data[at] = 0 if kind == "zero" else data[at] ^ (1 << r.randrange(8))
        # What a kernel does with code that was changed is not the loader's business: only headers are flipped.
        case.files[name] = bytes(data[:64]) + case.files[name][64:]
    return f"{kind} {name}"


def damage_plan(case: Case, r: random.Random) -> str:
    at = r.randrange(len(case.plan))
    kind = r.choice(["drop", "double", "word", "swap"])
    if kind == "drop":
        del case.plan[at]
    elif kind == "double":
        case.plan.insert(at, case.plan[at])
    elif kind == "swap":
        other = r.randrange(len(case.plan))
        case.plan[at], case.plan[other] = case.plan[other], case.plan[at]
    else:
        words = case.plan[at].split(" ")
        words[r.randrange(len(words))] = r.choice(["", "0", "%zz", "99999999999999999999", "x" * 300, "critical"])
        case.plan[at] = " ".join(words)
    return f"plan: {kind} line {at + 1}"


def add_words(case: Case, r: random.Random) -> str:
    word = r.choice(
        [
            *("megamod=off", "megamod.skip=virtio_blk", "megamod.skip=jbd2,loop", "megamod.deferred=now"),
            *("megamod.deferred=off", "megamod.debug", "module.sig_enforce=1", "ro", "rw", "rootflags=nonsense"),
            *("init=/nowhere", "init=/bin/sh_not_there", "loop.max_loop=banana", "ext4.nonsense=1", '"', "rootdelay=1"),
            *("megamod.break=pre-load", "megamod.break=pre-mount,pre-switch", "rootfstype=xfs", "rootfstype=ext4"),
            *("kernel.modules_disabled=1", "sysctl.kernel.modules_disabled=1", "megamod.skip=" + "y" * 900),
        ]
    )
    case.words.append(word)
    return f"option {word[:40]}"


def change_root(case: Case, r: random.Random) -> str:
    word = r.choice(
        [
            "root=/dev/vdb",
            "root=LABEL=nowhere",
            f"root=LABEL={LABEL}",
            f"root=UUID={UUID}",
            "root=254:0",
            "root=",
            "root=tag",
        ]
    )
    case.words = [other for other in case.words if not other.startswith("root=")] + [word]
    return word


def damage_disk(case: Case, r: random.Random) -> str:
    assert case.disk is not None
    data = bytearray(case.disk)
    if r.random() < 0.5:
        case.disk = bytes(data[: r.choice([512, 1024, 4096, 1 << 20])].ljust(4096, b"\0"))
        return "disk cut off"
    for _ in range(200):
        data[1024 + r.randrange(1024)] ^= 1 << r.randrange(8)
    case.disk = bytes(data)
    return "superblock damaged"


def no_disk(case: Case, r: random.Random) -> str:
    case.disk = None
    return "no disk"


def no_folder(case: Case, r: random.Random) -> str:
    name = r.choice(["proc", "sys", "run", "megamod/ctl"])
    case.without.append(name)
    return f"without {name}"


def add_shell(case: Case, r: random.Random) -> str:
    case.shell = True
    return "with a shell"


FAULTS: tuple[Callable[[Case, random.Random], str], ...] = (
    *(damage_file,) * 4,
    *(damage_plan,) * 2,
    *(add_words,) * 3,
    *(change_root, damage_disk, no_disk, no_folder, add_shell),
)


def make_base(kernel: Kernel, fallback: str) -> Plan:
    """A whole plan: a merged critical stage, three deferred stages with singles and megamodules."""
    plan = start_plan(kernel.modules, critical=(), fallback=fallback)
    plan.merged("megamod_critical", *DISK, *FILES)
    plan.stage("early", "now").merged("megamod_early", "loop", "dummy").single("crc_itu_t")
    plan.stage("late", "userspace", timeout=500).merged("megamod_late", "soundcore", "snd", "snd_timer")
    plan.single("snd_hwdep").stage("path", "path", "/run/nowhere", timeout=300).single("tun")
    return plan


def draw(base: Plan, disk: bytes, r: random.Random) -> Case:
    """A boot with one to three faults."""
    case = Case(plan=list(base.lines), files=dict(base.files), disk=disk)
    for _ in range(r.choice([1, 1, 2, 3])):
        case.faults.append(r.choice([f for f in FAULTS if case.disk is not None or f is not damage_disk])(case, r))
    return case


def boot_case(case: Case, kernel: Kernel, folder: Path, number: int, *, timeout: float) -> Outcome:
    """Boots it and judges the end."""
    image = folder / "image"
    plan = ("\n".join(case.plan) + "\n").encode()
    shell = shell_files('echo "a shell"; exit 1') if case.shell else {}
    write_loader_image(image, plan, files={**case.files, **shell}, without=case.without)
    disks = []
    if case.disk is not None:
        disks.append(folder / "disk")
        disks[0].write_bytes(case.disk)
    result = run_qemu(
        image=image,
        vmlinuz=kernel.vmlinuz,
        disks=disks,
        append=" ".join(["quiet", *case.words]),
        memory=192,
        timeout=timeout,
        accel="tcg",
    )
    console = result.console
    if SENTINEL in console:
        how = "user space"
    elif STATED in console and "Attempted to kill init! exitcode=0x00000100" in console:
        how = "stated failure"
    elif result.timed_out:
        how = "hangs"
    else:
        how = "ends without a message"
    # A complaint of the kernel that nobody asked for is a finding even if the boot goes on.
    if any(words in console for words in ("BUG:", "Oops", "general protection")):
        how = "the kernel oopses"
    return Outcome(number=number, faults=tuple(case.faults), how=how, console=console)


def run_boots(kernel: Kernel, *, seed: str, first: int, boots: int, timeout: float = 60.0) -> Iterator[Outcome]:
    """One outcome a boot."""
    with tempfile.TemporaryDirectory(prefix="megamod-faults-") as scratch:
        folder = Path(scratch)
        disk = make_disk(folder / "root.img", busybox_root(folder / "root", init=INIT), label=LABEL, uuid=UUID)
        bases = {fallback: make_base(kernel, fallback) for fallback in ("none", "modules")}
        for number in range(first, first + boots):
            r = random.Random(f"{seed} {number}")
            fallback = r.choice(["none", "modules"])
            base = replace(bases[fallback])
            outcome = boot_case(draw(base, disk.read_bytes(), r), kernel, folder, number, timeout=timeout)
            yield replace(outcome, faults=(f"fallback {fallback}", *outcome.faults))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--boots", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--suite", default="bookworm")
    arguments = parser.parse_args()
    kernel = fetch_kernel(arguments.suite, cache=cache_folder())
    counts: collections.Counter[str] = collections.Counter()
    for outcome in run_boots(kernel, seed=arguments.seed, first=arguments.first, boots=arguments.boots):
        counts[outcome.how] += 1
        print(f"{outcome.number}: {outcome.how}: {'; '.join(outcome.faults)}", flush=True)
        if not outcome.good:
            print("\n".join(f"    {line}" for line in outcome.console.splitlines()[-40:]), flush=True)
    print(", ".join(f"{how}: {count}" for how, count in counts.most_common()))
    return 0 if set(counts) <= {"user space", "stated failure"} else 1


if __name__ == "__main__":
    sys.exit(main())
