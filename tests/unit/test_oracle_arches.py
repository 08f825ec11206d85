"""On arm64, riscv64 and arm too the oracle accepts what the prelinker makes, and finds every kind of damage to it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from megamod.prelink.link import prelink
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member
from tests.oracle import judge, load_model
from tests.oracle.arch import signed
from tests.oracle.arches import BY_NAME
from tests.oracle.edit import Row, edit_relocations, flip, patch, section_of, swap
from tests.oracle.fabricate_arches import make_arch_module
from tests.oracle.model import SHF_EXEC, Model, gather, scatter

ARCHES = ["arm64", "riscv64", "arm"]
CALLS = {"arm64": 283, "riscv64": 19, "arm": 28}
Members = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Made:
    """Members and what the prelinker made of them."""

    machine: str
    members: Members
    data: bytes
    mapping: dict[str, Any]

    def kinds(self, data: bytes, mapping: dict[str, Any] | None = None) -> set[str]:
        return {d.kind for d in judge(self.members, data, mapping or self.mapping)}

    def chunk(self, member: str, section: str) -> dict[str, Any]:
        number = [m["name"] for m in self.mapping["members"]].index(member)
        return next(c for c in self.mapping["chunks"] if c["member"] == number and c["section"] == section)

    @property
    def glue(self) -> dict[str, Any]:
        return next(c for c in self.mapping["chunks"] if c["member"] < 0 and c["output"] == ".init.text")

    def types(self, section: str) -> list[Row]:
        found: list[Row] = []
        edit_relocations(self.data, section, lambda _, row: found.append(row) or row)  # type: ignore[func-returns-value]
        return found


def make(machine: str, **options: Any) -> Made:
    members = [
        ("core", make_arch_module(machine, "core", exports={"core_add": 0xC0DE, "core_del": 0xC0DF}, namespace="CORE")),
        (
            "disk",
            make_arch_module(
                machine, "disk", exports={"disk_read": 0xD15C}, imports={"core_add": 0xC0DE}, namespace="CORE"
            ),
        ),
        ("top", make_arch_module(machine, "top", imports={"disk_read": 0xD15C, "core_del": 0xC0DF}, namespace="CORE")),
    ]
    chosen = PrelinkOptions(**{"name": "megamod_test", "tracing": "keep", "unwind": "keep", **options})
    made = prelink([read_member(data, file=f"{name}.ko") for name, data in members], chosen)
    return Made(machine, members, made.data, made.map)


@pytest.fixture(scope="module", params=ARCHES)
def made(request: pytest.FixtureRequest) -> Made:
    return make(request.param)


@pytest.mark.parametrize("machine", [*ARCHES, "thumb"])
@pytest.mark.parametrize("tracing", ["off", "keep"])
@pytest.mark.parametrize("unwind", ["drop", "keep"])
def test_what_the_prelinker_makes_has_no_differences(machine: str, tracing: str, unwind: str) -> None:
    made = make(machine, tracing=tracing, unwind=unwind)
    assert judge(made.members, made.data, made.mapping) == []


def place_of_call(made: Made, member: str, number: int) -> tuple[int, Model]:
    """Offset in the megamodule's .text of a call of the member's first function."""
    model = load_model(dict(made.members)[member])
    text = model.find(".text")
    assert text is not None
    rows = np.arange(len(model.place))[model.rows(text)]
    calls = rows[model.kind[rows] == BY_NAME[made.machine].code[CALLS[made.machine]]]
    return int(made.chunk(member, ".text")["offset"] + model.place[calls[number]]), load_model(made.data)


def last_call(made: Made) -> int:
    """The call of the member's own function: the last one before the next function begins."""
    return 2 if made.machine == "arm" else 1


def edited_word(made: Made, section: str, place: int, target: int) -> bytes:
    """The file with a call at place resolved to a target in the same section."""
    form = BY_NAME[made.machine].fields[CALLS[made.machine]]
    home = section_of(made.data, section)
    content = np.frombuffer(made.data, np.uint8)[home.offset : home.offset + home.size].copy()
    at = np.array([place])
    words = gather(content, at, form.width)
    scatter(content, at, form.width, form.apply(words, np.array([target]), at))
    return patch(made.data, section, 0, content.tobytes())


