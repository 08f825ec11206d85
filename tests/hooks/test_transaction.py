"""Changes to a tree: as before or as after, wherever they end; completed or taken back by Python or by the shell."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.hooks.contained import inside
from megamod.hooks.transaction import (
    IMAGE_JOURNAL,
    SYSTEM_JOURNAL,
    SYSTEM_LOCK,
    Changes,
    NewFile,
    apply_changes,
    locked,
    recover,
)
from tests.hooks.debian_systems import need_root
from tests.hooks.killkit import How, each_step, ended_at

GUARD = Path(__file__).resolve().parents[2] / "initramfs/megamod/hooks/generators/guard"
_CHANGED = {
    "etc/new/deep/file": NewFile(data=b"new\n" * 1000, mode=0o755),
    "etc/kept": NewFile(data=b"another\n"),
    "lib/module.conf": NewFile(data=b"through a link\n"),
    "init": NewFile(link="usr/lib/init"),
}


def make_tree(root: Path) -> Path:
    for folder in ("etc", "usr/lib/modules", "var/lib", "empty"):
        (root / folder).mkdir(parents=True)
    (root / "lib").symlink_to("/usr/lib")
    (root / "etc/kept").write_text("old\n")
    (root / "etc/gone").write_text("gone\n")
    (root / "usr/lib/modules/a.ko").write_text("module\n")
    (root / "init").symlink_to("bin/sh")
    return root


def changes(root: Path) -> Changes:
    module = root / "lib/modules/a.ko"
    return Changes(write=_CHANGED, remove=[root / "etc/gone", module], folders=[module], prune=["empty"])


def everything(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): f"{path.lstat().st_mode:o} "
        + (str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else "")
        for path in sorted(root.rglob("*"))
    }


def settle_by_shell(root: Path, journal: str) -> None:
    done = subprocess.run(["sh", GUARD, "settle", root, journal], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("settle", [recover, settle_by_shell])
@pytest.mark.parametrize("journal", [IMAGE_JOURNAL, SYSTEM_JOURNAL])
@pytest.mark.parametrize("how", ["killed", "full"])
def test_wherever_it_ends_the_tree_is_as_before_or_as_after(
    how: How, journal: str, settle: Callable[[Path, str], object], tmp_path: Path
) -> None:
    before = everything(make_tree(tmp_path / "before"))
    whole = make_tree(tmp_path / "after")
    apply_changes(whole, changes(whole), journal=journal)
    after = everything(whole)
    assert before != after
    found = []
    root = tmp_path / "root"

    def prepare() -> Callable[[], object]:
        shutil.rmtree(root, ignore_errors=True)
        make_tree(root)
        return lambda: apply_changes(root, changes(root), journal=journal, durable=True)

    def check(step: int) -> None:
        settle(root, journal)
        now = everything(root)
        assert now in (before, after), step
        found.append(now == after)
        # What is settled stays so.
        settle(root, journal)
        assert everything(root) == now

    steps = each_step(how, prepare, check)
    assert steps == len(found) > 5
    if how == "killed":
        # First it is taken back, from one step on it is completed.
        assert found == sorted(found)
        assert set(found) == {False, True}


def test_completing_can_be_ended_at_each_step_too(tmp_path: Path) -> None:
    root, kept = tmp_path / "root", tmp_path / "kept"
    make_tree(kept)
    each_redo = 0
    # The state right after the rename that decides.
    for step in range(200):
        shutil.rmtree(root, ignore_errors=True)
        make_tree(root)
        ended_at(step, "killed", lambda: apply_changes(root, changes(root)))
        if (root / f"{IMAGE_JOURNAL}.redo").exists():
            break
    whole = make_tree(tmp_path / "after")
    apply_changes(whole, changes(whole))
    shutil.rmtree(kept)
    shutil.copytree(root, kept, symlinks=True)

    def prepare() -> Callable[[], object]:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(kept, root, symlinks=True)
        return lambda: recover(root, IMAGE_JOURNAL)

    def check(_step: int) -> None:
        nonlocal each_redo
        each_redo += 1
        recover(root, IMAGE_JOURNAL)
        assert everything(root) == everything(whole)

    each_step("killed", prepare, check)
    assert each_redo > 5


def test_a_journal_that_is_not_ours_is_refused_and_removes_nothing(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root")
    for line in ("remove\t../outside", "remove\t/etc/gone", "put\tetc/kept\tetc/gone", "format\tc", "remove\t"):
        (root / f"{IMAGE_JOURNAL}.redo").write_text(f"{line}\n")
        with pytest.raises(MegamodError, match=r"\.megamod-journal\.redo:1: is not a line of a journal"):
            recover(root, IMAGE_JOURNAL)
    assert (root / "etc/gone").exists()


def test_what_is_put_and_removed_stays_inside_the_root(tmp_path: Path) -> None:
    root, outside = make_tree(tmp_path / "root"), tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine\n")
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("../../../../.." + str(outside))
    apply_changes(root, Changes(write={"out/file": NewFile(data=b"x"), "up/file": NewFile(data=b"y")}))
    assert (outside / "file").read_text() == "mine\n"
    assert (root / str(outside)[1:] / "file").read_bytes() == b"y"
    apply_changes(root, Changes(remove=[root / "out/file"]))
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert not (root / str(outside)[1:] / "file").exists()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("abs/x", "usr/x"),
        ("rel/x", "usr/x"),
        ("up/x", "x"),
        ("../../x", "x"),
        ("chain/x", "usr/x"),
        ("/usr/./x", "usr/x"),
        ("missing/../x", "x"),
    ],
)
def test_paths_are_resolved_as_after_a_chroot(name: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    links = {"abs": "/usr", "rel": "usr", "up": "../../..", "chain": "/abs/../rel"}
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    assert inside(tmp_path, name) == tmp_path / wanted


def test_the_resolution_agrees_with_the_kernels_own_chroot(tmp_path: Path) -> None:
    need_root()
    make_tree(tmp_path)
    (tmp_path / "a").symlink_to("/lib/../lib/modules")
    (tmp_path / "b").symlink_to("../../../a")
    (tmp_path / "usr/c").symlink_to("lib")
    for name in ("a/a.ko", "b/a.ko", "usr/c/modules/a.ko", "lib/modules/../../c/modules/a.ko"):
        wanted = inside(tmp_path, name).stat().st_ino
        child = os.fork()
        if child == 0:
            os.chroot(tmp_path)
            os._exit(0 if os.stat(f"/{name}").st_ino == wanted else 1)  # noqa: PTH116
        assert os.waitpid(child, 0)[1] == 0


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(MegamodError, match="Too many levels of symbolic links"):
        inside(tmp_path, "a/x")


def test_a_folder_where_a_file_is_to_be_is_an_error_before_anything_is_changed(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root")
    before = everything(root)
    with pytest.raises(MegamodError, match=r"etc: Is a directory \(hint: nothing was changed\)"):
        apply_changes(root, Changes(write={"etc/kept": NewFile(data=b"x"), "etc": NewFile(data=b"x")}))
    assert everything(root) == before


def test_the_lock_is_nobody_elses_to_hold(tmp_path: Path) -> None:
    """The folder itself can be opened and locked by anybody who may read it."""
    make_tree(tmp_path)
    (tmp_path / "run").mkdir()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with locked(tmp_path):
            assert (tmp_path / SYSTEM_LOCK).stat().st_mode & 0o777 == 0o600
    finally:
        os.close(descriptor)
    assert not list(tmp_path.rglob("*lock*"))
    (tmp_path / SYSTEM_LOCK).symlink_to("../elsewhere")
    with pytest.raises(MegamodError, match=r"megamod\.lock: "), locked(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("place", ["", "run"])
def test_the_lock_keeps_a_second_command_waiting(place: str, tmp_path: Path) -> None:
    make_tree(tmp_path)
    (tmp_path / place).mkdir(exist_ok=True)
    inside_now, order = threading.Event(), []

    def second() -> None:
        inside_now.wait(timeout=60)
        with locked(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locked(tmp_path):
        inside_now.set()
        thread.join(timeout=0.3)
        assert thread.is_alive()
        order.append("first")
    thread.join(timeout=60)
    assert order == ["first", "second"]
    assert not list(tmp_path.rglob("*lock*"))
