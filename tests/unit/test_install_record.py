"""The record of what was installed: read back, and refused with file and place before anything is removed by it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megamod.common.errors import MegamodError
from megamod.hooks.install_record import InstallRecord, load_record, save_record

RECORD = InstallRecord(
    entry="rdinit",
    settings={"6.1": {"profile": "/etc/megamod/p.yaml"}},
    files={"etc/megamod/hooks/dracut.conf": "ab" * 32},
    command_line=("etc/kernel/cmdline.d/megamod.conf",),
    kernels={"6.1": {"usr/lib/megamod/6.1/start": "link ../start"}},
    folders=("etc/megamod", "etc/megamod/hooks"),
)


def test_a_record_is_read_back(tmp_path: Path) -> None:
    save_record(tmp_path / "r.json", RECORD)
    assert load_record(tmp_path / "r.json") == RECORD


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert load_record(tmp_path / "r.json") is None
    assert load_record(tmp_path / "no" / "folder" / "r.json") is None


def test_records_of_the_first_form_of_hooks_and_deployments_are_read(tmp_path: Path) -> None:
    hook = {"version": 1, "entry": "hook-points", "files": {"a/b": "0"}, "command_line": [], "folders": ["a"]}
    (tmp_path / "r.json").write_text(json.dumps(hook))
    assert load_record(tmp_path / "r.json") == InstallRecord(entry="hook-points", files={"a/b": "0"}, folders=("a",))
    deployed = {"version": 1, "settings": {"6.1": {}}, "files": {}, "kernels": {"6.1": {"a": "0"}}, "folders": []}
    (tmp_path / "r.json").write_text(json.dumps(deployed))
    assert load_record(tmp_path / "r.json") == InstallRecord(settings={"6.1": {}}, kernels={"6.1": {"a": "0"}})


def test_settings_for_all_kernels_of_the_first_deployments_are_passed_over(tmp_path: Path) -> None:
    deployed = {"version": 1, "settings": {"profile": "/p.yaml"}, "files": {"a": "0"}, "kernels": {}, "folders": []}
    (tmp_path / "r.json").write_text(json.dumps(deployed))
    assert load_record(tmp_path / "r.json") == InstallRecord(files={"a": "0"})


def test_a_file_name_that_is_not_utf8_survives(tmp_path: Path) -> None:
    record = InstallRecord(files={"lib/m\udcfc.ko": "0"})
    save_record(tmp_path / "r.json", record)
    assert load_record(tmp_path / "r.json") == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(version=2), "has version 2, this megamod reads 1"),
        (lambda value: value.pop("version"), "version: is missing"),
        (lambda value: value.update(entry="init"), "entry: unknown value 'init'"),
        (lambda value: value.update(files=[]), "files: must be an object, not a list"),
        (lambda value: value.update(folders=["a", 3]), "folders[1]: must be a string, not a whole number"),
        (lambda value: value["files"].update({"/etc/passwd": "0"}), "`/etc/passwd` is not a path below the root"),
        (lambda value: value["kernels"]["6.1"].update({"a/../../b": "0"}), "`a/../../b` is not a path below the"),
        (lambda value: value.update(folders=[""]), "`` is not a path below the root"),
        (lambda value: value.update(command_line=[".."]), "`..` is not a path below the root"),
    ],
)
def test_a_record_that_is_not_of_the_form_is_refused(
    tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    path = tmp_path / "r.json"
    value = json.loads(RECORD.to_json())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(MegamodError, match=f"^{re.escape(f'{path}: {message}')}"):
        load_record(path)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_record_that_is_not_json_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r.json").write_bytes(data)
    with pytest.raises(MegamodError, match=r"r\.json: is not JSON: .*hint: the record says what to remove"):
        load_record(tmp_path / "r.json")


def test_a_record_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match="cannot be read: Is a directory"):
        load_record(tmp_path)
