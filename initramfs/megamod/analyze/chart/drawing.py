"""What the pictures are made of: colours for light and dark, time scales with round ticks, and the lines of an SVG.

Every colour stands in the file twice: as an attribute, which programs without CSS read, and for dark screens in a style
sheet by class. Nothing refers to anything outside the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from megamod.analyze.chart.record import Kind, Span
from megamod.common.text import human_seconds

WIDTH = 1000
FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

# Class → colour in light and dark. Kinds differ in lightness too, for readers and printers without colour.
COLOURS: Mapping[str, tuple[str, str]] = {
    "page": ("#ffffff", "#15191e"),
    "ink": ("#1d2730", "#e6eaee"),
    "soft": ("#5d6873", "#9aa6b2"),
    "grid": ("#e4e8ec", "#2b333b"),
    "band": ("#f1f4f7", "#1d242b"),
    "mark": ("#9b4a6b", "#d68aaa"),
    "gap": ("#ffffff", "#15191e"),
    "kernel": ("#bcc5ce", "#4d5a66"),
    "initcall": ("#a2adb8", "#62707d"),
    "unpack": ("#d6c9aa", "#6a5f45"),
    "loader": ("#93a0ac", "#75838f"),
    "stage": ("#82a5c8", "#40678f"),
    "call": ("#6f97be", "#4a7199"),
    "copy": ("#f0d3a2", "#8a6a35"),
    "link": ("#dda453", "#b5803a"),
    "init": ("#2f6ca8", "#62a5e4"),
    "wait": ("#dde7f1", "#2c4259"),
    "end": ("#f5e3c6", "#6e5731"),
    "root": ("#4f9367", "#4d8f65"),
    "userspace": ("#e3dcf0", "#2f2a40"),
    "unit": ("#8a76ba", "#9a88cb"),
    "measuring": ("#eceff2", "#252c33"),
    "unexplained": ("#3c4650", "#c9d1d8"),
}
_HATCHED = {"wait", "measuring"}
_CHARACTER = 0.56
"""Of the font's size: how wide a character is, on average and rather too much."""


@dataclass(slots=True)
class Canvas:
    """Lines of an SVG in one *theme*: `light`, `dark`, or `auto`, which is light and follows a dark screen."""

    theme: str = "auto"
    lines: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def colour(self, name: str) -> str:
        """A fill: its attributes."""
        value = COLOURS[name][self.theme == "dark"]
        return f'class="{name}" fill="{value}"' if self.theme == "auto" else f'fill="{value}"'

    def text(self, x: float, y: float, text: str, *, size: float = 12, ink: str = "ink", more: str = "") -> None:
        """One line of text; *more* are attributes, such as the anchor."""
        self.lines.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" {self.colour(ink)}{f" {more}" if more else ""}>'
            f"{plain(text)}</text>"
        )

    def rect(
        self, x: float, y: float, width: float, height: float, name: str, *, title: str = "", more: str = ""
    ) -> None:
        """A box; *title* is what a pointer over it shows."""
        shape = f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.6):.2f}" height="{height:g}" {self.colour(name)}'
        shape += f" {more}" if more else ""
        self.lines.append(f"{shape}><title>{plain(title)}</title></rect>" if title else f"{shape}/>")
        if name in _HATCHED and width > 3:
            hatch = f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:g}" fill="url(#hatch)"'
            self.lines.append(f'{hatch} pointer-events="none"/>')

    def line(self, x: float, y: float, bottom: float, name: str, *, dash: str = "") -> None:
        """A vertical line."""
        more = f' stroke-dasharray="{dash}"' if dash else ""
        self.lines.append(f'<path d="M{x:.1f} {y:.1f}V{bottom:.1f}" {self.stroke(name)} stroke-width="1"{more}/>')

    def shape(self, path: str, name: str) -> None:
        """A filled path."""
        self.lines.append(f'<path d="{path}" {self.colour(name)}/>')

    def stroke(self, name: str) -> str:
        """A stroke: its attributes."""
        value = COLOURS[name][self.theme == "dark"]
        return f'class="s-{name}" stroke="{value}" fill="none"' if self.theme == "auto" else f'stroke="{value}"'

    def finished(self, height: float, title: str) -> str:
        """The whole file."""
        dark = "".join(
            f".{name}{{fill:{dark}}}.s-{name}{{stroke:{dark};fill:none}}" for name, (_light, dark) in COLOURS.items()
        )
        style = [f"<style>@media (prefers-color-scheme: dark) {{{dark}}}</style>"] if self.theme == "auto" else []
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}"'
                f' height="{height:.0f}" font-family={quoteattr(FONT)}>',
                f"<title>{plain(title)}</title>",
                *style,
                '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse">'
                f'<path d="M-1 6L6 -1" {self.stroke("loader")} stroke-width="0.8"/></pattern></defs>',
                f'<rect width="{WIDTH}" height="{height:.0f}" {self.colour("page")}/>',
                *self.lines,
                "</svg>",
                "",
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Nanoseconds from *start* to *end* → places from *left* to *right*."""

    start: int
    end: int
    left: float
    right: float

    def at(self, time: float) -> float:
        """The place of a time."""
        return self.left + (self.right - self.left) * (time - self.start) / max(1, self.end - self.start)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Places and words of round times after the start, five to ten: 0, 0.5 s, 1 s."""
        span = max(1, self.end - self.start)
        step = round_step(span)
        unit, word = next((size, word) for size, word in _UNITS if span >= size or size == 1)
        for time in range(0, span + 1, step):
            yield self.at(self.start + time), f"{time / unit:g} {word}" if time else "0"


_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))


def round_step(span: int) -> int:
    """1, 2 or 5 times a power of ten, so that *span* has five to twelve of them."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if span / (step * factor) <= 10:
                return step * factor
        step *= 10


def hover(span: Span) -> str:
    """What a bar says when a pointer is over it."""
    words = {Kind.STAGE: f"stage {span.name}", Kind.CALL: f"call of {span.name}", Kind.INIT: f"{span.name}'s init"}
    text = f"{words.get(span.kind, span.name)}: {span.duration / 1e6:.3f} ms, from {span.start / 1e6:.3f} ms"
    if span.waited:
        text += f", {human_seconds(span.waited / 1e9)} of it waiting for devices"
    return f"{text}; {span.detail}" if span.detail else text


def width_of(text: str, size: float) -> float:
    """How wide *text* is, rather too much."""
    return len(text) * size * _CHARACTER


def fitted(text: str, width: float, size: float) -> str:
    """*text*, cut to *width*, empty if nothing sensible is left."""
    if width_of(text, size) <= width:
        return text
    kept = int(width / (size * _CHARACTER)) - 1
    return f"{text[:kept].rstrip()}…" if kept >= 3 else ""


def plain(text: str) -> str:
    """*text* for XML, which has no place for most control characters, not even escaped (XML 1.0, 2.2)."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text))
