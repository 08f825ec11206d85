"""/run/megamod/status.json → a record. It has durations of calls and members, and no times (loader/README.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megamod.chart.calls import CallDraft
from megamod.chart.record import BootRecord
from megamod.chart.untimed import StageTimes, stages_in_a_row


def record_of_status(status: Mapping[str, Any], *, title: str) -> BootRecord:
    """The record of a status.json that was parsed; KeyError, TypeError or ValueError if it is not one."""
    stages = []
    for stage in status["stages"]:
        if stage["state"] not in ("done", "failed"):
            continue
        times = StageTimes(name=str(stage["name"]), detail=f"triggered by {stage['triggered'] or 'now'}")
        times.calls += [_call(load) for load in stage["loads"] if load["nanoseconds"]]
        stages.append(times)
    return stages_in_a_row(stages, title=title, kernel=str(status["kernel"]))


def _call(load: Mapping[str, Any]) -> CallDraft:
    members = load["members"]
    counts = [sum(member["state"] == state for member in members) for state in ("ok", "failed", "skipped")]
    call = CallDraft(
        name=str(load["name"]),
        start=0,
        duration=int(load["nanoseconds"]),
        detail="{} ok, {} failed, {} skipped".format(*counts),
    )
    if load["kind"] == "merged" and load["loaded"] == "own":
        call.inits = {str(member["name"]): int(member["nanoseconds"]) for member in members}
    return call
