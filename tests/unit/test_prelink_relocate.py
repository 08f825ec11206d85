"""Relocations: each type in range, at each bound and one past it; what is resolved, what is left, what is refused."""

from __future__ import annotations

import struct

import pytest

from megamod.common.errors import MegamodError
from tests.unit.module_factory import (
    ABS,
    ALLOC,
    EXEC,
    R_32,
    R_32S,
    R_64,
    R_NONE,
    R_PC32,
    R_PC64,
    R_PLT32,
    SECTION,
    UNDEF,
    WRITE,
    Back,
    Ko,
    Sec,
    link,
)  # fmt: skip

WIDTH = {R_64: 8, R_PC32: 4, R_PLT32: 4, R_32: 4, R_32S: 4, R_PC64: 8}
NAMES = {R_64: "64", R_PC32: "PC32", R_PLT32: "PLT32", R_32: "32", R_32S: "32S", R_PC64: "PC64"}
LIMITS = {R_32: (0, 1 << 32), R_32S: (-(1 << 31), 1 << 31), R_PC32: (-(1 << 31), 1 << 31)}
LIMITS[R_PLT32] = LIMITS[R_PC32]
RELATIVE = (R_PC32, R_PLT32)
BOUNDS = [(kind, side) for kind in LIMITS for side in (0, 1)]
BOUND_NAMES = [f"{NAMES[kind]} {'low' if side == 0 else 'high'}" for kind, side in BOUNDS]


def with_value(kind: int, value: int) -> Ko:
    """A member whose .data.x or .text holds one field that the link must set to *value*."""
    ko = Ko("disk")
    if kind in RELATIVE:
        ko.text.data[4:8] = bytes(4)
        # S = .text, P = .text + 4
        ko.reloc(ko.text, 4, kind, ko.text, value + 4)
    else:
        ko.reloc(ko.data, 8, kind, ko.symbol("limit", ABS, 1000), value - 1000)
    return ko


def field_of(ko: Ko, kind: int) -> bytes:
    back = Back(link(ko).data)
    assert not back.relocs(".text")
    assert 8 not in back.relocs(".data")
    return back[".text"][4:8] if kind in RELATIVE else back[".data"][8 : 8 + WIDTH[kind]]


@pytest.mark.parametrize(("kind", "side"), BOUNDS, ids=BOUND_NAMES)
def test_value_at_the_bound_is_written(kind: int, side: int) -> None:
    value = LIMITS[kind][side] - side
    assert field_of(with_value(kind, value), kind) == struct.pack("<q", value)[:4]


@pytest.mark.parametrize(("kind", "side"), BOUNDS, ids=BOUND_NAMES)
def test_value_past_the_bound_is_refused(kind: int, side: int) -> None:
    low, high = LIMITS[kind]
    value = (low - 1, high)[side]
    with pytest.raises(MegamodError) as caught:
        link(with_value(kind, value))
    place = "disk.ko: .text+0x4" if kind in RELATIVE else "disk.ko: .data+0x8"
    assert str(caught.value).startswith(f"{place}: {NAMES[kind]} against ")
    assert f"value {value} not in [{low}, {high})" in str(caught.value)


@pytest.mark.parametrize("value", [-(1 << 61), -1, 0, 1 << 61])
def test_64_bit_value_is_written_whole(value: int) -> None:
    assert field_of(with_value(R_64, value), R_64) == struct.pack("<q", value)


def test_64_bit_value_with_the_top_bit_is_written_whole() -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 8, R_64, ko.symbol("top", ABS, 0xFFFFFFFF81000000), 16)
    assert Back(link(ko).data)[".data"][8:16] == struct.pack("<Q", 0xFFFFFFFF81000010)


@pytest.mark.parametrize("distance", [-(1 << 40), 0, 1 << 40])
def test_pc64_inside_one_section_is_written(distance: int) -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 8, R_PC64, ko.data, distance + 8)
    assert Back(link(ko).data)[".data"][8:16] == struct.pack("<q", distance)


def test_addend_that_overflows_everything_is_refused() -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 8, R_PC64, ko.data, -(1 << 63))
    with pytest.raises(MegamodError, match=r"disk\.ko: \.data\+0x8: impossible addend"):
        link(ko)


