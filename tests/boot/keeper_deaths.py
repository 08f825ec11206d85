"""Keepers and their children that are killed at many points: nothing is left half done.

    python -m tests.boot.keeper_deaths --boots 10 --seed 1 [--from N] [--suite bookworm]

A boot has as many stages as `ROUNDS`, of three modules each, which are asked for one after the other. At a moment that
is drawn the keeper, its child, or both get SIGKILL; what is left goes on, or `megamod-ctl take-over` does. After every
round what request_module() executes must be what it was, the stage must have been through, mask and status must say of
each module what the kernel says, and of processes only one keeper may be left, none after the last round.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.qemu import run_qemu
from megamod.common.host import cache_folder
from tests.boot.bare_modules import build_bare_modules
from tests.boot.faulty_modules import faulty_tree
from tests.boot.loader_images import section, shell_files, show, start_plan, write_loader_image
from tests.boot.quick_kernel import quick_kernel, slow_clock

ROUNDS = 12
KINDS = ("first", "slow", "last")
VICTIMS = ("keeper", "child", "both")
SLOW_MILLISECONDS = 300
# From before the child is there to after the end of the call, and once far behind it.
DELAYS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.28, 0.3, 0.32, 0.35, 0.4, 1.0)
CPU_SECONDS = 200
TIMEOUT_SECONDS = 1800.0

_CTL = "/run/megamod/ctl"
_FUNCTIONS = f"""\
PATH=/bin
/bin/busybox --install -s /bin
named() {{ grep -l "^$1\\$" /proc/[0-9]*/comm 2>/dev/null | cut -d/ -f3; }}
over() {{ grep -q "^$1 \\(done\\|failed\\)" /run/megamod/status; }}
kill_at() {{
	{_CTL} trigger $1; sleep $3
	case $2 in
	keeper) kill -9 $(named megamod-keeper) ;;
	child) kill -9 $(named megamod-load) ;;
	both) kill -9 $(named megamod-keeper) $(named megamod-load) ;;
	esac 2>/dev/null
	i=0; while [ -n "$(named megamod-load)" ] && [ $i -lt 100 ]; do i=$((i+1)); sleep 0.1; done
	sleep 0.2
	if ! over $1; then
		[ -n "$(named megamod-keeper)" ] || {_CTL} take-over
		sleep 0.2; {_CTL} trigger $1
		i=0; until over $1 || [ $i -gt 100 ]; do i=$((i+1)); sleep 0.1; done
	fi
	sleep 0.3
}}
until [ -p /run/megamod/control ]; do sleep 0.1; done
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A boot: what was drawn for each round, and what was wrong."""

    number: int
    rounds: tuple[tuple[str, float], ...]
    wrong: tuple[str, ...]
    console: str


def _names() -> dict[str, str]:
    return {
        f"{kind}_{number}": f"msleep({SLOW_MILLISECONDS});" if kind == "slow" else ""
        for number in range(ROUNDS)
        for kind in KINDS
    }


def _script(rounds: tuple[tuple[str, float], ...]) -> str:
    lines = [_FUNCTIONS]
    for number, (victim, delay) in enumerate(rounds):
        lines.append(f"kill_at stage{number} {victim} {delay}\n")
        lines.append(show(f"path {number}", "cat /proc/sys/kernel/modprobe; ls /run/megamod"))
        lines.append(show(f"status {number}", "cat /run/megamod/status"))
        lines.append(show(f"mask {number}", "cat /run/modprobe.d/megamod.conf"))
        lines.append(show(f"processes {number}", "echo none; cat /proc/[0-9]*/comm | grep ^megamod"))
    lines.append(show("json", "cat /run/megamod/status.json") + show("modules", "cat /proc/modules"))
    return "".join(lines) + "poweroff -f\n"


def _judge(console: str) -> Iterator[str]:
    if "[[[ modules\n" not in console:
        yield "it has not come to its end"
        return
    modules = {line.split()[0]: line.split()[4] for line in section(console, "modules").splitlines() if line.strip()}
    for number in range(ROUNDS):
        path, *files = section(console, f"path {number}").split()
        if path != "/sbin/modprobe" or "modprobe" in files:
            yield f"round {number}: request_module executes {path}, files {files}"
        line = re.search(
            rf"^stage{number} (\S+) \S+ \S+ (\d+) (\d+) (\d+) ", section(console, f"status {number}"), re.M
        )
        if line is None or line.groups() != ("done", "3", "0", "0"):
            yield f"round {number}: status {line and line[0]}"
        mask = section(console, f"mask {number}")
        for kind in KINDS:
            if f"install {kind}_{number} /bin/true\n" not in mask:
                yield f"round {number}: {kind}_{number} is not in the mask as loaded"
        left = [word for word in section(console, f"processes {number}").split() if word != "none"]
        if left not in ([], ["megamod-keeper"]) or (number == ROUNDS - 1 and left):
            yield f"round {number}: processes {left}"
        if modules.get(f"megamod_{number}") != "Live":
            yield f"megamod_{number} is {modules.get(f'megamod_{number}')}"
    for stage in json.loads(section(console, "json"))["stages"]:
        if stage["state"] not in ("done", "failed"):
            yield f"status.json: {stage['name']} is {stage['state']}"


def run_deaths(kernel: Kernel, *, seed: str, first: int, boots: int) -> Iterator[Outcome]:
    """One outcome a boot."""
    with tempfile.TemporaryDirectory(prefix="megamod-deaths-") as scratch:
        folder = Path(scratch)
        modules = build_bare_modules(kernel, folder / "modules", _names())
        tree = faulty_tree(kernel.modules, modules, folder)
        vmlinuz = quick_kernel(kernel, folder)
        plan = start_plan(tree, root="exec /bin/app", critical=["dummy"], head=["watchdog 3"])
        for number in range(ROUNDS):
            plan.stage(f"stage{number}", "manual")
            plan.merged(f"megamod_{number}", *(f"{kind}_{number}" for kind in KINDS))
            plan.lines.append("requests -")
        for number in range(first, first + boots):
            r = random.Random(f"{seed} {number}")
            rounds = tuple((r.choice(VICTIMS), r.choice(DELAYS)) for _ in range(ROUNDS))
            files = shell_files(_script(rounds), path="bin/app")
            image = write_loader_image(folder / "image", plan, files=files)
            console = run_qemu(
                image=image,
                vmlinuz=vmlinuz,
                append="quiet",
                icount=True,
                timeout=TIMEOUT_SECONDS,
                cpu_seconds=CPU_SECONDS,
                extra=slow_clock(2),
            ).console
            yield Outcome(number=number, rounds=rounds, wrong=tuple(_judge(console)), console=console)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--boots", type=int, default=10)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="N", help="the number of the first boot")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--suite", default="bookworm")
    arguments = parser.parse_args()
    kernel = fetch_kernel(arguments.suite, cache=cache_folder())
    bad = 0
    for outcome in run_deaths(kernel, seed=arguments.seed, first=arguments.first, boots=arguments.boots):
        bad += bool(outcome.wrong)
        drawn = ", ".join(f"{victim} after {delay} s" for victim, delay in outcome.rounds)
        print(f"{outcome.number}: {'; '.join(outcome.wrong) or 'good'} ({drawn})", flush=True)
        if outcome.wrong:
            print("\n".join(f"    {line}" for line in outcome.console.splitlines()[-300:]), flush=True)
    print(f"{arguments.boots * ROUNDS} rounds, {bad} boots with something wrong")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
