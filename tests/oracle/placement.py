"""Where the map says that each member's sections went, as arrays; and the checks of the map against the file.

All later comparison is forward: a member's (section, offset) is carried to (output section, offset) and must be found
there. That direction has one answer even for a reference with a bias (S - 4 of a call) or one past a section's end.
"""

from dataclasses import dataclass, field

import numpy as np

from tests.oracle import policy
from tests.oracle.difference import Report, Where
from tests.oracle.elffile import Section
from tests.oracle.model import SHF_EXEC, SHF_STRINGS, SHF_WRITE, Bools, Ints, Model, in_init_memory
from tests.oracle.policy import Map, Options
from tests.oracle.stride import entry_size
from tests.oracle.tables import has_sorted_unwind

GONE, PIECES = -1, -2  # in Placement.output
ABSOLUTE, LOST, KERNEL = -1, -3, -10  # target sections: absolute; in a section that is not kept; KERNEL - id


@dataclass(slots=True)
class Placement:
    """One member's sections in the output: by input section index, the output section index and offset.

    pieces: input section → (input offsets, output offsets, sizes), sorted by input offset.
    whole: True where the section is kept as one chunk.
    """

    output: Ints
    offset: Ints
    pieces: dict[int, tuple[Ints, Ints, Ints]] = field(default_factory=dict)

    def forward(self, home: Ints, offset: Ints, bias: Ints | int = 0) -> tuple[Ints, Ints]:
        """Carries member places to output places; (LOST, 0) where the byte at offset + bias was not kept."""
        out = self.output[home]
        at = self.offset[home] + offset
        out, at = np.where(out == GONE, LOST, out), np.where(out == GONE, 0, at)
        for section in np.unique(home[out == PIECES]).tolist():
            rows = np.flatnonzero(home == section)
            shift = bias[rows] if isinstance(bias, np.ndarray) else bias
            begins, ends_up, sizes = self.pieces[section]
            if not len(begins):
                out[rows], at[rows] = LOST, 0
                continue
            real = offset[rows] + shift
            index = np.maximum(np.searchsorted(begins, real, "right") - 1, 0)
            inside = (real >= begins[index]) & (real < begins[index] + sizes[index])
            # The output section is kept beside the offsets: all pieces of one section go to one output section.
            out[rows] = np.where(inside, self.offset[section], LOST)
            at[rows] = np.where(inside, offset[rows] - begins[index] + ends_up[index], 0)
        return out, at


@dataclass(slots=True)
class Layout:
    """The whole map: placements by member, glue intervals, and which input sections were dropped and why."""

    members: list[Placement]
    glue: list[tuple[int, int, int]]  # output section, offset, size
    dropped: list[dict[int, str]]
    intervals: Ints  # (n, 4): output section, offset, size, member (-1 glue), sorted

    def in_glue(self, home: Ints, offset: Ints) -> Bools:
        """True where a place lies in a chunk of the glue."""
        found = np.zeros(len(home), bool)
        for section, start, size in self.glue:
            found |= (home == section) & (offset >= start) & (offset < start + size)
        return found


