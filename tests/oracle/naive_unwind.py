"""The naive merge's sorted unwind table, and the code that settles it: as simple as it can be, and not the prelinker's.

What the code has to do is written in settle.py; here each group of entries has a loop of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.model import SHF_ALLOC, SHF_EXEC, SHF_RO_AFTER_INIT, SHF_WRITE, Model
from tests.oracle.tables import SORTED_UNWIND, unwind_table
from tests.oracle.write import Object

WHY = "sorted into the glue's table"
GLUE_ENTRIES = 4
_PC32 = 2
_NAME_END = 80
_LEA = {"rax": "488d05", "rcx": "488d0d", "rdx": "488d15", "rsi": "488d35", "rdi": "488d3d"}
_LEA |= {"r9": "4c8d0d", "r10": "4c8d15"}

Entry = tuple[int, int, int]  # output section, offset, state


@dataclass(slots=True)
class SortedTable:
    """The members' entries, and where the table lies in the output."""

    entries: list[Entry]
    ips: int
    states: int


def gather(
    models: Sequence[Model], out: Object, chunks: list[dict[str, Any]], gone: Callable[[int, int], bool]
) -> SortedTable:
    """Reserves the two sections. gone: (member, entry) that is left out."""
    places = {(c["member"], c["index"]): c for c in chunks if c["member"] >= 0}
    home_of = {s.name: n for n, s in enumerate(out.sections)}
    entries: list[Entry] = []
    for number, model in enumerate(models):
        table, _ = unwind_table(model)
        rows = zip(table.home.tolist(), table.offset.tolist(), table.data.tolist(), strict=True)
        for entry, (home, offset, state) in enumerate(rows):
            chunk = places[(number, home)]
            if not gone(number, entry):
                entries.append((home_of[chunk["output"]], chunk["offset"] + offset, state))
    ips, states = (
        out.section(name, flags=SHF_ALLOC | SHF_WRITE | SHF_RO_AFTER_INIT, align=4) for name in SORTED_UNWIND
    )
    return SortedTable(entries, ips, states)


def groups_of(out: Object, table: SortedTable, text: int) -> list[tuple[int, int]]:
    """Output section and number of entries, in the table's order. text: the section of the glue."""
    homes = [home for home, _, _ in table.entries] + [text] * GLUE_ENTRIES
    names = [n for n, s in enumerate(out.sections) if s.flags & SHF_EXEC and n in homes]
    return [(n, homes.count(n)) for n in sorted(names, key=lambda n: (_init(out, n), n))]


def fill(out: Object, table: SortedTable, own: Sequence[Entry], chunks: list[dict[str, Any]]) -> None:
    """Writes the gap and the entries. own: the glue's, GLUE_ENTRIES of them."""
    entries = sorted([*table.entries, *own], key=lambda e: (_init(out, e[0]), e[0], e[1], e[2] >> 32 != 0))
    gap = sum(_init(out, home) for home, _, _ in entries)
    out.sections[table.ips].data += bytes(4 * gap) + b"".join(at.to_bytes(4, "little") for _, at, _ in entries)
    out.sections[table.states].data += bytes(6 * gap) + b"".join(s.to_bytes(6, "little") for _, _, s in entries)
    for number in (table.ips, table.states):
        section = out.sections[number]
        chunks.append({"member": -1, "section": "glue", "output": section.name, "offset": 0, "size": len(section.data)})


def _init(out: Object, number: int) -> bool:
    return out.sections[number].name.startswith(".init")


