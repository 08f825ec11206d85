"""The benchmark itself works: its quick part, with all that needs no other generator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_the_quick_benchmark_writes_json_a_table_and_plots_of_every_part(
    tmp_path: Path, kernels: Callable[[str], object], tool: Callable[..., str], busybox: Path
) -> None:
    kernels("bookworm")
    tool("qemu-system-x86_64", package="qemu-system-x86")
    command = [sys.executable, "-m", "tests.bench.run", "--quick", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600, cwd=TOP)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = tmp_path.glob("*/results.json")
    found = json.loads(results.read_text())
    assert {row["key"] for row in found["load"]["rows"]} == {"unsigned", "drop+trim"}
    assert {row["key"] for row in found["boot"]} == {"busybox", "megamod"}
    assert all(row["all"] > row["real"] > row["init"] > 0 for row in found["boot"])
    assert {row["key"] for row in found["build"]} == {row["key"] for row in found["boot"]}
    assert [row["set"] for row in found["limit"]] == ["small"]
    page = results.with_suffix(".md").read_text()
    assert all(f"## {title}" in page for title in ("Load: small", "Boot: ", "Build: ", "Limit: "))
    assert {path.name for path in results.parent.glob("*.svg")} == {"load-small.svg", "boot.svg", "build.svg"}
