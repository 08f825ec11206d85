"""The oracle accepts a simple merge and finds every kind of damage to one."""

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import judge, load_model
from tests.oracle.edit import Row, edit_relocations, flip, patch, section_of, swap
from tests.oracle.fabricate import make_chain, make_module
from tests.oracle.naive import merge

Members = list[tuple[str, bytes]]
NONE_TYPE, R_PC32, PLT32, ABS_32S = 0, 2, 4, 11


@pytest.fixture(scope="module")
def members() -> Members:
    return make_chain()


@pytest.fixture(scope="module")
def merged(members: Members) -> tuple[bytes, dict[str, Any]]:
    return merge(members)


def kinds(members: Members, data: bytes, mapping: dict[str, Any]) -> set[str]:
    return {difference.kind for difference in judge(members, data, mapping)}


def chunk_of(mapping: dict[str, Any], member: int, section: str) -> dict[str, Any]:
    return next(c for c in mapping["chunks"] if c["member"] == member and c["section"] == section)


def first_row(data: bytes, section: str, **change: int) -> bytes:
    def edit(number: int, row: Row) -> Row:
        fields = dict(zip(("offset", "type", "symbol", "addend"), row, strict=True))
        if number == 0:
            fields |= {key: fields[key] + value if key == "addend" else value for key, value in change.items()}
        return fields["offset"], fields["type"], fields["symbol"], fields["addend"]

    return edit_relocations(data, section, edit)


