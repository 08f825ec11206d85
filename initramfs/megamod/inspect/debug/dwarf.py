"""DWARF of one module: an input section's offset → source lines, inlined functions included.

Needs the module's file with its debug information: a relocatable whose sections all begin at 0. So each section gets
an address of its own first, and the debug sections are relocated to these, as a debugger would do. Relocations are
applied here in bulk; pyelftools takes seconds for the hundred thousands of a large module.

Source: DWARF 5, 2.17 (addresses), 3.3.8 (inlined subroutines), 6.2 (lines); the psABI of each architecture.
"""

from __future__ import annotations

import io
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct.core import ConstructError
from elftools.elf.elffile import ELFFile

from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.elf import Array, align_up
from megamod.prelink.emit import BUILD_ID

_SHF_COMPRESSED = 0x800
# pyelftools does not check what it reads: damage shows as any of these.
_DAMAGE = (
    *(DWARFError, ELFError, ConstructError, struct.error, KeyError, IndexError, ValueError, AttributeError),
    *(TypeError, AssertionError, OverflowError, RecursionError, zlib.error),
)
_SCOPES = frozenset(["DW_TAG_subprogram", "DW_TAG_inlined_subroutine", "DW_TAG_lexical_block"])
_FIRST = 0x10000  # so that no section begins at 0, where what was dropped at link time lies
# machine → type → (what it does, bytes). Others, as of unwind tables, are not needed for lines.
_RELOCATIONS: dict[int, dict[int, tuple[str, int]]] = {
    elf.EM_X86_64: {1: ("set", 8), 10: ("set", 4), 11: ("set", 4)},
    elf.EM_AARCH64: {257: ("set", 8), 258: ("set", 4)},
    elf.EM_ARM: {2: ("set", 4)},
    elf.EM_RISCV: {
        **{1: ("set", 4), 2: ("set", 8), 54: ("set", 1), 55: ("set", 2), 56: ("set", 4)},
        **{33: ("add", 1), 34: ("add", 2), 35: ("add", 4), 36: ("add", 8)},
        **{37: ("sub", 1), 38: ("sub", 2), 39: ("sub", 4), 40: ("sub", 8)},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """A line of source; function is the one it belongs to, "" if not known. line 0: none is known."""

    function: str
    file: str
    line: int


@dataclass(frozen=True)
class DebugFile:
    """A module file with debug information; *source* is its name, for messages."""

    data: bytes
    source: str

    def lines(self, section: int, offset: int) -> list[SourceLine]:
        """The source of a byte of a section, by its index: the innermost inlined function first, the function that
        holds the byte last. Empty if there is no information about it."""
        base = self._bases.get(section)
        if base is None:
            return []
        try:
            return self._lines(base + offset)
        except _DAMAGE as error:
            raise MegamodError(f"{self.source}: debug information: {error or type(error).__name__}") from None

    @property
    def build_id(self) -> str:
        """The build id in hex, "" without one."""
        index = self.section_index(BUILD_ID)
        if index is None:
            return ""
        row = self._headers[index]
        return self.data[int(row["sh_offset"]) + 16 :][: max(int(row["sh_size"]) - 16, 0)].hex()

    @property
    def has_lines(self) -> bool:
        """Whether there is debug information in it at all."""
        return any(name in (".debug_info", ".zdebug_info") for name in self._names)

    def section_index(self, name: str) -> int | None:
        """The index of the first SHF_ALLOC section of that name."""
        names = self._names
        for index, row in enumerate(self._headers):
            if int(row["sh_flags"]) & elf.SHF_ALLOC and names[index] == name:
                return index
        return None

    def _lines(self, address: int) -> list[SourceLine]:
        unit = self._unit(address)
        if unit is None:
            return []
        file, line = self._row(unit, address)
        found: list[SourceLine] = []
        # From the outside in: each inlined call says where it is called from.
        for die in self._chain(unit, address):
            name = _name(die)
            if die.tag == "DW_TAG_inlined_subroutine" and found:
                call = die.attributes
                place = self._path(unit, call["DW_AT_call_file"].value) if "DW_AT_call_file" in call else file
                number = int(call["DW_AT_call_line"].value) if "DW_AT_call_line" in call else 0
                found[-1] = SourceLine(function=found[-1].function, file=place, line=number)
            found.append(SourceLine(function=name, file=file, line=line))
        return found[::-1] or ([SourceLine(function="", file=file, line=line)] if line else [])

    @cached_property
    def _table(self) -> tuple[Array, list[str]]:
        try:
            if self.data[:4] != b"\x7fELF":
                raise ValueError("not an ELF file")
            records = elf.CLASSES[self.data[4]]
            header = np.frombuffer(self.data, records.header, count=1)[0]
            count, start = int(header["e_shnum"]), int(header["e_shoff"])
            headers = np.frombuffer(self.data, records.section, count=count, offset=start)
            names = int(headers[int(header["e_shstrndx"])]["sh_offset"])
            return headers, [_text(self.data, names + int(row["sh_name"])) for row in headers]
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise MegamodError(f"{self.source}: no module: {error}") from None

    @property
    def _headers(self) -> Array:
        return self._table[0]

    @property
    def _names(self) -> list[str]:
        return self._table[1]

    @cached_property
    def _bases(self) -> dict[int, int]:
        return _bases(self._headers)

    @cached_property
    def _file(self) -> ELFFile:
        """The file with its symbols and debug sections relocated to `_bases`."""
        image = bytearray(self.data)
        records = elf.CLASSES[image[4]]
        machine = int(np.frombuffer(self.data, records.header, count=1)[0]["e_machine"])
        _relocate(image, self._headers, self._names, self._bases, records, machine)
        return ELFFile(io.BytesIO(image))

    @cached_property
    def _dwarf(self) -> Any:
        packed = any(
            name.startswith((".debug", ".zdebug")) and (int(row["sh_flags"]) & _SHF_COMPRESSED or name[1] == "z")
            for name, row in zip(self._names, self._headers, strict=True)
        )
        return self._file.get_dwarf_info(relocate_dwarf_sections=packed)

    @cached_property
    def _units(self) -> tuple[list[int], list[tuple[int, int, Any]]]:
        """The address ranges of all units, by start."""
        rows: list[tuple[int, int, Any]] = []
        for unit in self._dwarf.iter_CUs():
            if unit.header.get("unit_type", "DW_UT_compile") == "DW_UT_compile":
                rows += [(low, high, unit) for low, high in self._ranges(unit, unit.get_top_DIE())]
        rows.sort(key=lambda row: row[:2])
        return [row[0] for row in rows], rows

    def _unit(self, address: int) -> Any:
        if not self._file.has_dwarf_info():
            return None
        starts, rows = self._units
        number = int(np.searchsorted(starts, address, side="right")) - 1
        return rows[number][2] if number >= 0 and address < rows[number][1] else None

    def _ranges(self, unit: Any, die: Any) -> Iterator[tuple[int, int]]:
        attributes = die.attributes
        if "DW_AT_ranges" in attributes:
            start = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
            base = int(start.value) if start else 0
            ranges = self._dwarf.range_lists()
            offset = attributes["DW_AT_ranges"].value
            for entry in ranges.get_range_list_at_offset(offset, unit):
                if hasattr(entry, "base_address"):
                    base = int(entry.base_address)
                else:
                    shift = 0 if entry.is_absolute else base
                    yield entry.begin_offset + shift, entry.end_offset + shift
        elif "DW_AT_low_pc" in attributes and "DW_AT_high_pc" in attributes:
            low, high = int(attributes["DW_AT_low_pc"].value), attributes["DW_AT_high_pc"]
            yield low, int(high.value) + (0 if high.form == "DW_FORM_addr" else low)

    def _chain(self, unit: Any, address: int) -> Iterator[Any]:
        """The function around *address* and, from the outside in, what is inlined there."""
        parent = unit.get_top_DIE()
        while parent is not None:
            inner = None
            for die in parent.iter_children():
                if die.tag in _SCOPES and any(low <= address < high for low, high in self._ranges(unit, die)):
                    inner = die
                    break
            if inner is not None and inner.tag != "DW_TAG_lexical_block":
                yield inner
            parent = inner

    def _row(self, unit: Any, address: int) -> tuple[str, int]:
        """File and line of *address* by the unit's line table."""
        if unit.cu_offset not in self._tables:
            self._tables[unit.cu_offset] = sorted(self._rows(unit))
        rows = self._tables[unit.cu_offset]
        number = bisect_right(rows, address, key=lambda row: row[0]) - 1
        if number < 0 or address >= rows[number][1]:
            return "", 0
        return self._path(unit, rows[number][2]), rows[number][3]

    def _rows(self, unit: Any) -> Iterator[tuple[int, int, int, int]]:
        """(first address, end, number of file, line) of each row that covers anything."""
        program = self._dwarf.line_program_for_CU(unit)
        last = None
        for entry in program.get_entries() if program else ():
            state = entry.state
            if state is None:
                continue
            if last is not None and last.address < state.address:
                yield last.address, state.address, int(last.file), int(last.line)
            last = None if state.end_sequence else state

    @cached_property
    def _tables(self) -> dict[int, list[tuple[int, int, int, int]]]:
        return {}

    def _path(self, unit: Any, number: int) -> str:
        header = self._dwarf.line_program_for_CU(unit).header
        # The tables begin at 0 since DWARF 5.
        late = header["version"] >= 5
        files, folders = header["file_entry"], header["include_directory"]
        number -= not late
        if not 0 <= number < len(files):
            return ""
        entry = files[number]
        folder = entry["dir_index"] - (not late)
        name = _utf8(entry["name"])
        # Folder 0 is where the compiler ran; the kernel's own names are relative to the top of its source.
        where = folders[folder] if late <= folder < len(folders) else b""
        return _joined(_utf8(where), name)


def _name(die: Any) -> str:
    """The function's name, from the place where it is declared if need be."""
    for _ in range(4):
        if "DW_AT_name" in die.attributes:
            return _utf8(die.attributes["DW_AT_name"].value)
        link = next((a for a in ("DW_AT_abstract_origin", "DW_AT_specification") if a in die.attributes), None)
        if link is None:
            break
        die = die.get_DIE_from_attribute(link)
    return ""


def _joined(folder: str, name: str) -> str:
    path = name if name.startswith("/") or not folder else f"{folder}/{name}"
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] not in ("..", ""):
            parts.pop()
        elif part != "." and (part or not parts):
            parts.append(part)
    return "/".join(parts)


def _utf8(text: bytes | str) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")


def _text(data: bytes, at: int) -> str:
    return _utf8(data[at : data.index(b"\0", at)])


def _bases(headers: Array) -> dict[int, int]:
    """An address for each section that is loaded: index → start."""
    found, end = {}, _FIRST
    for index, row in enumerate(headers):
        if int(row["sh_flags"]) & elf.SHF_ALLOC:
            found[index] = align_up(end, 4096)
            end = found[index] + int(row["sh_size"])
    return found


def _relocate(
    image: bytearray, headers: Array, names: list[str], bases: dict[int, int], records: elf.Layouts, machine: int
) -> None:
    """Give each symbol its address, then the fields of the debug sections theirs."""
    tables = [row for row in headers if int(row["sh_type"]) == elf.SHT_SYMTAB]
    if len(tables) != 1:
        raise ValueError(f"{len(tables)} symbol tables")
    start, size = int(tables[0]["sh_offset"]), int(tables[0]["sh_size"])
    symbols = np.frombuffer(image, records.symbol, count=size // records.symbol.itemsize, offset=start).copy()
    shift = np.zeros(0x10000, symbols["st_value"].dtype)
    for index, base in bases.items():
        shift[index] = base
    symbols["st_value"] += shift[symbols["st_shndx"]]
    image[start : start + size] = symbols.tobytes()
    known = _RELOCATIONS.get(machine)
    if known is None:
        raise ValueError(f"ELF machine {machine} is not known")
    for row in headers:
        target = int(row["sh_info"])
        if int(row["sh_type"]) != records.table or target >= len(names) or not names[target].startswith(".debug"):
            continue
        if int(headers[target]["sh_flags"]) & _SHF_COMPRESSED:
            continue  # pyelftools unpacks and relocates these itself
        count = int(row["sh_size"]) // records.relocation.itemsize
        table = np.frombuffer(image, records.relocation, count=count, offset=int(row["sh_offset"])).copy()
        _apply(image, headers[target], table, symbols["st_value"], known)


def _apply(image: bytearray, target: Any, table: Array, values: Array, known: dict[int, tuple[str, int]]) -> None:
    in_place = table.dtype == elf.REL32
    kinds = table["r_info"] & 0xFF if in_place else table["r_type"]
    owners = table["r_info"] >> 8 if in_place else table["r_sym"]
    start, size = int(target["sh_offset"]), int(target["sh_size"])
    view = np.frombuffer(image, np.uint8)
    # On riscv64 a field is set or added to first and subtracted from afterwards, each by a relocation of its own.
    for wanted in ("set", "add", "sub"):
        for kind, (what, width) in known.items():
            rows = np.flatnonzero(kinds == kind)
            if what != wanted or not len(rows):
                continue
            offsets = table["r_offset"][rows].astype(np.int64)
            if int(owners[rows].max()) >= len(values) or int(offsets.max()) + width > size:
                raise ValueError("a relocation of a debug section is out of range")
            result = values[owners[rows]].astype(np.uint64)
            fields = start + offsets[:, None] + np.arange(width)
            scale = np.uint64(8) * np.arange(width, dtype=np.uint64)
            if not in_place:
                result += table["r_addend"][rows].astype(np.uint64)
            if in_place or what != "set":
                old = (view[fields].astype(np.uint64) << scale).sum(axis=1, dtype=np.uint64)
                result = old - result if what == "sub" else old + result
            view[fields] = (result[:, None] >> scale).astype(np.uint8)
