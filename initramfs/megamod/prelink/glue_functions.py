"""The functions that the glue is made of, its init and the setter of the parameter ``resume``: their places,
relocations, unwind entries and what the kernel has to know of each.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from megamod.prelink import elf
from megamod.prelink.arch.encoder import GlueCode, GlueRequest
from megamod.prelink.arch.interface import ORC_IP, ORC_STATE, SORTED_IP, SORTED_STATE, Architecture
from megamod.prelink.entry import CFI_SITES, Entry
from megamod.prelink.glue_code import INIT, encode_init, encode_setter
from megamod.prelink.member import Member
from megamod.prelink.module_builder import Builder
from megamod.prelink.unwind import IP_SIZE, STATE, Unwind

# Where a function of the glue lies, and the section of its entry on arm.
_EXIDX = {".init.text": f"{elf.EXIDX}.init.text", ".text": elf.EXIDX}


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of the glue. section: its output section; site: see Entry."""

    section: str
    name: str
    code: GlueCode
    site: int | None


def encode_functions(
    architecture: Architecture, request: GlueRequest, inits: Entry, setter: Entry | None
) -> tuple[Function, ...]:
    code = encode_init(architecture.encoder(), request)
    init = Function(section=".init.text", name="megamod_init", code=code, site=inits.site)
    if not request.resumable or setter is None:
        return (init,)
    # Not in init memory, which is freed when the parameter is still there.
    code = encode_setter(architecture.encoder(), replace(request, prefix=setter.prefix))
    return (init, Function(section=".text", name="megamod_resume", code=code, site=setter.site))


def add_function(
    builder: Builder,
    members: Sequence[Member],
    function: Function,
    named: dict[str, tuple[str, int]],
    unwind: Unwind | None,
    places: dict[int, tuple[int, int, int]],
) -> int:
    """The function in its section; fills Glue.places. Returns what to add to the section for a pointer to it."""
    architecture, section, code = builder.architecture, function.section, function.code
    builder.buffer(section)[:] = code.code
    # What a stack trace shows between the kernel and a member's init.
    size = len(code.code) - code.entry
    own = builder.symbol(function.name, builder.index(section), elf.STT_FUNC, size, code.entry + code.bit)
    if section == ".init.text":
        builder.functions[INIT] = own
    if function.site is not None:
        if CFI_SITES not in builder.names:
            builder.add(CFI_SITES)
        sites = builder.buffer(CFI_SITES)
        sites.extend(bytes(4))
        builder.point(CFI_SITES, len(sites) - 4, section, function.site, architecture.relative)
    for fixup in code.fixups:
        if fixup.label is not None:
            symbol = builder.symbol("", builder.index(section), value=fixup.label)
            builder.relocate(section, fixup.offset, fixup.kind, symbol)
            continue
        if isinstance(fixup.target, int):
            init = members[fixup.target].init
            assert init is not None
            symbol = builder.symbol("")
            places[symbol] = (fixup.target, *init)
        elif fixup.target in named:
            home, offset = named[fixup.target]
            builder.point(section, fixup.offset, home, offset + fixup.addend, fixup.kind)
            continue
        elif unwind is not None and fixup.target in unwind.anchors:
            symbol = builder.symbol("")
            places[symbol] = (*unwind.anchors[fixup.target], 0)
        elif fixup.target in builder.functions:
            symbol = builder.functions[fixup.target]
        else:
            symbol = builder.undefined(fixup.target)
        builder.relocate(section, fixup.offset, fixup.kind, symbol, fixup.addend)
    if code.return_site is not None:
        sites = builder.buffer(".return_sites")
        sites.extend(bytes(4))
        builder.point(".return_sites", len(sites) - 4, section, code.return_site, architecture.relative)
    exidx = _EXIDX[section]
    if code.unwind_entry is not None and any(member.section(exidx) for member in members):
        builder.add(exidx)
        builder.buffer(exidx)[:] = struct.pack("<II", 0, code.unwind_entry[1])
        builder.point(exidx, 0, section, code.entry, code.unwind_entry[0])
    return code.entry + code.bit


def add_unwind(builder: Builder, unwind: Unwind, functions: Sequence[Function]) -> dict[str, tuple[str, int]]:
    """ORC entries for the glue, or every frame below it is a guess (seen), and room for the table of all entries.
    Returns what the code refers to."""
    frames = [(function.section, *frame) for function in functions for frame in function.code.frames]
    for section, offset, depth in frames:
        at = len(builder.buffer(ORC_IP))
        builder.buffer(ORC_IP).extend(bytes(IP_SIZE))
        builder.point(ORC_IP, at, section, offset, builder.architecture.relative)
        # An all-zero entry ends the known code: undefined (arch/x86/kernel/unwind_orc.c orc_find()).
        builder.buffer(ORC_STATE).extend(struct.pack("<h", depth) + unwind.usual if depth else bytes(STATE.itemsize))
    late = sum(section == ".init.text" for section, _, _ in frames)
    slots = unwind.slots + len(frames) + late
    for name, size in ((SORTED_IP, IP_SIZE), (SORTED_STATE, STATE.itemsize)):
        builder.add(name)
        builder.written_once.add(name)
        builder.buffer(name).extend(bytes(size * slots))
    named = {name: (name, 0) for name in (ORC_IP, ORC_STATE, SORTED_IP, SORTED_STATE)}
    # Without code of a member in a section the glue's is all there is.
    return named | {
        function.section: (function.section, 0) for function in functions if function.section not in unwind.anchors
    }