def test_a_resolved_call_that_leads_elsewhere_is_found(made: Made) -> None:
    place, _ = place_of_call(made, "core", last_call(made))
    bias = 8 if made.machine == "arm" else 0
    function = made.chunk("core", ".text")["offset"]

    def drop(_: int, row: Row) -> Row:
        return (row[0], 0, 0, 0) if row[0] == place and row[1] == CALLS[made.machine] else row

    solved = edit_relocations(edited_word(made, ".text", place, function - bias), ".text", drop)
    assert made.kinds(solved) == set()
    wrong = edit_relocations(edited_word(made, ".text", place, function - bias + 8), ".text", drop)
    assert made.kinds(wrong) == {"bytes"}


def test_a_relocation_that_went_missing_is_found(made: Made) -> None:
    place, _ = place_of_call(made, "top", last_call(made) - 1)
    gone = edit_relocations(made.data, ".text", lambda _, r: (r[0], 0, 0, 0) if r[0] == place else r)
    assert "lost" in made.kinds(gone)


@pytest.mark.parametrize("section", [".text", ".data", "__bug_table", "__param", "__ksymtab_gpl"])
def test_a_changed_addend_is_found(made: Made, section: str) -> None:
    # The last one of a member; the glue's are looked at in test_oracle_resume.py.
    ours = [(c["offset"], c["size"]) for c in made.mapping["chunks"] if c["member"] < 0 and c["output"] == section]
    theirs = [row for row in made.types(section) if not any(0 <= row[0] - at < size for at, size in ours)]
    row = max(theirs, key=lambda r: r[0])
    if BY_NAME[made.machine].rel:
        form = BY_NAME[made.machine].fields[row[1]]
        home = section_of(made.data, section)
        damaged = flip(made.data, section, row[0], 4)
        assert form.mask & 4 and row[0] < home.size
    else:
        last = row
        damaged = edit_relocations(made.data, section, lambda _, r: (*r[:3], r[3] + 4) if r == last else r)
    assert made.kinds(damaged)


def test_a_reference_to_another_symbol_is_found(made: Made) -> None:
    place, model = place_of_call(made, "top", last_call(made) - 1)
    other = next(
        n
        for n in range(len(model.symbol_value))
        if model.symbol_section[n] == 0 and model.name_of_symbol(n) == "ktime_get"
    )
    moved = edit_relocations(made.data, ".text", lambda _, r: (r[0], r[1], other, r[3]) if r[0] == place else r)
    assert "reference" in made.kinds(moved)


def test_another_type_for_the_same_target_is_found(made: Made) -> None:
    first = next(row for row in made.types(".data"))
    other = {"arm64": 260, "riscv64": 57, "arm": 3}[made.machine]
    damaged = edit_relocations(made.data, ".data", lambda _, r: (r[0], other, *r[2:]) if r == first else r)
    assert made.kinds(damaged) & {"reference", "load"}


def test_a_wrong_export_crc_is_found(made: Made) -> None:
    assert made.kinds(flip(made.data, "__kcrctab_gpl", 4)) == {"exports"}


def test_exchanged_entries_of_the_export_table_are_found(made: Made) -> None:
    size = 3 * BY_NAME[made.machine].ksym_field
    texts = [d.text for d in judge(made.members, swap(made.data, "__ksymtab_gpl", 0, size, size), made.mapping)]
    assert any("not sorted" in text for text in texts)


def test_exchanged_entries_of_the_bug_table_are_found(made: Made) -> None:
    assert made.kinds(swap(made.data, "__bug_table", 0, 12, 12))


def test_a_missing_version_is_found(made: Made) -> None:
    word = BY_NAME[made.machine].word
    assert made.kinds(patch(made.data, "__versions", word, b"x")) == {"versions"}


@pytest.mark.parametrize("section", [".text", ".init.text", ".rodata", "__param"])
def test_one_turned_bit_of_a_member_is_found(made: Made, section: str) -> None:
    chunk = made.chunk("disk", section)
    at = {"__param": BY_NAME[made.machine].param_perm}.get(section, chunk["size"] - 1)
    assert made.kinds(flip(made.data, section, chunk["offset"] + at, 0x40))


def test_a_missing_placeholder_is_found(made: Made) -> None:
    if made.machine == "riscv64":
        return  # Debian's kernels have no CONFIG_MODULE_SECTIONS, and no such sections
    names = section_of(made.data, ".shstrtab")
    raw = made.data[names.offset : names.offset + names.size]
    broken = patch(made.data, ".shstrtab", raw.index(b"\0.plt\0") + 1, b".PLT")
    assert "placement" in made.kinds(broken)


def test_other_flags_of_the_abi_are_found(made: Made) -> None:
    at = 36 if BY_NAME[made.machine].bits == 32 else 48
    assert made.kinds(made.data[:at] + bytes([made.data[at] ^ 4]) + made.data[at + 1 :]) == {"identity"}


