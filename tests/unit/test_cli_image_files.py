"""`megamod ls`, `cat` and `unpack`, against GNU cpio and on images that want to write elsewhere."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.cli import main as cli
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from tests.unit.test_cpio import cpio

REGULAR, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777

HOSTILE = "(hint: the image is damaged or hostile)"

Run = Callable[..., tuple[int, bytes, str]]

PACKERS = {
    "none": ["cat"],
    "gzip": ["gzip", "-c"],
    "xz": ["xz", "--check=crc32", "-c"],
    "zstd": ["zstd", "-qc"],
    "lz4": ["lz4", "-lc"],
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "argv", ["megamod", *map(str, words)])
        status = cli.main()
        captured = capfdbinary.readouterr()
        return status, captured.out, captured.err.decode()

    return call


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with what an image may hold, and files of several names as dracut makes them."""
    root = tmp_path / "tree"
    for folder in ("etc", "usr/bin", "usr/lib", "run"):
        (root / folder).mkdir(parents=True)
    (root / "init").write_bytes(b"#!/bin/sh\n")
    (root / "init").chmod(0o755)
    (root / "etc/empty").touch()
    (root / "etc/größe").write_bytes(bytes(range(256)) * 40)
    (root / "usr/bin/su").write_bytes(b"\0" * 4097)
    (root / "usr/bin/su").chmod(0o4755)
    (root / "usr/lib/a").write_bytes(b"the same file\n")
    os.link(root / "usr/lib/a", root / "usr/lib/b")
    os.link(root / "usr/lib/a", root / "etc/z")
    (root / "bin").symlink_to("usr/bin")
    (root / "etc/link").symlink_to("/usr/lib/a")
    (root / "etc/nowhere").symlink_to("gone")
    os.mkfifo(root / "run/fifo", 0o600)
    (root / "run").chmod(0o555)
    return root


