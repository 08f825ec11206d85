"""Logs, status.json and JSON read as one record of a boot: what the spans are, and that they add up."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megamod.analyze.chart.one_record import one_record
from megamod.analyze.chart.record import BootRecord, Kind, Span, sums
from megamod.analyze.chart.record_json import record_json
from megamod.analyze.chart.record_source import read_record, record_from_log
from megamod.analyze.chart.svg import svg_chart
from megamod.analyze.chart.text import text_chart
from megamod.boot.console import parse_console
from megamod.boot.qemu import QemuResult
from megamod.boot.timeline import BootReport
from megamod.common.errors import MegamodError
from tests.unit.boot_logs import LOG, PLAIN, STATUS, without_times


def record(log: str = LOG) -> BootRecord:
    return record_from_log(log, name="a.log")


def found(boot: BootRecord, kind: Kind, name: str | None = None) -> list[Span]:
    spans = [each for span in (*boot.line, *boot.beside) for each in span.walk()]
    return [span for span in spans if span.kind == kind and name in (None, span.name)]


def times(span: Span) -> tuple[float, float]:
    """Start and duration in milliseconds."""
    return span.start / 1e6, span.duration / 1e6


def test_the_line_fills_the_boot_without_gap_or_overlap() -> None:
    boot = record()
    at = 0
    for span in boot.line:
        assert span.start == at
        at = span.end
    assert at == boot.end == 2_005_400_000


@pytest.mark.parametrize("log", [LOG, PLAIN])
def test_the_parts_of_each_span_follow_one_another_and_fill_it(log: str) -> None:
    boot = record(log)
    for span in (*boot.line, *boot.beside):
        for each in span.walk():
            if each.parts:
                assert each.parts[0].start == each.start
                assert each.parts[-1].end == each.end
                assert all(first.end == second.start for first, second in zip(each.parts, each.parts[1:], strict=False))
    assert boot.unexplained() == 0


def test_the_kernels_phases_are_those_of_its_log() -> None:
    kernel = record().line[0]
    assert [times(part) for part in kernel.parts] == [(0, 400), (400, 1200), (1600, 100)]
    assert times(kernel) == (0, 1700)


@pytest.mark.parametrize(
    ("counter", "before"),
    [
        ("megamod: counter 2501500000 of 0 a second", 800_000_000),
        ("megamod: counter 156312500 of 62500000 a second", 799_500_000),
        ("megamod: counter 0 of 62500000 a second", 0),
    ],
)
def test_the_processors_counter_tells_what_was_before_the_kernels_clock(counter: str, before: int) -> None:
    lines = LOG.splitlines(keepends=True)
    lines.insert(1, "[    0.000000] tsc: Detected 1000.000 MHz processor\n")
    place = next(number for number, line in enumerate(lines) if "megamod: start" in line) + 1
    lines.insert(place, f"[    1.701500] {counter}\n")
    boot = record("".join(lines))
    assert boot.before == before
    assert f"{before / 1e6:.3f} ms before the kernel's clock" in text_chart(boot)
    assert record().before is None


def test_unpacking_the_image_is_beside_the_initcalls() -> None:
    assert [times(span) for span in found(record(), Kind.UNPACK)] == [(600, 100)]


def test_a_call_is_split_by_the_kernels_events_and_the_members_times() -> None:
    (call,) = (span for span in found(record(), Kind.CALL) if span.name == "megamod_critical")
    assert times(call) == (1702.1, 60.4)
    assert [(part.kind, part.name, *times(part)) for part in call.parts] == [
        (Kind.COPY, "copy", 1702.1, 0.9),
        (Kind.LINK, "relocation and the rest", 1703.0, 10.0),
        (Kind.INIT, "crc32c_intel", 1713.0, 0.001),
        (Kind.INIT, "virtio_blk", 1713.001, 49.0),
        (Kind.INIT, "ext4", 1762.001, 0.2),
        (Kind.END, "after the inits", 1762.201, 0.299),
    ]


def test_a_call_begins_late_enough_for_its_inits() -> None:
    """Between the line before it and the call a process is started; only the inits tell how long that took."""
    boot = record(LOG.replace("ext4=200000", "ext4=560000"))
    (call,) = (span for span in found(boot, Kind.CALL) if span.name == "megamod_critical")
    # 61 µs later at least, and 300 at most.
    assert times(call) == (1702.2805, 60.4)
    assert times(call.parts[0]) == (1702.2805, 0.7195)
    assert [times(part) for part in call.parts[-2:]] == [(1762.001, 0.56), (1762.561, 0.1195)]
    stage = boot.stages()[0]
    assert [part.end for part in stage.parts[:-1]] == [part.start for part in stage.parts[1:]]


def test_a_wait_is_in_the_only_init_that_is_so_long() -> None:
    # 61 ms passed between the two lines, and 31 ms of them the processor was in use.
    (call,) = (span for span in found(record(), Kind.CALL) if span.name == "megamod_critical")
    assert call.waited == 30_000_000
    (init,) = (part for part in call.parts if part.name == "virtio_blk")
    assert [(part.kind, part.duration) for part in init.parts] == [(Kind.WAIT, 30_000_000), (Kind.INIT, 19_000_000)]


def test_a_wait_that_two_inits_may_have_had_stays_with_the_call() -> None:
    log = LOG.replace("virtio_blk=49000000 ext4=200000", "virtio_blk=19000000 ext4=19000000")
    boot = record(log.replace("used 1531000000", "used 1545000000"))
    (call,) = (span for span in found(boot, Kind.CALL) if span.name == "megamod_critical")
    assert call.waited == 16_000_000
    assert all(leaf.kind != Kind.WAIT for leaf in call.leaves())
    assert sums([call])[Kind.WAIT] == 16_000_000
    assert sum(sums([call]).values()) == call.duration


def test_what_other_tasks_do_while_the_loader_measures_is_no_measurement() -> None:
    boot = record(LOG.replace("[    1.702100] megamod: used", "[    1.702700] megamod: used"))
    stage = boot.stages()[0]
    assert [(part.kind, part.duration) for part in stage.parts[:2]] == [
        (Kind.MEASURING, 200_000),
        (Kind.LOADER, 500_000),
    ]


def test_with_several_processors_nothing_is_said_of_waits() -> None:
    boot = record(LOG.replace("1 node, 1 CPU", "1 node, 2 CPUs"))
    assert not found(boot, Kind.WAIT)
    assert all(call.waited is None for call in boot.calls())


def test_a_singles_init_lasts_from_the_kernels_event_to_the_calls_end() -> None:
    (call,) = (span for span in found(record(), Kind.CALL) if span.name == "snd")
    assert [(part.kind, *times(part)) for part in call.parts] == [
        (Kind.COPY, 2000.1, 0.4),
        (Kind.LINK, 2000.5, 3.5),
        (Kind.INIT, 2004.0, 1.1),
    ]


def test_a_log_without_these_lines_has_calls_in_one_piece_and_says_so() -> None:
    boot = record(PLAIN)
    assert [(*times(call), call.parts) for call in boot.calls()] == [(1702.0, 60.4, ()), (2000.0, 5.0, ())]
    assert boot.notes == ("2 of 2 calls in one piece: the log does not say more",)


def test_without_the_kernels_events_copy_and_relocation_stay_together() -> None:
    log = "".join(line for line in LOG.splitlines(keepends=True) if "copied" not in line and "module_load" not in line)
    call = record(log).calls()[0]
    assert [part.kind for part in call.parts] == [Kind.LINK, Kind.INIT, Kind.INIT, Kind.INIT]
    assert call.parts[0].duration == call.duration - 49_201_000


def test_initcall_debug_gives_the_kernels_initcalls_and_modules_inits() -> None:
    added = (
        ("[    0.600000]", "[    0.500000] calling  pci_init+0x0/0x10 @ 1\n"),
        ("[    0.600000]", "[    0.510000] initcall pci_init+0x0/0x10 returned -19 after 10000 usecs\n"),
        ("[    2.004000]", "[    2.002000] calling  alsa_sound_init+0x0/0x1000 [snd] @ 77\n"),
        ("[    2.004000]", "[    2.003000] initcall alsa_sound_init+0x0/0x1000 [snd] returned 0 after 1000 usecs\n"),
    )
    log = PLAIN.replace("[    2.005200]", "[    2.004000] x\n[    2.005200]")
    for before, line in added:
        log = log.replace(before, line + before, 1)
    boot = record(log)
    (initcall,) = found(boot, Kind.INITCALL)
    assert (initcall.name, *times(initcall), initcall.detail) == ("pci_init", 500.0, 10.0, "returned -19")
    assert [times(init) for init in found(boot, Kind.INIT, "snd")] == [(2002.0, 1.0)]


def test_a_probe_of_a_device_is_named_in_the_init_that_it_was_in() -> None:
    line = "[    1.740000] probe of 0000:00:02.0 returned 0 after 20000 usecs\n"
    boot = record(LOG.replace("[    1.762700]", line + "[    1.762700]"))
    assert [init.detail for init in found(boot, Kind.INIT, "virtio_blk")] == ["probe of 0000:00:02.0 20.0 ms"]
    assert [init.detail for init in found(boot, Kind.INIT, "ext4")] == [""]


def test_the_roots_wait_and_mount_are_one_span_named_by_device_and_type() -> None:
    log = LOG.replace("[    1.766000]", "[    1.763300] megamod: waiting for root /dev/vda\n[    1.766000]")
    (root,) = found(record(log), Kind.ROOT)
    assert (*times(root), root.detail) == (1763.2, 2.8, "/dev/vda ext4")


def test_user_space_and_the_loaders_start_are_on_the_kernels_clock() -> None:
    boot = record()
    assert (boot.loader, boot.user_space) == (1_701_000_000, 1_767_100_000)


def test_a_boot_that_ends_in_a_stage_is_drawn_as_far_as_it_came() -> None:
    boot = record(LOG[: LOG.index("[    1.763200]")])
    assert boot.user_space is None
    assert boot.end == 1_763_100_000
    assert "stage critical: the log does not say when it was done" in boot.notes


def test_a_deferred_stage_beside_the_mount_does_not_disturb_the_line() -> None:
    early = (
        "[    1.763300] megamod: stage net triggered by now\n"
        "[    1.764000] megamod: load net took 600 us: 1 ok, 0 failed, 0 skipped\n"
        "[    1.764100] megamod: stage net done\n"
    )
    boot = record(PLAIN.replace("[    1.766000]", early + "[    1.766000]"))
    assert [stage.name for stage in boot.beside if stage.kind == Kind.STAGE] == ["net", "sound"]
    assert [times(span) for span in found(boot, Kind.ROOT)] == [(1763.2, 2.8)]


def test_a_log_that_the_guest_printed_again_counts_once() -> None:
    assert record(LOG + "dmesg:\n" + LOG) == record()


def test_of_several_boots_in_a_log_the_last_that_came_to_the_loader_counts() -> None:
    other = PLAIN.replace("[    1.701000] megamod: start", "[    1.700900] megamod: start")
    unfinished = LOG[: LOG.index("[    1.700000]")]
    assert record(other + LOG + unfinished) == record()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_log_in_disorder_is_an_error_or_a_record_whose_parts_add_up(data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.sampled_from(LOG.splitlines()), min_size=1, max_size=40))
    if data.draw(st.booleans()):
        time = data.draw(st.integers(0, 3_000_000))
        place = data.draw(st.integers(0, len(lines) - 1))
        lines[place] = f"[{time / 1e6:12.6f}]{lines[place][14:]}"
    try:
        boot = record("\n".join(lines) + "\n")
    except MegamodError:
        return
    for span in (*boot.line, *boot.beside):
        for each in span.walk():
            assert each.duration >= 0
            assert not each.parts or sum(part.duration for part in each.parts) == each.duration
    assert sum(span.duration for span in boot.line) == boot.end
    text_chart(boot)
    svg_chart(boot)


def test_the_journal_with_monotonic_times_is_read_like_dmesg() -> None:
    """A line that a program has written into the kernel's log has that program as its sender."""
    journal = re.sub(r"(?m)^(\[.{13}\]) (?!megamod: )", r"\1 box kernel: ", LOG).replace("] mega", "] box mega")
    assert record(journal) == record()


