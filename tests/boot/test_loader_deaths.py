"""One boot of `keeper_deaths.py`: twelve rounds, in each the keeper or its child is killed at a drawn moment."""

from __future__ import annotations

import pytest

from tests.boot.keeper_deaths import run_deaths


@pytest.mark.slow
def test_killed_keepers_and_children_leave_nothing_half_done(kernels, tool):
    tool("qemu-system-x86_64", package="qemu-system-x86")
    for outcome in run_deaths(kernels("bookworm"), seed="ci", first=0, boots=1):
        assert outcome.wrong == (), outcome.rounds
