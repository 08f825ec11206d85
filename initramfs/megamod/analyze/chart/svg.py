"""The record as one picture: the whole boot on one time scale, and below it what is between the loader's start and user
space, enlarged. No script, no font, no reference to anything outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from megamod.analyze.chart.drawing import WIDTH, Canvas, Scale, fitted, hover, width_of
from megamod.analyze.chart.finding import (
    LEAST_SHARE,
    Breakdown,
    Part,
    before_user_space,
    context,
    headline,
    longest_units,
)
from megamod.analyze.chart.kernel_phases import PHASES
from megamod.analyze.chart.record import BootRecord, Kind, Mark, Span
from megamod.common.text import counted, human_seconds

_MARGIN = 24
_LEFT = 236
_RIGHT = WIDTH - 108
_LANE = 22
_GAP = 7
_SMALL = 11
_MOST_UNITS = 8
_SPACE = 10


def svg_chart(record: BootRecord, *, theme: str = "auto") -> str:
    """The file's text; *theme* is that of `Canvas`."""
    canvas = Canvas(theme=theme)
    y = heading(canvas, record)
    found = before_user_space(record)
    if record.clock:
        y, scale = _overview(canvas, record, y)
        if found is not None and found.duration < record.end:
            y = _lens(canvas, scale, found, y)
    if found is not None:
        y = breakdown_panel(canvas, found, y)
    return canvas.finished(_legend(canvas, record, y), _title(record))


def heading(canvas: Canvas, record: BootRecord) -> float:
    """The finding, and below it what was measured; returns where the next thing begins."""
    canvas.text(_MARGIN, 36, fitted(headline(record), WIDTH - 2 * _MARGIN, 17), size=19, more='font-weight="600"')
    y = 58.0
    if sentences := context(record):
        canvas.text(_MARGIN, y, fitted(" ".join(sentences), WIDTH - 2 * _MARGIN, 11.5), size=13)
        y += 20
    canvas.text(_MARGIN, y, fitted(_title(record), WIDTH - 2 * _MARGIN, 11), size=12, ink="soft")
    return y + 18


def _title(record: BootRecord) -> str:
    parts = [record.title, *([f"kernel {record.kernel}"] if record.kernel else [])]
    if record.user_space is not None:
        parts.append(f"user space after {human_seconds(record.user_space / 1e9)}")
    elif record.clock:
        parts.append("user space was not reached")
    else:
        parts.append("durations only: the stages follow one another here")
    if record.before is not None:
        parts.append(f"{human_seconds(record.before / 1e9)} of firmware and decompression before 0")
    return " · ".join(parts)


def _overview(canvas: Canvas, record: BootRecord, y: float) -> tuple[float, Scale]:
    lanes = _lanes(record)
    scale = Scale(start=0, end=record.end, left=_LEFT, right=_RIGHT)
    marks = _marks(record)
    rows = _mark_rows(marks, scale)
    top = y + 15 * (max(rows, default=-1) + 1) + 20
    bottom = top + len(lanes) * (_LANE + _GAP)
    if record.loader is not None and record.user_space is not None:
        left, right = scale.at(record.loader), scale.at(record.user_space)
        canvas.rect(left, top, right - left, bottom - top, "band")
    _axis(canvas, scale, top, bottom)
    for number, (label, spans, words) in enumerate(lanes):
        _lane(canvas, scale, top + number * (_LANE + _GAP) + 4, label, spans, words)
    for mark, row in zip(marks, rows, strict=True):
        x = scale.at(mark.time)
        canvas.line(x, y + 15 * row + 1, top - 18, "mark", dash="3 3")  # the words of the axis stay free
        canvas.line(x, top - 3, bottom, "mark", dash="3 3")
    for mark, row in zip(marks, rows, strict=True):
        x, at, text = scale.at(mark.time), y + 15 * row + 10, _mark_words(mark)
        width = width_of(text, _SMALL)
        flip = _flipped(x, text)
        canvas.rect(x - width - 4 if flip else x + 3, at - 9, width, 12, "page")  # over the lines of other marks
        anchor = 'text-anchor="end"' if flip else ""
        canvas.text(x + (-5 if flip else 5), at, text, size=_SMALL, ink="mark", more=anchor)
    return bottom, scale


_Lane = tuple[str, Sequence[Span], str]


