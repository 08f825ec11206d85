"""Member: one module as the passes see it, its tables as arrays that may be indexed without looking at bounds."""

from __future__ import annotations

from dataclasses import dataclass

from megamod.prelink.arch.interface import Architecture
from megamod.prelink.elf import Array, Section
from megamod.prelink.exports import Export


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One module as the later passes see it.

    symbols: SYM64 records; imports: symbol index → name for undefined ones; relas: (target section, RELA64 records).
    versions: name → CRC of every imported symbol; init: (section, value) of its init function, None if it has
    none; init_at: the offset in struct module of the pointer to it.
    refused: why it cannot be merged although the kernel may load it, without the file's name; None for a member that
    passed all checks (read.py).
    """

    name: str
    file: str
    architecture: Architecture
    machine: int
    e_flags: int
    sections: tuple[Section, ...]
    symbols: Array
    strings: bytes
    relas: tuple[tuple[int, Array], ...]
    modinfo: tuple[tuple[str, str], ...]
    versions: dict[str, int]
    has_versions: bool
    has_extended_versions: bool
    imports: dict[int, str]
    weak_imports: frozenset[int]
    exports: tuple[Export, ...]
    init: tuple[int, int] | None
    init_at: int | None
    this_module: int
    name_offset: int
    refused: str | None = None

    def info(self, key: str) -> str | None:
        """The first value of *key* in .modinfo, as the kernel's get_modinfo() reads it."""
        return next((value for found, value in self.modinfo if found == key), None)

    def infos(self, key: str) -> list[str]:
        """Every value of *key* in .modinfo, in file order."""
        return [value for found, value in self.modinfo if found == key]

    def section(self, name: str) -> Section | None:
        """The first SHF_ALLOC section of that name, as the kernel's find_sec() finds it."""
        return next((s for s in self.sections if s.name == name and s.alloc), None)

    def symbol_name(self, index: int) -> str:
        """The name of a symbol; bytes that are not UTF-8 are shown escaped."""
        return string_at(self.strings, int(self.symbols["st_name"][index]))


def string_at(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode("utf-8", "backslashreplace")
