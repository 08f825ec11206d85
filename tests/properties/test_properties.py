"""A bounded, repeatable number of random prelinks; run.py does as many as asked for."""

import random
from collections.abc import Callable

import pytest
from oracle import judge
from oracle.model import load_model

from megamod.initramfs.boot.debian import Kernel
from properties.cases import Case, Outcome, draw, run_case, shrink
from properties.modules import Tree, open_folder, plain

Kernels = Callable[[str], Kernel]
SUITES = ["bookworm", "bookworm-backports"]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("number", range(6))
def test_a_random_prelink_is_what_its_members_would_have_been(kernels: Kernels, suite: str, number: int) -> None:
    tree = open_folder(kernels(suite).modules)
    outcome = run_case(tree, draw(tree, f"ci-{number}"))
    assert not outcome.kinds, "\n".join([str(outcome.case), *outcome.case.members, *outcome.lines[:20]])


@pytest.mark.parametrize("unwind", ["keep", "compact", "drop"])
def test_random_damage_to_a_real_megamodule_is_always_found(kernels: Kernels, unwind: str) -> None:
    tree = open_folder(kernels("bookworm").modules)
    case = Case(members=tree.closure(["virtio_blk", "ext2", "usbcore"]), unwind=unwind, tracing="off", symbols="trim")
    outcome = run_case(tree, case)
    assert not outcome.kinds and outcome.megamodule is not None
    data, mapping = outcome.megamodule.data, outcome.megamodule.map
    members = [(name, plain(tree.files[name])) for name in outcome.case.members]
    model = load_model(data)
    rng = random.Random(unwind)
    spots = [c for c in mapping["chunks"] if c["member"] >= 0 and c.get("size") and c["output"] != ".bss"]
    missed = []
    for _ in range(40):
        chunk = rng.choice(spots)
        section = model.find(chunk["output"])
        assert section is not None
        start = chunk["offset"] if "offset" in chunk else chunk["pieces"][0][1]
        size = chunk["size"] if "offset" in chunk else chunk["pieces"][0][2]
        at = section.offset + start + rng.randrange(size)
        damaged = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        if not judge(members, damaged, mapping):
            missed.append((chunk["section"], at))
    assert missed == []


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
