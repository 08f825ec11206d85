"""The commands about profiles, from the command line to text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from megamod.cli.main import cli
from megamod.common.errors import MegamodError
from megamod.modules.levels import parse_table
from megamod.profile.schema import shipped_profiles
from tests.unit.machine_records import recorded_machine
from tests.unit.module_factory import Ko
from tests.unit.module_trees import make_tree, small_tree
from tests.unit.test_levels import source_tree


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, list(words), catch_exceptions=True, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


def test_profile_list_names_every_shipped_profile_and_what_it_is_for() -> None:
    lines = run("profile", "list").splitlines()[1:]
    assert [line.split()[0] for line in lines] == sorted(shipped_profiles())
    assert all(len(line.split()) > 4 for line in lines)


def test_profile_schema_prints_json() -> None:
    assert json.loads(run("profile", "schema"))["title"] == "megamod profile"


def test_profile_check_without_a_kernel_says_the_stages() -> None:
    assert "camera: 3 stages: critical (now), usb (path /run/camera/first-frame, timeout 5 s)" in run(
        "profile", "check", "camera"
    )


def test_profile_check_with_a_kernel_counts_modules_and_shows_notes(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("critical: {modules: [ext4, virtio_pci]}\n")
    text = run("profile", "check", str(tmp_path / "p.yaml"), "-k", str(small_tree(tmp_path)))
    assert "critical  now           6" in text
    assert "note: built into the kernel, skipped: virtio_pci" in text


def test_profile_check_of_a_wrong_profile_is_its_located_error(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("critical: {modules: [ext5]}\n")
    with pytest.raises(MegamodError, match=r"p\.yaml:1:22: no module or alias ext5 in .*did you mean ext4"):
        run("profile", "check", str(tmp_path / "p.yaml"), "-k", str(small_tree(tmp_path)))


def test_levels_prints_the_table_or_writes_it(tmp_path: Path) -> None:
    files = {
        "drivers/Makefile": "obj-$(CONFIG_A) += early.o\n",
        "drivers/early.c": "subsys_initcall(early_init);\n",
    }
    source = source_tree(tmp_path / "linux", files)
    text = run("levels", str(source))
    assert text.startswith("# Made by `megamod levels SOURCE` from Linux 6.1.9")
    assert parse_table(text) == {"early": 4}
    assert "1 module" in run("levels", str(source), "-o", str(tmp_path / "table.tsv"))
    assert (tmp_path / "table.tsv").read_text() == text


def test_detect_draws_a_recorded_machine_and_records_this_one(tmp_path: Path) -> None:
    recorded_machine("server", tmp_path / "m")
    modules = ("xfs", "raid1", "sd_mod", "ahci")
    files: dict[str, list[str]] = {f"kernel/{name}.ko": [] for name in modules}
    tree = make_tree(tmp_path, files, alias=["md-raid1 raid1"], builtin=["kernel/drivers/md/md-mod.ko"])
    text = run("detect", "--sysfs", str(tmp_path / "m"), "-k", str(tree))
    assert "# / is xfs on md0 (RAID, level raid1) on sda1 (a partition) and sdb1 (a partition) on sda and sdb." in text
    assert all(f"    - {name} " in text for name in modules)
    run("detect", "--sysfs", str(tmp_path / "m"), "--record", str(tmp_path / "again"))
    assert run("detect", "--sysfs", str(tmp_path / "again"), "-k", str(tree)) == text


def test_detect_notes_options_that_the_kernel_would_refuse(tmp_path: Path) -> None:
    recorded_machine("server", tmp_path / "m")
    files: dict[str, list[str]] = {f"kernel/{name}.ko": [] for name in ("xfs", "raid1", "sd_mod", "ahci")}
    tree = make_tree(tmp_path, files, alias=["md-raid1 raid1"], builtin=["kernel/drivers/md/md-mod.ko"])
    (tree / "kernel/ahci.ko").write_bytes(bytes(Ko("ahci").param("debug")))
    (tmp_path / "m/etc/modprobe.d").mkdir(parents=True, exist_ok=True)
    (tmp_path / "m/etc/modprobe.d/x.conf").write_text("options ahci debug=abc\noptions raid1 a=1\n")
    text = " ".join(run("detect", "--sysfs", str(tmp_path / "m"), "-k", str(tree)).replace("\n# ", " ").split())
    assert "x.conf:1: ahci.debug does not take `abc`" in text and "x.conf:2" not in text


def test_explain_prints_a_table_or_json_of_a_real_kernel(kernels, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("critical: {modules: [virtio_blk]}\n")
    words = ["explain", str(tmp_path / "p.yaml"), "-k", str(kernels("bookworm").modules)]
    assert "virtio_blk" in run(*words)
    assert json.loads(run(*words, "virtio_ring", "--json"))["modules"][0]["reason"] == "needed by virtio_blk"
