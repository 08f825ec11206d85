"""Pass 4, glue: the one synthetic member that the prelinker adds, made in memory like a module that was read.

Needs: the members in init order and what they need of each other. Guarantees: a member with the megamodule's struct
module, .modinfo, init function, result parameters and the renamed parameter strings; the later passes treat it as any
other. Its undefined symbols are the members' inits and a few kernel imports whose CRC is known.

Source of the structures: include/linux/moduleparam.h, struct kernel_param and struct kparam_array (the same since 4.x);
arch/x86/include/asm/orc_types.h, struct orc_entry (its first field is the stack offset in all versions since 4.14).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from megamod.initramfs.prelink import elf, x86_64
from megamod.initramfs.prelink.elf import Section
from megamod.initramfs.prelink.options import NAME_LIMIT, PrelinkOptions
from megamod.initramfs.prelink.read import THIS_MODULE, Member
from megamod.initramfs.prelink.resolve import Resolution
from megamod.profiles.errors import MegamodError

# A parameter file of sysfs is one page, and param_array_get() (kernel/params.c) does not look: at most 12 bytes an int,
# 21 an unsigned long.
RESULTS_PER_PARAMETER = 256
TIMES_PER_PARAMETER = 128
PARAM_SIZE = 40
_PERM_READ, _PERM_NONE = 0o444, 0
# What the glue imports beside the inits; the CRC of each is taken from any module that imports it too.
IMPORTS_RESULTS = ("param_array_ops", "param_ops_int")
IMPORTS_TIMES = ("ktime_get", "param_ops_ulong")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A member's parameter: its name in the member, and in the megamodule."""

    member: str
    name: str
    renamed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Glue:
    """The synthetic member and what connects it with the others.

    inits: symbol of the glue → (member, section, value). renames: (member, section, entry) of a __param entry → offset
    of the new name in the glue's .rodata. has_results: the result and skip parameters exist.
    """

    member: Member
    inits: Mapping[int, tuple[int, int, int]]
    renames: Mapping[tuple[int, int], Sequence[int]]
    parameters: tuple[Parameter, ...]
    has_results: bool
    rodata: int


def make_glue(
    members: Sequence[Member],
    depends: Sequence[frozenset[int]],
    resolution: Resolution,
    options: PrelinkOptions,
    donors: Mapping[str, int],
) -> Glue:
    """Build the glue for *members* (in init order; *depends* by their positions). donors: CRCs of further symbols."""
    _check_name(options.name)
    builder = _Builder()
    crcs = _known_crcs(members, resolution, donors)
    has_results = options.results and all(name in crcs for name in IMPORTS_RESULTS)
    timed = has_results and all(name in crcs for name in IMPORTS_TIMES)
    template = _template(members)
    for name in (".init.text", ".data", ".rodata", "__param", ".return_sites", ".orc_unwind", ".orc_unwind_ip"):
        builder.add(name)
    this_module = builder.add(THIS_MODULE)
    _add_struct_module(builder, template, options.name, may_lack_init=not options.results)
    skips = _add_results(builder, len(members), has_results=has_results, timed=timed)
    renames, parameters = _rename_parameters(builder, members)
    inits = _add_code(builder, members, depends, skips=skips, timed=timed, options=options)
    _add_modinfo(builder, members, options)
    _add_notes(builder, members, options)
    member = builder.build(options.name, members[0].machine, this_module, crcs)
    return Glue(
        member=member,
        inits=inits,
        renames=renames,
        parameters=parameters,
        has_results=has_results,
        rodata=builder.index(".rodata"),
    )


def _check_name(name: str) -> None:
    limit = NAME_LIMIT[64]
    if not name or len(name) > limit or not all(c.isascii() and (c.isalnum() or c == "_") for c in name):
        raise MegamodError(
            f"module name '{name}': letters, digits and _ are allowed, at most {limit}", hint="choose another --name"
        )


def _known_crcs(members: Sequence[Member], resolution: Resolution, donors: Mapping[str, int]) -> dict[str, int]:
    """CRC of each symbol that the glue may import; without versions they are simply there since 4.x."""
    wanted = (*IMPORTS_RESULTS, *IMPORTS_TIMES, x86_64.RETURN_THUNK)
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


