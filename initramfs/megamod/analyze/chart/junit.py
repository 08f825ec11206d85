"""Verdicts as JUnit XML, which CI systems read: a test case a limit, a failure with the table for each that is over."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from megamod.analyze.chart.budget import Verdict, parts_text
from megamod.analyze.chart.text import milliseconds

_CLASS = "megamod.budget"


def junit_xml(verdicts: Sequence[Verdict], *, name: str) -> bytes:
    """The document; *name* is the suite's. Times are seconds of guest time. Nothing in it depends on the day."""
    over = sum(verdict.over for verdict in verdicts)
    counts = {"tests": str(len(verdicts)), "failures": str(over), "errors": "0"}
    seconds = f"{sum(verdict.best.counted for verdict in verdicts) / 1e9:.6f}"
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts, "skipped": "0", "time": seconds})
    for verdict in verdicts:
        limit, best = verdict.limit, verdict.best
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {"classname": _CLASS, "name": limit.name, "time": f"{best.counted / 1e9:.6f}"},
        )
        said = f"{limit.name}: {milliseconds(best.counted)} ms of {milliseconds(limit.nanoseconds)} ms"
        if verdict.over:
            failure = ElementTree.SubElement(case, "failure", {"message": said, "type": "over budget"})
            failure.text = parts_text(best)
        out = ElementTree.SubElement(case, "system-out")
        out.text = f"{said}, {milliseconds(best.waited)} ms of device waits not counted, runs " + " ".join(
            milliseconds(run.counted) for run in verdict.runs
        )
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"
