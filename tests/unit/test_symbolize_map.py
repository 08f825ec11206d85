"""The map beside an image: written with it or not at all, the same for the same input, checked when it is read."""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megamod.build.link_map import GLUE, parse_map, read_map, write_map
from megamod.cli import main as cli
from megamod.common.compression import decompress
from megamod.common.errors import MegamodError
from megamod.image.archive import read_image
from tests.unit.module_factory import FUNC, LOCAL, Back, Ko, link
from tests.unit.test_cli_build import GOOD, module_tree

Run = Callable[..., tuple[int, str]]


def two_members() -> Any:
    """disk has two functions, usb one of the same name as one of them."""
    disk, usb = Ko("disk"), Ko("usb")
    disk.symbol("probe", disk.text, 0, size=8, kind=FUNC, bind=LOCAL)
    disk.symbol("remove", disk.text, 8, size=8, kind=FUNC, bind=LOCAL)
    usb.symbol("probe", usb.text, 4, size=12, kind=FUNC, bind=LOCAL)
    return link(disk, usb)


def as_json(megamodule: Any) -> dict[str, Any]:
    value = {"version": 1, "kernel": "6.1.0-test", "profile": "p", "megamodules": {"megamod_test": megamodule.map}}
    return json.loads(json.dumps(value))


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `megamod build` in a folder of its own, with a cache of its own; status and what it said."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("megamod.build.recipe.loader_binary", lambda arch: b"the loader")
    monkeypatch.setattr("megamod.build.recipe.ctl_binary", lambda arch: b"the keeper")
    Path("p.yaml").write_text(GOOD)
    tree = module_tree(tmp_path / "work")

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["megamod", "build", "p.yaml", "-q", "-k", str(tree), *words])
        return cli.main(), capsys.readouterr().err

    return run


def test_a_build_writes_the_map_beside_the_image(build: Run) -> None:
    assert build("-o", "out.img") == (0, "")
    found = read_map(Path("out.img.map"))
    assert list(found.megamodules) == ["megamod_critical", "megamod_usb"]
    assert [member.name for member in found.megamodules["megamod_critical"].members] == ["core", "disk"]
    assert found.kernel == next(Path("lib/modules").iterdir()).name


def test_the_map_names_the_build_id_that_the_megamodule_has(build: Run) -> None:
    build("-o", "out.img")
    found = read_map(Path("out.img.map"))
    for name, megamodule in found.megamodules.items():
        file = f"megamod/{name}.ko"
        # The megamodule of a deferred stage lies packed.
        data = next(e.data for e in read_image(Path("out.img")) if e.path in (file, f"{file}.lz4"))
        assert megamodule.build_id == Back(decompress(data))[".note.gnu.build-id"][16:].hex()


@pytest.mark.parametrize(("words", "there"), [(["--map", "none"], []), (["--map", "other"], ["other"])])
def test_the_map_can_be_named_or_left_out(build: Run, words: list[str], there: list[str]) -> None:
    for _cached in range(2):
        assert build("-o", "out.img", *words) == (0, "")
        assert [path for path in ("out.img.map", "other", "none") if Path(path).exists()] == there
        Path("other").unlink(missing_ok=True)


def test_image_and_map_must_be_two_files(build: Run) -> None:
    Path("out.img").write_bytes(b"old")
    Path("link").symlink_to("out.img")
    status, said = build("-o", "out.img", "--map", "link")
    assert (status, said) == (
        1,
        "megamod: link: cannot be written: is the image too (hint: another name, or --map none)\n",
    )
    assert Path("out.img").read_bytes() == b"old"


def test_an_unchanged_build_gives_the_same_map(build: Run) -> None:
    build("-o", "out.img", "--map", "none")
    build("-o", "out.img")
    kept = Path("out.img.map").read_bytes()
    build("--no-cache", "-o", "new.img")
    assert Path("new.img.map").read_bytes() == kept
    assert Path("new.img").read_bytes() == Path("out.img").read_bytes()


def test_a_map_that_cannot_be_written_leaves_the_image_as_it_was(build: Run) -> None:
    Path("out.img").write_bytes(b"old")
    for cached in ([], ["--no-cache"]):
        status, said = build("-o", "out.img", "--map", "no/map", *cached)
        assert (status, said) == (1, "megamod: no/map: cannot be written: No such file or directory "
                                     "(hint: make its folder first)\n")  # fmt: skip
        assert Path("out.img").read_bytes() == b"old"
        build("-o", "other.img")


