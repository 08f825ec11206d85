"""Kernel modules made in memory for tests, in a line or two each, and finished files read back.

`Ko("disk")` is a module of an amd64 kernel like Debian's 6.1: an init that returns 0, .modinfo, __versions and struct
module. Methods add to it; sections can be changed by hand; `bytes()` writes the file. `link()` runs the whole prelink,
`Back` looks at a finished file through pyelftools.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from megamod.common.errors import MegamodError
from megamod.prelink.link import Megamodule, prelink
from megamod.prelink.member import Member
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member

VERMAGIC = "6.1.0-test SMP preempt mod_unload modversions "
LAYOUT_CRC = 0x11223344
GLUE_IMPORTS = {
    "param_array_ops": 0xA1,
    "param_ops_int": 0xA2,
    "ktime_get": 0xA3,
    "param_ops_ulong": 0xA4,
    "kernel_param_lock": 0xA5,
    "kernel_param_unlock": 0xA6,
    "msleep": 0xA7,
}
ALLOC, WRITE, EXEC = 2, 1, 4
PROGBITS, NOTE, NOBITS = 1, 7, 8
R_NONE, R_64, R_PC32, R_PLT32, R_32, R_32S, R_PC64 = 0, 1, 2, 4, 10, 11, 24
POINTERS = {183: 257}  # arm64's name for R_64
LOCAL, GLOBAL, WEAK = 0, 1, 2
NOTYPE, OBJECT, FUNC, SECTION = 0, 1, 2, 3
UNDEF, ABS, COMMON = 0, 0xFFF1, 0xFFF2
# struct module of 6.1 amd64 as far as a file shows it: name, init and exit pointers, size.
NAME_AT, INIT_AT, EXIT_AT, MODULE_SIZE = 24, 312, 848, 896
RETURN_ZERO = bytes.fromhex("f30f1efa 31c0 c3")


@dataclass(eq=False, slots=True)
class Sec:
    """An input section. size is set for NOBITS only; relocs: (offset, type, symbol, addend)."""

    name: str
    data: bytearray
    flags: int
    kind: int
    align: int
    entsize: int
    size: int | None
    relocs: list[tuple[int, int, Sym, int]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Sym:
    """A symbol; home is its section or one of UNDEF, ABS, COMMON."""

    name: str
    home: Sec | int
    value: int
    size: int
    bind: int
    kind: int


class Ko:
    """One module. versions=False: a kernel without CONFIG_MODVERSIONS. init=None: a library."""

    def __init__(
        self,
        name: str,
        *,
        init: bytes | None = RETURN_ZERO,
        info: Mapping[str, str | None] = {},
        versions: bool = True,
        machine: int = 62,
        e_type: int = 1,
        module_size: int = MODULE_SIZE,
    ) -> None:
        self.name, self.machine, self.e_type = name, machine, e_type
        self.sections: list[Sec] = []
        self.symbols: list[Sym] = []
        self.crcs: dict[str, int] | None = {"module_layout": LAYOUT_CRC} if versions else None
        self.extended = False
        entries = {"license": "GPL", "intree": "Y", "name": name, "vermagic": VERMAGIC, **info}
        self.modinfo = [(key, value) for key, value in entries.items() if value is not None]
        self.text = self.section(".text", bytes.fromhex("90" * 16), flags=ALLOC | EXEC, align=16)
        self.data = self.section(".data", bytes(16), flags=ALLOC | WRITE, align=8)
        self.rodata = self.section(".rodata", bytes(8), align=8)
        self.this = self.section(".gnu.linkonce.this_module", flags=ALLOC | WRITE, align=64)
        self.this.data += bytes(NAME_AT) + name.encode() + bytes(module_size - NAME_AT - len(name.encode()))
        self.symbol("__this_module", self.this, kind=OBJECT, size=module_size)
        if init is not None:
            self.init = self.section(".init.text", init, flags=ALLOC | EXEC, align=16)
            pointer = POINTERS.get(machine, R_64)
            self.reloc(self.this, INIT_AT, pointer, self.symbol("init_module", self.init, kind=FUNC, size=len(init)))

    # Pieces of a file

    def section(
        self,
        name: str,
        data: bytes = b"",
        *,
        flags: int = ALLOC,
        kind: int = PROGBITS,
        align: int = 1,
        entsize: int = 0,
        size: int | None = None,
    ) -> Sec:
        """Add a section, always a new one; with *size* it holds no bytes (SHT_NOBITS)."""
        made = Sec(name, bytearray(data), flags, NOBITS if size is not None else kind, align, entsize, size)
        self.sections.append(made)
        return made

    def __getitem__(self, name: str) -> Sec:
        return next(s for s in self.sections if s.name == name)

    def get(self, name: str, *, flags: int = ALLOC, align: int = 1) -> Sec:
        """The section of that name, made if there is none."""
        return next((s for s in self.sections if s.name == name), None) or self.section(name, flags=flags, align=align)

    def symbol(
        self, name: str, home: Sec | int, value: int = 0, *, size: int = 0, bind: int = GLOBAL, kind: int = NOTYPE
    ) -> Sym:
        made = Sym(name, home, value, size, bind, kind)
        self.symbols.append(made)
        return made

    def at(self, section: Sec) -> Sym:
        """The section's own symbol."""
        found = next((s for s in self.symbols if s.home is section and s.kind == SECTION), None)
        return found or self.symbol("", section, bind=LOCAL, kind=SECTION)

    def reloc(self, section: Sec, offset: int, kind: int, symbol: Sym | Sec, addend: int = 0) -> None:
        section.relocs.append((offset, kind, symbol if isinstance(symbol, Sym) else self.at(symbol), addend))

    # What modules have

    def wants(self, name: str, crc: int | None = 0x77, *, bind: int = GLOBAL) -> Sym:
        """An import; crc None leaves its version entry out."""
        found = next((s for s in self.symbols if s.name == name and s.home == UNDEF), None)
        if self.crcs is not None and crc is not None:
            self.crcs[name] = crc
        return found or self.symbol(name, UNDEF, bind=bind)

    def calls(self, name: str, crc: int | None = 0x77, *, bind: int = GLOBAL) -> Ko:
        """``call name`` appended to .text."""
        self.reloc(self.text, len(self.text.data) + 1, R_PLT32, self.wants(name, crc, bind=bind), -4)
        self.text.data += b"\xe8\0\0\0\0"
        return self

    def exports(
        self, name: str, crc: int | None = 0x99, *, gpl: bool = False, namespace: str = "", crc_symbol: bool = False
    ) -> Ko:
        """EXPORT_SYMBOL of a new function; crc_symbol: as an absolute symbol, as up to 5.18."""
        suffix = "_gpl" if gpl else ""
        function = self.symbol(name, self.text, len(self.text.data), kind=FUNC, size=16)
        self.text.data += bytes.fromhex("c3" + "cc" * 15)
        strings, table = self.get("__ksymtab_strings"), self.get(f"__ksymtab{suffix}", align=4)
        at = len(table.data)
        table.data += bytes(12)
        self.reloc(table, at, R_PC32, function)
        for number, text in enumerate([name, namespace] if namespace else [name]):
            self.reloc(table, at + 4 + 4 * number, R_PC32, strings, len(strings.data))
            strings.data += text.encode() + b"\0"
        if crc is not None:
            words = self.get(f"__kcrctab{suffix}", align=4)
            words.data += bytes(4) if crc_symbol else struct.pack("<I", crc)
            if crc_symbol:
                self.reloc(words, len(words.data) - 4, R_32, self.symbol(f"__crc_{name}", ABS, crc))
        return self

    def param(self, name: str, *, ops: str = "param_ops_int", value: int = 0) -> Ko:
        """module_param() of an int in .data."""
        table = self.get("__param", align=8)
        at = len(table.data)
        table.data += struct.pack("<QQQHbBxxxxQ", 0, 0, 0, 0o644, -1, 0, 0)
        self.reloc(table, at, R_64, self.rodata, len(self.rodata.data))
        self.rodata.data += name.encode() + b"\0"
        self.reloc(table, at + 8, R_64, next(s for s in self.symbols if s.name == "__this_module"))
        self.reloc(table, at + 16, R_64, self.wants(ops, GLUE_IMPORTS.get(ops, 0x78)))
        self.reloc(table, at + 32, R_64, self.data, len(self.data.data))
        self.data.data += struct.pack("<i", value)
        return self

    def orc(self, entries: Iterable[tuple[int, bytes]], section: Sec | None = None) -> Ko:
        """ORC entries (offset in *section* or .text, 6 bytes of state)."""
        states, places = self.get(".orc_unwind"), self.get(".orc_unwind_ip")
        for offset, state in entries:
            self.reloc(places, len(places.data), R_PC32, section or self.text, offset)
            places.data += bytes(4)
            states.data += state
        return self

    def glue_imports(self) -> Ko:
        """Imports everything that the glue wants, so that its parameters exist."""
        for name, crc in GLUE_IMPORTS.items():
            self.wants(name, crc)
        return self

    # The file

    def __bytes__(self) -> bytes:
        rows = [_Row(s.name, s.kind, s.flags, bytes(s.data), s.align, s.entsize, s.size) for s in self.sections]
        body = b"".join(f"{key}={value}".encode() + b"\0" for key, value in self.modinfo)
        rows.append(_Row(".modinfo", PROGBITS, ALLOC, body))
        if self.crcs is not None:
            short = {name: crc for name, crc in self.crcs.items() if len(name) < 56 or not self.extended}
            body = b"".join(struct.pack("<Q56s", crc, name.encode()) for name, crc in short.items())
            rows.append(_Row("__versions", PROGBITS, ALLOC, body, 32))
            if self.extended:
                words = struct.pack(f"<{len(self.crcs)}I", *self.crcs.values())
                rows.append(_Row("__version_ext_crcs", PROGBITS, ALLOC, words, 4))
                names = b"".join(name.encode() + b"\0" for name in self.crcs)
                rows.append(_Row("__version_ext_names", PROGBITS, ALLOC, names))
        ordered = sorted(self.symbols, key=lambda s: s.bind != LOCAL)
        number = {id(symbol): index for index, symbol in enumerate(ordered, start=1)}
        home = {id(section): index for index, section in enumerate(self.sections, start=1)}
        related = [s for s in self.sections if s.relocs]
        symtab = len(rows) + len(related) + 1
        for section in related:
            body = b"".join(struct.pack("<QIIq", o, t, number[id(s)], a) for o, t, s, a in section.relocs)
            rows.append(_Row(f".rela{section.name}", 4, 64, body, 8, 24, link=symtab, info=home[id(section)]))
        strings, table = bytearray(1), bytearray(24)
        for s in ordered:
            shndx = s.home if isinstance(s.home, int) else home[id(s.home)]
            at = len(strings) if s.name else 0
            table += struct.pack("<IBBHQQ", at, s.bind << 4 | s.kind, 0, shndx, s.value, s.size)
            strings += s.name.encode() + b"\0" if s.name else b""
        local = 1 + sum(s.bind == LOCAL for s in ordered)
        rows.append(_Row(".symtab", 2, 0, bytes(table), 8, 24, link=symtab + 1, info=local))
        rows.append(_Row(".strtab", 3, 0, bytes(strings)))
        return _write(rows, self.machine, self.e_type)