@pytest.fixture(params=PACKERS)
def image(request: pytest.FixtureRequest, tree: Path, tmp_path: Path, tool: Callable[..., str]) -> Path:
    """The tree as an image that GNU cpio and the packer itself have made."""
    names = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))) + "\n"
    program, *words = PACKERS[request.param]
    packer = [tool(program, package=program), *words]
    archive = cpio("-o", "-H", "newc", "--quiet", data=names.encode(), folder=tree)
    path = tmp_path / f"{request.param}.img"
    path.write_bytes(subprocess.run(packer, input=archive, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    (tmp_path / "plain.cpio").write_bytes(archive)
    return path


def listed(root: Path) -> dict[str, tuple[int, bytes | str]]:
    """Path → mode and content or target of all below *root*."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        content: bytes | str = (
            str(path.readlink()) if stat.S_ISLNK(mode) else path.read_bytes() if path.is_file() else b""
        )
        found[str(path.relative_to(root))] = (mode, content)
    return found


def newc(*entries: tuple[str, int, bytes]) -> bytes:
    """A newc archive of (name, mode, data) by the format's description: names that no writer of ours lets through."""
    out = b""
    for name, mode, data in (*entries, ("TRAILER!!!", 0, b"")):
        fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return out


def test_ls_prints_the_names_that_cpio_prints(run: Run, image: Path, tmp_path: Path) -> None:
    status, out, err = run("ls", image)
    assert (status, err) == (0, "")
    names = cpio("-t", "--quiet", data=(tmp_path / "plain.cpio").read_bytes())
    assert sorted(out.splitlines()) == sorted(names.splitlines())


def test_cat_prints_the_bytes_that_cpio_extracts(run: Run, image: Path, tree: Path) -> None:
    for name in ("etc/größe", "/usr/bin/su", "etc/empty", "usr/lib/a", "usr/lib/b", "etc/z"):
        assert run("cat", image, name) == (0, (tree / name.lstrip("/")).read_bytes(), "")
    assert run("cat", image, "init", "etc/link") == (0, b"#!/bin/sh\nthe same file\n", "")


def test_unpack_makes_what_cpio_makes(run: Run, image: Path, tmp_path: Path) -> None:
    other = tmp_path / "by-cpio"
    other.mkdir()
    cpio("-id", "--quiet", data=(tmp_path / "plain.cpio").read_bytes(), folder=other)
    status, out, err = run("unpack", image, "new")
    assert (status, err) == (0, "")
    assert out.decode() == f"new: {len(listed(other))} files\n"
    assert listed(tmp_path / "new") == listed(other)


def test_ls_long_has_mode_size_and_target(run: Run, tmp_path: Path) -> None:
    entries = [
        Entry(path="a", mode=REGULAR, data=b"x" * 812),
        Entry(path="console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
        Entry(path="link", mode=LINK, data=b"a"),
    ]
    write_image(tmp_path / "i", entries, method="zstd")
    assert run("ls", "-l", "i")[1].decode().splitlines() == [
        "-rw-r--r--     812 B  /a",
        "crw-------      5, 1  /console",
        "lrwxrwxrwx            /link -> a",
    ]


def test_ls_of_a_path_lists_it_and_what_is_below(run: Run, tmp_path: Path) -> None:
    write_image(tmp_path / "i", [Entry(path=name, mode=REGULAR) for name in ("a/b", "a/c/d", "ab")], method="none")
    assert run("ls", "i", "/a/")[1] == b"a\na/b\na/c\na/c/d\n"
    assert run("ls", "i", "ab", "a/c")[1] == b"a/c\na/c/d\nab\n"
    assert run("ls", "i", "a/x") == (
        1,
        b"",
        "megamod: i: no /a/x in the image (hint: did you mean a/c or a/b?)\n",
    )
    assert run("ls", "i", "zzz") == (
        1,
        b"",
        "megamod: i: no /zzz in the image (hint: without PATH all files are listed)\n",
    )


def test_names_go_to_a_terminal_without_control_characters(run: Run, tmp_path: Path) -> None:
    write_image(
        tmp_path / "i", [Entry(path="a\x1b[2J\nb", mode=REGULAR), Entry(path="m\udcfc", mode=REGULAR)], method="none"
    )
    assert run("ls", "i") == (0, b"a\\x1b[2J\\nb\nm\xfc\n", "")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone", "i: no /gone in the image (hint: megamod ls lists what there is)"),
        ("etc", "i: /etc is a folder (hint: megamod ls lists what there is)"),
        ("etc/nowhere", "i: etc/nowhere: is a link to /gone, which is not a file of the image"),
    ],
)
def test_what_cat_cannot_print_is_an_error(run: Run, tmp_path: Path, path: str, message: str) -> None:
    entries = [Entry(path="etc/nowhere", mode=LINK, data=b"/gone"), Entry(path="init", mode=REGULAR, data=b"x")]
    write_image(tmp_path / "i", entries, method="none")
    assert run("cat", "i", "init", path) == (1, b"", f"megamod: {message}\n")


def test_a_later_archive_replaces_files_of_an_earlier_one(run: Run, tmp_path: Path) -> None:
    first = newc(("a", REGULAR, b"old and longer"), ("b", LINK, b"a"), ("c", REGULAR, b"x"))
    second = newc(("a", REGULAR, b""), ("b", REGULAR, b"file"), ("c", LINK, b"b"))
    (tmp_path / "i").write_bytes(first + second)
    assert run("unpack", "-q", "i", "new") == (0, b"", "")
    assert {name: content for name, (_, content) in listed(tmp_path / "new").items()} == {
        "a": b"", "b": b"file", "c": "b",
    }  # fmt: skip


def test_a_file_of_one_name_twice_keeps_its_last_content(run: Run, tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(newc(("a", REGULAR, b"old"), ("a", REGULAR, b"")))
    assert run("cat", "i", "a") == (0, b"", "")


def test_links_are_followed_inside_the_folder_alone(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = newc(
        ("abs", LINK, str(outside).encode()),
        ("up", LINK, b"../../../.."),
        ("here", LINK, b"usr"),
        ("abs/one", REGULAR, b"1"),
        ("up/two", REGULAR, b"2"),
        ("here/three", REGULAR, b"3"),
    )
    (tmp_path / "i").write_bytes(archive)
    assert run("unpack", "-q", "i", "new") == (0, b"", "")
    assert list(outside.iterdir()) == []
    new = tmp_path / "new"
    assert (new / str(outside).lstrip("/") / "one").read_bytes() == b"1"
    assert (new / "two").read_bytes() == b"2"
    assert (new / "usr/three").read_bytes() == b"3"


def test_a_file_is_not_written_through_a_link_of_its_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "i").write_bytes(newc(("a", LINK, b"../victim"), ("a", REGULAR, b"evil")))
    assert run("unpack", "-q", "i", "new") == (0, b"", "")
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert (tmp_path / "new/a").read_bytes() == b"evil"


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (newc(("../evil", REGULAR, b"x")), f"../evil: is not a path inside an image {HOSTILE}"),
        (newc(("a/../../evil", REGULAR, b"x")), f"a/../../evil: is not a path inside an image {HOSTILE}"),
        (newc(("l", LINK, b"l"), ("l/evil", REGULAR, b"x")), f"l/evil: too many links on the way {HOSTILE}"),
        (newc(("f", REGULAR, b""), ("f/evil", REGULAR, b"x")), "f/evil: lies below /f, which is not a folder"),
        (newc(("d/x", REGULAR, b""), ("d", REGULAR, b"x")), "d: is a file where the image has files below"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_placed_is_an_error(run: Run, tmp_path: Path, archive: bytes, message: str) -> None:
    (tmp_path / "i").write_bytes(archive)
    assert run("unpack", "i", "new") == (1, b"", f"megamod: {message}\n")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"x"), "new: is not a folder (hint: name a new or an empty one)"),
        (lambda path: (path / "a").mkdir(parents=True), "new: is not empty (hint: name a new or an empty folder)"),
    ],
)
def test_unpack_refuses_what_is_there(run: Run, tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    write_image(tmp_path / "i", [Entry(path="b", mode=REGULAR)], method="none")
    make(tmp_path / "new")
    before = listed(tmp_path)
    assert run("unpack", "i", "new") == (1, b"", f"megamod: {message}\n")
    assert listed(tmp_path) == before


def test_unpack_takes_an_empty_folder_and_needs_the_one_above(run: Run, tmp_path: Path) -> None:
    write_image(tmp_path / "i", [Entry(path="b", mode=REGULAR)], method="none")
    (tmp_path / "new").mkdir()
    assert run("unpack", "-q", "i", "new") == (0, b"", "")
    assert run("unpack", "i", "no/new") == (1, b"", "megamod: no/new: No such file or directory\n")


def test_a_damaged_image_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    write_image(tmp_path / "i", [Entry(path="b", mode=REGULAR, data=b"x" * 9000)], method="zstd")
    (tmp_path / "i").write_bytes((tmp_path / "i").read_bytes()[:-9])
    status, out, err = run("unpack", "i", "new")
    assert (status, out, len(err.splitlines())) == (1, b"", 1)
    assert not (tmp_path / "new").exists()


def test_device_nodes_are_noted_where_they_cannot_be_made(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_words: object) -> None:
        raise PermissionError

    monkeypatch.setattr("megamod.inspect.unpack.os.mknod", denied)
    nodes = [Entry(path=f"dev/{n}", mode=stat.S_IFCHR | 0o600, rdev=(1, n)) for n in range(6)]
    write_image(tmp_path / "i", [*nodes, Entry(path="init", mode=REGULAR)], method="none")
    status, out, err = run("unpack", "i", "new")
    assert (status, out) == (0, b"new: 2 files\n")
    assert err == (
        "megamod: note: 6 device nodes left out, only root can make them: /dev/0, /dev/1, /dev/2, /dev/3, /dev/4, …\n"
    )


def test_device_nodes_have_type_number_and_mode(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(path: Path, mode: int, device: int) -> None:
        made.append((path.name, mode, device))
        path.touch()

    monkeypatch.setattr("megamod.inspect.unpack.os.mknod", make)
    write_image(tmp_path / "i", [Entry(path="null", mode=stat.S_IFCHR | 0o666, rdev=(1, 3))], method="none")
    assert run("unpack", "-q", "i", "new") == (0, b"", "")
    assert made == [("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))]
    assert stat.S_IMODE((tmp_path / "new/null").stat().st_mode) == 0o666
