"""A module made in memory: collects sections, symbols and relocations, and becomes a Member like one that was read.

Source of the structures: include/linux/moduleparam.h, struct kernel_param and struct kparam_array (the same since 4.x).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from megamod.prelink import elf
from megamod.prelink.arch.interface import Architecture
from megamod.prelink.elf import EXIDX, Section
from megamod.prelink.member import Member
from megamod.prelink.struct_module import THIS_MODULE


@dataclass(slots=True)
class Builder:
    """Collects sections, symbols and relocations of the glue."""

    architecture: Architecture
    names: list[str] = field(default_factory=lambda: [""])
    copies: dict[str, Section] = field(default_factory=dict)
    writable: set[str] = field(default_factory=lambda: {".data", THIS_MODULE})
    written_once: set[str] = field(default_factory=set)
    code: set[str] = field(default_factory=set)
    data: list[bytearray] = field(default_factory=lambda: [bytearray()])
    # st_name, st_shndx, st_info, st_size, st_value
    symbols: list[tuple[int, int, int, int, int]] = field(default_factory=lambda: [(0, 0, 0, 0, 0)])
    strings: bytearray = field(default_factory=lambda: bytearray(1))
    imports: dict[str, int] = field(default_factory=dict)
    section_symbols: dict[int, int] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)  # by what code calls them
    relas: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)

    def add(self, name: str) -> int:
        self.names.append(name)
        self.data.append(bytearray())
        index = len(self.names) - 1
        self.symbols.append((0, index, elf.STT_SECTION, 0, 0))
        self.section_symbols[index] = len(self.symbols) - 1
        return index

    def copy(self, section: Section) -> None:
        """A section with the contents and the header of a member's."""
        self.add(section.name)
        self.buffer(section.name)[:] = section.data
        self.copies[section.name] = section

    def index(self, name: str) -> int:
        return self.names.index(name)

    def buffer(self, name: str) -> bytearray:
        return self.data[self.index(name)]

    def undefined(self, name: str) -> int:
        """The symbol of a kernel import."""
        if name not in self.imports:
            self.imports[name] = self.symbol(name)
        return self.imports[name]

    def symbol(self, name: str, shndx: int = elf.SHN_UNDEF, info: int = 0, size: int = 0, value: int = 0) -> int:
        self.symbols.append((len(self.strings), shndx, info, size, value))
        self.strings += name.encode() + b"\0"
        return len(self.symbols) - 1

    def relocate(self, section: str, offset: int, kind: int, symbol: int, addend: int = 0) -> None:
        self.relas.setdefault(self.index(section), []).append((offset, kind, symbol, addend))

    def point(self, section: str, offset: int, target: str, addend: int, kind: int | None = None) -> None:
        """Relocate *section*+*offset* against a section of the glue, by default with a pointer."""
        kind = self.architecture.pointer if kind is None else kind
        self.relocate(section, offset, kind, self.section_symbols[self.index(target)], addend)

    def text(self, value: str) -> int:
        """Add a string to .rodata and give its offset."""
        rodata = self.buffer(".rodata")
        offset = len(rodata)
        rodata += value.encode() + b"\0"
        return offset

    def parameter(self, name: str, permission: int, array: int) -> None:
        """A struct kernel_param with param_array_ops over the kparam_array at .rodata+*array*."""
        word = self.architecture.word
        at = self._parameter(name, permission)
        self.relocate("__param", at + 2 * word, self.architecture.pointer, self.undefined("param_array_ops"))
        self.point("__param", len(self.buffer("__param")) - word, ".rodata", array)

    def parameter_with_setter(self, name: str, permission: int, setter: int) -> None:
        """A struct kernel_param that is set by the function at .text+*setter*, and cannot be read."""
        rodata, word = self.buffer(".rodata"), self.architecture.word
        at = self._parameter(name, permission)
        rodata += bytes(-len(rodata) % 8)
        operations = len(rodata)
        rodata += bytes(4 * word)  # struct kernel_param_ops: flags, set, get, free
        self.point(".rodata", operations + word, ".text", setter)
        self.point("__param", at + 2 * word, ".rodata", operations)

    def _parameter(self, name: str, permission: int) -> int:
        """A struct kernel_param without operations and argument; its offset."""
        table, word = self.buffer("__param"), self.architecture.word
        at = len(table)
        table += bytes(3 * word) + struct.pack("<HbB", permission, -1, 0)
        table += bytes(-len(table) % word + word)
        self.point("__param", at, ".rodata", self.text(name))
        self.point("__param", at + word, THIS_MODULE, 0)
        return at

    def array(self, elements: int, size: int, operations: str, data: int, count: int | None) -> int:
        """A struct kparam_array in .rodata over .data+*data*; *count* is where the kernel stores how many were set."""
        rodata, word = self.buffer(".rodata"), self.architecture.word
        rodata += bytes(-len(rodata) % 8)
        at = len(rodata)
        rodata += struct.pack("<II", elements, size) + bytes(3 * word)
        if count is not None:
            self.point(".rodata", at + 8, ".data", count)
        self.relocate(".rodata", at + 8 + word, self.architecture.pointer, self.undefined(operations))
        self.point(".rodata", at + 8 + 2 * word, ".data", data)
        return at

    def build(self, name: str, this_module: int, crcs: Mapping[str, int]) -> Member:
        sections = tuple(self._section(index) for index in range(len(self.names)))
        table = np.zeros(len(self.symbols), elf.SYM64)
        for column, values in zip(
            ("st_name", "st_shndx", "st_info", "st_size", "st_value"), zip(*self.symbols, strict=True), strict=True
        ):
            table[column] = values
        relas = tuple(
            (target, np.array([(o, t, s, a) for o, t, s, a in rows], elf.RELA64))
            for target, rows in sorted(self.relas.items())
        )
        imported = {symbol: text for text, symbol in self.imports.items()}
        return Member(
            name=name,
            file="glue",
            architecture=self.architecture,
            machine=self.architecture.machine,
            e_flags=0,
            sections=sections,
            symbols=table,
            strings=bytes(self.strings),
            relas=relas,
            modinfo=(),
            versions={text: crcs[text] for text in self.imports if text in crcs},
            has_versions=False,
            has_extended_versions=False,
            imports=imported,
            weak_imports=frozenset(),
            exports=(),
            init=None,
            init_at=None,
            this_module=this_module,
            name_offset=0,
        )

    def _section(self, index: int) -> Section:
        name = self.names[index]
        if name in self.copies:
            data = memoryview(bytes(self.data[index]))
            return replace(self.copies[name], index=index, sh_link=0, sh_info=0, data=data)
        kind = elf.SHT_NOTE if name.startswith(".note.") else elf.SHT_PROGBITS
        if name.startswith(EXIDX):
            kind = elf.SHT_ARM_EXIDX
        code = name in (".text", ".init.text") or name in self.code
        flags = elf.SHF_EXECINSTR if code else elf.SHF_WRITE if name in self.writable else 0
        if name in self.written_once:
            flags |= elf.SHF_WRITE | elf.SHF_RO_AFTER_INIT
        align = {
            ".text": 16,
            ".init.text": 16,
            THIS_MODULE: 64,
            ".return_sites": 1,
            ".cfi_sites": 1,
            ".orc_unwind": 1,
            ".orc_unwind_ip": 1,
            **dict.fromkeys(self.code, 16),
        }
        return Section(
            index=index,
            name=name,
            sh_type=kind if index else elf.SHT_NULL,
            sh_flags=(elf.SHF_ALLOC | flags) if index else 0,
            size=len(self.data[index]),
            sh_link=self.index(name.removeprefix(EXIDX) or ".text") if kind == elf.SHT_ARM_EXIDX else 0,
            sh_info=0,
            sh_addralign=align.get(name, 1 if name == ".modinfo" else 4 if kind == elf.SHT_NOTE else 8),
            sh_entsize=0,
            data=memoryview(bytes(self.data[index])),
        )
