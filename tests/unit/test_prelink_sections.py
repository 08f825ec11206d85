"""Sections and their tables of several members as one: packed, folded, kept apart, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from megamod.prelink.options import Unwind
from tests.unit.module_factory import (
    ALLOC,
    EXEC,
    INIT_AT,
    LAYOUT_CRC,
    R_64,
    R_PC32,
    WRITE,
    Back,
    Ko,
    blob,
    error_of,
    link,
)


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
        assert "with it .data..percpu has 8194 bytes" in error_of(*kos)


def test_percpu_alignment_above_a_page_is_refused() -> None:
    message = error_of(blob("one", ".data..percpu", bytes(8), flags=ALLOC | WRITE, align=8192))
    assert message.startswith("one.ko: with it .data..percpu has 8 bytes at alignment 8192, the kernel has 8192")


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
    assert error_of(ko).startswith("one.ko: it has its allocation tags inside .data (MEM_ALLOC_PROFILING up to 6.12)")


def test_modules_without_tags_on_a_kernel_with_them_give_an_empty_range() -> None:
    ko = Ko("one")
    for name in ("__start_alloc_tags", "__stop_alloc_tags"):
        ko.symbol(name, ko.data, 0)
    values = {s.name: s["st_value"] for s in Back(link(ko).data).symbols() if "alloc_tags" in s.name}
    assert values == {"__start_alloc_tags": 0, "__stop_alloc_tags": 0}


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
    assert "empty or duplicate section name" in error_of(ko)


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
    ko = Ko("one", init=None, module_size=72)
    assert "the name at 0x18 has no room for 56 bytes" in error_of(ko)


@pytest.mark.parametrize(("offset", "kind"), [(INIT_AT, R_PC32), (30, R_64), (73, R_64)])
def test_struct_module_whose_pointers_are_none_is_refused(offset: int, kind: int) -> None:
    ko = Ko("one")
    _, _, symbol, addend = ko.this.relocs[0]
    ko.this.relocs[0] = (offset, kind, symbol, addend)
    assert f"one.ko: .gnu.linkonce.this_module+{offset:#x}: the kernel would not fill it" in error_of(ko)


@pytest.mark.parametrize("unwind", ["keep", "compact"])
def test_unwind_entry_beyond_its_section_is_not_taken_for_the_nexts(unwind: Unwind) -> None:
    states = [b"\x08\0\x15\x10\0\0", b"\x10\0\x15\x10\0\0", bytes(6)]
    ko = Ko("one").orc(zip((0, 8, 99), states, strict=True))
    table = np.frombuffer(Back(link(ko, unwind=unwind).data)[".orc_unwind_ip.sorted"], "<u4").tolist()
    assert {0, 8} <= set(table)
    assert 99 not in table
