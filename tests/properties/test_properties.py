"""A bounded, repeatable number of random prelinks; run.py does as many as asked for."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from megamod.boot.debian import Kernel
from megamod.prelink.link import Megamodule
from tests.oracle import judge
from tests.oracle.elffile import Section
from tests.oracle.model import Model, load_model
from tests.properties.cases import Case, Outcome, draw, run_case, shrink
from tests.properties.modules import Tree, open_folder, plain

Kernels = Callable[..., Kernel]
SUITES = ["bookworm", "bookworm-backports"]
# Suite, Debian's architecture, how many sets.
FOREIGN = [("bookworm", "arm64", 4), ("sid", "arm64", 2), ("trixie", "riscv64", 4), ("trixie", "armhf", 4)]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("number", range(6))
def test_a_random_prelink_is_what_its_members_would_have_been(kernels: Kernels, suite: str, number: int) -> None:
    tree = open_folder(kernels(suite).modules)
    outcome = run_case(tree, draw(tree, f"ci-{number}"))
    assert not outcome.kinds, "\n".join([str(outcome.case), *outcome.case.members, *outcome.lines[:20]])


@pytest.mark.parametrize(
    ("suite", "architecture", "number"), [(suite, name, n) for suite, name, count in FOREIGN for n in range(count)]
)
def test_a_random_prelink_of_another_architecture_equals_its_members(
    kernels: Kernels, suite: str, architecture: str, number: int
) -> None:
    tree = open_folder(kernels(suite, architecture).modules)
    outcome = run_case(tree, draw(tree, f"ci-{number}"))
    assert not outcome.kinds, "\n".join([str(outcome.case), *outcome.case.members, *outcome.lines[:20]])


@pytest.mark.parametrize(("suite", "architecture"), [("bookworm", "arm64"), ("trixie", "riscv64"), ("trixie", "armhf")])
def test_random_damage_is_always_found_on_another_architecture(kernels: Kernels, suite: str, architecture: str) -> None:
    tree = open_folder(kernels(suite, architecture).modules)
    members = tree.closure(["virtio_blk", "ext2", "usbcore"])
    outcome = run_case(tree, Case(members=members, unwind="keep", tracing="off", symbols="trim"))
    assert not outcome.kinds and outcome.megamodule is not None
    given = [(name, plain(tree.files[name])) for name in outcome.case.members]
    found = [judge(given, damaged, outcome.megamodule.map) for damaged in _damaged(outcome.megamodule, "foreign", 40)]
    assert all(found)


@pytest.mark.parametrize("unwind", ["keep", "compact", "drop"])
def test_random_damage_to_a_real_megamodule_is_always_found(kernels: Kernels, unwind: str) -> None:
    tree = open_folder(kernels("bookworm").modules)
    case = Case(members=tree.closure(["virtio_blk", "ext2", "usbcore"]), unwind=unwind, tracing="off", symbols="trim")
    outcome = run_case(tree, case)
    assert not outcome.kinds and outcome.megamodule is not None
    members = [(name, plain(tree.files[name])) for name in outcome.case.members]
    found = [judge(members, damaged, outcome.megamodule.map) for damaged in _damaged(outcome.megamodule, unwind, 40)]
    assert all(found)


def _damaged(megamodule: Megamodule, seed: str, count: int) -> Iterator[bytes]:
    """The file with one bit turned in a member's part; not one that the kernel writes over."""
    data, mapping = megamodule.data, megamodule.map
    model = load_model(data)
    rng = random.Random(seed)
    spots = [c for c in mapping["chunks"] if c["member"] >= 0 and c.get("size") and c["output"] != ".bss"]
    while count:
        chunk = rng.choice(spots)
        section = model.find(chunk["output"])
        assert section is not None
        start = chunk["offset"] if "offset" in chunk else chunk["pieces"][0][1]
        size = chunk["size"] if "offset" in chunk else chunk["pieces"][0][2]
        place, bit = start + rng.randrange(size), rng.randrange(8)
        if section.nobits or _written_by_kernel(model, section, place, bit):
            continue
        at = section.offset + place
        count -= 1
        yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def _written_by_kernel(model: Model, section: Section, place: int, bit: int) -> bool:
    """Whether a relocation sets this bit whatever it was. On x86_64 and for sums it must be zero; REL reads it."""
    for start in range(place - 7, place + 1):
        row = model.row_at(section, start)
        if row is None or model.arch.zero_fields or model.arch.rel:
            continue
        form = model.arch.by_code(int(model.kind[row]))
        if not form.adds and place < start + form.width and form.mask >> (8 * (place - start) + bit) & 1:
            return True
    return False


def test_shrinking_finds_the_one_module_that_fails(kernels: Kernels) -> None:
    tree = open_folder(kernels("bookworm").modules)

    def run(_: Tree, case: Case) -> Outcome:
        return Outcome(case=case, kinds=("bytes",) if "jbd2" in case.members else ())

    first = Case(members=tree.closure(["ext4", "xfs", "usbcore"]), unwind="keep", tracing="keep", symbols="keep")
    smallest = shrink(tree, run(tree, first), run=run)
    assert smallest.case == Case(members=("jbd2",), unwind="drop", tracing="off", symbols="trim")


def test_a_drawn_case_depends_on_its_seed_alone(kernels: Kernels) -> None:
    tree = open_folder(kernels("bookworm").modules)
    assert draw(tree, "a-1") == draw(tree, "a-1") != draw(tree, "a-2")


@pytest.mark.parametrize(("suite", "architecture"), [("bookworm", "arm64"), ("trixie", "riscv64"), ("trixie", "armhf")])
def test_one_turned_bit_in_any_kind_of_resolved_field_is_found(kernels: Kernels, suite: str, architecture: str) -> None:
    tree = open_folder(kernels(suite, architecture).modules)
    members = tree.closure(["ext4", "usbcore"])
    outcome = run_case(tree, Case(members=members, unwind="keep", tracing="off", symbols="trim"))
    assert not outcome.kinds and outcome.megamodule is not None
    data, mapping = outcome.megamodule.data, outcome.megamodule.map
    given = [(name, plain(tree.files[name])) for name in outcome.case.members]
    spots = _resolved(dict(given), mapping, load_model(data))
    for name, (at, mask) in spots.items():
        for bit in (0, mask.bit_count() // 2, mask.bit_count() - 1):
            number = [n for n in range(64) if mask >> n & 1][bit]
            where = at + number // 8
            assert judge(given, data[:where] + bytes([data[where] ^ 1 << number % 8]) + data[where + 1 :], mapping), (
                name
            )
    assert len(spots) >= {"arm64": 6, "riscv64": 1, "armhf": 0}[architecture]


def _resolved(members: Mapping[str, bytes], mapping: Mapping[str, Any], merged: Model) -> dict[str, tuple[int, int]]:
    """For each kind of field that lost its relocation somewhere: its offset in the file, and the bits that it has."""
    found: dict[str, tuple[int, int]] = {}
    for chunk in mapping["chunks"]:
        if chunk["member"] < 0 or "offset" not in chunk or chunk["section"] == "__mcount_loc":
            continue
        model = load_model(members[mapping["members"][chunk["member"]]["name"]])
        target = merged.find(chunk["output"])
        span = model.rows(model.sections[chunk["index"]])
        assert target is not None
        for place, kind in zip(model.place[span].tolist(), model.kind[span].tolist(), strict=True):
            form = model.arch.by_code(kind)
            if form.name not in found and merged.row_at(target, chunk["offset"] + place) is None:
                found[form.name] = (target.offset + chunk["offset"] + place, form.mask & ((1 << 8 * form.width) - 1))
    return found
