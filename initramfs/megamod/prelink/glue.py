"""Pass 4, glue: the one synthetic member that the prelinker adds, made in memory like a module that was read.

Needs: the members in init order and what they need of each other. Guarantees: a member with the megamodule's struct
module, .modinfo, init function, result parameters and the renamed parameter strings; the later passes treat it as any
other. Its undefined symbols are the members' inits and a few kernel imports whose CRC is known.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from megamod.common.errors import MegamodError
from megamod.prelink.arch.encoder import GlueRequest, ImageCheck
from megamod.prelink.arch.interface import ORC_IP, ORC_STATE
from megamod.prelink.entry import Entry, entry_of_inits, entry_of_setter
from megamod.prelink.glue_code import LOCK, MODULE, RESULT_NOT_RUN, SLEEP, UNLOCK
from megamod.prelink.glue_functions import add_function, add_unwind, encode_functions
from megamod.prelink.member import Member
from megamod.prelink.module_builder import Builder
from megamod.prelink.options import NAME_LIMIT, PrelinkOptions
from megamod.prelink.parameters import Parameter, rename_parameters
from megamod.prelink.resolve import Resolution
from megamod.prelink.struct_module import THIS_MODULE
from megamod.prelink.unwind import Unwind

# A parameter file of sysfs is one page, and param_array_get() (kernel/params.c) does not look: at most 12 bytes an int,
# 21 an unsigned long.
RESULTS_PER_PARAMETER = 256
TIMES_PER_PARAMETER = 128
_PERM_READ, _PERM_WRITE, _PERM_NONE = 0o444, 0o200, 0
# Sections of the glue with jumps to kernel functions: the output that they become part of → their name.
VENEERS = {output: f"{output}.veneers" for output in (".text", ".init.text", ".exit.text")}
# What the glue imports beside the inits; the CRC of each is taken from any module that imports it too.
IMPORTS_RESULTS = ("param_array_ops", "param_ops_int")
IMPORTS_TIMES = ("ktime_get", "param_ops_ulong")
IMPORTS_RESUME = (LOCK, UNLOCK, SLEEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Glue:
    """The synthetic member and what connects it with the others.

    places: symbol of the glue → (member, section, value). renames: (member, section, entry) of a __param entry → offset
    of the new name in the glue's .rodata. has_results: the result and skip parameters exist. unwind: the entries, with
    the places of the glue's own. notes: what could not be had, for the user.
    """

    member: Member
    places: Mapping[int, tuple[int, int, int]]
    renames: Mapping[tuple[int, int], Sequence[int]]
    parameters: tuple[Parameter, ...]
    has_results: bool
    rodata: int
    unwind: Unwind | None
    check: tuple[int, int] | None
    veneers: Mapping[tuple[str, str], int]
    notes: tuple[str, ...]


def make_glue(
    members: Sequence[Member],
    depends: Sequence[frozenset[int]],
    resolution: Resolution,
    options: PrelinkOptions,
    donors: Mapping[str, int],
    unwind: Unwind | None,
    exported: Container[str] | None = None,
    image: ImageCheck | None = None,
    veneers: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Glue:
    """Build the glue for *members* (in init order; *depends* by their positions). donors: CRCs of further symbols.
    unwind: the entries of all members, if the glue is to settle them."""
    _check_name(options.name, members[0].architecture.bits)
    architecture = members[0].architecture
    builder = Builder(architecture=architecture)
    crcs = _known_crcs(members, resolution, donors)
    if exported is not None:
        crcs = {name: crc for name, crc in crcs.items() if name in exported}
    has_results = options.results and all(name in crcs for name in IMPORTS_RESULTS)
    timed = has_results and all(name in crcs for name in IMPORTS_TIMES)
    template = _template(members)
    inits = entry_of_inits(members, kcfi=options.kcfi)
    setter = entry_of_setter(members, inits, kcfi=options.kcfi)
    missing = _no_resume(members, crcs, setter) if has_results else ""
    for name in (".init.text", ".data", ".rodata", "__param", ".return_sites", ORC_STATE, ORC_IP):
        builder.add(name)
    this_module = builder.add(THIS_MODULE)
    skips = _add_results(builder, len(members), has_results=has_results, timed=timed)
    renames, parameters = rename_parameters(builder, members)
    request = GlueRequest(
        inits=[member.init is not None for member in members],
        needs=[sorted(needed) for needed in depends],
        skip_chunks=[base for base, _, _ in skips],
        timed=timed,
        start=inits.start,
        prefix=inits.prefix,
        thunk=any(architecture.return_thunk in m.imports.values() and m.section(".return_sites") for m in members),
        unwind=unwind.table if unwind is not None else None,
        resumable=has_results and missing is None,
        image=image,
    )
    named = _data_places(builder, skips, len(members), request)
    if request.resumable:
        assert setter is not None
        builder.add(".text")
        unwind = unwind.with_own(".text") if unwind is not None else None
        request = replace(request, unwind=unwind.table if unwind is not None else None)
    functions = encode_functions(architecture, request, inits, setter)
    if unwind is not None:
        named |= add_unwind(builder, unwind, functions)
    places: dict[int, tuple[int, int, int]] = {}
    entry = 0
    for function in functions:
        at = add_function(builder, members, function, named, unwind, places)
        if function.section == ".init.text":
            entry = at
        else:
            builder.parameter_with_setter("resume", _PERM_WRITE, at)
    jumps = _add_veneers(builder, veneers)
    _add_struct_module(builder, template, options.name, entry, may_lack_init=not options.results)
    _add_modinfo(builder, members, options)
    _add_notes(builder, members, options)
    _add_placeholders(builder, members)
    member = builder.build(options.name, this_module, crcs)
    return Glue(
        member=member,
        places=places,
        renames=renames,
        parameters=parameters,
        has_results=has_results,
        rodata=builder.index(".rodata"),
        unwind=unwind,
        check=functions[0].code.check,
        veneers=jumps,
        notes=_missing_notes(crcs, missing, has_results=has_results, timed=timed) if options.results else (),
    )


def _add_veneers(builder: Builder, veneers: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], int]:
    """A jump to each function; returns Glue.veneers."""
    veneer, found = builder.architecture.veneer, {}
    for output, names in veneers.items():
        assert veneer is not None
        section = VENEERS[output]
        builder.add(section)
        builder.code.add(section)
        for name in names:
            at = len(builder.buffer(section))
            builder.buffer(section).extend(veneer.code)
            found[output, name] = builder.symbol("", builder.index(section), value=at)
            for offset, kind in veneer.fields:
                builder.relocate(section, at + offset, kind, builder.undefined(name))
    return found


def _missing_notes(
    crcs: Mapping[str, int], no_resume: str | None, *, has_results: bool, timed: bool
) -> tuple[str, ...]:
    """What the kernel's exports (TRIM_UNUSED_KSYMS leaves few) do not allow, for the user."""
    resume = (f"{no_resume}: if an init oopses or hangs, the members after it are not run",) if no_resume else ()
    if timed:
        return resume
    wanted = IMPORTS_TIMES if has_results else IMPORTS_RESULTS
    missing = ", ".join(name for name in wanted if name not in crcs)
    if has_results:
        return (f"the kernel exports no {missing}: how long each init takes is not recorded", *resume)
    lost = "what becomes of each member is not recorded, none can be skipped, and one init that hangs costs all"
    return (f"the kernel exports no {missing}: {lost}",)


