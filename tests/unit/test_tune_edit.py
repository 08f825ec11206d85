"""Selectors moved from the critical stage to a deferred one in a profile's text: comments and style stay."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from megamod.analyze.tune.yaml_edit import Move, difference, moved
from megamod.profile.model import Profile
from megamod.profile.schema import load_profile


def move(
    *away: str,
    split: Mapping[str, tuple[str, ...]] | None = None,
    inherited: tuple[str, ...] = (),
    stage: str = "later",
) -> Move:
    return Move(away=away, split=split or {}, inherited=frozenset(inherited), stage=stage, trigger="userspace")


def read(folder: Path, text: str) -> Profile:
    path = folder / "p.yaml"
    path.write_bytes(text.encode())
    return load_profile(path)


def stages(profile: Profile) -> dict[str, list[str]]:
    return {stage.name: [selector.text for selector in stage.selectors] for stage in profile.stages}


BLOCK = """\
# My camera.
name: p   # its name
critical:
  # what the root needs
  modules:
    - virtio_blk
    # sound, because
    - "=sound/pci" # everybody likes it
    - ext4  # the root
    - '?uvcvideo'
# not before the picture
exclude: [pcspkr]
"""


def test_list_entries_go_with_their_comments_and_all_else_stays(tmp_path: Path) -> None:
    after = moved(BLOCK, move("=sound/pci", "?uvcvideo"))
    assert (
        after
        == """\
# My camera.
name: p   # its name
critical:
  # what the root needs
  modules:
    - virtio_blk
    # sound, because
    - ext4  # the root
deferred:
  - name: later
    modules:
      - "=sound/pci" # everybody likes it
      - '?uvcvideo'
    after: userspace
# not before the picture
exclude: [pcspkr]
"""
    )
    assert stages(read(tmp_path, after)) == {"critical": ["virtio_blk", "ext4"], "later": ["=sound/pci", "?uvcvideo"]}


@pytest.mark.parametrize(
    ("away", "left"),
    [
        (("a",), "[b, c , d]"),
        (("b",), "[a, c , d]"),
        (("d",), "[a, b, c]"),
        (("c", "d"), "[a, b]"),
        (("a", "b", "c"), "[d]"),
        (("a", "c"), "[b, d]"),
    ],
)
def test_entries_in_brackets_go_with_one_comma(tmp_path: Path, away: tuple[str, ...], left: str) -> None:
    after = moved("critical: {modules: [a, b, c , d]}  # all\n", move(*away))
    assert after.startswith(f"critical: {{modules: {left}}}  # all\ndeferred:\n  - name: later\n")
    profile = read(tmp_path, after)
    assert stages(profile)["later"] == list(away)
    assert {*stages(profile)["critical"], *away} == {"a", "b", "c", "d"}


def test_a_list_in_brackets_over_several_lines_keeps_its_other_lines(tmp_path: Path) -> None:
    text = 'critical:\n  modules: [\n    a, # first\n    "=b", # second\n    c\n  ]\n'
    after = moved(text, move("=b"))
    assert "modules: [\n    a, # first\n    c\n  ]\n" in after
    assert stages(read(tmp_path, after)) == {"critical": ["a", "c"], "later": ["=b"]}


def test_the_stage_goes_behind_those_that_are_there_in_their_indentation(tmp_path: Path) -> None:
    text = "critical: {modules: [a, b]}\ndeferred:\n- name: usb\n  modules: [u]\n  after: manual\n\n# the end\n"
    after = moved(text, move("b"))
    assert after.endswith("  after: manual\n- name: later\n  modules:\n    - b\n  after: userspace\n\n# the end\n")
    assert list(stages(read(tmp_path, after))) == ["critical", "usb", "later"]


def test_a_list_of_stages_in_brackets_gets_one_more(tmp_path: Path) -> None:
    text = 'critical: {modules: [a, "=b"]}\ndeferred: [{name: usb, modules: [u]}]\n'
    after = moved(text, move("=b"))
    assert 'deferred: [{name: usb, modules: [u]}, {name: later, modules: ["=b"], after: userspace}]\n' in after
    assert list(stages(read(tmp_path, after))) == ["critical", "usb", "later"]


def test_of_a_selector_that_is_used_in_part_the_used_names_stay(tmp_path: Path) -> None:
    after = moved(BLOCK, move(split={"=sound/pci": ("snd_a", "snd_b")}))
    assert stages(read(tmp_path, after)) == {
        "critical": ["snd_a", "snd_b", "virtio_blk", "ext4", "?uvcvideo"],
        "later": ["=sound/pci"],
    }


def test_if_every_entry_goes_the_names_stand_alone(tmp_path: Path) -> None:
    for text in ('critical: {modules: ["=a", b]}\n', 'critical:\n  modules:\n    - "=a"\n    - b\n'):
        after = moved(text, move("b", split={"=a": ("x",)}))
        assert stages(read(tmp_path, after)) == {"critical": ["x"], "later": ["=a", "b"]}


@pytest.mark.parametrize("own", ["", "critical: {modules: [own]}\n", "critical:\n  modules:\n    - own\n"])
def test_what_another_profile_says_is_taken_back_and_said_again(tmp_path: Path, own: str) -> None:
    (tmp_path / "base.yaml").write_text("critical: {modules: [a, '=b', c]}\n")
    after = moved(f"extends: ./base.yaml\n{own}", move("c", split={"=b": ("b1",)}, inherited=("c", "=b")))
    found = stages(read(tmp_path, after))
    assert set(found["critical"]) == {"a", "b1", *(["own"] if own else [])}
    assert found["later"] == ["c", "=b"]


def test_line_ends_of_another_system_stay(tmp_path: Path) -> None:
    after = moved(BLOCK.replace("\n", "\r\n"), move("=sound/pci"))
    assert after.count("\n") == after.count("\r\n")
    assert stages(read(tmp_path, after))["later"] == ["=sound/pci"]


def test_a_text_without_a_last_line_end_is_no_trap(tmp_path: Path) -> None:
    after = moved("critical:\n  modules:\n    - a\n    - b", move("b"))
    assert stages(read(tmp_path, after)) == {"critical": ["a"], "later": ["b"]}


@pytest.mark.parametrize("text", [BLOCK, BLOCK.rstrip("\n"), "critical: {modules: [virtio_blk, '=sound/pci']}"])
def test_the_patch_is_one_that_patch_applies(tmp_path: Path, tool: Callable[..., str], text: str) -> None:
    after = moved(text, move("=sound/pci"))
    path = tmp_path / "p.yaml"
    path.write_text(text)
    patch = tool("patch", package="patch")
    diff = difference(text, after, path)
    subprocess.run([patch, "-s", path], input=diff, text=True, check=True, timeout=1200)
    assert path.read_text() == after
