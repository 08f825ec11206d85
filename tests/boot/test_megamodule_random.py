"""Two sets of modules drawn at random; `random_sets.py` boots as many as one likes, of any kernel."""

from __future__ import annotations

import pytest

from tests.boot.random_sets import run_sets


@pytest.mark.parametrize(("suite", "seed"), [("bookworm", "three"), ("sid", "one")])
def test_modules_drawn_at_random_do_merged_what_they_do_one_by_one(kernels, tool, suite, seed):
    tool("qemu-system-x86_64", package="qemu-system-x86")
    (outcome,) = run_sets(kernels(suite), seed=seed, first=0, boots=1)
    assert (outcome.how, outcome.lines) == ("as one by one", ())
    assert outcome.members > 10
