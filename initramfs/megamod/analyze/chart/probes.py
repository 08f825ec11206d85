"""With initcall_debug: which devices were probed in which member's init, and for how long."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from megamod.analyze.chart.record import Kind, Span
from megamod.boot.kernel_log import Line

# really_probe_debug, drivers/base/dd.c (6.1).
_PROBED = re.compile(r"probe of (\S+) returned (-?\d+) after (\d+) usecs")
_LEAST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A probe of *device* that ended at *end* after *duration*, nanoseconds."""

    device: str
    end: int
    duration: int


def probes_of(lines: Sequence[Line]) -> tuple[Probe, ...]:
    """The probes that took more than a moment."""
    found = []
    for line in lines:
        match = _PROBED.match(line.text)
        if match and line.time is not None and int(match[3]) * 1000 >= _LEAST:
            found.append(Probe(device=match[1], end=line.time, duration=int(match[3]) * 1000))
    return tuple(found)


def with_probes(span: Span, probes: Sequence[Probe]) -> Span:
    """*span* with the probes within each of its inits named in the init's detail."""
    if span.kind != Kind.INIT:
        return replace(span, parts=tuple(with_probes(part, probes) for part in span.parts))
    inside = [probe for probe in probes if span.start <= probe.end - probe.duration and probe.end <= span.end]
    if not inside:
        return span
    words = (f"probe of {probe.device} {probe.duration / 1e6:.1f} ms" for probe in inside)
    return replace(span, detail=", ".join(filter(None, [span.detail, *words])))
