"""The oracle runs the glue that settles a sorted unwind table, and finds every kind of damage to table and glue."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megamod.prelink.link import prelink_files
from megamod.prelink.options import PrelinkOptions
from tests.oracle import judge, load_model, naive_unwind
from tests.oracle.difference import Difference, Report
from tests.oracle.edit import Row, edit_relocations, patch, resize, section_of, swap
from tests.oracle.fabricate import make_chain, make_module
from tests.oracle.machine import Machine, StuckError
from tests.oracle.memory import LOADS
from tests.oracle.model import SHF_ALLOC, Model
from tests.oracle.naive import merge
from tests.oracle.placement import Layout, lay_out
from tests.oracle.settle import registered_table
from tests.oracle.tables import SORTED_UNWIND, unwind_table
from tests.oracle.write import Object

Members = list[tuple[str, bytes]]
Mapping = dict[str, Any]
Merged = tuple[bytes, Mapping]
IPS, STATES = SORTED_UNWIND
OWN = naive_unwind.GLUE_ENTRIES


@pytest.fixture(scope="module")
def members() -> Members:
    return make_chain()


@pytest.fixture(scope="module")
def merged(members: Members) -> Merged:
    return merge(members, settled=True)


def texts(found: Sequence[Difference], *, all_kinds: bool = False) -> str:
    """The sentences, one a line; nothing but unwind tables and glue may be wrong."""
    assert all_kinds or {d.kind for d in found} <= {"unwind", "glue", "glue-unwind"}
    return "\n".join(d.text for d in found)


def placed(members: Members, data: bytes, mapping: Mapping) -> tuple[Model, Layout]:
    model, given = load_model(data), dict(members)
    names = [m["name"] for m in mapping["members"]]
    return model, lay_out([load_model(given[name]) for name in names], model, mapping, names, Report())


def gap_of(data: bytes) -> int:
    """Entries of init code, as many as the gap has: room for three of the glue's and two of each member's."""
    init = OWN + 2 * 3
    assert not any(load_model(data).content(section_of(data, IPS))[: 4 * init])
    return init


def code_of(data: bytes, mapping: Mapping) -> tuple[int, bytes]:
    """The glue's code: its offset in .init.text, and its bytes."""
    chunk = next(c for c in mapping["chunks"] if c["member"] < 0 and c["output"] == ".init.text")
    content = bytes(load_model(data).content(section_of(data, ".init.text")))
    return chunk["offset"], content[chunk["offset"] : chunk["offset"] + chunk["size"]]


def change_code(merged: Merged, old: str, new: str, *, last: bool = False) -> bytes:
    """The file with an instruction of the glue replaced by one of the same length."""
    data, mapping = merged
    start, code = code_of(data, mapping)
    assert len(bytes.fromhex(old)) == len(bytes.fromhex(new))
    find = code.rindex if last else code.index
    return patch(data, ".init.text", start + find(bytes.fromhex(old)), bytes.fromhex(new))


def word(value: int) -> str:
    return struct.pack("<I", value & 0xFFFFFFFF).hex()


def test_a_sorted_table_that_the_glue_settles_is_accepted(members: Members, merged: Merged) -> None:
    assert judge(members, *merged) == []


def test_the_table_that_the_kernel_has_is_all_members_and_the_glues(members: Members, merged: Merged) -> None:
    table, problems = registered_table(*placed(members, *merged))
    assert problems == []
    assert len(table.home) == OWN + sum(len(unwind_table(load_model(data))[0].home) for _, data in members)


def test_a_table_that_the_kernel_sorts_is_read_as_it_is(members: Members) -> None:
    model, layout = placed(members, *merge(members))
    table, problems = registered_table(model, layout)
    assert problems == [] and np.array_equal(table.offset, unwind_table(model)[0].offset)


@pytest.mark.parametrize("unwind", ["keep", "compact"])
def test_the_prelinkers_own_table_is_accepted_and_damage_to_it_found(
    members: Members, tmp_path: Path, unwind: Any
) -> None:
    for name, data in members:
        (tmp_path / f"{name}.ko").write_bytes(data)
    files = [tmp_path / f"{name}.ko" for name, _ in members]
    result = prelink_files(files, PrelinkOptions(name="megamod_test", unwind=unwind))
    assert judge(members, result.data, result.map) == []
    for name, size in ((IPS, 4), (STATES, 6)):
        section = section_of(result.data, name)
        for at in range(0, section.size, size):
            damaged = patch(result.data, name, at, bytes([result.data[section.offset + at] ^ 2]))
            assert judge(members, damaged, result.map), (name, at)