@dataclass(slots=True)
class _Code:
    out: Object
    home: int
    start: int
    code: bytearray = field(default_factory=bytearray)
    open: dict[str, list[int]] = field(default_factory=dict)

    def add(self, text: str, *words: int) -> None:
        self.code += bytes.fromhex(text) + b"".join((word & 0xFFFFFFFF).to_bytes(4, "little") for word in words)

    def lea(self, register: str, section: int, offset: int) -> None:
        self.add(_LEA[register], 0)
        symbol = self.out.symbol("", section, offset)
        place = self.start + len(self.code) - 4
        self.out.sections[self.home].relocations.append((place, _PC32, symbol, -4))

    def jump(self, text: str, label: str) -> None:
        self.add(text, 0)
        self.open.setdefault(label, []).append(len(self.code))

    def land(self, label: str) -> None:
        for after in self.open.pop(label, []):
            self.code[after - 4 : after] = (len(self.code) - after).to_bytes(4, "little")

    def back(self, text: str, to: int) -> None:
        self.code += bytes.fromhex(text) + (to - len(self.code) - 2).to_bytes(1, "little", signed=True)


def settle_code(
    out: Object, table: SortedTable, where: tuple[int, int], groups: Sequence[tuple[int, int]], this_size: int
) -> bytes:
    """Searches struct module for the small table and puts the sorted one in its place.

    where: section and offset of the code; this_size: bytes of struct module.
    """
    number = {s.name: n for n, s in enumerate(out.sections)}
    asm = _Code(out, *where)
    total = sum(count for _, count in groups)
    init = sum(count for home, count in groups if _init(out, home))
    asm.lea("rax", number[".gnu.linkonce.this_module"], _NAME_END)
    asm.lea("rcx", number[".orc_unwind_ip"], 0)
    asm.lea("rdx", number[".orc_unwind"], 0)
    asm.add("be", (this_size - _NAME_END) // 8 - 2)  # mov esi, places
    top = len(asm.code)
    asm.add("48394808")  # cmp [rax + 8], rcx
    asm.jump("0f85", "next")  # jne
    asm.add("48395010")  # cmp [rax + 16], rdx
    asm.jump("0f85", "next")
    asm.add("8138", GLUE_ENTRIES)  # cmp dword [rax], own
    asm.jump("0f84", "found")  # je
    asm.land("next")
    asm.add("4883c008ffce")  # add rax, 8; dec esi
    asm.back("75", top)  # jne
    asm.jump("e9", "out")  # jmp
    asm.land("found")
    at = init
    for home, count in groups:
        asm.lea("r9", home, 0)
        asm.lea("rdi", table.ips, 4 * at)
        asm.add("b9", count)  # mov ecx, count
        top = len(asm.code)
        # mov esi, [rdi]; add rsi, r9; sub rsi, rdi; mov [rdi], esi; add rdi, 4; dec ecx
        asm.add("8b374c01ce4829fe89374883c704ffc9")
        asm.back("75", top)
        at += count
    _move(asm, table, groups, init, total)
    asm.add("4889480848895010")  # mov [rax + 8], rcx; mov [rax + 16], rdx
    asm.add("c700", total)  # mov dword [rax], total
    asm.land("out")
    return bytes(asm.code)


def _move(asm: _Code, table: SortedTable, groups: Sequence[tuple[int, int]], init: int, total: int) -> None:
    """rcx and rdx: addresses and states of the table; it starts behind the gap, or in it if init code comes first."""
    asm.lea("rcx", table.ips, 4 * init)
    asm.lea("rdx", table.states, 6 * init)
    asm.lea("r9", groups[-1][0], 0)
    asm.lea("r10", groups[0][0], 0)
    asm.add("4d39d1")  # cmp r9, r10
    asm.jump("0f83", "above")  # jae
    asm.lea("rsi", table.ips, 4 * total)
    asm.lea("rdi", table.ips, 0)
    asm.add("b9", init)
    top = len(asm.code)
    asm.add("8b1681c2", 4 * total)  # mov edx, [rsi]; add edx, 4 * total
    asm.add("89174883c6044883c704ffc9")  # mov [rdi], edx; add rsi, 4; add rdi, 4; dec ecx
    asm.back("75", top)
    asm.lea("rsi", table.states, 6 * total)
    asm.lea("rdi", table.states, 0)
    asm.add("b9", 6 * init)
    asm.add("f3a4")  # rep movsb
    asm.lea("rcx", table.ips, 0)
    asm.lea("rdx", table.states, 0)
    asm.land("above")