@dataclass(slots=True)
class _Row:
    name: str
    kind: int
    flags: int
    body: bytes
    align: int = 1
    entsize: int = 0
    size: int | None = None
    link: int = 0
    info: int = 0


def _write(rows: list[_Row], machine: int, e_type: int) -> bytes:
    names = b"\0" + b"".join(row.name.encode() + b"\0" for row in rows) + b".shstrtab\0"
    out, headers, name_at = bytearray(64), bytearray(64), 1
    for row in [*rows, _Row(".shstrtab", 3, 0, names)]:
        out += bytes(-len(out) % max(row.align, 1)) if row.align <= 4096 else b""
        size = len(row.body) if row.size is None else row.size
        fields = (name_at, row.kind, row.flags, 0, len(out), size, row.link, row.info, row.align, row.entsize)
        headers += struct.pack("<IIQQQQIIQQ", *fields)
        out += row.body
        name_at += len(row.name.encode()) + 1
    out += bytes(-len(out) % 8)
    count = len(headers) // 64
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    out[:64] = ident + struct.pack(
        "<HHIQQQIHHHHHH", e_type, machine, 1, 0, 0, len(out), 0, 64, 0, 0, 64, count, count - 1
    )
    return bytes(out + headers)


def read(*modules: Ko) -> list[Member]:
    """Members of modules, each with the file name ``NAME.ko``."""
    return [read_member(bytes(ko), file=f"{ko.name}.ko") for ko in modules]