def _lanes(record: BootRecord) -> list[_Lane]:
    """Label, bars, and words after the last bar."""
    kernel = [part for span in record.line if span.kind == Kind.KERNEL for part in (span.parts or (span,))]
    loader = [span for span in record.line if span.kind not in (Kind.KERNEL, Kind.USERSPACE)]
    user = [span for span in record.line if span.kind == Kind.USERSPACE]
    lanes: list[_Lane] = []
    if kernel:
        lanes.append(("kernel", kernel, _total(kernel)))
    lanes += [(span.name, (span,), _total((span,))) for span in record.beside if span.kind == Kind.UNPACK]
    if loader:
        lanes.append(("loader, critical stage", [leaf for span in loader for leaf in span.leaves()], _total(loader)))
    for stage in record.stages():
        if stage in record.beside:
            lanes.append((f"stage {stage.name}", list(stage.leaves()), _total((stage,))))
    if user:
        lanes.append(("user space", user, ""))
    return lanes + _unit_lanes(record)


def _unit_lanes(record: BootRecord) -> list[_Lane]:
    least = LEAST_SHARE * record.end
    longest = [unit for unit in longest_units(record)[:_MOST_UNITS] if unit.duration >= least]
    shown = sorted(longest, key=lambda unit: unit.start)
    others = [unit for unit in record.units if unit not in shown]
    lanes: list[_Lane] = [(unit.name, (unit,), _total((unit,))) for unit in shown]
    if others:
        lanes.append((counted(len(others), "other unit"), others, ""))
    return lanes


def _lane(canvas: Canvas, scale: Scale, y: float, label: str, spans: Sequence[Span], words: str) -> None:
    canvas.text(_LEFT - 12, y + 15, fitted(label, _LEFT - _MARGIN - 12, 12), more='text-anchor="end"')
    for span in spans:
        x, end = scale.at(span.start), scale.at(span.end)
        canvas.rect(x, y, end - x, _LANE, span.kind.value, title=hover(span))
    if len(spans) > 1:  # thin lines between the bars that are wide enough to have names
        for span in spans:
            x, width = scale.at(span.start), scale.at(span.end) - scale.at(span.start)
            if x > _LEFT + 1 and width > 3:
                canvas.line(x, y, y + _LANE, "gap")
    for span in spans:
        x, width = scale.at(span.start), scale.at(span.end) - scale.at(span.start)
        if span.kind in (Kind.KERNEL, Kind.USERSPACE):
            text = next((text for text in _inside(span) if width_of(text, _SMALL) <= width - _SPACE), "")
            canvas.text(x + 6, y + 15, text, size=_SMALL)
    canvas.text(_RIGHT + 8, y + 15, words, size=_SMALL, ink="soft")


_SHORT = {PHASES[0]: "start", PHASES[1]: "built-in drivers", PHASES[2]: "memory"}


def _inside(span: Span) -> Iterator[str]:
    """What may stand in a bar, the longest first."""
    if span.kind == Kind.USERSPACE:
        yield f"{span.detail or 'init'} and what it starts"
        yield span.detail or "init"
    else:
        short = _SHORT.get(span.name, span.name)
        yield f"{span.name}, {human_seconds(span.duration / 1e9)}"
        yield f"{short}, {human_seconds(span.duration / 1e9)}"
        yield short


def _total(spans: Iterable[Span]) -> str:
    return human_seconds(sum(span.duration for span in spans) / 1e9)


def _marks(record: BootRecord) -> list[Mark]:
    marks = list(record.marks)
    if record.loader is not None:
        marks.append(Mark(name="loader", time=record.loader))
    if record.user_space is not None:
        marks.append(Mark(name="user space", time=record.user_space))
    return sorted(marks, key=lambda mark: mark.time)


def _mark_words(mark: Mark) -> str:
    return f"{mark.name} {human_seconds(mark.time / 1e9)}"


def _mark_rows(marks: Sequence[Mark], scale: Scale) -> list[int]:
    """The row of each mark's words, so that none lies on another's."""
    ends: list[float] = []
    rows = []
    for mark in marks:
        x, width = scale.at(mark.time), width_of(_mark_words(mark), _SMALL) + 12
        left = x - width if _flipped(x, _mark_words(mark)) else x
        row = next((number for number, end in enumerate(ends) if end <= left), len(ends))
        ends[row : row + 1] = [left + width]
        rows.append(row)
    return rows


def _flipped(x: float, text: str) -> bool:
    """Whether the words of a mark stand left of it."""
    return x + width_of(text, _SMALL) + 12 > WIDTH


