"""A merge that is as simple as a merge can be: sections of one name end to end, every relocation left to the kernel.

It is the oracle's own test material: a second, slow, independent way to make a megamodule, that the oracle must accept,
and of which every mutation must be found. Nothing is pruned: tracing, unwind and symbols are kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tests.oracle import naive_unwind, policy
from tests.oracle.model import SHF_ALLOC, SHF_EXEC, SHF_WRITE, SHN_ABS, SHT_NOBITS, Model, load_model
from tests.oracle.stride import entry_size
from tests.oracle.tables import Export, entry_point, exports, modinfo, unwind_table, versions
from tests.oracle.unwind import entry_flags
from tests.oracle.write import Object

Thin = Callable[[str, int], bool]
_Records = list[dict[str, Any]]


def merge(
    members: Sequence[tuple[str, bytes]],
    name: str = "megamod_test",
    *,
    thin: Thin = lambda member, entry: False,
    settled: bool = False,
) -> tuple[bytes, dict[str, Any]]:
    """Merges plain .ko files; returns the file and its map. thin: true for an ORC entry to leave out.

    settled: the unwind table is sorted here and settled by the glue, as settle.py describes it.
    """
    models = {member: load_model(data) for member, data in members}
    order = _order(models)
    ordered = [models[member] for member in order]
    out = Object()
    chunks, dropped = _place(order, ordered, out, thin, settled)
    base = _symbols(ordered, out, chunks)
    _relocations(order, ordered, out, chunks, base)
    _parameters(order, ordered, out, chunks)
    _exports(ordered, out, chunks)
    _rebuilt(ordered, out, name)
    table = None
    if settled:
        table = naive_unwind.gather(ordered, out, chunks, lambda member, entry: thin(order[member], entry))
    _glue(ordered, out, chunks, name, table)
    mapping = {
        "version": 1,
        "name": name,
        "machine": "x86_64",
        "options": {"unwind": "keep", "tracing": "keep", "symbols": "keep"},
        "members": [
            {"name": n, "file": f"{n}.ko", "init": entry_point(m, "init_module") is not None}
            for n, m in zip(order, ordered, strict=True)
        ],
        "chunks": chunks,
        "dropped": dropped,
    }
    return out.write(), mapping


def _order(models: dict[str, Model]) -> list[str]:
    provider = {symbol: name for name, model in models.items() for symbol in exports(model)[0]}
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        model = models[name]
        for index, home in enumerate(model.symbol_section.tolist()):
            other = provider.get(model.name_of_symbol(index)) if home == 0 else None
            if other is not None and other != name:
                visit(other)
        order.append(name)

    for name in sorted(models):
        visit(name)
    return order


def _output(out: Object, name: str, flags: int, kind: int) -> int:
    for number, section in enumerate(out.sections):
        if section.name == name:
            return number
    return out.section(name, flags=flags, type=kind)


def _place(names: list[str], models: list[Model], out: Object, thin: Thin, settled: bool) -> tuple[_Records, _Records]:
    chunks: _Records = []
    dropped: _Records = []
    for number, model in enumerate(models):
        for section in model.sections[1:]:
            if not section.alloc:
                continue
            entry = {"member": number, "section": section.name, "index": section.index}
            if policy.REBUILT.match(section.name) or section.name in (".BTF_ids", "__tracepoint_check"):
                dropped.append({**entry, "size": section.size, "why": "rebuilt"})
                continue
            target = out.sections[_output(out, section.name, section.flags, section.type)]
            if settled and section.name in (".orc_unwind_ip", ".orc_unwind"):
                dropped.append({**entry, "size": section.size, "why": naive_unwind.WHY})
                continue
            if target.type == SHT_NOBITS and section.type != SHT_NOBITS:
                target.type = section.type
            align = section.align
            if policy.gapless(section.name):
                align = (entry_size(model, section) if section.size else 1) or 1
            target.align = max(target.align, section.align)
            target.data += bytes(-len(target.data) % align)
            width = {".orc_unwind_ip": 4, ".orc_unwind": 6}.get(section.name, 0)
            entries = range(section.size // width) if width else []
            if any(thin(names[number], n) for n in entries):
                kept = [n for n in entries if not thin(names[number], n)]
                start = len(target.data)
                pieces = [[width * n, start + width * at, width] for at, n in enumerate(kept)]
                chunks.append({**entry, "output": section.name, "pieces": pieces})
                content = bytes(model.content(section))
                target.data += b"".join(content[width * n : width * (n + 1)] for n in kept)
                continue
            chunks.append({**entry, "output": section.name, "offset": len(target.data), "size": section.size})
            target.data += bytes(model.content(section))
    return chunks, dropped


_Base = list[list[int | None]]


def _symbols(models: list[Model], out: Object, chunks: _Records) -> _Base:
    """Output symbol number for each member's symbol; all definitions local, imports shared by name."""
    at = {(c["member"], c["index"]): c for c in chunks if c["member"] >= 0}
    home_of = {s.name: n for n, s in enumerate(out.sections)}
    provided: dict[str, tuple[int, Export]] = {}
    for number, model in enumerate(models):
        provided |= {name: (number, export) for name, export in exports(model)[0].items()}
    own = out.section(".gnu.linkonce.this_module", flags=3, align=64)
    out.symbol("__this_module", own, 0, 0x11)
    imports: dict[str, int] = {}

    def placed(number: int, home: int, value: int, name: str, info: int, size: int) -> int | None:
        if home == SHN_ABS:
            return out.symbol(name, -1, value, info & 15, size)
        if models[number].sections[home].name == ".gnu.linkonce.this_module":
            return 0
        chunk = at.get((number, home))
        if chunk is None:
            return None
        return out.symbol(name, home_of[chunk["output"]], chunk["offset"] + value, info & 15, size)

    result: _Base = []
    for number, model in enumerate(models):
        numbers: list[int | None] = [None]
        for index in range(1, len(model.symbol_value)):
            name, home = model.name_of_symbol(index), int(model.symbol_section[index])
            if home == 0 and name in provided:
                other, export = provided[name]
                numbers.append(placed(other, export.home, export.offset, name, 0, 0))
            elif home == 0:
                if name not in imports:
                    imports[name] = out.symbol(name, None, 0, 0x10)
                numbers.append(imports[name])
            else:
                # A section symbol becomes a plain one: its section is now a chunk.
                info = int(model.symbol_info[index])
                plain = 0 if info & 15 == 3 else info
                value, size = int(model.symbol_value[index]), int(model.symbol_size[index])
                numbers.append(placed(number, home, value, name, plain, size))
        result.append(numbers)
    return result