# The glue


def glue_calls(made: Made) -> list[tuple[int, int]]:
    """(place, target) of the calls of members' inits in the glue, in order, both in .init.text."""
    model = load_model(made.data)
    home = section_of(made.data, ".init.text")
    content = np.frombuffer(made.data, np.uint8)[home.offset : home.offset + home.size]
    form = BY_NAME[made.machine].fields[CALLS[made.machine]]
    found = []
    for at in range(made.glue["offset"], made.glue["offset"] + made.glue["size"] - form.width + 1, 4):
        word = gather(content, np.array([at]), form.width)
        value = int(word[0])
        if made.machine == "arm64" and value >> 26 == 0x25:
            target = at + 4 * int(signed(word, 26)[0])
        elif made.machine == "arm" and value >> 24 == 0xEB:
            target = at + 8 + 4 * int(signed(word, 24)[0])
        elif made.machine == "riscv64" and value & 0xFFF == 0x97 and value >> 32 & 0xFFFFF == 0x80E7:
            upper = int(signed(word & np.uint64(0xFFFFF000), 32)[0])
            target = at + upper + int(signed(word >> np.uint64(52), 12)[0])
        else:
            continue
        row = model.row_at(home, at)
        if row is None:
            found.append((at, target))
        elif int(model.symbol_section[model.symbol[row]]) == home.index:
            found.append((at, int(model.symbol_value[model.symbol[row]] + model.addend[row]) + form_bias(made)))
    return found


def form_bias(made: Made) -> int:
    return 8 if made.machine == "arm" else 0


def redirect(made: Made, call: tuple[int, int], other: tuple[int, int]) -> bytes:
    """The file with one call of the glue going where another one goes, by its relocation or as a resolved one."""
    rows = {row[0]: row for row in made.types(".init.text") if row[1] == CALLS[made.machine]}
    if call[0] not in rows:
        return edited_word(made, ".init.text", call[0], other[1] - form_bias(made))
    target = rows[other[0]][2:]
    return edit_relocations(made.data, ".init.text", lambda _, r: (*r[:2], *target) if r == rows[call[0]] else r)


def exchange(made: Made, first: tuple[int, int], second: tuple[int, int]) -> bytes:
    """The file with the targets of two calls of the glue exchanged."""
    half = Made(made.machine, made.members, redirect(made, first, second), made.mapping)
    rows = {row[0]: row for row in made.types(".init.text")}
    if first[0] not in rows:
        return redirect(half, second, first)
    target = rows[first[0]][2:]
    return edit_relocations(half.data, ".init.text", lambda _, r: (*r[:2], *target) if r == rows[second[0]] else r)


def test_two_exchanged_calls_of_the_glue_are_found(made: Made) -> None:
    calls = glue_calls(made)
    assert len(calls) == 3
    assert "order" in made.kinds(exchange(made, calls[0], calls[1]))


def test_an_init_called_twice_is_found(made: Made) -> None:
    calls = glue_calls(made)
    texts = [d.text for d in judge(made.members, redirect(made, calls[1], calls[0]), made.mapping)]
    assert any("never called" in text for text in texts) and any("twice" in text for text in texts)


def test_glue_that_does_not_return_zero_is_found(made: Made) -> None:
    zero, one = {
        "arm64": ("00008052", "20008052"),  # mov w0, #0 and #1
        "riscv64": ("13050000", "13051000"),  # li a0, 0 and 1
        "arm": ("0000a0e3", "0100a0e3"),  # mov r0, #0 and #1
    }[made.machine]
    home = section_of(made.data, ".init.text")
    code = made.data[home.offset : home.offset + home.size]
    at = code.rindex(bytes.fromhex(zero), 0, made.glue["offset"] + made.glue["size"])
    assert made.kinds(patch(made.data, ".init.text", at, bytes.fromhex(one))) == {"glue"}


def test_glue_that_calls_an_init_whose_provider_failed_is_found(made: Made) -> None:
    home = section_of(made.data, ".init.text")
    code = made.data[home.offset : home.offset + home.size]
    inverted = []
    for at in range(made.glue["offset"], made.glue["offset"] + made.glue["size"] - 3, 4):
        word = int.from_bytes(code[at : at + 4], "little")
        other = {
            # b.ne → b.eq; bne → beq; bne → beq
            "arm64": word ^ 1 if word & 0xFF00001F == 0x54000001 else word,
            "riscv64": word ^ 1 << 12 if word & 0x707F == 0x1063 else word,
            "arm": word ^ 1 << 28 if word >> 24 == 0x1A else word,
        }[made.machine]
        if other != word:
            inverted.append(patch(made.data, ".init.text", at, other.to_bytes(4, "little")))
    assert inverted
    assert all("glue" in made.kinds(data) for data in inverted)