def lay_out(models: list[Model], merged: Model, mapping: Map, names: list[str], report: Report) -> Layout:
    """Reads chunks and dropped of the map; every claim that does not fit the files is a difference."""
    by_name = {s.name: s for s in merged.sections[1:] if s.alloc}
    places = [
        Placement(np.full(len(m.sections) + 1, GONE, np.int64), np.zeros(len(m.sections) + 1, np.int64)) for m in models
    ]
    dropped: list[dict[int, str]] = [{} for _ in models]
    glue: list[tuple[int, int, int]] = []
    rows: list[tuple[int, int, int, int]] = []
    shared: list[tuple[int, int, int, int]] = []
    options = mapping["options"]

    for chunk in mapping["chunks"]:
        target = by_name.get(chunk["output"])
        if target is None:
            report.add("map", f"chunk in {chunk['output']}, which the megamodule does not have")
            continue
        if chunk["member"] < 0:
            glue.append((target.index, chunk["offset"], chunk["size"]))
            rows.append((target.index, chunk["offset"], chunk["size"], -1))
            continue
        member, index = chunk["member"], chunk["index"]
        name, model, place = names[member], models[member], places[member]
        if index >= len(model.sections) or model.sections[index].name != chunk["section"]:
            report.add("map", f"section {index} is not {chunk['section']}", member=name, section=chunk["section"])
            continue
        source = model.sections[index]
        if place.output[index] != GONE:
            report.add("map", "the section stands in two chunks", member=name, section=source.name)
            continue
        if "pieces" in chunk:
            table = np.array(sorted(map(tuple, chunk["pieces"])), np.int64).reshape(-1, 3)
            place.output[index], place.offset[index] = PIECES, target.index
            place.pieces[index] = (table[:, 0], table[:, 1], table[:, 2])
            into = shared if source.flags & SHF_STRINGS else rows
            into.extend((target.index, int(at), int(size), member) for _, at, size in table)
            _check_pieces(source.size, table, source.name, name, options, report)
        else:
            if chunk["size"] != source.size:
                report.add("map", f"chunk of {chunk['size']} bytes for {source.size}", member=name, section=source.name)
            place.output[index], place.offset[index] = target.index, chunk["offset"]
            rows.append((target.index, chunk["offset"], source.size, member))
            # Entries of a packed table may lie anywhere; the table as a whole begins where the member's could.
            shift = 0 if policy.gapless(source.name) else chunk["offset"] % source.align
            if source.size and (shift or target.align < source.align):
                text = f"needs alignment {source.align}, got {target.name}+{chunk['offset']:#x}"
                report.add("alignment", text, member=name, section=source.name)
        _check_kind(source, target, name, merged, report)

    for item in mapping["dropped"]:
        member, index = item["member"], item["index"]
        if member < 0:
            continue
        model = models[member]
        if index >= len(model.sections) or model.sections[index].name != item["section"]:
            report.add("map", f"dropped section {index} is not {item['section']}", member=names[member])
            continue
        dropped[member][index] = str(item.get("why", ""))

    _check_complete(models, places, dropped, names, options, report, has_sorted_unwind(merged))
    intervals = _check_intervals(merged, np.array(rows, np.int64).reshape(-1, 4), shared, report)
    _check_tables(merged, models, names, intervals, report)
    own = by_name.get(".gnu.linkonce.this_module")
    for model, place in zip(models, places, strict=True):
        source = model.find(".gnu.linkonce.this_module")
        if source is not None and own is not None:
            # Every __this_module is the one copy.
            place.output[source.index], place.offset[source.index] = own.index, 0
    return Layout(places, glue, dropped, intervals)


def _check_pieces(size: int, table: Ints, section: str, member: str, options: Options, report: Report) -> None:
    starts, ends = table[:, 0], table[:, 0] + table[:, 2]
    if np.any(table[:, 2] <= 0) or np.any(starts < 0) or np.any(ends > size) or np.any(starts[1:] < ends[:-1]):
        report.add("map", "pieces overlap or lie outside the section", member=member, section=section)
    if int(table[:, 2].sum()) != size and not policy.may_thin(section, options):
        report.add("dropped", "entries are missing that no option lets go", member=member, section=section)


def _check_kind(source: Section, target: Section, member: str, merged: Model, report: Report) -> None:
    """Memory of the right kind: layout_sections() goes by flags and by the prefix .init; tables go by name."""
    where = Where(member=member, section=source.name)
    special = not policy.generic(source.name) or not policy.generic(target.name)
    # These belong to code sections and are compared with them (unwind_arm.py).
    special &= not source.name.startswith(policy.ARM_UNWIND)
    if special and source.name != target.name:
        report.add("placement", f"went to {target.name}: the kernel looks this section up by name", **where)
    if in_init_memory(merged, source.name) != in_init_memory(merged, target.name) and source.size:
        report.add("placement", f"went to {target.name}: init memory is freed after the load", **where)
    for flag, word in ((SHF_WRITE, "writable"), (SHF_EXEC, "executable")):
        if (source.flags & flag) != (target.flags & flag) and source.size:
            more = "not " if source.flags & flag else ""
            report.add("protection", f"{target.name} is {more}{word}, unlike the member's section", **where)