def _axis(canvas: Canvas, scale: Scale, top: float, bottom: float) -> None:
    for x, words in scale.ticks():
        canvas.line(x, top - 3, bottom, "grid")
        canvas.text(x, top - 7, words, size=_SMALL, ink="soft", more='text-anchor="middle"')


def _lens(canvas: Canvas, scale: Scale, found: Breakdown, y: float) -> float:
    """From the place in the overview to the panel below, which shows it enlarged."""
    left, right = scale.at(found.start), scale.at(found.end)
    canvas.shape(f"M{left:.1f} {y:.1f}L{_LEFT} {y + 34:.1f}H{_RIGHT}L{max(right, left + 1):.1f} {y:.1f}Z", "band")
    return y + 34


def breakdown_panel(canvas: Canvas, found: Breakdown, y: float) -> float:
    """A row for each part in the order of time; the largest are set off, the small ones share the last row."""
    scale = Scale(start=found.start, end=found.end, left=_LEFT, right=_RIGHT)
    rows = len(found.parts) + bool(found.small)
    top = y + 46
    bottom = top + rows * (_LANE + 2) + 4
    canvas.rect(_LEFT, y, _RIGHT - _LEFT, bottom - y, "band")
    title = f"{found.title}: {human_seconds(found.duration / 1e9)}"
    canvas.text(_LEFT + 8, y + 18, title, size=13, more='font-weight="600"')
    _axis(canvas, scale, top, bottom)
    for number, part in enumerate(found.parts):
        _part(canvas, scale, found, part, top + 4 + number * (_LANE + 2), large=part in found.largest)
    if found.small:
        at = top + 4 + (rows - 1) * (_LANE + 2)
        share = LEAST_SHARE * 100
        label = f"{counted(len(found.small), 'part')} below {share:g} %"
        if len(found.small) == 1:
            label = found.small[0].label
        spans = tuple(span for part in found.small for span in part.spans)
        _row(canvas, scale, found, at, label, spans, large=False)
    return bottom


def _part(canvas: Canvas, scale: Scale, found: Breakdown, part: Part, y: float, *, large: bool) -> None:
    spans = tuple(leaf for span in part.spans for leaf in span.leaves())
    _row(canvas, scale, found, y, part.label, spans, large=large)


def _row(
    canvas: Canvas, scale: Scale, found: Breakdown, y: float, label: str, spans: Sequence[Span], *, large: bool
) -> None:
    weight = ' font-weight="600"' if large else ""
    ink = "ink" if large else "soft"
    shown = fitted(label, _LEFT - _MARGIN - 12, 12)
    canvas.text(_LEFT - 12, y + 15, shown, ink=ink, more=f'text-anchor="end"{weight}')
    height = _LANE if large else _LANE - 10
    for span in spans:
        x, end = scale.at(span.start), scale.at(span.end)
        canvas.rect(x, y + (_LANE - height) / 2, end - x, height, span.kind.value, title=hover(span))
    total = sum(span.duration for span in spans)
    words = f"{human_seconds(total / 1e9)} · {100 * total / max(1, found.duration):.0f} %"
    canvas.text(_RIGHT + 8, y + 15, words, size=12 if large else _SMALL, ink=ink, more=weight.strip())


_LEGEND = {
    Kind.KERNEL: "kernel",
    Kind.UNPACK: "unpacking the image",
    Kind.LINK: "copy and relocation",
    Kind.INIT: "drivers' inits",
    Kind.END: "after the inits (async probes)",
    Kind.CALL: "load calls, not split",
    Kind.STAGE: "stages, not split",
    Kind.WAIT: "waiting for devices",
    Kind.ROOT: "root",
    Kind.LOADER: "loader",
    Kind.UNIT: "starting a unit",
    Kind.MEASURING: "measuring",
    Kind.UNEXPLAINED: "unexplained",
}


def _legend(canvas: Canvas, record: BootRecord, y: float) -> float:
    spans = [*record.line, *record.beside, *record.units]
    there = {leaf.kind for span in spans for leaf in span.leaves()}
    x, y = float(_LEFT), y + 30
    for kind, words in _LEGEND.items():
        if kind not in there:
            continue
        width = 18 + width_of(words, _SMALL) + 14
        if x + width > WIDTH - _MARGIN:
            x, y = float(_LEFT), y + 20
        canvas.rect(x, y - 10, 12, 12, kind.value)
        canvas.text(x + 18, y, words, size=_SMALL, ink="soft")
        x += width
    return y + 22