def test_glue_that_leaves_a_register_changed_is_found() -> None:
    made = make("arm64")
    home = section_of(made.data, ".init.text")
    code = made.data[home.offset : home.offset + home.size]
    at = code.rindex(bytes.fromhex("f35341a9"))  # ldp x19, x20, [sp, #16]
    assert made.kinds(patch(made.data, ".init.text", at, bytes.fromhex("1f2003d5"))) == {"glue"}


def test_glue_without_a_landing_pad_is_found_where_members_have_one() -> None:
    made = make("arm64")
    texts = [
        d.text
        for d in judge(
            made.members, patch(made.data, ".init.text", made.glue["offset"], b"\x1f\x20\x03\xd5"), made.mapping
        )
    ]
    assert any("landing pad" in text for text in texts)


# What one architecture alone has


def header_of(data: bytes, name: str) -> int:
    """File offset of an ELF64 section header."""
    start = int.from_bytes(data[40:48], "little")
    return start + 64 * section_of(data, name).index


def test_arm64_page_fields_are_resolved_only_in_page_aligned_sections() -> None:
    made = make("arm64")
    at = header_of(made.data, ".text") + 48
    for align in (8, 2048):
        loose = made.data[:at] + align.to_bytes(8, "little") + made.data[at + 8 :]
        assert "lost" in made.kinds(loose)


def test_arm64_adrp_at_the_end_of_a_page_must_be_left_to_the_kernel() -> None:
    core = make_arch_module("arm64", "core", padding=0xFC0)
    model = load_model(core)
    text = model.find(".text")
    assert text is not None
    own = [
        r
        for r in range(len(model.place))
        if model.kind[r] == 275 and model.symbol_section[model.symbol[r]] == text.index
    ]
    core = make_arch_module("arm64", "core", padding=0xFC0 + 0xFF8 - int(model.place[own[0]]) % 4096)
    made = prelink([read_member(core, file="core.ko")], PrelinkOptions(name="megamod_test"))
    left = [row for row in Made("arm64", [], made.data, made.map).types(".text") if row[0] % 4096 == 0xFF8]
    assert [row[1] for row in left] == [275] and judge([("core", core)], made.data, made.map) == []
    gone = edit_relocations(made.data, ".text", lambda _, r: (r[0], 0, 0, 0) if r == left[0] else r)
    assert {d.kind for d in judge([("core", core)], gone, made.map)} == {"erratum"}


def test_riscv64_low_part_without_its_high_part_is_found() -> None:
    made = make("riscv64")
    high = next(row for row in made.types(".text") if row[1] == 23)
    gone = edit_relocations(made.data, ".text", lambda _, r: (r[0], 0, 0, 0) if r == high else r)
    texts = [d.text for d in judge(made.members, gone, made.mapping)]
    assert any("no HI20 in its table" in text for text in texts)


def test_riscv64_sum_with_one_part_missing_is_found() -> None:
    made = make("riscv64")
    part = next(row for row in made.types("__bug_table") if row[1] == 39)
    gone = edit_relocations(made.data, "__bug_table", lambda _, r: (r[0], 0, 0, 0) if r == part else r)
    assert "lost" in made.kinds(gone)


def test_riscv64_sum_over_bytes_that_are_not_zero_is_found() -> None:
    made = make("riscv64")
    part = next(row for row in made.types("__bug_table") if row[1] == 39)
    assert "load" in made.kinds(patch(made.data, "__bug_table", part[0], b"\1"))


def test_arm_exchanged_unwind_entries_are_found() -> None:
    made = make("arm")
    assert "unwind" in made.kinds(swap(made.data, ".ARM.exidx", 0, 8, 8))


def test_arm_trace_call_must_become_the_kernels_own_nop() -> None:
    made = make("arm", tracing="off")
    at = made.chunk("core", ".text")["offset"] + 4
    home = section_of(made.data, ".text")
    assert made.data[home.offset + at : home.offset + at + 4] == bytes.fromhex("04d08de2")
    assert "bytes" in made.kinds(patch(made.data, ".text", at, bytes.fromhex("00f020e3")))
    assert SHF_EXEC & home.flags