def _check_complete(
    models: list[Model],
    places: list[Placement],
    dropped: list[dict[int, str]],
    names: list[str],
    options: Options,
    report: Report,
    settled: bool,
) -> None:
    """settled: the megamodule has all unwind entries in a table of its own; settle.py and unwind.py see to that."""
    for model, place, gone, name in zip(models, places, dropped, names, strict=True):
        for section in model.sections[1:]:
            if not section.alloc:
                continue
            kept = place.output[section.index] != GONE
            where = Where(member=name, section=section.name)
            if kept and section.index in gone:
                report.add("map", "the section is both kept and dropped", **where)
            elif not kept and section.size and not policy.may_drop(section.name, options, settled=settled):
                if section.name != ".static_call_sites":
                    how = "dropped" if section.index in gone else "forgotten"
                    report.add("dropped", f"{how}, and no option lets it go", **where)
            elif not kept and section.size and section.index not in gone:
                report.add("map", "neither in chunks nor in dropped", **where)


def _check_intervals(merged: Model, rows: Ints, shared: list[tuple[int, int, int, int]], report: Report) -> Ints:
    """No output byte belongs to two chunks, none lies outside, and tables have no gaps."""
    rows = rows[rows[:, 2] > 0]
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    sizes = np.array([s.size for s in merged.sections], np.int64)
    everything = np.concatenate([rows, np.array(shared, np.int64).reshape(-1, 4)])
    outside = (everything[:, 1] < 0) | (everything[:, 1] + everything[:, 2] > sizes[everything[:, 0]])
    for row in everything[outside][:8].tolist():
        report.add("map", "a chunk lies outside its output section", section=merged.sections[row[0]].name)
    same = rows[1:, 0] == rows[:-1, 0]
    gap = rows[1:, 1] - (rows[:-1, 1] + rows[:-1, 2])
    for at in np.flatnonzero(same & (gap < 0))[:8].tolist():
        name, offset = merged.sections[int(rows[at, 0])].name, int(rows[at + 1, 1])
        report.add("overlap", "two chunks cover one byte", section=name, offset=offset)
    return rows


def _check_tables(merged: Model, models: list[Model], names: list[str], rows: Ints, report: Report) -> None:
    """The kernel finds each member's entries: a chunk begins where an entry begins, and nothing else looks like one."""
    for section in merged.sections[1:]:
        if not section.alloc or not policy.gapless(section.name) or policy.REBUILT.match(section.name):
            continue
        mine = rows[rows[:, 0] == section.index]
        sizes: dict[int, int | None] = {}
        for member in np.unique(mine[mine[:, 3] >= 0, 3]).tolist():
            table = models[member].find(section.name)
            if table is not None and table.size:
                sizes[member] = entry_size(models[member], table)
        for member in [m for m, size in sizes.items() if size is None and len(sizes) > 1]:
            report.add("unknown", "a table of unknown entry size", member=names[member], section=section.name)
        known = set(sizes.values()) - {None}
        if len(known) > 1:
            report.add("unknown", f"members have entries of {sorted(map(str, known))} bytes", section=section.name)
        step = next((size for size in known if size is not None), 1)
        for row in mine[mine[:, 1] % step != 0][:8].tolist():
            text = f"a chunk that does not begin at a multiple of {step}: the kernel reads its entries askew"
            report.add("askew", text, section=section.name, offset=int(row[1]))
        ends = -(-np.concatenate([[0], mine[:, 1] + mine[:, 2]]) // step) * step
        starts = np.concatenate([mine[:, 1], [section.size]])
        for hole in np.flatnonzero(starts > ends)[:8].tolist():
            text = f"{int(starts[hole] - ends[hole])} bytes of nobody in a table that the kernel counts by size"
            report.add("gap", text, section=section.name, offset=int(ends[hole]))
