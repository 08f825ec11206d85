"""`skip`, `files` and `firmware` of a profile: what they say, what `extends` makes of them, and each located error."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.modules.tree import open_tree
from megamod.profile.model import Profile
from megamod.profile.schema import load_profile
from megamod.select.select import select
from tests.unit.module_trees import small_tree

MINIMAL = "critical: {modules: [ext4]}\n"


def load(folder: Path, text: str, base: str | None = None) -> Profile:
    if base is not None:
        (folder / "base.yaml").write_text(base)
    (folder / "p.yaml").write_text(text)
    return load_profile(folder / "p.yaml")


def refused(folder: Path, text: str, base: str | None = None) -> str:
    with pytest.raises(MegamodError) as caught:
        load(folder, text, base)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip: [nf_*]", "p.yaml:2:8: skip: `nf_*` is not a module name (hint: `exclude` takes patterns)"),
        ("skip: ['@detected']", "p.yaml:2:8: skip: `@detected` is not a module name"),
        ("skip: ext4", "p.yaml:2:7: skip: a list expected, not `ext4`"),
        ("skip: ['!ext4']", "p.yaml:2:8: `!ext4`: nothing is inherited here"),
        ("files: {}", "p.yaml:2:8: files: no entries"),
        ("files: camera", "p.yaml:2:8: files: a mapping expected, not `camera`"),
        ("files: [camera]", "p.yaml:2:9: files: `camera` has no destination (hint: write {from: camera, to: /etc/…})"),
        ("files: [{to: /etc/x}]", "p.yaml:2:9: files: an entry without `from`"),
        ("files: [{from: x}]", "p.yaml:2:9: files: x: no `to`"),
        ("files: [{from: x, to: /x, owner: me}]", "p.yaml:2:27: files: unknown key `owner`"),
        ("files: {x: {mode: 644}}", "p.yaml:2:12: files: x: no `to`"),
        ("files: {x: etc/x}", "p.yaml:2:12: to: `etc/x` is not absolute"),
        ("files: {x: /etc/../x}", "p.yaml:2:12: to: `/etc/../x` must name a file"),
        ("files: {x: /etc//x}", "p.yaml:2:12: to: `/etc//x` must name a file"),
        ("files: {x: /init}", "p.yaml:2:12: files: /init: /init is the loader itself"),
        ("files: {x: /megamod/plan}", "p.yaml:2:12: files: /megamod/plan: /megamod is megamod's own folder"),
        ("files: {x: /megamod/}", "p.yaml:2:12: files: /megamod: /megamod is megamod's own folder"),
        ("files: {x: /dev/console}", "p.yaml:2:12: files: /dev/console: /dev is a mount point"),
        ("files: {x: {to: /x, mode: 888}}", "p.yaml:2:27: mode: `888` is not a file mode (hint: octal digits"),
        ("files: {x: {to: /x, mode: rwx}}", "p.yaml:2:27: mode: `rwx` is not a file mode"),
        ("files: {'*.so': /usr/lib}", "p.yaml:2:17: files: *.so is a pattern, /usr/lib one file (hint: a pattern goes"),
        ("files: {a: /x, b: /x}", "p.yaml:2:16: files: two entries for /x (hint: first in line 2)"),
        ("files: ['!/etc/x']", "p.yaml:2:9: files: !/etc/x: nothing is inherited here"),
        ("firmware: all", "p.yaml:2:11: firmware: `all` is neither auto nor none (hint: a list names files: [all])"),
        ("firmware: [/lib/x]", "p.yaml:2:12: firmware: `/lib/x` is not a path below lib/firmware"),
        ("firmware: [a/../x]", "p.yaml:2:12: firmware: `a/../x` is not a path below lib/firmware"),
        ("firmware: [x.bin.zst]", "p.yaml:2:12: firmware: `x.bin.zst` names the compression (hint: write x.bin)"),
        ("firmware: []", "p.yaml:2:11: firmware: the list is empty"),
        ("firmware-dir: nowhere", "p.yaml:2:15: firmware-dir: no such folder: nowhere"),
    ],
)
def test_each_mistake_is_a_located_error(text: str, message: str, tmp_path: Path) -> None:
    assert refused(tmp_path, MINIMAL + text).startswith(message)


def test_a_mapping_and_a_list_of_files_say_the_same(tmp_path: Path) -> None:
    short = load(tmp_path, MINIMAL + "files: {camera: /usr/bin/camera, k: {to: /etc/k, mode: '0600'}, '?x*': /opt/}")
    text = "files: [{from: camera, to: /usr/bin/camera}, {from: k, to: /etc/k, mode: 600}, {from: '?x*', to: /opt/}]"
    long = load(tmp_path, MINIMAL + text)
    plain = [(item.source, item.to, item.mode, item.optional) for item in short.files]
    assert plain == [(item.source, item.to, item.mode, item.optional) for item in long.files]
    assert plain == [
        ("camera", "/usr/bin/camera", None, False),
        ("k", "/etc/k", 0o600, False),
        ("x*", "/opt/", None, True),
    ]


def test_a_childs_file_replaces_one_of_the_same_destination_or_removes(tmp_path: Path) -> None:
    base = MINIMAL + "files: {a: /a, b: /b, c: /c}"
    profile = load(tmp_path, "extends: base.yaml\nfiles: [{from: new, to: /b}, '!/c']", base)
    assert [(item.source, item.to) for item in profile.files] == [("a", "/a"), ("new", "/b")]
    message = refused(tmp_path, "extends: base.yaml\nfiles: ['!/d']", base)
    assert message == "p.yaml:2:9: files: !/d: nothing inherited goes there"


def test_sources_are_relative_to_the_profile_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/base.yaml").write_text(MINIMAL + "files: {a: /a}")
    profile = load(tmp_path, "extends: below/base.yaml\nfiles: {b: /b}")
    assert [Path(item.base).name for item in profile.files] == ["below", tmp_path.name]


def test_firmware_is_auto_unless_said_otherwise_and_a_child_replaces_it(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).firmware.auto
    none = MINIMAL + "firmware: none"
    assert not load(tmp_path, "extends: base.yaml", none).firmware.auto
    both = load(tmp_path, "extends: base.yaml\nfirmware: [auto, 'brcm/*']", none).firmware
    assert (both.auto, [pattern.text for pattern in both.patterns]) == (True, ["brcm/*"])
    only = load(tmp_path, MINIMAL + "firmware: ['brcm/*']").firmware
    assert not only.auto


def test_skip_is_inherited_and_can_be_taken_out(tmp_path: Path) -> None:
    base = MINIMAL + "skip: [crc16, jbd2]"
    profile = load(tmp_path, "extends: base.yaml\nskip: ['!jbd2', mbcache]", base)
    assert [selector.text for selector in profile.skip] == ["crc16", "mbcache"]


def test_a_skipped_module_stays_selected_and_its_users_are_named(tmp_path: Path) -> None:
    profile = load(tmp_path, MINIMAL + "skip: [mbcache, usb-storage, virtio_pci, '?nothing']")
    selection = select(profile, open_tree(str(small_tree(tmp_path))))
    assert selection.skip == ("mbcache",)
    assert "mbcache" in {module.name for module in selection.stages[0].modules}
    assert set(selection.notes) == {
        "not initialised either, because they need mbcache, which is skipped: ext4",
        "skip without effect, the modules are in no stage: usb_storage",
        "built into the kernel, so not skipped (initcall_blacklist= on the command line does): virtio_pci",
        "not in this kernel, and optional: nothing",
    }


def test_skip_of_an_unknown_module_is_an_error_with_the_nearest_names(tmp_path: Path) -> None:
    profile = load(tmp_path, MINIMAL + "skip: [mbcach]")
    with pytest.raises(MegamodError) as caught:
        select(profile, open_tree(str(small_tree(tmp_path))))
    assert str(caught.value).endswith("p.yaml:2:8: skip: no module mbcach in 6.1.0-test (hint: did you mean mbcache?)")
