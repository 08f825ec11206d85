"""Fuzz all commands: ``python -m tests.fuzz.fuzz_commands --cases 20000 --seed 1``.

Each case takes a command line (commands.py) and the good files that it reads (samples.py), damages one or two of them
(damage.py), and runs the command in a process of its own with 500 MB of memory and 10 s of processor. Right is status
0; or a status of 1 or 2 and lines on standard error of which the last begins with ``megamod: ``. Wrong is an internal
error, a traceback, a signal, memory or time that runs out, something on a terminal that the terminal would act on, or a
file left in $TMPDIR.

A case is its number alone: ``--only N`` with the same seed runs it again.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import megamod
from megamod.boot import qemu
from megamod.build import recipe
from megamod.hooks.deploy import deployment
from megamod.hooks.generators import run as hook_run
from tests.fuzz.commands import COMMANDS, KERNELS, Command
from tests.fuzz.samples import ELF, SYSTEMS, make_samples
from tests.unit.module_trees import RELEASE

MEMORY = 500 << 20
# Of which a command has this much beside all that is imported; so it has as much under pytest, which is larger.
ROOM = 300 << 20
SECONDS = 10
_NOT_NEEDED = ("megamod.boot.demo", "megamod.loader.backend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command and its damaged files."""

    command: Command
    files: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """*kind* is "done" or "refused", or what is wrong; *text* what was said; *memory* in KiB."""

    kind: str
    text: str
    memory: int
    seconds: float


def make_case(samples: Path, seed: int, number: int) -> Case:
    """The case of that number; the same seed gives the same one."""
    rng = random.Random(f"{seed}/{number}")
    command = COMMANDS[number % len(COMMANDS)] if number < len(COMMANDS) else rng.choice(COMMANDS)
    files = {}
    for name, how in rng.sample(list(command.damaged), min(len(command.damaged), rng.choice((1, 1, 1, 2)))):
        # A journal is there only where a command was interrupted.
        data = (samples / name).read_bytes() if (samples / name).exists() else b""
        made = how(data, rng)
        files[name] = made
        if name in KERNELS and "--vmlinuz" not in command.words:
            files[f"root/boot/vmlinuz-{RELEASE}"] = made
    return Case(command=command, files=files)


def load_everything() -> None:
    """Import all of megamod, so that each child has it from its start."""
    for module in pkgutil.walk_packages(megamod.__path__, "megamod."):
        if module.name not in _NOT_NEEDED and not module.name.startswith(("megamod._", "megamod.cli.main")):
            importlib.import_module(module.name)
    importlib.import_module("megamod.cli.main")


def _replace_what_is_not_looked_at() -> None:
    """Called in the child: a process that runs other tests too must keep its own."""
    # Compiling the loader is not what is looked at.
    for module in (recipe, hook_run, deployment):
        module.loader_binary = module.ctl_binary = lambda _arch: ELF  # type: ignore[attr-defined]
    # What a guest prints is the log among the samples; no guest is started. This machine gets no map.
    qemu.choose_accelerator = lambda *_arguments: "tcg"  # type: ignore[assignment]
    qemu.run_command = _printed  # type: ignore[assignment]
    hook_run.keep_maps = lambda *_arguments: ""  # type: ignore[assignment]


def _printed(_command: Sequence[str], **_options: object) -> qemu.QemuResult:
    text = Path("boot.log").read_text(errors="replace")
    return qemu.QemuResult(console=text, returncode=0, timed_out=False, stopped=True, seconds=1.0, accel="tcg")


def run_case(case: Case, samples: Path, scratch: Path) -> Verdict:
    """Run the case in a child. *scratch* is a copy of *samples*, which it is again afterwards."""
    for name, data in case.files.items():
        place = scratch / name
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_bytes(data)
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    out, err = scratch.with_suffix(".out"), scratch.with_suffix(".err")
    try:
        child = os.fork()
        if child == 0:
            _run_child(case.command, scratch, temporary, out, err)
        killer = _Watchdog(child)
        _pid, status, usage = os.wait4(child, 0)
        killer.end()
        printed, said = out.read_bytes(), err.read_text(errors="replace")
        left = [path.name for path in temporary.iterdir()]
    finally:
        _restore(case, samples, scratch)
        for path in (out, err):
            path.unlink(missing_ok=True)
    kind = _judge(case.command, os.waitstatus_to_exitcode(status), printed, said, left)
    return Verdict(kind=kind, text=said[-3000:], memory=usage.ru_maxrss, seconds=usage.ru_utime + usage.ru_stime)


def copy_samples(samples: Path, scratch: Path) -> None:
    """Make the folder *scratch*, whose files are links to those of *samples*: a command that writes replaces a file."""
    shutil.copytree(samples, scratch, symlinks=True, copy_function=os.link)


