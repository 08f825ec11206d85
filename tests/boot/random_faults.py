"""Boots with faults drawn at random: damaged files, missing folders, strange command lines, roots that are not there.

    python -m tests.boot.random_faults --boots 200 --seed 1 [--bad-driver] [--from N] [--jobs N] [--suite bookworm]

Each boot must reach user space or end in the loader's stated failure, an `error:` line and the panic it announces; in
user space what request_module() executes must be what it was before. A boot that hangs, or panics without a message,
is shown with its faults. The same seed draws the same faults, and as the guest's time is counted in instructions, a
boot is the same on every machine, however busy. With `--from N` a run goes on where another ended. With --bad-driver
the only fault is one driver's init, of a driver that is not on the root's way: each boot must reach user space, and
the status must name that driver.
"""

from __future__ import annotations

import argparse
import collections
import io
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from elftools.elf.elffile import ELFFile

from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.disk import busybox_root, make_disk
from megamod.boot.qemu import run_qemu
from megamod.common.host import cache_folder
from tests.boot.faulty_modules import faulty_tree
from tests.boot.loader_images import (
    LABEL,
    POWER_OFF,
    UUID,
    Plan,
    read_module,
    shell_files,
    start_plan,
    write_loader_image,
)
from tests.boot.quick_kernel import quick_kernel, slow_clock

DISK = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
FILES = ("crc32c_generic", "crc16", "mbcache", "jbd2", "ext4")
SENTINEL = "user space is there"
# A stage that comes at all is begun after a second, and a load that hangs is given up by the watchdog.
INIT = f"""echo {SENTINEL}; sleep 1
i=0; while grep -q ' loading ' /run/megamod/status && [ $i -lt 300 ]; do sleep 0.2; i=$((i+1)); done
cat /run/megamod/status; wc -l </proc/modules
tr '{{' '\\n' </run/megamod/status.json | grep -o '"name": "[a-z_0-9]*", "state": "failed"'
echo "request_module: $(cat /proc/sys/kernel/modprobe)"
echo "left: $(grep -h megamod-keeper /proc/[0-9]*/comm | wc -l)"
""" + (POWER_OFF)
# Members and singles that are not on the root's way, and what the beginning of an init may become.
BAD = ("brd", "macvlan", "loop", "dummy", "snd", "snd_timer", "snd_hwdep", "tun")
CODES = {
    "oopses": b"\x0f\x0b",  # ud2
    "loops": b"\xeb\xfe",  # jmp to itself
    "sleeps for ever": b"\xf4\xeb\xfd",  # hlt, and again
    "calls NULL": b"\x31\xc0\xff\xd0",  # xor eax, eax; call rax
    "writes to code": b"\xc6\x05\xf9\xff\xff\xff\x90",  # mov byte [rip - 7], 0x90
    "returns 12345": b"\xb8\x39\x30\0\0\xc3",
    "returns -5000": b"\xb8\x78\xec\xff\xff\xc3",
}
HARMLESS = ("returns 12345",)  # do_init_module() takes a positive value for success
BAD_SHARE = 0.5
CALL_SIZE = 5
# Of this machine: what a guest may take of a processor, and a bound for one that stands still.
CPU_SECONDS = 200
TIMEOUT_SECONDS = 1800.0
SIGNATURE_END = b"~Module signature appended~\n"
STATED = "megamod: error: giving up: the kernel will panic"


@dataclass(kw_only=True)
class Case:
    """One boot in the making; *faults* says what was done to it."""

    plan: list[str]
    files: dict[str, bytes]
    words: list[str] = field(default_factory=lambda: ["root=/dev/vda", "rootwait=2"])
    disk: bytes | None = None
    without: list[str] = field(default_factory=list)
    shell: bool = False
    oopses: bool = False
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


def with_bad_init(data: bytes, code: bytes) -> bytes:
    """A module of amd64 whose init begins with *code*, behind its call of the tracer."""
    if data.endswith(SIGNATURE_END):
        length = int.from_bytes(data[-len(SIGNATURE_END) - 4 : -len(SIGNATURE_END)], "big")
        data = data[: -len(SIGNATURE_END) - 12 - length]
    file = ELFFile(io.BytesIO(data))
    init = file.get_section_by_name(".symtab").get_symbol_by_name("init_module")[0]
    home = file.get_section(init["st_shndx"])
    at = home["sh_offset"] + init["st_value"]
    assert data[at : at + CALL_SIZE] == b"\xe8\0\0\0\0"
    at += CALL_SIZE
    first = init["st_value"] + CALL_SIZE
    patched = bytearray(data[:at] + code + data[at + len(code) :])
    table = file.get_section_by_name(f".rela{home.name}")
    for number, row in enumerate(table.iter_relocations()):
        # A field that reaches into the new bytes is no field any more: R_X86_64_NONE.
        if first - 8 < row["r_offset"] < first + len(code):
            place = table["sh_offset"] + 24 * number + 8
            patched[place : place + 8] = bytes(8)
    return bytes(patched)


def bad_base(kernel: Kernel, fallback: str, name: str, code: bytes, folder: Path) -> Plan:
    """The whole plan with one bad module."""
    folder.mkdir()
    path = folder / f"{name}.ko"
    path.write_bytes(with_bad_init(read_module(kernel.modules, name), code))
    return make_base(faulty_tree(kernel.modules, {name: path}, folder), fallback)


