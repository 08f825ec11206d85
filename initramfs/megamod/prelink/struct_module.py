"""What a module's struct module says: where the kernel finds its name, and its init.

The kernel calls what the relocation in .gnu.linkonce.this_module points to, whatever the symbol is called
(scripts/mod/modpost.c add_header(), kernel/module/main.c do_init_module()); so names that a distribution has stripped
(OpenWrt renames every symbol) do not matter where that relocation tells init from exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.elf import Array, Section
from megamod.prelink.member import string_at

THIS_MODULE = ".gnu.linkonce.this_module"
_LOST = "the kernel would load it and never call it"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pointer:
    """A pointer in struct module at *offset*: to *value* in section *home*; *name* is its symbol's, "" for none."""

    offset: int
    home: int
    value: int
    name: str


def find_init(
    this_module: Section,
    sections: Sequence[Section],
    symbols: Array,
    strings: bytes,
    relas: Sequence[tuple[int, Array]],
    file: str,
) -> tuple[int, int, int] | None:
    """(offset in struct module, section, value) of the init function, None if the module has none; raise MegamodError
    for one that cannot be told from the exit function, or that nothing points to."""
    pointers = sorted(
        (
            _Pointer(
                offset=offset,
                home=int(symbols["st_shndx"][symbol]),
                value=int(symbols["st_value"][symbol]) + addend,
                name=string_at(strings, int(symbols["st_name"][symbol])),
            )
            for target, rows in relas
            if target == this_module.index
            for offset, _type, symbol, addend in rows.tolist()
        ),
        key=lambda pointer: pointer.offset,
    )
    named = [pointer for pointer in pointers if pointer.name == "init_module"]
    others = [pointer for pointer in pointers if pointer.name != "cleanup_module"]
    init = named[0] if named else _by_place(others, len(pointers) > len(others), sections, file)
    if init is None:
        _check_unused(sections, symbols, strings, file, lost=not pointers)
        return None
    what = "init_module" if named else "its init"
    if not 0 < init.home < elf.SHN_LORESERVE:
        raise MegamodError(f"{file}: {what} is not defined in a section")
    home = sections[init.home]
    if not home.sh_flags & elf.SHF_EXECINSTR or not home.alloc or not 0 <= init.value < len(home.data):
        raise MegamodError(f"{file}: {what} at {home.name}+{init.value:#x} is not code")
    return init.offset, init.home, init.value


def _by_place(others: Sequence[_Pointer], has_exit: bool, sections: Sequence[Section], file: str) -> _Pointer | None:
    """The init among pointers without a telling name: struct module has init before exit (include/linux/module.h)."""
    if not others:
        return None
    if len(others) == 2 and not has_exit:
        return others[0]
    if len(others) == 1:
        home = sections[others[0].home].name if others[0].home < len(sections) else ""
        if has_exit or home.startswith(".init"):
            return others[0]
        if home.startswith(".exit"):
            return None
    places = ", ".join(f"+{pointer.offset:#x}" for pointer in others)
    raise MegamodError(
        f"{file}: {THIS_MODULE}: pointers at {places} have no names, so init and exit cannot be told apart",
        hint="keep the symbols init_module and cleanup_module when stripping",
    )


def _check_unused(sections: Sequence[Section], symbols: Array, strings: bytes, file: str, *, lost: bool) -> None:
    """A function that is called init_module is there for struct module to point to; where its pointers may be *lost*,
    since there is none, code that the kernel frees after the init is there for the init."""
    if b"init_module\0" not in strings:
        if lost and any(_is_init_code(section) for section in sections):
            raise MegamodError(
                f"{file}: {THIS_MODULE} has no relocation to an init, although there is .init.text: {_LOST}",
                hint="strip with --strip-debug, which keeps relocations",
            )
        return
    homes = symbols["st_shndx"]
    for index in ((homes != elf.SHN_UNDEF) & (homes < elf.SHN_LORESERVE)).nonzero()[0].tolist():
        if string_at(strings, int(symbols["st_name"][index])) == "init_module":
            raise MegamodError(
                f"{file}: {THIS_MODULE} has no relocation to its init_module: {_LOST}",
                hint="strip with --strip-debug, which keeps relocations",
            )


def _is_init_code(section: Section) -> bool:
    # Linker scripts make places for trampolines in every module, with a byte in them and mostly without code's flag
    # (arch/arm64/include/asm/module.lds.h); a library has them, too.
    is_code = section.name.startswith(".init.text") and section.sh_flags & elf.SHF_EXECINSTR
    return bool(is_code) and section.alloc and section.size > 1


def find_name(this_module: Section, name: str, file: str) -> int:
    """Where struct module keeps its name: by searching, since its place differs between kernels and configurations."""
    data = bytes(this_module.data)
    offset = data.find(name.encode() + b"\0")
    if offset < 0:
        raise MegamodError(f"{file}: {THIS_MODULE}: the name {name} of .modinfo is not in it")
    return offset


def check_rest(this_module: Section, name: str, offset: int, file: str) -> None:
    """Nothing is set but the *name* at *offset*: the megamodule takes a copy, in which more would be one member's."""
    data = bytes(this_module.data)
    rest = data[:offset] + data[offset + len(name) :]
    if rest.strip(b"\0"):
        raise MegamodError(f"{file}: {THIS_MODULE}: unexpected bytes around the name; unknown layout of struct module")
