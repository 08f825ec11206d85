"""What several members say of themselves as one: parameters, struct module, modinfo, notes, licences."""

from __future__ import annotations

import struct

import pytest

from tests.unit.module_factory import (
    INIT_AT,
    R_64,
    Back,
    Ko,
    blob,
    error_of,
    link,
)

# Parameters


def test_parameters_are_named_after_their_members() -> None:
    back = Back(link(Ko("snd-hda").param("debug"), Ko("disk").param("debug").param("size")).data)
    assert back.params()[:3] == ["snd_hda.debug", "disk.debug", "disk.size"]


def test_parameter_with_its_own_prefix_keeps_its_name() -> None:
    back = Back(link(Ko("mmc_block").param("mmcblk.perdev_minors")).data)
    assert back.params()[0] == "mmcblk.perdev_minors"


def test_same_verbatim_parameter_in_two_members_is_refused() -> None:
    message = error_of(Ko("one").param("x.debug"), Ko("two").param("x.debug"))
    assert message == "two.ko: parameter x.debug is one.ko's too"


def test_verbatim_parameter_that_meets_a_renamed_one_is_refused() -> None:
    assert "parameter one.debug is one.ko's too" in error_of(Ko("one").param("debug"), Ko("two").param("one.debug"))


@pytest.mark.parametrize("at", [-1, 4096])
def test_parameter_whose_name_lies_nowhere_is_refused(at: int) -> None:
    ko = Ko("one").param("debug")
    offset, kind, symbol, _ = ko["__param"].relocs[0]
    ko["__param"].relocs[0] = (offset, kind, symbol, at)
    assert "one.ko: __param+0x0: the parameter's name lies nowhere" in error_of(ko)


def test_parameter_without_a_name_is_refused() -> None:
    ko = Ko("one").param("debug")
    del ko["__param"].relocs[0]
    assert error_of(ko) == "one.ko: __param: an entry without a name"


def test_parameter_table_of_broken_size_is_refused() -> None:
    ko = Ko("one").param("debug")
    ko["__param"].data += b"\0"
    assert "one.ko: __param: 41 bytes are not a multiple of 40" in error_of(ko)


def test_parameters_point_to_the_one_struct_module() -> None:
    rows = Back(link(Ko("one").param("debug"), Ko("two").param("debug")).data).relocs("__param")
    assert {rows[at][1:] for at in rows if at % 40 == 8} == {(".gnu.linkonce.this_module", 0)}


# Struct module, modinfo, notes


def test_struct_module_holds_the_new_name_and_the_glues_init_alone() -> None:
    exit_too = Ko("one")
    exit_too.reloc(exit_too.this, 848, R_64, exit_too.symbol("cleanup_module", exit_too.text))
    back = Back(link(exit_too, Ko("two"), name="megamod_critical").data)
    assert back[".gnu.linkonce.this_module"].strip(b"\0") == b"megamod_critical"
    rows = back.relocs(".gnu.linkonce.this_module")
    assert list(rows) == [INIT_AT]
    assert rows[INIT_AT][:2] == (R_64, ".init.text")


def test_struct_module_comes_from_a_member_that_has_an_init() -> None:
    back = Back(link(Ko("lib", init=None).exports("lib_a"), Ko("disk").calls("lib_a", 0x99)).data)
    assert list(back.relocs(".gnu.linkonce.this_module")) == [INIT_AT]


def test_libraries_alone_are_refused() -> None:
    assert "neither it nor another member has an init function" in error_of(Ko("lib", init=None), Ko("lib2", init=None))


def test_references_to_this_module_go_to_the_one_copy() -> None:
    ko = Ko("two")
    ko.reloc(ko.data, 8, R_64, next(s for s in ko.symbols if s.name == "__this_module"))
    assert Back(link(Ko("one"), ko).data).relocs(".data")[24] == (R_64, ".gnu.linkonce.this_module", 0)


@pytest.mark.parametrize("name", ["", "a" * 56, "a-b", "a.b", "ä", "a b", "a\n"])
def test_impossible_megamodule_name_is_refused(name: str) -> None:
    assert "choose another --name" in error_of(Ko("one"), name=name)


def test_longest_name_fits() -> None:
    assert Back(link(Ko("one"), name="a" * 55).data)[".gnu.linkonce.this_module"].strip(b"\0") == b"a" * 55


