"""The chart as SVG, text and trace, and two boots compared: sound files, sums that match, errors of one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from megamod.analyze.chart.compare import compare, comparison_text
from megamod.analyze.chart.drawing import COLOURS, Scale
from megamod.analyze.chart.finding import before_user_space
from megamod.analyze.chart.html import html_chart
from megamod.analyze.chart.perfetto import trace_json
from megamod.analyze.chart.record import KIND_WORDS, BootRecord, Kind, Mark, Span
from megamod.analyze.chart.record_source import record_from_log
from megamod.analyze.chart.svg import svg_chart
from megamod.analyze.chart.svg_comparison import svg_comparison
from megamod.analyze.chart.text import text_chart
from megamod.analyze.chart.userspace import with_marks
from tests.unit.boot_logs import LOG, PLAIN, STATUS, without_times

SVG = "{http://www.w3.org/2000/svg}"

# The same modules, each with a call of its own, slower.
ONE_BY_ONE = """\
[    0.000000] Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org)
[    1.700000] Run /init as init process
[    1.701000] megamod: start
[    1.702000] megamod: stage critical triggered by now
[    1.710000] module_load: crc32c_intel E
[    1.712000] megamod: load crc32c_intel took 9900 us: 0 ok, 1 failed, 0 skipped
[    1.740000] module_load: virtio_blk E
[    1.762000] megamod: load virtio_blk took 49900 us: 1 ok, 0 failed, 0 skipped
[    1.900000] module_load: ext4 E
[    1.903000] megamod: load ext4 took 140000 us: 1 ok, 0 failed, 0 skipped
[    1.903200] megamod: stage critical done
[    1.906000] megamod: root /dev/vda ext4 mounted
[    1.907000] megamod: exec /sbin/init
"""


def record(log: str = LOG, name: str = "a.log") -> BootRecord:
    return record_from_log(log, name=name)


@pytest.mark.parametrize("theme", ["auto", "light", "dark"])
def test_the_svg_is_sound_xml_that_refers_to_nothing_outside(theme: str) -> None:
    text = svg_chart(record(), theme=theme)
    assert ElementTree.fromstring(text).tag == f"{SVG}svg"
    assert not re.search(r"href|<script|@import|http(?!://www\.w3\.org/2000/svg)", text)
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#hatch"}


def test_each_bar_of_the_svg_says_what_it_is_when_hovered() -> None:
    root = ElementTree.fromstring(svg_chart(record()))
    titles = {bar.findtext(f"{SVG}title") for bar in root.iter(f"{SVG}rect")}
    assert "ext4's init: 0.200 ms, from 1762.001 ms" in titles
    assert "memory, clocks, processors: 400.000 ms, from 0.000 ms" in titles


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_picture_begins_with_what_was_found() -> None:
    first, second, *_rest = texts(svg_chart(record()))
    assert first == "virtio_blk's init takes 49 of 61 ms of stage critical."
    assert second == "The kernel itself takes 1.70 of the 1.77 s to user space."


def test_a_boot_without_a_large_part_says_that_none_stands_out() -> None:
    members = " ".join(f"m{number}=6000000" for number in range(1, 9))
    log = re.sub(r"inits megamod_critical .*", f"inits megamod_critical {members}", LOG)
    assert texts(svg_chart(record(log)))[0].startswith("No part stands out in the 61 ms of stage critical: ")


def test_the_largest_parts_are_set_off_and_the_small_share_a_row() -> None:
    members = " ".join(f"m{number}={2**number * 700}" for number in range(1, 16))
    log = re.sub(r"inits megamod_critical .*", f"inits megamod_critical {members}", LOG)
    found = before_user_space(record(log))
    assert found is not None
    inits = [part.label for part in found.largest if part.kind == Kind.INIT]
    assert inits == ["m15's init", "m14's init"]
    assert "m1's init" in [part.label for part in found.small]
    everything = sum(part.duration for part in (*found.parts, *found.small))
    assert everything == found.duration
    labels = texts(svg_chart(record(log)))
    assert "m15's init" in labels and "m1's init" not in labels
    assert f"{len(found.small)} parts below 1 %" in labels


@pytest.mark.parametrize("span", [1, 999, 17_300, 60_400_000, 1_767_100_000, 95_000_000_000])
def test_ticks_are_few_round_and_have_a_unit(span: int) -> None:
    ticks = list(Scale(start=123, end=123 + span, left=10.0, right=110.0).ticks())
    assert ticks[0] == (10.0, "0")
    assert 2 <= len(ticks) <= 12
    assert all(re.fullmatch(r"\d+(\.\d)? (s|ms|µs|ns)", words) for _x, words in ticks[1:])
    steps = {round(right[0] - left[0], 6) for left, right in pairwise(ticks)}
    assert len(steps) == 1


def test_words_of_marks_do_not_lie_on_one_another() -> None:
    marks = tuple(Mark(name=f"mark {number}", time=1_770_000_000 + number * 10_000_000) for number in range(4))
    root = ElementTree.fromstring(svg_chart(with_marks(record(), marks)))
    places = [
        (float(element.get("x") or 0), element.get("y"), element.get("text-anchor"))
        for element in root.iter(f"{SVG}text")
        if (element.text or "").startswith(("mark ", "loader 1", "user space 1"))
    ]
    assert len(places) == 6
    assert len({y for _x, y, _anchor in places}) >= 4


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("one", "other"),
    [("link", "init"), ("init", "root"), ("init", "wait"), ("kernel", "link"), ("copy", "link"), ("unit", "userspace")],
)
def test_bars_that_touch_differ_in_lightness(side: int, one: str, other: str) -> None:
    def grey(name: str) -> float:
        value = COLOURS[name][side]
        red, green, blue = (int(value[at : at + 2], 16) for at in (1, 3, 5))
        return (0.299 * red + 0.587 * green + 0.114 * blue) / 255  # Rec. 601 luma, as a copier sees it

    assert abs(grey(one) - grey(other)) > 0.04


def test_every_colour_is_readable_on_its_page() -> None:
    """WCAG 2.1's contrast for text: 4.5 to 1."""

    def light(name: str, side: int) -> float:
        parts = [int(COLOURS[name][side][at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for side in (0, 1):
        for ground in ("page", "band"):
            for ink in ("ink", "soft", "mark"):
                high, low = sorted((light(ink, side), light(ground, side)), reverse=True)
                assert (high + 0.05) / (low + 0.05) > 4.5, (ink, ground, side)


def test_names_with_signs_of_xml_do_not_break_the_svg() -> None:
    name = 'a<b>&"c"\x01'
    text = svg_chart(record(name=name))
    title = ElementTree.fromstring(text).findtext(f"{SVG}title") or ""
    assert title.startswith('a<b>&"c"\N{REPLACEMENT CHARACTER} · kernel 6.1.0-56-amd64')


def test_the_text_has_a_row_for_each_part_and_sums_that_add_up() -> None:
    text = text_chart(record())
    assert re.search(r"^ *1713\.001 +49\.000 .* init of virtio_blk$", text, re.M)
    assert "user space 1767.100 ms after the kernel's start, 66.100 ms after the loader's" in text
    rows = re.findall(r"^(.+?) {2,}(\d+\.\d{3}) +\d+\.\d$", text[text.index("sums before user space") :], re.M)
    *parts, (name, whole) = rows
    assert name == "all"
    assert sum(float(value) for _name, value in parts) == pytest.approx(float(whole), abs=0.01)


def test_many_inits_share_a_row_and_the_long_ones_keep_theirs() -> None:
    members = " ".join(f"m{number}={number * 1000}" for number in range(1, 41))
    log = re.sub(r"inits megamod_critical .*", f"inits megamod_critical {members}", LOG)
    text = text_chart(record(log))
    assert "init of m40" in text and "init of m28" not in text
    assert "28 other inits" in text


@pytest.mark.parametrize("log", [LOG, PLAIN, without_times(LOG)])
def test_each_track_of_the_trace_is_a_stack_of_nested_events(log: str) -> None:
    boot = record(log)
    value = json.loads(trace_json(boot))
    complete = [event for event in value["traceEvents"] if event["ph"] == "X"]
    assert len(complete) == sum(1 for span in (*boot.line, *boot.beside) for _each in span.walk())
    for track in {event["tid"] for event in complete}:
        open_ends: list[float] = []
        # Viewers sort by start, the longer first.
        for event in sorted((e for e in complete if e["tid"] == track), key=lambda e: (e["ts"], -e["dur"])):
            while open_ends and open_ends[-1] <= event["ts"] + 1e-6:
                open_ends.pop()
            end = event["ts"] + event["dur"]
            assert not open_ends or end <= open_ends[-1] + 1e-6
            open_ends.append(end)
    named = {event["tid"] for event in value["traceEvents"] if event["name"] == "thread_name"}
    assert {event["tid"] for event in complete} <= named


def change(spans: tuple[Span, ...]) -> int:
    return sum(span.duration for span in spans)


def test_the_differences_by_part_add_up_to_the_whole() -> None:
    result = compare(record(ONE_BY_ONE), record())
    assert result.whole.before == 1_907_000_000 and result.whole.after == 1_767_100_000
    for side in ("before", "after"):
        assert sum(getattr(each, side) for each in result.parts) == getattr(result.whole, side)


def test_the_differences_by_member_add_up_to_the_calls() -> None:
    before, after = record(ONE_BY_ONE), record()
    result = compare(before, after)
    for side, boot in (("before", before), ("after", after)):
        total = sum(getattr(each.init, side) + getattr(each.call, side) for each in result.members)
        assert total + getattr(result.waits, side) == change(boot.calls())


def test_a_member_has_its_init_and_the_rest_of_its_own_call() -> None:
    result = compare(record(ONE_BY_ONE), record())
    (ext4,) = (each for each in result.members if each.name == "ext4")
    assert (ext4.init.before, ext4.init.after) == (2_000_000, 200_000)
    assert (ext4.call.before, ext4.call.after) == (138_000_000, 0)


def test_the_comparison_names_where_the_time_went_without_the_waits() -> None:
    text = comparison_text(compare(record(ONE_BY_ONE), record()))
    assert "\nThe second takes 169.9 ms less (9 %), excluding device waits. By part, in ms: calls: relocation" in text


def test_two_equal_boots_have_no_difference() -> None:
    assert "No difference." in comparison_text(compare(record(), record()))


def test_a_boot_without_times_is_compared_by_its_calls() -> None:
    result = compare(record(), record(without_times(LOG)))
    assert (result.whole.before - 60_400_000, result.whole.after) == (800_000, 60_400_000)
    assert "critical stage, ms" in comparison_text(result)


def test_the_comparison_as_svg_is_sound_and_has_both_boots_of_each_member() -> None:
    root = ElementTree.fromstring(svg_comparison(compare(record(ONE_BY_ONE), record())))
    labels = [element.text for element in root.iter(f"{SVG}text")]
    for label in ("before: 3 calls", "after: 1 call", "ext4, before", "megamod_critical, after"):
        assert label in labels


def run(*words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("megamod"), "chart", *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=1200)


def test_the_command_writes_all_that_is_asked_for(tmp_path: Path) -> None:
    log, status = tmp_path / "a.log", tmp_path / "status.json"
    log.write_text(PLAIN)
    status.write_text(json.dumps(STATUS))
    done = run(log, status, "-o", tmp_path / "a.svg", "--trace", tmp_path / "a.json", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    value = json.loads(done.stdout)
    assert sum(value["sums"].values()) == value["nanoseconds"]
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag == f"{SVG}svg"
    assert json.loads((tmp_path / "a.json").read_text())["displayTimeUnit"] == "ns"


def test_the_command_reads_standard_input_and_compares(tmp_path: Path) -> None:
    other = tmp_path / "b.log"
    other.write_text(LOG)
    done = run("-", "--compare", other, stdin=ONE_BY_ONE)
    assert done.returncode == 0
    assert done.stdout.startswith("before: standard input, 3 calls 199.800 ms")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "megamod: nothing to draw (hint: a log, status.json, or --boot IMAGE --vmlinuz FILE)\n"),
        (("--boot", "x.img"), "megamod: x.img: No such file or directory\n"),
        (("absent.log",), "megamod: absent.log: No such file or directory\n"),
        (("absent.log", "--vmlinuz", "x"), "megamod: --vmlinuz: only with --boot IMAGE\n"),
        (("absent.log", "--disk", "x"), "megamod: --disk: only with --boot IMAGE\n"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(words: tuple[str, ...], message: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_every_kind_has_words_and_a_colour() -> None:
    assert set(KIND_WORDS) == set(Kind)
    assert {kind.value for kind in Kind} <= COLOURS.keys()


class Folds(HTMLParser):
    """Titles of what can be folded out, and tags that are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "path"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "summary":
            self.titles.append(data.strip())


def test_the_page_folds_stages_sums_and_failures() -> None:
    page = html_chart(record(name="<b>"))
    folds = Folds()
    folds.feed(page)
    assert folds.open == []
    sections = ["Sums before user space", "Failures", "What else would shorten it", "Everything as text"]
    assert folds.titles == ["Stage critical", "Stage sound", *sections]
    assert "<b>" not in page and "<script" not in page


def test_the_command_draws_a_png(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    log = tmp_path / "a.log"
    log.write_text(LOG)
    for name, words in (("light.png", ()), ("dark.png", ("--dark",))):
        done = run(log, "-o", tmp_path / name, *words)
        assert (done.returncode, done.stderr) == (0, "")
    light, dark = ((tmp_path / name).read_bytes() for name in ("light.png", "dark.png"))
    # The first eight bytes and the header: 2,000 pixels wide.
    assert light[:8] == dark[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(light[16:20], "big") == 2000
    assert light != dark


def test_an_ending_that_is_not_known_is_refused_before_anything_is_read() -> None:
    done = run("absent.log", "-o", "a.jpeg")
    line = "megamod: a.jpeg: the chart's form is not known (hint: end it in .svg, .html, .png)\n"
    assert (done.returncode, done.stderr) == (1, line)
