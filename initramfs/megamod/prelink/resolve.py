"""Pass 2, resolve: bind the imports of members to the exports of other members; the rest are kernel imports.

Needs: members as read. Guarantees: all members are of one kernel build (machine, vermagic, struct module, versions),
may be merged at all (licence, taint), and every undefined symbol is either bound to one export whose CRC and namespace
fit, or listed once as a kernel import with the one CRC that all members agree on. After this there are no new symbols
but the glue's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from megamod.common.errors import MegamodError
from megamod.prelink import elf
from megamod.prelink.exports import Export, reserved
from megamod.prelink.member import Member
from megamod.prelink.mergeable import GPL_COMPATIBLE, taint_of
from megamod.prelink.struct_module import THIS_MODULE

LAYOUT = "module_layout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What each undefined symbol means; member numbers are positions in the input.

    bindings: per member, symbol index → (exporting member, export). depends: per member, the members it imports from.
    kernel: name → CRC (None without versions) of what the kernel or another module must provide.
    """

    bindings: tuple[Mapping[int, tuple[int, Export]], ...]
    depends: tuple[frozenset[int], ...]
    kernel: Mapping[str, int | None]
    has_versions: bool
    has_extended_versions: bool


class OddMemberError(MegamodError):
    """The kernel may take the module that the message begins with, but it cannot be with the other members."""


def resolve(members: Sequence[Member], *, allow_taint: bool = False) -> Resolution:
    """Bind imports to exports; raise MegamodError for members that cannot be in one megamodule."""
    if not members:
        raise MegamodError("nothing to link: no modules were given")
    _check_same_build(members)
    _check_constructors(members)
    for member in members:
        _check_licence(member, allow_taint)
    exporters = _index_exports(members)
    _check_versions(members, exporters)
    bindings, depends = [], []
    for number, member in enumerate(members):
        bound = {i: exporters[name] for i, name in member.imports.items() if name in exporters}
        _check_namespaces(member, members, bound.values())
        bindings.append(bound)
        depends.append(frozenset(exporter for exporter, _ in bound.values()) - {number})
    kernel: dict[str, int | None] = {}
    for member in members:
        for name in member.imports.values():
            if name not in exporters:
                kernel.setdefault(name, member.versions.get(name))
    if any(LAYOUT in member.versions for member in members):
        kernel.setdefault(LAYOUT, next(m.versions[LAYOUT] for m in members if LAYOUT in m.versions))
    return Resolution(
        bindings=tuple(bindings),
        depends=tuple(depends),
        kernel=kernel,
        has_versions=any(m.has_versions for m in members),
        has_extended_versions=any(m.has_extended_versions for m in members),
    )


def check_names(members: Sequence[Member]) -> None:
    """Raise MegamodError for a module that is given twice."""
    known: dict[str, Member] = {}
    for member in members:
        if member.name in known:
            raise MegamodError(
                f"{member.file}: module {member.name} is given twice (also as {known[member.name].file})",
                hint="name it once",
            )
        known[member.name] = member


def _check_same_build(members: Sequence[Member]) -> None:
    # The odd one out is the one to name, and it may be the first.
    kinds = [(m.machine, m.e_flags, m.info("vermagic"), m.sections[m.this_module].size) for m in members]
    usual = Counter(kinds).most_common(1)[0][0]
    first = members[kinds.index(usual)]
    for member in members:
        if member.machine != first.machine:
            raise MegamodError(
                f"{member.file}: built for {machine_name(member.machine)}, {first.file} for "
                f"{machine_name(first.machine)}",
                hint="take all modules from one lib/modules folder",
            )
        if member.e_flags != first.e_flags:
            # What the code may expect of the machine: arm's ABI version, riscv's float ABI (psABI of each).
            raise OddMemberError(
                f"{member.file}: ELF header: e_flags {member.e_flags:#x}, {first.file} has {first.e_flags:#x}",
                hint="take all modules from one lib/modules folder",
            )
        if member.info("vermagic") != first.info("vermagic"):
            raise MegamodError(
                f"{member.file}: vermagic '{member.info('vermagic')}' differs from {first.file}'s "
                f"'{first.info('vermagic')}'",
                hint="take all modules from one lib/modules folder",
            )
        size, reference = (m.sections[m.this_module].size for m in (member, first))
        if size != reference:
            raise MegamodError(
                f"{member.file}: {THIS_MODULE}: struct module has {size} bytes, in {first.file} it has {reference}",
                hint="take all modules from one lib/modules folder",
            )