def _relocations(names: list[str], models: list[Model], out: Object, chunks: _Records, base: _Base) -> None:
    home_of = {s.name: n for n, s in enumerate(out.sections)}
    for chunk in [c for c in chunks if c["member"] >= 0]:
        model, target = models[chunk["member"]], out.sections[home_of[chunk["output"]]]
        section = model.sections[chunk["index"]]
        for row in range(*model.rows(section).indices(len(model.place))):
            symbol = base[chunk["member"]][int(model.symbol[row])]
            assert symbol is not None, f"{names[chunk['member']]}: a reference into a section that is not merged"
            place = _placed(chunk, int(model.place[row]))
            if place is None:
                continue
            target.relocations.append((place, int(model.kind[row]), symbol, int(model.addend[row])))


def _placed(chunk: dict[str, Any], offset: int) -> int | None:
    if "offset" in chunk:
        return int(chunk["offset"]) + offset
    return next((at + offset - start for start, at, size in chunk["pieces"] if start <= offset < start + size), None)


def _parameters(names: list[str], models: list[Model], out: Object, chunks: _Records) -> None:
    texts = bytearray()
    rodata = _output(out, ".rodata", SHF_ALLOC, 1)
    start = len(out.sections[rodata].data)
    for chunk in list(chunks):
        if chunk["section"] != "__param":
            continue
        model, target = models[chunk["member"]], out.sections[_output(out, "__param", SHF_ALLOC, 1)]
        section = model.sections[chunk["index"]]
        for at in range(0, section.size, model.arch.param_size):
            reference = model.refers(section, at)
            assert reference is not None
            name = model.text_at(*reference)
            place = chunk["offset"] + at
            symbol = out.symbol("", rodata, start + len(texts), 0)
            wanted = name if "." in name else f"{names[chunk['member']]}.{name}"
            texts += wanted.encode() + b"\0"
            target.relocations = [r for r in target.relocations if r[0] != place]
            target.relocations.append((place, 1, symbol, 0))
    if texts:
        out.sections[rodata].data += texts
        chunks.append({"member": -1, "section": "glue", "output": ".rodata", "offset": start, "size": len(texts)})


