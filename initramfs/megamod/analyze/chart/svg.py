"""The record as one SVG file: no script, no font, no reference to anything outside. What a bar is shows in its
pattern and its label, so it can be read in black and white; hovering gives the numbers.

The first panel is the whole boot. Each stage has a panel of its own scale, a bar for each part of its calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias
from xml.sax.saxutils import escape

from megamod.analyze.chart.compare import Comparison
from megamod.analyze.chart.record import AT_WORK, KIND_WORDS, BootRecord, Kind, Span, sums
from megamod.analyze.chart.text import milliseconds
from megamod.common.text import counted

_WIDTH = 1000
_LEFT = 230
_RIGHT = 90
_ROW = 17
_PLOT = _WIDTH - _LEFT - _RIGHT
_TICKS = 8
_LEGEND_COLUMNS = 7
_SHOWN_MEMBERS = 20

# Background and lines of each pattern: strokes differ in direction and distance, backgrounds in lightness.
_PATTERNS: dict[Kind, tuple[str, str]] = {
    Kind.KERNEL: ("#d9d9d9", ""),
    Kind.INITCALL: ("#c0c0c0", "M0 6H6"),
    Kind.UNPACK: ("#efe3c8", "M0 3H6"),
    Kind.LOADER: ("#ffffff", "M0 0L6 6"),
    Kind.STAGE: ("#9fb8d3", ""),
    Kind.CALL: ("#7d9cc0", ""),
    Kind.COPY: ("#f3d9b1", "M3 0V6"),
    Kind.LINK: ("#b98c5a", "M0 6L6 0"),
    Kind.INIT: ("#2f5d8a", ""),
    Kind.WAIT: ("#ffffff", "M0 2H6M0 5H6"),
    Kind.END: ("#e8e8ff", "M0 0L6 6M0 6L6 0"),
    Kind.ROOT: ("#cfe3cf", "M0 3H6M3 0V6"),
    Kind.USERSPACE: ("#f4f4f4", ""),
    Kind.MEASURING: ("#ffffff", "M0 3H2"),
    Kind.UNEXPLAINED: ("#000000", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    label: str
    spans: tuple[Span, ...]


_PanelData: TypeAlias = tuple[str, int, int, list[_Bar]]


def svg_chart(record: BootRecord) -> str:
    """The file's text."""
    head = f"{record.title}, kernel {record.kernel}" if record.kernel else record.title
    return _file(head, list(_panels(record)), [record])


def svg_comparison(comparison: Comparison) -> str:
    """Both boots on one scale, then the members whose calls differ most, the first boot above the second."""
    both = (("before", comparison.before), ("after", comparison.after))
    lines = [[each for span in _compared(record) for each in _at_work(span)] for _name, record in both]
    bars = [_Bar(label=name, spans=tuple(_from_zero(spans))) for (name, _), spans in zip(both, lines, strict=True)]
    end = max(sum(span.duration for span in bar.spans) for bar in bars)
    waits = any(
        each.kind == Kind.WAIT for _name, record in both for span in _compared(record) for each in span.leaves()
    )
    panels = [("side by side, waits left out" if waits else "side by side", 0, end, bars)]
    for stage in comparison.after.stages():
        bars = [
            _Bar(label=f"{when}: {counted(len(_calls(span)), 'call')}", spans=tuple(_from_zero(_pieces(span))))
            for when, record in both
            for span in record.stages()
            if span.name == stage.name
        ]
        panels.append((f"calls of stage {stage.name}", 0, max(_total(bar.spans) for bar in bars), bars))
    shown = [each for each in comparison.members if each.change][:_SHOWN_MEMBERS]
    bars = []
    for each in shown:
        for when, side in (("before", "before"), ("after", "after")):
            pieces = [
                Span(name=each.name, kind=Kind.CALL, start=0, duration=getattr(each.call, side)),
                Span(name=each.name, kind=Kind.INIT, start=0, duration=getattr(each.init, side)),
            ]
            bars.append(_Bar(label=f"{each.name}, {when}", spans=tuple(_from_zero(pieces))))
    if bars:
        panels.append(("the modules whose calls differ most", 0, max(_total(bar.spans) for bar in bars), bars))
    head = f"{comparison.before.title} → {comparison.after.title}"
    return _file(head, panels, [comparison.before, comparison.after])


def _at_work(span: Span) -> list[Span]:
    return [leaf for leaf in span.leaves() if leaf.kind != Kind.WAIT]


def _compared(record: BootRecord) -> tuple[Span, ...]:
    return record.before_user_space() if record.clock else record.stages()[:1]


def _calls(stage: Span) -> list[Span]:
    return [part for part in stage.parts if part.kind == Kind.CALL]


def _pieces(stage: Span) -> list[Span]:
    """What a stage's calls consist of, all of a kind together."""
    found = sums(_calls(stage)).items()
    return [Span(name=KIND_WORDS[kind], kind=kind, start=0, duration=ns) for kind, ns in found if kind != Kind.WAIT]


def _from_zero(spans: Iterable[Span]) -> Iterator[Span]:
    at = 0
    for span in spans:
        yield replace(span, start=at)
        at += span.duration


def _total(spans: Iterable[Span]) -> int:
    return sum(span.duration for span in spans)


