"""The record as one HTML page: the picture, and below it what can be folded out. No script, nothing from outside."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from megamod.analyze.chart.drawing import COLOURS, FONT, Canvas
from megamod.analyze.chart.finding import breakdown, headline, longest_units
from megamod.analyze.chart.record import AT_WORK, KIND_WORDS, BootRecord, Kind, Span, sums
from megamod.analyze.chart.svg import breakdown_panel, svg_chart
from megamod.analyze.chart.text import text_chart
from megamod.common.text import counted, human_seconds

_USED = ("page", "ink", "soft", "grid")
_STYLE = f"""
body {{ margin: 0 auto; padding: 1rem; max-width: 1100px; background: var(--page); color: var(--ink);
  font: 14px/1.5 {FONT}; }}
svg {{ width: 100%; height: auto; }}
details {{ border-top: 1px solid var(--grid); padding: .6rem 24px; }}
summary {{ cursor: pointer; font-weight: 600; }}
summary span {{ font-weight: 400; color: var(--soft); }}
table {{ border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }}
td, th {{ padding: .1rem 1.2rem .1rem 0; text-align: left; }}
td.n, th.n {{ text-align: right; }}
pre {{ overflow-x: auto; font-size: 12px; line-height: 1.35; }}
"""


def html_chart(record: BootRecord, *, theme: str = "auto") -> str:
    """The page's text; *theme* is that of `Canvas`."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(headline(record))}</title>",
            f"<style>{_colours(theme)}{_STYLE}</style></head><body>",
            svg_chart(record, theme=theme),
            *_folded(record, theme),
            "</body></html>",
            "",
        ]
    )


def _colours(theme: str) -> str:
    """Variables of the style sheet; `auto` has both, as the screen is."""
    light, dark = ("".join(f"--{name}: {COLOURS[name][side]}; " for name in _USED) for side in (0, 1))
    if theme != "auto":
        return f":root {{ color-scheme: {theme}; {dark if theme == 'dark' else light}}}"
    screen = f"@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}"
    return f":root {{ color-scheme: light dark; {light}}} {screen}"


def _folded(record: BootRecord, theme: str) -> Iterator[str]:
    for stage in record.stages():
        canvas = Canvas(theme=theme)
        height = breakdown_panel(canvas, breakdown(f"stage {stage.name}", [stage]), 0)
        detail = ", ".join(filter(None, (human_seconds(stage.duration / 1e9), stage.detail)))
        body = canvas.finished(height, f"stage {stage.name}") + _members(stage)
        yield _details(f"Stage {stage.name}", detail, body)
    kernel = [span for span in record.line if span.kind == Kind.KERNEL]
    if calls := [each for span in kernel for each in span.walk() if each.kind == Kind.INITCALL]:
        longest = sorted(calls, key=lambda span: -span.duration)
        yield _details("Kernel", counted(len(calls), "initcall"), _table(longest, "initcall"))
    if record.units:
        longest = longest_units(record)
        yield _details("Units of systemd", counted(len(longest), "unit"), _table(longest, "unit"))
    totals = sums(record.before_user_space())
    rows = [
        (KIND_WORDS[kind], human_seconds(value / 1e9)) for kind, value in sorted(totals.items(), key=lambda e: -e[1])
    ]
    yield _details("Sums before user space", "", _rows(("part", "time"), rows))
    beyond = ("What else would shorten it", record.advice)
    for title, texts in (("Failures", record.failures), ("Notes", record.notes), beyond):
        if texts:
            items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
            yield _details(title, str(len(texts)), f"<ul>{items}</ul>")
    yield _details("Everything as text", "", f"<pre>{html.escape(text_chart(record))}</pre>")


def _members(stage: Span) -> str:
    inits = [each for each in stage.walk() if each.kind == Kind.INIT and each.name != AT_WORK]
    return _table(sorted(inits, key=lambda span: -span.duration), "member's init")


def _table(spans: list[Span], noun: str) -> str:
    rows = [
        (span.name, f"{span.duration / 1e6:.3f}", f"{span.start / 1e6:.3f}", span.detail or "")
        for span in spans
        if span.name
    ]
    return _rows((noun, "ms", "from ms", ""), rows)


def _rows(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        numbers = {number for number, name in enumerate(header) if name in ("ms", "from ms", "time")}
        return "".join(
            f"<{tag}{' class=n' if number in numbers else ''}>{html.escape(cell)}</{tag}>"
            for number, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in rows)
    return f"<table><tr>{line(header, 'th')}</tr>{body}</table>"


def _details(title: str, detail: str, body: str) -> str:
    words = f" <span>{html.escape(detail)}</span>" if detail else ""
    return f"<details><summary>{html.escape(title)}{words}</summary>{body}</details>"
