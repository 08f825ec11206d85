"""Random profiles give a selection or a located MegamodError, never another exception."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megamod.common.errors import MegamodError
from megamod.modules.tree import ModuleTree, open_tree
from megamod.profile.schema import load_profile
from megamod.select.select import Selection, select
from tests.unit.module_trees import small_tree

# Compiles, or runs for a minute: not in tests/run.sh --unit.
pytestmark = pytest.mark.heavy

VALID = """\
name: camera
critical:
  modules: [ext4, virtio_blk, "?nothing", "=fs", "crc*"]
deferred:
  - name: usb
    modules: [usb-storage, "alias:usb:*", uhci_hcd]
    after: {path: /run/x, timeout: 5s}
  - name: sound
    modules: [snd-hda-intel, ehci_pci]
    after: {idle: 500ms, timeout: 30s}
exclude: ["mpls*", libcrc32c]
options: {usbcore: {autosuspend: -1, quirks: [a, b]}, snd: {slots: true}}
root: {exec: "/bin/app -x 'a b'"}
tracing: off
unwind: drop
symbols: trim
probe: async
compress: auto
storage: 25MB/s
skip: [jbd2, "?nothing"]
files: {camera: /usr/bin/camera, "?lib/*.so": {to: /usr/lib/, mode: 0755}}
firmware: [auto, brcm/, "?intel/*"]
fallback: none
allow-taint: yes
"""

FRAGMENTS = st.sampled_from(
    [
        *(
            "[",
            "]",
            "{",
            "}",
            ":",
            ": ",
            ",",
            "\n",
            "  ",
            "- ",
            "#",
            "&a ",
            "*a",
            "!x ",
            "? ",
            "|",
            ">",
            "'",
            '"',
            "%",
            "@",
        ),
        *("null", "~", "no", "0", "5s", "-1", "\t", "---\n", "<<: ", "\x00", "\x85", "é", "\ufeff", "\U0001f600", "="),
        *("ext4", "jbd2", "crc16", "usb*", "=drivers", "alias:*", "modalias:usb:v0781", "?zzz", "!ext4", "@detected"),
        *("@builtin:usb-storage", "@builtin:x", "modprobe-d: none\n", "modprobe-d: ./x\n"),
        *("@dtb:p.yaml", "@dtb:x.dtb#storage", "firmware-dir: .\n", "files: [{from: a, to: /b}]\n", "/proc/x", "{to: "),
        *("userspace", "now", "manual", "{delay: 1s}", "chain", "/init", "cmdline", "critical", "modules", "after"),
    ]
)
LINES = st.sampled_from(VALID.splitlines(keepends=True))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The valid profile with a few cuts, insertions, swapped and doubled lines, and now and then a stray byte."""
    text = VALID
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 5, 20])))
        text = text[:start] + draw(st.one_of(FRAGMENTS, LINES, st.just(""))) + text[end:]
    data = text.encode()
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at:]
    return data


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> ModuleTree:
    return open_tree(str(small_tree(tmp_path_factory.mktemp("tree"))))


def no_machine() -> tuple[dict[str, str], dict[str, str]]:
    raise MegamodError("no machine here", hint="a test has none")


def consistent(selection: Selection) -> None:
    """A module is in one stage, and what it needs is in that stage or an earlier one."""
    seen: set[str] = set()
    for stage in selection.stages:
        own = {module.name for module in stage.modules}
        assert not own & seen
        seen |= own
        for name in own:
            assert set(selection.tree.modules[name].depends) <= seen


@settings(
    max_examples=5000, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=mutated())
def test_a_mutated_profile_gives_a_selection_or_a_located_error(data: bytes, tree: ModuleTree, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(data)
    try:
        selection = select(load_profile(path), tree, detect=no_machine)
    except MegamodError as error:
        assert "\n" not in str(error)
        assert re.match(rf"{re.escape(str(path))}:\d+:\d+: .", str(error)), str(error)
    else:
        consistent(selection)


@settings(
    max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=60))
def test_random_bytes_give_a_located_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(data)
    with pytest.raises(MegamodError, match=r"p\.yaml:\d+:\d+: "):
        load_profile(path)
