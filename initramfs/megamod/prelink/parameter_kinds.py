"""What each of a module's parameters takes: the setter that the kernel will call for it, read from the module itself.

Source: include/linux/moduleparam.h (struct kernel_param, kernel_param_ops, kparam_string, kparam_array) and the setters
in kernel/params.c, 5.10 to 7.2. Pointers are relocations here: to a symbol that the kernel exports, or into the module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megamod.common.text import canonical
from megamod.prelink.elf import SHN_LORESERVE, Array, Section
from megamod.prelink.member import Member
from megamod.prelink.parameters import parameter_names

OWN = "own"
"""The kind of a parameter that is set by a function of the module's own."""

UNSET = "none"
"""That of one that cannot be set: the kernel would jump to address 0 for it (parse_one())."""

PLAIN = frozenset(
    ("byte", "short", "ushort", "int", "uint", "long", "ulong", "ullong", "hexint", "bool", "invbool", "bint", "charp")
)
"""The kernel's own setters, param_set_KIND()."""

NO_ARGUMENT = frozenset(("bool", "bint"))
"""Those that a word without a value sets."""

_FL_NOARG = 1  # KERNEL_PARAM_OPS_FL_NOARG


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterKind:
    """A parameter as the module has it. kind: one of PLAIN, ``string:SIZE`` (with the NUL), ``KIND[N]`` (N at most),
    OWN or UNSET."""

    name: str
    kind: str

    @property
    def own(self) -> bool:
        """Whether a function of the module's own is called for a value."""
        return self.kind == OWN


def parameter_kinds(member: Member) -> tuple[ParameterKind, ...]:
    """The parameters of *member*, in the order of its __param table; raises MegamodError for a broken one."""
    found: list[ParameterKind] = []
    pointers = _Pointers(member)
    for section in _tables(member):
        for entry, name in enumerate(parameter_names(member, section)):
            at = entry * member.architecture.parameter_entry
            found.append(ParameterKind(name=name, kind=_kind(pointers, section.index, at)))
    return tuple(found)


def _tables(member: Member) -> list[Section]:
    return [s for s in member.sections if s.name == "__param" and s.alloc and s.size]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a pointer points to: a symbol of another module or the kernel's, or a place in a section."""

    symbol: str = ""
    section: int = 0
    offset: int = 0


class _Pointers:
    """The pointers in a member's data, each found by its relocation."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.word = member.architecture.word
        self._rows: Mapping[int, Array] = dict(member.relas)

    def at(self, section: int, offset: int) -> _Place | None:
        """Where the pointer at that place points to, None if nothing is relocated there."""
        rows = self._rows.get(section)
        if rows is None or len(found := rows[rows["r_offset"] == offset]) != 1:
            return None
        symbol, addend = int(found[0]["r_sym"]), int(found[0]["r_addend"])
        if symbol in self.member.imports:
            return _Place(symbol=self.member.imports[symbol])
        home = int(self.member.symbols["st_shndx"][symbol])
        value = int(self.member.symbols["st_value"][symbol]) + addend
        if not 0 < home < min(len(self.member.sections), SHN_LORESERVE):
            return None
        return _Place(section=home, offset=value)

    def number(self, place: _Place) -> int | None:
        """The unsigned int at *place*, None if it lies outside the section's bytes."""
        data = self.member.sections[place.section].data
        end = place.offset + 4
        return int.from_bytes(data[place.offset : end], "little") if place.offset >= 0 and end <= len(data) else None


def _kind(pointers: _Pointers, section: int, at: int) -> str:
    """The kind of the struct kernel_param at *at*: name, mod, ops, perm, level, flags (4 bytes, padded), then arg."""
    word = pointers.word
    ops = pointers.at(section, at + 2 * word)
    return _kind_of_ops(pointers, ops, _argument(pointers, section, at))


def _argument(pointers: _Pointers, section: int, at: int) -> _Place | None:
    return pointers.at(section, at + (32 if pointers.word == 8 else 16))


def _kind_of_ops(pointers: _Pointers, ops: _Place | None, argument: _Place | None) -> str:
    if ops is None:
        return OWN
    word = pointers.word
    if ops.symbol == "param_array_ops" and argument is not None and not argument.symbol:
        most = pointers.number(argument)  # max, elemsize, num, ops, elem
        inner = _kind_of_ops(pointers, pointers.at(argument.section, argument.offset + 8 + word), None)
        return OWN if inner in (OWN, UNSET) or most is None else f"{inner}[{most}]"
    if ops.symbol == "param_ops_string":
        return _string(pointers, argument)
    if ops.symbol:
        kind = ops.symbol.removeprefix("param_ops_")
        return kind if kind in PLAIN else OWN
    # flags, set, get, free: a module may combine a setter of the kernel's with a getter of its own.
    setter, flags = pointers.at(ops.section, ops.offset + word), pointers.number(ops)
    if setter is None:
        return UNSET
    kind = setter.symbol.removeprefix("param_set_")
    if kind == "copystring":
        return _string(pointers, argument)
    if kind in PLAIN and flags == (_FL_NOARG if kind in NO_ARGUMENT else 0):
        return kind
    return OWN


def _string(pointers: _Pointers, argument: _Place | None) -> str:
    size = pointers.number(argument) if argument is not None and not argument.symbol else None
    return OWN if not size else f"string:{size}"


def own_setters(member: Member) -> list[tuple[str, tuple[int, int] | None]]:
    """Parameters with a setter of the module's own: name, and the function's (section, offset) if it is known."""
    pointers, found = _Pointers(member), []
    for section in _tables(member):
        for entry, name in enumerate(parameter_names(member, section)):
            at = entry * member.architecture.parameter_entry
            if _kind(pointers, section.index, at) == OWN:
                ops = pointers.at(section.index, at + 2 * pointers.word)
                if ops is not None and ops.symbol == "param_array_ops":
                    array = _argument(pointers, section.index, at)
                    ops = pointers.at(array.section, array.offset + 8 + pointers.word) if array else None
                setter = pointers.at(ops.section, ops.offset + pointers.word) if ops is not None else None
                known = setter is not None and not setter.symbol
                found.append((name, (setter.section, setter.offset) if setter is not None and known else None))
    return found


def find_parameter(kinds: Sequence[ParameterKind], name: str) -> ParameterKind | None:
    """The parameter that *name* stands for, `-` and `_` being equal; the first, as for the kernel (parse_one()). A
    prefix that the parameter has itself (``mmcblk.perdev_minors``) may be left out."""
    wanted = canonical(name)
    whole = (one for one in kinds if canonical(one.name) == wanted)
    short = (one for one in kinds if canonical(one.name).split(".", 1)[-1] == wanted)
    return next(whole, None) or next(short, None)