def _no_resume(members: Sequence[Member], crcs: Mapping[str, int], setter: Entry | None) -> str | None:
    """Why there is no parameter resume (glue_code.py), None if there is one; "" if it would be of no use."""
    if sum(member.init is not None for member in members) < 2:
        return ""
    missing = ", ".join(name for name in IMPORTS_RESUME if name not in crcs)
    if missing:
        return f"no module has the version of {missing}"
    if "RANDSTRUCT" in (members[0].info("vermagic") or ""):
        return "the kernel's structures are in random order"
    return None if setter is not None else "no member has what kCFI wants before a parameter's setter"


def _check_name(name: str, bits: int) -> None:
    limit = NAME_LIMIT[bits]
    if not name or len(name) > limit or not all(c.isascii() and (c.isalnum() or c == "_") for c in name):
        raise MegamodError(
            f"module name '{name}': letters, digits and _ are allowed, at most {limit}", hint="choose another --name"
        )


def _known_crcs(members: Sequence[Member], resolution: Resolution, donors: Mapping[str, int]) -> dict[str, int]:
    """CRC of each symbol that the glue may import; without versions they are simply there since 4.x."""
    thunk = members[0].architecture.return_thunk
    wanted = (*IMPORTS_RESULTS, *IMPORTS_TIMES, *IMPORTS_RESUME, *([thunk] if thunk else []))
    if not resolution.has_versions:
        return dict.fromkeys(wanted, 0)
    known = dict(donors)
    for member in members:
        known.update((name, member.versions[name]) for name in wanted if name in member.versions)
    return {name: known[name] for name in wanted if name in known}


def _template(members: Sequence[Member]) -> Member:
    """A member with an init relocation: from one without it the kernel would never call the glue (seen)."""
    for member in members:
        if member.init is not None:
            return member
    return members[0]


def _add_struct_module(builder: Builder, template: Member, name: str, entry: int, *, may_lack_init: bool) -> None:
    """The template's struct module with our name; its init pointer is the only relocation that is carried over: to
    *entry* in .init.text."""
    data = bytearray(template.sections[template.this_module].data)
    old = template.info("name") or ""
    at = template.name_offset
    data[at : at + len(old)] = bytes(len(old))
    data[at : at + len(name)] = name.encode()
    builder.buffer(THIS_MODULE)[:] = data
    for target, rows in template.relas:
        if target != template.this_module:
            continue
        for offset, kind, _symbol, _addend in rows.tolist():
            if offset == template.init_at:
                builder.point(THIS_MODULE, offset, ".init.text", entry, kind)
                return
    if may_lack_init:
        return
    raise MegamodError(
        f"{template.file}: neither it nor another member has an init function, so the kernel would call nothing",
        hint="such libraries need no megamodule of their own; add the modules that use them",
    )


