"""An unchanged build takes the image as it was built before; any change of its input, and any damage, builds anew."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.build.image_cache import image_key
from megamod.cli import main as cli
from megamod.image.archive import read_image
from megamod.kernel.exports import cached_exports
from megamod.profile.schema import load_profile
from tests.unit.signing_keys import make_pair
from tests.unit.test_cli_build import GOOD, module_tree

EXTRA = "files: {app/: /opt}\nsign: {key: modules.pem, cert: modules.crt}\nmicrocode: auto\n"
Build = Callable[..., str]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Build:
    """Runs `megamod build` with a cache of its own; returns what it said."""
    (tmp_path / "work/app").mkdir(parents=True)
    (tmp_path / "work/app/run").write_text("#!/bin/sh\n")
    (tmp_path / "work/lib/firmware/disk").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("megamod.build.recipe.loader_binary", lambda arch: b"the loader")
    monkeypatch.setattr("megamod.build.recipe.ctl_binary", lambda arch: b"the keeper")
    make_pair(tmp_path / "work")
    (tmp_path / "work/p.yaml").write_text(GOOD + EXTRA)
    tree = module_tree(tmp_path / "work")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["megamod", "build", "p.yaml", "-k", str(tree), "-o", "out.img", *words])
        assert cli.main() == 0
        return capsys.readouterr().err

    return run


def test_the_second_build_is_the_first_one_byte_for_byte(build: Build) -> None:
    build()
    first = Path("out.img").read_bytes()
    Path("out.img").unlink()
    said = build()
    assert said.startswith("unchanged: out.img ")
    assert len(said.splitlines()) == 1
    assert Path("out.img").read_bytes() == first
    assert "prelink" in build("--no-cache")
    assert Path("out.img").read_bytes() == first


def change_module() -> None:
    path = Path("lib/modules/6.1.0-test/kernel/disk.ko")
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))


def change_mode() -> None:
    Path("app/run").chmod(0o755)


def change_link() -> None:
    Path("app/link").symlink_to("run")


@pytest.mark.parametrize(
    "change",
    [
        change_module,
        change_mode,
        change_link,
        lambda: Path("app/new").mkdir(),
        lambda: Path("app/run").write_text("#!/bin/ash\n"),
        lambda: Path("p.yaml").write_text(GOOD + EXTRA + "symbols: trim\n"),
        lambda: Path("lib/firmware/disk/a.bin").write_bytes(b"new"),
        lambda: Path("lib/modules/6.1.0-test/config").write_text("CONFIG_RD_ZSTD=y\nCONFIG_MICROCODE=y\n"),
        lambda: make_pair(Path()),
    ],
)
def test_a_change_builds_anew(build: Build, change: Callable[[], object]) -> None:
    build()
    change()
    assert "prelink" in build()
    assert build().startswith("unchanged: ")


def test_another_time_stamp_of_files_is_another_image(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    build()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert "prelink" in build()


def test_a_damaged_entry_is_made_again(build: Build, tmp_path: Path) -> None:
    build()
    first = Path("out.img").read_bytes()
    (entry,) = (tmp_path / "cache/megamod/images").iterdir()
    for damaged in (b"", b"junk", entry.read_bytes()[:-1], entry.read_bytes() + b"x"):
        entry.write_bytes(damaged)
        assert "prelink" in build()
        assert Path("out.img").read_bytes() == first
    assert build().startswith("unchanged: ")


def test_images_may_hold_secrets_so_nobody_else_reads_them(build: Build, tmp_path: Path) -> None:
    build()
    folder = tmp_path / "cache/megamod/images"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir()] == [0o600]


def test_a_cache_that_cannot_be_written_is_no_error(build: Build, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    for _ in range(2):
        assert "prelink" in build()
    assert {entry.path for entry in read_image(Path("out.img"))} >= {"init", "opt/run"}


def test_what_depends_on_the_machine_is_built_each_time(build: Build, tmp_path: Path) -> None:
    Path("p.yaml").write_text(f"{GOOD}modprobe-d: host\n")
    for _ in range(2):
        assert "prelink" in build()
    for line in ("modprobe-d: host", "board: host", 'exclude: ["@detected"]'):
        Path("p.yaml").write_text(f"{GOOD}{line}\n")
        assert image_key(load_profile(Path("p.yaml")), tmp_path, "6.1.0-test") is None


def test_a_folder_of_modprobe_d_and_a_device_tree_belong_to_the_input(build: Build, tool: Callable[..., str]) -> None:
    dtc = tool("dtc", package="device-tree-compiler")

    def tree(name: str) -> None:
        source = f'/dts-v1/; / {{ compatible = "a,{name}"; d {{ compatible = "b,{name}"; }}; }};'
        subprocess.run([dtc, "-q", "-O", "dtb", "-o", "b.dtb", "-"], input=source.encode(), check=True)

    Path("modprobe.d").mkdir()
    tree("one")
    Path("p.yaml").write_text(GOOD + 'exclude: ["?@dtb:b.dtb"]\nmodprobe-d: ./modprobe.d\nboard: b.dtb\n')
    changes = [lambda: None, lambda: tree("two"), lambda: Path("modprobe.d/a.conf").write_text("# nothing\n")]
    for change in changes:
        change()
        assert "prelink" in build()
        assert build().startswith("unchanged: ")


def test_exports_of_a_kernel_are_kept_and_read_again_when_it_changes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "lib/modules/1"
    (folder / "build").mkdir(parents=True)
    table = folder / "build/Module.symvers"
    table.write_text("0x12345678\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n")
    first = cached_exports(folder, "1")
    assert first is not None
    assert cached_exports(folder, "1") == first
    table.write_text("0x12345678\tkfree\tvmlinux\tEXPORT_SYMBOL_GPL\tNS\n")
    second = cached_exports(folder, "1")
    assert second is not None
    assert (second.symbols["kfree"].gpl, second.symbols["kfree"].namespace) == (True, "NS")
