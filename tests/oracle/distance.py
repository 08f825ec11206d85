"""Imports bound by distance: a megamodule for one kernel beside the same in its names form, which judge() looks at.

The names form is what was proven; here is shown that in that one kernel the other one becomes the same bytes. Where a
symbol of the kernel lies comes from the kernel itself (/proc/kallsyms), which the prelinker never reads.
"""

from collections.abc import Callable, Mapping

import numpy as np

from tests.oracle.difference import Difference, Report
from tests.oracle.model import SHN_ABS, Model, load_model
from tests.oracle.tables import versions
from tests.oracle.whole import undefined

# A NOP, and whether the bytes in its place are a jump.
_SKIPPED: dict[str, tuple[bytes, Callable[[int], bool]]] = {
    "x86_64": (bytes.fromhex("0f1f440000"), lambda word: word & 0xFF == 0xE9),
    "arm64": (bytes.fromhex("1f2003d5"), lambda word: word >> 26 == 5),
    "riscv64": (bytes.fromhex("13000000"), lambda word: word & 0xFFF == 0x6F),
}
# What load_module() and the notifiers of a COMING module follow before its init runs.
_EARLY = (
    *("__param", "__jump_table", ".static_call_sites", ".altinstructions", ".altinstr_replacement", "__tracepoints"),
    *("__tracepoints_ptrs", ".parainstructions", ".retpoline_sites", ".return_sites", ".data..percpu", "__ex_table"),
    *("__bug_table", ".gnu.linkonce.this_module", ".smp_locks", ".call_sites", ".cfi_sites", ".init_array", ".ctors"),
)
_BY_NAME = ("__x86_", "__SCT__", "__SCK__", "__tracepoint_", "param_ops_", "param_set_", "param_get_", "pv_ops")


def compare_distances(
    data: bytes, names: bytes, kernel: Mapping[str, int], *, partial: bool = False
) -> list[Difference]:
    """*data* against *names*, in a kernel whose symbols are at *kernel*. An empty list means: proven equal there.
    *partial*: the kernel lists functions alone (no KALLSYMS_ALL), so nothing is judged of other symbols."""
    report = Report()
    ours, theirs = load_model(data), load_model(names)
    for problem in ours.problems:
        report.add("load", problem)
    if [(s.name, s.size, s.align, s.flags) for s in ours.sections if s.alloc and s.name != "__versions"] != [
        (s.name, s.size, s.align, s.flags) for s in theirs.sections if s.alloc and s.name != "__versions"
    ]:
        report.add("sections", "are not those of the names form")
        return report.result()
    _compare_bytes(ours, theirs, report)
    _compare_references(ours, theirs, kernel, report, partial=partial)
    asked = undefined(ours)
    if not asked <= undefined(theirs):
        report.add("imports", f"{sorted(asked - undefined(theirs))[0]} is in the names form no import")
    mine, full = versions(ours) or {}, versions(theirs) or {}
    if {name: full.get(name) for name in mine} != mine or not asked | {"module_layout"} <= mine.keys():
        report.add("versions", "are not those of the names form")
    return report.result()


def _compare_bytes(ours: Model, theirs: Model, report: Report) -> None:
    for section in ours.sections[1:]:
        other = next((each for each in theirs.sections if each.alloc and each.name == section.name), None)
        if not section.alloc or section.name in ("__versions", ".note.gnu.build-id") or other is None:
            continue
        one, two = bytes(ours.content(section)), bytes(theirs.content(other))
        places = np.flatnonzero(np.frombuffer(one, np.uint8) != np.frombuffer(two, np.uint8)).tolist()
        if not places:
            continue
        at = places[0]
        # The first byte of NOP and jump may be the same.
        nop, jumps = _SKIPPED[ours.arch.name]
        at = max((a for a in range(at - 3, at + 1) if one.startswith(nop, max(a, 0))), default=at)
        skipped = section.name == ".init.text" and one.startswith(nop, at)
        skipped = skipped and jumps(int.from_bytes(two[at : at + 4], "little"))
        if not skipped or places[-1] >= at + len(nop):
            report.add("bytes", "differ from the names form", section=section.name, offset=at)


def _compare_references(
    ours: Model, theirs: Model, kernel: Mapping[str, int], report: Report, *, partial: bool
) -> None:
    """Each relocation is at the same place, of the same type, and leads to the same address."""
    if len(ours.place) != len(theirs.place) or not np.array_equal(ours.place, theirs.place):
        report.add("reference", "other places have relocations than in the names form")
        return
    homes = [section.name for section in ours.sections]
    if [homes[s] for s in ours.place_section.tolist()] != [
        theirs.sections[s].name for s in theirs.place_section.tolist()
    ] or not np.array_equal(ours.kind, theirs.kind):
        report.add("reference", "relocations are in other sections or of other types")
        return
    one, two = _addresses(ours, kernel), _addresses(theirs, kernel)
    for row in range(len(ours.place)):
        left, right = one(row), two(row)
        by_name = left[0] == right[0]
        # The kernel adds without looking whether its symbol is what was meant: only the sum counts.
        if left[0] != right[0] and isinstance(right[0], str) and right[0].startswith(_BY_NAME):
            by_name = False
            report.add("early", f"{right[0]} is not imported by name", section=homes[int(ours.place_section[row])])
        if not by_name and homes[int(ours.place_section[row])] in _EARLY:
            report.add("early", f"{right[0]} by distance", section=homes[int(ours.place_section[row])])
        if partial and right[1] is None:
            continue
        if left != right and (left[1] is None or left[1] != right[1]):
            text = f"must lead to {right}, leads to {left}"
            at = int(ours.place[row])
            report.add("reference", text, section=homes[int(ours.place_section[row])], offset=at)


def _addresses(model: Model, kernel: Mapping[str, int]):  # type: ignore[no-untyped-def]
    """Row → (symbol's name or section, address or offset)."""
    names = [model.name_of_symbol(i) if not home else "" for i, home in enumerate(model.symbol_section.tolist())]

    def of(row: int) -> tuple[object, object]:
        symbol, addend = int(model.symbol[row]), int(model.addend[row])
        home = int(model.symbol_section[symbol])
        if home == 0:
            base = kernel.get(names[symbol])
            if base is None:
                return f"{names[symbol]}{addend:+#x}", None
            return names[symbol], base + addend
        offset = int(model.symbol_value[symbol]) + addend
        return ("absolute" if home == SHN_ABS else model.sections[home].name), offset

    return of
