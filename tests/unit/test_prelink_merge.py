"""Tables and sections of several members as one: what is sorted, packed, folded, kept apart, renamed or refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from megamod.profiles.errors import MegamodError
from tests.unit.elfkit import (
    ALLOC,
    EXEC,
    GLUE_IMPORTS,
    INIT_AT,
    LAYOUT_CRC,
    R_64,
    R_PC32,
    WRITE,
    Back,
    Ko,
    link,
)


def error_of(*modules: Ko, **options: Any) -> str:
    with pytest.raises(MegamodError) as caught:
        link(*modules, **options)
    return str(caught.value)


def blob(name: str, section: str, data: bytes, *, flags: int = ALLOC, align: int = 1) -> Ko:
    ko = Ko(name)
    ko.section(section, data, flags=flags, align=align)
    return ko


# Exports


@pytest.mark.parametrize("crc_symbol", [False, True], ids=["plain words", "absolute symbols"])
def test_exports_are_sorted_and_crcs_go_with_them(crc_symbol: bool) -> None:
    one, two = Ko("one"), Ko("two")
    for ko, names in ((one, "zeta beta"), (two, "gamma alpha")):
        for name in names.split():
            ko.exports(name, sum(name.encode()), crc_symbol=crc_symbol)
    exports = Back(link(one, two).data).exports()
    assert [name for name, _, _ in exports] == ["alpha", "beta", "gamma", "zeta"]
    assert [crc for name, _, crc in exports] == [sum(name.encode()) for name, _, _ in exports]
    # one: 16 bytes of NOPs, then zeta, beta; two the same from 48 on.
    assert [place for _, place, _ in exports] == [(".text", at) for at in (48 + 32, 32, 48 + 16, 16)]


def test_order_of_exports_is_that_of_bytes() -> None:
    ko = Ko("one")
    for name in ("ab", "a_b", "aB", "a", "b", "A", "_a", "a0"):
        ko.exports(name)
    names = [name for name, _, _ in Back(link(ko).data).exports()]
    assert names == ["A", "_a", "a", "a0", "aB", "a_b", "ab", "b"]


def test_gpl_exports_have_a_table_of_their_own() -> None:
    back = Back(link(Ko("one").exports("b", 1, gpl=True).exports("a", 2), Ko("two").exports("c", 3, gpl=True)).data)
    assert [(name, crc) for name, _, crc in back.exports()] == [("a", 2)]
    assert [(name, crc) for name, _, crc in back.exports("__ksymtab_gpl")] == [("b", 1), ("c", 3)]


def test_flags_of_exports_go_with_them() -> None:
    one, two = Ko("one").exports("z").exports("b"), Ko("two").exports("a")
    one.section("__kflagstab", b"\1\0")
    two.section("__kflagstab", b"\1")
    assert Back(link(one, two).data)["__kflagstab"] == b"\1\0\1"  # a, b, z


def test_namespace_of_an_export_stays() -> None:
    back = Back(link(Ko("one").exports("b", namespace="NS").exports("a")).data)
    rows = back.relocs("__ksymtab")
    assert 8 not in rows
    assert back.text(*rows[20][1:]) == "NS"


def test_exports_without_modversions_have_no_crcs() -> None:
    back = Back(link(Ko("one", versions=False).exports("b", None).exports("a", None)).data)
    assert [(name, crc) for name, _, crc in back.exports()] == [("a", None), ("b", None)]
    assert "__versions" not in back


def test_same_export_of_two_members_is_refused() -> None:
    assert error_of(Ko("one").exports("a"), Ko("two").exports("a")) == "two.ko: exports a, which one.ko exports too"


def test_same_export_twice_in_one_member_is_refused() -> None:
    assert "one.ko: exports a" in error_of(Ko("one").exports("a").exports("a"))


def test_export_without_crc_beside_versions_is_refused() -> None:
    assert "one.ko: __kcrctab: no version (CRC) for the export a" in error_of(Ko("one").exports("a", None))


# Versions


def test_versions_are_a_union_without_what_is_now_internal() -> None:
    one = Ko("one").exports("core_add", 1).calls("printk", 7)
    two = Ko("two").calls("core_add", 1).calls("printk", 7).calls("kfree", 8)
    assert Back(link(one, two).data).versions() == {"module_layout": LAYOUT_CRC, "kfree": 8, "printk": 7}


def test_versions_of_imports_that_nothing_uses_are_left_out() -> None:
    ko = Ko("one").calls("printk", 7)
    ko.wants("unused", 9)
    assert "unused" not in Back(link(ko).data).versions()


def test_versions_that_the_glue_needs_come_from_donors() -> None:
    ko = Ko("one")
    without = link(ko)
    assert not without.has_results
    assert "__param" not in Back(without.data)
    back = Back(link(ko, donors=GLUE_IMPORTS).data)
    assert GLUE_IMPORTS.items() <= back.versions().items()
    assert back.params() == ["result", "skip", "nanoseconds"]


def test_results_without_times_when_the_clock_is_not_known() -> None:
    crcs = {name: crc for name, crc in GLUE_IMPORTS.items() if name != "ktime_get"}
    megamodule = link(Ko("one"), donors=crcs)
    assert megamodule.has_results
    assert Back(megamodule.data).params() == ["result", "skip"]


def test_extended_versions_hold_all_names_and_plain_ones_the_short() -> None:
    one, two = Ko("one").calls("f" * 60, 5).calls("printk", 7), Ko("two").calls("kfree", 8)
    one.extended = two.extended = True
    back = Back(link(one, two).data)
    names = back["__version_ext_names"].split(b"\0")[:-1]
    words = struct.unpack(f"<{len(names)}I", back["__version_ext_crcs"])
    found = dict(zip(names, words, strict=True))
    assert found == {b"module_layout": LAYOUT_CRC, b"f" * 60: 5, b"printk": 7, b"kfree": 8}
    assert back.versions() == {"module_layout": LAYOUT_CRC, "printk": 7, "kfree": 8}


@pytest.mark.parametrize("length", [55, 56])
def test_long_name_is_not_cut_in_the_plain_versions(length: int) -> None:
    ko = Ko("one").calls("f" * length, 5)
    ko.extended = True
    assert ("f" * length in Back(link(ko).data).versions()) == (length == 55)


def test_import_without_version_is_refused() -> None:
    assert error_of(Ko("one").calls("printk", None)) == "one.ko: __versions: no entry for the import printk"


def test_member_without_the_layout_version_is_refused() -> None:
    ko = Ko("two")
    ko.crcs = {"printk": 7}
    assert error_of(Ko("one"), ko) == "two.ko: __versions: no entry for module_layout, the kernel would refuse it"


def test_member_without_any_versions_among_others_is_refused() -> None:
    assert error_of(Ko("one"), Ko("two", versions=False)).startswith("two.ko: __versions: no entry for module_layout")


def test_weak_import_needs_no_version() -> None:
    assert "later" not in Back(link(Ko("one").calls("later", None, bind=2)).data).versions()


def test_crc_that_does_not_fit_its_exporter_is_refused() -> None:
    message = error_of(Ko("one").exports("core_add", 1), Ko("two").calls("core_add", 2))
    assert message.startswith(
        "two.ko: the version (CRC) of core_add does not fit: two.ko has 0x00000002, one.ko 0x0000"
    )
    assert "(hint: modules of different builds are mixed" in message


def test_members_that_disagree_about_a_kernel_symbol_are_refused() -> None:
    message = error_of(Ko("one").calls("printk", 1), Ko("two").calls("printk", 2))
    assert message.startswith("two.ko: the version (CRC) of printk does not fit")


def test_many_wrong_crcs_are_counted_not_listed() -> None:
    names = [f"core_{n}" for n in range(9)]
    one, two = Ko("one"), Ko("two")
    for name in names:
        one.exports(name, 1)
        two.calls(name, 2)
    assert "and 8 more" in error_of(one, two)


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
    assert "one.ko: __param: 41 bytes are no multiple of 40" in error_of(ko)


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
    message = "one.ko: built for mips, 64 bits, which cannot be linked (hint: arm, arm64, riscv64 and x86_64 can)"
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


# Sections


def test_tables_are_packed_without_padding() -> None:
    one, two = (blob(name, ".altinstructions", bytes([n] * 12), align=8) for n, name in ((1, "one"), (2, "two")))
    assert Back(link(one, two).data)[".altinstructions"] == b"\1" * 12 + b"\2" * 12


def test_parainstructions_stay_aligned() -> None:
    one, two = (blob(name, ".parainstructions", bytes([n] * 12), align=8) for n, name in ((1, "one"), (2, "two")))
    assert Back(link(one, two).data)[".parainstructions"] == b"\1" * 12 + bytes(4) + b"\2" * 12


@pytest.mark.parametrize(
    ("section", "size"),
    [("__jump_table", 17), ("__ex_table", 11), (".orc_unwind_ip", 3), ("__mcount_loc", 9), (".smp_locks", 5)],
)
def test_table_of_broken_entries_is_refused(section: str, size: int) -> None:
    message = error_of(blob("one", section, bytes(size)))
    assert message.startswith("one.ko: ")
    assert section in message


@pytest.mark.parametrize(
    ("section", "output"),
    [(".text.unlikely", ".text"), (".rodata.str1.1", ".rodata"), (".data.once", ".data"),
     (".init.rodata", ".init.rodata"), (".exit.text", ".exit.text"), (".rodata.cst16", ".rodata"),
     (".data..read_mostly", ".data")],
)  # fmt: skip
def test_sections_that_only_have_flags_are_folded(section: str, output: str) -> None:
    flags = ALLOC | (EXEC if "text" in section else WRITE if ".data" in section else 0)
    back = Back(link(blob("one", section, b"CONTENTS", flags=flags)).data)
    assert b"CONTENTS" in back[output]
    assert section == output or section not in back


@pytest.mark.parametrize("section", [".data..percpu", ".data..ro_after_init", "__jump_table", "my_own_section"])
def test_sections_that_have_a_meaning_keep_their_names(section: str) -> None:
    back = Back(link(blob("one", section, b"0123456789abcdef", flags=ALLOC | WRITE)).data)
    assert back[section] == b"0123456789abcdef"
    assert back.names.count(section) == 1


def test_constants_that_are_written_once_go_to_data() -> None:
    back = Back(link(blob("one", ".rodata.rel", b"CONTENTS", flags=ALLOC | WRITE)).data)
    assert b"CONTENTS" in back[".data"]
    assert back.header(".rodata")["sh_flags"] == ALLOC


def test_alignment_of_an_output_is_the_largest() -> None:
    back = Back(link(blob("one", ".rodata.x", b"1"), blob("two", ".rodata.x", b"2", align=64)).data)
    assert back.header(".rodata")["sh_addralign"] == 64
    assert back[".rodata"].index(b"2") % 64 == 0


def test_bss_holds_no_bytes() -> None:
    ko = Ko("one")
    ko.section(".bss", flags=ALLOC | WRITE, size=1 << 20, align=32)
    megamodule = link(ko)
    assert Back(megamodule.data).header(".bss")["sh_type"] == "SHT_NOBITS"
    assert len(megamodule.data) < 1 << 16


def test_debug_sections_and_comments_are_dropped() -> None:
    ko = Ko("one")
    for name in (".debug_info", ".comment", ".note.GNU-stack", ".gnu_debuglink"):
        ko.section(name, b"abcd", flags=0)
    names = Back(link(ko).data).names
    assert not {".debug_info", ".comment", ".note.GNU-stack", ".gnu_debuglink"} & set(names)


def test_btf_is_dropped() -> None:
    assert ".BTF" not in Back(link(blob("one", ".BTF", b"btf")).data)


def test_writable_code_is_refused_with_its_file() -> None:
    message = error_of(Ko("one"), blob("two", ".text.patch", b"\x90", flags=ALLOC | WRITE | EXEC))
    assert message.startswith("two.ko: section [")
    assert "writable and executable" in message


@pytest.mark.parametrize(("section", "output"), [(".data.code", ".rodata"), (".rodata.code", ".rodata")])
def test_code_in_a_data_section_is_refused_with_its_file(section: str, output: str) -> None:
    message = error_of(blob("one", section, b"data"), blob("two", section, b"\x90", flags=ALLOC | EXEC))
    assert message == f"two.ko: {output} would hold code and data at once"


def test_data_in_a_code_section_is_refused_with_its_file() -> None:
    message = error_of(Ko("one"), blob("two", ".text.data", b"x"))
    assert message == "two.ko: .text would hold code and data at once"
    message = error_of(Ko("one"), blob("two", ".text.data", b"x", flags=ALLOC | WRITE))
    assert message == "two.ko: .text would be writable and executable at once"


@pytest.mark.parametrize(
    ("section", "flags", "output"),
    [
        (".init.rodata", ALLOC | WRITE, ".init.data"),
        (".init.data", ALLOC, ".init.rodata"),
        (".data.x", ALLOC, ".rodata"),
    ],
)
def test_sections_go_where_their_protection_is(section: str, flags: int, output: str) -> None:
    back = Back(link(blob("one", section, b"CONTENTS", flags=flags)).data)
    assert b"CONTENTS" in back[output]
    assert back.header(output)["sh_flags"] == flags


@pytest.mark.parametrize(("size", "good"), [(4096, True), (4097, False)])
def test_percpu_sum_is_limited(size: int, good: bool) -> None:
    kos = [blob(name, ".data..percpu", bytes(size), flags=ALLOC | WRITE) for name in ("one", "two")]
    if good:
        assert Back(link(*kos).data).header(".data..percpu")["sh_size"] == 8192
    else:
        assert ".data..percpu: 8194 bytes" in error_of(*kos)


def test_percpu_alignment_above_a_page_is_refused() -> None:
    message = error_of(blob("one", ".data..percpu", bytes(8), flags=ALLOC | WRITE, align=8192))
    assert ".data..percpu: 8 bytes at alignment 8192" in message


def test_allocation_tags_are_one_range_with_one_pair_of_symbols() -> None:
    one, two = (blob(name, ".codetag.alloc_tags", bytes(40), flags=ALLOC | WRITE, align=8) for name in ("one", "two"))
    back = Back(link(one, two).data)
    assert back.header(".codetag.alloc_tags")["sh_size"] == 80
    values = {s.name: s["st_value"] for s in back.symbols() if "alloc_tags" in s.name}
    assert values == {"__start_alloc_tags": 0, "__stop_alloc_tags": 80}


def test_allocation_tags_inside_data_are_refused() -> None:
    ko = Ko("one")
    ko.symbol("__start_alloc_tags", ko.data, 0)
    ko.symbol("__stop_alloc_tags", ko.data, 8)
    assert "one.ko: .data: allocation tags" in error_of(ko)


def test_orc_headers_that_differ_are_refused() -> None:
    message = error_of(blob("one", ".orc_header", b"a" * 20), blob("two", ".orc_header", b"b" * 20))
    assert message == "two.ko: .orc_header differs from one.ko's"


def test_equal_orc_headers_become_one() -> None:
    back = Back(link(blob("one", ".orc_header", b"a" * 20), blob("two", ".orc_header", b"a" * 20)).data)
    assert back[".orc_header"] == b"a" * 20


def test_unwind_drop_drops_all_of_it() -> None:
    ko = blob("one", ".orc_header", b"a" * 20).orc([(0, b"\x08\0\x15\x10\0\0")])
    assert not {n for n in Back(link(ko, unwind="drop").data).names if "orc" in n}


def test_unwind_tables_of_different_length_are_refused() -> None:
    ko = Ko("one").orc([(0, bytes(6))])
    ko[".orc_unwind"].data += bytes(6)
    assert error_of(ko) == "one.ko: .orc_unwind and .orc_unwind_ip differ in number"


def test_function_names_are_kept_or_trimmed() -> None:
    ko = Ko("one").exports("core_add")
    assert "core_add" in {s.name for s in Back(link(ko).data).symbols()}
    assert "core_add" not in {s.name for s in Back(link(ko, symbols="trim").data).symbols()}


def test_two_sections_of_one_name_are_refused() -> None:
    ko = Ko("one")
    ko.section("__bug_table", bytes(12), flags=ALLOC | WRITE)
    ko.section("__bug_table", bytes(12), flags=ALLOC | WRITE)
    assert "a loaded section without a name of its own" in error_of(ko)


def test_loaded_section_of_an_odd_type_is_refused() -> None:
    ko = Ko("one")
    ko.section("odd", bytes(24), kind=4)
    assert "odd: type 0x4 cannot be loaded" in error_of(ko)


@pytest.mark.parametrize(("value", "size"), [(17, 0), (0, 17), (16, 1), (1 << 63, 0), (8, (1 << 64) - 8)])
def test_symbol_outside_its_section_is_refused(value: int, size: int) -> None:
    ko = Ko("one")
    ko.symbol("far", ko.data, value, size=size)
    assert "one.ko: .symtab: symbol 3 (far) lies outside its section .data" in error_of(ko)


@pytest.mark.parametrize(("value", "size"), [(16, 0), (0, 16), (15, 1)])
def test_symbol_at_the_end_of_its_section_is_taken(value: int, size: int) -> None:
    ko = Ko("one")
    ko.symbol("near", ko.data, value, size=size)
    link(ko)


def test_other_relocations_in_an_export_table_are_refused() -> None:
    ko = Ko("one").exports("a")
    offset, _, symbol, addend = ko["__ksymtab"].relocs[0]
    ko["__ksymtab"].relocs[0] = (offset, 10, symbol, addend)
    assert "one.ko: __ksymtab+0x0: relocation type 10 in this table" in error_of(ko)


def test_relative_table_entries_move_with_their_members() -> None:
    one, two = Ko("one"), Ko("two")
    for ko in (one, two):
        table = ko.section("__bug_table", bytes(12), flags=ALLOC | WRITE)
        ko.reloc(table, 0, R_PC32, ko.text, 3)
    rows = Back(link(one, two).data).relocs("__bug_table")
    assert rows == {0: (R_PC32, ".text", 3), 12: (R_PC32, ".text", 16 + 3)}


def test_import_of_the_layout_symbol_itself_makes_no_second_version() -> None:
    ko = Ko("one").calls("module_layout", LAYOUT_CRC)
    assert list(Back(link(ko).data).versions()) == ["module_layout"]


@pytest.mark.parametrize("addend", [1 << 62, -(1 << 63), (1 << 63) - 1])
def test_table_entry_with_an_impossible_addend_is_refused(addend: int) -> None:
    ko = Ko("one").orc([(0, b"\x08\0\x15\x10\0\0")])
    ko.reloc(ko.section("__bug_table", bytes(12), flags=ALLOC | WRITE), 0, R_PC32, ko.text, addend)
    assert "one.ko: __bug_table+0x0: impossible addend" in error_of(ko, unwind="compact")


def test_parameter_may_repeat_inside_one_member_if_it_is_not_in_sysfs() -> None:
    ko = Ko("one").param("alias").param("alias")
    for at in (24, 64):
        ko["__param"].data[at : at + 2] = bytes(2)
    assert Back(link(ko).data).params()[:2] == ["one.alias", "one.alias"]


def test_struct_module_without_room_for_a_long_name_is_refused() -> None:
    ko = Ko("one", module_size=72)
    ko.this.relocs.clear()
    ko.symbols = [s for s in ko.symbols if s.name != "init_module"]
    assert "the name at 0x18 has no room for 56 bytes" in error_of(ko)


@pytest.mark.parametrize(("offset", "kind"), [(INIT_AT, R_PC32), (30, R_64), (73, R_64)])
def test_struct_module_whose_pointers_are_none_is_refused(offset: int, kind: int) -> None:
    ko = Ko("one")
    _, _, symbol, addend = ko.this.relocs[0]
    ko.this.relocs[0] = (offset, kind, symbol, addend)
    assert f"one.ko: .gnu.linkonce.this_module+{offset:#x}: no pointer that the kernel would fill" in error_of(ko)


def test_unwind_entry_beyond_its_section_is_kept_by_compact() -> None:
    states = [b"\x08\0\x15\x10\0\0", b"\x10\0\x15\x10\0\0", bytes(6)]
    ko = Ko("one").orc(zip((0, 8, 99), states, strict=True))
    back = Back(link(ko, unwind="compact").data)
    assert {at for _, _, at in back.relocs(".orc_unwind_ip").values()} >= {0, 8, 99}
