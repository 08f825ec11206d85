"""Limits of the kernel: what is too much for one module is split into two, what is too much for all is left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megamod.build.percpu import percpu_reserve
from megamod.build.stages import Load, import_edges, second_half, split_into_loads
from megamod.cli.main import main
from megamod.image.archive import read_image
from megamod.kernel.config import parse_config
from megamod.prelink import emit
from megamod.prelink.read import read_member
from tests.unit.module_factory import ALLOC, WRITE, Ko, read
from tests.unit.test_cli_build import GOOD, VERSION, Builder, builder, module_tree  # noqa: F401
from tests.unit.test_stages import make, shown, stage

COUNTING = parse_config("CONFIG_MEM_ALLOC_PROFILING=y\n", source="config")


def percpu(ko: Ko, size: int, *, align: int = 8) -> bytes:
    ko.section(".data..percpu", bytes(size), flags=ALLOC | WRITE, align=align)
    return bytes(ko)


@pytest.mark.parametrize(
    ("release", "counts", "reserve"),
    [
        ("6.12.5-test", True, 8 << 13),
        ("6.10.0", True, 8 << 12),
        ("6.12.5-test", False, 8 << 10),
        ("7.2.1", True, 8 << 10),
        ("6.1.0", True, 8 << 10),
        ("unnamed", True, 8 << 10),
    ],
)
def test_the_reserve_of_per_cpu_data_is_that_of_the_configuration(release: str, counts: bool, reserve: int) -> None:
    assert percpu_reserve(COUNTING if counts else None, release) == reserve


def test_a_module_whose_per_cpu_data_does_not_fit_is_loaded_on_its_own(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
) -> None:
    changed = {
        "kernel/core.ko": percpu(Ko("core", info=VERSION).exports("core_add", 1), 5000),
        "kernel/disk.ko": percpu(Ko("disk", info=VERSION).calls("core_add", 1), 3500),
        "kernel/usb/usb-storage.ko": percpu(Ko("usb_storage", info=VERSION).calls("core_add", 1), 100),
    }
    tree = module_tree(tmp_path, changed)
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img")
    assert status == 0, err
    reason = "has 3,500 bytes of per-CPU data, and the kernel has 8,192 for all modules, of which 5,000 are taken"
    assert f"  note: disk stays a module of its own: it {reason}\n" in err
    files = {entry.path: entry.data for entry in read_image(tmp_path / "out.img")}
    assert files["megamod/disk.ko"] == changed["kernel/disk.ko"]
    # What comes later and is small enough still fits.
    assert any(path.startswith("megamod/megamod_usb.ko") for path in files)


def test_a_stage_with_too_many_sections_is_split_and_all_of_it_merged(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def odd(ko: Ko) -> bytes:
        for number in range(8):
            ko.section(f".vendor.{ko.name}.{number}", bytes(8), flags=ALLOC)
        return bytes(ko)

    changed = {
        "kernel/core.ko": odd(Ko("core", info=VERSION).exports("core_add", 1).glue_imports()),
        "kernel/disk.ko": odd(Ko("disk", info=VERSION).calls("core_add", 1)),
    }
    tree = module_tree(tmp_path, changed)
    (tmp_path / "p.yaml").write_text(f"{GOOD}merge: required\n")
    assert builder.run("p.yaml", "-q", "-k", tree, "-o", "one.img")[0] == 0
    whole = next(e.data for e in read_image(tmp_path / "one.img") if e.path == "megamod/megamod_critical.ko")
    count = len(read_member(whole, file="whole").sections)
    monkeypatch.setattr(emit, "MOST_SECTIONS", count - 2)
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img")
    assert status == 0, err
    assert f"  note: megamod_critical is split in two: core.ko: with it the megamodule has {count} sections" in err
    plan = next(entry.data for entry in read_image(tmp_path / "out.img") if entry.path == "megamod/plan").decode()
    lines = [line for line in plan.splitlines() if line.startswith(("merged", "member"))]
    assert lines[:4] == [
        "merged /megamod/megamod_critical.ko megamod_critical 1",
        "member core",
        "merged /megamod/megamod_critical_2.ko megamod_critical_2 1",
        "member disk 0",
    ]


def test_the_second_half_holds_nothing_that_the_first_needs() -> None:
    members = {member.name: member for member in read(*make("a b:a c:b d:c e f:e").values())}
    edges = import_edges(members)
    (load,) = split_into_loads(stage(list(members)), members, edges, None)
    later = second_half(load, members, edges)
    first = members.keys() - set(later)
    assert first and later
    assert all(edges[name] <= first for name in first)
    again = split_into_loads(stage(list(members)), members, edges, None, rounds_from=dict.fromkeys(later, 2))
    assert [len(load.modules) for load in again] == [len(first), len(later)]
    assert shown(again)[1].startswith("megamod_critical_2(")


@pytest.mark.parametrize("names", ["a b", "a b:a", "a:b b:c c"])
def test_each_half_has_a_module(names: str) -> None:
    members = {member.name: member for member in read(*make(names).values())}
    edges = import_edges(members)
    (load,) = split_into_loads(stage(list(members)), members, edges, None)
    assert isinstance(load, Load)
    assert 0 < len(second_half(load, members, edges)) < len(members)


def test_explain_says_the_same(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del builder  # for its profile and folder
    tree = module_tree(tmp_path, {"kernel/disk.ko": percpu(Ko("disk", info=VERSION).calls("core_add", 1), 9000)})
    monkeypatch.setattr(sys, "argv", ["megamod", "explain", "p.yaml", "disk", "-k", str(tree)])
    assert main() == 0
    assert "has 9,000 bytes of per-CPU data, and the kernel has 8,192 for all modules" in capsys.readouterr().out
