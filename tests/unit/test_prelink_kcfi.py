"""kCFI: the glue's init has the type hash of the members' inits before it, where FineIBT finds it.

The hash is the one of ``int (void)`` in a kernel of clang 19; kernels so built boot in tests/boot.
"""

from __future__ import annotations

import struct

import pytest

from megamod.common.errors import MegamodError
from megamod.prelink.link import Megamodule
from megamod.prelink.verify.checks import verify
from tests.oracle.edit import patch
from tests.oracle.fabricate_arches import make_arch_module
from tests.oracle.judge import judge
from tests.unit.glue_runner import link_files, load
from tests.unit.module_factory import INIT_AT, R_64, R_PC32, RETURN_ZERO, Back, Ko, Sec, error_of, link, read

HASH = bytes.fromhex("a6c5b136")
# With CALL_PADDING the NOPs stand between hash and function, without it the hash stands directly before it.
PADDED, PLAIN = b"\xb8" + HASH + b"\x90" * 11, b"\x90" * 11 + b"\xb8" + HASH


def behind(name: str, before: bytes) -> Ko:
    """A module whose init stands behind other bytes of its section."""
    ko = Ko(name, init=before + RETURN_ZERO)
    entry = next(symbol for symbol in ko.symbols if symbol.name == "init_module")
    entry.value, entry.size = len(before), len(RETURN_ZERO)
    return ko


def checked(name: str, before: bytes = PADDED, *, fineibt: bool = True) -> Ko:
    """A module of an x86_64 kernel with kCFI, its init behind *before*."""
    ko = behind(name, before)
    at = len(before.rstrip(b"\x90")) - 5 if before else 0
    ko.symbol("__cfi_init_module", ko.init, at)
    if fineibt:
        ko.reloc(sites(ko), 0, R_PC32, ko.init, at)
        sites(ko).data += bytes(4)
    return ko.glue_imports()


def sites(ko: Ko) -> Sec:
    return ko.get(".cfi_sites")


def entry_of(megamodule: Megamodule) -> int:
    """Offset of the glue's init in .init.text."""
    _, section, offset = Back(megamodule.data).relocs(".gnu.linkonce.this_module")[INIT_AT]
    assert section == ".init.text"
    return offset


def before_entry(megamodule: Megamodule, count: int) -> bytes:
    entry = entry_of(megamodule)
    return Back(megamodule.data)[".init.text"][entry - count : entry]


def files(*modules: Ko) -> list[tuple[str, bytes]]:
    return [(ko.name, bytes(ko)) for ko in modules]


def arch_files(machine: str, before: bytes = HASH) -> list[tuple[str, bytes]]:
    return [(name, make_arch_module(machine, name, before=before)) for name in ("a", "b", "c")]


# x86_64


@pytest.mark.parametrize("before", [PADDED, PLAIN], ids=["call padding", "none"])
def test_the_glue_has_the_hash_and_padding_of_the_members_inits(before: bytes) -> None:
    megamodule = link(checked("a", before), checked("b", before))
    size = len(before) if before == PADDED else 5
    assert before_entry(megamodule, size) == before[-size:]
    assert entry_of(megamodule) % 16 == 0
    assert load(megamodule).run().calls == ["ktime_get", "a", "ktime_get", "b", "ktime_get"]


def test_fineibt_finds_the_glues_init_in_its_list_of_sites() -> None:
    megamodule = link(checked("a"), checked("b"))
    listed = {(section, offset) for _, section, offset in Back(megamodule.data).relocs(".cfi_sites").values()}
    assert len(listed) == 3
    assert (".init.text", entry_of(megamodule) - 16) in listed


def test_a_kernel_without_fineibt_gets_no_list_of_sites() -> None:
    assert ".cfi_sites" not in Back(link(checked("a", fineibt=False), checked("b", fineibt=False)).data)


def test_an_init_with_another_hash_is_refused_by_its_file_name() -> None:
    other = b"\xb8" + bytes(4) + b"\x90" * 11
    message = error_of(checked("a"), checked("odd", other), checked("c"))
    found = f"is {other.hex()}, that of the others {PADDED.hex()}"
    assert message == (f"odd.ko: the type hash (kCFI) before its init {found} (hint: load it on its own)")


def test_an_init_without_a_hash_among_members_with_kcfi_is_refused() -> None:
    message = error_of(checked("a"), Ko("bare"))
    assert message == "bare.ko: no type hash (kCFI) stands before its init, the kernel would trap"


