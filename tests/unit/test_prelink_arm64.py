"""arm64: what is resolved at build time reads right in a disassembler, what the kernel must do is left to it, and what
cannot be reached is an error that names the place."""

from __future__ import annotations

import struct
from dataclasses import replace

import capstone
import pytest

from megamod.common.errors import MegamodError
from megamod.prelink.arch.arm64 import ARM64
from megamod.prelink.link import prelink
from megamod.prelink.options import PrelinkOptions
from tests.unit.module_factory import ALLOC, EXEC, WRITE, Back, Ko, link, read

ADRP, ADD, LDR64, BL, B_EQ, CBZ, TBZ, NOP = (
    0x90000000, 0x91000000, 0xF9400000, 0x94000000, 0x54000000, 0x34000000, 0x36000000, 0xD503201F,
)  # fmt: skip
R_ADRP, R_ADD_LO12, R_TSTBR14, R_CONDBR19, R_JUMP26, R_CALL26, R_LDST64_LO12 = 275, 277, 279, 280, 282, 283, 286
RETURN = bytes.fromhex("3f2303d5 00008052 bf2303d5 c0035fd6")  # paciasp; mov w0, #0; autiasp; ret


def board(name: str, *words: int) -> Ko:
    """A module of an arm64 kernel whose .text is these instructions."""
    ko = Ko(name, init=RETURN, machine=183)
    ko.text.data[:] = struct.pack(f"<{len(words)}I", *words)
    for placeholder in (".plt", ".init.plt", ".text.ftrace_trampoline"):
        ko.section(placeholder, b"\0", flags=ALLOC | EXEC)
    return ko


def text_of(*modules: Ko) -> list[str]:
    data = Back(link(*modules).data)
    engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    return [f"{found.mnemonic} {found.op_str}" for found in engine.disasm(data[".text"], 0)]


def error_of(*modules: Ko) -> str:
    with pytest.raises(MegamodError) as caught:
        link(*modules)
    return str(caught.value)


def test_a_call_of_another_member_is_resolved_and_leaves_no_relocation():
    lib = board("lib", NOP, NOP, NOP, NOP).exports("helper")
    lib["__ksymtab"].relocs = [(at, 261, symbol, addend) for at, _kind, symbol, addend in lib["__ksymtab"].relocs]
    lib.text.data[16:] = struct.pack("<4I", *[NOP] * 4)
    user = board("user", NOP, BL)
    user.reloc(user.text, 4, R_CALL26, user.wants("helper", 0x99))
    lines = text_of(lib, user)
    # lib's text is 32 bytes, the function at 16; user's call stands at 36.
    assert lines[9] == "bl #0x10"
    assert Back(link(lib, user).data).relocs(".text") == {}


def test_an_addresss_low_half_is_known_and_its_high_half_the_kernels():
    ko = board("disk", ADRP | 1, LDR64 | 1 << 5, ADD | 1 << 5)
    ko.data.data += bytes(4000)
    target = ko.symbol("where", ko.data, 0xF18)
    ko.reloc(ko.text, 0, R_ADRP, target)
    ko.reloc(ko.text, 4, R_LDST64_LO12, target)
    ko.reloc(ko.text, 8, R_ADD_LO12, target)
    back = Back(link(ko).data)
    assert text_of(ko)[1:3] == ["ldr x0, [x1, #0xf18]", "add x0, x1, #0xf18"]
    assert back.header(".data")["sh_addralign"] == 4096
    assert {row[0] for row in back.relocs(".text").values()} == {R_ADRP}


@pytest.mark.parametrize(("at", "left"), [(0xFF0, False), (0xFF8, True), (0xFFC, True), (0x1000, False)])
def test_a_page_address_where_erratum_843419_hits_is_left_to_the_kernel(at, left):
    ko = board("disk", *[NOP] * 2048)
    struct.pack_into("<I", ko.text.data, at, ADRP)
    ko.reloc(ko.text, at, R_ADRP, ko.text, 0x1100)
    assert (at in Back(link(ko).data).relocs(".text")) is left


def test_per_processor_data_keeps_its_alignment():
    ko = board("disk", ADRP, ADD)
    percpu = ko.section(".data..percpu", bytes(16), flags=ALLOC | WRITE, align=8)
    ko.reloc(ko.text, 0, R_ADRP, percpu, 8)
    ko.reloc(ko.text, 4, R_ADD_LO12, percpu, 8)
    back = Back(link(ko).data)
    assert back.header(".data..percpu")["sh_addralign"] == 8
    assert {row[0] for row in back.relocs(".text").values()} == {R_ADRP, R_ADD_LO12}


@pytest.mark.parametrize(
    ("word", "kind", "reach"), [(B_EQ, R_CONDBR19, 1 << 20), (CBZ, R_CONDBR19, 1 << 20), (TBZ, R_TSTBR14, 1 << 15)]
)
def test_a_short_branch_that_does_not_reach_is_refused_with_its_place(word, kind, reach):
    ko = board("disk", word, *[NOP] * (reach // 4))
    ko.reloc(ko.text, 0, kind, ko.text, reach)
    name = {R_CONDBR19: "CONDBR19", R_TSTBR14: "TSTBR14"}[kind]
    message = error_of(ko)
    assert message.startswith(f"disk.ko: .text+0x0: {name} against .text+{reach:#x}: value {reach} not in [-{reach},")
    ko.text.relocs = []
    ko.reloc(ko.text, 0, kind, ko.text, reach - 4)
    assert text_of(ko)[0].endswith(f"#{reach - 4:#x}")


def test_a_short_branch_into_another_section_is_refused():
    ko = board("disk", B_EQ)
    ko.reloc(ko.text, 0, R_CONDBR19, ko.init, 0)
    assert "disk.ko: .text+0x0: CONDBR19 against .init.text: a short branch out of its section" in error_of(ko)


def test_a_branch_to_half_an_instruction_is_refused():
    ko = board("disk", BL, NOP, NOP)
    ko.reloc(ko.text, 0, R_CALL26, ko.text, 6)
    assert "value 6 is not a multiple of 4" in error_of(ko)


def test_too_large_a_text_is_refused_by_the_name_of_the_largest_member():
    small, large = board("small", *[NOP] * 4), board("large", *[NOP] * 512)
    members = [replace(ko, architecture=replace(ARM64, text_limit=1024)) for ko in read(small, large)]
    with pytest.raises(MegamodError, match=r"^large\.ko: with it \.text has 2064 bytes of code; a branch of arm64"):
        prelink(members, PrelinkOptions(name="megamod_test"))


def test_members_of_two_architectures_are_refused():
    assert error_of(board("one", NOP), Ko("two")).startswith("two.ko: built for x86_64, one.ko for arm64")


def test_the_placeholders_that_the_kernel_fills_are_there_once():
    back = Back(link(board("one", NOP), board("two", NOP)).data)
    for name in (".plt", ".init.plt", ".text.ftrace_trampoline"):
        assert back[name] == b"\0"
        assert back.names.count(name) == 1


def test_the_glue_starts_as_the_members_inits_do():
    back = Back(link(board("disk", NOP)).data)
    (row,) = back.relocs(".gnu.linkonce.this_module").values()
    assert back[".init.text"][row[2] :][:4] == RETURN[:4]