def _restore(case: Case, samples: Path, scratch: Path) -> None:
    known = {path.name for path in samples.iterdir()}
    for path in scratch.iterdir():
        if path.name not in known:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # A command changes the system below the folder that it names.
    for name in SYSTEMS:
        if any(word == name or word.startswith(f"{name}/") for word in case.command.words):
            shutil.rmtree(scratch / name)
            copy_samples(samples / name, scratch / name)
    words = [word for word in case.command.words if (samples / word).is_file()]
    for name in {*case.files, *words}:
        (scratch / name).unlink(missing_ok=True)
        if (samples / name).exists():
            os.link(samples / name, scratch / name)


class _Watchdog:
    """Ends a child that waits for something: processor time alone does not bound that."""

    def __init__(self, child: int) -> None:
        self._before = signal.signal(signal.SIGALRM, lambda _number, _frame: os.kill(child, signal.SIGKILL))
        signal.alarm(20 * SECONDS)

    def end(self) -> None:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self._before)


def _run_child(command: Command, scratch: Path, temporary: Path, out: Path, err: Path) -> None:
    status = 99
    try:
        _replace_what_is_not_looked_at()
        os.chdir(scratch)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
        os.dup2(os.open(command.standard_input or os.devnull, os.O_RDONLY), 0)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ.update(TMPDIR=str(temporary), XDG_CACHE_HOME=str(scratch / "cache"), MEGAMOD_DEBUG="1")
        tempfile.tempdir = None
        sys.argv = ["megamod", *command.words]
        memory = max(MEMORY, _size() + ROOM)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from megamod.cli.main import main

        try:
            status = main()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _size() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _judge(command: Command, status: int, printed: bytes, said: str, left: Sequence[str]) -> str:
    if status == -signal.SIGXCPU or status == -signal.SIGKILL:
        return "too slow"
    if status < 0:
        return f"signal {-status}"
    if "Traceback" in said or "internal error" in said:
        return "out of memory" if "MemoryError" in said or "Cannot allocate memory" in said else "traceback"
    if "out of memory" in said:
        return "out of memory"
    if left:
        return "left in TMPDIR"
    shown = said if command.raw else said + printed.decode("utf-8", "surrogateescape")
    if re.search(r"[^\n -~\u00a0-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]", shown):
        return "acts on a terminal"
    if status in command.status:
        return "done"
    lines = said.splitlines()
    if status not in (1, 2) or not lines or not lines[-1].startswith("megamod: "):
        return f"status {status} without a message"
    return "refused"


def place_of(verdict: Verdict) -> str:
    """What tells one finding from another: the last frame of ours, and the exception."""
    frames = re.findall(r'megamod/(\S+\.py)", line (\d+)', verdict.text)
    where = ":".join(frames[-1]) if frames else ""
    last = (verdict.text.strip().splitlines() or [""])[-1]
    return f"{verdict.kind} {where} {re.sub(r'[0-9]+', 'N', last)[:110]}"


def run(*, seed: int, numbers: Sequence[int], saved: Path | None, progress: bool) -> Counter[str]:
    """Runs cases and counts what came of them; each wrong one is named, and saved once per place."""
    counts: Counter[str] = Counter()
    places: Counter[str] = Counter()
    worst = [0, 0.0]
    start = time.monotonic()
    # A file system in memory where there is one: a case makes and removes files all the time.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-commands-", dir=memory) as name:
        samples, scratch = Path(name) / "samples", Path(name) / "case"
        make_samples(samples)
        copy_samples(samples, scratch)
        load_everything()
        for done, number in enumerate(numbers, start=1):
            case = make_case(samples, seed, number)
            verdict = run_case(case, samples, scratch)
            counts[verdict.kind] += 1
            worst = [max(worst[0], verdict.memory), max(worst[1], verdict.seconds)]
            if verdict.kind not in ("done", "refused"):
                place = place_of(verdict)
                places[place] += 1
                if places[place] == 1:
                    print(f"\r{seed}/{number}: {' '.join(case.command.words)}: {place}", file=sys.stderr, flush=True)
                    if saved is not None:
                        _save(saved / f"{seed}-{number}", case, verdict)
            if progress and (done % 100 == 0 or done == len(numbers)):
                rate = done / (time.monotonic() - start)
                print(f"\r{done}/{len(numbers)}  {rate:.0f}/s  {dict(counts)}", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    for place, count in places.most_common():
        print(f"{count:6}  {place}")
    print(f"at most {worst[0] // 1024} MiB resident and {worst[1]:.1f} s of processor in one case")
    return counts


def _save(folder: Path, case: Case, verdict: Verdict) -> None:
    for name, data in case.files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data[: 1 << 20])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "what.txt").write_text(f"{' '.join(case.command.words)}\n{verdict.kind}\n{verdict.text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run this one case")
    parser.add_argument("--save", type=Path, help="folder for the cases that went wrong")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    numbers = [options.only] if options.only is not None else range(options.cases)
    counts = run(seed=options.seed, numbers=numbers, saved=options.save, progress=not options.quiet)
    print(f"{sum(counts.values())} cases, seed {options.seed}: {dict(sorted(counts.items()))}")
    return 0 if set(counts) <= {"done", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
