"""Parameters that cannot be set before other members' inits: their setter works on what another module's init makes.

The kernel sets a module's parameters before it calls its init. For a module on its own everything that it imports from
has been initialised by then; in a megamodule nothing has. A setter of the module's own that calls such a module (in
block2mtd and phram it registers a device) would find it not initialised: seen, a NULL dereference.

What a function may touch is what its relocations and branches name, and so on from there, in the modules that it
imports from, too; data is followed through the pointers in it. That is more than it does, never less, except by a
pointer that is computed or kept in allocated memory. Where a symbol table has no symbols left, or the branches of the
architecture are not decoded here, a whole section counts as one object.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from megamod.prelink import elf
from megamod.prelink.elf import SHF_EXECINSTR, SHF_WRITE, SHN_LORESERVE, STT_FUNC, STT_OBJECT, Array
from megamod.prelink.exports import Export
from megamod.prelink.member import Member
from megamod.prelink.parameter_kinds import own_setters
from megamod.prelink.struct_module import THIS_MODULE

_X86_RELATIVE = (2, 4)  # R_X86_64_PC32, R_X86_64_PLT32
# From the field to the end of the instruction: a branch ends with it, others may have an immediate of 1 or 4 bytes.
_X86_BRANCH, _X86_ENDS = (4,), (4, 5, 8)
# struct module names init and exit, which no setter calls by it; the records of pr_debug() are read by nobody's init.
_NOT_FOLLOWED = ("__dyndbg", THIS_MODULE)


@dataclass(frozen=True, slots=True, order=True)
class _Object:
    """A function, a variable, or a section without symbols: *start* in *section* of *module*."""

    module: str
    section: int
    start: int


def needs_initialised(member: Member, others: Mapping[str, Member]) -> tuple[str, str] | None:
    """(parameter, module): a parameter of *member* whose setter touches variables that the init of the *module* touches
    too; *others* are the modules, by name, whose inits a megamodule would run later. None if there is no such."""
    setters = own_setters(member)
    if not setters:
        return None
    exporters = {
        export.name: (other, export) for other in others.values() if other is not member for export in other.exports
    }
    if not any(name in exporters for name in member.imports.values()):
        return None
    program = _Program(exporters)
    for name, setter in setters:
        if setter is None or member.architecture.addends_in_place:
            # Nothing can be followed; so say which module it may be.
            first = next(exporters[symbol][0] for symbol in member.imports.values() if symbol in exporters)
            return name, first.name
        touched = program.reach([(member, *setter)])
        for other in sorted({found.module for found in touched} - {member.name}):
            init = others[other].init
            if init is None:
                continue
            common = {found for found in touched if found.module == other and program.is_variable(found)}
            if common & program.reach([(others[other], *init)]):
                return name, other
    return None


@dataclass(slots=True)
class _Program:
    """Modules with who exports what, and what has been found out about each."""

    exporters: Mapping[str, tuple[Member, Export]]
    members: dict[str, Member] = field(default_factory=dict)
    starts: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    fields: dict[tuple[str, int], tuple[Array, Array]] = field(default_factory=dict)

    def reach(self, places: Iterable[tuple[Member, int, int]]) -> frozenset[_Object]:
        """Everything that may be touched from *places* (member, section, offset) on."""
        queue = [self.object_at(*place) for place in places]
        seen = set(queue)
        for found in queue:
            fresh = {target for target in self._targets(found) if target not in seen}
            seen |= fresh
            queue += sorted(fresh)
        return frozenset(seen)

    def is_variable(self, found: _Object) -> bool:
        flags = self.members[found.module].sections[found.section].sh_flags
        return bool(flags & SHF_WRITE) and not flags & SHF_EXECINSTR

    def object_at(self, member: Member, section: int, offset: int) -> _Object:
        self.members[member.name] = member
        starts = self._starts(member, section)
        return _Object(member.name, section, starts[max(bisect_right(starts, offset) - 1, 0)])

    def _starts(self, member: Member, section: int) -> list[int]:
        key = member.name, section
        if key not in self.starts:
            symbols = member.symbols
            kinds = symbols["st_info"] & 0xF
            code = member.sections[section].sh_flags & SHF_EXECINSTR
            # Other symbols may be labels inside of functions (riscv64).
            inside = (symbols["st_shndx"] == section) & ((kinds == STT_FUNC) | (kinds == STT_OBJECT))
            known = not code or member.machine in _BRANCHES
            self.starts[key] = sorted({0, *(symbols["st_value"][inside].tolist() if known else ())})
        return self.starts[key]

    def _fields(self, member: Member, section: int) -> tuple[Array, Array]:
        """The relocations of a section in the order of their offsets, and these."""
        key = member.name, section
        if key not in self.fields:
            rows = next((rows for target, rows in member.relas if target == section), np.zeros(0, elf.RELA64))
            rows = rows[np.argsort(rows["r_offset"], kind="stable")]
            self.fields[key] = rows["r_offset"].astype(np.int64), rows
        return self.fields[key]

    def _targets(self, found: _Object) -> Iterable[_Object]:
        member = self.members[found.module]
        starts = self._starts(member, found.section)
        at = bisect_right(starts, found.start)
        end = starts[at] if at < len(starts) else member.sections[found.section].size
        offsets, rows = self._fields(member, found.section)
        if member.sections[found.section].sh_flags & SHF_EXECINSTR and member.machine in _BRANCHES:
            content = np.frombuffer(member.sections[found.section].data, np.uint8)
            fields, leads_to = _BRANCHES[member.machine](content, found.start, end)
            # A field may begin behind the last opcode.
            near = offsets[slice(*np.searchsorted(offsets, (found.start, end + 4)))]
            leads_to = leads_to[~np.isin(fields, near)]
            for value in np.intersect1d(leads_to, starts).tolist():
                yield _Object(found.module, found.section, value)
        first, last = np.searchsorted(offsets, (found.start, end))
        for _offset, kind, symbol, addend in rows[first:last].tolist():
            if symbol in member.imports:
                if (found_export := self.exporters.get(member.imports[symbol])) is not None:
                    other, export = found_export
                    yield self.object_at(other, export.section, export.value)
                continue
            home = int(member.symbols["st_shndx"][symbol])
            if not 0 < home < min(SHN_LORESERVE, len(member.sections)):
                continue
            section = member.sections[home]
            if section.name in _NOT_FOLLOWED:
                continue
            value = int(member.symbols["st_value"][symbol]) + addend
            ends: tuple[int, ...] = (0,)
            if member.machine == elf.EM_X86_64 and kind in _X86_RELATIVE:
                ends = _X86_BRANCH if section.sh_flags & SHF_EXECINSTR else _X86_ENDS
            yield from (self.object_at(member, home, value + more) for more in ends)


def _branches_x86_64(content: Array, start: int, end: int) -> tuple[Array, Array]:
    """Branches in content[start:end], as (offset of the distance, where it leads to); any byte may be an opcode. The
    assembler leaves no relocation for those that stay in a section."""
    code = np.zeros(end - start + 8, np.uint8)
    part = content[start : end + 8]
    code[: len(part)] = part
    first, second = code[:-8], code[1:-7]
    at = np.arange(start, end, dtype=np.int64)
    long = np.isin(first, (0xE8, 0xE9))  # call, jmp
    conditional = (first == 0x0F) & (second >> 4 == 8)
    short = (first == 0xEB) | (first >> 4 == 7)
    fields = np.concatenate((at[long] + 1, at[conditional] + 2))
    words = sum(code[fields - start + n].astype(np.uint32) << (8 * n) for n in range(4))
    ends = fields + 4 + np.asarray(words, np.uint32).view(np.int32)
    near = at[short] + 2 + second[short].view(np.int8)
    return np.concatenate((fields, at[short] + 1)), np.concatenate((ends, near))


def _branches_arm64(content: Array, start: int, end: int) -> tuple[Array, Array]:
    """The same: B, BL and B.cond, CBZ, CBNZ; TBZ does not reach another function."""
    first = start + -start % 4
    words = content[first : first + max(end - first, 0) // 4 * 4].view("<u4")
    at = first + 4 * np.arange(len(words), dtype=np.int64)
    far = words & 0x7C000000 == 0x14000000
    near = (words & 0xFF000010 == 0x54000000) | (words & 0x7E000000 == 0x34000000)
    distances = ((words << 6).view(np.int32) >> 6, (words << 8).view(np.int32) >> 13)
    ends = [at[kind] + 4 * by[kind].astype(np.int64) for kind, by in zip((far, near), distances, strict=True)]
    return np.concatenate((at[far], at[near])), np.concatenate(ends)


_BRANCHES = {elf.EM_X86_64: _branches_x86_64, elf.EM_AARCH64: _branches_arm64}
