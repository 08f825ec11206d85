"""``megamod build`` with `skip`, `files`, `firmware` and `compress`: what reaches plan, manifest and image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megamod.build.explain import explain
from megamod.common.files import read_file
from megamod.image.archive import read_image, segments
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.unit.module_factory import Ko
from tests.unit.module_trees import RELEASE
from tests.unit.test_cli_build import GOOD, VERSION, Builder, builder, module_tree

__all__ = ["builder"]

PROFILE = """\
critical: {modules: [disk]}
deferred: [{name: usb, modules: [usb-storage], after: userspace}]
skip: [usb_storage]
files: {app/: /opt, "*.conf": /etc/}
"""


def disk_with_firmware() -> bytes:
    ko = Ko("disk", info=VERSION).calls("core_add", 1)
    ko.modinfo += [("firmware", "disk/a.bin"), ("firmware", "disk/b.bin")]
    return bytes(ko)


def usb_with_firmware() -> bytes:
    ko = Ko("usb_storage", info=VERSION).calls("core_add", 1)
    ko.modinfo += [("firmware", "usb/later.bin")]
    return bytes(ko)


def prepared(folder: Path) -> Path:
    """A profile's folder with files, and a tree with firmware, below *folder*; returns the tree."""
    (folder / "app/bin").mkdir(parents=True)
    (folder / "app/bin/run").write_text("#!/bin/sh\n")
    (folder / "app/bin/run").chmod(0o755)
    (folder / "app/bin/link").symlink_to("run")
    (folder / "a.conf").write_text("a\n")
    (folder / "p.yaml").write_text(PROFILE)
    changed = {"kernel/disk.ko": disk_with_firmware(), "kernel/usb/usb-storage.ko": usb_with_firmware()}
    tree = module_tree(folder, changed)
    for name in ("disk/a.bin", "usb/later.bin"):
        path = folder / "lib/firmware" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tree


def test_files_and_firmware_needed_before_the_root_are_in_the_image(builder: Builder, tmp_path: Path) -> None:
    status, _out, err = builder.run("p.yaml", "-k", prepared(tmp_path), "-o", "out.img")
    assert status == 0, err
    entries = {entry.path: entry for entry in read_image(tmp_path / "out.img")}
    assert entries["opt/bin/run"].mode == 0o100755
    assert entries["opt/bin/link"].data == b"run"
    assert entries["etc/a.conf"].data == b"a\n"
    assert entries["lib/firmware/disk/a.bin"].data == b"disk/a.bin"
    assert "lib/firmware/usb/later.bin" not in entries
    assert "note: firmware that was not found: disk/b.bin" in err
    manifest = json.loads(entries["megamod/manifest.json"].data)
    assert manifest["skip"] == ["usb_storage"]
    assert {file["path"]: file["reason"] for file in manifest["files"]}["lib/firmware/disk/a.bin"] == "firmware of disk"
    assert b"\nskip usb_storage\nstage critical " in entries["megamod/plan"].data


def test_an_image_does_not_depend_on_where_things_lie(builder: Builder, tmp_path: Path) -> None:
    for name in ("one", "two/deeper"):
        (tmp_path / name).mkdir(parents=True)
        tree = prepared(tmp_path / name)
        assert builder.run(tmp_path / name / "p.yaml", "-q", "-k", tree, "-o", f"{name[:3]}.img")[0] == 0
    assert (tmp_path / "one.img").read_bytes() == (tmp_path / "two.img").read_bytes()


def test_the_command_line_names_another_firmware_folder(builder: Builder, tmp_path: Path) -> None:
    tree = prepared(tmp_path)
    (tmp_path / "lib/firmware").rename(tmp_path / "elsewhere")
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img")
    assert status == 0
    assert "note: firmware: no lib/firmware beside the modules: 2 names left out" in err
    assert builder.run("p.yaml", "-q", "-k", tree, "-o", "out.img", "--firmware-dir", tmp_path / "elsewhere")[0] == 0
    assert "lib/firmware/disk/a.bin" in {entry.path for entry in read_image(tmp_path / "out.img")}


def test_without_a_real_root_every_stage_has_its_firmware(builder: Builder, tmp_path: Path) -> None:
    tree = prepared(tmp_path)
    (tmp_path / "p.yaml").write_text(PROFILE + "root: {exec: /opt/bin/run}\n")
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img")
    assert status == 0
    assert "lib/firmware/usb/later.bin" in {entry.path for entry in read_image(tmp_path / "out.img")}
    assert "note: root: /opt/bin/run is run by /bin/sh, which is not in `files`" in err


def test_a_file_that_is_missing_is_refused_before_anything_is_written(builder: Builder, tmp_path: Path) -> None:
    message = builder.refused(profile=GOOD + "files: {nothing: /etc/nothing}\n")
    assert message.startswith("p.yaml:3:9: files: nothing: no such file")


@pytest.mark.parametrize("method", ["none", "gzip", "lz4", "xz", "zstd"])
def test_the_image_is_packed_as_the_profile_says(method: str, builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"{GOOD}compress: {method}\n")
    assert builder.run("p.yaml", "-q", "-k", module_tree(tmp_path), "-o", "out.img")[0] == 0
    assert [part.method for part in segments(read_file(tmp_path / "out.img"), source="image")] == [method]


def test_a_compression_unknown_to_the_kernel_is_refused_with_its_line(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / f"boot/config-{RELEASE}").write_text("CONFIG_RD_GZIP=y\n# CONFIG_RD_ZSTD is not set\n")
    message = builder.refused()
    assert message == (
        f"compress: the kernel cannot unpack zstd: boot/config-{RELEASE}:2: # CONFIG_RD_ZSTD is not set"
        " (hint: it can: none, gzip)"
    )
    (tmp_path / "p.yaml").write_text(f"{GOOD}compress: auto\nstorage: 1MB/s\n")
    shutil.rmtree(tmp_path / "lib")
    status, _out, err = builder.run("p.yaml", "-k", module_tree(tmp_path), "-o", "out.img")
    assert status == 0
    assert "note: compress: auto takes gzip; to read and unpack: none " in err
    assert b'"compress": "gzip"' in {e.path: e.data for e in read_image(tmp_path / "out.img")}["megamod/manifest.json"]


def test_explain_names_what_is_skipped_and_which_firmware_was_not_found(builder: Builder, tmp_path: Path) -> None:
    tree = prepared(tmp_path)
    # What is not there yet need not be there to be explained.
    shutil.rmtree(tmp_path / "app")
    found = explain(load_profile(tmp_path / "p.yaml"), open_tree(str(tree)))
    modules = {module.name: module for module in found.modules}
    assert modules["disk"].firmware == ("disk/a.bin", "disk/b.bin")
    assert modules["disk"].missing == ("disk/b.bin",)
    assert modules["usb_storage"].missing == ()
    assert (modules["disk"].skipped, modules["usb_storage"].skipped) == (False, True)
    alone = explain(load_profile(tmp_path / "p.yaml"), open_tree(str(tree)), module="usb-storage").as_text()
    assert "skipped at boot: yes, unless megamod.run=usb_storage is given" in alone
    assert "named, skipped" in found.as_text()
