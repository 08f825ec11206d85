"""Pass 5, merge: all members' sections, symbols and relocations as one set of tables, and each section's output.

Needs: members in init order with the glue last, and their bindings. Guarantees: sections, symbols and relocations are
numbered globally; every symbol is a place in a section, a kernel import or an absolute value; every input section has
its row of the merge table (policy.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from megamod.common.choices import Tracing
from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.arch.interface import ORC_IP, ORC_STATE, PAGE, Architecture, Reach
from megamod.prelink.elf import Array
from megamod.prelink.exports import Export
from megamod.prelink.glue import Glue
from megamod.prelink.member import Member
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.section_rules import MergeRule, Placement, entry_size, output_position, place
from megamod.prelink.struct_module import THIS_MODULE

# Tables that the glue has an entry in only if the members have; other empty sections stay, for symbols may point there.
_GLUE_TABLES = frozenset(["__param", ".return_sites", ORC_STATE, ORC_IP])
PERCPU = ".data..percpu"
_PROTECTION = elf.SHF_WRITE | elf.SHF_ALLOC | elf.SHF_EXECINSTR | elf.SHF_RO_AFTER_INIT
# What a symbol is, beside a global section number.
IMPORT, ABSOLUTE, NOTHING = -1, -2, -3


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocations:
    """One row per relocation of a section that stays, in the order of global section numbers.

    section: global number of the section to patch; offset: bytes into it; symbol: global number.
    """

    section: Array
    type: Array
    offset: Array
    symbol: Array
    addend: Array

    def of(self, section: int) -> slice:
        """The rows of one section."""
        low, high = np.searchsorted(self.section, [section, section + 1])
        return slice(int(low), int(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An output section: the union of its inputs' flags, the largest alignment, the inputs in order."""

    name: str
    sh_type: int
    sh_flags: int
    sh_addralign: int
    sh_entsize: int
    rule: MergeRule
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Everything that is linked, as tables.

    members: init order, glue last. section_base: global number of each member's section 0.
    section_output: per section, position in outputs or -1. placements: per section.
    symbol_section: per symbol, a global section or IMPORT, ABSOLUTE, NOTHING; symbol_value: offset, or the value;
    symbol_import: position in imports or -1.
    """

    members: tuple[Member, ...]
    section_base: Array
    section_output: Array
    placements: tuple[Placement, ...]
    outputs: tuple[Output, ...]
    symbol_base: Array
    symbol_section: Array
    symbol_value: Array
    symbol_import: Array
    imports: tuple[str, ...]
    relocations: Relocations

    @property
    def architecture(self) -> Architecture:
        """That of all members."""
        return self.members[0].architecture

    def where(self, section: int) -> tuple[Member, elf.Section]:
        """The member and the section behind a global section number."""
        number = int(np.searchsorted(self.section_base, section, side="right")) - 1
        return self.members[number], self.members[number].sections[section - int(self.section_base[number])]


def merge(
    members: Sequence[Member],
    bindings: Sequence[Mapping[int, tuple[int, Export]]],
    glue: Glue,
    options: PrelinkOptions,
    *,
    sorts_unwind: bool,
) -> Tables:
    """Number everything globally and choose each section's output. *bindings* go by positions in *members*.
    *sorts_unwind*: the glue brings a table of all unwind entries."""
    everyone = (*members, glue.member)
    section_base = _bases([len(m.sections) for m in everyone])
    symbol_base = _bases([len(m.symbols) for m in everyone])
    placements = _place_all(everyone, bindings, options, sorts_unwind=sorts_unwind)
    outputs, section_output = _group(everyone, section_base, placements)
    symbol_section, symbol_value, symbol_import, imports = _symbols(everyone, bindings, glue, section_base)
    relocations = _relocations(everyone, glue, section_base, symbol_base, section_output)
    outputs = _paged(outputs, everyone[0].architecture, relocations, symbol_section, section_output)
    return Tables(
        members=everyone,
        section_base=section_base,
        section_output=section_output,
        placements=tuple(placements),
        outputs=outputs,
        symbol_base=symbol_base,
        symbol_section=symbol_section,
        symbol_value=symbol_value,
        symbol_import=symbol_import,
        imports=imports,
        relocations=relocations,
    )


def _bases(counts: Sequence[int]) -> Array:
    return np.concatenate([[0], np.cumsum(counts)])[:-1].astype(np.int64)


def _has_own_keys(member: Member, bound: Mapping[int, object]) -> bool:
    """Whether a static call of *member* goes by a key that it or another member defines, tracepoints' aside: those
    change with trace events alone. An entry is site and key (struct static_call_site)."""
    section = member.section(".static_call_sites")
    for target, rows in member.relas:
        if section is None or target != section.index:
            continue
        for symbol in np.unique(rows["r_sym"][rows["r_offset"] % 8 == 4]).tolist():
            if symbol in member.imports and symbol not in bound:
                continue
            if not member.symbol_name(symbol).startswith("__SCK__tp_func_"):
                return True
    return False


def _place_all(
    everyone: Sequence[Member], bindings: Sequence[Mapping[int, object]], options: PrelinkOptions, *, sorts_unwind: bool
) -> list[Placement]:
    in_table = Placement(rule=MergeRule.DROPPED, why="sorted into the glue's table")
    placements = []
    for member, bound in zip(everyone[:-1], bindings, strict=True):
        own_keys = options.tracing == Tracing.KEEP or _has_own_keys(member, bound)
        for section in member.sections:
            entry = entry_size(section.name, member.architecture)
            if section.alloc and section.size % entry:
                raise MegamodError(f"{member.file}: {section.name}: {section.size} bytes are not a multiple of {entry}")
            usual = place(section, options, member.architecture, own_keys=own_keys)
            placements.append(in_table if sorts_unwind and usual.output in (ORC_IP, ORC_STATE) else usual)
    for section in everyone[-1].sections:
        # The glue brings what the others' is rebuilt from; its tables join theirs.
        usual = place(section, options, everyone[-1].architecture, own_keys=False)
        rebuilt = usual.rule is MergeRule.REBUILT
        placements.append(Placement(rule=MergeRule.ALIGNED, output=section.name) if rebuilt else usual)
    return placements


def _group(
    everyone: Sequence[Member], section_base: Array, placements: Sequence[Placement]
) -> tuple[tuple[Output, ...], Array]:
    inputs: dict[str, list[int]] = {}
    sections = [section for member in everyone for section in member.sections]
    glue_this = int(section_base[-1]) + everyone[-1].this_module
    for number, placement in enumerate(placements):
        if placement.output:
            inputs.setdefault(placement.output, []).append(number)
    section_output = np.full(len(sections), -1, np.int32)
    outputs: list[Output] = []
    for name, numbers in sorted(inputs.items(), key=lambda item: output_position(item[0])):
        if name in _GLUE_TABLES and not any(sections[n].size for n in numbers):
            continue
        flags = 0
        for number in numbers:
            flags |= sections[number].sh_flags & _PROTECTION
        _check_protection(everyone, section_base, name, {n: sections[n] for n in numbers})
        kept = [glue_this] if name == THIS_MODULE else numbers
        section_output[numbers] = len(outputs)
        if sections[kept[0]].sh_type == elf.SHT_ARM_EXIDX:
            # The kernel searches it by address and does not sort it: the order of the code, whatever the sections'.
            kept.sort(key=lambda number: _linked(everyone, section_base, number))
        nobits = all(sections[n].sh_type == elf.SHT_NOBITS for n in kept)
        first = sections[kept[0]]
        outputs.append(
            Output(
                name=name,
                sh_type=elf.SHT_NOBITS if nobits else _type_of(first.sh_type),
                sh_flags=flags,
                sh_addralign=max(sections[n].sh_addralign for n in kept),
                sh_entsize=first.sh_entsize if placements[kept[0]].rule in (MergeRule.PACKED, MergeRule.SORTED) else 0,
                rule=placements[kept[0]].rule,
                inputs=tuple(kept),
            )
        )
    return tuple(outputs), section_output


def _paged(
    outputs: tuple[Output, ...],
    architecture: Architecture,
    relocations: Relocations,
    symbol_section: Array,
    section_output: Array,
) -> tuple[Output, ...]:
    """Outputs that fields depend on by their place in a page start at one, so that those fields are known now: the
    kernel lays sections out by their sh_addralign in page-aligned memory (kernel/module/main.c layout_sections())."""
    kinds = architecture.of(Reach.PAGE, Reach.OFFSET)
    if not kinds:
        return outputs
    home = symbol_section[relocations.symbol[np.isin(relocations.type, kinds)]]
    wanted = set(np.unique(section_output[home[home >= 0]]).tolist())
    # Per-processor data goes to a common reserve of 8 KiB, where few places begin a page (kernel/module/main.c
    # percpu_modalloc()).
    wanted -= {number for number, output in enumerate(outputs) if output.name == PERCPU}
    return tuple(
        replace(output, sh_addralign=max(output.sh_addralign, PAGE)) if number in wanted else output
        for number, output in enumerate(outputs)
    )


def _check_protection(
    everyone: Sequence[Member], section_base: Array, name: str, inputs: Mapping[int, elf.Section]
) -> None:
    """One input's flags hold for the whole output: nothing becomes writable code, and no data becomes code."""
    code = [n for n, section in inputs.items() if section.sh_flags & elf.SHF_EXECINSTR]
    writable = [n for n, section in inputs.items() if section.sh_flags & elf.SHF_WRITE]
    data = [n for n, section in inputs.items() if section.size and not section.sh_flags & elf.SHF_EXECINSTR]
    for others, what in ((writable, "be writable and executable"), (data, "hold code and data")):
        if code and others:
            # The odd one out, and not the glue, which comes last.
            number = min(sorted([others, code], key=len), key=lambda found: found[0] >= int(section_base[-1]))[0]
            raise MegamodError(f"{_file_of(everyone, section_base, number)}: {name} would {what} at once")