def test_a_simple_merge_has_no_differences(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    assert judge(members, *merged) == []


def test_the_order_in_which_members_are_given_does_not_matter(
    members: Members, merged: tuple[bytes, dict[str, Any]]
) -> None:
    assert judge(list(reversed(members)), *merged) == []


@pytest.mark.parametrize("section", [".text", ".init.text", ".data", ".rodata", "__bug_table", "__ex_table"])
def test_one_turned_bit_in_any_kept_section_is_found(
    members: Members, merged: tuple[bytes, dict[str, Any]], section: str
) -> None:
    data, mapping = merged
    chunk = chunk_of(mapping, 1, section)
    assert "bytes" in kinds(members, flip(data, section, chunk["offset"] + chunk["size"] - 1, 0x40), mapping)


@pytest.mark.parametrize("section", [".text", ".data", "__param", "__bug_table", "__ex_table", ".orc_unwind_ip"])
def test_a_changed_addend_is_found(members: Members, merged: tuple[bytes, dict[str, Any]], section: str) -> None:
    data, mapping = merged
    assert kinds(members, first_row(data, section, addend=1), mapping)


def test_a_reference_to_another_symbol_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    symbol = next(n for n in range(1, 99) if load_model(data).name_of_symbol(n) == "core_del")
    assert "reference" in kinds(members, first_row(data, ".text", symbol=symbol), mapping)


def test_another_relocation_type_for_the_same_target_is_found(
    members: Members, merged: tuple[bytes, dict[str, Any]]
) -> None:
    data, mapping = merged
    assert "reference" in kinds(members, first_row(data, ".text", type=ABS_32S), mapping)


def test_a_relocation_that_went_missing_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    assert "lost" in kinds(members, first_row(data, ".text", type=NONE_TYPE), mapping)


def test_a_relocation_that_no_member_has_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    assert "extra" in kinds(members, first_row(data, ".data", offset=32), mapping)


def test_a_relocation_over_bytes_that_are_not_zero_is_found(
    members: Members, merged: tuple[bytes, dict[str, Any]]
) -> None:
    data, mapping = merged
    assert "load" in kinds(members, patch(data, ".text", 1, b"\1"), mapping)


def test_two_relocations_of_one_field_are_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    second = int(load_model(data).place[load_model(data).rows(section_of(data, ".text"))][1])
    assert "load" in kinds(members, first_row(data, ".text", offset=second), mapping)


def test_a_call_resolved_at_build_time_is_accepted_and_a_wrong_one_found(
    members: Members, merged: tuple[bytes, dict[str, Any]]
) -> None:
    data, mapping = merged
    model = load_model(data)
    text = section_of(data, ".text")
    rows = range(*model.rows(text).indices(len(model.place)))
    inside = next(r for r in rows if model.symbol_section[model.symbol[r]] == text.index and model.kind[r] == R_PC32)
    place = int(model.place[inside])
    value = int(model.symbol_value[model.symbol[inside]]) + int(model.addend[inside]) - place

    def drop(_: int, row: Row) -> Row:
        return (row[0], NONE_TYPE, 0, 0) if row[0] == place else row

    solved = edit_relocations(data, ".text", drop)
    assert judge(members, patch(solved, ".text", place, value.to_bytes(4, "little", signed=True)), mapping) == []
    wrong = patch(solved, ".text", place, (value + 1).to_bytes(4, "little", signed=True))
    assert "bytes" in kinds(members, wrong, mapping)


@pytest.mark.parametrize(("section", "size"), [("__ksymtab_gpl", 12), (".orc_unwind", 6), (".orc_unwind_ip", 4)])
def test_exchanged_table_entries_are_found(
    members: Members, merged: tuple[bytes, dict[str, Any]], section: str, size: int
) -> None:
    data, mapping = merged
    assert kinds(members, swap(data, section, 0, size, size), mapping)


def test_an_unsorted_export_table_is_named_as_that(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    texts = [d.text for d in judge(members, swap(data, "__ksymtab_gpl", 0, 12, 12), mapping)]
    assert any("not sorted" in text for text in texts)


def test_a_wrong_export_crc_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    assert kinds(members, flip(data, "__kcrctab_gpl", 4), mapping) == {"exports"}


def test_a_missing_version_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    assert kinds(members, patch(data, "__versions", 8, b"x"), mapping) == {"versions"}


def test_a_wrong_version_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    assert kinds(members, flip(data, "__versions", 0), mapping) == {"versions"}


def test_a_member_that_imports_an_export_with_another_crc_is_found(
    members: Members, merged: tuple[bytes, dict[str, Any]]
) -> None:
    stale = make_module("disk", exports={"disk_read": 0xD15C}, imports={"core_add": 0xBAD}, namespace="CORE")
    mixed = [(name, stale if name == "disk" else data) for name, data in members]
    assert "versions" in kinds(mixed, *merge(mixed))


def test_a_parameter_without_its_prefix_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    rodata = bytes(load_model(data).content(section_of(data, ".rodata")))
    assert "parameter" in kinds(members, patch(data, ".rodata", rodata.index(b"disk.debug"), b"cisk"), mapping)


def test_two_parameters_of_one_name_are_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    symbols = [row for row in _rows(data, "__param") if row[0] in (0, 40)]
    data = edit_relocations(data, "__param", lambda _, r: (r[0], r[1], symbols[0][2], 0) if r[0] == 40 else r)
    assert any("times" in d.text for d in judge(members, data, mapping) if d.kind == "parameter")


def _rows(data: bytes, section: str) -> list[Row]:
    found: list[Row] = []

    def keep(_: int, row: Row) -> Row:
        found.append(row)
        return row

    edit_relocations(data, section, keep)
    return found


def test_an_init_that_is_not_called_and_one_called_too_early_are_found(
    members: Members, merged: tuple[bytes, dict[str, Any]]
) -> None:
    data, mapping = merged
    glue = next(c for c in mapping["chunks"] if c["member"] < 0 and c["output"] == ".init.text")
    calls = sorted(row for row in _rows(data, ".init.text") if row[0] >= glue["offset"] and row[1] == PLT32)
    exchange = {calls[0][0]: calls[1][2], calls[1][0]: calls[0][2]}
    early = edit_relocations(data, ".init.text", lambda _, r: (r[0], r[1], exchange.get(r[0], r[2]), r[3]))
    assert "order" in kinds(members, early, mapping)
    twice = edit_relocations(
        data, ".init.text", lambda _, r: (r[0], r[1], calls[0][2] if r[0] == calls[1][0] else r[2], r[3])
    )
    texts = [d.text for d in judge(members, twice, mapping) if d.kind == "order"]
    assert any("never called" in t for t in texts) and any("twice" in t for t in texts)


def test_a_dropped_section_needs_an_option(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged[0], copy.deepcopy(merged[1])
    chunk = chunk_of(mapping, 0, "__ex_table")
    mapping["chunks"].remove(chunk)
    mapping["dropped"].append({"member": 0, "section": "__ex_table", "index": chunk["index"], "size": 12, "why": ""})
    assert "dropped" in kinds(members, data, mapping)


def test_a_forgotten_section_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged[0], copy.deepcopy(merged[1])
    mapping["chunks"].remove(chunk_of(mapping, 2, ".bss"))
    assert "dropped" in kinds(members, data, mapping)


def test_traced_calls_must_be_the_kernels_own_nop(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged[0], copy.deepcopy(merged[1])
    mapping["options"]["tracing"] = "off"
    calls = {c["offset"] for c in mapping["chunks"] if c["section"] == ".text"} | {
        c["offset"] + 48 for c in mapping["chunks"] if c["section"] == ".text" and c["size"] > 48
    }
    assert {"bytes", "extra"} <= kinds(members, data, mapping)
    data = edit_relocations(data, ".text", lambda _, r: (r[0], NONE_TYPE, 0, 0) if r[0] - 1 in calls else r)
    for call in calls:
        data = patch(data, ".text", call, b"\x0f\x1f\x44\0\0")
    assert judge(members, data, mapping) == []
    assert kinds(members, patch(data, ".text", 0, b"\x66\x66\x66\x66\x90"), mapping) == {"bytes"}


def test_overlapping_chunks_are_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged[0], copy.deepcopy(merged[1])
    chunk_of(mapping, 1, ".data")["offset"] -= 32
    assert "overlap" in kinds(members, data, mapping)


def test_a_gap_in_a_counted_table_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged[0], copy.deepcopy(merged[1])
    mapping["chunks"].remove(chunk_of(mapping, 1, "__bug_table"))
    assert "gap" in kinds(members, data, mapping)


def test_a_table_with_a_short_last_entry_continues_where_the_kernel_steps() -> None:
    members = [("one", make_module("one", paravirt=2)), ("two", make_module("two", paravirt=1))]
    data, mapping = merge(members)
    assert chunk_of(mapping, 1, ".parainstructions")["offset"] == 32
    assert judge(members, data, mapping) == []
    chunk_of(mapping, 1, ".parainstructions")["offset"] = 28
    assert "askew" in kinds(members, data, mapping)


def test_a_misaligned_chunk_is_found(members: Members) -> None:
    data, mapping = merge(members)
    chunk_of(mapping, 1, ".data")["offset"] += 8
    assert "alignment" in kinds(members, data, mapping)


def test_a_section_folded_into_one_of_another_kind_is_found(
    members: Members, merged: tuple[bytes, dict[str, Any]]
) -> None:
    data, mapping = merged[0], copy.deepcopy(merged[1])
    chunk_of(mapping, 0, ".rodata")["output"] = ".init.text"
    assert {"placement", "protection"} <= kinds(members, data, mapping)


@pytest.mark.parametrize("condition", [0, 1])
def test_glue_that_calls_an_init_after_its_provider_failed_is_found(
    members: Members, merged: tuple[bytes, dict[str, Any]], condition: int
) -> None:
    data, mapping = merged
    glue = next(c for c in mapping["chunks"] if c["member"] < 0 and c["output"] == ".init.text")
    code = bytes(load_model(data).content(section_of(data, ".init.text")))
    jumps = [at for at in range(glue["offset"], len(code)) if code[at : at + 2] == b"\x0f\x85"]
    assert kinds(members, patch(data, ".init.text", jumps[condition] + 1, b"\x84"), mapping) == {"glue"}


def test_glue_that_does_not_return_zero_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    code = bytes(load_model(data).content(section_of(data, ".init.text")))
    assert kinds(members, patch(data, ".init.text", code.rindex(b"\x31\xc0"), b"\x89\xd8"), mapping) == {"glue"}


def test_a_compact_unwind_table_is_accepted_if_no_call_needs_what_is_gone(members: Members) -> None:
    # Entry 0 stands for the five bytes of the traced call, entry 3 for the padding after the function.
    for entry, accepted in ((0, False), (1, False), (3, True)):
        data, mapping = merge(members, thin=lambda member, number, gone=entry: member == "top" and number == gone)
        mapping["options"]["unwind"] = "compact"
        found = kinds(members, data, mapping)
        assert found == (set() if accepted else {"unwind"}), entry


def test_a_wrong_state_in_a_compact_table_is_found(members: Members) -> None:
    data, mapping = merge(members, thin=lambda member, number: member == "top" and number == 3)
    mapping["options"]["unwind"] = "compact"
    assert {"bytes", "unwind"} <= kinds(members, flip(data, ".orc_unwind", 6, 0x10), mapping)


def test_thinned_unwind_tables_need_the_option(members: Members) -> None:
    data, mapping = merge(members, thin=lambda member, number: member == "top" and number == 3)
    assert "dropped" in kinds(members, data, mapping)


def test_a_duplicate_section_name_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    names = section_of(data, ".shstrtab")
    raw = data[names.offset : names.offset + names.size]
    broken = patch(data, ".shstrtab", raw.index(b"\0.bss\0") + 1, b".data"[:4])
    assert kinds(members, broken, mapping)


def test_a_symbol_in_a_section_that_is_not_there_is_found(
    members: Members, merged: tuple[bytes, dict[str, Any]]
) -> None:
    data, mapping = merged
    assert kinds(members, patch(data, ".symtab", 24 + 6, b"\xf0\x0f"), mapping) == {"load"}


def test_a_function_name_in_a_wrong_place_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    model = load_model(data)
    row = next(n for n in range(len(model.symbol_value)) if model.name_of_symbol(n) == "top_work")
    assert "symbol" in kinds(members, flip(data, ".symtab", 24 * row + 8), mapping)


def test_a_function_without_its_symbol_is_found(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    strings = section_of(data, ".strtab")
    raw = data[strings.offset : strings.offset + strings.size]
    assert kinds(members, patch(data, ".strtab", raw.index(b"\0top_work") + 1, b"x"), mapping) == {"symbol"}


def test_the_glue_must_be_reached_from_struct_module(members: Members, merged: tuple[bytes, dict[str, Any]]) -> None:
    data, mapping = merged
    broken = first_row(data, ".gnu.linkonce.this_module", type=NONE_TYPE)
    assert "glue" in kinds(members, broken, mapping)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"name=megamod_test", b"name=megamod_tesT"), (b"license=GPL", b"license=MIT"), (b"intree=Y", b"intree=N")],
)
def test_a_changed_modinfo_line_is_found(
    members: Members, merged: tuple[bytes, dict[str, Any]], old: bytes, new: bytes
) -> None:
    data, mapping = merged
    raw = bytes(load_model(data).content(section_of(data, ".modinfo")))
    assert kinds(members, patch(data, ".modinfo", raw.index(old), new), mapping)


def test_a_member_that_compares_its_parameters_names_must_be_a_single() -> None:
    members = [("thinkpad_acpi", make_module("thinkpad_acpi"))]
    assert kinds(members, *merge(members)) == {"single"}


def test_a_proprietary_member_is_found(members: Members) -> None:
    closed = [(n, make_module("top", licence="Proprietary") if n == "top" else d) for n, d in members]
    assert "modinfo" in kinds(closed, *merge(closed))


def test_a_merge_by_the_linker_of_binutils_keeps_every_byte_and_reference(
    members: Members, tmp_path: Path, tool: Callable[..., str]
) -> None:
    linker = tool("ld", package="binutils")
    for name, data in members:
        (tmp_path / f"{name}.ko").write_bytes(data)
    files = [f"{name}.ko" for name, _ in members]
    # Every module defines init_module and __this_module; the first one wins, as it does for __this_module in a merge.
    command = [linker, "-r", "-z", "muldefs", "-m", "elf_x86_64", "-o", "all.ko", "-Map", "map", *files]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    mapping = mapping_from_linker((tmp_path / "map").read_text(), members)
    found = judge(members, (tmp_path / "all.ko").read_bytes(), mapping)
    assert len(mapping["chunks"]) >= 30
    # ld knows nothing of what the kernel does with tables, names and inits; what it does know must agree.
    assert {"glue", "parameter"} <= {d.kind for d in found}
    assert [d for d in found if d.kind in ("bytes", "reference", "lost", "extra", "overlap", "unwind")] == []


def mapping_from_linker(text: str, members: Members) -> dict[str, Any]:
    """A map in megamod's form from the linker's own, whose lines end in: input section, address, size, file."""
    words = text[text.index("Linker script and memory map") :].split()
    numbers = {f"{name}.ko": n for n, (name, _) in enumerate(members)}
    models = [load_model(data) for _, data in members]
    rebuilt = ("__versions", "__ksymtab_gpl", "__kcrctab_gpl", ".modinfo", ".gnu.linkonce.this_module", ".note.Linux")
    chunks, dropped = [], []
    for at in range(3, len(words)):
        if words[at] not in numbers or not words[at - 2].startswith("0x"):
            continue
        number, name = numbers[words[at]], words[at - 3]
        section = next((s for s in models[number].sections if s.name == name and s.alloc), None)
        if section is None:
            continue
        entry = {"member": number, "section": name, "index": section.index, "size": section.size}
        if name in rebuilt:
            dropped.append({**entry, "why": "rebuilt"})
        else:
            chunks.append({**entry, "output": name, "offset": int(words[at - 2], 16)})
    return {
        "version": 1,
        "name": "all",
        "options": {"unwind": "keep", "tracing": "keep", "symbols": "keep"},
        "members": [{"name": name, "init": True} for name, _ in members],
        "chunks": chunks,
        "dropped": dropped,
    }
