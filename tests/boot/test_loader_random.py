"""A few boots with faults drawn at random; `random_faults.py` makes as many as one likes."""

from __future__ import annotations

from tests.boot.random_faults import run_boots


def test_boots_with_random_faults_reach_user_space_or_the_stated_failure(kernels, tool):
    tool("qemu-system-x86_64", package="qemu-system-x86")
    outcomes = list(run_boots(kernels("bookworm"), seed="ci", first=0, boots=6))
    assert [(o.number, o.how, o.faults) for o in outcomes if not o.good] == []