def _exports(models: list[Model], out: Object, chunks: _Records) -> None:
    at = {(c["member"], c["index"]): c for c in chunks if c["member"] >= 0}
    home_of = {s.name: n for n, s in enumerate(out.sections)}
    found = sorted((n, i, e) for i, m in enumerate(models) for n, e in exports(m)[0].items())
    if not found:
        return
    flagged = any(m.find("__kflagstab") for m in models)
    strings = _output(out, "__ksymtab_strings", SHF_ALLOC, 1)
    for gpl in (False, True):
        rows = [row for row in found if flagged or bool(row[2].flags) == gpl]
        if not rows or (flagged and gpl):
            continue
        suffix = "_gpl" if gpl else ""
        table = out.section("__ksymtab" + suffix, bytes(12 * len(rows)), align=4)
        crcs = bytearray()
        for entry, (name, number, export) in enumerate(rows):
            chunk = at[(number, export.home)]
            value = out.symbol("", home_of[chunk["output"]], chunk["offset"] + export.offset)
            where = len(out.sections[strings].data)
            texts = name.encode() + b"\0" + export.namespace.encode() + b"\0"
            out.sections[strings].data += texts
            text = out.symbol("", strings, where)
            space = out.symbol("", strings, where + len(name) + 1)
            for field, symbol in enumerate((value, text, space)):
                out.sections[table].relocations.append((12 * entry + 4 * field, 2, symbol, 0))
            crcs += (export.crc or 0).to_bytes(4, "little")
            chunks.append(
                {
                    "member": -1,
                    "section": "glue",
                    "output": "__ksymtab_strings",
                    "offset": where,
                    "size": len(texts),
                }
            )
        if rows[0][2].crc is not None:
            out.section("__kcrctab" + suffix, bytes(crcs), align=4)
        if flagged:
            out.section("__kflagstab", bytes(row[2].flags for row in rows))


def _rebuilt(models: list[Model], out: Object, name: str) -> None:
    wanted = {s.name for s in out.symbols if s.section is None} | {"module_layout"}
    found: dict[str, int] = {}
    for model in models:
        found |= {n: c for n, c in (versions(model) or {}).items() if n in wanted}
    if found:
        rows = b"".join(c.to_bytes(8, "little") + n.encode().ljust(56, b"\0") for n, c in sorted(found.items()))
        out.section("__versions", rows, align=32)
    pairs = [("name", name)]
    pairs += [(k, v) for k, v in modinfo(models[0]) if k in ("vermagic", "license", "intree", "retpoline")]
    if any(("staging", "Y") in modinfo(m) for m in models):
        pairs.append(("staging", "Y"))
    pairs += [("import_ns", n) for n in sorted({v for m in models for k, v in modinfo(m) if k == "import_ns"})]
    out.section(".modinfo", b"".join(f"{k}={v}".encode() + b"\0" for k, v in pairs))
    header = next((s for m in models if (s := m.find(".orc_header"))), None)
    if header is not None:
        model = next(m for m in models if m.find(".orc_header"))
        out.section(".orc_header", bytes(model.content(header)), align=4)


