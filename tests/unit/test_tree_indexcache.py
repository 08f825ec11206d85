"""The cache of what depmod makes: one run for a tree that stays as it is, another one after any change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.modules.depmod import INDEXES
from megamod.modules.index_cache import indexes_of
from megamod.modules.tree import open_tree
from tests.unit.conftest import use_cache
from tests.unit.module_factory import Ko


class Depmod:
    """Counts its runs; each gives another text."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, folder: Path) -> dict[str, str]:
        self.runs += 1
        return {**dict.fromkeys(INDEXES, ""), "modules.dep": f"kernel/a.ko:\n# run {self.runs}\n"}


@pytest.fixture
def folder(tmp_path: Path, tool: Callable[..., str]) -> Path:
    """A tree with two modules and no index."""
    tool("depmod", package="kmod")
    path = tmp_path / "lib/modules/6.1.0-test"
    (path / "kernel").mkdir(parents=True)
    for name in ("a", "b"):
        (path / f"kernel/{name}.ko").write_bytes(bytes(Ko(name)))
    (path / "modules.order").write_text("kernel/a.ko\nkernel/b.ko\n")
    return path


def test_a_second_look_at_the_same_tree_runs_nothing(folder: Path) -> None:
    depmod = Depmod()
    first = indexes_of(folder, run=depmod)
    assert indexes_of(folder, run=depmod) == first
    assert depmod.runs == 1


def touch(folder: Path) -> None:
    os.utime(folder / "kernel/a.ko", ns=(1, 1))


def grow(folder: Path) -> None:
    path = folder / "kernel/a.ko"
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(folder: Path) -> None:
    """Another file of the same size and time takes the name."""
    path = folder / "kernel/a.ko"
    status = path.stat()
    (folder / "new").write_bytes(bytes(status.st_size))
    os.utime(folder / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "new").replace(path)


def add(folder: Path) -> None:
    (folder / "updates").mkdir()
    (folder / "updates/c.ko").write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / "kernel/b.ko").unlink()


def reorder(folder: Path) -> None:
    (folder / "modules.order").write_text("kernel/b.ko\n")


@pytest.mark.parametrize("change", [touch, grow, replace, add, remove, reorder])
def test_any_change_of_the_tree_makes_a_new_run(change: Callable[[Path], None], folder: Path) -> None:
    depmod = Depmod()
    indexes_of(folder, run=depmod)
    change(folder)
    assert indexes_of(folder, run=depmod)["modules.dep"].endswith("# run 2\n")


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"{}", b"0" * 64 + b"\n{}"])
def test_a_damaged_entry_is_made_again(damage: bytes, folder: Path, index_cache: Path) -> None:
    depmod = Depmod()
    indexes_of(folder, run=depmod)
    [entry] = index_cache.iterdir()
    whole = entry.read_bytes()
    for data in (damage, whole[:-1], whole.replace(b"run 1", b"run 7")):
        entry.write_bytes(data)
        before = depmod.runs
        indexes_of(folder, run=depmod)
        assert depmod.runs == before + 1
    assert entry.read_bytes() != whole
    assert indexes_of(folder, run=depmod)["modules.dep"].endswith(f"# run {depmod.runs}\n")


def test_a_cache_that_cannot_be_written_is_no_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    use_cache(monkeypatch, tmp_path / "file/cache")
    depmod = Depmod()
    for run in (1, 2):
        assert indexes_of(folder, run=depmod)["modules.dep"].endswith(f"# run {run}\n")


def test_a_run_that_fails_is_not_remembered(folder: Path, index_cache: Path) -> None:
    def fails(_folder: Path) -> dict[str, str]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        indexes_of(folder, run=fails)
    assert list(index_cache.iterdir()) == []


def test_two_at_once_leave_one_whole_entry(folder: Path, index_cache: Path) -> None:
    both_run = threading.Barrier(2)

    def slow(_folder: Path) -> dict[str, str]:
        both_run.wait(timeout=1200)
        return {**dict.fromkeys(INDEXES, ""), "modules.dep": "kernel/a.ko:\n" * 50_000}

    threads = [threading.Thread(target=indexes_of, args=(folder,), kwargs={"run": slow}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=1200)
    assert len(list(index_cache.iterdir())) == 1
    assert indexes_of(folder, run=Depmod())["modules.dep"].count("\n") == 50_000


def test_old_entries_are_thrown_away(folder: Path, index_cache: Path) -> None:
    for number in range(20):
        os.utime(folder / "kernel/a.ko", ns=(number, number))
        indexes_of(folder, run=Depmod())
    assert len(list(index_cache.iterdir())) == 16


def test_a_tree_without_indexes_is_the_same_from_the_cache(folder: Path, index_cache: Path) -> None:
    first = open_tree(str(folder))
    assert len(list(index_cache.iterdir())) == 1
    assert open_tree(str(folder)).modules == first.modules
    assert set(first.modules) == {"a", "b"}
