"""What else would shorten a boot: each word by what the log of this boot shows, and none without a figure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from megamod.analyze.chart.record_json import record_dict, record_from
from megamod.analyze.chart.record_source import record_from_log
from megamod.analyze.chart.text import text_chart
from tests.unit.boot_logs import LOG

QUIET = LOG.replace("console=ttyS0", "quiet console=ttyS0")
CRYPTO = """\
[    0.700100] calling  crypto_algapi_init+0x0/0x100 @ 1
[    1.574100] initcall crypto_algapi_init+0x0/0x100 returned 0 after 874000 usecs
[    1.574200] calling  raid6_select_algo+0x0/0x300 @ 1
[    1.584200] initcall raid6_select_algo+0x0/0x300 returned 0 after 10000 usecs
"""
USB = """\
[    1.710000] usb-storage 1-1:1.0: USB Mass Storage device detected
[    1.710000] scsi host2: usb-storage 1-1:1.0
[    1.730000] scsi 2:0:0:0: Direct-Access     QEMU     QEMU HARDDISK    2.5+ PQ: 0 ANSI: 5
[    1.731000] sd 2:0:0:0: [sda] 131072 512-byte logical blocks: (67.1 MB/64.0 MiB)
"""


def advice(log: str) -> list[str]:
    return list(record_from_log(log, name="a.log").advice)


def before(line: str, more: str, log: str = QUIET) -> str:
    start = log.index(line)
    return log[:start] + more + log[start:]


def test_a_boot_with_nothing_to_gain_gets_no_advice() -> None:
    assert advice(QUIET) == []


def test_the_self_tests_of_ciphers_have_a_word_and_a_price() -> None:
    log = before("[    1.600000]", CRYPTO)
    assert advice(log) == [
        "cryptomgr.notests=1 saves about 874 ms: the kernel's ciphers are not tested when it starts, "
        "so not with fips=1, which demands it",
        "a kernel with RAID6_PQ_BENCHMARK=n saves about 10 ms: the first routine that the processor has is taken",
    ]


def test_fips_forbids_to_leave_the_self_tests_out() -> None:
    log = before("[    1.600000]", CRYPTO, QUIET.replace("quiet", "quiet fips=1"))
    assert not any("cryptomgr" in sentence for sentence in advice(log))


def test_the_wait_for_a_stick_counts_where_the_root_is_on_it() -> None:
    log = before("[    1.762700]", USB)
    assert advice(log) == []
    assert advice(log.replace("root /dev/vda", "root /dev/sda1")) == [
        "usb_storage.delay_use=0 saves about 20 ms: a stick that needs the time to get ready may not be found at once"
    ]


@pytest.mark.parametrize(("console", "baud"), [("ttyS0", 115200), ("ttyAMA0,9600n8", 9600)])
def test_a_serial_console_costs_what_its_speed_and_the_log_say(console: str, baud: int) -> None:
    (found,) = advice(LOG.replace("console=ttyS0", f"console={console}"))
    assert found.startswith("quiet saves up to ") and f" at {baud} baud" in found
    size = sum(len(line) for line in LOG[: LOG.index("megamod: exec")].splitlines(keepends=True))
    value, unit = found.removeprefix("quiet saves up to ").split(":")[0].split()
    milliseconds = float(value) * (1000 if unit == "s" else 1)
    # A line ends in two bytes there.
    assert milliseconds == pytest.approx(size * 10 / baud * 1000, rel=0.1)


def test_a_screen_and_a_quiet_port_cost_nothing() -> None:
    assert advice(LOG.replace("console=ttyS0", "console=tty0")) == []
    assert advice(LOG.replace("console=ttyS0", "console=ttyS0 loglevel=3")) == []


def test_rootdelay_is_seconds() -> None:
    assert advice(QUIET.replace("quiet", "quiet rootdelay=3"))[0].startswith("no rootdelay= saves about 3.00 s")


def test_the_advice_stands_in_chart_and_document() -> None:
    record = record_from_log(before("[    1.600000]", CRYPTO), name="a.log")
    assert "what else would shorten it:\n  cryptomgr.notests=1 saves about 874 ms" in text_chart(record)
    document = json.loads(json.dumps(record_dict(record)))
    assert record_from(document, source="a.json").advice == record.advice
    del document["advice"]  # as older versions write it
    assert record_from(document, source="a.json") == replace(record_from(document, source="a.json"), advice=())
