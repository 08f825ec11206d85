"""Modules that no distribution builds: other toolchains, own sections, sizes, constructors; what becomes of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.image.archive import read_image
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member
from tests.oracle import judge
from tests.unit.module_factory import ALLOC, EXEC, EXIT_AT, FUNC, R_64, RETURN_ZERO, WRITE, Back, Ko, link
from tests.unit.test_cli_build import VERSION, Builder, builder, module_tree  # noqa: F401

INIT_ARRAY = 14


def with_constructor(ko: Ko, table: str = ".init_array") -> Ko:
    """A table of one pointer to the module's .text, as ASAN and gcov make it."""
    kind = INIT_ARRAY if table == ".init_array" else 1
    section = ko.section(table, bytes(8), flags=ALLOC | WRITE, kind=kind, align=8)
    ko.reloc(section, 0, R_64, ko.text, 0)
    return ko


def test_constructors_of_all_members_are_one_table() -> None:
    made = link(with_constructor(Ko("one")), Ko("two"), with_constructor(Ko("three")))
    back = Back(made.data)
    assert back.header(".init_array")["sh_size"] == 16
    assert sorted(back.relocs(".init_array")) == [0, 8]


def test_a_member_whose_constructors_are_elsewhere_is_loaded_on_its_own(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
) -> None:
    changed = {
        "kernel/core.ko": bytes(with_constructor(Ko("core", info=VERSION).exports("core_add", 1))),
        "kernel/disk.ko": bytes(with_constructor(Ko("disk", info=VERSION).calls("core_add", 1), ".ctors")),
    }
    status, _out, err = builder.run("p.yaml", "-k", module_tree(tmp_path, changed), "-o", "out.img")
    assert status == 0, err
    assert "stays a module of its own: it cannot be merged: has its constructors in " in err
    paths = {entry.path for entry in read_image(tmp_path / "out.img")}
    assert "megamod/megamod_critical.ko" in paths
    assert len(paths & {"megamod/core.ko", "megamod/disk.ko"}) == 1


def test_sections_that_only_their_maker_knows_stay_apart_under_their_names() -> None:
    one, two = Ko("one"), Ko("two")
    for ko, name in ((one, ".vendor.table"), (two, ".vendor.table"), (two, ".vendor.more")):
        ko.reloc(ko.section(name, bytes(16), flags=ALLOC | WRITE, align=8), 8, R_64, ko.text, 4)
    back = Back(link(one, two).data)
    assert back.header(".vendor.table")["sh_size"] == 32
    assert back.header(".vendor.more")["sh_size"] == 16
    assert sorted(back.relocs(".vendor.table")) == [8, 24]


def test_a_module_with_thousands_of_sections_is_merged() -> None:
    many = Ko("many")
    for number in range(3000):
        many.section(f".text.function_{number}", bytes.fromhex("90" * 16), flags=6, align=16)
        many.section(f".data.rel.variable_{number}", bytes(8), flags=ALLOC | WRITE, align=8)
    back = Back(link(many, Ko("other")).data)
    assert back.header(".text")["sh_size"] >= 3000 * 16
    assert not [name for name in back.names if "function_" in name or "variable_" in name]


def test_a_module_larger_than_64_mib_is_merged(tmp_path: Path) -> None:
    large = Ko("large")
    large.section(".rodata.firmware", b"\xa5" * (65 << 20), align=8)
    members = [bytes(large), bytes(Ko("other"))]
    made = link(large, Ko("other"))
    assert len(made.data) > 65 << 20
    pairs = [("large", members[0]), ("other", members[1])]
    assert judge(pairs, made.data, json.loads(json.dumps(made.map))) == []


@pytest.mark.parametrize("table", ["__kcrctab", "__kcrctab_gpl"])
def test_an_empty_table_of_crcs_is_none_at_all(table: str) -> None:
    """ld.lld leaves the section that kernels without MODVERSIONS have no content for."""
    ko = Ko("one", versions=False).exports("one_add", None)
    ko.section(table, b"", flags=ALLOC, align=4)
    back = Back(link(ko, Ko("two", versions=False).calls("one_add", None)).data)
    assert [name for name, _place, _crc in back.exports()] == ["one_add"]


def test_exports_without_crcs_among_modules_with_versions_make_a_single(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
) -> None:
    core = Ko("core", info=VERSION).exports("core_add", None)
    changed = {"kernel/core.ko": bytes(core), "kernel/disk.ko": bytes(Ko("disk", info=VERSION).calls("core_add", 1))}
    status, _out, err = builder.run("p.yaml", "-k", module_tree(tmp_path, changed), "-o", "out.img")
    assert status == 0, err
    reason = "cannot be merged: __kcrctab: no version (CRC) for the export core_add"
    assert f"core stays a module of its own: it {reason}" in err


def test_the_odd_module_is_named_wherever_it_stands(builder: Builder, tmp_path: Path) -> None:  # noqa: F811
    info = {"vermagic": VERSION["vermagic"].replace("SMP", "SMP preempt")}
    changed = {"kernel/core.ko": bytes(Ko("core", info=info).exports("core_add", 1))}
    changed["kernel/more.ko"] = bytes(Ko("more", info=VERSION))
    tree = module_tree(tmp_path, changed)
    (tree / "modules.dep").write_text((tree / "modules.dep").read_text() + "kernel/more.ko:\n")
    profile = "critical: {modules: [disk, more]}\n"
    assert builder.refused(profile=profile, tree=tree).startswith("core.ko: vermagic '")


@pytest.mark.parametrize(
    ("name", "flags"), [(".init.text.ftrace_trampoline", ALLOC), (".init.text.place", ALLOC | EXEC)]
)
def test_the_place_of_a_trampoline_is_no_init_code(name: str, flags: int) -> None:
    """arm64's linker script makes it in every module, with a byte in it, and a library has no init."""
    library = Ko("library", init=None)
    library.section(name, bytes(1), flags=flags)
    member = read_member(bytes(library), file="library.ko")
    assert (member.init, member.refused) == (None, None)


def test_init_code_beside_an_exit_alone_is_nobodys_init() -> None:
    """Relocations that are there show that none was stripped: the kernel calls no init, either."""
    ko = Ko("one", init=None)
    ko.section(".init.text", bytes.fromhex("90" * 16), flags=ALLOC | EXEC, align=16)
    pointer = ko.symbol("cleanup_module", ko.section(".exit.text", RETURN_ZERO, flags=ALLOC | EXEC), kind=FUNC)
    ko.reloc(ko.this, EXIT_AT, R_64, pointer)
    member = read_member(bytes(ko), file="one.ko")
    assert (member.init, member.refused) == (None, None)


def test_init_code_that_no_pointer_of_struct_module_explains_is_refused() -> None:
    ko = Ko("one", init=None)
    ko.section(".init.text", RETURN_ZERO, flags=ALLOC | EXEC, align=16)
    with pytest.raises(MegamodError, match="no relocation to an init, although there is"):
        read_member(bytes(ko), file="one.ko")


def test_options_have_the_reserve_of_an_ordinary_kernel() -> None:
    assert PrelinkOptions(name="x").percpu_reserve == 8192