def test_entries_may_be_left_out_with_the_option_only(members: Members) -> None:
    data, mapping = merge(members, thin=lambda member, number: member == "top" and number == 3, settled=True)
    assert "is not in the table" in texts(judge(members, data, mapping))
    mapping["options"]["unwind"] = "compact"
    assert judge(members, data, mapping) == []


def test_a_compact_table_must_have_the_states_that_count(members: Members) -> None:
    data, mapping = merge(members, thin=lambda member, number: member == "top" and number == 1, settled=True)
    mapping["options"]["unwind"] = "compact"
    assert "became" in texts(judge(members, data, mapping))


@pytest.mark.parametrize("unloads", [True, False])
def test_entries_of_exit_code_go_only_where_the_kernel_never_runs_it(unloads: bool) -> None:
    members = [("alone", make_module("alone", leaves=True, unloads=unloads))]
    last = len(unwind_table(load_model(members[0][1]))[0].home) - 2
    whole = merge(members, settled=True)
    without = merge(members, thin=lambda _, number: number >= last, settled=True)
    assert judge(members, *(whole if unloads else without)) == []
    assert texts(judge(members, *(without if unloads else whole)))


def test_an_entry_that_no_member_has_is_found(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda out, table: table.entries.append((table.entries[0][0], 9, table.entries[0][2])))
    monkeypatch.setattr(naive_unwind, "groups_of", _one_more(naive_unwind.groups_of))
    data, mapping = merge(members, settled=True)
    mapping["options"]["unwind"] = "compact"
    assert "is in the table and no member's" in texts(judge(members, data, mapping))


def _one_more(groups_of: Callable[..., list[tuple[int, int]]]) -> Callable[..., list[tuple[int, int]]]:
    def changed(*arguments: Any) -> list[tuple[int, int]]:
        (home, count), *rest = groups_of(*arguments)
        return [(home, count + 1), *rest]

    return changed


Change = Callable[[Object, naive_unwind.SortedTable], object]


def spoil(monkeypatch: pytest.MonkeyPatch, before: Change | None = None, after: Change | None = None) -> None:
    """Has the naive merge write a wrong table: changes before or after its sections are filled."""
    fill = naive_unwind.fill

    def changed(out: Object, table: naive_unwind.SortedTable, own: Any, chunks: Any) -> None:
        if before is not None:
            before(out, table)
        fill(out, table, own, chunks)
        if after is not None:
            after(out, table)

    monkeypatch.setattr(naive_unwind, "fill", changed)


@pytest.mark.parametrize("first", [0, 5, 18])
def test_two_entries_exchanged_are_not_in_order(members: Members, merged: Merged, first: int) -> None:
    data, mapping = merged
    at = gap_of(data) + first
    data = swap(swap(data, IPS, 4 * at, 4 * at + 4, 4), STATES, 6 * at, 6 * at + 6, 6)
    assert "entries not in order, the first is" in texts(judge(members, data, mapping))


def test_a_terminator_behind_the_real_entry_of_its_address_is_found(members: Members, merged: Merged) -> None:
    data, mapping = merged
    # The first member's init, three bytes: an entry at 0, its end at 3, where the next member's begins.
    at = section_of(data, STATES).size - 6 * (OWN + 2 * 3)
    assert "terminators behind a real entry" in texts(judge(members, swap(data, STATES, at + 6, at + 12, 6), mapping))


@pytest.mark.parametrize("entry", range(10, 36))
def test_a_changed_state_is_found(members: Members, merged: Merged, entry: int) -> None:
    data, mapping = merged
    state = data[section_of(data, STATES).offset + 6 * entry]
    assert texts(judge(members, patch(data, STATES, 6 * entry, bytes([state ^ 8])), mapping))


@pytest.mark.parametrize("entry", range(10, 36))
@pytest.mark.parametrize("by", [1, -1])
def test_a_changed_offset_is_found(members: Members, merged: Merged, entry: int, by: int) -> None:
    data, mapping = merged
    start = section_of(data, IPS).offset + 4 * entry
    value = int.from_bytes(data[start : start + 4], "little") + by
    assert texts(judge(members, patch(data, IPS, 4 * entry, struct.pack("<i", value)), mapping))


