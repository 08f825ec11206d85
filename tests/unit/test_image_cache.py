"""An unchanged build takes the image as it was built before; any change of its input, and any damage, builds anew."""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from megamod.build import recipe
from megamod.build.image_cache import image_key
from megamod.build.plan import PLAN_PATH, Plan
from megamod.build.reads import Reads, own_folders
from megamod.cli import main as cli
from megamod.common.cache import read_entry, write_entry
from megamod.image.archive import read_image
from megamod.kernel.exports import find_exports
from megamod.modules.kernel_files import KernelFiles
from megamod.modules.tree import ModuleTree
from megamod.profile.schema import load_profile
from tests.unit.signing_keys import make_pair
from tests.unit.test_cli_build import GOOD, module_tree

EXTRA = (
    "files: {app/: /opt}\nsign: {key: modules.pem, cert: modules.crt}\nmicrocode: auto\nfirmware: [auto, '?disk/*']\n"
)
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
    # Another test may compile the real ones meanwhile, and then the program itself has changed.
    own = tuple(folder for folder in own_folders() if folder.name != "loader")
    monkeypatch.setattr("megamod.build.image_cache.own_folders", lambda: own)
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


def look_at_a_text() -> object:
    return Path("own/a").read_bytes() if Path("own/a").is_file() else None


def look_at_a_mode() -> object:
    return Path("own/a").stat().st_mode if Path("own/a").exists() else None


def look_at_a_link() -> object:
    return Path("own/a").readlink() if Path("own/a").is_symlink() else None


def look_where_a_link_leads() -> object:
    return os.path.realpath("own/a")


def look_for_a_file() -> object:
    return Path("own/a").is_file()


def look_by_descriptor() -> object:
    try:
        descriptor = os.open("own/a", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, 100)
    except IsADirectoryError:
        return "a folder"
    finally:
        os.close(descriptor)


def look_into_a_folder() -> object:
    return sorted(path.name for path in Path("own").iterdir())


def look_by_a_pattern() -> object:
    return glob.glob("own/*"), [path.name for path in Path("own").rglob("a")]  # noqa: PTH207


def look_through_a_scan() -> object:
    with os.scandir("own") as listing:
        return [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in listing]


def look_all_the_way_down() -> object:
    return [(folder, folders, files) for folder, folders, files in os.walk("own")]


LOOKS = [
    look_at_a_text,
    look_at_a_mode,
    look_at_a_link,
    look_where_a_link_leads,
    look_for_a_file,
    look_by_descriptor,
    look_into_a_folder,
    look_by_a_pattern,
    look_through_a_scan,
    look_all_the_way_down,
]


