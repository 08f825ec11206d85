"""The kernels that the tests build: the table, and the builder, with a make of a few lines instead of the kernel's."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from tests.kernels import build, sources, table
from tests.kernels.build import build_kernel, find_built
from tests.kernels.sources import Source, Toolchain
from tests.kernels.table import FRAGMENTS, ROWS, Row, fragment_text, missing_values, wanted

ROW = ROWS["lean-gcc"]
TOOLS = Toolchain(program="gcc", variables=(), environment={}, version="gcc 12.2.0")

# What the builder needs of the kernel's Makefile; each run adds a line to the file "runs".
MAKE = """#!/bin/sh
for word; do
	case $word in
	O=*) o=${word#O=} ;;
	INSTALL_MOD_PATH=*) modules=${word#*=}/lib/modules/6.1.0-test ;;
	KCONFIG_ALLCONFIG=*) all=${word#*=} ;;
	esac
done
echo "$word" >> "$RUNS"
cd "$o"
case $word in
allnoconfig) cp "$all" .config ;;
modules)
	BEFORE
	mkdir -p include/config arch/x86/boot
	echo 6.1.0-test > include/config/kernel.release
	mkdir -p fs/fat
	echo fs/fat/fat.o > modules.order
	echo fat > fs/fat/fat.ko
	for file in arch/x86/boot/bzImage System.map Module.symvers; do echo "$file" > $file; done
	;;
modules_install)
	mkdir -p "$modules"
	: > "$modules/modules.dep"
	ln -s / "$modules/build"
	;;