def test_modinfo_says_what_all_members_say() -> None:
    one = Ko("one", info={"retpoline": "Y", "import_ns": "NS_A"})
    two = Ko("two", info={"retpoline": "Y", "intree": None})
    info = Back(link(one, two, allow_taint=True).data).modinfo()
    assert ("retpoline", "Y") in info
    assert ("import_ns", "NS_A") in info
    assert "intree" not in dict(info)
    assert [value for key, value in info if key == "megamod.member"] == ["one", "two"]


def test_build_id_is_the_megamodules_own() -> None:
    note = struct.pack("<III4s", 4, 20, 3, b"GNU\0") + b"\xaa" * 20
    ids = set()
    for fill in (b"\x90", b"\xcc"):
        ko = Ko("one")
        ko.text.data += fill
        ko.section(".note.gnu.build-id", note, kind=7, align=4)
        ids.add(Back(link(ko).data)[".note.gnu.build-id"][16:])
    assert len(ids) == 2
    assert b"\xaa" * 20 not in ids


def test_bytes_that_look_like_an_empty_build_id_are_left_alone() -> None:
    lookalike = struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes(20)
    back = Back(link(blob("one", ".rodata.fake", lookalike, align=4)).data)
    assert lookalike in back[".rodata"]
    assert back[".note.gnu.build-id"][16:] != bytes(20)


def test_map_keeps_the_members_build_ids() -> None:
    ko = Ko("one")
    ko.section(".note.gnu.build-id", struct.pack("<III4s", 4, 20, 3, b"GNU\0") + b"\xaa" * 20, kind=7, align=4)
    assert link(ko).map["members"][0]["build_id"] == "aa" * 20


# Same build, licences, namespaces


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (Ko("two", info={"vermagic": "6.2.0 SMP "}), "two.ko: vermagic '6.2.0 SMP ' differs from one.ko's"),
        (Ko("two", machine=183), "two.ko: built for arm64, one.ko for x86_64"),
        (Ko("two", module_size=960), "two.ko: .gnu.linkonce.this_module: struct module has 960 bytes, in one.ko"),
    ],
    ids=["vermagic", "machine", "struct module"],
)
def test_member_of_another_kernel_is_refused(other: Ko, text: str) -> None:
    message = error_of(Ko("one"), other)
    assert message.startswith(text)
    assert message.endswith("(hint: take all modules from one lib/modules folder)")


def test_architecture_that_cannot_be_linked_is_refused() -> None:
    message = "one.ko: built for mips64el, 64 bits, which cannot be linked (hint: arm, arm64, riscv64 and x86_64 can)"
    assert error_of(Ko("one", machine=8)) == message


def test_same_module_twice_is_refused() -> None:
    assert error_of(Ko("one"), Ko("one")) == "one.ko: module one is given twice (also as one.ko) (hint: name it once)"


def test_nothing_to_link_is_refused() -> None:
    assert "no modules were given" in error_of()


@pytest.mark.parametrize("licence", ["Proprietary", "GPLv2", "BSD", "", None])
def test_licence_that_is_not_compatible_is_refused(licence: str | None) -> None:
    message = error_of(Ko("one", info={"license": licence}))
    assert message.startswith("one.ko: its licence '")
    assert "not GPL-compatible" in message


@pytest.mark.parametrize("licence", ["GPL", "GPL v2", "Dual BSD/GPL", "Dual MIT/GPL"])
def test_compatible_licences_are_taken(licence: str) -> None:
    assert ("license", "GPL") in Back(link(Ko("one", info={"license": licence})).data).modinfo()


@pytest.mark.parametrize(("key", "value"), [("intree", None), ("staging", "Y")])
def test_taint_needs_permission(key: str, value: str | None) -> None:
    ko = Ko("one", info={key: value})
    assert "(hint: allow-taint: true" in error_of(ko)
    assert dict(Back(link(ko, allow_taint=True).data).modinfo()).get("staging") == ("Y" if key == "staging" else None)


def test_namespace_that_is_not_imported_is_refused() -> None:
    message = error_of(Ko("one").exports("a", 1, namespace="NS"), Ko("two").calls("a", 1))
    assert message == "two.ko: uses a of one.ko from namespace NS without importing it"


def test_namespace_that_is_imported_is_taken() -> None:
    link(Ko("one").exports("a", 1, namespace="NS"), Ko("two", info={"import_ns": "NS"}).calls("a", 1))