@pytest.mark.parametrize("look", LOOKS)
def test_a_new_reader_is_seen_without_a_word_in_it(
    build: Build, look: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass looks at one more path and writes what it sees into the image: an image is always that of the present."""
    plan_text = recipe.plan_text
    monkeypatch.setattr(recipe, "plan_text", lambda plan: plan_text(plan) + repr(look()).encode())
    Path("own").mkdir()
    states: list[Callable[[], object]] = [
        lambda: None,
        lambda: Path("own/a").write_text("one"),
        lambda: Path("own/a").write_text("two"),
        lambda: Path("own/a").chmod(0o600),
        lambda: (Path("own/a").unlink(), Path("own/a").symlink_to("../p.yaml")),
        lambda: (Path("own/a").unlink(), Path("own/a").symlink_to("../modules.pem")),
        lambda: (Path("own/a").unlink(), Path("own/a").mkdir()),
        lambda: Path("own/a").rmdir(),
    ]
    unchanged = 0
    for change in states:
        change()
        for _ in range(2):
            unchanged += build().startswith("unchanged: ")
            (plan,) = (entry for entry in read_image(Path("out.img")) if entry.path == PLAN_PATH)
            assert plan.data.endswith(repr(look()).encode())
    # The second build of each state, and the first of the last one, which is the first state again.
    assert unchanged >= len(states)


def test_a_change_of_the_program_builds_anew(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    (program / "room").mkdir(parents=True)
    monkeypatch.setattr("megamod.build.image_cache.own_folders", lambda: (program,))
    for text in ("", "A = 1\n", "A = 2\n"):
        (program / "room/a.py").write_text(text)
        assert "prelink" in build()
        assert build().startswith("unchanged: ")


def test_a_file_that_the_build_did_not_look_at_is_no_input(build: Build) -> None:
    build()
    Path("lib/other").mkdir()
    Path("notes.txt").write_text("new")
    assert build().startswith("unchanged: ")


def test_an_import_is_no_input(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists the folders of sys.path, where outputs and much else may lie."""
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    plan_text = recipe.plan_text

    def with_an_import(plan: Plan) -> bytes:
        importlib.invalidate_caches()
        for name in ("not_there", "late_module"):
            sys.modules.pop(name, None)
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
        assert "late_module" in sys.modules
        version("megamod")
        return plan_text(plan)

    monkeypatch.setattr(recipe, "plan_text", with_an_import)
    Path("late_module.py").write_text("VALUE = 1\n")
    build()
    Path("notes.txt").write_text("new")
    assert build().startswith("unchanged: ")


@pytest.mark.parametrize(
    "look",
    [
        lambda: subprocess.run(["true"], check=True),
        lambda: Path("/proc/uptime").read_text(),
        lambda: list(Path("/sys/kernel").iterdir()),
        lambda: Path("out.img").read_bytes(),
        lambda: os.listdir(os.open(".", os.O_RDONLY)),  # noqa: PTH208
        lambda: os.stat("p.yaml", dir_fd=os.open(".", os.O_RDONLY)),
        lambda: os.open("p.yaml", os.O_RDONLY, dir_fd=os.open(".", os.O_RDONLY)),
    ],
)
def test_what_cannot_be_known_to_be_unchanged_is_built_each_time(
    build: Build, look: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_text = recipe.plan_text
    monkeypatch.setattr(recipe, "plan_text", lambda plan: (look(), plan_text(plan))[1])
    Path("out.img").write_bytes(b"of an earlier build")
    for _ in range(3):
        assert "prelink" in build()


def test_what_changes_while_it_is_read_is_not_kept(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_text = recipe.plan_text

    def with_a_change(plan: Plan) -> bytes:
        if "changed" not in Path("app/run").read_text():
            Path("app/run").write_text("#!/bin/sh\n# changed by somebody\n")
        return plan_text(plan)

    monkeypatch.setattr(recipe, "plan_text", with_a_change)
    for _ in range(2):
        assert "prelink" in build()
    assert build().startswith("unchanged: ")


def test_each_of_two_states_is_found_again(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both look at the same paths, an image stays known while another one is built."""
    for epoch in ("0", "1700000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        assert "prelink" in build()
    for epoch in ("0", "1700000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        assert build().startswith("unchanged: ")


def test_the_same_words_in_another_folder_are_another_build(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paths of a profile are relative, and so are those of what it names."""
    build()
    shutil.copytree("app", tmp_path / "other/app")
    for name in ("p.yaml", "modules.pem", "modules.crt"):
        shutil.copy2(name, tmp_path / "other" / name)
    (tmp_path / "other/app/more").write_text("only here")
    monkeypatch.chdir(tmp_path / "other")
    assert "prelink" in build()
    assert {entry.path for entry in read_image(Path("out.img"))} >= {"opt/more"}


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
    tree = ModuleTree(release="6.1.0-test", folder=tmp_path, modules={}, indexes={})
    for line in ("modprobe-d: host", "board: host", 'exclude: ["@detected"]'):
        Path("p.yaml").write_text(f"{GOOD}{line}\n")
        assert image_key(load_profile(Path("p.yaml")), tree) is None


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
    first = find_exports(KernelFiles(folder=folder, release="1"))
    assert first is not None
    assert find_exports(KernelFiles(folder=folder, release="1")) == first
    table.write_text("0x12345678\tkfree\tvmlinux\tEXPORT_SYMBOL_GPL\tNS\n")
    second = find_exports(KernelFiles(folder=folder, release="1"))
    assert second is not None
    assert (second.symbols["kfree"].gpl, second.symbols["kfree"].namespace) == (True, "NS")


@pytest.mark.parametrize("known", [False, True])
def test_an_entry_of_the_cache_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Entries are opened below their folder's descriptor, of which a recording knows only where it leads."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache/megamod").mkdir(parents=True)
    if known:
        write_entry("kind", "0" * 32, b"body")
    reads = Reads()
    with reads.recording():
        assert read_entry("kind", "0" * 32) == (b"body" if known else None)
        write_entry("kind", "1" * 32, b"other")
    looks = reads.looks()
    assert looks is not None and not any("0" * 32 in look or "1" * 32 in look for look in looks)


def test_a_path_below_another_folders_descriptor_is_not_known(tmp_path: Path) -> None:
    reads, folder = Reads(), os.open(tmp_path, os.O_RDONLY)
    with reads.recording(), contextlib.suppress(FileNotFoundError):
        os.stat("file", dir_fd=folder)
    os.close(folder)
    assert reads.looks() is None