esac
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a source that needs no network, and `make` as above."""
    monkeypatch.setattr(build, "fetch_source", lambda row, **_: Source(folder=tmp_path, version="6.1.0-1"))
    monkeypatch.setattr(build, "find_toolchain", lambda row, **_: TOOLS)
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PATH", f"{tmp_path}/programs:{os.environ['PATH']}")
    install_make(tmp_path)
    return tmp_path / "cache"


def install_make(folder: Path, before: str = ":") -> None:
    (folder / "programs").mkdir(exist_ok=True)
    # The builder only hands depmod's path on to make.
    for name, text in (("make", MAKE.replace("BEFORE", before)), ("depmod", "#!/bin/false\n")):
        program = folder / "programs" / name
        program.write_text(text)
        program.chmod(0o755)


def runs(cache: Path) -> list[str]:
    path = cache.with_name("runs")
    return path.read_text().split() if path.exists() else []


def left_behind(cache: Path) -> list[str]:
    trees = cache / "selfbuilt/trees"
    return sorted(path.name for path in trees.iterdir()) if trees.exists() else []


# The table


def test_every_fragment_belongs_to_a_row_and_every_row_has_its_fragments() -> None:
    named = {name for row in ROWS.values() for name in (*row.base, *row.options)}
    assert named == {path.stem for path in FRAGMENTS.glob("*.config")}


def test_no_two_rows_have_one_name() -> None:
    assert len(table._ROWS) == len(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_asks_for_each_of_its_values_once(name: str) -> None:
    lines = [line for each in ROWS[name].options for line in (FRAGMENTS / f"{each}.config").read_text().splitlines()]
    keys = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]
    assert len(keys) == len(set(keys)) == len(wanted(ROWS[name])) > 0


@pytest.mark.parametrize("name", ROWS)
def test_the_release_of_a_kernel_has_the_name_of_its_row(name: str) -> None:
    assert fragment_text(ROWS[name]).splitlines()[-1] == f'CONFIG_LOCALVERSION="-{name}"'


@pytest.mark.parametrize("path", sorted(FRAGMENTS.glob("*.config")), ids=lambda path: path.stem)
def test_a_fragment_has_nothing_but_values_and_comments(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert line.startswith("#") or line.split("=")[0].removeprefix("CONFIG_").replace("_", "").isalnum(), line
        assert line.startswith("#") or "=" in line, line


def test_a_value_that_the_configuration_has_otherwise_is_missing() -> None:
    row = dataclasses.replace(ROW, options=("lean",))
    held = "".join(f"{key}={value}\n" for key, value in wanted(row).items() if value != "n")
    assert missing_values(row, held) == []
    assert missing_values(row, held.replace("CONFIG_FRAME_POINTER=y\n", "")) == ["CONFIG_FRAME_POINTER=y"]
    assert missing_values(row, f"{held}CONFIG_MODVERSIONS=y\n") == ["CONFIG_MODVERSIONS=n"]
    assert missing_values(row, f"{held}# CONFIG_MODVERSIONS is not set\n") == []


# The builder


def test_a_kernel_is_built_once_and_found_afterwards(cache: Path) -> None:
    first = build_kernel(ROW, cache=cache)
    assert runs(cache) == ["allnoconfig", "modules", "modules_install"]
    assert build_kernel(ROW, cache=cache) == first
    assert len(runs(cache)) == 3


def test_a_finished_kernel_has_image_configuration_map_exports_and_modules(cache: Path) -> None:
    kernel = build_kernel(ROW, cache=cache)
    assert (kernel.release, kernel.architecture, kernel.arch) == ("6.1.0-test", "amd64", "x86_64")
    assert kernel.vmlinuz.read_text() == "arch/x86/boot/bzImage\n"
    assert kernel.config.read_text() == fragment_text(ROW)
    assert sorted(path.name for path in kernel.vmlinuz.parent.iterdir()) == [
        f"{name}-6.1.0-test" for name in ("System.map", "config", "symvers", "vmlinuz")
    ]
    # Links into folders that are gone are in no package of a kernel.
    assert [path.name for path in kernel.modules.iterdir()] == ["modules.dep"]


def test_the_path_with_the_name_of_the_row_leads_to_the_kernel(cache: Path) -> None:
    kernel = build_kernel(ROW, cache=cache)
    folder = cache / "selfbuilt/lean-gcc"
    assert (folder / "lib/modules/6.1.0-test").resolve() == kernel.modules.resolve()
    assert find_built(ROW, cache=cache).modules.parent.parent.parent == folder


def test_a_kernel_that_is_not_built_is_named_with_the_command(cache: Path) -> None:
    with pytest.raises(MegamodError) as caught:
        find_built(ROW, cache=cache)
    assert caught.value.message == "lean-gcc: is not built yet"
    assert caught.value.hint == "python -m tests.kernels.build lean-gcc"


CHANGES: dict[str, Callable[[Row, Source, Toolchain], tuple[Row, Source, Toolchain]]] = {
    "fragments": lambda r, s, t: (dataclasses.replace(r, options=("lean", "rt")), s, t),
    "architecture": lambda r, s, t: (dataclasses.replace(r, architecture="arm64"), s, t),
    "source": lambda r, s, t: (r, dataclasses.replace(s, version="6.1.0-2"), t),
    "compiler": lambda r, s, t: (r, s, dataclasses.replace(t, version="gcc 13")),
    "variables": lambda r, s, t: (r, s, dataclasses.replace(t, variables=("LLVM=-19",))),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_input_is_another_key(what: str) -> None:
    source = Source(folder=Path("/"), version="6.1.0-1")
    assert build.build_key(ROW, source, TOOLS) == build.build_key(ROW, source, TOOLS)
    assert build.build_key(*CHANGES[what](ROW, source, TOOLS)) != build.build_key(ROW, source, TOOLS)


def test_a_new_build_takes_the_place_of_the_old_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = build_kernel(ROW, cache=cache)
    monkeypatch.setattr(build, "find_toolchain", lambda row, **_: dataclasses.replace(TOOLS, version="gcc 13"))
    new = build_kernel(ROW, cache=cache)
    assert len(runs(cache)) == 6
    assert (cache / "selfbuilt/lean-gcc").resolve() == new.modules.parents[2].resolve()
    assert not old.modules.exists()


def test_a_configuration_that_lacks_what_the_row_is_for_is_an_error(cache: Path) -> None:
    install_make(cache.parent)
    text = (cache.parent / "programs/make").read_text()
    (cache.parent / "programs/make").write_text(text.replace('cp "$all"', 'grep -v FRAME_POINTER=y "$all" >'))
    with pytest.raises(MegamodError) as caught:
        build_kernel(ROW, cache=cache)
    lines = "CONFIG_UNWINDER_FRAME_POINTER=y CONFIG_FRAME_POINTER=y"
    assert str(caught.value) == f"lean-gcc: the kernel's configuration does not take {lines}"
    assert left_behind(cache) == []


def test_a_failed_build_names_the_first_error_and_leaves_nothing(cache: Path) -> None:
    install_make(cache.parent, 'echo "  CC  fs/inode.o"; echo "fs/inode.c:7: error: too odd" >&2; exit 2')
    with pytest.raises(MegamodError) as caught:
        build_kernel(ROW, cache=cache)
    assert caught.value.message == "lean-gcc: make modules: fs/inode.c:7: error: too odd"
    log = cache / "selfbuilt/logs/lean-gcc.log"
    assert caught.value.hint == f"all of it is in {log}"
    assert "CC  fs/inode.o" in log.read_text()
    assert left_behind(cache) == []
    install_make(cache.parent)
    assert build_kernel(ROW, cache=cache).vmlinuz.exists()


def test_a_build_that_is_killed_is_made_again_and_its_remains_go(cache: Path, tmp_path: Path) -> None:
    install_make(tmp_path, "echo begun > $RUNS.begun; exec sleep 1000")
    script = (
        "import sys; from pathlib import Path; from tests.kernels import build\n"
        "from tests.unit import test_kernel_builder as t\n"
        "build.fetch_source = lambda row, **_: build.Source(folder=Path(sys.argv[1]), version='6.1.0-1')\n"
        "build.find_toolchain = lambda row, **_: t.TOOLS\n"
        "build.build_kernel(t.ROW, cache=Path(sys.argv[1]) / 'cache')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=Path(__file__).parents[2])
    begun = tmp_path / "runs.begun"
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cache / "selfbuilt/lean-gcc").exists()
    assert [name[:5] for name in left_behind(cache)] == [".new-"]
    install_make(tmp_path)
    kernel = build_kernel(ROW, cache=cache)
    assert kernel.vmlinuz.exists()
    assert left_behind(cache) == [kernel.modules.parents[2].name]


def test_kept_objects_are_what_the_next_row_of_the_source_starts_from(cache: Path) -> None:
    build_kernel(ROW, cache=cache)
    assert not (cache / "selfbuilt/objects").exists()
    for name in ("rt", "livepatch"):
        build_kernel(ROWS[name], cache=cache, keep_objects=True)
    assert [path.name for path in (cache / "selfbuilt/objects").iterdir()] == ["x86_64-gcc-6.1.0-1"]
    assert (cache / "selfbuilt/objects/x86_64-gcc-6.1.0-1/.config").read_text() == fragment_text(ROWS["livepatch"])


def test_modules_alone_are_built_without_an_image_and_versions(cache: Path) -> None:
    depmod = cache.parent / "programs/depmod"
    depmod.write_text('#!/bin/sh\ncat "$2/lib/modules/$3/modules.order" > "$2/lib/modules/$3/modules.dep"\n')
    folder = build.build_modules(ROW, cache=cache)
    assert runs(cache) == ["allnoconfig", "modules"]
    modules = folder / "lib/modules/6.1.0-test"
    assert (modules / "modules.dep").read_text() == "kernel/fs/fat/fat.ko\n"
    assert (modules / "kernel/fs/fat/fat.ko").read_text() == "fat\n"
    assert not (folder / "boot").exists()
    config = cache / "selfbuilt/objects/lean-gcc-modules/.config"
    assert config.read_text().splitlines()[-1] == "CONFIG_MODVERSIONS=n"
    assert build.build_modules(ROW, cache=cache) == folder
    assert len(runs(cache)) == 2
    # The kernel's own build is another.
    assert build_kernel(ROW, cache=cache).vmlinuz.exists()
    assert len(runs(cache)) == 5


def test_of_two_that_want_one_kernel_the_second_waits_and_finds_it(cache: Path) -> None:
    install_make(cache.parent, "sleep 0.3")
    kernels: list[object] = []
    threads = [threading.Thread(target=lambda: kernels.append(build_kernel(ROW, cache=cache))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kernels) == 2
    assert runs(cache).count("modules") == 1


# What is filled


def test_a_folder_takes_its_name_only_when_all_is_in_it(tmp_path: Path) -> None:
    def stops(new: Path) -> None:
        (new / "half").write_text("")
        raise MegamodError("the network is gone")

    with pytest.raises(MegamodError):
        sources.fill(tmp_path / "clang", stops)
    assert list(tmp_path.iterdir()) == []
    sources.fill(tmp_path / "clang", lambda new: (new / "whole").write_text(""))
    assert [path.name for path in tmp_path.rglob("*")] == ["clang", "whole"]


def test_what_a_killed_process_has_left_is_removed_before_a_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / ".new-clang-x1y2").mkdir()
    (tmp_path / ".new-linux-x1y2").mkdir()
    sources.fill(tmp_path / "clang", lambda new: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new-linux-x1y2", "clang"]


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MegamodError) as caught:
        sources.fill(tmp_path / "file/clang", lambda new: None)
    assert caught.value.message == f"{tmp_path}/file/clang: File exists"
    assert caught.value.hint == "XDG_CACHE_HOME names another cache folder"
