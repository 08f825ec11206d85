"""`megamod boot` and `megamod demo`: images that run in QEMU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from megamod.cli.completing import kernels, limits
from megamod.cli.options import APPEND, BUSYBOX, DISKS, FILE, JSON, MEMORY, TIMEOUT, Number, say
from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from megamod.analyze.chart.budget import Verdict

_RUNS = 3


@click.command()
@click.argument("image", type=FILE)
@click.option("--vmlinuz", type=FILE, metavar="FILE", help="The kernel; default: the one the image was built for.")
@click.option(
    "-k",
    "--kernel",
    metavar="KERNEL",
    shell_complete=kernels,
    help="Boot the kernel that belongs to this lib/modules/KVER folder.",
)
@DISKS
@BUSYBOX
@APPEND
@click.option("--icount", is_flag=True, help="Count instructions: guest time is the same on every machine.")
@TIMEOUT
@MEMORY
@JSON
@click.option(
    "--budget",
    metavar="LIMITS",
    shell_complete=limits,
    help="Such as critical=120ms,userspace=500ms,boot=2s; status 1 when over.",
)
@click.option(
    "--runs", type=Number(1, 100), help=f"With --budget: number of boots; the fastest counts. Default: {_RUNS}."
)
@click.option("--junit", type=FILE, metavar="FILE", help="With --budget: write JUnit XML here.")
def boot(
    *,
    image: Path,
    vmlinuz: Path | None,
    kernel: str | None,
    as_json: bool,
    budget: str | None,
    runs: int | None,
    junit: Path | None,
    busybox: bool,
    **options: Any,
) -> None:
    """Boot an image in QEMU and print the timeline.

    The timeline ends with a list of failures; status 1 if user space was not reached. With --budget the times are
    compared with limits instead.
    """
    from megamod.cli.defaults import kernel_image, with_busybox

    if budget is None and (runs is not None or junit is not None):
        raise MegamodError(f"--{'junit' if runs is None else 'runs'}: only with --budget")
    vmlinuz = kernel_image(image, kernel=kernel, vmlinuz=vmlinuz)
    with with_busybox(image, options.pop("disks"), wanted=busybox) as disks:
        options["disks"] = disks
        if budget is not None:
            judged = _check_budget(
                image, budget=budget, runs=runs or _RUNS, junit=junit, as_json=as_json, vmlinuz=vmlinuz, **options
            )
            sys.exit(judged)
        from megamod.boot.timeline import boot_image

        report = boot_image(image, vmlinuz=vmlinuz, **options)
    say(report.as_json() if as_json else report.as_table())
    sys.exit(report.exit_status)


def _check_budget(
    image: Path, *, budget: str, runs: int, junit: Path | None, as_json: bool, icount: bool, **options: Any
) -> int:
    """0 if every limit holds, 1 if one does not or a boot fails. Runs are under icount, asked for or not."""
    import json

    from megamod.analyze.chart.advice import advice_lines
    from megamod.analyze.chart.budget import BOOT, USER_SPACE, judge, parse_budget, verdicts_text
    from megamod.analyze.chart.junit import junit_xml
    from megamod.analyze.chart.record import BootRecord
    from megamod.analyze.chart.record_boot import boot_record
    from megamod.boot.timeline import stages_of
    from megamod.common.files import atomic_write
    from megamod.common.text import counted

    limits = parse_budget(budget, stages=stages_of(image))
    stages = [limit.name for limit in limits if limit.name not in (USER_SPACE, BOOT)]

    def boot_once() -> BootRecord:
        record, report = boot_record(image, events=False, wait_for=stages, **options)
        if not report.ok:
            say(report.as_table())
            raise MegamodError(f"{image}: the boot failed, so there is nothing to compare with the budget")
        return record

    verdicts = judge(limits, runs, boot_once)
    if junit is not None:
        atomic_write(junit, junit_xml(verdicts, name=f"megamod boot {image.name}"))
    if as_json:
        say(json.dumps(_as_dict(verdicts), indent=2))
    else:
        say(verdicts_text(verdicts))
        if any(verdict.over for verdict in verdicts):
            record, _report = boot_record(image, events=False, initcalls=True, wait_for=(), **options)
            say("".join(f"\n{line}" for line in advice_lines(record.advice)))
        say(f"\n{counted(runs, 'run')}, one instruction per nanosecond of guest time; the fastest counts")
    return 1 if any(verdict.over for verdict in verdicts) else 0


def _as_dict(verdicts: tuple[Verdict, ...]) -> dict[str, object]:
    return {
        "version": 1,
        "ok": not any(verdict.over for verdict in verdicts),
        "budget": [
            {
                "name": verdict.limit.name,
                "limit": verdict.limit.nanoseconds,
                "taken": verdict.best.counted,
                "over": verdict.over,
                "waits": verdict.best.waited,
                "measuring": verdict.best.measuring,
                "runs": [run.counted for run in verdict.runs],
            }
            for verdict in verdicts
        ],
    }


@click.command()
@click.option("--suite", default=None, metavar="SUITE", help="Download this Debian suite's kernel, not this host's.")
@click.option("--keep", type=FILE, metavar="FOLDER", help="Keep image, disk and kernel log here.")
def demo(*, suite: str | None, keep: Path | None) -> None:
    """Compare megamod with loading modules one by one, in QEMU.

    Builds the vm profile and boots it on a small ext4 root.
    """
    from megamod.boot.demo import run_demo

    sys.exit(run_demo(suite=suite, keep=keep))