def link(
    *modules: Ko,
    ranks: Mapping[str, tuple[int, int]] | None = None,
    after: Mapping[str, Iterable[str]] | None = None,
    donors: Mapping[str, int] | None = None,
    **options: Any,
) -> Megamodule:
    """The whole prelink, as `megamod_test` if not named otherwise."""
    chosen = PrelinkOptions(**{"name": "megamod_test", **options})
    wishes = {name: tuple(names) for name, names in (after or {}).items()}
    return prelink(read(*modules), chosen, ranks=ranks, after=wishes, donors=donors)


class Back:
    """A finished file, as pyelftools sees it."""

    def __init__(self, data: bytes) -> None:
        self.elf: Any = ELFFile(io.BytesIO(data))
        self.names = [s.name for s in self.elf.iter_sections()]

    def __getitem__(self, name: str) -> bytes:
        return bytes(self.elf.get_section_by_name(name).data())

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def header(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.elf.get_section_by_name(name).header
        return found

    def symbols(self) -> list[Any]:
        return list(self.elf.get_section_by_name(".symtab").iter_symbols())

    def relocs(self, name: str) -> dict[int, tuple[int, str, int]]:
        """offset → (type, name of the target section or symbol, addend with the symbol's value)."""
        table = self.elf.get_section_by_name(f".rela{name}")
        symbols = self.symbols()
        found = {}
        for row in table.iter_relocations() if table is not None else ():
            symbol = symbols[row["r_info_sym"]]
            shndx = symbol["st_shndx"]
            target = self.names[shndx] if isinstance(shndx, int) else symbol.name
            found[row["r_offset"]] = (row["r_info_type"], target, row["r_addend"] + symbol["st_value"])
        return found

    def text(self, name: str, offset: int) -> str:
        return self[name][offset:].split(b"\0", 1)[0].decode()

    def modinfo(self) -> list[tuple[str, str]]:
        parts = (entry.decode().partition("=") for entry in self[".modinfo"].split(b"\0") if entry)
        return [(key, value) for key, _, value in parts]

    def exports(self, table: str = "__ksymtab") -> list[tuple[str, tuple[str, int], int | None]]:
        """(name, place of the value, CRC) in the table's order."""
        rows, crcs = self.relocs(table), table.replace("ksymtab", "kcrctab")
        words = struct.unpack(f"<{len(self[crcs]) // 4}I", self[crcs]) if crcs in self else None
        found = []
        for entry in range(len(self[table]) // 12):
            _, home, value = rows[12 * entry]
            _, strings, at = rows[12 * entry + 4]
            found.append((self.text(strings, at), (home, value), words[entry] if words else None))
        return found

    def params(self) -> list[str]:
        rows = self.relocs("__param")
        return [self.text(*rows[at][1:]) for at in sorted(rows) if at % 40 == 0]

    def versions(self) -> dict[str, int]:
        rows = struct.iter_unpack("<Q56s", self["__versions"])
        return {name.rstrip(b"\0").decode(): crc for crc, name in rows}


def error_of(*modules: Ko, **options: Any) -> str:
    """The line with which linking *modules* is refused."""
    with pytest.raises(MegamodError) as caught:
        link(*modules, **options)
    return str(caught.value)


def blob(name: str, section: str, data: bytes, *, flags: int = ALLOC, align: int = 1) -> Ko:
    """A module with one more section."""
    ko = Ko(name)
    ko.section(section, data, flags=flags, align=align)
    return ko
