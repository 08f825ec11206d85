"""Every system call of the loader's programs fails in turn, over a kernel that is made up (faulty_kernel.c).

Whatever fails, nothing crashes or hangs. The loader, as process 1, hands over to an init, or says what is wrong and
ends on purpose; it never ends without a message.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from megamod.common.host import data_folder
from megamod.loader import programs as build

# Compiles, or runs for a minute: not in tests/run.sh --unit.
pytestmark = pytest.mark.heavy
# The programs that wait make hundreds of calls, most of them again and again.
STEPS = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "each"])

EIO, EINTR = 5, 4
# ppoll() and the clock may fail once; if they always do, there is no time at all.
_CLOCKS = ("NR_ppoll", "NR_clock_gettime")

_HEAD = "megamod-plan 1\nkernel 6.1.0\nfallback modules\n"
_BODY = """\
probe async
skip d
stage critical now - 0
merged /megamod/megamod_critical.ko megamod_critical 1
member a
member b 0
original /megamod/originals/a.ko
original /megamod/originals/b.ko
argument a.x=1
requests -
single /megamod/c.ko c 1
stage first now - 0
single /megamod/d.ko d 0
stage second userspace - 900
merged /megamod/megamod_second.ko megamod_second 1
member e 0
original /megamod/originals/e.ko
requests -
stage third path /run/nowhere 500
single /megamod/f.ko f
stage fourth idle 100 5000
single /megamod/g.ko g 3
stage fifth manual - 700
single /megamod/h.ko h
softdep a
dependents 0 y z
"""
_ROOTS = {
    "cmdline": "root cmdline\noverlay tmpfs size=1m\nverity /dev/vdb sha256 4096 4096 10 1 00 -\n",
    "exec": "root exec /bin/app --fast\n",
    "chain": "root chain /bin/app\n",
}
_RESULTS = {
    "sys/module/megamod_critical/parameters/result": "0,-5\n",
    "sys/module/megamod_critical/parameters/nanoseconds": "100,200\n",
    "sys/module/megamod_second/parameters/result": "0\n",
    "sys/module/megamod_second/parameters/nanoseconds": "100\n",
}
_FILES = {
    "proc/cmdline": "root=UUID=5f0c2d3a-8a54-4f0e-9c8e-0123456789ab rootwait=3 rw rootflags=noatime a.y=2 quiet\n",
    "proc/filesystems": "nodev\tproc\n\text4\n",
    "proc/modules": "megamod_critical 4096 1 c, Live 0x0\nc 4096 0 - Live 0x0\n",
    "proc/stat": "cpu 1 2 3 1000 5 6 7 8\n",
    "proc/sys/kernel/modprobe": "/sbin/modprobe\n",
    "proc/sys/kernel/osrelease": "6.1.0\n",
    "proc/1/mountinfo": "",
    **{f"dev/{name}": "" for name in ("kmsg", "console", "null", "vdb", "dm-0", "mapper/control")},
    **{f"megamod/{name}.ko": "module" for name in ("megamod_critical", "megamod_second", *"cdfgh")},
    **{f"megamod/originals/{name}.ko": "module" for name in "abe"},
    **_RESULTS,
}
_PROGRAMS = ("megamod/ctl", "bin/app", "root/sbin/init")


def _number(name: str) -> int:
    source = (data_folder("loader") / "arch/x86_64.h").read_text()
    found = re.search(rf"{name} = (\d+)", source)
    assert found is not None
    return int(found[1])


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> dict[str, Path]:
    """init and ctl over the made-up kernel."""
    folder = tmp_path_factory.mktemp("faulty")
    own = data_folder("loader")
    harness = (Path(__file__).parent / "faulty_kernel.c").read_text()
    made = {}
    for name in build.PROGRAMS:
        source = folder / f"faulty_{name}.c"
        source.write_text(harness.replace("#include PROGRAM", f'#include "{name}.c"'))
        parts = [path for path in sorted(own.glob("*.c")) if path.stem not in ("sys", *build.PROGRAMS)]
        made[name] = folder / name
        made[name].write_bytes(build.compile_program("x86_64", [source, *parts]))
        made[name].chmod(0o755)
    return made


@pytest.fixture
def machine(tmp_path):
    """``machine("cmdline")``: a folder with all that the programs look at."""

    def make(root: str) -> Path:
        folder = tmp_path / f"machine-{root}"
        superblock = bytearray(8192)
        struct.pack_into("<H", superblock, 1024 + 56, 0xEF53)
        superblock[1024 + 104 : 1024 + 120] = bytes.fromhex("5f0c2d3a8a544f0e9c8e0123456789ab")
        files = {name: text.encode() for name, text in _FILES.items()}
        files |= {"megamod/plan": (_HEAD + _ROOTS[root] + _BODY).encode(), "dev/vda": bytes(superblock)}
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for name in ("run", "sys/class/block/vda", "root"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name in _PROGRAMS:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"program")
            (folder / name).chmod(0o755)
        return folder

    return make


class Runner:
    """Runs one program over a machine, with one call failing; every run finds the machine as the first did."""

    def __init__(self, program: Path, machine: Path, arguments: list[str], *, forks: str) -> None:
        self._program = program
        self._machine = machine
        self._arguments = [forks, *arguments]
        self._state = machine / "megamod/outcome"
        self._saved = self._state.read_bytes() if self._state.exists() else None

    def run(self, call: int, errno: int = EIO, *, always: bool = False) -> tuple[int, int, str, str]:
        """(calls, number of the failed one, how it ended, what it said)."""
        shutil.rmtree(self._machine / "run")
        (self._machine / "run/megamod").mkdir(parents=True)
        for name in ("status", "status.json"):
            (self._machine / "run/megamod" / name).write_text("text\n")
        if self._saved is not None:
            self._state.write_bytes(self._saved)
        log = self._machine / "dev/kmsg"
        log.write_text("")
        command = [self._program, self._machine, str(call), str(errno), str(int(always)), *self._arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
        said = result.stderr + log.read_text()
        assert result.returncode >= 0, f"call {call} fails with {errno}: signal {-result.returncode}\n{said}"
        calls, failed, how, *what = result.stdout.splitlines()[-1].split()
        return int(calls), int(failed), " ".join([how, *what]), said


def prepared(programs: dict[str, Path], folder: Path) -> Path:
    """The machine after its critical stage."""
    Runner(programs["init"], folder, ["/init"], forks="fp").run(0)
    return folder


def check_all(runner: Runner, good: set[str], *, speaks: bool, step: int = 1) -> int:
    """Each call fails once, those that may be interrupted with EINTR too, then each kind of call always.

    Of long runs only each *step*-th call. Returns the number of calls.
    """
    calls, _failed, how, said = runner.run(0)
    assert how in good, said
    interrupted = [_number(name) for name in ("NR_read", "NR_write", "NR_ppoll", "NR_wait4", "NR_openat")]
    kinds: dict[int, int] = {}
    for call in range(1, calls + 1, step):
        _calls, failed, how, said = runner.run(call)
        kinds.setdefault(failed, call)
        for errno in (EIO, EINTR) if failed in interrupted else (EIO,):
            if errno != EIO:
                _calls, _failed, how, said = runner.run(call, errno)
            check_end(f"call {call} ({failed}) with {errno}", how, said, good, speaks=speaks)
    for number, call in kinds.items():
        if number not in (*map(_number, _CLOCKS), -1):
            _calls, _failed, how, said = runner.run(call, always=True)
            check_end(f"all calls {number} from {call} on", how, said, good, speaks=speaks)
    return calls


def check_end(what: str, how: str, said: str, good: set[str], *, speaks: bool) -> None:
    assert how in {*good, "exit 1"}, f"{what}: {how}\n{said}"
    # What was to be said may be the very call that failed; but there are two lines before the end.
    if speaks and how == "exit 1" and "all calls" not in what:
        assert "megamod: error: " in said, f"{what}: ends without a message\n{said}"


@pytest.mark.parametrize("root", list(_ROOTS))
@pytest.mark.parametrize("forks", ["fp", "p"])
def test_loader_hands_over_or_says_why_not_whichever_call_fails(programs, machine, root, forks):
    """Without a child for the calls, and with one that is hit in each of them."""
    runner = Runner(programs["init"], machine(root), ["/init"], forks=forks)
    assert check_all(runner, {f"exec {_target(root)}"}, speaks=True) > 100


@pytest.mark.parametrize("root", list(_ROOTS))
@pytest.mark.parametrize("forks", ["c", "fc"], ids=["calls", "keeper"])
def test_child_of_the_loader_ends_whichever_call_fails(programs, machine, root, forks):
    """The child that makes the calls comes to its own end; the keeper's ends in another program, or tells PID 1 by its
    end."""
    runner = Runner(programs["init"], machine(root), ["/init"], forks=forks)
    good = {f"exec {path}" for path in ("/megamod/ctl", "/sbin/init", "/bin/app")} | {"exit other", "exit 0"}
    assert check_all(runner, good, speaks=False) > 20


def _target(root: str) -> str:
    return {"cmdline": "/sbin/init"}.get(root, "/bin/app")


@pytest.mark.parametrize("root", list(_ROOTS))
@pytest.mark.parametrize("forks", ["f", "p", "c", "o"], ids=["alone", "parent", "child", "orphan"])
@STEPS
def test_keeper_ends_whichever_call_fails(programs, machine, root, forks, step):
    runner = Runner(programs["ctl"], prepared(programs, machine(root)), ["@megamod-keeper"], forks=forks)
    good = {"exit other"} if forks in "co" else {"exit 0"}
    assert check_all(runner, good | {"exit 0"}, speaks=False, step=step) > 50


@pytest.mark.parametrize(
    ("arguments", "forks"),
    [
        (["status"], "f"),
        (["status", "--json"], "f"),
        (["lsmod"], "f"),
        (["trigger", "third"], "f"),
        (["take-over"], "cf"),
        (["take-over"], "cp"),
        (["--hook"], "fp"),
        (["--hook"], "p"),
    ],
)
@STEPS
def test_command_ends_whichever_call_fails(programs, machine, arguments, forks, step):
    folder = prepared(programs, machine("exec"))
    runner = Runner(programs["ctl"], folder, ["megamod-ctl", *arguments], forks=forks)
    assert check_all(runner, {"exit 0", "exit 1"}, speaks=False, step=step) > 10
