"""Kernels of tests/kernels, all their modules merged: the machine is as with the stock modules, the oracle agrees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from tests.kernels.matrix import Result, run_row
from tests.kernels.table import ROWS

KERNELS = ("tiny", "kcfi-x86_64", "kcfi-arm64")


# A kernel takes minutes to build.
@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) for name in KERNELS])
def result(request: pytest.FixtureRequest, selfbuilt: Callable[[str], Kernel], tmp_path: Path) -> Result:
    kernel = selfbuilt(request.param)
    return run_row(ROWS[request.param], kernel, tmp_path, cases=2, boot=True, timeout=400, say=print)


def test_all_modules_are_merged_and_the_boot_is_as_with_stock_modules(result: Result) -> None:
    assert result.faults == []
    assert (result.build, result.stock, result.boot) == ("ok", "ok", "ok")
    assert (result.merged, result.singles) == (result.modules, {})
    assert result.oracle == "0 differences; 2 sets, 0 failed"
