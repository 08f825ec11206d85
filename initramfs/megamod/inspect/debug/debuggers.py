"""What gdb, crash and drgn must be told so that each member's own debug file lies at its place in the megamodule.

Needs the map, the addresses of the megamodules' sections in the running kernel (or in its dump), and the debug files.
Debug information of a module is relative to its sections, and every section that was merged has moved on its own, so
each gets its address. Sections of init code are left out unless asked for: the kernel has freed them, and their
addresses may be somebody else's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megamod.build.link_map import LinkMap, MapMember, Megamap
from megamod.common.errors import MegamodError
from megamod.inspect.debug.debug_files import DebugFiles
from megamod.inspect.debug.places import Loaded

Debugger = Literal["gdb", "crash", "drgn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedMember:
    """A member in the running kernel: address and size of each of its sections; file: its debug file.

    outputs: section → the megamodule's section that the address counts from, where that one's is not known yet.
    """

    member: MapMember
    megamodule: str
    file: Path
    sections: Mapping[str, tuple[int, int]]
    outputs: Mapping[str, str]


def place_members(
    link_map: LinkMap, loaded: Mapping[str, Loaded], debug: DebugFiles, *, only: frozenset[str], init: bool
) -> tuple[list[PlacedMember], list[str]]:
    """Every member (or *only* those named) whose address and debug file are known, and the names of those without a
    debug file."""
    known = {member.name for megamodule in link_map.megamodules.values() for member in megamodule.members}
    if missing := sorted(only - known):
        raise MegamodError(f"{link_map.source}: there is no member {', '.join(missing)}")
    found, without = [], []
    for name, here in loaded.items():
        megamodule = link_map.megamodules[name]
        for number, member in enumerate(megamodule.members):
            if only and member.name not in only:
                continue
            path = debug.path(member)
            # No debugger unpacks one itself.
            if path is None or path.suffix in (".xz", ".zst", ".gz"):
                without.append(member.name)
                continue
            sections = member_sections(megamodule, number, here.sections, init=init)
            outputs = {c.section: c.output for c in megamodule.chunks if c.member == number} if here.unknown else {}
            found.append(PlacedMember(member=member, megamodule=name, file=path, sections=sections, outputs=outputs))
    return found, without


def member_sections(
    megamodule: Megamap, number: int, addresses: Mapping[str, int], *, init: bool = False
) -> dict[str, tuple[int, int]]:
    """Section of the member → its address and size."""
    found: dict[str, tuple[int, int]] = {}
    for chunk in megamodule.chunks:
        if chunk.member != number or chunk.output not in addresses:
            continue
        if chunk.size and (init or not chunk.output.startswith(".init")):
            found.setdefault(chunk.section, (addresses[chunk.output] + chunk.offset, chunk.size))
    return found


def script(debugger: Debugger, placed: list[PlacedMember], link_map: LinkMap) -> str:
    """Commands for gdb or crash, or a script for drgn."""
    if debugger == "drgn":
        return _drgn(placed, link_map)
    return {"gdb": _gdb, "crash": _crash}[debugger](placed)


def _gdb(placed: list[PlacedMember]) -> str:
    lines = ["# gdb: source this file, after `file vmlinux` and `target remote` or a core, if any", "set confirm off"]
    for item in placed:
        lines += [f"# {item.member.name} in {item.megamodule}", _add_symbol_file(item)]
    return "\n".join([*lines, "set confirm on", ""])


def _add_symbol_file(item: PlacedMember) -> str:
    # gdb takes its arguments apart as a shell does (gdb/symfile.c add_symbol_file_command(), gdb_buildargv()).
    words = ["add-symbol-file", shlex.quote(str(item.file))]
    sections = dict(item.sections)
    if ".text" in sections:
        words.append(f"{sections.pop('.text')[0]:#x}")
    return " ".join([*words, *(f"-s {shlex.quote(name)} {address:#x}" for name, (address, _) in sections.items())])


def _crash(placed: list[PlacedMember]) -> str:
    # crash's own `mod -s` looks for a module of that name in the kernel's list; the gdb in it does not.
    lines = ["# crash: `crash -i FILE …`, or `< FILE` at its prompt"]
    for item in placed:
        lines += [f"# {item.member.name} in {item.megamodule}", f"gdb {_add_symbol_file(item)}"]
    return "\n".join([*lines, ""])


_DRGN = '''\
"""drgn: exec(open(FILE).read()) at its prompt; or call load_members(prog) with a program of your own."""
import drgn

_MEGAMODULES = {megamodules}
# Name, build id, debug file, megamodule; section: (counted from this section of the megamodule, address, size).
_MEMBERS = {members}


def _bases(prog):
    """The addresses of the megamodules' sections, by the program itself, which needs the kernel's debug information."""
    found = {}
    for module, _ in prog.loaded_modules():
        if module.name in _MEGAMODULES:
            if module.build_id and module.build_id.hex() != _MEGAMODULES[module.name]:
                raise ValueError(f"{module.name}: build id {module.build_id.hex()}: the map is of another build")
            found[module.name] = dict(module.section_addresses)
    return found


def load_members(prog):
    bases = _bases(prog) if any(row[0] for *_, rows in _MEMBERS for row in rows.values()) else {}
    for module in prog.modules():
        if module.name in _MEGAMODULES:
            module.address_ranges = []  # its addresses are the members' from now on
    for name, build_id, path, megamodule, rows in _MEMBERS:
        known = bases.get(megamodule, {})
        sections = {
            section: (address + (known[output] if output else 0), size)
            for section, (output, address, size) in rows.items()
            if not output or output in known
        }
        if not sections:
            continue  # this megamodule is not loaded
        start, _ = sections.get(".text") or min(sections.values())
        module = prog.relocatable_module(name, start, create=True)
        module.build_id = bytes.fromhex(build_id)
        for section, (address, _) in sections.items():
            module.section_addresses[section] = address
        # A member's sections lie between those of others.
        module.address_ranges = sorted((address, address + size) for address, size in sections.values())
        module.try_file(path, force=True)


if "prog" in globals():
    load_members(prog)
'''


def _drgn(placed: list[PlacedMember], link_map: LinkMap) -> str:
    megamodules = {name: megamodule.build_id for name, megamodule in link_map.megamodules.items()}
    members = "".join(
        f"    ({item.member.name!r}, {item.member.build_id!r}, {str(item.file)!r}, {item.megamodule!r}, {{\n"
        + "".join(
            f"        {name!r}: ({item.outputs.get(name)!r}, {address:#x}, {size:#x}),\n"
            for name, (address, size) in item.sections.items()
        )
        + "    }),\n"
        for item in placed
    )
    return _DRGN.replace("{megamodules}", repr(megamodules)).replace("{members}", f"[\n{members}]")
