"""``megamod chart``, without click: from plain arguments to output and exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from megamod.analyze.chart.compare import compare, comparison_dict, comparison_text
from megamod.analyze.chart.log_with_status import merge_records
from megamod.analyze.chart.perfetto import trace_json
from megamod.analyze.chart.record import BootRecord
from megamod.analyze.chart.record_json import record_dict, record_json
from megamod.analyze.chart.record_source import read_record
from megamod.analyze.chart.svg import svg_chart, svg_comparison
from megamod.analyze.chart.text import print_chart
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write


def chart_command(
    *,
    logs: tuple[Path, ...],
    output: Path | None,
    as_text: bool,
    as_json: bool,
    trace: Path | None,
    other: Path | None,
    image: Path | None,
    **boot: Any,
) -> int:
    """``megamod chart``: 0, or 1 when a boot that was asked for did not reach user space."""
    status = 0
    if image is None:
        _no_boot_options(boot)
        if not logs:
            raise MegamodError("nothing to draw", hint="a log, status.json, or --boot IMAGE --vmlinuz FILE")
        record = merge_records([read_record(log) for log in logs])
    else:
        if logs:
            raise MegamodError(f"{logs[0]}: --boot takes no logs", hint="--compare LOG compares the boot with one")
        record, status = _booted(image, **boot)
    if trace is not None:
        atomic_write(trace, trace_json(record).encode())
    if other is not None:
        _show_comparison(record, read_record(other), output=output, as_text=as_text, as_json=as_json)
        return status
    if output is not None:
        atomic_write(output, svg_chart(record).encode())
    if as_json:
        sys.stdout.write(record_json(record))
    elif as_text or (output is None and trace is None):
        print_chart(record, sys.stdout)
    return status


def _no_boot_options(boot: dict[str, Any]) -> None:
    given = [name for name in ("vmlinuz", "disks", "append", "initcalls", "log") if boot[name]]
    if given:
        raise MegamodError(f"--{given[0].replace('disks', 'disk')}: only with --boot IMAGE")


def _booted(image: Path, *, vmlinuz: Path | None, **options: Any) -> tuple[BootRecord, int]:
    from megamod.analyze.chart.record_boot import boot_record

    if vmlinuz is None:
        raise MegamodError("--boot needs a kernel", hint="--vmlinuz FILE")
    record, report = boot_record(image, vmlinuz=vmlinuz, **options)
    return record, report.exit_status


def _show_comparison(
    record: BootRecord, other: BootRecord, *, output: Path | None, as_text: bool, as_json: bool
) -> None:
    comparison = compare(record, other)
    if output is not None:
        atomic_write(output, svg_comparison(comparison).encode())
    if as_json:
        value = {
            **comparison_dict(comparison),
            "records": [record_dict(each) for each in (comparison.before, comparison.after)],
        }
        sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    elif as_text or output is None:
        sys.stdout.write(f"{comparison_text(comparison)}\n")