def test_a_table_for_another_section_is_found(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    groups_of = naive_unwind.groups_of

    def moved(*arguments: Any) -> list[tuple[int, int]]:
        (first, one), (second, two) = groups_of(*arguments)
        return [(first, one + 1), (second, two - 1)]

    monkeypatch.setattr(naive_unwind, "groups_of", moved)
    assert texts(judge(members, *merge(members, settled=True)))


@pytest.mark.parametrize("both", [True, False])
def test_a_shortened_table_is_found(members: Members, merged: Merged, both: bool) -> None:
    data, mapping = merged
    data = resize(data, STATES, section_of(data, STATES).size - 6)
    if both:
        data = resize(data, IPS, section_of(data, IPS).size - 4)
    found = judge(members, data, mapping)
    assert ("are registered" if both else "not the same number of entries") in texts(found, all_kinds=True)


def test_a_table_with_entries_behind_those_used_is_found(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    def longer(out: Object, table: naive_unwind.SortedTable) -> None:
        out.sections[table.ips].data += bytes(4)
        out.sections[table.states].data += bytes(6)

    spoil(monkeypatch, after=longer)
    assert "room for 37 entries, used by 26" in texts(judge(members, *merge(members, settled=True)), all_kinds=True)


@pytest.mark.parametrize("name", SORTED_UNWIND)
def test_a_gap_that_is_not_zero_is_found(members: Members, merged: Merged, name: str) -> None:
    data, mapping = merged
    assert "the gap, are not all zeros" in texts(judge(members, patch(data, name, 8, b"\1"), mapping))


def test_a_gap_that_is_too_small_is_found(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    def smaller(out: Object, table: naive_unwind.SortedTable) -> None:
        del out.sections[table.ips].data[:4], out.sections[table.states].data[:6]

    spoil(monkeypatch, after=smaller)
    assert texts(judge(members, *merge(members, settled=True)), all_kinds=True)


def test_a_relocation_in_the_sorted_table_is_found(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    def relocated(out: Object, table: naive_unwind.SortedTable) -> None:
        out.sections[table.ips].relocations.append((0, 2, out.symbol("", table.ips, 0), 0))

    spoil(monkeypatch, after=relocated)
    assert f"{IPS} has relocations" in texts(judge(members, *merge(members, settled=True)))


def test_a_sorted_table_that_cannot_be_written_is_found(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda out, table: setattr(out.sections[table.states], "flags", SHF_ALLOC))
    assert f"{STATES} is not initialized, writable data" in texts(judge(members, *merge(members, settled=True)))


def test_half_a_sorted_table_is_found(members: Members, merged: Merged) -> None:
    data, mapping = merged
    names = section_of(data, ".shstrtab")
    raw = data[names.offset : names.offset + names.size]
    broken = patch(data, ".shstrtab", raw.index(STATES.encode()), b".other")
    assert f"only one of {IPS} and {STATES} is there" in texts(judge(members, broken, mapping), all_kinds=True)


def test_members_tables_may_go_only_where_there_is_a_sorted_one(members: Members, merged: Merged) -> None:
    data, mapping = merge(members)
    dropped = [c for c in mapping["chunks"] if c["member"] >= 0 and c["section"] in (".orc_unwind", ".orc_unwind_ip")]
    mapping["chunks"] = [c for c in mapping["chunks"] if c not in dropped]
    mapping["dropped"] += [{**c, "why": naive_unwind.WHY} for c in dropped]
    assert len([d for d in judge(members, data, mapping) if d.kind == "dropped"]) == 6


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("0f83", "90e9", "init memory below"),  # jae: never moves
        ("0f83", "0f82", "init memory above"),  # jb: moves at the wrong time
        ("48894808", "48894810", "are registered"),  # the pointer goes to the wrong field
        ("48895010", "0f1f4000", "are registered"),  # the states' pointer is not stored
        ("4883c704ffc9", "4883c703ffc9", ""),  # a wrong step
        ("4829fe", "4801fe", ""),  # a sum instead of a distance
        ("f3a4", "9090", "init memory below: "),  # the states do not move
    ],
)
def test_glue_that_settles_wrongly_is_found(members: Members, merged: Merged, old: str, new: str, text: str) -> None:
    assert text in texts(judge(members, change_code(merged, old, new), merged[1]))


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize(
    ("before", "value"),
    [
        ("c700", 26),  # mov dword [rax], total
        ("b9", 16),  # the entries of code
        ("b9", 10),  # those of init code, of which 10 go into the gap
        ("81c2", 104),  # the distance of the move
        ("8138", OWN),  # cmp dword [rax], own
    ],
)
def test_a_wrong_number_in_the_glue_is_found(
    members: Members, merged: Merged, before: str, value: int, by: int
) -> None:
    data = change_code(merged, before + word(value), before + word(value + by))
    assert texts(judge(members, data, merged[1]))


@pytest.mark.parametrize(("value", "wrong"), [(10, 9), (60, 53)])
def test_entries_or_states_that_are_not_moved_are_found(
    members: Members, merged: Merged, value: int, wrong: int
) -> None:
    data = change_code(merged, "b9" + word(value), "b9" + word(wrong), last=True)
    assert "init memory below: " in texts(judge(members, data, merged[1]))


@pytest.mark.parametrize(("old", "new"), [("483948080f85", "4839480866e9"), ("8138", "813a")])
def test_glue_that_never_finds_the_small_table_is_found(members: Members, merged: Merged, old: str, new: str) -> None:
    assert texts(judge(members, change_code(merged, old, new), merged[1]))


@pytest.mark.parametrize("field", ["48394808", "48395010"])
def test_glue_that_does_not_look_at_a_pointer_walks_into_a_trap(members: Members, merged: Merged, field: str) -> None:
    data = change_code(merged, field, "4839c090")  # cmp rax, rax
    assert texts(judge(members, data, merged[1]))


def test_glue_that_does_not_look_at_the_count_walks_into_a_trap(members: Members, merged: Merged) -> None:
    data = change_code(merged, "8138" + word(OWN), "3d" + word(OWN) + "90")
    start, code = code_of(*merged)
    at = start + code.index(bytes.fromhex("8138" + word(OWN))) + 6
    assert texts(judge(members, patch(data, ".init.text", at, b"\x90\xe9"), merged[1]))


@pytest.mark.parametrize(("by", "text"), [(-1, "are registered"), (1, "no table in struct module: writes to")])
def test_glue_that_searches_too_little_or_too_much_is_found(
    members: Members, merged: Merged, by: int, text: str
) -> None:
    places = (256 - 80) // 8 - 2
    data = change_code(merged, "be" + word(places), "be" + word(places + by))
    assert text in texts(judge(members, data, merged[1]))


def test_glue_that_stores_the_count_first_is_found(members: Members, merged: Merged) -> None:
    pointers, count = "4889480848895010", "c700" + word(26)
    data = change_code(merged, pointers + count, count + pointers)
    assert "the count is stored before the pointers" in texts(judge(members, data, merged[1]))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("fd", "with the direction flag set"),  # std
        ("41bc00000000", "returns with another r12"),  # mov r12d, 0
        ("50", "calls with a misaligned stack pointer"),  # push rax
        ("0f0b", "Invalid instruction"),  # ud2
    ],
)
def test_glue_that_leaves_the_processor_in_another_state_is_found(
    members: Members, monkeypatch: pytest.MonkeyPatch, code: str, text: str
) -> None:
    settle_code = naive_unwind.settle_code
    monkeypatch.setattr(naive_unwind, "settle_code", lambda *a: settle_code(*a) + bytes.fromhex(code))
    assert text in texts(judge(members, *merge(members, settled=True)))