def _check_constructors(members: Sequence[Member]) -> None:
    """The kernel refuses a module with both tables (kernel/module/main.c find_module_sections(), 6.1): compilers differ
    in which they make of a constructor."""
    having = {
        name: [m for m in members if (section := m.section(name)) is not None and section.size]
        for name in (".ctors", ".init_array")
    }
    if all(having.values()):
        name, odd = min(having.items(), key=lambda found: len(found[1]))
        raise OddMemberError(
            f"{odd[0].file}: has its constructors in {name}, other members elsewhere, and the kernel takes one table"
        )


def machine_name(machine: int) -> str:
    """The kernel's word for an ELF machine number."""
    return elf.MACHINE_NAMES.get(machine, f"ELF machine {machine}")


def _check_licence(member: Member, allow_taint: bool) -> None:
    licence = member.info("license")
    if licence not in GPL_COMPATIBLE:
        # Declaring such a member GPL would circumvent EXPORT_SYMBOL_GPL: not ours to do.
        raise MegamodError(
            f"{member.file}: its licence '{licence or 'unspecified'}' is not GPL-compatible, it cannot be merged",
            hint="leave it out; it can be loaded on its own later",
        )
    taint = taint_of(member)
    if taint is not None and not allow_taint:
        raise MegamodError(
            f"{member.file}: the module is {taint} and would taint the kernel with all other members",
            hint="allow-taint: true in the profile or --allow-taint permits it",
        )


def _index_exports(members: Sequence[Member]) -> dict[str, tuple[int, Export]]:
    exporters: dict[str, tuple[int, Export]] = {}
    for number, member in enumerate(members):
        for export in member.exports:
            if export.name in exporters:
                other = members[exporters[export.name][0]]
                raise OddMemberError(f"{member.file}: exports {export.name}, which {other.file} exports too")
            exporters[export.name] = (number, export)
    return exporters


def _check_versions(members: Sequence[Member], exporters: Mapping[str, tuple[int, Export]]) -> None:
    """Every importer's CRC equals the exporter's, and all members agree on every kernel symbol's.

    What most members have is right where no member exports the symbol; the error names the member that is wrong most
    often, and a few of its symbols.
    """
    agreed: dict[str, tuple[int, str]] = {
        name: (export.crc, members[number].file)
        for name, (number, export) in exporters.items()
        if export.crc is not None
    }
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    for member in members:
        for name, crc in member.versions.items():
            if name not in agreed:
                seen[name][crc] += 1
    usual = {name: counts.most_common(1)[0][0] for name, counts in seen.items()}
    for member in members:
        for name, crc in member.versions.items():
            if usual.get(name) == crc:
                agreed.setdefault(name, (crc, member.file))
    wrong: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for member in members:
        for name, crc in sorted(member.versions.items()):
            reference, source = agreed[name]
            if crc != reference:
                wrong[member.file].append((name, f"{member.file} has {crc:#010x}, {source} {reference:#010x}"))
    if wrong:
        file, sites = max(wrong.items(), key=lambda found: len(found[1]))
        name, site = sites[0]
        more = f", and {len(sites) - 1} symbols more" if len(sites) > 1 else ""
        raise MegamodError(
            f"{file}: the version (CRC) of {name} does not match: {site}{more}",
            hint="modules of different builds are mixed; take all from one lib/modules folder",
        )
    if any(m.has_versions for m in members):
        for member in members:
            if LAYOUT not in member.versions:
                raise MegamodError(f"{member.file}: __versions: no entry for {LAYOUT}, the kernel would refuse it")
            for export in member.exports:
                if export.crc is None:
                    raise OddMemberError(f"{member.file}: __kcrctab: no version (CRC) for the export {export.name}")
            for index, name in member.imports.items():
                if name not in exporters and name not in member.versions and index not in member.weak_imports:
                    raise MegamodError(f"{member.file}: __versions: no entry for the import {name}")


def _check_namespaces(member: Member, members: Sequence[Member], bound: Iterable[tuple[int, Export]]) -> None:
    imported = set(member.infos("import_ns"))
    for number, export in bound:
        if reserved(export.namespace) is not None:
            # "module:a,b*" binds to the importing module's own name (6.16+, kernel/module/main.c
            # verify_module_namespace()); the link does here what the kernel would have done.
            continue
        if export.namespace and export.namespace not in imported:
            raise OddMemberError(
                f"{member.file}: uses {export.name} of {members[number].file} from namespace {export.namespace} "
                "without importing it"
            )
