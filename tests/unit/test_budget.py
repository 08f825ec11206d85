"""Budgets: what is a limit, what counts against it, which run counts, the table, and JUnit XML."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from junitparser import Failure, JUnitXml

from megamod.analyze.chart.budget import Limit, Verdict, judge, parse_budget, spent, verdicts_text
from megamod.analyze.chart.junit import junit_xml
from megamod.analyze.chart.record import BootRecord
from megamod.analyze.chart.record_source import record_from_log
from megamod.common.errors import MegamodError
from tests.unit.boot_logs import LOG

STAGES = ("critical", "sound")


def record(log: str = LOG) -> BootRecord:
    return record_from_log(log, name="a.img")


def verdicts(text: str, *logs: str) -> tuple[Verdict, ...]:
    boots = iter([record(log) for log in logs or (LOG,)])
    return judge(parse_budget(text, stages=STAGES), len(logs or (LOG,)), lambda: next(boots))


def test_limits_have_units() -> None:
    assert parse_budget("critical=120ms, userspace=0.5s,boot=1min,sound=250us", stages=STAGES) == (
        Limit(name="critical", nanoseconds=120_000_000),
        Limit(name="userspace", nanoseconds=500_000_000),
        Limit(name="boot", nanoseconds=60_000_000_000),
        Limit(name="sound", nanoseconds=250_000),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--budget: `` is not a limit"),
        ("critical", "--budget: `critical` is not a limit"),
        ("critical=120", "--budget: `critical=120` is not a limit"),
        ("critical=-1ms", "--budget: `critical=-1ms` is not a limit"),
        ("critcal=1ms", "--budget: critcal: the image has no such stage"),
        ("boot=1s,boot=2s", "--budget: boot is given twice"),
    ],
)
def test_what_is_no_budget_is_an_error(text: str, message: str) -> None:
    with pytest.raises(MegamodError) as caught:
        parse_budget(text, stages=STAGES)
    assert caught.value.message == message


def test_user_space_counts_from_the_loaders_start_boot_from_the_kernels() -> None:
    assert spent(record(), "userspace").total == 66_100_000
    assert spent(record(), "boot").total == 1_767_100_000
    assert spent(record(), "critical").total == 61_200_000
    assert spent(record(), "sound").total == 5_400_000


def test_waits_and_measuring_do_not_count() -> None:
    critical = spent(record(), "critical")
    assert (critical.waited, critical.measuring) == (30_000_000, 400_000)
    assert critical.counted == 61_200_000 - 30_000_000 - 400_000


def test_the_best_of_the_runs_counts() -> None:
    slower = LOG.replace("used 1531000000", "used 1541000000")
    (verdict,) = verdicts("critical=31ms", slower, LOG, slower)
    assert [run.counted for run in verdict.runs] == [40_800_000, 30_800_000, 40_800_000]
    assert not verdict.over


def test_a_limit_that_is_met_exactly_holds_and_a_nanosecond_less_does_not() -> None:
    run = spent(record(), "critical")
    for over, limit in ((False, run.counted), (True, run.counted - 1)):
        assert Verdict(limit=Limit(name="critical", nanoseconds=limit), runs=(run,)).over is over


def test_over_the_limit_a_table_names_what_took_the_time_and_adds_up() -> None:
    text = verdicts_text(verdicts("critical=1ms,boot=10s"))
    assert re.search(r"^critical +1\.000 +30\.800 +over +30\.000 +0\.400 +30\.8$", text, re.M)
    assert re.search(r"^boot +10000\.000 +\S+ +holds ", text, re.M)
    rows = re.findall(r"^(.+?) {2,}(\d+\.\d{3}) +\d+\.\d$", text[text.index("what took the time") :], re.M)
    names = [name for name, _value in rows]
    whole = names.index("all")
    assert names[:2] == ["init of virtio_blk: waiting", "init of virtio_blk"]
    assert sum(float(value) for _name, value in rows[:whole]) == pytest.approx(float(rows[whole][1]), abs=0.01)
    assert rows[whole:] == [
        ("all", "61.200"),
        ("of it waits for devices, not counted", "30.000"),
        ("of it measuring, not counted", "0.400"),
    ]


@pytest.mark.parametrize(
    ("log", "name", "message"),
    [
        (LOG[: LOG.index("[    1.763200]")], "userspace", "a.img: user space was not reached"),
        (LOG.replace("megamod: start\n", "x\n"), "userspace", "a.img: the loader is not the image's first program"),
        (LOG[: LOG.index("[    2.000000]")], "sound", "a.img: stage sound was not loaded"),
    ],
)
def test_a_boot_with_nothing_to_measure_is_an_error(log: str, name: str, message: str) -> None:
    with pytest.raises(MegamodError) as caught:
        spent(record(log), name)
    assert caught.value.message == message


def test_junit_xml_has_a_case_a_limit_and_a_failure_for_each_that_is_over(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_bytes(junit_xml(verdicts("critical=1ms,userspace=500ms"), name='megamod boot <a> & "b".img'))
    document = JUnitXml.fromfile(str(path))
    assert (document.tests, document.failures, document.errors) == (2, 1, 0)
    (suite,) = document
    assert suite.name == 'megamod boot <a> & "b".img'
    cases = {case.name: case for case in suite}
    assert set(cases) == {"critical", "userspace"}
    assert cases["userspace"].is_passed and not cases["critical"].is_passed
    (failure,) = cases["critical"].result
    assert isinstance(failure, Failure)
    assert failure.message == "critical: 30.800 ms of 1.000 ms"
    assert "what took the time" in (failure.text or "")
    assert cases["critical"].time == pytest.approx(0.0308)


def test_the_totals_of_junit_xml_are_the_sums_of_its_cases() -> None:
    root = ElementTree.fromstring(junit_xml(verdicts("critical=1ms,userspace=1ms,boot=10s"), name="x"))
    (suite,) = root
    cases = suite.findall("testcase")
    assert int(suite.get("tests") or 0) == int(root.get("tests") or 0) == len(cases) == 3
    assert int(suite.get("failures") or 0) == len(suite.findall("testcase/failure")) == 2
    assert sum(float(case.get("time") or 0) for case in cases) == pytest.approx(float(suite.get("time") or 0), abs=1e-5)
