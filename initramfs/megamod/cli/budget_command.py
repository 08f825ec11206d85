"""``megamod boot --budget``, without click."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from megamod.analyze.chart.budget import BOOT, USER_SPACE, Verdict, judge, parse_budget, verdicts_text
from megamod.analyze.chart.junit import junit_xml
from megamod.analyze.chart.record import BootRecord
from megamod.analyze.chart.record_boot import boot_record
from megamod.boot.timeline import stages_of
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write
from megamod.common.progress import counted


def budget_command(
    *, image: Path, budget: str, runs: int, junit: Path | None, as_json: bool, icount: bool, **options: Any
) -> int:
    """0 if every limit holds, 1 if one does not or a boot fails. Runs are under icount, asked for or not."""
    limits = parse_budget(budget, stages=stages_of(image))
    stages = [limit.name for limit in limits if limit.name not in (USER_SPACE, BOOT)]

    def boot() -> BootRecord:
        record, report = boot_record(image, events=False, wait_for=stages, **options)
        if not report.ok:
            click.echo(report.as_table())
            raise MegamodError(f"{image}: the boot failed, so there is nothing to hold against the budget")
        return record

    verdicts = judge(limits, runs, boot)
    if junit is not None:
        atomic_write(junit, junit_xml(verdicts, name=f"megamod boot {image.name}"))
    if as_json:
        click.echo(json.dumps(_as_dict(verdicts), indent=2))
    else:
        click.echo(verdicts_text(verdicts))
        click.echo(f"\n{counted(runs, 'run')}, one instruction a nanosecond of guest time; the least counts")
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
