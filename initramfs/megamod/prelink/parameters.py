"""Module parameters: how members name them, and what they are called in the megamodule.

``name`` becomes ``member.name``, the kernel command line's own syntax; two members' ``debug`` would make sysfs refuse
the whole load (seen).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megamod.common.errors import MegamodError
from megamod.prelink.elf import Section
from megamod.prelink.member import Member
from megamod.prelink.module_builder import Builder


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A member's parameter: its name in the member, and in the megamodule."""

    member: str
    name: str
    renamed: str


def rename_parameters(
    builder: Builder, members: Sequence[Member]
) -> tuple[dict[tuple[int, int], Sequence[int]], tuple[Parameter, ...]]:
    """``name`` becomes ``member.name``, the kernel command line's own syntax; two members' ``debug`` would make sysfs
    refuse the whole load (seen). A name with a dot has a prefix of its own (mmc_block's mmcblk.) and stays."""
    renames: dict[tuple[int, int], Sequence[int]] = {}
    parameters: list[Parameter] = []
    taken: dict[str, str] = {}
    borrowed: set[str] = set()
    for number, member in enumerate(members):
        for section in member.sections:
            if section.name != "__param" or not section.alloc or not section.size:
                continue
            offsets = []
            for name in parameter_names(member, section):
                renamed = name if "." in name else f"{member.name}.{name}"
                # Within one member a name may repeat with permission 0 (wm97xx-ts has three "mask"): its own affair.
                if (other := taken.get(renamed, member.file)) != member.file:
                    # The odd one is who has another's name in its own.
                    is_others = renamed in borrowed and "." not in name
                    odd, owner = (other, member.file) if is_others else (member.file, other)
                    raise MegamodError(f"{odd}: parameter {renamed} is {owner}'s too")
                taken[renamed] = member.file
                if "." in name:
                    borrowed.add(renamed)
                parameters.append(Parameter(member=member.name, name=name, renamed=renamed))
                offsets.append(builder.text(renamed))
            renames[number, section.index] = offsets
    return renames, tuple(parameters)


def parameter_names(member: Member, section: Section) -> list[str]:
    """The names in one __param table of *member*, in order."""
    entry_size = member.architecture.parameter_entry
    if section.size % entry_size:
        raise MegamodError(f"{member.file}: __param: {section.size} bytes are not a multiple of {entry_size}")
    names: dict[int, str] = {}
    for target, rows in member.relas:
        if target != section.index:
            continue
        for offset, _kind, symbol, addend in rows[rows["r_offset"] % entry_size == 0].tolist():
            home = int(member.symbols["st_shndx"][symbol])
            at = int(member.symbols["st_value"][symbol]) + addend
            if not 0 < home < len(member.sections) or not 0 <= at < member.sections[home].size:
                raise MegamodError(f"{member.file}: __param+{offset:#x}: the parameter's name lies nowhere")
            text, end, _ = bytes(member.sections[home].data[at : at + 256]).partition(b"\0")
            if not text or not end or not text.isascii() or not text.decode("ascii").isprintable():
                raise MegamodError(
                    f"{member.file}: __param+{offset:#x}: the parameter's name is not text: {text[:40]!r}"
                )
            names[offset // entry_size] = text.decode("ascii")
    if sorted(names) != list(range(section.size // entry_size)):
        raise MegamodError(f"{member.file}: __param: an entry without a name")
    return [names[entry] for entry in sorted(names)]