@pytest.mark.parametrize(
    ("name", "offset", "text"),
    [
        (".data", 4, "writes to .data+0x4, which is not its own"),
        (".rodata", 0, "Write to write-protected memory"),
        (".gnu.linkonce.this_module", 120, "struct module is changed"),
        (".gnu.linkonce.this_module", 254, "writes to .gnu.linkonce.this_module+0xfe, which is not its own"),
    ],
)
def test_glue_that_writes_elsewhere_is_found(
    members: Members, monkeypatch: pytest.MonkeyPatch, name: str, offset: int, text: str
) -> None:
    settle_code = naive_unwind.settle_code

    def changed(out: Object, table: Any, where: tuple[int, int], *rest: Any) -> bytes:
        code = settle_code(out, table, where, *rest)
        home = next(n for n, s in enumerate(out.sections) if s.name == name)
        row = (where[1] + len(code) + 2, 2, out.symbol("", home, offset), -8)
        out.sections[where[0]].relocations.append(row)
        return code + bytes.fromhex("c7050000000077000000")  # mov dword [rip + section], 0x77

    monkeypatch.setattr(naive_unwind, "settle_code", changed)
    assert text in texts(judge(members, *merge(members, settled=True)), all_kinds=True)


def test_glue_that_calls_before_it_settles_is_found(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_code = naive_unwind.settle_code

    def changed(out: Object, table: Any, where: tuple[int, int], *rest: Any) -> bytes:
        printk = next(n for n, s in enumerate(out.symbols) if s.name == "_printk")
        out.sections[where[0]].relocations.append((where[1] + 1, 4, printk, -4))
        return b"\xe8\0\0\0\0" + settle_code(out, table, (where[0], where[1] + 5), *rest)

    monkeypatch.setattr(naive_unwind, "settle_code", changed)
    found = texts(judge(members, *merge(members, settled=True)), all_kinds=True)
    assert f"{LOADS[0].text}: calls before the table is settled" in found


def test_the_small_table_must_fit_the_glue_too(members: Members, merged: Merged) -> None:
    data, mapping = merged
    found = judge(members, patch(data, ".orc_unwind", 6, b"\x18"), mapping)
    assert {d.kind for d in found} == {"unwind", "glue-unwind"}
    assert "1 of the glue's own entries are not in the sorted table" in texts(found)


def test_a_small_table_that_names_another_place_is_found(members: Members, merged: Merged) -> None:
    data, mapping = merged

    def edit(number: int, row: Row) -> Row:
        return (row[0], row[1], row[2], row[3] + (number == 1))

    assert "own entries are not in the sorted table" in texts(
        judge(members, edit_relocations(data, ".orc_unwind_ip", edit), mapping)
    )


def test_the_glue_alone_is_not_enough_for_a_sorted_table(members: Members, merged: Merged) -> None:
    data, mapping = merged
    broken = edit_relocations(data, ".gnu.linkonce.this_module", lambda _, row: (row[0], 0, 0, 0))
    assert "a sorted table without an init that settles it" in texts(judge(members, broken, mapping))


def machine_for(code: str) -> Machine:
    """A machine on a section .text of this code and 16 bytes of .data, addressed by the one relocation at 3."""
    out = Object()
    text = out.section(".text", bytes.fromhex(code), flags=6)
    data = out.section(".data", struct.pack("<QQ", 5, 7), flags=3)
    out.sections[text].relocations.append((3, 2, out.symbol("", data, 0), -4))
    machine = Machine(load_model(out.write()), 1)
    machine.decode(0, len(bytes.fromhex(code)))
    return machine


LEA = "488d0500000000"  # lea rax, [.data]


ONE = "ffc0c3"  # inc eax; ret
UNEQUAL, EQUAL = "b8000000007501" + "c3" + ONE, "b8000000007401" + "c3" + ONE  # mov eax, 0; jne or je +1; ret; …


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("4889c1483908" + UNEQUAL, 1),  # mov rcx, rax; cmp [rax], rcx: a number is not an address
        ("4889c1483908" + EQUAL, 0),
        ("4889c14839c8" + UNEQUAL, 0),  # cmp rax, rcx: the same address
        ("4889c14883c1084839c8" + UNEQUAL, 1),  # add rcx, 8
        ("31c94839c8" + UNEQUAL, 1),  # xor ecx, ecx; cmp rax, rcx
        ("be0300000031c9ffc1ffce75fa89c8c3", 3),  # mov esi, 3; xor ecx, ecx; inc ecx; dec esi; jne -6
        ("4883c0088178f805000000" + UNEQUAL, 0),  # add rax, 8; cmp dword [rax - 8], 5
        ("4883c0088178f806000000" + UNEQUAL, 1),
        ("b805000000eb02ffc0c3", 5),  # jmp +2
    ],
)
def test_the_machine_knows_the_instructions_of_the_search(code: str, result: int) -> None:
    assert machine_for(LEA + code).run(0, lambda target: 0) == result


def test_the_machine_refuses_an_order_of_addresses() -> None:
    machine = machine_for(LEA + "4889c14839c8" + "7701c3c3")  # ja
    with pytest.raises(StuckError, match="undefined"):
        machine.run(0, lambda target: 0)
