"""The glue's code on arm64, riscv64 and arm (also Thumb-2), run: order of inits, skips, results, times, value."""

from __future__ import annotations

import random

import pytest

from tests.unit.glue_runner import ENODEV, Loaded, chain, link_files, load, load_chain

ARCHES = ["arm64", "riscv64", "arm", "thumb"]
ASKED, NEEDS, NOT_RUN = 1, 2, 3


@pytest.fixture(params=ARCHES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_init_is_called_once_in_order(machine: str) -> None:
    run = load_chain(machine, "a b c:a d:c,b").run()
    assert run.value == 0
    assert run.members == ["a", "b", "c", "d"]
    assert run.results == {"a": 0, "b": 0, "c": 0, "d": 0}


def test_without_result_parameters_all_inits_are_called(machine: str) -> None:
    run = load_chain(machine, "a b:a", glue=False).run()
    assert (run.value, run.calls, run.results) == (0, ["a", "b"], {})


def test_users_of_a_failed_member_are_skipped_without_result_parameters(machine: str) -> None:
    run = load_chain(machine, "a b:a c:b d", glue=False).run(answers={"a": -ENODEV})
    assert (run.value, run.members) == (0, ["a", "d"])


def test_failed_init_is_recorded_and_all_its_users_are_skipped(machine: str) -> None:
    run = load_chain(machine, "a b:a c:b d e:d").run(answers={"a": -ENODEV})
    assert run.members == ["a", "d", "e"]
    assert run.results == {"a": -ENODEV, "b": NEEDS, "c": NEEDS, "d": 0, "e": 0}


@pytest.mark.parametrize("bad", ["a", "b"])
def test_member_with_two_needs_is_skipped_when_either_fails(machine: str, bad: str) -> None:
    assert load_chain(machine, "a b c:a,b").run(answers={bad: -ENODEV}).results["c"] == NEEDS


@pytest.mark.parametrize("value", [1, 5, 0x7FFFFFFF])
def test_positive_return_is_success(machine: str, value: int) -> None:
    run = load_chain(machine, "a b:a").run(answers={"a": value})
    assert run.results == {"a": 0, "b": 0}


@pytest.mark.parametrize("value", [-1, -4095, -(1 << 31)])
def test_any_negative_return_is_recorded_as_it_is(machine: str, value: int) -> None:
    assert load_chain(machine, "a").run(answers={"a": value}).results == {"a": value}


def test_init_returns_zero_when_every_member_fails(machine: str) -> None:
    assert load_chain(machine, "a b c").run(answers=dict.fromkeys("abc", -ENODEV)).value == 0


def test_library_without_init_succeeds_unless_what_it_needs_failed(machine: str) -> None:
    glue = load_chain(machine, "a lib!:a b:lib lone! c:lone")
    assert set(glue.run().results.values()) == {0}
    run = glue.run(answers={"a": -ENODEV})
    assert run.members == ["a", "c"]
    assert run.results == {"a": -ENODEV, "lib": NEEDS, "b": NEEDS, "lone": 0, "c": 0}


# Skipping as asked


def test_asked_members_are_skipped_and_their_users_too(machine: str) -> None:
    run = load_chain(machine, "a b:a c").run(skip=[0])
    assert run.members == ["c"]
    assert run.results == {"a": ASKED, "b": NEEDS, "c": 0}


def test_asked_user_is_reported_as_asked_though_its_need_failed(machine: str) -> None:
    run = load_chain(machine, "a b:a").run(answers={"a": -ENODEV}, skip=[1])
    assert run.results == {"a": -ENODEV, "b": ASKED}


def test_asked_library_is_skipped(machine: str) -> None:
    assert load_chain(machine, "lib! b:lib c").run(skip=[0]).results == {"lib": ASKED, "b": NEEDS, "c": 0}


def test_all_may_be_skipped_in_any_order_and_twice(machine: str) -> None:
    glue = load_chain(machine, "a b c")
    assert glue.run(skip=[2, 0, 1]).members == []
    assert glue.run(skip=[2, 2]).members == ["a", "b"]


@pytest.mark.parametrize("index", [3, 256, 1 << 20, 0x7FFFFFFF, -1, -256, -(1 << 31)])
def test_index_out_of_range_is_ignored(machine: str, index: int) -> None:
    run = load_chain(machine, "a b c").run(skip=[index, 1])
    assert run.results == {"a": 0, "b": ASKED, "c": 0}


# Time


def test_nanoseconds_are_recorded_for_each_init(machine: str) -> None:
    glue = load_chain(machine, "a b c")
    glue.ticks = lambda n: 1 << 40 | n * n * 1000
    assert glue.run().times == [1000, 3000, 5000]


def test_skipped_members_have_no_time_and_do_not_add_to_the_next(machine: str) -> None:
    glue = load_chain(machine, "a b c")
    glue.ticks = lambda n: 10 * n
    assert glue.run(skip=[1]).times == [10, 0, 10]


def test_clock_is_not_asked_where_it_is_not_known(machine: str) -> None:
    assert load_chain(machine, "a b", glue=False).run().calls == ["a", "b"]


# Many members: elements beyond the reach of one load or store


@pytest.fixture(scope="module", params=ARCHES)
def many(request: pytest.FixtureRequest) -> Loaded:
    """1100 members: five result and skip lists, nine of times; the last needs the first."""
    text = " ".join(f"m{n}" for n in range(1099)) + " last:m0,m1050"
    members = chain(request.param, text)
    return load(link_files(members))


@pytest.mark.heavy
def test_a_thousand_members_are_called_and_timed(many: Loaded) -> None:
    run = many.run()
    assert (run.value, len(run.members), set(run.results.values())) == (0, 1100, {0})
    assert set(run.times) == {1000}


@pytest.mark.heavy
def test_a_far_member_is_skipped_for_a_far_need_and_as_asked(many: Loaded) -> None:
    names = [member.name for member in many.megamodule.members]
    run = many.run(answers={"m1050": -ENODEV}, skip=[3], skip1=[0, 255])
    assert {n: r for n, r in run.results.items() if r} == {
        names[3]: ASKED,
        names[256]: ASKED,
        names[511]: ASKED,
        "m1050": -ENODEV,
        "last": NEEDS,
    }
    assert run.value == 0


def test_random_failures_and_wishes_agree_with_a_model(machine: str) -> None:
    rng = random.Random(machine)
    for _ in range(3):
        count = rng.randint(1, 20)
        text = " ".join(
            f"m{n}{'!' if n and rng.random() < 0.2 else ''}"
            + (":" + ",".join(f"m{d}" for d in sorted(rng.sample(range(n), min(n, rng.randint(1, 3))))) if n else "")
            for n in range(count)
        )
        glue = load_chain(machine, text)
        members = glue.megamodule.members
        answers = {m.name: -ENODEV for m in members if rng.random() < 0.1}
        skip = rng.sample(range(count), rng.randint(0, count // 5))
        expected: list[int] = []
        for number, member in enumerate(members):
            if number in skip:
                expected.append(ASKED)
            elif any(expected[n] for n in glue.megamodule.depends[number]):
                expected.append(NEEDS)
            else:
                expected.append(answers.get(member.name, 0) if member.init else 0)
        run = glue.run(answers=answers, skip=skip)
        assert list(run.results.values()) == expected
        assert run.value == 0


def test_results_say_not_run_before_the_call(machine: str) -> None:
    glue = load_chain(machine, "a b")
    assert glue.results() == {"a": NOT_RUN, "b": NOT_RUN}


@pytest.mark.parametrize("pad", ["3f2303d5", "5f2403d5"])  # paciasp, bti c
def test_arm64_glue_begins_with_the_landing_pad_of_its_members(pad: str) -> None:
    members = chain("arm64", "a b:a")
    if pad == "5f2403d5":
        # As members that do not sign: bti c, and no autiasp.
        nop, signing = bytes.fromhex("1f2003d5"), (bytes.fromhex("3f2303d5"), bytes.fromhex("bf2303d5"))
        members = [(n, d.replace(signing[0], bytes.fromhex(pad)).replace(signing[1], nop)) for n, d in members]
    glue = load(link_files(members))
    section = glue.merged.sections[glue.entry[0]]
    assert bytes(glue.merged.content(section)[glue.entry[1] : glue.entry[1] + 4]) == bytes.fromhex(pad)
    assert glue.run().members == ["a", "b"]