def make_base(modules: Path, fallback: str) -> Plan:
    """A whole plan: a merged critical stage, three deferred stages with singles and megamodules."""
    plan = start_plan(modules, critical=(), fallback=fallback, head=["watchdog 4"])
    # The first one's neighbours tell the CRCs that the glue needs, so it is never the bad one.
    plan.merged("megamod_critical", DISK[0], "brd", *DISK[1:], "macvlan", *FILES)
    plan.stage("early", "now").merged("megamod_early", "ifb", "loop", "dummy").single("crc_itu_t")
    plan.stage("late", "userspace", timeout=500).merged("megamod_late", "soundcore", "snd", "snd_timer")
    plan.single("snd_hwdep").stage("path", "path", "/run/nowhere", timeout=300).single("tun")
    return plan


def draw(base: Plan, disk: bytes, r: random.Random) -> Case:
    """A boot with one to three faults."""
    case = Case(plan=list(base.lines), files=dict(base.files), disk=disk)
    for _ in range(r.choice([1, 1, 2, 3])):
        case.faults.append(r.choice([f for f in FAULTS if case.disk is not None or f is not damage_disk])(case, r))
    return case


def alone(base: Plan, disk: Path) -> Case:
    """A boot with nothing wrong but the bad module."""
    return Case(plan=list(base.lines), files=dict(base.files), disk=disk.read_bytes())


def boot_case(case: Case, vmlinuz: Path, folder: Path, number: int) -> Outcome:
    """Boots it and judges the end."""
    folder.mkdir(exist_ok=True)
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
        vmlinuz=vmlinuz,
        disks=disks,
        append=" ".join(["quiet", "preempt=full", *case.words]),
        memory=256,
        icount=True,
        timeout=TIMEOUT_SECONDS,
        cpu_seconds=CPU_SECONDS,
        extra=slow_clock(3),
    )
    shutil.rmtree(folder)
    console = result.console
    if SENTINEL in console:
        how = "user space"
    elif STATED in console and "Attempted to kill init! exitcode=0x00000100" in console:
        how = "stated failure"
    elif result.timed_out:
        how = "hangs"
    else:
        how = "ends without a message"
    if how == "user space" and not case.faults and "request_module: /sbin/modprobe" not in console:
        how = "request_module does not execute what it did"
    # A complaint of the kernel that nobody asked for is a finding even if the boot goes on.
    if not case.oopses and any(words in console for words in ("BUG:", "Oops", "general protection")):
        how = "the kernel oopses"
    return Outcome(number=number, faults=tuple(case.faults), how=how, console=console)


def run_boots(
    kernel: Kernel, *, seed: str, first: int, boots: int, bad_driver: bool = False, jobs: int = 1
) -> Iterator[Outcome]:
    """One outcome a boot, *jobs* at the same time."""
    with tempfile.TemporaryDirectory(prefix="megamod-faults-") as scratch, ThreadPoolExecutor(jobs) as pool:
        folder = Path(scratch)
        disk = make_disk(folder / "root.img", busybox_root(folder / "root", init=INIT), label=LABEL, uuid=UUID)
        bases = {fallback: make_base(kernel.modules, fallback) for fallback in ("none", "modules")}
        vmlinuz = quick_kernel(kernel, folder)

        def one(number: int) -> Outcome:
            r = random.Random(f"{seed} {number}")
            fallback = r.choice(["none", "modules"])
            base, bad, name = bases[fallback], "none", ""
            if r.random() < BAD_SHARE or bad_driver:
                name, bad = r.choice(BAD), r.choice(sorted(CODES))
                base = bad_base(kernel, fallback, name, CODES[bad], folder / f"bad-{number}")
                bad = f"{name} {bad}"
            single = bad_driver or (name and r.random() < 0.5)
            case = alone(base, disk) if single else draw(base, disk.read_bytes(), r)
            case.oopses = bad != "none"
            outcome = boot_case(case, vmlinuz, folder / f"boot-{number}", number)
            if name and not case.faults:
                outcome = replace(outcome, how=judge_one_bad(name, bad, outcome))
            return replace(outcome, faults=(f"fallback {fallback}", f"bad init: {bad}", *outcome.faults))

        yield from pool.map(one, range(first, first + boots))


def judge_one_bad(name: str, bad: str, outcome: Outcome) -> str:
    """One bad driver costs no boot, and the status says who it was."""
    if outcome.how == "stated failure":
        return "one bad driver costs the boot"
    told = f'"name": "{name}", "state": "failed"' in outcome.console
    if outcome.how == "user space" and told != (bad.removeprefix(f"{name} ") not in HARMLESS):
        return "the status is wrong about the bad driver"
    return outcome.how


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--boots", type=int, default=200)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="N", help="the number of the first boot")
    parser.add_argument("--jobs", type=int, default=1, help="boots at the same time")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--bad-driver", action="store_true", help="one driver's init is the only fault of each boot")
    arguments = parser.parse_args()
    kernel = fetch_kernel(arguments.suite, cache=cache_folder())
    counts: collections.Counter[str] = collections.Counter()
    for outcome in run_boots(
        kernel,
        seed=arguments.seed,
        first=arguments.first,
        boots=arguments.boots,
        bad_driver=arguments.bad_driver,
        jobs=arguments.jobs,
    ):
        counts[outcome.how] += 1
        print(f"{outcome.number}: {outcome.how}: {'; '.join(outcome.faults)}", flush=True)
        if not outcome.good:
            print("\n".join(f"    {line}" for line in outcome.console.splitlines()[-40:]), flush=True)
    print(", ".join(f"{how}: {count}" for how, count in counts.most_common()))
    return 0 if set(counts) <= {"user space", "stated failure"} else 1


if __name__ == "__main__":
    sys.exit(main())
