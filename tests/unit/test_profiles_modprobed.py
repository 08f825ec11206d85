"""modprobe.d for builds on the host: what is read, which file wins, and what becomes of it in a selection."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.modules.modprobe_d import HOST_FOLDERS, host_config, read_config
from megamod.modules.tree import Softdep, open_tree
from megamod.profile.schema import load_profile
from megamod.select.select import Selection, select
from tests.unit.module_trees import small_tree


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.conf").write_text(text)
    return folder


def options(folder: Path) -> list[tuple[str, str, str]]:
    return [(o.module, o.parameter, o.value) for o in read_config([folder]).options]


def test_options_are_read_with_quotes_switches_and_continued_lines(tmp_path: Path) -> None:
    text = '# options no x=1\noptions snd-hda-intel model=auto \\\n  index=1 patch="a b"\n\noptions usbcore nousb\n'
    assert options(write(tmp_path / "d", a=text)) == [
        ("snd_hda_intel", "model", "auto"),
        ("snd_hda_intel", "index", "1"),
        ("snd_hda_intel", "patch", "a b"),
        ("usbcore", "nousb", "Y"),
    ]


def test_an_option_knows_the_line_where_it_begins(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", a="\noptions snd \\\n slots=1\n")
    [option] = read_config([folder]).options
    assert str(option.location) == f"{folder}/a.conf:2:1"


def test_of_equal_options_the_one_in_the_last_file_counts(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", b="options snd slots=b\n", a="options snd slots=a cards_limit=2\n")
    assert {p: v for _m, p, v in options(folder)} == {"slots": "b", "cards_limit": "2"}


def test_a_file_hides_one_of_the_same_name_in_a_later_folder(tmp_path: Path) -> None:
    write(tmp_path / HOST_FOLDERS[0], a="options snd slots=etc\n")
    write(tmp_path / HOST_FOLDERS[3], a="options snd slots=lib\n", b="blacklist snd-pcsp\n")
    config = host_config(tmp_path)
    assert [(o.parameter, o.value) for o in config.options] == [("slots", "etc")]
    assert list(config.blacklist) == ["snd_pcsp"]


def test_the_loaders_own_mask_is_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", megamod="blacklist ext4\ninstall ext4 /bin/true\n")
    assert not read_config([folder]).blacklist


def test_softdeps_and_installs_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", a="softdep snd pre: usb-common post: crc16\ninstall floppy /bin/false\n")
    config = read_config([folder])
    assert config.softdep("snd", None) == Softdep(pre=("usb-common",), post=("crc16",))
    assert [one.pattern for one in config.installs] == ["floppy"] and config.install("floppy")


def test_what_modprobe_passes_over_is_one_note(tmp_path: Path) -> None:
    text = "\ufeffoptions snd a=1\n\noptions\n # indented\nnonsense snd x=1\ninclude /etc/other\nblacklist a]b\n"
    config = read_config([write(tmp_path / "d", a=text)])
    [note] = config.notes
    assert note.startswith("passed over, as modprobe does: ")
    places = [f"{tmp_path}/d/a.conf:{line} `" for line in (1, 3, 4, 5, 6, 7)]
    assert all(place in note for place in places) and not config.options and not config.blacklist


def test_module_with_a_command_that_loads_nothing_is_left_out_with_what_needs_it(tmp_path: Path) -> None:
    config = "install usb-common /bin/false\ninstall snd /sbin/modprobe -i snd; echo\n"
    selection = select_with(tmp_path, config, "critical: {modules: [usbcore, snd]}\n")
    assert {module.name for module in selection.stages[0].modules} == {"snd"}
    assert selection.notes == (
        "left out, because modprobe.d has an `install` command for usb_common that loads nothing "
        f"({tmp_path}/d/a.conf:1): usbcore",
        "loaded without the `install` command that modprobe.d has for them: snd",
    )


def select_with(folder: Path, config: str, profile: str) -> Selection:
    folder.mkdir(exist_ok=True)
    write(folder / "d", a=config)
    (folder / "p.yaml").write_text(profile + "modprobe-d: ./d\n")
    return select(load_profile(folder / "p.yaml"), open_tree(str(small_tree(folder))))


def test_options_of_selected_modules_are_merged_and_the_profile_wins(tmp_path: Path) -> None:
    selection = select_with(
        tmp_path,
        "options snd slots=host cards-limit=3\noptions btrfs unused=1\n",
        "critical: {modules: [snd]}\noptions: {snd: {slots: mine}}\n",
    )
    assert [(o.module, o.parameter, o.value) for o in selection.profile.options] == [
        ("snd", "slots", "mine"),
        ("snd", "cards-limit", "3"),
    ]


def test_a_blacklist_stands_against_patterns_and_not_against_names(tmp_path: Path) -> None:
    config = "blacklist ehci-pci\nblacklist uhci_hcd\n"
    selection = select_with(tmp_path, config, 'critical: {modules: ["[eu]hci_*", uhci_hcd, snd]}\n')
    names = {module.name for module in selection.stages[0].modules}
    assert "uhci_hcd" in names
    # uhci_hcd has a softdep on it, which modprobe follows although it is blacklisted.
    assert "ehci_pci" in names
    selection = select_with(tmp_path / "other", config, 'critical: {modules: ["ehci*", snd]}\n')
    assert "ehci_pci" not in {module.name for module in selection.stages[0].modules}
    assert "left out, because modprobe.d has them blacklisted: ehci_pci" in selection.notes


def test_softdeps_of_modprobe_d_come_along(tmp_path: Path) -> None:
    selection = select_with(tmp_path, "softdep snd pre: usb-common\n", "critical: {modules: [snd]}\n")
    reasons = {module.name: (module.reason, module.after) for module in selection.stages[0].modules}
    assert reasons == {"snd": ("named", ("usb_common",)), "usb_common": ("softdep of snd", ())}


def test_a_folder_that_does_not_exist_is_a_located_error(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("critical: {modules: [snd]}\nmodprobe-d: ./nowhere\n")
    with pytest.raises(MegamodError, match=r"p\.yaml:2:13: modprobe-d: no such folder: \./nowhere"):
        load_profile(tmp_path / "p.yaml")


def test_without_the_key_modprobe_d_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("critical: {modules: [snd]}\n")
    assert load_profile(tmp_path / "p.yaml").modprobe == "none"


def test_a_blacklist_does_not_stand_against_what_was_detected(tmp_path: Path) -> None:
    write(tmp_path / "d", a="blacklist ext4\n")
    (tmp_path / "p.yaml").write_text('critical: {modules: ["@detected"]}\nmodprobe-d: ./d\n')
    tree = open_tree(str(small_tree(tmp_path)))
    selection = select(load_profile(tmp_path / "p.yaml"), tree, detect=lambda: ({"ext4": "the root"}, {}))
    assert "ext4" in {module.name for module in selection.stages[0].modules}
