"""The order of the inits: dependencies, then level, then link order; wishes where nothing speaks against them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

import pytest

from megamod.common.errors import MegamodError
from tests.unit.module_factory import Ko, link


def inits(
    text: str,
    *,
    ranks: Mapping[str, tuple[int, int]] | None = None,
    after: Mapping[str, Iterable[str]] | None = None,
) -> str:
    """Init order of members "a b:a" (b imports from a), given in that order."""
    kos = []
    for word in text.split():
        name, _, needs = word.partition(":")
        kos.append(Ko(name).exports(f"{name}_sym", 1))
        for needed in needs.split(",") if needs else []:
            kos[-1].calls(f"{needed}_sym", 1)
    return " ".join(member.name for member in link(*kos, ranks=ranks, after=after).members)


def test_dependencies_come_first() -> None:
    assert inits("a:b b:c c") == "c b a"


def test_given_order_is_kept_where_nothing_else_decides() -> None:
    assert inits("c a b") == "c a b"


def test_lower_level_goes_first_then_link_order() -> None:
    assert inits("a b c", ranks={"a": (7, 0), "b": (4, 9), "c": (4, 1)}) == "c b a"


def test_member_without_a_rank_is_a_device() -> None:
    assert inits("a late early", ranks={"late": (7, 0), "early": (5, 0)}) == "early a late"


def test_dependency_beats_level() -> None:
    assert inits("a:b b", ranks={"a": (1, 0), "b": (7, 0)}) == "b a"


def test_level_is_followed_among_what_is_ready() -> None:
    assert inits("x:late late y", ranks={"x": (1, 0), "late": (7, 0), "y": (6, 0)}) == "y late x"


def test_wish_is_followed() -> None:
    assert inits("a b", after={"a": ["b"]}) == "b a"


def test_wish_for_a_member_that_is_not_there_is_nothing() -> None:
    assert inits("a b", after={"a": ["zzz", "a"]}) == "a b"


def test_wish_against_a_dependency_is_dropped() -> None:
    assert inits("a b:a", after={"a": ["b"]}) == "a b"


def test_wishes_in_a_circle_are_dropped_where_they_must_be() -> None:
    assert inits("a b c", after={"a": ["b"], "b": ["a"]}) == "c a b"


def test_order_is_right_for_random_graphs() -> None:
    rng = random.Random(3)
    for _ in range(8):
        count = rng.randint(2, 30)
        needs = {n: rng.sample(range(n), rng.randint(0, min(n, 3))) for n in range(count)}
        words = [f"m{n}" + (":" + ",".join(f"m{d}" for d in ds) if ds else "") for n, ds in needs.items()]
        rng.shuffle(words)
        ranks = {f"m{n}": (rng.randint(0, 7), rng.randint(0, 9)) for n in range(count)}
        after = {f"m{n}": [f"m{rng.randrange(count)}"] for n in range(count) if rng.random() < 0.3}
        found = inits(" ".join(words), ranks=ranks, after=after).split()
        assert sorted(found) == sorted(f"m{n}" for n in range(count))
        place = {name: number for number, name in enumerate(found)}
        assert all(place[f"m{d}"] < place[f"m{n}"] for n, ds in needs.items() for d in ds)


@pytest.mark.parametrize(
    ("text", "cycle"),
    [
        ("a:b b:a", "a needs b needs a"),
        ("a:b b:c c:d d:b", "b needs c needs d needs b"),
        ("x y:x a:b,x b:c,y c:a", "a needs b needs c needs a"),
    ],
)
def test_cycle_is_named_whole(text: str, cycle: str) -> None:
    with pytest.raises(MegamodError) as caught:
        inits(text)
    assert str(caught.value) == (
        f"{cycle.split()[0]}.ko: cyclic dependency: {cycle} (hint: such modules cannot be loaded at all)"
    )


def test_member_that_imports_its_own_export_is_no_cycle() -> None:
    assert inits("a:a b") == "a b"


@pytest.mark.heavy
def test_long_chain_is_no_recursion() -> None:
    words = [f"m{n}:m{n + 1}" for n in range(1500)]
    assert inits(" ".join([*words, "m1500"])).split()[:2] == ["m1500", "m1499"]
