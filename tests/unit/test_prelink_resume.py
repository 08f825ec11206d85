"""The parameter resume, run on all architectures: an init that does not come back costs itself, once and for all.

What hangs is left in the middle of its call, as after an oops, and may go on later.
"""

from __future__ import annotations

import pytest

from tests.unit import glue_runner
from tests.unit.glue_runner import ENODEV, Loaded
from tests.unit.module_factory import GLUE_IMPORTS, Ko, link

JUST_RETURN = bytes.fromhex("f30f1efa c3")
ASKED, NEEDS, NOT_RUN, RUNS = 1, 2, 3, 4
LIVE, COMING = 0, 1


@pytest.fixture(params=["x86_64", "arm64", "riscv64", "arm", "thumb"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load_chain(machine: str, text: str) -> Loaded:
    """The chain, prelinked and loaded (glue_runner.chain())."""
    if machine != "x86_64":
        return glue_runner.load_chain(machine, text)
    made = []
    for word in text.split():
        name, _, needs = word.partition(":")
        made.append(Ko(name.rstrip("!"), init=None if name.endswith("!") else JUST_RETURN).exports(f"{name}_sym"))
        for needed in needs.split(",") if needs else []:
            made[-1].calls(f"{needed}_sym", 0x99)
    return glue_runner.load(link(*made, donors=GLUE_IMPORTS))


@pytest.fixture
def loaded(machine: str) -> Loaded:
    return load_chain(machine, "a b:a c d:c e:d f")


def test_members_after_the_one_that_was_hit_are_run_and_the_module_goes_live(loaded: Loaded) -> None:
    first = loaded.run(hang=["c"])
    assert first.members == ["a", "b", "c"]
    assert first.results == {"a": 0, "b": 0, "c": RUNS, "d": NOT_RUN, "e": NOT_RUN, "f": NOT_RUN}
    assert loaded.state == COMING
    again = loaded.resume()
    assert (again.value, again.members) == (0, ["f"])
    assert again.results == {"a": 0, "b": 0, "c": RUNS, "d": NEEDS, "e": NEEDS, "f": 0}
    assert loaded.state == LIVE


def test_each_further_one_that_is_hit_costs_itself_alone(loaded: Loaded) -> None:
    loaded.run(hang=["a"])
    assert loaded.resume(hang=["c"]).members == ["c"]
    assert loaded.resume(hang=["f"]).members == ["f"]
    assert loaded.state == COMING
    last = loaded.resume()
    assert last.members == []
    assert last.results == {"a": RUNS, "b": NEEDS, "c": RUNS, "d": NEEDS, "e": NEEDS, "f": RUNS}
    assert loaded.state == LIVE


def test_failures_and_skips_of_both_calls_are_recorded(loaded: Loaded) -> None:
    loaded.run(answers={"a": -ENODEV}, hang=["c"], skip=[5])
    assert loaded.resume(answers={"f": -1}).results == {
        "a": -ENODEV,
        "b": NEEDS,
        "c": RUNS,
        "d": NEEDS,
        "e": NEEDS,
        "f": ASKED,
    }


def test_times_are_those_of_each_call(loaded: Loaded) -> None:
    loaded.ticks = lambda n: n * 10
    loaded.run(hang=["c"])
    assert loaded.resume().times == [10, 10, 0, 0, 0, 10]


def test_nothing_is_left_to_resume_after_a_call_that_was_good(loaded: Loaded) -> None:
    loaded.run()
    again = loaded.resume()
    assert (again.value, again.calls, loaded.state) == (0, [], COMING)


def test_setter_does_nothing_before_the_init_as_arguments_are_parsed(loaded: Loaded) -> None:
    loaded.machine.clear()
    assert loaded.resume().calls == []
    assert loaded.run().members == ["a", "b", "c", "d", "e", "f"]


def test_init_that_comes_back_late_runs_nothing_more_and_waits_for_the_others(loaded: Loaded) -> None:
    first = loaded.run(hang=["c"])
    assert first.held is not None
    second = loaded.resume(hang=["f"])
    assert second.held is not None
    # Another flow is in init memory, which may not be freed.
    late = loaded.go_on(first.held, answers={"c": 0}, hang=["msleep"])
    assert (late.members, late.calls[-1], late.results["c"]) == (["c"], "msleep", 0)
    assert late.held is not None
    other = loaded.go_on(second.held, answers={"f": -ENODEV})
    assert (other.value, other.results["f"], loaded.state) == (0, -ENODEV, LIVE)
    loaded.locked = False  # the setter has returned
    assert loaded.go_on(late.held).value == 0


def test_init_that_comes_back_when_all_is_over_returns_after_one_look(loaded: Loaded) -> None:
    first = loaded.run(hang=["b"])
    assert first.held is not None
    assert loaded.resume().members == ["c", "d", "e", "f"]
    late = loaded.go_on(first.held)
    assert (late.value, late.members, late.calls.count("msleep")) == (0, ["b"], 1)


def test_setter_that_comes_back_late_leaves_the_rest_to_the_one_after_it(loaded: Loaded) -> None:
    loaded.run(hang=["a"])
    second = loaded.resume(hang=["c"])
    assert second.held is not None
    assert loaded.resume().members == ["f"]
    late = loaded.go_on(second.held)
    assert (late.value, late.members, late.results["d"]) == (0, ["c"], NEEDS)


def test_branches_to_the_end_reach_it_from_a_thousand_members(machine: str) -> None:
    names = [f"m{n}" for n in range(1100)]
    loaded = load_chain(machine, " ".join(names))
    first = loaded.run(hang=["m3"])
    assert first.held is not None
    assert loaded.resume(hang=["m1050"]).members == names[4:1051]
    assert loaded.resume().members == names[1051:]
    assert loaded.go_on(first.held, hang=["msleep"]).members == ["m3"]


def test_there_is_no_such_parameter_where_one_init_is_all(machine: str) -> None:
    assert "resume" not in load_chain(machine, "a").parameters()
