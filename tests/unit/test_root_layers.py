"""`overlay:` and `verity:` of a profile's root: from the YAML to the plan's records, and what they need of a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.build.plan import Plan, PlanLoad, PlanModule, PlanStage, plan_text
from megamod.build.root_requirements import check_root
from megamod.common.choices import Probe
from megamod.common.errors import MegamodError
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Root
from megamod.profile.schema import load_profile
from megamod.select.selection import SelectedModule, SelectedStage, Selection

VERITY = "root-hash: 00FF, hash-device: PARTLABEL=hashes, data-blocks: 256"


def wrong(more: str, old: str = "", new: str = "") -> str:
    return f"from: cmdline, verity: {{{VERITY.replace(old, new) if old else VERITY}{more}}}"


@pytest.fixture
def root(tmp_path):
    """``root("{from: cmdline}")``: what the profile's `root:` means."""

    def read(text: str) -> Root:
        path = tmp_path / "test.yaml"
        path.write_text(f"critical: {{modules: [ext4]}}\nroot: {text}\n")
        return load_profile(path).root

    return read


def records(root: Root) -> list[str]:
    plan = Plan(kernel="6.1.0", root=root, probe=Probe.SYNC, stages=(), softdeps=(), dependents={})
    return plan_text(plan).decode().splitlines()[3:]


def test_overlay_and_verity_become_records_after_the_root(root):
    assert records(root("{from: cmdline, overlay: tmpfs}")) == ["root cmdline", "overlay tmpfs"]
    assert records(root("{from: cmdline, overlay: {tmpfs: size=50%}}"))[1] == "overlay tmpfs size=50%25"
    assert records(root(f"{{from: cmdline, overlay: tmpfs, verity: {{{VERITY}}}}}")) == [
        "root cmdline",
        "overlay tmpfs",
        "verity PARTLABEL=hashes sha256 4096 4096 256 1 00ff -",
    ]


def test_every_word_of_a_verity_table_can_be_given(root):
    text = "root-hash: ab, salt: 0c, hash-device: same, data-blocks: 7, hash-start: 9, algorithm: sha1, "
    text += "data-block-size: 512, hash-block-size: 1024, options: [panic_on_corruption, ignore_zero_blocks]"
    [_cmdline, record] = records(root(f"{{from: cmdline, verity: {{{text}}}}}"))
    assert record == "verity - sha1 512 1024 7 9 ab 0c panic_on_corruption ignore_zero_blocks"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from: cmdline, overlay: disk", "overlay `disk`: only `tmpfs` is known"),
        ("from: cmdline, overlay: {}", "overlay: nothing"),
        ("from: cmdline, overlay: {tmpfs: 'a b'}", "overlay: `a b`"),
        ("exec: /app, overlay: tmpfs", "overlay belongs to {from: cmdline}, not to exec"),
        (f"chain: /init, verity: {{{VERITY}}}", "verity belongs to {from: cmdline}, not to chain"),
        ("overlay: tmpfs", "exactly one of from, exec, chain expected, not nothing"),
        ("from: cmdline, verity: {}", "verity: root-hash, hash-device, data-blocks missing"),
        (wrong(", colour: red"), "verity: unknown key `colour`"),
        (wrong(", salt: xyz"), "verity: salt `xyz` is not in hexadecimal, or `-`"),
        (wrong(", data-block-size: 5"), "verity: data-block-size `5` is not one of"),
        (wrong(", options: ['a b']"), "verity: options: `a b`"),
        (wrong("", "256", "0"), "verity: data-blocks: zero"),
        (wrong("", "PARTLABEL=hashes", "disk"), "verity: hash-device `disk` is not a device"),
        (wrong("", "PARTLABEL=hashes", "same"), "verity: hash-start is missing"),
    ],
)
def test_each_mistake_of_a_layer_is_a_located_error(root, text, message):
    with pytest.raises(MegamodError) as caught:
        root(f"{{{text}}}")
    assert f"root: {message}" in str(caught.value)
    assert "test.yaml:2:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "modules", "missing"),
    [
        ("{from: cmdline, overlay: tmpfs}", "ext4", "overlay needs overlay in"),
        (f"{{from: cmdline, verity: {{{VERITY}}}}}", "ext4", "verity needs dm_mod and dm_verity in"),
        (f"{{from: cmdline, verity: {{{VERITY}}}}}", "dm_mod", "verity needs dm_verity in"),
        ("{from: cmdline, overlay: tmpfs}", "overlay", None),
    ],
)
def test_a_layer_whose_driver_is_not_there_is_refused(tmp_path, text, modules, missing):
    path = tmp_path / "test.yaml"
    path.write_text(f"critical: {{modules: [ext4]}}\nroot: {text}\n")
    built_in = ModuleTree(
        release="6.1.0",
        folder=Path("/nowhere"),
        modules={},
        indexes={"modules.builtin": "", "modules.builtin.modinfo": ""},
    )
    module = SelectedModule(
        name=modules, path=Path("/nowhere"), relpath="kernel/x.ko", reason="named", rank=(6, 0), after=()
    )
    stage = SelectedStage(name="critical", trigger=None, modules=(module,))
    selection = Selection(profile=load_profile(path), tree=built_in, stages=(stage,), notes=())
    if missing is None:
        check_root(selection)
        return
    with pytest.raises(MegamodError, match=missing):
        check_root(selection)


def test_members_of_a_megamodule_have_their_originals_in_the_plan():
    members = tuple(PlanModule(name=name, needs=()) for name in ("a", "b"))
    load = PlanLoad(
        file="/megamod/m.ko",
        name="m",
        merged=True,
        has_results=True,
        modules=members,
        arguments=("a.x=1",),
        originals=("/megamod/originals/a.ko", "/megamod/originals/b.ko"),
    )
    stage = PlanStage(name="critical", trigger=None, loads=(load,))
    plan = Plan(
        kernel="6.1.0",
        root=Root(kind="cmdline"),
        probe=Probe.SYNC,
        stages=(stage,),
        softdeps=(),
        dependents={},
        fallback="modules",
    )
    lines = plan_text(plan).decode().splitlines()
    assert lines[2] == "fallback modules"
    assert lines[6:] == [
        "member a",
        "member b",
        "original /megamod/originals/a.ko",
        "original /megamod/originals/b.ko",
        "argument a.x=1",
    ]