@dataclass(slots=True)
class _Builder:
    """Collects sections, symbols and relocations of the glue; only make_glue() uses it."""

    names: list[str] = field(default_factory=lambda: [""])
    data: list[bytearray] = field(default_factory=lambda: [bytearray()])
    symbols: list[tuple[int, int, int]] = field(default_factory=lambda: [(0, 0, 0)])  # name, shndx, value
    strings: bytearray = field(default_factory=lambda: bytearray(1))
    imports: dict[str, int] = field(default_factory=dict)
    section_symbols: dict[int, int] = field(default_factory=dict)
    relas: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)

    def add(self, name: str) -> int:
        self.names.append(name)
        self.data.append(bytearray())
        index = len(self.names) - 1
        self.symbols.append((0, index, 0))
        self.section_symbols[index] = len(self.symbols) - 1
        return index

    def index(self, name: str) -> int:
        return self.names.index(name)

    def buffer(self, name: str) -> bytearray:
        return self.data[self.index(name)]

    def undefined(self, name: str) -> int:
        """The symbol of a kernel import."""
        if name not in self.imports:
            self.imports[name] = self.symbol(name)
        return self.imports[name]

    def symbol(self, name: str) -> int:
        self.symbols.append((len(self.strings), elf.SHN_UNDEF, 0))
        self.strings += name.encode() + b"\0"
        return len(self.symbols) - 1

    def relocate(self, section: str, offset: int, kind: int, symbol: int, addend: int = 0) -> None:
        self.relas.setdefault(self.index(section), []).append((offset, kind, symbol, addend))

    def point(self, section: str, offset: int, target: str, addend: int, kind: int = x86_64.R_64) -> None:
        """Relocate *section*+*offset* against a section of the glue."""
        self.relocate(section, offset, kind, self.section_symbols[self.index(target)], addend)

    def text(self, value: str) -> int:
        """Add a string to .rodata and give its offset."""
        rodata = self.buffer(".rodata")
        offset = len(rodata)
        rodata += value.encode() + b"\0"
        return offset

    def parameter(self, name: str, permission: int, array: int) -> None:
        """A struct kernel_param with param_array_ops over the kparam_array at .rodata+*array*."""
        table = self.buffer("__param")
        at = len(table)
        table += struct.pack("<QQQHbBxxxxQ", 0, 0, 0, permission, -1, 0, 0)
        self.point("__param", at, ".rodata", self.text(name))
        self.point("__param", at + 8, THIS_MODULE, 0)
        self.relocate("__param", at + 16, x86_64.R_64, self.undefined("param_array_ops"))
        self.point("__param", at + 32, ".rodata", array)

    def array(self, elements: int, size: int, operations: str, data: int, count: int | None) -> int:
        """A struct kparam_array in .rodata over .data+*data*; *count* is where the kernel stores how many were set."""
        rodata = self.buffer(".rodata")
        rodata += bytes(-len(rodata) % 8)
        at = len(rodata)
        rodata += struct.pack("<IIQQQ", elements, size, 0, 0, 0)
        if count is not None:
            self.point(".rodata", at + 8, ".data", count)
        self.relocate(".rodata", at + 16, x86_64.R_64, self.undefined(operations))
        self.point(".rodata", at + 24, ".data", data)
        return at

    def build(self, name: str, machine: int, this_module: int, crcs: Mapping[str, int]) -> Member:
        sections = tuple(self._section(index) for index in range(len(self.names)))
        table = np.zeros(len(self.symbols), elf.SYM64)
        table["st_name"], table["st_shndx"], table["st_value"] = (list(c) for c in zip(*self.symbols, strict=True))
        relas = tuple(
            (target, np.array([(o, t, s, a) for o, t, s, a in rows], elf.RELA64))
            for target, rows in sorted(self.relas.items())
        )
        imported = {symbol: text for text, symbol in self.imports.items()}
        return Member(
            name=name,
            file="glue",
            machine=machine,
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
            this_module=this_module,
            name_offset=0,
        )

    def _section(self, index: int) -> Section:
        name = self.names[index]
        kind = elf.SHT_NOTE if name.startswith(".note.") else elf.SHT_PROGBITS
        flags = {".init.text": elf.SHF_EXECINSTR, ".data": elf.SHF_WRITE, THIS_MODULE: elf.SHF_WRITE}.get(name, 0)
        align = {".init.text": 16, THIS_MODULE: 64, ".return_sites": 1, ".orc_unwind": 1, ".orc_unwind_ip": 1}
        return Section(
            index=index,
            name=name,
            sh_type=kind if index else elf.SHT_NULL,
            sh_flags=(elf.SHF_ALLOC | flags) if index else 0,
            size=len(self.data[index]),
            sh_link=0,
            sh_info=0,
            sh_addralign=align.get(name, 1 if name == ".modinfo" else 4 if kind == elf.SHT_NOTE else 8),
            sh_entsize=0,
            data=memoryview(bytes(self.data[index])),
        )


