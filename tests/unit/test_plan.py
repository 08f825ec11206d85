"""The plan: records, numbers, escapes; the text is what the loader's own parser expects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megamod.build.plan import Plan, PlanLoad, PlanModule, PlanStage, plan_text, trigger_text
from megamod.common.choices import Probe
from megamod.profile.model import Root, Trigger, TriggerKind

CMDLINE = Root(kind="cmdline", path=None, args=())


def load(
    name: str,
    *modules: str,
    merged: bool = True,
    results: bool = True,
    arguments: tuple[str, ...] = (),
    prefixes: tuple[str, ...] = (),
    requests: str | None = None,
) -> PlanLoad:
    """ "b:a,c" is module b, which needs a and c of earlier loads."""
    made = []
    for word in modules or (name,):
        module, _, needs = word.partition(":")
        made.append(PlanModule(name=module, needs=tuple(needs.split(",")) if needs else ()))
    return PlanLoad(
        file=f"/megamod/{name}.ko",
        name=name,
        merged=merged,
        has_results=results,
        modules=tuple(made),
        arguments=arguments,
        prefixes=prefixes,
        requests=requests,
    )


def text(
    *stages: PlanStage,
    root: Root = CMDLINE,
    probe: bool = False,
    softdeps: tuple[str, ...] = (),
    dependents: dict[str, list[str]] | None = None,
    kernel: str = "6.1.0-test",
) -> list[str]:
    plan = Plan(
        kernel=kernel,
        root=root,
        probe=Probe.ASYNC if probe else Probe.SYNC,
        stages=stages,
        softdeps=softdeps,
        dependents=dependents or {},
    )
    data = plan_text(plan)
    assert data.endswith(b"\n")
    assert all(c == 0x0A or 0x20 <= c <= 0x7E for c in data)
    return data.decode("ascii").splitlines()


def stage(name: str, *loads: PlanLoad, trigger: Trigger | None = None) -> PlanStage:
    return PlanStage(name=name, trigger=trigger, loads=loads)


def test_head_of_a_plan() -> None:
    assert text() == ["megamod-plan 1", "kernel 6.1.0-test", "fallback none", "root cmdline"]


def test_async_probe_is_said_only_if_asked_for() -> None:
    assert text(probe=True)[-1] == "probe async"


@pytest.mark.parametrize(
    ("root", "line"),
    [
        (
            Root(kind="exec", path="/usr/bin/camera", args=("-v", "two words")),
            "root exec /usr/bin/camera -v two%20words",
        ),
        (Root(kind="chain", path="/init", args=()), "root chain /init"),
    ],
)
def test_root(root: Root, line: str) -> None:
    assert text(root=root)[3] == line


def test_members_and_singles_are_numbered_through_and_needs_are_numbers() -> None:
    lines = text(
        stage("critical", load("first", merged=False), load("megamod_critical", "a:first", "b")),
        stage("rest", load("megamod_rest", "c:b,first", "d:a"), load("last", "last:c", merged=False)),
    )
    assert lines[4:] == [
        "stage critical now - 0",
        "single /megamod/first.ko first",
        "merged /megamod/megamod_critical.ko megamod_critical 1",
        "member a 0",
        "member b",
        "stage rest now - 0",
        "merged /megamod/megamod_rest.ko megamod_rest 1",
        "member c 0 2",
        "member d 1",
        "single /megamod/last.ko last 3",
    ]


def test_what_follows_a_load() -> None:
    lines = text(
        stage(
            "critical",
            load("m", "a", results=False, arguments=("a.debug=1", 'a.name="x y"'), prefixes=("mmcblk",), requests="-"),
        )
    )
    assert lines[5:] == [
        "merged /megamod/m.ko m 0",
        "member a",
        "argument a.debug=1",
        'argument a.name="x%20y"',
        "prefix mmcblk",
        "requests -",
    ]


def test_softdeps_and_dependents_come_last_by_number() -> None:
    lines = text(stage("critical", load("m", "a", "b")), softdeps=("b",), dependents={"b": ["x", "y"], "a": ["z"]})
    assert lines[-3:] == ["softdep b", "dependents 0 z", "dependents 1 x y"]


def test_module_that_nothing_needs_has_no_dependents_record() -> None:
    assert not [line for line in text(stage("s", load("m", "a")), dependents={"a": []}) if "dependents" in line]


@pytest.mark.parametrize(
    ("field", "escaped"),
    [
        ("a b", "a%20b"),
        ("", "%"),
        ("100%", "100%25"),
        ("ä", "%C3%A4"),
        ("\n", "%0A"),
        ("\x7f", "%7F"),
        ("\udcff", "%FF"),
    ],
)
def test_fields_are_escaped(field: str, escaped: str) -> None:
    assert text(kernel=field)[1] == f"kernel {escaped}"


def trigger(kind: TriggerKind, *, path: str | None = None, delay: int | None = None, timeout: int = 0) -> Trigger:
    return Trigger(kind=kind, path=path, delay_ms=delay, timeout_ms=timeout)


@pytest.mark.parametrize(
    ("given", "record", "words"),
    [
        (None, "now - 0", "now"),
        (trigger(TriggerKind.USERSPACE, timeout=1500), "userspace - 1500", "userspace, timeout 1.5 s"),
        (trigger(TriggerKind.DELAY, delay=500), "delay 500 0", "delay 500 ms"),
        (
            trigger(TriggerKind.PATH, path="/run/x y", timeout=5000),
            "path /run/x%20y 5000",
            "path /run/x y, timeout 5 s",
        ),
        (trigger(TriggerKind.IDLE, delay=0), "idle 0 0", "idle 0 ms"),
        (trigger(TriggerKind.MANUAL), "manual - 0", "manual"),
    ],
)
def test_triggers(given: Trigger | None, record: str, words: str) -> None:
    assert text(stage("usb", trigger=given))[4] == f"stage usb {record}"
    assert trigger_text(given) == words


def test_a_watchdog_and_a_closed_shell_are_records_of_the_head() -> None:
    plan = Plan(
        kernel="6.1", root=CMDLINE, probe=Probe.SYNC, stages=(), softdeps=(), dependents={}, watchdog=7, shell=False
    )
    lines = plan_text(plan).decode("ascii").splitlines()
    assert lines[-2:] == ["watchdog 7", "shell none"]


def test_the_loaders_own_watchdog_and_shell_take_no_record() -> None:
    assert not [line for line in text() if line.startswith(("watchdog", "shell"))]


def test_a_load_for_one_build_names_its_patch() -> None:
    made = Plan(
        kernel="6.1.0-test",
        root=CMDLINE,
        probe=Probe.SYNC,
        stages=(stage("critical", replace(load("m", "a"), names="/megamod/m.names")),),
        softdeps=(),
        dependents={},
        build_id="ab" * 20,
    )
    lines = plan_text(made).decode().splitlines()
    assert f"build-id {'ab' * 20}" in lines[: lines.index("stage critical now - 0")]
    assert lines[lines.index("merged /megamod/m.ko m 1") :] == [
        "merged /megamod/m.ko m 1",
        "member a",
        "names /megamod/m.names",
    ]
