"""Reading: every table of a module is taken as the kernel would, and every damage is named with file and place."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from megamod.common.errors import MegamodError
from megamod.prelink.member import Member
from megamod.prelink.mergeable import why_single
from megamod.prelink.read import SIGNATURE_MAGIC, read_member
from tests.unit.module_factory import ALLOC, COMMON, EXEC, MODULE_SIZE, R_64, UNDEF, Ko, link, read


def member_of(ko: Ko) -> Member:
    return read(ko)[0]


def error_of(image: bytes) -> str:
    with pytest.raises(MegamodError) as caught:
        read_member(image, file="disk.ko")
    assert str(caught.value).startswith("disk.ko: ")
    return str(caught.value)


def header(image: bytes, index: int) -> int:
    """File offset of a section header."""
    (shoff,) = struct.unpack_from("<Q", image, 40)
    return int(shoff) + 64 * index


def index_of(ko: Ko, name: str) -> int:
    return next(i for i, s in enumerate(member_of(ko).sections) if s.name == name)


def patched(image: bytes, offset: int, form: str, value: int) -> bytes:
    out = bytearray(image)
    struct.pack_into(form, out, offset, value)
    return bytes(out)


# What a good module gives


def test_name_and_modinfo_are_read() -> None:
    member = member_of(Ko("snd-hda", info={"softdep": "pre: a"}))
    assert member.name == "snd_hda"
    assert member.info("softdep") == "pre: a"


def test_imports_and_versions_are_read() -> None:
    member = member_of(Ko("disk").calls("core_add", 5).calls("later", bind=2))
    assert sorted(member.imports.values()) == ["core_add", "later"]
    assert [member.imports[i] for i in member.weak_imports] == ["later"]
    assert member.versions["core_add"] == 5


@pytest.mark.parametrize("crc_symbol", [False, True], ids=["as a word", "as an absolute symbol"])
def test_crc_of_an_export_is_read(crc_symbol: bool) -> None:
    member = member_of(
        Ko("core").exports("a", 1, crc_symbol=crc_symbol).exports("b", 0xFFFFFFFE, crc_symbol=crc_symbol)
    )
    assert [(e.name, e.crc) for e in member.exports] == [("a", 1), ("b", 0xFFFFFFFE)]


def test_export_without_modversions_has_no_crc() -> None:
    assert member_of(Ko("core", versions=False).exports("a", None)).exports[0].crc is None


def test_gpl_and_namespace_of_an_export_are_read() -> None:
    export = member_of(Ko("core").exports("a", gpl=True, namespace="CORE")).exports[0]
    assert (export.gpl, export.namespace) == (True, "CORE")


def test_gpl_flag_of_an_export_is_read_from_the_flag_table() -> None:
    ko = Ko("core").exports("a").exports("b")
    ko.section("__kflagstab", b"\1\0")
    assert [e.gpl for e in member_of(ko).exports] == [True, False]


def test_extended_versions_are_read() -> None:
    ko = Ko("disk").calls("f" * 70, 9)
    ko.extended = True
    assert member_of(ko).versions["f" * 70] == 9


def test_init_is_found_through_struct_module() -> None:
    member = member_of(Ko("disk"))
    assert member.init is not None
    assert member.sections[member.init[0]].name == ".init.text"
    assert member_of(Ko("lib", init=None)).init is None


def test_appended_signature_is_cut_off() -> None:
    plain = bytes(Ko("disk"))
    signed = plain + b"CMS" * 5 + struct.pack(">8xI", 15) + SIGNATURE_MAGIC
    assert read_member(signed, file="disk.ko").sections == read_member(plain, file="disk.ko").sections


def test_relocations_of_debug_sections_are_not_looked_at() -> None:
    ko = Ko("disk")
    debug = ko.section(".debug_info", bytes(8), flags=0)
    ko.reloc(debug, 4096, 77, ko.text)
    assert all(target != index_of(ko, ".debug_info") for target, _ in member_of(ko).relas)


# Files that are not modules


@pytest.mark.parametrize("image", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20], ids=["empty", "four bytes", "a script"])
def test_file_that_is_no_elf_is_refused(image: bytes) -> None:
    assert "not an ELF file" in error_of(image)


@pytest.mark.parametrize(("at", "value"), [(4, 3), (5, 3)], ids=["no class", "no byte order"])
def test_other_class_or_byte_order_is_refused(at: int, value: int) -> None:
    assert f"disk.ko: ELF header: class {value if at == 4 else 2}, byte order" in error_of(
        patched(bytes(Ko("disk")), at, "B", value)
    )


# (e_machine, ELF class, byte order) → what the kernel's world calls it
FOREIGN = {
    (22, 2, 2): "s390x, big-endian, 64 bits",
    (21, 2, 1): "ppc64le, 64 bits",
    (21, 2, 2): "ppc64, big-endian, 64 bits",
    (258, 2, 1): "loongarch64, 64 bits",
    (8, 2, 1): "mips64el, 64 bits",
    (8, 1, 2): "mips, big-endian, 32 bits",
    (43, 2, 2): "sparc64, big-endian, 64 bits",
    (183, 2, 2): "arm64, big-endian, 64 bits",
    (3, 1, 1): "i386, 32 bits",
    (4711, 2, 1): "ELF machine 4711, 64 bits",
}


@pytest.mark.parametrize("header", FOREIGN, ids=FOREIGN.get)
def test_module_of_an_architecture_that_is_not_linked_is_refused_by_name(header: tuple[int, int, int]) -> None:
    machine, elf_class, order = header
    data = bytearray(bytes(Ko("disk")))
    data[4], data[5] = elf_class, order
    data[18:20] = machine.to_bytes(2, "big" if order == 2 else "little")
    message = error_of(bytes(data))
    assert f"disk.ko: built for {FOREIGN[header]}, which cannot be linked" in message
    assert message.endswith("(hint: arm, arm64, riscv64 and x86_64 can)")


def test_class_that_does_not_fit_the_machine_is_refused() -> None:
    assert "built for x86_64, 32 bits" in error_of(patched(bytes(Ko("disk")), 4, "B", 1))


@pytest.mark.parametrize(
    ("e_type", "text"), [(2, "an executable"), (3, "a shared object"), (4, "ELF type 4")], ids=["exec", "dyn", "core"]
)
def test_file_that_is_no_relocatable_is_refused(e_type: int, text: str) -> None:
    assert f"{text}, not a relocatable" in error_of(bytes(Ko("disk", e_type=e_type)))


def test_every_truncation_is_refused() -> None:
    image = bytes(Ko("core").exports("a").param("debug").calls("f"))
    for length in range(len(image)):
        error_of(image[:length])


def test_truncated_file_is_called_truncated() -> None:
    image = bytes(Ko("disk"))
    assert "the file is truncated" in error_of(image[: len(image) // 2])


def test_object_file_is_refused() -> None:
    ko = Ko("disk")
    ko.this.name = ".data.this"
    assert "no .gnu.linkonce.this_module section (hint: this is an object file" in error_of(bytes(ko))


@pytest.mark.parametrize("key", ["name", "vermagic"])
def test_missing_modinfo_field_is_refused(key: str) -> None:
    assert f".modinfo has no {key}=" in error_of(bytes(Ko("disk", info={key: None})))


def test_signature_longer_than_the_file_is_refused() -> None:
    image = bytes(Ko("disk")) + struct.pack(">8xI", 1 << 20) + SIGNATURE_MAGIC
    assert "signature claims 1048576 bytes" in error_of(image)


def test_signature_magic_alone_is_refused() -> None:
    assert "signature claims" in error_of(SIGNATURE_MAGIC)


# Headers


@pytest.mark.parametrize(("field", "form", "value"), [(58, "<H", 32), (60, "<H", 1)])
def test_bad_section_table_size_is_refused(field: int, form: str, value: int) -> None:
    assert "ELF header" in error_of(patched(bytes(Ko("disk")), field, form, value))


def test_module_with_more_sections_than_the_kernel_reads_is_refused() -> None:
    """Their number is 0 then, and stands in the first section header: readelf reads it, the kernel does not."""
    assert "has 65,280 sections or more" in error_of(patched(bytes(Ko("disk")), 60, "<H", 0))


@pytest.mark.parametrize("shoff", [0xFFFFFFFFFFFFFFFF, 1 << 40])
def test_section_table_beyond_the_file_is_refused(shoff: int) -> None:
    assert "ends beyond the file" in error_of(patched(bytes(Ko("disk")), 40, "<Q", shoff))


@pytest.mark.parametrize("index", [0, 1, 500, 0xFFFF])
def test_header_that_names_no_string_table_is_refused(index: int) -> None:
    assert "is not the table of section names" in error_of(patched(bytes(Ko("disk")), 62, "<H", index))


SIZES = {
    "sh_name": (0, "<I", 1 << 20, "its name lies outside"),
    "sh_offset": (24, "<Q", 1 << 62, "lie beyond the file"),
    "sh_size": (32, "<Q", 1 << 62, "lie beyond the file"),
    "sh_size that wraps": (32, "<Q", 0xFFFFFFFFFFFFFFFF, "lie beyond the file"),
    "sh_link": (40, "<I", 99, "sh_link 99 does not name a section"),
    "sh_addralign no power of 2": (48, "<Q", 24, "impossible size"),
    "sh_addralign huge": (48, "<Q", 1 << 40, "impossible size"),
}


@pytest.mark.parametrize("case", SIZES)
def test_impossible_section_header_is_refused(case: str) -> None:
    at, form, value, text = SIZES[case]
    ko = Ko("disk")
    image = bytes(ko)
    message = error_of(patched(image, header(image, index_of(ko, ".text")) + at, form, value))
    assert text in message
    assert "section [" in message


def test_gigantic_bss_is_refused() -> None:
    ko = Ko("disk")
    ko.section(".bss", flags=ALLOC | 1, size=1 << 60)
    assert "impossible size" in error_of(bytes(ko))


# Symbols


def damage_symbol(field: int, form: str, value: int) -> bytes:
    ko = Ko("disk").calls("f")
    image = bytes(ko)
    (offset,) = struct.unpack_from("<Q", image, header(image, index_of(ko, ".symtab")) + 24)
    return patched(image, offset + 24 + field, form, value)


def test_symbol_with_a_name_outside_the_strings_is_refused() -> None:
    assert "symbol 1 has no valid name or section" in error_of(damage_symbol(0, "<I", 1 << 30))


@pytest.mark.parametrize("shndx", [200, 0xFEFF])
def test_symbol_in_no_section_is_refused(shndx: int) -> None:
    assert "symbol 1 has no valid name or section" in error_of(damage_symbol(6, "<H", shndx))


def test_common_symbol_is_refused_as_the_kernel_does() -> None:
    ko = Ko("disk")
    ko.symbol("shared", COMMON)
    message = error_of(bytes(ko))
    assert "(shared) has section index 0xfff2" in message
    assert "-fno-common" in message


def test_symbol_with_extended_index_is_refused() -> None:
    assert "section index 0xffff" in error_of(damage_symbol(6, "<H", 0xFFFF))


@pytest.mark.parametrize("kind", [0, 1])
def test_file_without_symbol_table_is_refused(kind: int) -> None:
    ko = Ko("disk")
    image = bytes(ko)
    assert "0 sections hold a symbol table" in error_of(
        patched(image, header(image, index_of(ko, ".symtab")) + 4, "<I", kind)
    )


def test_string_table_without_its_last_nul_is_refused() -> None:
    ko = Ko("disk").calls("f")
    image = bytes(ko)
    at = header(image, index_of(ko, ".strtab")) + 32
    (size,) = struct.unpack_from("<Q", image, at)
    assert "its string table" in error_of(patched(image, at, "<Q", size - 1))


# Relocations


def test_relocation_against_a_missing_symbol_is_refused() -> None:
    ko = Ko("disk").calls("f")
    image = bytes(ko)
    (offset,) = struct.unpack_from("<Q", image, header(image, index_of(ko, ".rela.text")) + 24)
    assert "names symbol 4096, no such" in error_of(patched(image, offset + 12, "<I", 4096))


@pytest.mark.parametrize("offset", [16, 1 << 40, (1 << 64) - 1])
def test_relocation_outside_its_section_is_refused(offset: int) -> None:
    ko = Ko("disk")
    ko.reloc(ko.data, offset, R_64, ko.text)
    assert f".data+{offset:#x}: a relocation outside the section" in error_of(bytes(ko))


def test_relocation_in_bss_is_refused() -> None:
    ko = Ko("disk")
    ko.reloc(ko.section(".bss", flags=ALLOC | 1, size=64), 0, R_64, ko.text)
    assert ".bss+0x0: a relocation outside the section" in error_of(bytes(ko))


def test_rel_table_is_refused() -> None:
    ko = Ko("disk").calls("f")
    image = bytes(ko)
    assert "not a RELA table" in error_of(patched(image, header(image, index_of(ko, ".rela.text")) + 4, "<I", 9))


def test_relocation_table_of_broken_size_is_refused() -> None:
    ko = Ko("disk").calls("f")
    image = bytes(ko)
    assert "not a multiple of 24" in error_of(patched(image, header(image, index_of(ko, ".rela.text")) + 32, "<Q", 23))


# Tables


def test_ksymtab_without_relocations_is_refused() -> None:
    ko = Ko("core").exports("a")
    ko["__ksymtab"].relocs.clear()
    assert "__ksymtab+0x0: an entry without relocations" in error_of(bytes(ko))


def test_ksymtab_of_broken_size_is_refused() -> None:
    ko = Ko("core").exports("a")
    ko["__ksymtab"].data += b"\0"
    assert "__ksymtab: 13 bytes are not a multiple of 12" in error_of(bytes(ko))


def test_crc_table_of_another_length_is_refused() -> None:
    ko = Ko("core").exports("a")
    ko["__kcrctab"].data += bytes(4)
    assert "__kcrctab: 8 bytes for 1 exports" in error_of(bytes(ko))


def test_crc_that_is_no_absolute_symbol_is_refused() -> None:
    ko = Ko("core").exports("a", crc_symbol=True)
    ko["__kcrctab"].relocs[0] = (0, 10, ko.at(ko.text), 0)
    assert "__kcrctab+0x0: a CRC that is not an absolute symbol" in error_of(bytes(ko))


@pytest.mark.parametrize("addend", [-1, 1 << 40])
def test_export_whose_name_lies_nowhere_is_refused(addend: int) -> None:
    ko = Ko("core").exports("a")
    offset, kind, symbol, _ = ko["__ksymtab"].relocs[1]
    ko["__ksymtab"].relocs[1] = (offset, kind, symbol, addend)
    assert "__ksymtab: a name lies outside its section" in error_of(bytes(ko))


def test_export_that_is_undefined_is_refused() -> None:
    ko = Ko("core").exports("a")
    ko["__ksymtab"].relocs[0] = (0, 2, ko.symbol("a_elsewhere", UNDEF), 0)
    assert "__ksymtab" in error_of(bytes(ko))


def test_flag_table_of_another_length_is_refused() -> None:
    ko = Ko("core").exports("a")
    ko.section("__kflagstab", b"\0\0")
    assert "__kflagstab: 2 flags for 1 exports" in error_of(bytes(ko))


def test_versions_of_broken_size_are_refused() -> None:
    ko = Ko("disk", versions=False)
    ko.section("__versions", bytes(65))
    assert "__versions: 65 bytes are not a multiple of 64" in error_of(bytes(ko))


def test_extended_versions_with_too_few_names_are_refused() -> None:
    ko = Ko("disk")
    ko.section("__version_ext_crcs", bytes(12), align=4)
    ko.section("__version_ext_names", b"a\0")
    assert "2 names for 3 CRCs" in error_of(bytes(ko))


def test_struct_module_without_the_name_is_refused() -> None:
    ko = Ko("disk")
    ko.this.data[:] = bytes(MODULE_SIZE)
    assert "the name disk of .modinfo is not in it" in error_of(bytes(ko))


def test_struct_module_with_more_than_the_name_is_refused() -> None:
    ko = Ko("disk")
    ko.this.data[500] = 1
    assert "unexpected bytes around the name" in error_of(bytes(ko))


def test_undefined_init_is_refused() -> None:
    ko = Ko("disk", init=None)
    ko.reloc(ko.this, 312, R_64, ko.symbol("init_module", UNDEF))
    assert "init_module is not defined in a section" in error_of(bytes(ko))


def test_init_outside_its_section_is_refused() -> None:
    ko = Ko("disk", init=None)
    init = ko.section(".init.text", bytes(8), flags=ALLOC | 4)
    ko.reloc(ko.this, 312, R_64, ko.symbol("init_module", init, 4096))
    assert "init_module" in error_of(bytes(ko))


# The init of a stripped module: the kernel goes by struct module's pointer


def stripped(*pointers: tuple[int, str], names: tuple[str, str] = ("_1", "_2")) -> Ko:
    """A module whose struct module points from each (offset) to a function in (section), under renamed symbols."""
    ko = Ko("disk", init=None)
    for number, (offset, section) in enumerate(pointers):
        home = ko.section(section, bytes(16), flags=ALLOC | EXEC, align=16)
        ko.reloc(ko.this, offset, R_64, ko.symbol(names[number], home, 4))
    return ko


def init_of(ko: Ko) -> tuple[str, int] | None:
    member = read_member(bytes(ko), file="disk.ko")
    return (member.sections[member.init[0]].name, member.init[1]) if member.init else None


def test_init_is_what_struct_module_points_to_whatever_its_name() -> None:
    assert init_of(stripped((312, ".init.text"))) == (".init.text", 4)
    assert init_of(stripped((312, ".text.a"), (848, ".text.b"))) == (".text.a", 4)
    assert init_of(stripped((312, ".text.a"), (848, ".text.b"), names=("_1", "cleanup_module"))) == (".text.a", 4)
    assert init_of(stripped((848, ".exit.text"))) is None


def test_stripped_members_are_linked_and_their_inits_called() -> None:
    one, two = stripped((312, ".init.text"), (848, ".exit.text")), Ko("two")
    assert [member.init is not None for member in link(one, two).members] == [True, True]


def test_init_that_cannot_be_told_from_exit_is_refused() -> None:
    message = error_of(bytes(stripped((312, ".text.a"))))
    assert message == (
        "disk.ko: .gnu.linkonce.this_module: pointers at +0x138 have no names, so init and exit cannot be told apart "
        "(hint: keep the symbols init_module and cleanup_module when stripping)"
    )


def test_init_that_struct_module_does_not_point_to_is_refused() -> None:
    ko = Ko("disk")
    ko.this.relocs.clear()
    assert error_of(bytes(ko)) == (
        "disk.ko: .gnu.linkonce.this_module has no relocation to its init_module: the kernel would load it and never "
        "call it (hint: strip with --strip-debug, which keeps relocations)"
    )


def test_a_member_whose_init_pointer_lies_elsewhere_is_refused() -> None:
    with pytest.raises(MegamodError, match=r"disk\.ko: struct module points to its init at 0x140, the others' at 0x1"):
        link(Ko("a"), Ko("b"), stripped((320, ".init.text")))


def test_lenient_reading_keeps_what_only_the_linker_refuses() -> None:
    ko = Ko("disk")
    ko.this.data[500] = 1
    member = read_member(bytes(ko), file="disk.ko", lenient=True)
    assert member.refused == (
        ".gnu.linkonce.this_module: unexpected bytes around the name; unknown layout of struct module"
    )
    assert why_single(member) == f"cannot be merged: {member.refused}"
    with pytest.raises(MegamodError, match="not an ELF file"):
        read_member(b"junk", file="disk.ko", lenient=True)


DAMAGED: dict[str, Callable[[Ko], object]] = {
    "name with a line break": lambda ko: ko.modinfo.__setitem__(2, ("name", "di\nsk")),
    "name with a blank": lambda ko: ko.modinfo.__setitem__(2, ("name", "di sk")),
    "name too long": lambda ko: ko.modinfo.__setitem__(2, ("name", "d" * 60)),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_impossible_module_name_is_refused_in_one_line(case: str) -> None:
    ko = Ko("disk")
    DAMAGED[case](ko)
    name = dict(ko.modinfo)["name"].encode()
    ko.this.data[24 : 24 + len(name)] = name
    message = error_of(bytes(ko))
    assert "\n" not in message
    assert "is not a module name" in message


@pytest.mark.parametrize("name", ["a b", "a\nb", "caf\u00e9", "a\\b"])
def test_names_that_are_no_text_are_refused(name: str) -> None:
    ko = Ko("disk").calls(name)
    assert "is not a symbol name" in error_of(bytes(ko))
    ko = Ko("disk")
    ko.section(name)
    assert "is not a section name" in error_of(bytes(ko))


@pytest.mark.parametrize("key", ["vermagic", "import_ns"])
def test_modinfo_that_is_no_text_is_refused(key: str) -> None:
    assert f".modinfo: {key}=" in error_of(bytes(Ko("disk", info={key: "6.1 \x1b[2J"})))
