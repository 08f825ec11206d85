"""`@list:FILE`: the files in which other tools list modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.module_trees import small_tree
from tests.unit.test_select import critical, error_of, names, reasons, run

LISTS = {
    "modules-load.d": "# comment\next4\n; other\n  usb-storage  \n",
    "etc-modules": "ext4 max_dir_size_kb=1 x=y\nusb_storage # why\n",
    "android-load": "kernel/fs/ext4/ext4.ko\nusb-storage.ko\n",
    "android-blocklist": "blocklist ext4\nblocklist usb_storage\n",
    "autoload": "ext4 usb-storage",
}


@pytest.mark.parametrize("form", LISTS)
def test_each_form_of_a_list_names_its_modules(tmp_path: Path, form: str) -> None:
    (tmp_path / "modules").write_text(LISTS[form])
    tree = small_tree(tmp_path)
    found = run(tmp_path, critical('["@list:modules"]'), tree)
    assert names(found) == names(run(tmp_path, critical("[ext4, usb_storage]"), tree))
    assert reasons(found)["ext4"].startswith("line ")
    assert reasons(found)["ext4"].endswith(" of modules")


def test_a_folder_of_lists_is_all_its_conf_files(tmp_path: Path) -> None:
    folder = tmp_path / "modules-load.d"
    folder.mkdir()
    (folder / "b.conf").write_text("ext4\n")
    (folder / "a.conf").write_text("usb_storage\n")
    (folder / "README").write_text("nothing\n")
    tree = small_tree(tmp_path)
    found = run(tmp_path, critical('["@list:modules-load.d"]'), tree)
    assert names(found) == names(run(tmp_path, critical("[ext4, usb_storage]"), tree))


def test_a_module_of_a_list_that_is_not_there_is_an_error_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "modules").write_text("ext4\n usb_storag\n")
    tree = small_tree(tmp_path)
    message = error_of(tmp_path, critical('["@list:modules"]'), tree)
    assert message.startswith("modules:2:2: no module or alias usb_storag in ")
    assert "usb_storage" in message.split("hint")[1]
    assert "ext4" in names(run(tmp_path, critical('["?@list:modules"]'), tree))["critical"]


def test_a_list_that_is_not_there_is_an_error_of_the_profile(tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    message = error_of(tmp_path, critical('["@list:modules"]'), tree)
    assert message.startswith("p.yaml:1:22: @list: modules: No such file")
    assert error_of(tmp_path, critical('["@list:"]'), tree).startswith(
        "p.yaml:1:22: `@list:`: unknown kind of selector"
    )


def test_what_a_list_names_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "blocklist").write_text("blocklist snd\n")
    text = critical("[ext4, usb_storage]") + 'exclude: ["@list:blocklist"]\n'
    assert "snd" not in names(run(tmp_path, text))["critical"]
