"""Pass 3c, compact: which ORC entries no return address, WARN or fixup can use (``unwind: compact``).

Needs: a member. Guarantees: the unwind state at every address that a stack walk through calls looks up is what
the whole table gives. An entry covers the bytes up to the next one; the kernel looks up the last byte of a call
(arch/x86/kernel/unwind_orc.c unwind_next_frame(): ip - 1 unless the frame is an exception's) or the address of a ud2 or
of an instruction with a fixup. So an entry may go if

* it covers fewer than 5 bytes, the length of a direct call, and none of them can be an indirect call or a ud2, and no
  __bug_table, __ex_table or .altinstructions address lies there (what an alternative puts there is not seen here); or
* it marks the padding after a function (an all-zero entry over NOPs and int3 only); or
* it says the same as the entry before it that stays.

What is given up: an interrupt that hits inside a prologue or epilogue sees the frame of its neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from megamod.prelink import elf
from megamod.prelink.elf import Array, Section
from megamod.prelink.member import Member

_CALL_SIZE = 5
# Bytes that the padding of functions consists of: int3 and the NOPs of 1 to 11 bytes. Neither call nor ud2 is in it.
_PADDING = np.zeros(256, bool)
_PADDING[[0xCC, 0x90, 0x66, 0x2E, 0x0F, 0x1F, 0x40, 0x44, 0x80, 0x84, 0x00]] = True
_PADDING.setflags(write=False)


def entries_to_keep(member: Member, home: Array, address: Array, state: Array) -> Array:
    """Per entry of *member*, whether it stays. home, address: section and offset it points to; state: its bytes."""
    kept = np.ones(len(home), bool)
    wanted = _wanted(member)
    # Integers are compared at once, structures one by one.
    halves = state.view("<u2").reshape(-1, 3).astype(np.uint64)
    whole = halves[:, 0] | halves[:, 1] << np.uint64(16) | halves[:, 2] << np.uint64(32)
    order = np.lexsort((address, home))
    for rows in np.split(order, np.flatnonzero(np.diff(home[order])) + 1) if len(order) else ():
        index = int(home[rows[0]])
        section = member.sections[index]
        kept[rows] = _kept_in(section, address[rows], whole[rows], wanted.get(index, np.empty((0, 2), np.int64)))
    return kept


def _kept_in(section: Section, address: Array, state: Array, wanted: Array) -> Array:
    """For the entries of one code section, sorted by address: which stay."""
    code = np.frombuffer(section.data, np.uint8)
    end = np.append(address[1:], section.size)
    if section.size > len(code):  # code without bytes
        return np.ones(len(address), bool)
    short = end - address < _CALL_SIZE
    gone = short & (_count(_trapping(code), address, end) == 0)
    zero = np.flatnonzero(state == 0)
    if len(zero):
        start, stop = address[zero], end[zero]
        others = np.flatnonzero(~_PADDING[code])
        gone[zero] |= _count(others, start, stop) == 0
    # Addresses that are looked up exactly, as [first, last] byte.
    first = np.searchsorted(address, wanted[:, 0], side="right") - 1
    last = np.searchsorted(address, wanted[:, 1], side="right") - 1
    for low, high in zip(first.tolist(), last.tolist(), strict=True):
        gone[max(low, 0) : high + 1] = False
    # The first entry keeps this section's code apart from what lies before it.
    gone[:1] = False
    stays = np.flatnonzero(~gone)
    repeats = np.zeros(len(stays), bool)
    repeats[1:] = state[stays][1:] == state[stays][:-1]
    gone[stays[repeats]] = True
    kept: Array = ~gone
    return kept


def _count(places: Array, start: Array, end: Array) -> Array:
    """How many of *places*, which are sorted, lie in each [start, end)."""
    counts: Array = np.searchsorted(places, end) - np.searchsorted(places, start)
    return counts


def _trapping(code: Array) -> Array:
    """Where an indirect call (FF /2, FF /3) or a ud2 (0F 0B) could start, whatever instruction the bytes belong to."""
    calls, traps = np.flatnonzero(code[:-1] == 0xFF), np.flatnonzero(code[:-1] == 0x0F)
    operation = (code[calls + 1] >> 3) & 7
    found: Array = np.sort(np.concatenate((calls[(operation == 2) | (operation == 3)], traps[code[traps + 1] == 0x0B])))
    return found


def _wanted(member: Member) -> dict[int, Array]:
    """Per code section, [first, last] of every place that __bug_table, __ex_table or .altinstructions names."""
    found: dict[int, list[tuple[int, int]]] = {}
    for target, rows in member.relas:
        section = member.sections[target]
        if section.name not in ("__bug_table", "__ex_table", ".altinstructions"):
            continue
        lengths = _alternative_lengths(section, rows) if section.name == ".altinstructions" else {}
        for offset, _kind, symbol, addend in rows.tolist():
            home = int(member.symbols["st_shndx"][symbol])
            if not 0 < home < len(member.sections) or not member.sections[home].sh_flags & elf.SHF_EXECINSTR:
                continue
            at = int(member.symbols["st_value"][symbol]) + addend
            found.setdefault(home, []).append((at, at + max(lengths.get(offset, 1), 1) - 1))
    return {home: np.array(sorted(spans), np.int64) for home, spans in found.items()}


def _alternative_lengths(section: Section, rows: Array) -> Mapping[int, int]:
    """Offset of each entry's site field → bytes that are replaced. struct alt_instr ends in instrlen, replacementlen
    (12 and 14 bytes) or instrlen, replacementlen, padlen (13 bytes, up to 5.x); arch/x86/include/asm/alternative.h."""
    entries = len(rows) // 2
    if not entries or section.size % entries:
        return {}
    size = section.size // entries
    at = size - 3 if size == 13 else size - 2
    return {entry * size: section.data[entry * size + at] for entry in range(entries)}