def _glue(
    models: list[Model], out: Object, chunks: _Records, name: str, table: naive_unwind.SortedTable | None
) -> None:
    text = _output(out, ".init.text", SHF_ALLOC | SHF_EXEC, 1)
    section = out.sections[text]
    section.data += bytes(-len(section.data) % 16)
    start = len(section.data)
    code = bytearray(b"\xf3\x0f\x1e\xfa\x53\x48\x8d\x1d\0\0\0\0")  # endbr64; push rbx; lea rbx, results
    data = _output(out, ".data", SHF_ALLOC | SHF_WRITE, 1)
    results = len(out.sections[data].data) + -len(out.sections[data].data) % 4
    out.sections[data].data += bytes(results + 4 * len(models) - len(out.sections[data].data))
    section.relocations.append((start + 8, 2, out.symbol("", data, results), -4))
    places = {(c["member"], c["index"]): c for c in chunks if c["member"] >= 0}
    home_of = {s.name: n for n, s in enumerate(out.sections)}
    needs = _needs(models)
    template, field_at = models[0], None
    if table is not None:
        owner = template.find(".gnu.linkonce.this_module")
        assert owner is not None
        groups = naive_unwind.groups_of(out, table, text)
        code += naive_unwind.settle_code(out, table, (text, start + len(code)), groups, owner.size)
    for number, model in enumerate(models):
        own = entry_point(model, "init_module")
        # cmp dword [rbx + 4 p], 0; jne skip; … call init; mov [rbx + 4 n], eax; jmp next; skip: mov dword […], 2
        call = b""
        if own is not None:
            template, field_at = model, own[0]
            chunk = places[(number, own[1])]
            target = out.symbol("", home_of[chunk["output"]], chunk["offset"] + own[2])
            at = start + len(code) + 13 * len(needs[number]) + 1
            section.relocations.append((at, 4, target, -4))
            call = b"\xe8\0\0\0\0\x89\x83" + _word32(4 * number)
        tail = b"\xe9" + _word32(10) + b"\xc7\x83" + _word32(4 * number) + _word32(2)
        for left, provider in reversed(list(enumerate(sorted(needs[number]), 1))):
            behind = 13 * (len(needs[number]) - left) + len(call) + 5
            test = b"\x83\xbb" + _word32(4 * provider) + b"\0\x0f\x85" + _word32(behind)
            tail = tail if left < len(needs[number]) else call + tail
            tail = test + tail
        code += tail if needs[number] else call
    code += b"\x31\xc0\x5b\xc3"  # xor eax, eax; pop rbx; ret
    section.data += code
    for name_, at, size in ((".init.text", start, len(code)), (".data", results, 4 * len(models))):
        chunks.append({"member": -1, "section": "glue", "output": name_, "offset": at, "size": size})
    init = out.symbol("init_module", text, start, 0x12, len(code))
    source = template.find(".gnu.linkonce.this_module")
    assert source is not None
    raw = bytes(template.content(source))
    old = next(v for k, v in modinfo(template) if k == "name").encode()
    at = raw.find(old)
    this = next(s for s in out.sections if s.name == ".gnu.linkonce.this_module")
    this.data += bytes(at) + name.encode() + bytes(len(raw) - at - len(name))
    if field_at is not None:
        this.relocations.append((field_at, 1, init, 0))
    entries = _glue_unwind(models, out, chunks, (text, start, len(code)))
    if table is not None:
        naive_unwind.fill(out, table, entries, chunks)


def _needs(models: list[Model]) -> list[set[int]]:
    provider = {name: number for number, model in enumerate(models) for name in exports(model)[0]}
    found = []
    for number, model in enumerate(models):
        names = [model.name_of_symbol(n) for n, home in enumerate(model.symbol_section.tolist()) if home == 0]
        found.append({provider[name] for name in names if name in provider} - {number})
    return found


def _word32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _glue_unwind(
    models: list[Model], out: Object, chunks: _Records, code: tuple[int, int, int]
) -> list[tuple[int, int, int]]:
    """The glue's own entries, which it returns: section, offset, state."""
    tables = [unwind_table(m)[0] for m in models]
    flags = entry_flags(models)
    words = {int(d) & 0xFFFF: int(d) for t in tables for d in t.data if int(d) >> 32 == flags}
    if not any(len(t.home) for t in tables) or not {8, 16} <= set(words):
        return []
    text, start, size = code
    ips = out.sections[_output(out, ".orc_unwind_ip", SHF_ALLOC, 1)]
    data = out.sections[_output(out, ".orc_unwind", SHF_ALLOC, 1)]
    states = [(0, words[8]), (5, words[16]), (size - 1, words[8]), (size, 0)]
    for table, name, width in ((ips, ".orc_unwind_ip", 4), (data, ".orc_unwind", 6)):
        glue = {"member": -1, "section": "glue", "output": name, "offset": len(table.data)}
        chunks.append({**glue, "size": width * len(states)})
    for offset, word in states:
        symbol = out.symbol("", text, start + offset)
        ips.relocations.append((len(ips.data), 2, symbol, 0))
        ips.data += bytes(4)
        data.data += word.to_bytes(6, "little")
    return [(text, start + offset, word) for offset, word in states]
