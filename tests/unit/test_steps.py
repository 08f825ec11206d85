"""Progress lines, tables and numbers."""

from __future__ import annotations

import io
import re

import pytest

from megamod.common.progress import StageRow, Steps, closing_table
from megamod.common.text import counted, human_bytes, human_count, human_seconds, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def row(stage: str, members: int, singles: int, size: int, before: int, after: int) -> StageRow:
    return StageRow(
        stage=stage,
        members=members,
        singles=singles,
        bytes=size,
        relocations_before=before,
        relocations_after=after,
        seconds=0.25,
    )


def test_a_step_is_one_plain_line_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with Steps(stream).step("prelink critical") as step:
        step.note("12 members")
        assert stream.getvalue() == ""
    assert re.fullmatch(r"prelink critical: 12 members, [0-9.]+ m?s\n", stream.getvalue())


def test_a_terminal_shows_the_running_step_and_then_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Steps(stream).step("image"):
        assert stream.getvalue() == "image …"
    assert re.fullmatch(r"image …\r\x1b\[Kimage: [0-9.]+ m?s\n", stream.getvalue())


def test_a_dumb_terminal_gets_no_escape_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Steps(stream).step("image"):
        pass
    assert "\x1b" not in stream.getvalue()


def test_quiet_prints_nothing() -> None:
    stream = Terminal()
    steps = Steps(stream, quiet=True)
    with steps.step("image") as step:
        step.note("x")
    steps.say("done")
    steps.closing_table([row("critical", 1, 0, 1, 1, 1)])
    assert stream.getvalue() == ""


def test_a_step_that_fails_leaves_no_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, left in ((io.StringIO(), ""), (Terminal(), "image …\r\x1b[K")):
        with pytest.raises(ValueError, match="bad"), Steps(stream).step("image"):
            raise ValueError("bad")
        assert stream.getvalue() == left


def test_a_reader_that_has_gone_does_not_stop_the_build() -> None:
    with Steps(Closed()).step("image") as step:
        step.note("x")


def test_a_stream_that_cannot_show_a_character_gets_another() -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    Steps(stream).say("Größe")
    assert buffer.getvalue() == b"Gr??e\n"


def test_the_closing_table_has_a_line_a_stage_and_one_for_all() -> None:
    rows = [row("critical", 12, 0, 2_150_000, 61_234, 1_234), row("usb-storage", 9, 1, 1000, 20_000, 900)]
    assert closing_table(rows).splitlines() == [
        "stage        members  singles     size  relocations before  after    time",
        "critical          12        0  2.1 MiB              61,234  1,234  250 ms",
        "usb-storage        9        1   1000 B              20,000    900  250 ms",
        "all               21        1  2.1 MiB              81,234  2,134  500 ms",
    ]


def test_one_stage_alone_needs_no_line_for_all() -> None:
    assert len(closing_table([row("critical", 1, 0, 1, 1, 1)]).splitlines()) == 2


def test_columns_are_as_wide_as_their_widest_cell_and_rows_are_stripped() -> None:
    assert table(["a", "name"], [["1", "x"], ["22", "yyyyyyy"]], left=2) == "a   name\n1   x\n22  yyyyyyy"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (7_539_900, "7.2 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 42, "4096.0 GiB"),
    ],
)
def test_bytes_are_readable(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 ms"), (0.0008, "0.8 ms"), (0.3121, "312 ms"), (0.9996, "1.00 s"), (2.414, "2.41 s")],
)
def test_times_are_readable(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_counts_are_grouped() -> None:
    assert human_count(750123) == "750,123"
    assert [counted(count, "member") for count in (0, 1, 1234)] == ["0 members", "1 member", "1,234 members"]