def _add_results(builder: Builder, count: int, *, has_results: bool, timed: bool) -> list[tuple[int, int, int]]:
    """Result and skip parameters; returns per skip list (first member, list, count) as offsets in .data."""
    data, word = builder.buffer(".data"), builder.architecture.word
    data += struct.pack("<i", RESULT_NOT_RUN) * count
    data += bytes(-len(data) % 8)
    if not has_results:
        return []
    skips = []
    for number, base in enumerate(range(0, count, RESULTS_PER_PARAMETER)):
        length = min(RESULTS_PER_PARAMETER, count - base)
        suffix = str(number) if number else ""
        array = builder.array(length, 4, "param_ops_int", 4 * base, None)
        builder.parameter(f"result{suffix}", _PERM_READ, array)
        at = len(data)
        data += bytes(8 + 4 * length)
        data += bytes(-len(data) % 8)
        builder.parameter(f"skip{suffix}", _PERM_NONE, builder.array(length, 4, "param_ops_int", at + 8, at))
        skips.append((base, at + 8, at))
    if timed:
        times = len(data)
        data += bytes(word * count)
        for number, base in enumerate(range(0, count, TIMES_PER_PARAMETER)):
            length = min(TIMES_PER_PARAMETER, count - base)
            array = builder.array(length, word, "param_ops_ulong", times + word * base, None)
            builder.parameter(f"nanoseconds{number or ''}", _PERM_READ, array)
    return skips


def _data_places(
    builder: Builder, skips: Sequence[tuple[int, int, int]], members: int, request: GlueRequest
) -> dict[str, tuple[str, int]]:
    """Section and offset of what the code refers to by name, those of _add_results() and what a resume needs."""
    data = builder.buffer(".data")
    named = {"result": (".data", 0), MODULE: (THIS_MODULE, 0)}
    for number, (_, values, count) in enumerate(skips):
        named |= {f"skip{number}": (".data", values), f"skip{number}_count": (".data", count)}
    if request.timed:
        named["nanoseconds"] = (".data", len(data) - builder.architecture.word * members)
    if request.resumable:
        data += bytes(-len(data) % 4)
        for name in ("turn", "closed", "flows"):
            named[name] = (".data", len(data))
            data += bytes(4)
    return named


def _add_modinfo(builder: Builder, members: Sequence[Member], options: PrelinkOptions) -> None:
    """What the kernel reads first, then what makes the file readable for people (kernel/module/main.c
    check_modinfo(), module_augment_kernel_taints())."""
    entries = [("license", "GPL"), ("name", options.name), ("vermagic", members[0].info("vermagic") or "")]
    if all(member.info("intree") for member in members):
        entries.append(("intree", "Y"))
    if all(member.info("retpoline") for member in members):
        entries.append(("retpoline", "Y"))
    if any(member.info("staging") for member in members):
        entries.append(("staging", "Y"))
    entries += [("import_ns", n) for n in sorted({n for member in members for n in member.infos("import_ns")})]
    entries.append(("description", f"megamodule of {len(members)} modules"))
    entries.append(("megamod", "1"))
    entries += [("megamod.member", member.name) for member in members]
    builder.add(".modinfo")
    builder.buffer(".modinfo")[:] = b"".join(f"{key}={value}".encode() + b"\0" for key, value in entries)


def _add_notes(builder: Builder, members: Sequence[Member], options: PrelinkOptions) -> None:
    """A build id of our own (filled in by emit), and one of each other note; .orc_header must be the same in all."""
    builder.add(".note.gnu.build-id")
    builder.buffer(".note.gnu.build-id")[:] = struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes(20)
    names = sorted({s.name for m in members for s in m.sections if s.alloc and s.name.startswith(".note.")})
    if options.unwind != "drop" and any(m.section(".orc_header") for m in members):
        names.append(".orc_header")
    for name in names:
        if name == ".note.gnu.build-id":
            continue
        holders = [(member, section) for member in members if (section := member.section(name)) is not None]
        first = bytes(holders[0][1].data)
        if name == ".orc_header":
            for member, section in holders:
                if bytes(section.data) != first:
                    raise MegamodError(f"{member.file}: .orc_header differs from {holders[0][0].file}'s")
        builder.add(name)
        builder.buffer(name)[:] = first


def _add_placeholders(builder: Builder, members: Sequence[Member]) -> None:
    """Sections that the kernel looks for, resizes and fills: one of each, as any member has it."""
    for name in sorted(builder.architecture.placeholders):
        section = next((found for member in members if (found := member.section(name)) is not None), None)
        if section is not None:
            builder.copy(section)
