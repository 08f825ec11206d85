"""``megamod boot --budget``: limits for parts of a boot, held against the best of several runs.

Runs are under icount, so what the guest works is the same every time and on every machine. Waits for the host's devices
are not: they are taken off and reported apart, as is what the measurement itself costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megamod.analyze.chart.record import AT_WORK, BootRecord, Kind, Span, sums
from megamod.analyze.chart.text import milliseconds
from megamod.common.errors import MegamodError
from megamod.common.text import counted, did_you_mean, table

USER_SPACE = "userspace"
BOOT = "boot"
_UNITS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit in nanoseconds. *name*: ``userspace`` from the loader's start to user space, ``boot`` from the
    kernel's, or a stage, from its trigger until it is loaded."""

    name: str
    nanoseconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one run took, in nanoseconds: *spans* are all of it, *waited* and *measuring* are not counted."""

    spans: tuple[Span, ...]
    total: int
    waited: int
    measuring: int

    @property
    def counted(self) -> int:
        """What is held against the limit."""
        return self.total - self.waited - self.measuring


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A limit and what each run took; the run with the least counts."""

    limit: Limit
    runs: tuple[Spent, ...]

    @property
    def best(self) -> Spent:
        """The run that counts."""
        return min(self.runs, key=lambda run: run.counted)

    @property
    def over(self) -> bool:
        """Whether even that one took more than the limit."""
        return self.best.counted > self.limit.nanoseconds


def parse_budget(text: str, *, stages: Sequence[str]) -> tuple[Limit, ...]:
    """``critical=120ms,userspace=500ms`` as limits; *stages* are those that the image has.

    Raises MegamodError for what is no such list.
    """
    limits: dict[str, Limit] = {}
    for item in text.split(","):
        name, equals, value = (part.strip() for part in item.partition("="))
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(us|ms|s|min)", value)
        if not equals or not match:
            hint = "such as critical=120ms,userspace=500ms,boot=2.5s"
            raise MegamodError(f"--budget: `{item.strip()}` is not a limit", hint=hint)
        known = (USER_SPACE, BOOT, *stages)
        if name not in known:
            hint = did_you_mean(name, known) or f"one of {', '.join(known)}"
            raise MegamodError(f"--budget: {name}: the image has no such stage", hint=hint)
        if name in limits:
            raise MegamodError(f"--budget: {name} is given twice")
        limits[name] = Limit(name=name, nanoseconds=round(float(match[1]) * _UNITS[match[2]]))
    return tuple(limits.values())


def judge(limits: Sequence[Limit], runs: int, boot: Callable[[], BootRecord]) -> tuple[Verdict, ...]:
    """Call *boot* so many times and hold what the runs took against the limits.

    Raises MegamodError if a boot has nothing to measure.
    """
    records = [boot() for _run in range(runs)]
    return tuple(Verdict(limit=limit, runs=tuple(spent(record, limit.name) for record in records)) for limit in limits)


def spent(record: BootRecord, name: str) -> Spent:
    """What *record* has for the limit called *name*."""
    spans = _spans(record, name)
    leaves = [leaf for span in spans for leaf in span.leaves()]
    return Spent(
        spans=spans,
        total=sum(span.duration for span in spans),
        waited=sums(spans).get(Kind.WAIT, 0),
        measuring=sum(leaf.duration for leaf in leaves if leaf.kind == Kind.MEASURING),
    )


def _spans(record: BootRecord, name: str) -> tuple[Span, ...]:
    if name in (USER_SPACE, BOOT) and record.user_space is None:
        raise MegamodError(f"{record.title}: user space was not reached")
    if name == BOOT:
        return record.before_user_space()
    if name == USER_SPACE:
        if record.loader is None:
            raise MegamodError(f"{record.title}: the loader is not the image's first program", hint="limit `boot`")
        return tuple(span for span in record.before_user_space() if span.start >= record.loader)
    stages = tuple(span for span in record.stages() if span.name == name)
    if not stages:
        raise MegamodError(f"{record.title}: stage {name} was not loaded", hint="does its trigger come?")
    return stages


def verdicts_text(verdicts: Sequence[Verdict]) -> str:
    """The table of all limits, and for each that is over a table of what took the time."""
    rows = [
        [
            each.limit.name,
            milliseconds(each.limit.nanoseconds),
            milliseconds(each.best.counted),
            "over" if each.over else "holds",
            milliseconds(each.best.waited),
            milliseconds(each.best.measuring),
            " ".join(f"{run.counted / 1e6:.1f}" for run in each.runs),
        ]
        for each in verdicts
    ]
    header = ["budget, ms", "limit", "taken", "", "device waits, not counted", "measuring, not counted", "each run"]
    lines = [table(header, rows, left=1)]
    lines += [f"\n{each.limit.name}:\n{parts_text(each.best)}" for each in verdicts if each.over]
    return "\n".join(lines)


def parts_text(best: Spent) -> str:
    """What took the time of a run, the longest first: the rows add up to the total. Then what of it does not count."""
    leaves = sorted(_with_names(best.spans), key=lambda leaf: -leaf[1])
    rows = [[name, milliseconds(duration), _share(duration, best.total)] for name, duration in leaves[:_SHOWN]]
    if len(leaves) > _SHOWN:
        rest = sum(duration for _name, duration in leaves[_SHOWN:])
        rows.append([counted(len(leaves) - _SHOWN, "other"), milliseconds(rest), _share(rest, best.total)])
    rows.append(["all", milliseconds(best.total), "100.0"])
    for name, value in (("waits for devices", best.waited), ("measuring", best.measuring)):
        if value:
            rows.append([f"of it {name}, not counted", milliseconds(value), _share(value, best.total)])
    return table(["what took the time", "ms", "%"], rows, left=1)


def _share(value: int, whole: int) -> str:
    return f"{100 * value / whole:.1f}" if whole else ""


def _with_names(spans: Sequence[Span], above: str = "") -> list[tuple[str, int]]:
    """Name and duration of each leaf; a leaf's name says what it is a part of where its own does not."""
    found: list[tuple[str, int]] = []
    for span in spans:
        words = {Kind.INIT: f"init of {span.name}", Kind.STAGE: f"stage {span.name}", Kind.CALL: span.name}
        name = words.get(span.kind, span.name)
        if span.parts:
            found += _with_names(span.parts, above=name)
        elif span.name == AT_WORK:
            found.append((above, span.duration))
        else:
            found.append((name if span.kind == Kind.INIT or not above else f"{above}: {name}", span.duration))
    return found