def test_call_of_another_member_is_resolved() -> None:
    core = Ko("core").exports("core_add", 1)
    disk = Ko("disk").calls("core_add", 1)
    back = Back(link(core, disk).data)
    assert not back.relocs(".text")
    (distance,) = struct.unpack_from("<i", back[".text"], 32 + 16 + 1)
    assert 32 + 16 + 5 + distance == 16  # disk's call lies at 32 + 16, core_add at 16


def test_pointer_to_another_members_export_keeps_a_relocation_to_its_place() -> None:
    core, disk = Ko("core").exports("core_add", 1), Ko("disk")
    disk.reloc(disk.data, 8, R_64, disk.wants("core_add", 1), 5)
    assert Back(link(core, disk).data).relocs(".data")[16 + 8] == (R_64, ".text", 16 + 5)


def test_call_of_the_kernel_is_left_to_the_kernel() -> None:
    back = Back(link(Ko("disk").calls("printk", 7)).data)
    assert back.relocs(".text") == {17: (R_PLT32, "printk", -4)}
    assert back.versions()["printk"] == 7


def test_distance_to_another_section_is_left_to_the_kernel() -> None:
    ko = Ko("disk")
    ko.text.data[4:8] = bytes(4)
    ko.reloc(ko.text, 4, R_PC32, ko.rodata, 2)
    assert Back(link(ko).data).relocs(".text")[4][:2] == (R_PC32, ".rodata")


def test_none_relocation_is_dropped() -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 8, R_NONE, ko.text)
    assert 8 not in Back(link(ko).data).relocs(".data")


def test_weak_import_stays_weak() -> None:
    symbols = Back(link(Ko("disk").calls("later", None, bind=2)).data).symbols()
    assert [s["st_info"]["bind"] for s in symbols if s.name == "later"] == ["STB_WEAK"]


@pytest.mark.parametrize("kind", WIDTH, ids=NAMES.values())
@pytest.mark.parametrize("byte", ["first", "last"])
def test_field_that_is_not_zero_is_refused_where_the_kernel_refuses_it(kind: int, byte: str) -> None:
    ko = Ko("disk")
    ko.data.data[8 if byte == "first" else 7 + WIDTH[kind]] = 1
    ko.reloc(ko.data, 8, kind, ko.rodata)
    with pytest.raises(MegamodError, match=r"disk\.ko: \.data\+0x8: .*the field is not zero"):
        link(ko)


@pytest.mark.parametrize("kind", [3, 9, 26, 41, 42, 255, 256, 1 << 31])
def test_relocation_type_that_the_kernel_does_not_know_is_refused(kind: int) -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 8, kind, ko.text)
    with pytest.raises(MegamodError, match=rf"disk\.ko: \.data\+0x8: relocation type {kind} .*does not know"):
        link(ko)


@pytest.mark.parametrize("kind", WIDTH, ids=NAMES.values())
def test_field_that_ends_past_its_section_is_refused(kind: int) -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 17 - WIDTH[kind], kind, ko.text)
    with pytest.raises(MegamodError, match=r"disk\.ko: \.data\+0x.*ends outside its section"):
        link(ko)


@pytest.mark.parametrize("kind", WIDTH, ids=NAMES.values())
def test_field_at_the_very_end_of_its_section_is_kept(kind: int) -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 16 - WIDTH[kind], kind, ko.rodata)
    assert 16 - WIDTH[kind] in Back(link(ko).data).relocs(".data")


def test_two_relocations_of_one_field_are_refused() -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 0, R_64, ko.text)
    ko.reloc(ko.data, 4, R_32, ko.text)
    with pytest.raises(MegamodError, match=r"disk\.ko: \.data\+0x4: two relocations for the same bytes"):
        link(ko)


def test_distance_to_an_absolute_value_is_refused() -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 0, R_PC32, ko.symbol("there", ABS, 5))
    with pytest.raises(MegamodError, match=r"disk\.ko: \.data\+0x0: PC32 against there: the distance"):
        link(ko)


def test_nameless_undefined_symbol_is_refused() -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 0, R_64, ko.symbol("", UNDEF))
    with pytest.raises(MegamodError, match=r"disk\.ko: \.data\+0x0: .*undefined and has no name"):
        link(ko)


