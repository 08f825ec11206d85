"""A bounded run of the fuzzer with a fixed seed, and everything that it has ever found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megamod.prelink.options import PrelinkOptions
from tests.fuzz.fuzz_prelink import make_case, run_case, small_sets

TOP = Path(__file__).parents[2]
CORPUS = sorted(path.parent for path in Path(__file__).parent.glob("corpus/*/case.json"))


def test_two_thousand_damaged_sets_are_refused_or_linked(tmp_path: Path) -> None:
    """In a process of its own: it limits its memory."""
    words = ("--cases", "2000", "--seed", "20", "--quiet", "--save", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_prelink", *words],
        capture_output=True, text=True, timeout=3600, check=False, cwd=TOP, env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("folder", CORPUS, ids=lambda path: path.name)
def test_what_was_found_once_is_refused_or_linked(folder: Path, tmp_path: Path) -> None:
    case = json.loads((folder / "case.json").read_text())
    files = {path.name: path.read_bytes() for path in sorted(folder.glob("*.ko"))}
    options = {**case["options"], "name": "megamod_fuzz"}
    kind, text = run_case(files, PrelinkOptions(**options), tmp_path)
    assert kind == case["expect"], text
    assert case["text"] in text


def test_corpus_is_there() -> None:
    assert len(CORPUS) >= 10


def test_same_seed_makes_the_same_case() -> None:
    sets = small_sets()
    assert make_case(sets, 5, 77) == make_case(sets, 5, 77)
    assert make_case(sets, 5, 77) != make_case(sets, 6, 77)


def test_undamaged_sets_link(tmp_path: Path) -> None:
    for number, files in enumerate(small_sets()):
        named = {f"{name}.ko": data for name, data in files.items()}
        kind, text = run_case(named, PrelinkOptions(name="megamod_fuzz"), tmp_path)
        # The last set is disk without core, whose exports it then takes from the kernel.
        assert kind == "linked", (number, text)