def _add_struct_module(builder: _Builder, template: Member, name: str, *, may_lack_init: bool) -> None:
    """The template's struct module with our name; its init pointer is the only relocation that is carried over."""
    data = bytearray(template.sections[template.this_module].data)
    old = template.info("name") or ""
    at = template.name_offset
    data[at : at + len(old)] = bytes(len(old))
    data[at : at + len(name)] = name.encode()
    builder.buffer(THIS_MODULE)[:] = data
    for target, rows in template.relas:
        if target != template.this_module:
            continue
        for offset, kind, symbol, _addend in rows.tolist():
            if template.symbol_name(symbol) == "init_module":
                builder.point(THIS_MODULE, offset, ".init.text", 0, kind)
                return
    if may_lack_init:
        return
    raise MegamodError(
        f"{template.file}: no member has an init function, so the kernel would call nothing",
        hint="such libraries need no megamodule of their own; add the modules that use them",
    )


def _add_results(builder: _Builder, count: int, *, has_results: bool, timed: bool) -> list[tuple[int, int, int]]:
    """Result and skip parameters; returns per skip list (first member, list, count) as offsets in .data."""
    data = builder.buffer(".data")
    data += struct.pack("<i", x86_64.RESULT_NOT_RUN) * count
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
        data += bytes(8 * count)
        for number, base in enumerate(range(0, count, TIMES_PER_PARAMETER)):
            length = min(TIMES_PER_PARAMETER, count - base)
            array = builder.array(length, 8, "param_ops_ulong", times + 8 * base, None)
            builder.parameter(f"nanoseconds{number or ''}", _PERM_READ, array)
    return skips


def _add_code(
    builder: _Builder,
    members: Sequence[Member],
    depends: Sequence[frozenset[int]],
    *,
    skips: Sequence[tuple[int, int, int]],
    timed: bool,
    options: PrelinkOptions,
) -> dict[int, tuple[int, int, int]]:
    thunk = any(x86_64.RETURN_THUNK in m.imports.values() and m.section(".return_sites") for m in members)
    code = x86_64.encode_init(
        inits=[member.init is not None for member in members],
        needs=[sorted(needed) for needed in depends],
        skip_chunks=[base for base, _, _ in skips],
        timed=timed,
        return_thunk=thunk,
    )
    builder.buffer(".init.text")[:] = code.code
    places = {"result": 0}
    for number, (_, values, count) in enumerate(skips):
        places |= {f"skip{number}": values, f"skip{number}_count": count}
    if timed:
        places["nanoseconds"] = len(builder.buffer(".data")) - 8 * len(members)
    inits: dict[int, tuple[int, int, int]] = {}
    for fixup in code.fixups:
        kind = x86_64.R_PLT32 if fixup.call else x86_64.R_PC32
        if isinstance(fixup.target, int):
            init = members[fixup.target].init
            assert init is not None
            symbol = builder.symbol("")
            inits[symbol] = (fixup.target, *init)
            builder.relocate(".init.text", fixup.offset, kind, symbol, fixup.addend)
        elif fixup.target in places:
            builder.point(".init.text", fixup.offset, ".data", places[fixup.target] + fixup.addend, kind)
        else:
            builder.relocate(".init.text", fixup.offset, kind, builder.undefined(fixup.target), fixup.addend)
    if code.return_site is not None:
        builder.buffer(".return_sites").extend(bytes(4))
        builder.point(".return_sites", 0, ".init.text", code.return_site, x86_64.R_PC32)
    if options.unwind != "drop":
        _add_unwind(builder, members, code.frames)
    return inits


