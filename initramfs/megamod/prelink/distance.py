"""Pass 3c, distance: which imports of the kernel are known by their distance from one of them, the anchor.

The kernel looks for each import among the version entries one after the other (kernel/module/version.c
check_version()): half of what a call costs, and it grows with the square of the imports. A symbol of the kernel's image
is always equally far from another one, wherever KASLR puts the image as a whole. So of most imports a relocation says
no more than "the anchor, and so many bytes"; what is left to look for are some dozens.

That is right for exactly one build. Whoever gives the file to a kernel compares its build id; and the glue compares the
distances of a few imports, and then the build id in memory, before it calls any member, so the file is safe by itself.
Until then the kernel has used some of what it relocates, and that stays imported by name:

- what tables hold that the kernel reads when a module is COMING: jump labels, static calls, parameters, alternatives,
  tracepoints (everything outside of plain code and data);
- the fields of code that such tables name: alternatives, retpolines, return thunks, static call sites;
- parameters' operations, the kernel's, and what a member's own begin with, which parse_args() calls.

What the kernel would have checked the build checks: licence (resolve), CRC, namespace. What does not fit is left to the
kernel, by name. Source: kernel/module/main.c load_module(), arch/x86/kernel/module.c module_finalize(), 6.1 and 6.12.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from megamod.prelink import elf
from megamod.prelink.arch.encoder import ImageCheck
from megamod.prelink.classify import Classes
from megamod.prelink.elf import Array
from megamod.prelink.glue import VENEERS, Glue
from megamod.prelink.layout import Layout
from megamod.prelink.member import Member
from megamod.prelink.merge import Tables
from megamod.prelink.resolve import Resolution

_PLAIN = re.compile(r"\.(init\.|exit\.|ref\.|cpuinit\.|meminit\.|devinit\.)?(text|rodata|data)(\.(?!\.percpu).*)?")
# Tables that name instructions which the kernel rewrites, after it has looked at what they refer to.
_SITES = frozenset(
    """.altinstructions .alternative .retpoline_sites .return_sites .static_call_sites .parainstructions
    .cfi_sites""".split()
)
# A field of such an instruction starts within so many bytes: behind prefixes, opcode and ModRM; pv_ops' is at 3.
_REACH = 4
_KERNELS_OWN = re.compile(
    r"__x86_|__SC[TK]__|__tracepoint_|__traceiter_|__probestub_|param_|pv_ops|__fentry__|_?_?mcount|__gnu_mcount_nc|alt_cb_"
)
_CHECKS = 8
_OPERATIONS, _SET = 16, 8  # struct kernel_param.ops, struct kernel_param_ops.set (include/linux/moduleparam.h)
_ARGUMENT, _ARRAY_OPERATIONS = 32, 16  # struct kernel_param.arg, struct kparam_array.ops


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSymbol:
    """An export of a kernel's image: its link address, its CRC (None without), its namespace."""

    address: int
    crc: int | None
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelImage:
    """One build of a kernel. build_id: in hex; note: the link address of its 20 bytes; symbols: those that move with
    the image."""

    build_id: str
    note: int
    symbols: Mapping[str, ImageSymbol]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """check: the anchor, and what the glue looks at. far: import → bytes from the anchor."""

    build_id: str
    check: ImageCheck
    far: Mapping[str, int]


def choose_distances(
    members: Sequence[Member],
    bindings: Sequence[Mapping[int, object]],
    resolution: Resolution,
    image: KernelImage,
) -> Distances | None:
    """What is bound by distance; None where it is not worth it: without versions nothing is searched."""
    if not resolution.has_versions:
        return None
    fitting = {
        name: symbol.address
        for name, crc in resolution.kernel.items()
        if (symbol := image.symbols.get(name)) is not None and crc is not None and crc == symbol.crc
    }
    named: set[str] = set()
    for member, bound in zip(members, bindings, strict=True):
        own = {symbol: name for symbol, name in member.imports.items() if symbol not in bound}
        spaces = {"", *member.infos("import_ns")}
        named |= {name for name in own.values() if name in fitting and image.symbols[name].namespace not in spaces}
        named |= {own[symbol] for symbol in _used_early(member) if symbol in own}
        named |= {name for name in own.values() if _is_kernels_own(name)}
    by_address = sorted((address, name) for name, address in fitting.items() if not _is_kernels_own(name))
    if len(by_address) <= 2 * _CHECKS:
        return None
    step = (len(by_address) - 1) / (_CHECKS - 1)
    (origin, anchor), *others = (by_address[round(step * number)] for number in range(_CHECKS))
    far = {name: address - origin for name, address in fitting.items() if name not in named}
    if any(not -(1 << 31) <= distance < 1 << 31 for distance in (*far.values(), image.note - origin)):
        return None
    check = ImageCheck(
        anchor=anchor,
        symbols=tuple((name, address - origin) for address, name in others),
        note=image.note - origin,
        build_id=bytes.fromhex(image.build_id),
    )
    return Distances(build_id=image.build_id, check=check, far=far)


