"""A bounded run of the fuzzer of all commands with a fixed seed, and input that is made to take all memory or time."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import zstandard

from megamod.image.cpio import Entry, write_cpio
from tests.fuzz.commands import TREE, Command
from tests.fuzz.damage import a_bomb, many_nodes
from tests.fuzz.fuzz_commands import Case, Verdict, copy_samples, load_everything, make_case, run_case
from tests.fuzz.samples import make_samples

TOP = Path(__file__).parents[2]
PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
}

pytestmark = pytest.mark.heavy
Run = Callable[..., Verdict]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "samples"
    make_samples(folder)
    return folder


@pytest.fixture
def limited(samples: Path, tmp_path: Path) -> Iterator[Run]:
    """Runs a command with other content of one of its files, within the fuzzer's bounds."""
    scratch = tmp_path / "case"
    copy_samples(samples, scratch)
    load_everything()

    def limited_run(words: Sequence[str], files: Mapping[str, bytes]) -> Verdict:
        case = Case(command=Command(words=words, damaged=[], status=(0,)), files=dict(files))
        return run_case(case, samples, scratch)

    yield limited_run
    shutil.rmtree(scratch)


def test_three_hundred_damaged_inputs_end_in_a_line_or_in_what_was_asked_for(tmp_path: Path) -> None:
    """In a process of its own, which has nothing in it that a command has not."""
    words = ("--cases", "300", "--seed", "20", "--quiet", "--save", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_commands", *words],
        capture_output=True, text=True, timeout=3600, check=False, cwd=TOP, env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"


def test_same_seed_makes_the_same_case(samples: Path) -> None:
    assert make_case(samples, 5, 77) == make_case(samples, 5, 77)
    assert make_case(samples, 5, 77).files != make_case(samples, 6, 77).files


def cut(name: str, size: int) -> Callable[[Path], dict[str, bytes]]:
    return lambda samples: {name: (samples / name).read_bytes()[:size]}


def far_device(_samples: Path) -> dict[str, bytes]:
    archive = write_cpio([Entry(path="n", mode=0o020600, rdev=(5, 1))], mtime=0)
    return {"plain.cpio": archive.replace(b"%08x" % 5 + b"%08x" % 1, b"%08x" % (1 << 31) + b"%08x" % 1)}


FOUND = {
    "uki plain.cpio --vmlinuz vmlinuz.efi --stub stub.efi -o out.efi": cut("vmlinuz.efi", 69),
    "fit arm64.cpio --vmlinuz zboot.efi -o out.itb": cut("zboot.efi", 10),
    "unpack plain.cpio out": far_device,
}


@pytest.mark.parametrize("words", FOUND)
def test_what_was_found_once_is_refused(words: str, samples: Path, limited: Run) -> None:
    verdict = limited(words.split(), FOUND[words](samples))
    assert verdict.kind == "refused", verdict.text


@pytest.mark.parametrize("method", PACKERS)
def test_a_small_file_that_becomes_a_large_one_is_refused(method: str, limited: Run) -> None:
    bomb = PACKERS[method](write_cpio([Entry(path="a", mode=0o100644, data=bytes(200 << 20))], mtime=0))
    verdict = limited(["inspect", "image"], {"image": bomb})
    assert verdict.kind == "refused", verdict.text
    assert "unpacks to more than the " in verdict.text


def test_a_small_file_of_very_many_files_is_refused(limited: Run) -> None:
    one = b"070701" + b"%08x" % 1 + b"%08x" % 0o100644 + b"0" * 8 * 9 + b"%08x" % 2 + b"0" * 8 + b"b\0"
    verdict = limited(["ls", "image"], {"image": PACKERS["zstd"](one.ljust(112, b"\0") * 250_000)})
    assert verdict.kind == "refused", verdict.text


def test_bombs_are_refused_by_whatever_reads_an_image(limited: Run) -> None:
    bomb = a_bomb(random.Random(3))
    assert len(bomb) < 1 << 20
    for words in (["ls"], ["unpack"], ["append", "vmlinuz.efi"], ["inspect", "--sbom"]):
        rest = {"unpack": ["out"], "append": ["--stub", "stub.efi", "-o", "out.efi"]}.get(words[0], [])
        verdict = limited([*words, "plain.cpio", *rest], {"plain.cpio": bomb})
        assert verdict.kind == "refused", (words, verdict.text)


@pytest.mark.parametrize("deep", [False, True])
def test_a_device_tree_of_a_hundred_thousand_nodes_is_read_or_refused(deep: bool, limited: Run) -> None:
    verdict = limited(["explain", "board.yaml", "-k", TREE], {"board.dtb": many_nodes(100_000, deep=deep)})
    assert verdict.kind == ("refused" if deep else "done"), verdict.text
    assert not deep or "has more than 64 levels" in verdict.text


def test_aliases_that_grow_are_refused_with_their_place(limited: Run) -> None:
    lists = ["a0: &a0 [x, y]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    verdict = limited(["profile", "check", "plain.yaml"], {"plain.yaml": "\n".join(lists).encode()})
    assert verdict.kind == "refused", verdict.text
    assert "plain.yaml:6:5: aliases make more than 131,072 values of it" in verdict.text


def test_an_alias_of_itself_is_refused(limited: Run) -> None:
    verdict = limited(["profile", "check", "plain.yaml"], {"plain.yaml": b"critical: &a\n  modules: *a\n"})
    assert verdict.kind == "refused", verdict.text
    assert "plain.yaml:1:11: the alias is inside its own anchor" in verdict.text


@pytest.mark.parametrize("piece", [b"[", b"{a: ", b"- "])
def test_a_profile_of_very_many_levels_is_refused(piece: bytes, limited: Run) -> None:
    verdict = limited(["profile", "check", "plain.yaml"], {"plain.yaml": piece * 60_000})
    assert verdict.kind == "refused", verdict.text


def test_the_memory_of_a_case_is_limited(limited: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly any even good input does not fit; one large file, as small ones find room that others have left."""
    monkeypatch.setattr("tests.fuzz.fuzz_commands.MEMORY", 0)
    monkeypatch.setattr("tests.fuzz.fuzz_commands.ROOM", 4 << 20)
    archive = write_cpio([Entry(path="large", mode=0o100644, data=bytes(200 << 20))], mtime=0)
    verdict = limited(["inspect", "plain.cpio"], {"plain.cpio": gzip.compress(archive, 1)})
    assert verdict.kind in ("out of memory", "traceback")


def test_a_case_changes_nothing_in_this_process(limited: Run) -> None:
    """What a child does without, such as the loader's compiler, the tests that come after need."""
    from megamod.boot import qemu
    from megamod.build import recipe
    from megamod.loader import programs

    limited(["explain", "board.yaml", "-k", TREE], {})
    assert (recipe.loader_binary, recipe.ctl_binary) == (programs.loader_binary, programs.ctl_binary)
    assert qemu.run_command.__module__ == "megamod.boot.qemu"