def _add_unwind(builder: _Builder, members: Sequence[Member], frames: Sequence[tuple[int, int]]) -> None:
    """ORC entries for the glue, or every frame below it is a guess (seen). The bits beside the stack offset are those
    of the members' commonest entry at a function's start, whatever this kernel's layout of them is."""
    tables = [s for m in members if (s := m.section(".orc_unwind")) and s.size and s.size % 6 == 0]
    if not tables:
        return
    records = np.frombuffer(tables[0].data, np.dtype([("sp_offset", "<i2"), ("rest", "V4")]))
    starts = records["rest"][records["sp_offset"] == 8]
    if not len(starts):
        return
    values, counts = np.unique(starts.view("<u4"), return_counts=True)
    usual = struct.pack("<I", int(values[np.argmax(counts)]))
    for offset, depth in frames:
        at = len(builder.buffer(".orc_unwind_ip"))
        builder.buffer(".orc_unwind_ip").extend(bytes(4))
        builder.point(".orc_unwind_ip", at, ".init.text", offset, x86_64.R_PC32)
        # An all-zero entry ends the known code: undefined (arch/x86/kernel/unwind_orc.c orc_find()).
        builder.buffer(".orc_unwind").extend(struct.pack("<h", depth) + usual if depth else bytes(6))


def _rename_parameters(
    builder: _Builder, members: Sequence[Member]
) -> tuple[dict[tuple[int, int], Sequence[int]], tuple[Parameter, ...]]:
    """``name`` becomes ``member.name``, the kernel command line's own syntax; two members' ``debug`` would make sysfs
    refuse the whole load (seen). A name with a dot has a prefix of its own (mmc_block's mmcblk.) and stays."""
    renames: dict[tuple[int, int], Sequence[int]] = {}
    parameters: list[Parameter] = []
    taken: dict[str, str] = {}
    for number, member in enumerate(members):
        for section in member.sections:
            if section.name != "__param" or not section.alloc or not section.size:
                continue
            offsets = []
            for name in parameter_names(member, section):
                renamed = name if "." in name else f"{member.name}.{name}"
                # Within one member a name may repeat with permission 0 (wm97xx-ts has three "mask"): its own affair.
                if taken.get(renamed, member.file) != member.file:
                    raise MegamodError(f"{member.file}: parameter {renamed} is {taken[renamed]}'s too")
                taken[renamed] = member.file
                parameters.append(Parameter(member=member.name, name=name, renamed=renamed))
                offsets.append(builder.text(renamed))
            renames[number, section.index] = offsets
    return renames, tuple(parameters)


def parameter_names(member: Member, section: Section) -> list[str]:
    """The names in one __param table of *member*, in order."""
    if section.size % PARAM_SIZE:
        raise MegamodError(f"{member.file}: __param: {section.size} bytes are no multiple of {PARAM_SIZE}")
    names: dict[int, str] = {}
    for target, rows in member.relas:
        if target != section.index:
            continue
        for offset, _kind, symbol, addend in rows[rows["r_offset"] % PARAM_SIZE == 0].tolist():
            home = int(member.symbols["st_shndx"][symbol])
            at = int(member.symbols["st_value"][symbol]) + addend
            if not 0 < home < len(member.sections) or not 0 <= at < member.sections[home].size:
                raise MegamodError(f"{member.file}: __param+{offset:#x}: the parameter's name lies nowhere")
            text = bytes(member.sections[home].data[at : at + 256]).split(b"\0", 1)[0]
            names[offset // PARAM_SIZE] = text.decode("utf-8", "backslashreplace")
    if sorted(names) != list(range(section.size // PARAM_SIZE)):
        raise MegamodError(f"{member.file}: __param: an entry without a name")
    return [names[entry] for entry in sorted(names)]


def _add_modinfo(builder: _Builder, members: Sequence[Member], options: PrelinkOptions) -> None:
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


def _add_notes(builder: _Builder, members: Sequence[Member], options: PrelinkOptions) -> None:
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