@pytest.mark.parametrize(
    "line",
    [
        "[Sun Nov 22 20:19:52 2026] megamod: start",
        "[  +0.000012] megamod: start",
        "2026-11-22T20:19:52,123456+01:00 megamod: start",
        "Nov 22 20:19:52 box kernel: megamod: start",
    ],
    ids=["dmesg -T", "dmesg -H", "dmesg --time-format=iso", "journalctl -k"],
)
def test_times_of_day_are_refused_with_the_way_out(line: str) -> None:
    with pytest.raises(MegamodError) as caught:
        record(f"{line}\n{line.replace('start', 'stage critical done')}\n")
    assert caught.value.message == "a.log: its times are times of day, and that clock is set during a boot"
    assert caught.value.hint is not None and "dmesg without -T" in caught.value.hint


def test_a_log_without_times_gives_the_calls_one_after_the_other() -> None:
    boot = record(without_times(LOG))
    assert not boot.clock
    assert [(stage.name, *times(stage)) for stage in boot.line] == [("critical", 0, 60.4), ("sound", 60.4, 5.0)]
    assert [part.name for part in boot.calls()[0].parts][1:] == ["crc32c_intel", "virtio_blk", "ext4"]


def test_a_log_of_another_boot_is_no_chart() -> None:
    with pytest.raises(MegamodError, match=r"^a\.log: no line of megamod's loader is in it "):
        record("[    0.000000] Linux version 6.1.0\n")