def _file(head: str, panels: Sequence[_PanelData], records: Sequence[BootRecord]) -> str:
    kinds = _legend_kinds(records)
    body: list[str] = []
    y = 40 + 22 * -(-len(kinds) // _LEGEND_COLUMNS)
    for title, start, end, bars in panels:
        body += _panel(title, start, end, bars, y)
        y += _ROW * (len(bars) + 3) + 14
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}"'
        ' font-family="sans-serif" font-size="11">',
        f"<title>{_text(head)}</title>",
        "<defs>",
        *(_pattern(kind) for kind in Kind),
        "</defs>",
        f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="14">{_text(head)}</text>',
        *_legend(kinds),
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _panels(record: BootRecord) -> Iterator[_PanelData]:
    early = record.before_user_space()
    if record.clock and early:
        bars = [_Bar(label=_label(span), spans=tuple(_broad(span))) for span in early]
        bars += [_Bar(label=_label(span), spans=(span,)) for span in record.beside if span.kind == Kind.UNPACK]
        yield "to user space" if record.user_space is not None else "the boot", 0, early[-1].end, bars
    for stage in record.stages():
        yield f"stage {stage.name}, {stage.detail}", stage.start, stage.end, list(_stage_bars(stage))
    if record.clock and record.end > record.before_user_space()[-1].end:
        bars = [_Bar(label=_label(span), spans=(span,)) for span in (*record.line, *record.beside)]
        yield "the whole", 0, record.end, bars


def _broad(span: Span) -> Iterator[Span]:
    """A row of the first panel: the kernel's phases, a stage's calls in their parts."""
    if span.parts:
        for part in span.parts:
            yield from _broad(part)
    else:
        yield span


def _stage_bars(stage: Span) -> Iterator[_Bar]:
    others = tuple(part for part in stage.parts if part.kind != Kind.CALL)
    for call in (part for part in stage.parts if part.kind == Kind.CALL):
        inits = [part for part in call.parts if part.kind == Kind.INIT]
        if len(inits) > 1:
            yield _Bar(label=f"call of {call.name}", spans=(call,))
            yield from (_Bar(label=part.name, spans=tuple(part.leaves())) for part in call.parts)
        else:
            yield _Bar(label=call.name, spans=tuple(call.leaves()))
    if others:
        yield _Bar(label="loader, measuring", spans=others)


def _panel(title: str, start: int, end: int, bars: Sequence[_Bar], y: int) -> list[str]:
    span = max(1, end - start)
    lines = [f'<text x="10" y="{y + 12}" font-weight="bold">{_text(title)}: {milliseconds(end - start)} ms</text>']
    top, bottom = y + 2 * _ROW, y + _ROW * (len(bars) + 2)
    for number in range(_TICKS + 1):
        x = _LEFT + _PLOT * number / _TICKS
        value = f"{(start + span * number / _TICKS) / 1e6:.1f}"
        lines.append(f'<path d="M{x:.1f} {top - 3}V{bottom}" stroke="#bbbbbb" stroke-width="0.5"/>')
        lines.append(f'<text x="{x:.1f}" y="{top - 6}" font-size="9" text-anchor="middle">{value}</text>')
    for number, bar in enumerate(bars):
        at = top + number * _ROW
        lines.append(f'<text x="{_LEFT - 6}" y="{at + 12}" text-anchor="end">{_text(_shortened(bar.label))}</text>')
        right = float(_LEFT)
        for each in bar.spans:
            x = _LEFT + _PLOT * (each.start - start) / span
            width = max(0.4, _PLOT * each.duration / span)
            right = max(right, x + width)
            lines.append(
                f'<rect x="{x:.2f}" y="{at + 2}" width="{width:.2f}" height="{_ROW - 4}" fill="url(#{each.kind.value})"'
                f' stroke="#333333" stroke-width="0.4"><title>{_text(_hover(each))}</title></rect>'
            )
        total = sum(each.duration for each in bar.spans)
        lines.append(f'<text x="{right + 4:.1f}" y="{at + 12}" font-size="9">{milliseconds(total)}</text>')
    return lines


def _hover(span: Span) -> str:
    text = f"{_label(span)}: {milliseconds(span.duration)} ms, from {milliseconds(span.start)}"
    if span.waited is not None:
        text += f", {milliseconds(span.waited)} ms of it waiting"
    return f"{text}; {span.detail}" if span.detail else text


def _label(span: Span) -> str:
    words = {Kind.STAGE: f"stage {span.name}", Kind.CALL: f"call of {span.name}", Kind.INIT: f"init of {span.name}"}
    return words.get(span.kind, span.name) if span.name != AT_WORK else AT_WORK


def _shortened(text: str) -> str:
    return text if len(text) <= 36 else f"{text[:35]}…"


def _legend_kinds(records: Sequence[BootRecord]) -> list[Kind]:
    spans = [span for record in records for span in (*record.line, *record.beside)]
    there = {each.kind for span in spans for each in span.walk()}
    return [kind for kind in KIND_WORDS if kind in there]


def _legend(kinds: Sequence[Kind]) -> Iterator[str]:
    for number, kind in enumerate(kinds):
        x, y = 10 + 140 * (number % _LEGEND_COLUMNS), 32 + 22 * (number // _LEGEND_COLUMNS)
        yield f'<rect x="{x}" y="{y}" width="16" height="11" fill="url(#{kind.value})" stroke="#333333"/>'
        word = KIND_WORDS[kind].removeprefix("calls: ").replace("relocation and the rest", "relocation, the rest")
        yield f'<text x="{x + 21}" y="{y + 10}" font-size="10">{_text(word)}</text>'


def _pattern(kind: Kind) -> str:
    ground, strokes = _PATTERNS[kind]
    path = f'<path d="{strokes}" stroke="#444444" stroke-width="0.9" fill="none"/>' if strokes else ""
    return (
        f'<pattern id="{kind.value}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" fill="{ground}"/>{path}</pattern>'
    )


def _text(text: str) -> str:
    # XML has no place for most control characters, not even escaped (XML 1.0, 2.2).
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text))
