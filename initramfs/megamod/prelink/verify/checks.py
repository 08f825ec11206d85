"""Pass 10, verify: read the finished bytes again, with other eyes, and check what the kernel would trip over.

Needs: the file, the members in init order, the map. Guarantees: the checks of KERNEL-FACTS that can be made without a
kernel hold; each is one function below. Shares no code with emit: the file is read by elf_reader.py alone, and
expectations come from the members' own files. A megamodule that fails here is never written.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from megamod.prelink.distance import KernelImage
from megamod.prelink.elf import Array
from megamod.prelink.member import Member
from megamod.prelink.section_rules import is_packed
from megamod.prelink.verify.arch_facts import ARCH_FACTS, ArchFacts
from megamod.prelink.verify.elf_reader import RELA, Written, failure, place_of, places_of, reread, symbol_name, text_at
from megamod.prelink.verify.entry import check_entry
from megamod.prelink.verify.imports import Expected, check_imports, expected_imports
from megamod.prelink.verify.unwind import check_unwind

# Functions that call request_module() for their caller: crypto/api.c (crypto_alloc_*), fs/nls/nls_base.c,
# drivers/mtd/mtdpart.c, drivers/mtd/chips/chipreg.c, net/9p/mod.c (6.1).
_ASKING = frozenset(
    {"__request_module", "load_nls", "mtd_device_parse_register", "do_map_probe", "v9fs_get_trans_by_name"}
)


def verify(
    data: bytes,
    members: Sequence[Member],
    link_map: Mapping[str, Any],
    *,
    percpu_reserve: int = 8192,
    image: KernelImage | None = None,
    expected: Expected | None = None,
) -> tuple[str, ...]:
    """Check the finished file; raise MegamodError at the first thing wrong, return remarks for the user. image: the one
    kernel that it is for, if imports are bound by distance. expected: of `expected_imports`."""
    name = str(link_map["name"])
    read = reread(data, name)
    facts = ARCH_FACTS[members[0].machine]
    _check_header(read, members)
    _check_sections(read, members, facts, percpu_reserve)
    check_relocations(read, facts)
    _check_struct_module(read, members, facts)
    _check_modinfo(read, members)
    _check_exports(read, members, facts)
    check_versions(read, members)
    _check_parameters(read, members)
    _check_pairs(read, facts)
    check_unwind(read, members, link_map)
    _check_bytes(read, members, link_map, facts)
    _check_order(read, members, link_map, facts)
    check_imports(read, members, expected or expected_imports(members, link_map), image, facts)
    return _remarks(members)


def _check_header(read: Written, members: Sequence[Member]) -> None:
    """Of the members' class, with their flags."""
    if {(member.architecture.bits, member.e_flags) for member in members} != {(read.bits, read.flags)}:
        raise failure(read.name, f"ELF header: {read.bits} bits, flags {read.flags:#x}: not the members'")


def _check_sections(read: Written, members: Sequence[Member], facts: ArchFacts, percpu_reserve: int) -> None:
    """Names unique among SHF_ALLOC ones, nothing writable and executable, tables of whole entries, no BTF, and the
    placeholders that the kernel fills, if a member has them."""
    if len(read.sections) >= 0xFF00:
        raise failure(read.name, f"{len(read.sections)} sections")
    seen: set[str] = set()
    for section in read.sections:
        if not section.flags & 2:
            continue
        if not section.name or section.name in seen:
            raise failure(read.name, f"section name '{section.name}' is empty or not unique")
        seen.add(section.name)
        if section.flags & 5 == 5:
            raise failure(read.name, f"{section.name} is writable and executable")
        entry = facts.entry(section.name)
        if section.size % entry:
            raise failure(
                read.name, f"{section.name}: {section.size} bytes are not a whole number of entries of {entry}"
            )
        if section.name in (".BTF", ".BTF.base"):
            raise failure(read.name, "BTF was not dropped")
    for name in facts.placeholders:
        sizes = {found.size for member in members if (found := member.section(name)) is not None}
        if sizes and (name not in read.by_name or read.by_name[name].size not in sizes):
            raise failure(read.name, f"{name} is missing, the kernel would refuse the file")
    code = sum(s.size for s in read.sections if s.flags & 6 == 6 and not s.name.startswith((".init", ".exit")))
    if code > facts.code_limit:
        raise failure(read.name, f"{code} bytes of code")
    percpu = read.by_name.get(".data..percpu")
    if percpu is not None and (percpu.size > percpu_reserve or percpu.align > 4096):
        raise failure(read.name, f".data..percpu: {percpu.size} bytes aligned to {percpu.align}")


