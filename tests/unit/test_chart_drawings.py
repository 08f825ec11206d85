"""The chart as SVG, text and trace, and two boots compared: sound files, sums that match, errors of one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from megamod.analyze.chart.compare import compare, comparison_text
from megamod.analyze.chart.perfetto import trace_json
from megamod.analyze.chart.record import BootRecord, Kind, Span
from megamod.analyze.chart.record_source import record_from_log
from megamod.analyze.chart.svg import svg_chart, svg_comparison
from megamod.analyze.chart.text import text_chart
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


def test_the_svg_is_sound_xml_that_refers_to_nothing_outside() -> None:
    text = svg_chart(record())
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert not re.search(r"href|<script|@import|<style|http(?!://www\.w3\.org/2000/svg)", text)
    patterns = {element.get("id") for element in root.iter(f"{SVG}pattern")}
    used = set(re.findall(r'fill="url\(#(\w+)\)"', text))
    assert used and used <= patterns


def test_each_bar_of_the_svg_says_what_it_is_when_hovered() -> None:
    root = ElementTree.fromstring(svg_chart(record()))
    bars = [bar for bar in root.iter(f"{SVG}rect") if (bar.get("fill") or "").startswith("url(")]
    # The legend's boxes stand beside their words.
    titles = [bar.findtext(f"{SVG}title") for bar in bars if bar.get("width") != "16"]
    assert "init of ext4: 0.200 ms, from 1762.001" in titles
    assert "kernel: 1700.000 ms, from 0.000" in titles
    assert None not in titles


def test_the_kinds_of_bars_differ_without_colour() -> None:
    root = ElementTree.fromstring(svg_chart(record()))
    looks = {}
    for pattern in root.iter(f"{SVG}pattern"):
        ground = pattern.find(f"{SVG}rect")
        path = pattern.find(f"{SVG}path")
        assert ground is not None
        red, green, blue = (int((ground.get("fill") or "")[at : at + 2], 16) for at in (1, 3, 5))
        # Rec. 601 luma, as a copier sees it, in steps of a tenth.
        grey = round((0.299 * red + 0.587 * green + 0.114 * blue) / 25.5)
        looks[pattern.get("id")] = (grey, "" if path is None else path.get("d"))
    assert len(set(looks.values())) == len(looks)


def test_names_with_signs_of_xml_do_not_break_the_svg() -> None:
    name = 'a<b>&"c"\x01'
    text = svg_chart(record(name=name))
    title = ElementTree.fromstring(text).findtext(f"{SVG}title")
    assert title == 'a<b>&"c"\N{REPLACEMENT CHARACTER}, kernel 6.1.0-56-amd64'


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
    assert "\nThe second takes 169.9 ms less (9 %) beside waits. Where they went, in ms: calls: relocation" in text


def test_two_equal_boots_have_no_difference() -> None:
    assert "No difference." in comparison_text(compare(record(), record()))


def test_a_boot_without_times_is_compared_by_its_calls() -> None:
    result = compare(record(), record(without_times(LOG)))
    assert (result.whole.before - 60_400_000, result.whole.after) == (800_000, 60_400_000)
    assert "critical stage, ms" in comparison_text(result)


def test_the_comparison_as_svg_is_sound_and_has_both_boots_of_each_member() -> None:
    root = ElementTree.fromstring(svg_comparison(compare(record(ONE_BY_ONE), record())))
    labels = [element.text for element in root.iter(f"{SVG}text")]
    for label in ("before: 3 calls", "after: 1 call", "ext4, before", "ext4, after"):
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


def test_kinds_have_words_and_a_pattern_each() -> None:
    text = svg_chart(record())
    assert all(f'<pattern id="{kind.value}"' in text for kind in Kind)
