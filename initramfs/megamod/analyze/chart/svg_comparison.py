"""Two boots as one picture: both on one scale, then the stages' calls, then the modules whose calls differ most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from megamod.analyze.chart.compare import Comparison
from megamod.analyze.chart.drawing import WIDTH, Canvas, Scale, fitted, hover
from megamod.analyze.chart.record import KIND_WORDS, BootRecord, Kind, Span, sums
from megamod.common.text import counted, human_seconds

_MARGIN = 24
_LEFT = 236
_RIGHT = WIDTH - 108
_ROW = 20
_SHOWN_MEMBERS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    label: str
    spans: tuple[Span, ...]

    @property
    def total(self) -> int:
        return sum(span.duration for span in self.spans)


def svg_comparison(comparison: Comparison, *, theme: str = "auto") -> str:
    """The file's text; *theme* is that of `Canvas`."""
    canvas = Canvas(theme=theme)
    canvas.text(_MARGIN, 36, fitted(_headline(comparison), WIDTH - 2 * _MARGIN, 17), size=19, more='font-weight="600"')
    title = f"{comparison.before.title} → {comparison.after.title}"
    canvas.text(_MARGIN, 58, fitted(f"{title}; waits for devices left out", WIDTH - 2 * _MARGIN, 11), ink="soft")
    y = 84.0
    both = (("before", comparison.before), ("after", comparison.after))
    y = _panel(canvas, "to user space", [_Bar(label=when, spans=_whole(record)) for when, record in both], y)
    for stage in comparison.after.stages():
        bars = [
            _Bar(label=f"{when}: {counted(len(_calls(span)), 'call')}", spans=_pieces(span))
            for when, record in both
            for span in record.stages()
            if span.name == stage.name
        ]
        y = _panel(canvas, f"calls of stage {stage.name}", bars, y)
    bars = [
        _Bar(label=f"{each.name}, {when}", spans=tuple(_from_zero(_member(each.name, each.call, each.init, when))))
        for each in [each for each in comparison.members if each.change][:_SHOWN_MEMBERS]
        for when in ("before", "after")
    ]
    bars = [bar for bar in bars if bar.total]  # a member of a megamodule has no call of its own
    y = _panel(canvas, "the modules whose calls differ most", bars, y) if bars else y
    return canvas.finished(y, title)


def _headline(comparison: Comparison) -> str:
    before, after = comparison.whole.before, comparison.whole.after
    words = f"{human_seconds(before / 1e9)} → {human_seconds(after / 1e9)}"
    what = "to user space" if comparison.after.clock and comparison.before.clock else "in the calls"
    if not before or before == after:
        return f"{words} {what}: no difference."
    share = abs(100 * (after - before) / before)
    return f"{words} {what}: {share:.0f} % {'less' if after < before else 'more'}."


def _member(name: str, call: object, init: object, when: str) -> Iterator[Span]:
    for kind, side in ((Kind.LINK, call), (Kind.INIT, init)):
        yield Span(name=name, kind=kind, start=0, duration=getattr(side, when))


def _whole(record: BootRecord) -> tuple[Span, ...]:
    spans = record.before_user_space() if record.clock else record.stages()[:1]
    leaves = [leaf for span in spans for leaf in span.leaves() if leaf.kind != Kind.WAIT]
    return tuple(_from_zero(leaves))


def _calls(stage: Span) -> list[Span]:
    return [part for part in stage.parts if part.kind == Kind.CALL]


def _pieces(stage: Span) -> tuple[Span, ...]:
    """What a stage's calls consist of, all of a kind together."""
    found = sums(_calls(stage)).items()
    pieces = [Span(name=KIND_WORDS[kind], kind=kind, start=0, duration=ns) for kind, ns in found if kind != Kind.WAIT]
    return tuple(_from_zero(pieces))


def _from_zero(spans: Iterable[Span]) -> Iterator[Span]:
    at = 0
    for span in spans:
        yield replace(span, start=at)
        at += span.duration


def _panel(canvas: Canvas, title: str, bars: Sequence[_Bar], y: float) -> float:
    if not bars:
        return y
    end = max(max(bar.total for bar in bars), 1)
    scale = Scale(start=0, end=end, left=_LEFT, right=_RIGHT)
    top = y + 40
    bottom = top + _ROW * len(bars) + 4
    canvas.text(_MARGIN, y + 14, title, size=13, more='font-weight="600"')
    for x, words in scale.ticks():
        canvas.line(x, top - 3, bottom, "grid")
        canvas.text(x, top - 7, words, size=11, ink="soft", more='text-anchor="middle"')
    for number, bar in enumerate(bars):
        at = top + 3 + number * _ROW
        canvas.text(_LEFT - 12, at + 13, fitted(bar.label, _LEFT - _MARGIN - 12, 12), more='text-anchor="end"')
        for span in bar.spans:
            if span.duration:
                x, right = scale.at(span.start), scale.at(span.end)
                canvas.rect(x, at, right - x, _ROW - 4, span.kind.value, title=hover(span))
        words = human_seconds(bar.total / 1e9)
        canvas.text(scale.at(bar.total) + 6, at + 13, words, size=11, ink="soft")
    return bottom + 14