def write(folder: Path, text: str, name: str = "x") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_status_json_gives_the_stages_that_were_loaded_with_their_members(tmp_path: Path) -> None:
    boot = read_record(write(tmp_path, json.dumps(STATUS)))
    assert (boot.kernel, boot.clock) == ("6.1.0-56-amd64", False)
    assert [times(span) for span in boot.line] == [(0, 60.4)]
    assert [(part.kind, part.name) for part in boot.calls()[0].parts] == [
        (Kind.LINK, "copy, relocation and the rest"),
        (Kind.INIT, "crc32c_intel"),
        (Kind.INIT, "virtio_blk"),
        (Kind.INIT, "ext4"),
    ]


def test_a_log_and_the_status_of_the_same_boot_make_one_record(tmp_path: Path) -> None:
    status = read_record(write(tmp_path, json.dumps(STATUS)))
    boot = one_record([record(PLAIN), status])
    assert times(boot.calls()[0]) == (1702.0, 60.4)
    assert [part.name for part in boot.calls()[0].parts][1:] == ["crc32c_intel", "virtio_blk", "ext4"]


def test_two_logs_are_not_one_boot() -> None:
    with pytest.raises(MegamodError, match="not one log with durations for it"):
        one_record([record(), record()])


def test_a_status_of_another_kernel_is_refused(tmp_path: Path) -> None:
    status = read_record(write(tmp_path, json.dumps({**STATUS, "kernel": "6.12.1"})))
    with pytest.raises(MegamodError, match=r"is of kernel 6\.12\.1, a\.log of 6\.1\.0-56-amd64$"):
        one_record([record(), status])