def test_the_configuration_says_kcfi_where_no_module_shows_it() -> None:
    assert error_of(Ko("bare"), kcfi=True).startswith("bare.ko: no type hash (kCFI)")


def test_padding_of_a_kernel_without_kcfi_is_taken_over_too() -> None:
    megamodule = link(*(behind(name, b"\x90" * 16) for name in "ab"))
    assert before_entry(megamodule, 16) == b"\x90" * 16


def test_the_end_of_another_function_is_not_taken_for_a_hash() -> None:
    megamodule = link(Ko("first"), behind("second", bytes.fromhex("b801000000c3cccccccccccccccccccc")))
    assert b"\xcc\xcc" not in before_entry(megamodule, 2)


# arm64, riscv64, arm


@pytest.mark.parametrize("machine", ["arm64", "riscv64", "arm", "thumb"])
def test_the_hash_of_other_architectures_stands_before_the_function(machine: str) -> None:
    members = arch_files(machine)
    megamodule = link_files(members)
    glue = load(megamodule)
    home, offset = glue.entry
    code = bytes(glue.merged.content(glue.merged.sections[home]))
    assert code[(offset & -2) - 4 : offset & -2] == HASH
    assert glue.run().members == ["a", "b", "c"]


def test_a_hash_that_looks_like_a_call_is_not_one() -> None:
    members = arch_files("arm64", bytes.fromhex("fcffff97"))  # bl .-16
    assert load(link_files(members)).run().members == ["a", "b", "c"]


@pytest.mark.parametrize("machine", ["arm64", "riscv64"])
def test_nops_of_a_patchable_prefix_stand_behind_the_hash(machine: str) -> None:
    before = HASH + bytes.fromhex({"arm64": "1f2003d5", "riscv64": "0100"}[machine]) * 2
    members = arch_files(machine, before)
    glue = load(link_files(members))
    home, offset = glue.entry
    assert bytes(glue.merged.content(glue.merged.sections[home]))[offset - len(before) : offset] == before


@pytest.mark.parametrize("machine", ["arm64", "riscv64"])
def test_nops_of_a_patchable_prefix_alone_are_no_hash(machine: str) -> None:
    before = bytes.fromhex({"arm64": "1f2003d5", "riscv64": "01000100"}[machine]) * 2
    members = arch_files(machine, before)
    glue = load(link_files(members))
    home, offset = glue.entry
    assert bytes(glue.merged.content(glue.merged.sections[home]))[offset - len(before) : offset] == before


def test_inits_at_the_start_of_their_section_need_no_hash() -> None:
    members = arch_files("arm64", b"")
    assert load(link_files(members)).run().members == ["a", "b", "c"]
    with pytest.raises(MegamodError, match=r"a\.ko: no type hash \(kCFI\)"):
        link_files(members, kcfi=True)


def test_an_unknown_landing_pad_is_refused_with_its_instruction() -> None:
    jump = bytes.fromhex("df2403d5")  # bti jc
    members = [(name, data.replace(bytes.fromhex("3f2303d5"), jump)) for name, data in arch_files("arm64")]
    with pytest.raises(MegamodError, match="its init starts with df2403d5, a landing pad that is not known"):
        link_files(members)


# What verify and the oracle see


def damaged(megamodule: Megamodule, distance: int = 4) -> bytes:
    return patch(megamodule.data, ".init.text", entry_of(megamodule) - distance, b"\x55")


def test_verify_refuses_another_hash_before_the_glue() -> None:
    megamodule = link(checked("a"), checked("b"))
    with pytest.raises(
        MegamodError, match=r"before the glue's init stands b855c5b136(90){11}, before that of a\.ko b8a6"
    ):
        verify(damaged(megamodule, 15), megamodule.members, megamodule.map)


def test_verify_refuses_a_list_of_sites_without_the_glue() -> None:
    megamodule = link(checked("a"), checked("b"))
    data = bytearray(megamodule.data)
    back = Back(megamodule.data)
    table = back.header(".rela.cfi_sites")["sh_offset"]
    for at in range(table, table + back.header(".rela.cfi_sites")["sh_size"], 24):
        (addend,) = struct.unpack_from("<q", data, at + 16)
        struct.pack_into("<q", data, at + 16, addend + 16)
    with pytest.raises(MegamodError, match=r"\.cfi_sites does not list the glue's init, \.init\.text\+0x[0-9a-f]+"):
        verify(bytes(data), megamodule.members, megamodule.map)


