"""Two records side by side: what differs, by part and by member. What is listed adds up to the whole difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megamod.analyze.chart.record import KIND_WORDS, BootRecord, Kind, Span, hidden_waits, sums
from megamod.analyze.chart.text import milliseconds
from megamod.common.text import counted, table

_SHOWN_MEMBERS = 20
_NAMED_PARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Nanoseconds in the first boot and in the second, 0 where it has no such thing."""

    name: str
    before: int
    after: int

    @property
    def change(self) -> int:
        """What the second takes more; negative if less."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDifference:
    """A module in both boots: its *init*, and *call*, the rest of a call of its own. A megamodule's members share their
    call, which stands under the megamodule's name."""

    name: str
    init: Difference
    call: Difference

    @property
    def change(self) -> int:
        """Both together."""
        return self.init.change + self.call.change


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """*waits* are those within calls. *whole* is the time to user space, or of all calls where a source has no
    times; *parts* add up to it. *deferred* are the parts of stages that ran beside the boot. *members* add up to all
    calls, deferred ones too."""

    before: BootRecord
    after: BootRecord
    whole: Difference
    parts: tuple[Difference, ...]
    deferred: tuple[Difference, ...]
    members: tuple[MemberDifference, ...]
    waits: Difference


def compare(before: BootRecord, after: BootRecord) -> Comparison:
    """The comparison of two boots; lists are sorted by how much changed, most first."""
    if before.clock and after.clock:
        early = [record.before_user_space() for record in (before, after)]
    else:
        # Only the calls of the stages are known of one of them, so they alone are compared.
        early = [record.stages()[:1] for record in (before, after)]
    late = [
        [stage for stage in record.stages() if stage not in spans]
        for record, spans in zip((before, after), early, strict=True)
    ]
    whole = Difference(name="all", before=_total(early[0]), after=_total(early[1]))
    return Comparison(
        before=before,
        after=after,
        whole=whole,
        parts=_parts(early[0], early[1]),
        deferred=_parts(late[0], late[1]),
        members=_members(before, after),
        waits=Difference(name="waits for devices", before=_waits(before.calls()), after=_waits(after.calls())),
    )


def _waits(calls: Sequence[Span]) -> int:
    return sum(leaf.duration for call in calls for leaf in call.leaves() if leaf.kind == Kind.WAIT)


def _total(spans: Iterable[Span]) -> int:
    return sum(span.duration for span in spans)


def _parts(before: Sequence[Span], after: Sequence[Span]) -> tuple[Difference, ...]:
    sides = sums(before), sums(after)
    kinds = [kind for kind in KIND_WORDS if any(kind in side for side in sides)]
    found = [
        Difference(name=KIND_WORDS[kind], before=sides[0].get(kind, 0), after=sides[1].get(kind, 0)) for kind in kinds
    ]
    return tuple(sorted(found, key=lambda each: -abs(each.change)))


