"""What root reads and keeps: nothing that somebody else can change, and nobody else's files are touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megamod.common.cache import read_entry, write_entry
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from megamod.common.trust import first_untrusted, require_trusted, why_untrusted
from tests.hooks.debian_systems import need_root

KEY = "0123456789abcdef" * 2
USER = 1000


def test_the_home_that_sudo_keeps_is_not_roots_cache(tmp_path: Path) -> None:
    need_root()
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    kept = {"HOME": str(home), "SUDO_UID": str(USER)}
    assert cache_folder(kept) == Path("/var/cache/megamod")
    assert cache_folder({**kept, "XDG_CACHE_HOME": str(home / ".cache")}) == Path("/var/cache/megamod")
    (tmp_path / "link").symlink_to(home)
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path / "link")}) == Path("/var/cache/megamod")
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "megamod"


@pytest.mark.parametrize("place", ["base", "kind"])
def test_a_cache_of_somebody_else_is_neither_read_nor_written_nor_pruned(place: str, tmp_path: Path) -> None:
    need_root()
    write_entry("images", KEY, b"mine", base=tmp_path / "cache")
    assert read_entry("images", KEY, base=tmp_path / "cache") == b"mine"
    os.chown(tmp_path / "cache" / ("" if place == "base" else "images"), USER, USER)
    assert read_entry("images", KEY, base=tmp_path / "cache") is None
    write_entry("images", KEY[::-1], b"more", base=tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache/images").iterdir()] == [KEY]


def test_a_link_in_place_of_the_folder_removes_nothing_behind_it(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for number in range(40):
        (foreign / f"{number:032x}").write_text("somebody's")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/images").symlink_to(foreign)
    write_entry("images", KEY, b"x", base=tmp_path / "cache")
    assert len(list(foreign.iterdir())) == 40
    assert read_entry("images", f"{1:032x}", base=tmp_path / "cache") is None


def test_only_files_with_names_of_the_cache_are_ever_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cache/images"
    folder.mkdir(parents=True)
    others = {"letter.txt", "0" * 31, "A" * 32, ".new-x", f"{0:032x}.json"}
    for name in others:
        (folder / name).write_text("mine")
        os.utime(folder / name, (1, 1))
    left_over = folder / f".new-{0:016x}"
    left_over.touch()
    os.utime(left_over, (1, 1))
    for number in range(20):
        write_entry("images", f"{number:032x}", b"x", base=tmp_path / "cache")
    names = {path.name for path in folder.iterdir()}
    assert others <= names
    assert len(names - others) == 16
    assert not left_over.exists()


def test_an_entry_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    write_entry("images", KEY, b"x", base=tmp_path)
    (tmp_path / "images" / KEY).rename(tmp_path / "elsewhere")
    (tmp_path / "images" / KEY).symlink_to(tmp_path / "elsewhere")
    assert read_entry("images", KEY, base=tmp_path) is None


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda path: os.chown(path / "a", USER, USER), "/a belongs to user 1000"),
        (lambda path: (path / "a").chmod(0o777), "/a can be written by everybody"),
        (lambda path: (os.chown(path / "a", 0, USER), (path / "a").chmod(0o775)), "/a can be written by group 1000"),
        (lambda path: os.lchown(path / "a/link", USER, USER), "/a/link belongs to user 1000"),
        (lambda path: (path / "b/file").chmod(0o666), "/b/file can be written by everybody"),
        (lambda path: (path / "a").chmod(0o1777), None),
    ],
)
def test_each_step_of_a_path_must_be_roots(change: object, wanted: str | None, tmp_path: Path) -> None:
    need_root()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").touch()
    (tmp_path / "a/link").symlink_to("../b/file")
    assert first_untrusted([tmp_path / "a/link"]) is None
    change(tmp_path)  # type: ignore[operator]
    found = first_untrusted([tmp_path / "a/link"])
    assert found == (f"{tmp_path}{wanted}" if wanted else None)


def test_a_profile_that_others_can_change_is_refused_with_a_way_out(tmp_path: Path) -> None:
    need_root()
    profile = tmp_path / "own.yaml"
    profile.touch()
    require_trusted(profile, "a profile")
    os.chown(profile, USER, USER)
    assert why_untrusted(profile) == f"{profile} belongs to user 1000"
    wanted = r"own\.yaml: root does not read a profile that others can change: .* \(hint: give root a copy of its own"
    with pytest.raises(MegamodError, match=wanted):
        require_trusted(profile, "a profile")