def test_verify_reads_members_itself_and_names_one_without_a_hash() -> None:
    megamodule = link(checked("a"), checked("b"))
    bare = Ko("b").glue_imports()
    with pytest.raises(MegamodError, match=r"b\.ko"):
        verify(megamodule.data, [megamodule.members[0], *read(bare)], megamodule.map)


def test_the_oracle_accepts_the_hash_and_finds_another() -> None:
    modules = checked("a"), checked("b")
    megamodule = link(*modules)
    assert judge(files(*modules), megamodule.data, megamodule.map) == []
    found = judge(files(*modules), damaged(megamodule, 15), megamodule.map)
    assert {difference.kind for difference in found} == {"cfi"}


@pytest.mark.parametrize("machine", ["arm64", "riscv64", "arm"])
def test_the_oracle_finds_another_hash_on_other_architectures(machine: str) -> None:
    members = arch_files(machine)
    megamodule = link_files(members)
    assert judge(members, megamodule.data, megamodule.map) == []
    entry = load(megamodule).entry[1]
    data = patch(megamodule.data, ".init.text", entry - 4, b"\x55")
    assert {difference.kind for difference in judge(members, data, megamodule.map)} == {"cfi"}


def test_the_oracle_finds_a_glue_that_fineibt_would_not_rewrite() -> None:
    modules = checked("a"), checked("b")
    without = checked("a", fineibt=False), checked("b", fineibt=False)
    megamodule = link(*without)
    texts = [difference.text for difference in judge(files(*modules), megamodule.data, megamodule.map)]
    assert any("FineIBT will not rewrite the glue's init" in text for text in texts)


# The setter of the parameter resume

SETTER_HASH = b"\xb8" + bytes.fromhex("01e2c344") + b"\x90" * 11


def with_setter(ko: Ko, before: bytes = SETTER_HASH) -> Ko:
    """A member with a parameter that it sets itself."""
    ko.text.data += before
    place = len(ko.text.data)
    ko.text.data += RETURN_ZERO.ljust(16, b"\xcc")
    operations = len(ko.rodata.data) + -len(ko.rodata.data) % 8
    ko.rodata.data = ko.rodata.data.ljust(operations, b"\0") + bytes(32)
    ko.reloc(ko.rodata, operations + 8, R_64, ko.text, place)
    ko.param("own")
    table = ko.get("__param")
    table.relocs = [row for row in table.relocs if row[0] != len(table.data) - 40 + 16]
    ko.reloc(table, len(table.data) - 40 + 16, R_64, ko.rodata, operations)
    return ko


def setter_of(megamodule: Megamodule) -> bytes:
    """The code section from its start to the setter of `resume`."""
    back = Back(megamodule.data)
    symbol = next(s for s in back.symbols() if s.name == "megamod_resume")
    return bytes(back[".text"][: symbol["st_value"]])


def test_the_setter_has_the_hash_of_the_members_own_setters() -> None:
    merged = link(with_setter(checked("a")), checked("b"))
    assert "resume" in Back(merged.data).params()
    code = setter_of(merged)
    assert code.endswith(SETTER_HASH) and len(code) % 16 == 0
    listed = [row[1:] for row in Back(merged.data).relocs(".cfi_sites").values()]
    assert (".text", len(code) - len(SETTER_HASH)) in listed and len(listed) == 4


def test_the_oracle_finds_another_hash_before_the_setter() -> None:
    modules = with_setter(checked("a")), checked("b")
    merged, members = link(*modules), files(*modules)
    assert judge(members, merged.data, merged.map) == []
    at = len(setter_of(merged)) - len(SETTER_HASH) + 1
    other = patch(merged.data, ".text", at, b"\2")
    assert "before the glue's setter stands" in "".join(
        difference.text for difference in judge(members, other, merged.map)
    )


def test_without_a_setter_among_the_members_nothing_is_resumed_and_a_note_says_so() -> None:
    merged = link(checked("a"), checked("b"))
    assert "resume" not in Back(merged.data).params()
    assert any("no member has what kCFI wants before a parameter's setter" in note for note in merged.notes)


def test_setters_of_two_kinds_are_no_ground_for_a_hash() -> None:
    other = b"\xb8" + bytes.fromhex("01e2c345") + b"\x90" * 11
    merged = link(with_setter(checked("a")), with_setter(checked("b"), other))
    assert "resume" not in Back(merged.data).params()


def test_without_kcfi_the_setter_has_what_the_inits_have() -> None:
    merged = link(Ko("a").glue_imports(), Ko("b").glue_imports())
    assert "resume" in Back(merged.data).params()
    assert b"\xb8" not in setter_of(merged)[-16:]