@cache
def _is_kernels_own(name: str) -> bool:
    return _KERNELS_OWN.match(name) is not None


@cache
def _is_plain(section: str) -> bool:
    return _PLAIN.fullmatch(section) is not None


def _used_early(member: Member) -> list[int]:
    """Symbols that the kernel may follow before the module's init has run, those of its own names apart."""
    used = np.zeros(len(member.symbols), bool)
    used[list(member.weak_imports)] = True
    places: list[tuple[int, int, int]] = []
    for target, rows in member.relas:
        section = member.sections[target]
        if not section.alloc:
            continue
        if not _is_plain(section.name):
            used[rows["r_sym"]] = True
        if section.name in _SITES:
            homes, values = _targets(member, rows)
            pairs = set(zip(homes.tolist(), values.tolist(), strict=True))
            places += [(home, value, value + _REACH) for home, value in pairs]
    places += _setters(member)
    relas = dict(member.relas)
    by_home: dict[int, list[tuple[int, int]]] = {}
    for home, start, end in places:
        by_home.setdefault(home, []).append((start, end))
    for home in by_home.keys() & relas.keys():
        rows, spans = relas[home], by_home[home]
        starts, ends = np.array(sorted(spans), np.int64).T
        offset = rows["r_offset"].astype(np.int64)
        before = np.searchsorted(starts, offset, side="right") - 1
        inside = (before >= 0) & (offset < np.maximum.accumulate(ends)[before])
        used[rows["r_sym"][inside]] = True
    return list(map(int, np.flatnonzero(used)))


def _targets(member: Member, rows: Array) -> tuple[Array, Array]:
    """Section and offset that each relocation refers to."""
    homes = member.symbols["st_shndx"][rows["r_sym"]].astype(np.int64)
    values = member.symbols["st_value"][rows["r_sym"]].astype(np.int64) + rows["r_addend"]
    return homes, values


def _setters(member: Member) -> list[tuple[int, int, int]]:
    """The member's own functions that set parameters: (section, start, end); and the structures that lead to them."""
    table = member.section("__param")
    relas = dict(member.relas)
    if table is None or table.index not in relas or member.architecture.bits != 64:
        return []
    entries = relas[table.index]
    fields = entries["r_offset"] % 40
    found: list[tuple[int, int, int]] = []
    structures = [entries[fields == _OPERATIONS]]
    homes, values = _targets(member, entries[fields == _ARGUMENT])
    for home, value in zip(homes.tolist(), values.tolist(), strict=True):
        rows = relas.get(home)
        if rows is not None:
            structures.append(rows[rows["r_offset"] == value + _ARRAY_OPERATIONS])
    homes, values = _targets(member, np.concatenate(structures))
    for home, value in sorted(set(zip(homes.tolist(), values.tolist(), strict=True))):
        rows = relas.get(home)
        if home == elf.SHN_UNDEF or rows is None:
            continue
        found.append((home, value, value + 4 * 8))
        functions, starts = _targets(member, rows[rows["r_offset"] == value + _SET])
        for function, start in zip(functions.tolist(), starts.tolist(), strict=True):
            same = (member.symbols["st_shndx"] == function) & (member.symbols["st_value"] == start)
            size = int(member.symbols["st_size"][same].max(initial=1))
            found.append((function, start, start + size))
    return found


def bind_by_distance(tables: Tables, found: Classes, distances: Distances) -> Classes:
    """The classes with all relocations of imports that are known by distance against the anchor; the glue's own stay,
    but for its veneers."""
    anchor = tables.imports.index(distances.check.anchor)
    away = np.zeros(len(tables.imports) + 1, np.int64)
    known = np.zeros(len(tables.imports) + 1, bool)
    for number, name in enumerate(tables.imports):
        if name in distances.far:
            away[number], known[number] = distances.far[name], True
    section = tables.relocations.section
    glue, first = tables.members[-1], int(tables.section_base[-1])
    jumps = [first + each.index for each in glue.sections if each.name in VENEERS.values()]
    rows = found.kernel & ((section < first) | np.isin(section, jumps)) & known[found.imported]
    imported = np.where(rows, anchor, found.imported)
    value = found.value + np.where(rows, away[found.imported], 0)
    used = np.zeros(len(tables.imports), bool)
    used[imported[found.kernel & (imported >= 0)]] = True
    return replace(found, imported=imported, value=value, used=used)


def skip_check(contents: Sequence[Array], tables: Tables, layout: Layout, glue: Glue) -> tuple[Array, ...]:
    """*contents* with a jump over the glue's look at the kernel's image: the names form is right for any build."""
    assert glue.check is not None
    text = next(section for section in glue.member.sections if section.name == ".init.text")
    section = int(tables.section_base[-1]) + text.index
    start, end = glue.check
    jump = tables.architecture.encoder().encode_branch(None, end - start)
    at, output = int(layout.offset[section]) + start, int(tables.section_output[section])
    changed = contents[output].copy()
    changed[at : at + len(jump)] = np.frombuffer(jump, np.uint8)
    return tuple(changed if number == output else content for number, content in enumerate(contents))