def refer_to(section: str) -> Ko:
    ko = Ko("disk").exports("disk_x")
    home = ko.get(section)
    if not home.data:
        home.data += bytes(8)
    ko.reloc(ko.data, 8, R_64, ko.symbol("", home, bind=0, kind=SECTION))
    return ko


@pytest.mark.parametrize("section", ["__mcount_loc", ".BTF", "__kcrctab", ".note.Linux"])
def test_reference_to_a_section_that_is_left_out_is_refused(section: str) -> None:
    with pytest.raises(MegamodError, match=r"disk\.ko: \.data\+0x8: .* refers to a section that is left out"):
        link(refer_to(section))


def test_reference_into_a_table_that_is_sorted_anew_is_refused() -> None:
    with pytest.raises(MegamodError, match=r"disk\.ko: \.data\+0x8: .*table that is sorted again"):
        link(refer_to("__ksymtab"))


# Trace calls


def traced() -> Ko:
    ko = Ko("disk").calls("__fentry__")
    table = ko.section("__mcount_loc", bytes(8), align=8)
    ko.reloc(table, 0, R_64, ko.text, 16)
    return ko


def test_trace_call_becomes_a_nop_and_its_table_goes() -> None:
    back = Back(link(traced()).data)
    assert back[".text"][16:21] == bytes.fromhex("0f1f440000")
    assert "__mcount_loc" not in back
    assert "__fentry__" not in back.versions()
    assert not any(s.name == "__fentry__" for s in back.symbols())


def test_trace_call_stays_with_tracing_keep() -> None:
    back = Back(link(traced(), tracing="keep").data)
    assert back.relocs(".text") == {17: (R_PLT32, "__fentry__", -4)}
    assert back.relocs("__mcount_loc") == {0: (R_64, ".text", 16)}


def test_trace_call_that_is_no_call_is_refused() -> None:
    ko = traced()
    ko.text.data[16] = 0x90
    with pytest.raises(MegamodError, match=r"disk\.ko: \.text\+0x11: .* not a call instruction"):
        link(ko)


def test_trace_call_at_the_first_byte_of_a_section_is_refused() -> None:
    ko = Ko("disk")
    ko.text.data[:] = bytes(8)
    ko.reloc(ko.text, 0, R_PLT32, ko.wants("__fentry__"), -4)
    with pytest.raises(MegamodError, match=r"disk\.ko: \.text\+0x0: .* not a call instruction"):
        link(ko)


def test_trace_call_at_the_first_byte_does_not_look_into_the_member_before() -> None:
    disk = Ko("disk")
    disk.text.data[:] = bytes(8)
    disk.reloc(disk.text, 0, R_PLT32, disk.wants("__fentry__"), -4)
    core = Ko("core")
    core.text.data[15] = 0xE8
    with pytest.raises(MegamodError, match=r"disk\.ko: \.text\+0x0: .* not a call instruction"):
        link(core, disk)


def test_pointer_to_the_trace_function_is_no_trace_call() -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, 8, R_64, ko.wants("__fentry__", 3))
    assert Back(link(ko).data).relocs(".data") == {8: (R_64, "__fentry__", 0)}


# Sections of more than 2 GiB do not fit, whatever they hold


def test_more_than_the_kernels_module_area_is_refused_and_not_allocated() -> None:
    ko = Ko("disk")
    for number in range(5):
        ko.section(f".bss.{number}", flags=ALLOC | WRITE, size=1 << 28)
    with pytest.raises(MegamodError, match=r"disk\.ko: .*would exceed the 1073741824 bytes"):
        link(ko)


def test_alignment_of_many_sections_does_not_make_a_huge_file() -> None:
    ko = Ko("disk")
    for number in range(20_000):
        ko.section(f".text.{number}", b"\x90", flags=ALLOC | EXEC, align=1 << 16)
    with pytest.raises(MegamodError, match=r"disk\.ko: .*would exceed"):
        link(ko)


def test_code_that_the_kernel_calls_by_section_stays_apart() -> None:
    ko = Ko("disk")
    parts: dict[str, Sec] = {
        name: ko.section(name, b"\xc3", flags=ALLOC | EXEC) for name in (".noinstr.text", ".kprobes.text", ".exit.text")
    }
    back = Back(link(ko).data)
    assert all(name in back and back[name] == b"\xc3" for name in parts)
