"""`extends`: what a child adds, replaces and removes; and how a profile is found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.profile.model import Profile, Root, TriggerKind
from megamod.profile.schema import find_profile, load_profile, shipped_profiles

BASE = """\
name: base
critical: {modules: [ext4, virtio_blk]}
deferred:
  - {name: usb, modules: [usbhid, uas], after: manual}
  - {name: sound, modules: [snd]}
exclude: [foo_test]
options: {usbcore: {autosuspend: -1, nousb: 0}}
root: {exec: /sbin/app}
unwind: drop
"""


def child(folder: Path, text: str, base: str = BASE) -> Profile:
    (folder / "base.yaml").write_text(base)
    (folder / "child.yaml").write_text("extends: base.yaml\n" + text)
    return load_profile(folder / "child.yaml")


def error_of(folder: Path, text: str, base: str = BASE) -> str:
    with pytest.raises(MegamodError) as caught:
        child(folder, text, base)
    return str(caught.value).replace(f"{folder}/", "")


def names(profile: Profile) -> dict[str, list[str]]:
    return {stage.name: [s.text for s in stage.selectors] for stage in profile.stages}


def test_a_child_that_says_nothing_is_its_base_under_its_own_name(tmp_path: Path) -> None:
    profile = child(tmp_path, "")
    assert profile.name == "child"
    assert profile.source == f"{tmp_path}/child.yaml"
    assert names(profile) == {"critical": ["ext4", "virtio_blk"], "usb": ["usbhid", "uas"], "sound": ["snd"]}
    assert profile.root == Root(kind="exec", path="/sbin/app")
    assert profile.unwind == "drop"


def test_lists_are_appended_and_settings_replaced(tmp_path: Path) -> None:
    profile = child(
        tmp_path,
        "critical: {modules: [xfs]}\n"
        "deferred: [{name: usb, modules: [hid]}, {name: gpu, modules: [drm]}]\n"
        "exclude: [bar_test]\nunwind: keep\nroot: {from: cmdline}\n",
    )
    assert names(profile) == {
        "critical": ["ext4", "virtio_blk", "xfs"],
        "usb": ["usbhid", "uas", "hid"],
        "sound": ["snd"],
        "gpu": ["drm"],
    }
    assert [s.text for s in profile.exclude] == ["foo_test", "bar_test"]
    assert (profile.unwind, profile.root.kind) == ("keep", "cmdline")
    assert profile.deferred[0].trigger and profile.deferred[0].trigger.kind is TriggerKind.MANUAL


def test_a_childs_trigger_replaces_the_inherited_one(tmp_path: Path) -> None:
    profile = child(tmp_path, "deferred: [{name: usb, after: now}]\n")
    assert names(profile)["usb"] == ["usbhid", "uas"]
    assert profile.deferred[0].trigger and profile.deferred[0].trigger.kind is TriggerKind.NOW


def test_an_exclamation_mark_removes_an_inherited_entry(tmp_path: Path) -> None:
    profile = child(
        tmp_path,
        'critical: {modules: ["!virtio-blk", nvme]}\n'
        "deferred:\n  - name: usb\n    modules:\n      - !uas\n"
        '  - "!sound"\n'
        'exclude: ["!foo_test"]\n',
    )
    assert names(profile) == {"critical": ["ext4", "nvme"], "usb": ["usbhid"]}
    assert profile.exclude == ()


def test_options_are_merged_a_parameter_at_a_time(tmp_path: Path) -> None:
    profile = child(tmp_path, "options: {usbcore: {autosuspend: 2}, snd: {slots: x}}\n")
    values = {(o.module, o.parameter): o.value for o in profile.options}
    assert values == {("usbcore", "autosuspend"): "2", ("usbcore", "nousb"): "0", ("snd", "slots"): "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'critical: {modules: ["!virtio_blkk"]}\n',
            "child.yaml:2:22: !virtio_blkk: nothing of that name is inherited here (hint: did you mean virtio_blk?)",
        ),
        (
            'deferred: ["!usbb"]\n',
            "child.yaml:2:12: deferred: !usbb: no such stage is inherited (hint: did you mean usb?)",
        ),
        ('exclude: ["!x_test"]\n', "child.yaml:2:11: !x_test: nothing of that name is inherited here"),
        ('critical: {modules: ["!ext4", "!virtio_blk"]}\n', "child.yaml:2:11: critical: the stage has no modules"),
        (
            'critical: {modules: ["!@detected"]}\n',
            "child.yaml:2:22: !@detected: nothing of that name is inherited here",
        ),
        ("critical: {modules: [ext4]}\n", "child.yaml:2:22: ext4 is twice in critical (hint: first at base.yaml:2:22)"),
        (
            "critical: {modules: [snd]}\n",
            "base.yaml:5:29: snd is in two stages, critical and sound (hint: first at child",
        ),
        ("root: {chain: /init}\n", "base.yaml:5:5: after: `userspace` is impossible with root: {chain: …}"),
    ],
)
def test_each_mistake_in_a_child_is_a_located_error(tmp_path: Path, text: str, message: str) -> None:
    assert error_of(tmp_path, text).startswith(message)


def test_a_mistake_in_the_base_is_located_in_the_base(tmp_path: Path) -> None:
    assert error_of(tmp_path, "", base="critcal: {}\n").startswith("base.yaml:1:1: profile: unknown key `critcal`")


def test_the_critical_stage_may_come_from_either(tmp_path: Path) -> None:
    assert names(child(tmp_path, "critical: {modules: [a]}\n", base="unwind: drop\n")) == {"critical": ["a"]}
    assert error_of(tmp_path, "", base="unwind: drop\n").startswith("child.yaml:1:1: profile: `critical` is missing")


def test_profiles_that_build_on_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    error = error_of(tmp_path, "", base="extends: child.yaml\n")
    assert error == "base.yaml:1:10: extends: circular: child.yaml → base.yaml → child.yaml"


def test_a_profile_that_extends_itself_is_refused(tmp_path: Path) -> None:
    assert "extends: circular: base.yaml → base.yaml" in error_of(tmp_path, "", base="extends: base.yaml\n")


def test_a_chain_of_more_than_sixteen_profiles_is_refused(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"p{i}.yaml").write_text(f"extends: p{i + 1}.yaml\n")
    with pytest.raises(MegamodError, match=r"p15\.yaml:1:10: extends: more than 16 profiles"):
        load_profile(tmp_path / "p0.yaml")


def test_a_base_that_is_not_there_is_located_in_the_child(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("extends: cammera\n")
    with pytest.raises(MegamodError) as caught:
        load_profile(tmp_path / "p.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/p.yaml:1:10: extends: cammera: no such profile (hint: did you mean camera?)"
    )


def test_a_shipped_profile_can_be_extended_by_name(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("extends: vm\ncritical: {modules: [xfs]}\n")
    assert [s.text for s in load_profile(tmp_path / "p.yaml").critical.selectors][-2:] == ["ext4", "xfs"]


def test_a_profile_is_found_by_shipped_name_or_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("critical: {modules: [a]}\n")
    (tmp_path / "mine.yaml").write_text("critical: {modules: [b]}\n")
    monkeypatch.chdir(tmp_path)
    assert find_profile("vm").name == "vm"
    assert find_profile("./mine").critical.selectors[0].text == "a"
    assert find_profile("mine").critical.selectors[0].text == "a"
    assert find_profile("mine.yaml").critical.selectors[0].text == "b"
    assert find_profile(str(tmp_path / "mine.yaml")).name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cam", "cam: no such profile (hint: "),
        ("cammera", "cammera: no such profile (hint: did you mean camera?)"),
        ("none.yaml", "none.yaml: no such profile"),
        ("no/such", "no/such: no such profile"),
        (
            "zzz",
            "zzz: no such profile (hint: shipped: appliance, camera, desktop, rescue, server, vm; a file is given as",
        ),
        ("", "the profile name is empty (hint: shipped: appliance, camera"),
        ("a\0.yaml", "a\\x00.yaml: no such profile"),
    ],
)
def test_a_profile_that_is_not_there_is_one_line(text: str, message: str) -> None:
    with pytest.raises(MegamodError) as caught:
        find_profile(text)
    assert str(caught.value).startswith(message)


def test_every_shipped_profile_loads_and_is_named_after_its_file() -> None:
    assert set(shipped_profiles()) == set("appliance camera desktop rescue server vm".split())
    for name, path in shipped_profiles().items():
        assert load_profile(path).name == name
        assert path.read_text().startswith("# "), "the header teaches"
