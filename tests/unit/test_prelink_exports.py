"""Exports and versions of several members as one: sorted, united, checked, or refused."""

from __future__ import annotations

import struct

import pytest

from tests.unit.module_factory import (
    GLUE_IMPORTS,
    LAYOUT_CRC,
    Back,
    Ko,
    error_of,
    link,
)


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
    # With one member there is nobody to resume for.
    resume = {"kernel_param_lock", "kernel_param_unlock", "msleep"}
    assert {name: crc for name, crc in GLUE_IMPORTS.items() if name not in resume}.items() <= back.versions().items()
    assert not resume & back.versions().keys()
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
        "two.ko: the version (CRC) of core_add does not match: two.ko has 0x00000002, one.ko 0x0000"
    )
    assert "(hint: modules of different builds are mixed" in message


def test_members_that_disagree_about_a_kernel_symbol_are_refused() -> None:
    message = error_of(Ko("one").calls("printk", 1), Ko("two").calls("printk", 2))
    assert message.startswith("two.ko: the version (CRC) of printk does not match")


def test_many_wrong_crcs_are_counted_not_listed() -> None:
    names = [f"core_{n}" for n in range(9)]
    one, two = Ko("one"), Ko("two")
    for name in names:
        one.exports(name, 1)
        two.calls(name, 2)
    assert ", and 8 symbols more (hint: " in error_of(one, two)