def _members(before: BootRecord, after: BootRecord) -> tuple[MemberDifference, ...]:
    sides = [_by_member(record) for record in (before, after)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    found = []
    for name in names:
        (init0, call0), (init1, call1) = (side.get(name, (0, 0)) for side in sides)
        found.append(
            MemberDifference(
                name=name,
                init=Difference(name=name, before=init0, after=init1),
                call=Difference(name=name, before=call0, after=call1),
            )
        )
    return tuple(sorted(found, key=lambda each: -abs(each.change)))


def _by_member(record: BootRecord) -> dict[str, tuple[int, int]]:
    """Module or megamodule → nanoseconds of its init, and of its call without inits."""
    found: dict[str, tuple[int, int]] = {}
    for call in record.calls():
        inits = [part for part in call.parts if part.kind == Kind.INIT]
        for init in inits:
            known = found.get(init.name, (0, 0))
            found[init.name] = known[0] + init.duration - _waits([init]), known[1]
        known = found.get(call.name, (0, 0))
        found[call.name] = known[0], known[1] + call.duration - _total(inits) - (0 if inits else _waits([call]))
    return found


def comparison_text(comparison: Comparison) -> str:
    """The comparison as text."""
    before, after = comparison.before, comparison.after
    lines = [f"before: {_about(before)}", f"after:  {_about(after)}", ""]
    what = "to user space" if before.clock and after.clock else "critical stage"
    lines += _table(f"{what}, ms", [*comparison.parts, comparison.whole])
    lines += ["", _conclusion(comparison)]
    if comparison.deferred:
        total = Difference(
            name="all",
            before=sum(each.before for each in comparison.deferred),
            after=sum(each.after for each in comparison.deferred),
        )
        lines += ["", *_table("deferred stages, ms", [*comparison.deferred, total])]
    lines += ["", *_member_table(comparison)]
    return "\n".join(lines)


def _about(record: BootRecord) -> str:
    calls = record.calls()
    text = f"{record.title}, {counted(len(calls), 'call')} {milliseconds(_total(calls))} ms"
    return f"{text}, kernel {record.kernel}" if record.kernel else text


def _conclusion(comparison: Comparison) -> str:
    waits = [each for each in comparison.parts if each.name == KIND_WORDS[Kind.WAIT]]
    before = comparison.whole.before - sum(each.before for each in waits)
    change = comparison.whole.change - sum(each.change for each in waits)
    if not change:
        return "No difference."
    way = "less" if change < 0 else "more"
    same = [each for each in comparison.parts if each.change * change > 0 and each not in waits][:_NAMED_PARTS]
    named = ", ".join(f"{each.name} {abs(each.change) / 1e6:.1f}" for each in same)
    share = f" ({100 * abs(change) / before:.0f} %)" if before else ""
    apart = ", excluding device waits" if waits else ""
    return f"The second takes {abs(change) / 1e6:.1f} ms {way}{share}{apart}. By part, in ms: {named}."


def _table(title: str, differences: Sequence[Difference]) -> list[str]:
    rows = [
        [each.name, milliseconds(each.before), milliseconds(each.after), _signed(each.change)] for each in differences
    ]
    return table([title, "before", "after", "change"], rows, left=1).splitlines()


def _member_table(comparison: Comparison) -> list[str]:
    shown, others = comparison.members[:_SHOWN_MEMBERS], comparison.members[_SHOWN_MEMBERS:]
    rows = [[each.name, *_cells(each.init), *_cells(each.call), _signed(each.change)] for each in shown]
    for name, group in ((counted(len(others), "other"), others), ("all", comparison.members)):
        if group:
            init, call = (
                Difference(
                    name=name,
                    before=sum(getattr(each, side).before for each in group),
                    after=sum(getattr(each, side).after for each in group),
                )
                for side in ("init", "call")
            )
            rows.append([name, *_cells(init), *_cells(call), _signed(init.change + call.change)])
    hidden = [hidden_waits(record.calls()) for record in (comparison.before, comparison.after)]
    if any(hidden):
        waits = Difference(name="of the inits, waits of an unknown one", before=hidden[0], after=hidden[1])
        rows.append([waits.name, *_cells(waits), "", "", _signed(waits.change)])
    if comparison.waits.before or comparison.waits.after:
        waits = comparison.waits
        rows.append([f"{waits.name}, beside that", *_cells(waits), "", "", _signed(waits.change)])
    header = ["calls by member, ms", "init before", "after", "rest of the call before", "after", "change"]
    return table(header, rows, left=1).splitlines()


def _cells(difference: Difference) -> list[str]:
    return [milliseconds(value) if value else "-" for value in (difference.before, difference.after)]


def _signed(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:+.3f}"


def comparison_dict(comparison: Comparison) -> dict[str, object]:
    """The comparison for JSON, in nanoseconds."""

    def rows(differences: Iterable[Difference]) -> list[dict[str, object]]:
        return [{"name": each.name, "before": each.before, "after": each.after} for each in differences]

    return {
        "format": "megamod-comparison",
        "version": 1,
        "before": comparison.before.title,
        "after": comparison.after.title,
        "whole": {"before": comparison.whole.before, "after": comparison.whole.after},
        "parts": rows(comparison.parts),
        "deferred": rows(comparison.deferred),
        "waits": {"before": comparison.waits.before, "after": comparison.waits.after},
        "members": [
            {
                "name": each.name,
                "init": {"before": each.init.before, "after": each.init.after},
                "call": {"before": each.call.before, "after": each.call.after},
            }
            for each in comparison.members
        ],
    }
