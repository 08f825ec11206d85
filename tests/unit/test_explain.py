"""`megamod explain`: why a module is in its stage, and why one is not, by its chain up to the selector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megamod.build.explain import explain
from megamod.common.errors import MegamodError
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from megamod.select.explain import chain_of, names_of, users_of, why_absent
from megamod.select.select import Cause, Selection, select
from tests.unit.module_trees import small_tree

PROFILE = """\
critical: {modules: [ext4, "?nothing", virtio_pci]}
deferred:
  - name: usb
    modules: ["[eu]hci_*", usb_storage]
  - name: rest
    modules: [crc16, btrfs, act_mpls]
exclude: [mpls_gso]
"""


@pytest.fixture
def selection(tmp_path: Path) -> Selection:
    (tmp_path / "p.yaml").write_text(PROFILE)
    return select(load_profile(tmp_path / "p.yaml"), open_tree(str(small_tree(tmp_path))))


def short(selection: Selection, name: str) -> list[str]:
    """The chain without the folder of the profile."""
    return [line.replace(selection.profile.source, "p.yaml") for line in chain_of(selection, name)]


def test_a_named_module_is_named_at_its_place(selection: Selection) -> None:
    assert short(selection, "ext4") == ["ext4: named at p.yaml:1:22, in stage critical"]


def test_a_module_found_by_a_pattern_shows_the_pattern(selection: Selection) -> None:
    assert short(selection, "ehci_pci") == ["ehci_pci: matches [eu]hci_* at p.yaml:4:15, in stage usb"]


def test_a_dependency_leads_up_to_the_selector(selection: Selection) -> None:
    assert short(selection, "usb_common")[0].startswith("usb_common: ")
    assert short(selection, "jbd2") == [
        "jbd2: ext4 needs it, in stage critical",
        "ext4: named at p.yaml:1:22, in stage critical",
    ]


def test_a_softdep_says_so(selection: Selection) -> None:
    assert short(selection, "crc32c_intel")[0] == "crc32c_intel: ext4 has a softdep on it, in stage critical"
    found = selection.find("crc32c_intel")
    assert found is not None
    assert (found[1].cause, found[1].by, found[1].selector) == (Cause.SOFTDEP, "ext4", None)


def test_a_promoted_module_says_from_where_and_who_asked(selection: Selection) -> None:
    assert short(selection, "crc16") == [
        "crc16: ext4 needs it, in stage critical",
        "crc16: promoted from stage rest, which asks for it by crc16 at p.yaml:6:15",
        "ext4: named at p.yaml:1:22, in stage critical",
    ]
    found = selection.find("crc16")
    assert found is not None
    assert found[1].promoted_from == "rest"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "not in this kernel, and optional, at p.yaml:1:28"),
        ("virtio_pci", "built into the kernel, at p.yaml:1:40"),
        ("mpls_gso", "excluded, although act_mpls has a softdep on it, at p.yaml:7:11"),
        ("snd", "no selector asks for it, and no selected module needs it"),
        ("aes_generic", "built into the kernel"),
    ],
)
def test_a_module_that_is_not_in_says_why(selection: Selection, name: str, reason: str) -> None:
    assert names_of(selection, name) == (name,)
    assert why_absent(selection, name).replace(selection.profile.source, "p.yaml") == reason


def test_a_module_that_needs_an_excluded_one_says_which(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text('critical: {modules: ["*ext4*", snd]}\nexclude: [jbd2]\n')
    selection = select(load_profile(tmp_path / "p.yaml"), open_tree(str(small_tree(tmp_path))))
    assert why_absent(selection, "ext4").startswith("needs jbd2, which is excluded, at ")


def test_a_weak_dependency_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("critical: {modules: [virtio_blk]}\n")
    selection = select(load_profile(tmp_path / "p.yaml"), open_tree(str(small_tree(tmp_path))))
    assert why_absent(selection, "snd").endswith("virtio_blk may ask for it at run time (a weak dependency)")


def test_an_alias_stands_for_its_modules_and_nonsense_is_an_error(selection: Selection) -> None:
    assert names_of(selection, "crc32c") == ("crc32c_generic", "crc32c_intel")
    with pytest.raises(MegamodError, match=r"no module or alias usb_storag in .*did you mean usb_storage"):
        names_of(selection, "usb_storag")


def test_users_are_the_selected_modules_that_need_one(selection: Selection) -> None:
    assert users_of(selection, "usbcore") == ("ehci_pci", "uhci_hcd", "usb_storage")


def test_the_explanation_of_a_whole_profile_has_every_module_with_its_load(kernels) -> None:
    kernel = kernels("bookworm")
    tree = open_tree(str(kernel.modules))
    profile = load_profile(Path(__file__).parents[2] / "profiles/vm.yaml")
    explanation = explain(profile, tree)
    selected = {m.name: s.name for s in select(profile, tree).stages for m in s.modules}
    assert {module.name: module.stage for module in explanation.modules} == selected
    by_name = {module.name: module for module in explanation.modules}
    assert by_name["ext4"].load == "megamod_critical"
    assert by_name["usbcore"].load == "megamod_usb"
    assert by_name["usbcore"].level == 4
    assert by_name["usb_storage"].parameters["delay_use"] == "seconds to delay before using a new device"
    assert (
        by_name["jbd2"].bytes == tree.modules["jbd2"].path.stat().st_size or tree.modules["jbd2"].path.suffix != ".ko"
    )
    value = json.loads(explanation.as_json())
    assert {module["name"] for module in value["modules"]} == set(selected)
    text = explanation.as_text()
    assert "stage critical (now)" in text
    assert "needed by ext4" in text


def test_one_modules_explanation_has_options_firmware_and_why_it_is_alone(kernels, tmp_path: Path) -> None:
    tree = open_tree(str(kernels("bookworm").modules))
    (tmp_path / "p.yaml").write_text(
        "critical: {modules: [thinkpad_acpi, usbcore, tg3]}\noptions: {usbcore: {autosuspend: -1}}\n"
    )
    profile = load_profile(tmp_path / "p.yaml")
    assert "    autosuspend = -1: default autosuspend delay" in explain(profile, tree, module="usbcore").as_text()
    alone = explain(profile, tree, module="thinkpad-acpi").as_text()
    assert "loaded: on its own: it compares the names of its own parameters" in alone
    assert "firmware: tigon/tg3" in explain(profile, tree, module="tg3").as_text()
    assert explain(profile, tree, module="ext4").as_text() == (
        "ext4: no selector asks for it, and no selected module needs it"
    )