def _linked(everyone: Sequence[Member], section_base: Array, number: int) -> int:
    """The global number of the code section that an unwind index belongs to."""
    position = int(np.searchsorted(section_base, number, side="right")) - 1
    base = int(section_base[position])
    member = everyone[position]
    code = member.section(member.sections[number - base].name.removeprefix(elf.EXIDX) or ".text")
    return base + code.index if code is not None else number


def _type_of(sh_type: int) -> int:
    return elf.SHT_PROGBITS if sh_type == elf.SHT_NOBITS else sh_type


def _file_of(everyone: Sequence[Member], section_base: Array, section: int) -> str:
    return everyone[int(np.searchsorted(section_base, section, side="right")) - 1].file


def _symbols(
    everyone: Sequence[Member],
    bindings: Sequence[Mapping[int, tuple[int, Export]]],
    glue: Glue,
    section_base: Array,
) -> tuple[Array, Array, Array, tuple[str, ...]]:
    numbers: dict[str, int] = {}
    homes, values, imported = [], [], []
    for position, member in enumerate(everyone):
        base = int(section_base[position])
        shndx = member.symbols["st_shndx"].astype(np.int64)
        home = shndx + base
        home[shndx == elf.SHN_ABS] = ABSOLUTE
        home[shndx == elf.SHN_UNDEF] = NOTHING
        value = member.symbols["st_value"].astype(np.int64)
        imports = np.full(len(shndx), -1, np.int32)
        bound = bindings[position] if position < len(bindings) else {}
        for symbol, name in member.imports.items():
            if symbol in bound:
                exporter, export = bound[symbol]
                home[symbol] = int(section_base[exporter]) + export.section
                value[symbol] = export.value
            else:
                home[symbol] = IMPORT
                value[symbol] = 0
                imports[symbol] = numbers.setdefault(name, len(numbers))
        if position == len(everyone) - 1:
            for symbol, (number, section, offset) in glue.places.items():
                home[symbol] = int(section_base[number]) + section
                value[symbol] = offset
        homes.append(home)
        values.append(value)
        imported.append(imports)
    return np.concatenate(homes), np.concatenate(values), np.concatenate(imported), tuple(numbers)