def test_the_json_of_the_boot_command_gives_what_its_console_gives(tmp_path: Path) -> None:
    result = QemuResult(console=LOG, returncode=0, timed_out=False, stopped=False, seconds=1.0, accel="tcg")
    path = write(tmp_path, BootReport(timeline=parse_console(LOG), result=result).as_json())
    # The document has the lines that the chart reads, not the whole log.
    assert replace(read_record(path), title="a.log") == replace(record(), advice=())


def test_the_charts_own_json_gives_the_same_record(tmp_path: Path) -> None:
    assert replace(read_record(write(tmp_path, record_json(record()))), title="a.log") == record()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "is neither a log nor complete JSON"),
        ("{}", "is JSON of another kind or version"),
        ('{"stages": [1]}', "version: is missing"),
        ('{"stages": [1], "version": 2}', "has version 2, this megamod reads 1"),
        (
            '{"stages": [1], "version": 1, "kernel": "", "off": false}',
            "stages[0]: must be an object, not a whole number",
        ),
        ('{"format": "megamod-chart", "version": 1}', "has version 1, this megamod reads 2"),
        ('{"format": "megamod-chart", "version": 2}', "title: is missing"),
        ('{"events": [], "lines": []}', "the guest printed nothing that the chart can read"),
    ],
)
def test_a_file_that_is_no_boot_is_an_error_of_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(MegamodError) as caught:
        read_record(path)
    assert caught.value.message == f"{path}: {message}"


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match="No such file or directory"):
        read_record(tmp_path / "absent")
