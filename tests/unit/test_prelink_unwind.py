"""The one sorted unwind table: which entries are in it, and in which form. oracle/settle.py runs what installs it."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.unit.module_factory import ALLOC, EXEC, VERMAGIC, WRITE, Back, Ko, error_of, link

START, DEEPER, END = b"\x08\0\0\0\x15\x10", b"\x10\0\0\0\x15\x10", bytes(6)
RO_AFTER_INIT = 0x200000  # include/uapi/linux/elf.h
OWN = 12  # entries of the glue


def table(back: Back) -> list[tuple[int, bytes]]:
    """(distance from the section's start, state) of each entry, with the gap."""
    distances = np.frombuffer(back[".orc_unwind_ip.sorted"], "<u4").tolist()
    states = back[".orc_unwind.sorted"]
    assert len(states) == 6 * len(distances)
    return [(at, states[6 * n : 6 * n + 6]) for n, at in enumerate(distances)]


def test_entries_are_in_code_order_after_a_gap_for_those_of_init_code() -> None:
    one = Ko("one").orc([(8, DEEPER), (0, START), (16, END)])
    one.orc([(0, START)], one.init)
    two = Ko("two").orc([(0, START), (4, DEEPER)])
    exit_code = two.section(".exit.text", bytes(16), flags=ALLOC | EXEC, align=16)
    two.orc([(2, START)], exit_code)
    back = Back(link(one, two).data)
    entries = table(back)
    gap = 1 + OWN
    assert entries[:gap] == [(0, END)] * gap
    # .text: 16 bytes of each member; an undefined entry before a real one of the same address; then .exit.text.
    core = [(0, START), (8, DEEPER), (16, END), (16, START), (20, DEEPER), (2, START)]
    assert entries[gap : gap + len(core)] == core
    init = entries[gap + len(core) :]
    assert init[0] == (0, START)
    assert [at for at, _ in init] == sorted(at for at, _ in init)
    assert len(init) == gap


def test_the_kernel_is_given_the_entries_of_the_glue_only() -> None:
    back = Back(link(Ko("one").orc([(0, START), (8, DEEPER), (16, END)])).data)
    assert {target for _, target, _ in back.relocs(".orc_unwind_ip").values()} == {".init.text"}
    assert len(back[".orc_unwind_ip"]) == 4 * OWN
    assert len(back[".orc_unwind"]) == 6 * OWN
    for name in (".orc_unwind_ip.sorted", ".orc_unwind.sorted"):
        assert back.relocs(name) == {}
        assert back.header(name)["sh_flags"] == ALLOC | WRITE | RO_AFTER_INIT


def test_exit_code_is_left_out_where_the_kernel_cannot_unload_modules() -> None:
    def made(vermagic: str) -> list[tuple[int, bytes]]:
        ko = Ko("one", info={"vermagic": vermagic}).orc([(0, START)])
        return table(Back(link(ko.orc([(2, START)], ko.section(".exit.text", bytes(8), flags=ALLOC | EXEC))).data))

    assert "mod_unload" in VERMAGIC
    assert len(made(VERMAGIC)) == len(made(VERMAGIC.replace("mod_unload ", ""))) + 1


def test_a_library_alone_keeps_the_kernels_form_as_no_glue_is_called() -> None:
    library = Ko("one", init=None).orc([(0, START), (8, DEEPER), (16, END)])
    back = Back(link(library, results=False).data)
    assert len(back.relocs(".orc_unwind_ip")) == 3
    assert ".orc_unwind_ip.sorted" not in back


@pytest.mark.parametrize("unwind", ["keep", "compact"])
def test_an_entry_for_data_is_refused(unwind: str) -> None:
    ko = Ko("one").orc([(0, START)])
    assert error_of(ko.orc([(0, START)], ko.data), unwind=unwind) == "one.ko: .orc_unwind_ip: entry 1 points to no code"


def test_an_entry_without_an_address_is_refused() -> None:
    ko = Ko("one").orc([(0, START)])
    ko[".orc_unwind"].data += START
    ko[".orc_unwind_ip"].data += struct.pack("<i", 0)
    assert error_of(ko) == "one.ko: .orc_unwind_ip: entry 1 points nowhere"