SLOW = """
import os, sys, time
from megamod.build import recipe as build
from megamod.cli import main as cli
build.loader_binary = build.ctl_binary = lambda arch: b"program"
real = os.fsync
def slow(descriptor):
    print("ready", flush=True)
    for _ in range(6000):
        time.sleep(0.1)
os.fsync = slow
sys.argv = ["megamod", "build", "p.yaml", "-q", "--no-cache", "-k", sys.argv[1], "-o", "out.img"]
sys.exit(cli.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupted_build_leaves_image_and_map_as_they_were(build: Run, number: signal.Signals) -> None:
    build("-o", "first.img")
    for name in ("out.img", "out.img.map"):
        Path(name).write_bytes(b"old")
    before = sorted(path.name for path in Path().iterdir())
    tree = str(next(Path("lib/modules").iterdir()).absolute())
    command = [sys.executable, "-c", SLOW, tree]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.communicate(timeout=1200)
    assert process.returncode != 0
    assert [Path(name).read_bytes() for name in ("out.img", "out.img.map")] == [b"old", b"old"]
    assert sorted(path.name for path in Path().iterdir()) == before


def test_the_map_has_every_function_at_its_place_in_its_section(tmp_path: Path) -> None:
    made = two_members()
    (tmp_path / "m").write_text(json.dumps(as_json(made)))
    found = read_map(tmp_path / "m").megamodules["megamod_test"]
    functions = {
        (found.member_name(member), f.name, f.value, f.size) for (member, _), fs in found.functions.items() for f in fs
    }
    assert {("disk", "probe", 0, 8), ("disk", "remove", 8, 8), ("usb", "probe", 4, 12)} <= functions
    assert any(member == GLUE for member, _ in found.functions)


def test_a_map_written_alone_is_read_as_the_megamodule_it_is_of(tmp_path: Path) -> None:
    made = two_members()
    one, whole = tmp_path / "one", tmp_path / "whole"
    one.write_text(json.dumps(made.map))
    write_map(whole, kernel="6.1.0-test", profile="p", megamodules={"megamod_test": made.map})
    assert read_map(one).megamodules["megamod_test"].functions == (
        read_map(whole).megamodules["megamod_test"].functions
    )


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *parts, last = re.findall(r"\w+", path)

    def apply(whole: dict[str, Any]) -> None:
        at: Any = whole
        for part in parts:
            at = at[int(part)] if isinstance(at, list) else at[part]
        if value is KeyError:
            del at[last]
        else:
            at[int(last) if isinstance(at, list) else last] = value

    return apply


M = "megamodules.megamod_test"
HINT = " (hint: was the map made by another version of megamod?)"
DAMAGE: list[tuple[str, Any, str]] = [
    (
        "version",
        2,
        "m: has version 2, this megamod reads 1 (hint: use the megamod that wrote it, or write it again with this one)",
    ),
    ("version", KeyError, "m: version: is missing"),
    ("megamodules", [], f"m: megamodules: must be an object, not a list{HINT}"),
    ("kernel", 5, f"m: kernel: must be a string, not a whole number{HINT}"),
    (f"{M}.name", "other", f"m: {M}: is called other inside"),
    (f"{M}.build_id", KeyError, f"m: {M}.build_id: is missing{HINT}"),
    (f"{M}.members", {}, f"m: {M}.members: must be a list, not an object{HINT}"),
    (f"{M}.members.0", 1, f"m: {M}.members[0]: must be an object, not a whole number{HINT}"),
    (f"{M}.members.0.name", None, f"m: {M}.members[0].name: must be a string, not null{HINT}"),
    (f"{M}.chunks.0.member", 9, f"m: {M}.chunks[0].member: there is no member 9"),
    (f"{M}.chunks.0.member", -2, f"m: {M}.chunks[0].member: must be a whole number >= -1{HINT}"),
    (f"{M}.chunks.0.output", ".no", f"m: {M}.chunks[0].output: there is no output section .no"),
    (f"{M}.chunks.0.offset", 1 << 40, rf"m: {M}.chunks\[0\]: 0x10000000000\+0x.* is outside \.text, 0x.* bytes"),
    (f"{M}.chunks.0.size", "1", f"m: {M}.chunks[0].size: must be a whole number, not a string{HINT}"),
    (f"{M}.functions.0.symbols.0", ["x"], f"m: {M}.functions[0].symbols[0]: must be a list of length 3, not 1{HINT}"),
    (f"{M}.outputs.0.code", 1, f"m: {M}.outputs[0].code: must be true or false, not a whole number{HINT}"),
]


@pytest.mark.parametrize(("where", "value", "expected"), DAMAGE, ids=lambda part: str(part))
def test_a_damaged_map_is_refused_with_the_place(where: str, value: Any, expected: str) -> None:
    whole = copy.deepcopy(as_json(two_members()))
    change(where, value)(whole)
    with pytest.raises(MegamodError) as refused:
        parse_map(json.dumps(whole).encode(), source="m")
    assert str(refused.value) == expected or re.fullmatch(expected, str(refused.value)), str(refused.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"5", b"[" * 100_000, b"070701"])
def test_what_is_no_map_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(MegamodError, match=r"^m: is not (JSON: |an object)"):
        parse_map(data, source="m")


def test_every_truncated_map_is_refused() -> None:
    whole = json.dumps(as_json(two_members())).encode()
    for size in range(0, len(whole) - 1, 41):
        with pytest.raises(MegamodError):
            parse_map(whole[:size], source="m")
