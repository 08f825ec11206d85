"""@builtin:NAME, and the profiles that come with megamod on the kernels that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.modules.tree import open_tree
from megamod.profile.schema import find_profile, load_profile, shipped_profiles
from megamod.profile.selectors import parse_selector
from megamod.select.select import Selection, select
from megamod.select.sets import shipped_sets
from tests.unit.module_trees import make_tree, small_tree

SUITES = ("bookworm", "bookworm-backports", "sid")


def selection_of(folder: Path, text: str, tree: Path | None = None) -> Selection:
    (folder / "p.yaml").write_text(text)
    return select(load_profile(folder / "p.yaml"), open_tree(str(tree or small_tree(folder))))


def test_a_set_takes_what_the_kernel_has_of_it(tmp_path: Path) -> None:
    selection = selection_of(tmp_path, 'critical: {modules: ["@builtin:usb-storage"]}\n')
    reasons = {module.name: module.reason for module in selection.stages[0].modules}
    assert reasons["usb_storage"] == "matches @builtin:usb-storage"
    assert reasons["usbcore"].startswith("needed by ")
    assert set(reasons) == {"usb_storage", "ehci_pci", "uhci_hcd", "usbcore", "usb_common"}


def test_a_set_of_which_the_kernel_has_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match=r"p\.yaml:1:22: @builtin:mmc matches nothing in 6\.1\.0-test"):
        selection_of(tmp_path, 'critical: {modules: ["@builtin:mmc"]}\n')


def test_a_set_that_is_built_in_is_none(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"kernel/fs/ext4/ext4.ko": []}, builtin=["kernel/drivers/mmc/core/mmc_block.ko"])
    selection = selection_of(tmp_path, 'critical: {modules: ["@builtin:mmc", ext4]}\n', tree)
    assert [module.name for module in selection.stages[0].modules] == ["ext4"]


def test_an_unknown_set_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(
        MegamodError, match=r"1:22: `@builtin:usb-storag`: there is no such set .*did you mean usb-stor"
    ):
        selection_of(tmp_path, 'critical: {modules: ["@builtin:usb-storag"]}\n')


def test_a_set_can_be_excluded_and_removed(tmp_path: Path) -> None:
    selection = selection_of(tmp_path, 'critical: {modules: ["*"]}\nexclude: ["@builtin:usb-storage"]\n')
    assert not {"usb_storage", "uhci_hcd"} & {module.name for module in selection.stages[0].modules}
    (tmp_path / "base.yaml").write_text('critical: {modules: [ext4, "@builtin:disks"]}\n')
    selection = selection_of(tmp_path, 'extends: ./base.yaml\ncritical: {modules: ["!@builtin:disks"]}\n', tmp_path)
    assert [m.name for m in selection.stages[0].modules if m.reason == "named"] == ["ext4"]


@pytest.mark.parametrize("name", sorted(shipped_sets()))
def test_each_entry_of_a_set_is_a_selector(name: str) -> None:
    assert all(parse_selector(entry).pattern for entry in shipped_sets()[name])


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_every_shipped_profile_resolves_on_each_kernel(suite: str, name: str, kernels) -> None:
    tree = open_tree(str(kernels(suite).modules))
    selection = select(find_profile(name), tree)
    seen: set[str] = set()
    for stage in selection.stages:
        seen |= {module.name for module in stage.modules}
        assert stage.modules
        assert all(set(tree.modules[module.name].depends) <= seen for module in stage.modules)
    assert len(selection.stages) == len(find_profile(name).stages)
    assert "ext4" in {module.name for module in selection.stages[0].modules}


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_every_shipped_profile_begins_with_a_comment_that_teaches(name: str) -> None:
    text = shipped_profiles()[name].read_text()
    assert text.startswith("# ")
    assert "# Build on it:  extends: " in text


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_what_a_profile_says_of_building_on_it_is_a_profile(name: str, tmp_path: Path) -> None:
    lines = shipped_profiles()[name].read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("# Build on it:"))
    example = [lines[start].removeprefix("# Build on it:")]
    example += [
        line[1:] for line in lines[start + 1 :][: next(n for n, x in enumerate(lines[start + 1 :]) if x[:1] != "#")]
    ]
    width = len(example[0]) - len(example[0].lstrip())
    indent = len("# Build on it:") + width - 1
    text = "\n".join([example[0].strip(), *(line[indent:] for line in example[1:])])
    (tmp_path / "child.yaml").write_text(text + "\n")
    assert load_profile(tmp_path / "child.yaml").critical.selectors
