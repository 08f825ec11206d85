"""Verify: a good file passes, and each kind of damage to a finished one is refused with what is wrong."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from typing import Any

import pytest

from megamod.common.errors import MegamodError
from megamod.prelink.link import Megamodule
from megamod.prelink.verify.checks import verify
from tests.unit.module_factory import ALLOC, EXEC, INIT_AT, R_64, R_PC32, WRITE, Ko, link

ORC = b"\x08\0\x15\x10\0\0"


class Edit:
    """A finished file and its map, to be damaged."""

    def __init__(self, megamodule: Megamodule) -> None:
        self.data = bytearray(megamodule.data)
        self.map: dict[str, Any] = copy.deepcopy(megamodule.map)
        (self.shoff,) = struct.unpack_from("<Q", self.data, 40)
        count, strndx = struct.unpack_from("<HH", self.data, 60)
        rows = [struct.unpack_from("<IIQQQQIIQQ", self.data, self.shoff + 64 * n) for n in range(count)]
        self.names_at = rows[strndx][4]
        names = bytes(self.data[self.names_at :])
        self.rows = {names[row[0] :].split(b"\0", 1)[0].decode(): (n, row) for n, row in enumerate(rows)}

    def at(self, section: str) -> int:
        return int(self.rows[section][1][4])

    def size(self, section: str) -> int:
        return int(self.rows[section][1][5])

    def put(self, section: str, offset: int, new: bytes) -> None:
        self.data[self.at(section) + offset : self.at(section) + offset + len(new)] = new

    def header(self, section: str, field: str, value: int) -> None:
        offset, form = {
            "type": (4, "<I"), "flags": (8, "<Q"), "offset": (24, "<Q"), "size": (32, "<Q"), "link": (40, "<I"),
            "info": (44, "<I"), "align": (48, "<Q"),
        }[field]  # fmt: skip
        struct.pack_into(form, self.data, self.shoff + 64 * self.rows[section][0] + offset, value)

    def rename(self, section: str, new: str) -> None:
        assert len(new) == len(section)
        at = self.names_at + self.rows[section][1][0]
        self.data[at : at + len(new)] = new.encode()

    def row(self, section: str, offset: int) -> int:
        """File offset of the relocation at *offset* of a section."""
        table = self.at(f".rela{section}")
        for at in range(table, table + self.size(f".rela{section}"), 24):
            if struct.unpack_from("<Q", self.data, at)[0] == offset:
                return at
        raise KeyError(offset)

    def relocation(self, section: str, at: int, **fields: int) -> None:
        found = self.row(section, at)
        places = {"offset": (0, "<Q"), "type": (8, "<I"), "symbol": (12, "<I"), "addend": (16, "<q")}
        for name, value in fields.items():
            struct.pack_into(places[name][1], self.data, found + places[name][0], value)

    def swap(self, section: str, one: int, other: int, size: int) -> None:
        a, b = self.at(section) + one, self.at(section) + other
        self.data[a : a + size], self.data[b : b + size] = self.data[b : b + size], self.data[a : a + size]

    def replace(self, section: str, old: bytes, new: bytes) -> None:
        assert len(old) == len(new)
        offset = bytes(self.data[self.at(section) : self.at(section) + self.size(section)]).index(old)
        self.put(section, offset, new)

    def chunk(self, member: int, section: str) -> Any:
        return next(c for c in self.map["chunks"] if c["member"] == member and c["section"] == section)


def make() -> Megamodule:
    """Two members with one of everything that verify looks at; init order core, disk."""
    core = (
        Ko("core", info={"import_ns": "NS_A"}).exports("core_b", 1).exports("core_a", 2).exports("core_g", 3, gpl=True)
    )
    core.param("debug").param("sizes").glue_imports().orc([(0, ORC), (8, b"\x10" + ORC[1:]), (16, bytes(6))])
    core.section(".data..percpu", bytes(8192), flags=ALLOC | WRITE, align=64)
    core.section(".bss", flags=ALLOC | WRITE, size=64, align=64)
    core.section("__jump_table", bytes(16), flags=ALLOC | WRITE)
    disk = Ko("disk").calls("core_a", 2).calls("printk", 7).calls("__fentry__", 8)
    disk.reloc(disk.data, 0, R_64, disk.rodata)
    disk.section(".bss", flags=ALLOC | WRITE, size=8, align=8)
    disk.section("__bug_table", bytes(range(1, 13)), flags=ALLOC | WRITE)
    return link(disk, core)


@pytest.fixture(scope="module")
def good() -> Megamodule:
    return make()


def refusal(megamodule: Megamodule, damage: Callable[[Edit], object]) -> str:
    edit = Edit(megamodule)
    damage(edit)
    with pytest.raises(MegamodError) as caught:
        verify(bytes(edit.data), megamodule.members, edit.map)
    assert str(caught.value).startswith("megamod_test: verify: ")
    assert "this is a defect of megamod" in str(caught.value)
    return str(caught.value)


def test_good_file_passes(good: Megamodule) -> None:
    assert verify(good.data, good.members, good.map) == ()


def test_remarks_name_members_that_ask_user_space() -> None:
    megamodule = link(Ko("disk").calls("__request_module"), Ko("core").calls("__symbol_get"))
    assert verify(megamodule.data, megamodule.members, megamodule.map) == (
        "may ask user space for modules: disk",
        "look symbols up at run time, which fails while the megamodule loads: core",
    )


def init_calls_swapped(edit: Edit) -> None:
    """The two direct calls of inits inside .init.text trade their targets."""
    glue = edit.chunk(-1, ".init.text")
    code = edit.at(".init.text")
    sites = {}
    for member in (0, 1):
        target = edit.chunk(member, ".init.text")["offset"]
        for at in range(glue["offset"], glue["offset"] + glue["size"] - 5):
            if edit.data[code + at] == 0xE8:
                (distance,) = struct.unpack_from("<i", edit.data, code + at + 1)
                if at + 5 + distance == target:
                    sites[member] = (at, target)
    for (at, _), (_, target) in ((sites[0], sites[1]), (sites[1], sites[0])):
        struct.pack_into("<i", edit.data, code + at + 1, target - at - 5)


def init_call_removed(edit: Edit) -> None:
    glue = edit.chunk(-1, ".init.text")
    code, target = edit.at(".init.text"), edit.chunk(1, ".init.text")["offset"]
    for at in range(glue["offset"], glue["offset"] + glue["size"] - 5):
        if edit.data[code + at] == 0xE8 and at + 5 + struct.unpack_from("<i", edit.data, code + at + 1)[0] == target:
            edit.data[code + at : code + at + 5] = bytes.fromhex("0f1f440000")


def other_symbol(edit: Edit) -> int:
    """The symbol of printk."""
    table, strings = edit.at(".symtab"), edit.at(".strtab")
    for number in range(edit.size(".symtab") // 24):
        (name,) = struct.unpack_from("<I", edit.data, table + 24 * number)
        if bytes(edit.data[strings + name : strings + name + 7]) == b"printk\0":
            return number
    raise KeyError


DAMAGES: dict[str, tuple[Callable[[Edit], object], str]] = {
    # reread
    "no ELF": (lambda e: e.data.__setitem__(0, 0), "not readable"),
    "section beyond the file": (lambda e: e.header(".rodata", "size", 1 << 40), "ends beyond the file"),
    "no symbol table": (lambda e: e.header(".symtab", "type", 1), "0 symbol tables"),
    "two relocation tables for one section": (
        lambda e: e.header(".rela.rodata", "info", e.rows[".text"][0]), "a second table for one section"
    ),
    "relocation table without symbols": (lambda e: e.header(".rela.text", "link", 1), "or no symbol table"),
    # sections
    "section twice": (lambda e: e.rename("__bug_table", ".orc_unwind"), "is empty or not unique"),
    "writable code": (lambda e: e.header(".text", "flags", ALLOC | WRITE | EXEC), "writable and executable"),
    "broken entries": (lambda e: e.header("__jump_table", "size", 15), "not a whole number of entries of 16"),
    "BTF": (lambda e: e.rename(".bss", ".BTF"), "BTF was not dropped"),
    "too much percpu": (lambda e: e.header(".data..percpu", "size", 8193), ".data..percpu: 8193 bytes"),
    "percpu alignment": (lambda e: e.header(".data..percpu", "align", 8192), "aligned to 8192"),
    # relocations
    "relocations of bss": (lambda e: e.header(".rela.text", "info", e.rows[".bss"][0]), "holds no bytes"),
    "relocations of what is not loaded": (lambda e: e.header(".data", "flags", WRITE), "holds no bytes"),
    "unknown type": (lambda e: e.relocation(".data", 24, type=9), ".data: relocation type 9"),
    "no type": (lambda e: e.relocation(".data", 24, type=0), ".data: relocation type 0"),
    "no symbol": (lambda e: e.relocation(".data", 24, symbol=0), "a relocation without a symbol"),
    "no such symbol": (lambda e: e.relocation(".data", 24, symbol=9999), "a relocation without a symbol"),
    "relocation outside": (
        lambda e: e.relocation(".data", 24, offset=e.size(".data") - 7), "ends outside the section"
    ),
    "relocation at a huge place": (lambda e: e.relocation(".data", 24, offset=1 << 40), "ends outside the section"),
    "two relocations": (lambda e: e.relocation("__param", 8, offset=4), "__param+0x4: two relocations"),
    "bytes under a relocation": (lambda e: e.put(".data", 31, b"\1"), ".data+0x18: bytes under a relocation"),
    # struct module
    "no struct module": (
        lambda e: e.rename(".gnu.linkonce.this_module", ".gnu.linkonce.this_modulE"), "struct module is missing"
    ),
    "struct module of another size": (
        lambda e: e.header(".gnu.linkonce.this_module", "size", 832), "of another size"
    ),
    "struct module with more": (
        lambda e: e.put(".gnu.linkonce.this_module", 100, b"x"), "struct module holds more than the name"
    ),
    "struct module with another name": (
        lambda e: e.put(".gnu.linkonce.this_module", 24, b"M"), "struct module holds more than the name"
    ),
    "init elsewhere in struct module": (
        lambda e: e.relocation(".gnu.linkonce.this_module", INIT_AT, offset=848), "init does not point to code"
    ),
    "init that is data": (
        lambda e: e.relocation(
            ".gnu.linkonce.this_module", INIT_AT,
            symbol=struct.unpack_from("<I", e.data, e.row("__param", 0) + 12)[0],
        ),
        "init does not point to code",
    ),
    "glue without endbr64": (
        lambda e: e.put(".init.text", e.chunk(-1, ".init.text")["offset"], b"\x90"),
        "does not start with a landing pad such as f30f1efa",
    ),
    "two pointers in struct module": (
        lambda e: e.header(".rela.data", "info", e.rows[".gnu.linkonce.this_module"][0]), "a second table"
    ),
    # modinfo
    "modinfo name": (lambda e: e.replace(".modinfo", b"name=megamod", b"name=magamod"), ".modinfo: name or license"),
    "modinfo license": (lambda e: e.replace(".modinfo", b"license=GPL", b"license=BSD"), ".modinfo: name or license"),
    "no modinfo": (lambda e: e.rename(".modinfo", ".modinfO"), ".modinfo: name or license"),
    "vermagic": (lambda e: e.replace(".modinfo", b"vermagic=6", b"vermagic=7"), "vermagic is not that of every"),
    "namespaces": (lambda e: e.replace(".modinfo", b"import_ns=NS_A", b"import_ns=NS_B"), ".modinfo: namespaces"),
    # exports
    "unsorted exports": (lambda e: e.replace("__ksymtab_strings", b"core_a", b"core_z"), "__ksymtab is not sorted"),
    "export without a name": (
        lambda e: e.replace("__ksymtab_strings", b"core_a", bytes(6)), "__ksymtab is not sorted"
    ),
    "another export": (
        lambda e: e.replace("__ksymtab_strings", b"core_a", b"core_A"), "core_A: not what the member exports"
    ),
    "CRC of an export": (lambda e: e.put("__kcrctab", 0, b"\x09"), "core_a: not what the member exports"),
    "swapped CRCs": (lambda e: e.swap("__kcrctab", 0, 4, 4), "core_a: not what the member exports"),
    "lost GPL table": (lambda e: e.rename("__ksymtab_gpl", "__ksymtab_gpL"), "exports lost: core_g"),
    "CRC table lost": (lambda e: e.rename("__kcrctab", "__kcrctaB"), "not what the member exports"),
    # versions
    "undefined symbol twice": (
        lambda e: e.replace(".strtab", b"param_ops_int", b"printk\0ps_int"), "an undefined symbol is listed twice"
    ),
    "version lost": (lambda e: e.replace("__versions", b"printk", b"prontk"), "no entry for printk"),
    "no versions": (lambda e: e.rename("__versions", "__versionS"), "__versions: no entry for"),
    "another version": (
        lambda e: e.put("__versions", e.data[e.at("__versions") :].index(b"printk") - 8, b"\x99"), "__versions: printk"
    ),
    "version twice": (lambda e: e.put("__versions", 64, bytes(e.data[e.at("__versions") :][:64])), "__versions: "),
    "no layout version": (
        lambda e: e.replace("__versions", b"module_layout", b"modulE_layout"), "no entry for module_layout"
    ),
    # parameters
    "parameter twice": (
        lambda e: e.replace(".rodata", b"core.sizes", b"core.debug"), "names are missing or not unique"
    ),
    "parameter without a name": (lambda e: e.replace(".rodata", b"core.sizes", bytes(10)), "names are missing"),
    "parameters of the same name": (
        lambda e: e.relocation("__param", 40, addend=struct.unpack_from("<q", e.data, e.row("__param", 0) + 16)[0]),
        "__param: names are missing or not unique",
    ),
    "parameters lost": (lambda e: e.rename("__param", "__paraM"), "__param is lost"),
    "parameter not renamed": (lambda e: e.replace(".rodata", b"core.sizes", b"core_sizes"), "the members have 2"),
    # pairs
    "unwind halves differ": (lambda e: e.header(".orc_unwind", "size", 12), "differ in number"),
    "half an unwind table": (lambda e: e.rename(".orc_unwind", ".orc_unwinD"), "half an unwind table"),
    # bytes
    "byte of code": (lambda e: e.put(".text", 0, b"\xcc"), "core.ko: .text+0x0: a byte was changed"),
    "byte of data": (lambda e: e.put(".data..percpu", 8191, b"\1"), ".data..percpu+0x1fff: a byte was changed"),
    "byte of a table": (lambda e: e.put("__bug_table", 5, b"\0"), "disk.ko: __bug_table+0x5: a byte was changed"),
    "byte before a call": (
        lambda e: e.put(".text", e.chunk(1, ".text")["offset"] + 16, b"\xe9"), "disk.ko: .text+0x10: a byte was changed"
    ),
    "chunk outside": (lambda e: e.chunk(1, ".text").update(offset=1 << 20), "disk.ko: .text ends outside .text"),
    "chunks share a byte": (lambda e: e.chunk(1, ".bss").update(offset=56), ".bss: two chunks share a byte"),
    "chunk not aligned": (
        lambda e: (e.chunk(0, ".bss").update(offset=8), e.chunk(1, ".bss").update(offset=0)),
        "core.ko: .bss is not aligned in .bss",
    ),
    "output not aligned": (lambda e: e.header(".bss", "align", 32), "core.ko: .bss is not aligned in .bss"),
    "chunk lost": (lambda e: e.map["chunks"].remove(e.chunk(0, ".bss")), "core.ko: .bss is lost"),
    # order
    "init not called": (init_call_removed, "disk.ko: its init is never called"),
    "inits in another order": (init_calls_swapped, "called out of order"),
    "need after its user": (
        lambda e: e.map["members"][0].update(depends=["disk"]), "core comes before what it needs"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_refused(good: Megamodule, case: str) -> None:
    damage, text = DAMAGES[case]
    assert text in refusal(good, damage)


def test_empty_section_name_is_refused(good: Megamodule) -> None:
    def damage(edit: Edit) -> None:
        at = edit.names_at + edit.rows["__bug_table"][1][0]
        edit.data[at] = 0

    assert "is empty or not unique" in refusal(good, damage)


def extended() -> Megamodule:
    ko = Ko("disk").calls("f" * 60, 5).calls("printk", 7)
    ko.extended = True
    return link(ko)


EXTENDED: dict[str, tuple[Callable[[Edit], object], str]] = {
    "one half": (
        lambda e: e.rename("__version_ext_crcs", "__version_ext_crcS"), "one half of the extended versions is missing"
    ),
    "other half": (
        lambda e: e.rename("__version_ext_names", "__version_ext_nameS"), "one half of the extended versions is missing"
    ),
    "number": (lambda e: e.header("__version_ext_crcs", "size", 4), "names and CRCs differ in number"),
    "long name lost": (lambda e: e.replace("__version_ext_names", b"ffff", b"gggg"), "no entry for ffff"),
    "CRC of a long name": (lambda e: e.put("__version_ext_crcs", 4, b"\x66"), "differs from disk.ko's"),
}  # fmt: skip


@pytest.mark.parametrize("case", EXTENDED)
def test_damage_to_extended_versions_is_refused(case: str) -> None:
    damage, text = EXTENDED[case]
    assert text in refusal(extended(), damage)


def test_flag_of_an_export_is_checked() -> None:
    ko = Ko("core").exports("a").exports("b")
    ko.section("__kflagstab", b"\1\0")
    assert "a: not what the member exports" in refusal(link(ko), lambda e: e.put("__kflagstab", 0, b"\0"))
    assert "__ksymtab and __kflagstab differ" in refusal(link(ko), lambda e: e.header("__kflagstab", "size", 3))


def test_relocation_table_of_another_symbol_table_is_refused(good: Megamodule) -> None:
    def damage(edit: Edit) -> None:
        edit.header(".symtab", "type", 1)
        edit.header(".strtab", "type", 2)

    refusal(good, damage)


def test_table_rows_are_found_where_the_test_expects_them(good: Megamodule) -> None:
    edit = Edit(good)
    assert [m["name"] for m in edit.map["members"]] == ["core", "disk"]
    assert other_symbol(edit)
    assert struct.unpack_from("<I", edit.data, edit.row("__ksymtab", 0) + 8) == (R_PC32,)