def check_relocations(read: Written, facts: ArchFacts) -> None:
    """Each in bounds, of a type the kernel knows, against a real symbol, over zeros where it wants them, and no two on
    one byte but those that add to it."""
    for target, rows in read.relocations.items():
        section = read.sections[target]
        if not section.flags & 2 or section.kind == "SHT_NOBITS":
            raise failure(read.name, f"relocations for {section.name}, which holds no bytes")
        width = facts.width_of(rows["type"])
        if not width.all():
            raise failure(read.name, f"{section.name}: relocation type {int(rows['type'][np.argmin(width)])}")
        if (rows["symbol"] == 0).any() or int(rows["symbol"].max()) >= len(read.symbols):
            raise failure(read.name, f"{section.name}: a relocation without a symbol")
        start = rows["offset"].astype(np.int64)
        if (start + width > section.size).any():
            raise failure(read.name, f"{section.name}: a relocation ends outside the section")
        alone = ~np.isin(rows["type"], list(facts.stacking))
        order = np.flatnonzero(alone)[np.argsort(start[alone], kind="stable")]
        overlap = start[order][1:] < (start + width)[order][:-1]
        if overlap.any():
            raise failure(read.name, f"{section.name}+{int(start[order][1:][np.argmax(overlap)]):#x}: two relocations")
        content = np.frombuffer(section.data, np.uint8)
        for size in (4, 8) if facts.over_zeros else ():
            places = start[width == size]
            field = content[places[:, None] + np.arange(size)].any(axis=1)
            if field.any():
                raise failure(read.name, f"{section.name}+{int(places[np.argmax(field)]):#x}: bytes under a relocation")


def _check_struct_module(read: Written, members: Sequence[Member], facts: ArchFacts) -> None:
    """One struct module of the members' size, our name in it, its init pointing to code that starts as members' do."""
    section = read.by_name.get(".gnu.linkonce.this_module")
    if section is None or section.size != members[0].sections[members[0].this_module].size:
        raise failure(read.name, "struct module is missing or of another size")
    rows = read.relocations.get(section.index, np.empty(0, RELA))
    content = bytearray(section.data)
    for at in rows["offset"].tolist() if read.bits == 32 else ():
        content[at : at + 4] = bytes(4)  # an addend in place: a Thumb function's pointer is odd
    if bytes(content).strip(b"\0") != read.name.encode():
        raise failure(read.name, "struct module holds more than the name")
    if not len(rows) and all(member.init is None for member in members):
        return  # a library on its own (PrelinkOptions.results)
    if len(rows) != 1:
        raise failure(read.name, f"struct module has {len(rows)} relocations, one is right")
    inits = {
        int(row["r_offset"])
        for m in members
        for target, table in m.relas
        if target == m.this_module
        for row in table
        if m.init is not None and (int(m.symbols["st_shndx"][row["r_sym"]]), _value(m, row)) == m.init
    }
    home, offset = place_of(read, rows[0])
    if int(rows[0]["offset"]) not in inits or not read.sections[home].flags & 4:
        raise failure(read.name, "struct module's init does not point to code")
    check_entry(read, members, home, offset, facts)


def _value(member: Member, row: np.void) -> int:
    return int(member.symbols["st_value"][row["r_sym"]]) + int(row["r_addend"])


def _check_modinfo(read: Written, members: Sequence[Member]) -> None:
    section = read.by_name.get(".modinfo")
    info: dict[str, list[str]] = {}
    for entry in bytes(section.data if section else b"").split(b"\0"):
        key, _, value = entry.decode("utf-8", "backslashreplace").partition("=")
        info.setdefault(key, []).append(value)
    if info.get("name") != [read.name] or info.get("license") != ["GPL"]:
        raise failure(read.name, ".modinfo: name or license")
    if {m.info("vermagic") for m in members} != set(info.get("vermagic", [])):
        raise failure(read.name, ".modinfo: vermagic is not that of every member")
    namespaces = {n for m in members for n in m.infos("import_ns")}
    if namespaces != set(info.get("import_ns", [])):
        raise failure(read.name, ".modinfo: namespaces")