def _relocations(
    everyone: Sequence[Member], glue: Glue, section_base: Array, symbol_base: Array, section_output: Array
) -> Relocations:
    """Relocations of sections that stay; parameter names point to the glue's new strings."""
    glue_position = len(everyone) - 1
    new_names = int(symbol_base[glue_position]) + _section_symbol(glue.member, glue.rodata)
    this_glue = int(section_base[glue_position]) + glue.member.this_module
    entry = glue.member.architecture.parameter_entry
    parts: list[tuple[int, Array, Array, Array, Array]] = []
    for position, member in enumerate(everyone):
        for target, rows in member.relas:
            section = int(section_base[position]) + target
            shared = target == member.this_module and section != this_glue
            if section_output[section] < 0 or shared:
                continue
            offset, addend = rows["r_offset"].astype(np.int64), rows["r_addend"].copy()
            symbol = rows["r_sym"].astype(np.int64) + int(symbol_base[position])
            if (position, target) in glue.renames:
                names = offset % entry == 0
                symbol[names] = new_names
                addend[names] = np.array(glue.renames[position, target], np.int64)[offset[names] // entry]
            parts.append((section, rows["r_type"], offset, symbol, addend))
    parts.sort(key=lambda part: part[0])
    counts = [len(part[1]) for part in parts]
    return Relocations(
        section=np.repeat(np.array([part[0] for part in parts], np.int64), counts),
        type=np.concatenate([part[1] for part in parts]),
        offset=np.concatenate([part[2] for part in parts]),
        symbol=np.concatenate([part[3] for part in parts]),
        addend=np.concatenate([part[4] for part in parts]),
    )


def _section_symbol(member: Member, section: int) -> int:
    found = np.flatnonzero((member.symbols["st_shndx"] == section) & (member.symbols["st_name"] == 0))
    return int(found[0])