def _check_exports(read: Written, members: Sequence[Member], facts: ArchFacts) -> None:
    """Sorted as bsearch needs them, and each with its member's CRC, in the GPL table if it was there."""
    expected = {e.name: e for m in members for e in m.exports}
    found: dict[str, bool] = {}
    for table in ("__ksymtab", "__ksymtab_gpl"):
        section = read.by_name.get(table)
        if section is None or not section.size:
            continue
        rows = read.relocations.get(section.index, np.empty(0, RELA))
        entry = facts.entry(table)
        named = rows[rows["offset"] % entry == entry // 3]
        places = (named["offset"] // entry).tolist()
        names = {place: text_at(read, *at) for place, at in zip(places, places_of(read, named), strict=True)}
        ordered = [names.get(i, "") for i in range(section.size // entry)]
        encoded = [n.encode() for n in ordered]
        if any(a >= b for a, b in pairwise(encoded)) or "" in names.values():
            raise failure(read.name, f"{table} is not sorted")
        crcs = read.by_name.get(table.replace("ksymtab", "kcrctab"))
        words = np.frombuffer(crcs.data, "<u4").tolist() if crcs is not None else [None] * len(ordered)
        flags = read.by_name.get("__kflagstab")
        for place, (name, crc) in enumerate(zip(ordered, words, strict=True)):
            gpl = bool(flags.data[place] & 1) if flags is not None else table == "__ksymtab_gpl"
            if name not in expected or expected[name].crc != crc or expected[name].gpl != gpl:
                raise failure(read.name, f"{table}: {name}: not what the member exports")
            found[name] = gpl
    if set(found) != set(expected):
        raise failure(read.name, f"exports lost: {', '.join(sorted(set(expected) - set(found))[:3])}")


def check_versions(read: Written, members: Sequence[Member]) -> None:
    """Every undefined symbol has its one version entry, with the CRC that the members have."""
    undefined = np.flatnonzero((read.symbols["shndx"] == 0) & (read.symbols["name"] != 0))
    names = {symbol_name(read, int(i)) for i in undefined}
    if len(names) != len(undefined):
        raise failure(read.name, "an undefined symbol is listed twice")
    if not any(m.has_versions for m in members):
        return
    section = read.by_name.get("__versions")
    word = read.bits // 8
    record = np.dtype([("crc", f"<u{word}"), ("name", f"S{64 - word}")])
    table = np.frombuffer(section.data, record).tolist() if section is not None else []
    versions = {name.decode(): crc for crc, name in table}
    if len(versions) < len(table):
        raise failure(read.name, "__versions: an entry twice")
    crcs, texts = read.by_name.get("__version_ext_crcs"), read.by_name.get("__version_ext_names")
    if (crcs is None) != (texts is None):
        raise failure(read.name, "one half of the extended versions is missing")
    if crcs is not None and texts is not None:
        listed = bytes(texts.data).split(b"\0")[:-1]
        words = np.frombuffer(crcs.data, "<u4").tolist()
        if len(listed) != len(words):
            raise failure(read.name, "extended versions: names and CRCs differ in number")
        if len(set(listed)) < len(listed):
            raise failure(read.name, "__version_ext_names: a name twice")
        versions |= {n.decode(): c for n, c in zip(listed, words, strict=True)}
    weak = {m.imports[i] for m in members for i in m.weak_imports}
    # kernel/module/version.c check_modstruct_version() wants it although nothing imports it.
    layout = {"module_layout"} & {name for m in members for name in m.versions}
    lost = (names | layout) - versions.keys() - weak
    if lost:
        raise failure(read.name, f"__versions: no entry for {sorted(lost)[0]}")
    for member in members:
        for name, crc in member.versions.items():
            if versions.get(name, crc) != crc:
                raise failure(read.name, f"__versions: {name} differs from {member.file}'s")


def _check_parameters(read: Written, members: Sequence[Member]) -> None:
    """Names unique, one entry for each of the members'."""
    section = read.by_name.get("__param")
    entry = 40 if read.bits == 64 else 20
    expected = sum(s.size // entry for m in members for s in m.sections if s.name == "__param" and s.alloc)
    if section is None:
        if expected:
            raise failure(read.name, "__param is lost")
        return
    rows = read.relocations[section.index]
    rows = rows[np.argsort(rows["offset"], kind="stable")]
    names = [text_at(read, *place) for place in places_of(read, rows[rows["offset"] % entry == 0])]
    permissions = [
        struct.unpack_from("<H", section.data, at + 3 * read.bits // 8)[0] for at in range(0, section.size, entry)
    ]
    visible = [name for name, permission in zip(names, permissions, strict=False) if permission & 0o777]
    if len(names) != section.size // entry or len(set(visible)) != len(visible) or "" in names:
        raise failure(read.name, "__param: names are missing or not unique")
    if len([n for n in names if "." in n]) != expected:
        raise failure(read.name, f"__param: {len(names)} entries, the members have {expected}")


def _check_pairs(read: Written, facts: ArchFacts) -> None:
    """Tables that are read by the same index have the same number of entries."""
    for one, size_one, other, size_other in (
        (".orc_unwind", 6, ".orc_unwind_ip", 4),
        (".orc_unwind.sorted", 6, ".orc_unwind_ip.sorted", 4),
        ("__ksymtab", facts.entry("__ksymtab"), "__kcrctab", 4),
        ("__ksymtab_gpl", facts.entry("__ksymtab"), "__kcrctab_gpl", 4),
        ("__ksymtab", facts.entry("__ksymtab"), "__kflagstab", 1),
    ):
        a, b = read.by_name.get(one), read.by_name.get(other)
        if a is not None and b is not None and a.size // size_one != b.size // size_other:
            raise failure(read.name, f"{one} and {other} differ in number")
    if (".orc_unwind" in read.by_name) != (".orc_unwind_ip" in read.by_name):
        raise failure(read.name, "half an unwind table")


def _check_bytes(read: Written, members: Sequence[Member], link_map: Mapping[str, Any], facts: ArchFacts) -> None:
    """Nothing of a member is lost; every chunk is aligned and holds its member's bytes, but for fields that a
    relocation of the member covers (and the opcode of a silenced trace call), and no two chunks share a byte."""
    _check_complete(read, members, link_map)
    ends: dict[str, list[tuple[int, int]]] = {}
    rows = {(i, target): table for i, m in enumerate(members) for target, table in m.relas}
    for chunk in link_map["chunks"]:
        out, size = chunk["offset"], chunk["size"]
        if size:
            ends.setdefault(chunk["output"], []).append((out, out + size))
        if chunk["member"] < 0:
            continue
        member = members[chunk["member"]]
        source = member.sections[chunk["index"]]
        output = read.by_name[chunk["output"]]
        align = 1 if not source.size or is_packed(source.name) else source.sh_addralign
        if out % align or output.align % align:
            raise failure(read.name, f"{member.file}: {source.name} is not aligned in {output.name}")
        if out + size > output.size:
            raise failure(read.name, f"{member.file}: {source.name} ends outside {output.name}")
        if output.kind == "SHT_NOBITS":
            continue
        before = np.frombuffer(source.data[:size], np.uint8) if len(source.data) else np.zeros(size, "u1")
        changed = np.flatnonzero(before != np.frombuffer(output.data[out : out + size], np.uint8))
        if len(changed):
            table = rows.get((chunk["member"], chunk["index"]))
            _check_changed(read, member, source.name, changed, table, link_map, facts)
    for name, spans in ends.items():
        spans.sort()
        if any(end > start for (_, end), (start, _) in pairwise(spans)):
            raise failure(read.name, f"{name}: two chunks share a byte")


def _check_complete(read: Written, members: Sequence[Member], link_map: Mapping[str, Any]) -> None:
    known = {(row["member"], row["index"]) for kind in ("chunks", "dropped") for row in link_map[kind]}
    for number, member in enumerate(members):
        for section in member.sections:
            if section.alloc and (number, section.index) not in known:
                raise failure(read.name, f"{member.file}: {section.name} is lost")


def _check_changed(
    read: Written,
    member: Member,
    section: str,
    changed: Array,
    rows: Array | None,
    link_map: Mapping[str, Any],
    facts: ArchFacts,
) -> None:
    if rows is not None:
        rows = rows[np.lexsort((facts.width_of(rows["r_type"]), rows["r_offset"]))]
        starts = rows["r_offset"].astype(np.int64)
        width = facts.width_of(rows["r_type"])
        at = np.searchsorted(starts, changed, side="right") - 1
        inside = (at >= 0) & (changed < starts[at] + width[at])
        left = np.flatnonzero(~inside)
        if len(left) and link_map["options"]["tracing"] == "off":
            traced = np.zeros(len(member.symbols), bool)
            traced[[i for i, name in member.imports.items() if name == facts.trace_symbol]] = True
            inside[left] = np.isin(changed[left] + facts.trace_opcode, starts[traced[rows["r_sym"]]])
    else:
        inside = np.zeros(len(changed), bool)
    if not inside.all():
        raise failure(read.name, f"{member.file}: {section}+{int(changed[np.argmin(inside)]):#x}: a byte was changed")


def _check_order(read: Written, members: Sequence[Member], link_map: Mapping[str, Any], facts: ArchFacts) -> None:
    """The glue calls each init once, and none before what the member needs."""
    glue = next(c for c in link_map["chunks"] if c["member"] < 0 and c["output"] == ".init.text")
    output = read.by_name[".init.text"]
    rows = read.relocations.get(output.index, np.empty(0, RELA))
    first_call: dict[tuple[int, int], int] = {}
    rows = rows[(rows["offset"] >= glue["offset"]) & (rows["offset"] < glue["offset"] + glue["size"])]
    for row, (section, offset), at in zip(rows, places_of(read, rows), rows["offset"].tolist(), strict=True):
        if section and output.data[at - len(facts.call_opcode) : at] == facts.call_opcode:
            first_call.setdefault((section, offset + facts.call_bias(output.data, row)), at)
    start = glue["offset"]
    pointers = read.relocations.get(read.by_name[".gnu.linkonce.this_module"].index, np.empty(0, RELA))
    if len(pointers):
        # A type hash before the function may look like a call.
        start = place_of(read, pointers[0])[1] & (-2 if read.bits == 32 else -1)
    code = bytes(output.data[start : glue["offset"] + glue["size"]])
    for target, at in facts.near_calls(code, start):
        first_call.setdefault((output.index, target), at)
    where = {(c["member"], c["index"]): (c["output"], c["offset"]) for c in link_map["chunks"] if "offset" in c}
    called: list[int] = []
    for place, member in enumerate(members):
        if member.init is None:
            continue
        name, base = where[place, member.init[0]]
        home = (read.by_name[name].index, base + member.init[1])
        if home not in first_call:
            raise failure(read.name, f"{member.file}: its init is never called")
        called.append(first_call[home])
    if called != sorted(called):
        raise failure(read.name, "the inits are called out of order")
    places = {entry["name"]: place for place, entry in enumerate(link_map["members"])}
    for place, entry in enumerate(link_map["members"]):
        if any(places[needed] >= place for needed in entry["depends"]):
            raise failure(read.name, f"{entry['name']} comes before what it needs")


def _remarks(members: Sequence[Member]) -> tuple[str, ...]:
    remarks = []
    requesting = sorted(m.name for m in members if any(_asks(symbol) for symbol in m.imports.values()))
    if requesting:
        remarks.append(f"may ask user space for modules: {', '.join(requesting)}")
    getting = sorted(m.name for m in members if "__symbol_get" in m.imports.values())
    if getting:
        remarks.append(f"look symbols up at run time, which fails while the megamodule loads: {', '.join(getting)}")
    return tuple(remarks)


def _asks(symbol: str) -> bool:
    """Whether what calls *symbol* may ask for a module: by itself, or through a function that does."""
    return symbol in _ASKING or symbol.startswith("crypto_alloc_")
