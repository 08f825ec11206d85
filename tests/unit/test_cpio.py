"""The newc archive, held against GNU cpio."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megamod.common.errors import MegamodError
from megamod.image.cpio import Entry, archive_end, read_cpio, write_cpio

MTIME = 1_700_000_000

REGULAR = stat.S_IFREG | 0o644

MIXED = (
    Entry(path="init", mode=stat.S_IFREG | 0o755, data=b"#!/bin/sh\n"),
    Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
    Entry(path="dev/nvme0n1", mode=stat.S_IFBLK | 0o660, rdev=(259, 1 << 19)),
    Entry(path="lib", mode=stat.S_IFLNK | 0o777, data=b"usr/lib"),
    Entry(path="usr/lib/größe", mode=REGULAR, data="ß".encode()),
    Entry(path="run/fifo", mode=stat.S_IFIFO | 0o644),
    Entry(path="tmp", mode=stat.S_IFDIR | 0o1777),
    Entry(path="usr/bin/su", mode=stat.S_IFREG | 0o4755, data=b"x" * 4097),
)


def cpio(*arguments: str, data: bytes, folder: Path | None = None) -> bytes:
    tool = shutil.which("cpio")
    if tool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("GNU cpio is not installed")
        pytest.skip("GNU cpio is not installed")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    return subprocess.run(
        [tool, *arguments], input=data, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, timeout=1200
    ).stdout


def headers(data: bytes) -> list[dict[str, int | str]]:
    """All headers of one archive, read by the format's description alone."""
    names = ["ino", "mode", "uid", "gid", "nlink", "mtime", "filesize"]
    names += ["devmajor", "devminor", "rdevmajor", "rdevminor", "namesize", "check"]
    found: list[dict[str, int | str]] = []
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * index :][:8], 16) for index in range(13)]
        header: dict[str, int | str] = dict(zip(names, fields, strict=True))
        size, name_size = fields[6], fields[11]
        header["path"] = data[position + 110 : position + 110 + name_size - 1].decode()
        if header["path"] == "TRAILER!!!":
            return found
        found.append(header)
        position = (position + 110 + name_size + 3) // 4 * 4
        position = (position + size + 3) // 4 * 4


def test_gnu_cpio_lists_each_file_type_with_mode_owner_device_and_target() -> None:
    listing = cpio("-itv", "--quiet", "--numeric-uid-gid", data=write_cpio(MIXED, mtime=MTIME)).decode()
    lines = [re.sub(r" +", " ", line) for line in listing.splitlines()]
    assert lines == [
        "drwxr-xr-x 1 0 0 0 Nov 14 2023 dev",
        "crw------- 1 0 0 5, 1 Nov 14 2023 dev/console",
        "brw-rw---- 1 0 0 259, 524288 Nov 14 2023 dev/nvme0n1",
        "-rwxr-xr-x 1 0 0 10 Nov 14 2023 init",
        "lrwxrwxrwx 1 0 0 7 Nov 14 2023 lib -> usr/lib",
        "drwxr-xr-x 1 0 0 0 Nov 14 2023 run",
        "prw-r--r-- 1 0 0 0 Nov 14 2023 run/fifo",
        "drwxrwxrwt 1 0 0 0 Nov 14 2023 tmp",
        "drwxr-xr-x 1 0 0 0 Nov 14 2023 usr",
        "drwxr-xr-x 1 0 0 0 Nov 14 2023 usr/bin",
        "-rwsr-xr-x 1 0 0 4097 Nov 14 2023 usr/bin/su",
        "drwxr-xr-x 1 0 0 0 Nov 14 2023 usr/lib",
        "-rw-r--r-- 1 0 0 2 Nov 14 2023 usr/lib/größe",
    ]


def test_gnu_cpio_unpacks_what_was_written(tmp_path: Path) -> None:
    without_devices = [entry for entry in MIXED if entry.rdev is None]
    cpio("-id", "--quiet", "--no-preserve-owner", data=write_cpio(without_devices, mtime=MTIME), folder=tmp_path)
    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "usr/bin/su").read_bytes() == b"x" * 4097
    assert (tmp_path / "usr/lib/größe").read_text(encoding="utf-8") == "ß"
    assert (tmp_path / "lib").readlink() == Path("usr/lib")
    assert (tmp_path / "tmp").is_dir()


def test_equal_files_are_not_unpacked_as_hard_links(tmp_path: Path) -> None:
    entries = [Entry(path=name, mode=REGULAR, data=b"same") for name in ("a", "b", "c")]
    cpio("-id", "--quiet", data=write_cpio(entries, mtime=0), folder=tmp_path)
    assert {(tmp_path / name).stat().st_nlink for name in ("a", "b", "c")} == {1}
    assert len({(tmp_path / name).stat().st_ino for name in ("a", "b", "c")}) == 3


def test_headers_hold_nothing_of_the_machine_that_wrote_them() -> None:
    for header in headers(write_cpio(MIXED, mtime=MTIME)):
        assert (header["ino"], header["nlink"], header["uid"], header["gid"]) == (0, 1, 0, 0)
        assert (header["devmajor"], header["devminor"], header["mtime"]) == (0, 0, MTIME)


def test_missing_folders_are_added_before_what_is_in_them() -> None:
    paths = [header["path"] for header in headers(write_cpio([Entry(path="a/b/c", mode=REGULAR)], mtime=0))]
    assert paths == ["a", "a/b", "a/b/c"]


def test_a_folder_that_is_given_keeps_its_mode() -> None:
    entries = [Entry(path="root", mode=stat.S_IFDIR | 0o700), Entry(path="root/x", mode=REGULAR)]
    assert headers(write_cpio(entries, mtime=0))[0]["mode"] == stat.S_IFDIR | 0o700


def test_the_order_of_the_entries_does_not_change_the_bytes() -> None:
    assert write_cpio(reversed(MIXED), mtime=MTIME) == write_cpio(MIXED, mtime=MTIME)


def test_an_archive_of_nothing_is_its_trailer() -> None:
    assert cpio("-it", "--quiet", data=write_cpio([], mtime=0)) == b""
    assert read_cpio(write_cpio([], mtime=0)) == []


def test_paths_outside_ascii_are_written_under_the_c_locale() -> None:
    program = (
        "import stat, sys\n"
        "from megamod.image.cpio import Entry, read_cpio, write_cpio\n"
        "entries = [Entry(path='gr\\u00f6\\u00dfe/\\u4e2d', mode=stat.S_IFREG | 0o644, data=b'x'),\n"
        "           Entry(path='l\\u00efnk', mode=stat.S_IFLNK | 0o777, data='gr\\u00f6\\u00dfe'.encode())]\n"
        "data = write_cpio(entries, mtime=0)\n"
        "assert [entry for entry in read_cpio(data) if entry.data] == entries\n"
        "sys.stdout.buffer.write(data)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    environment["LC_ALL"] = "C"
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, timeout=1200)
    assert (result.returncode, result.stderr) == (0, b"")
    entries = [
        Entry(path="größe/中", mode=REGULAR, data=b"x"),
        Entry(path="lïnk", mode=stat.S_IFLNK | 0o777, data="größe".encode()),
    ]
    assert result.stdout == write_cpio(entries, mtime=0)


def test_a_path_that_is_not_utf8_comes_back_as_it_was() -> None:
    path = os.fsdecode(b"caf\xe9")
    data = write_cpio([Entry(path=path, mode=REGULAR)], mtime=0)
    assert b"caf\xe9\0" in data
    assert read_cpio(data)[0].path == path


@pytest.mark.parametrize("path", ["/init", "", "a/../b", "..", "a/./b", "a//b", "a/", "a\0b", "TRAILER!!!"])
def test_a_path_that_does_not_fit_an_image_is_refused(path: str) -> None:
    with pytest.raises(MegamodError, match="not a path inside an image"):
        write_cpio([Entry(path=path, mode=REGULAR)], mtime=0)


def test_a_path_longer_than_the_kernel_takes_is_refused() -> None:
    longest = "/".join(["n" * 255] * 15 + ["n" * 254])
    assert len(longest) == 4094
    assert write_cpio([Entry(path=longest + "n", mode=REGULAR)], mtime=0)
    with pytest.raises(MegamodError, match="more than 4095 bytes"):
        write_cpio([Entry(path=longest + "nn", mode=REGULAR)], mtime=0)


def test_the_same_path_twice_is_refused() -> None:
    with pytest.raises(MegamodError, match="init: is in the image twice"):
        write_cpio([Entry(path="init", mode=REGULAR), Entry(path="init", mode=REGULAR)], mtime=0)


@pytest.mark.parametrize(("mode", "data"), [(REGULAR, b""), (stat.S_IFLNK | 0o777, b"usr/lib")])
def test_a_path_below_something_else_than_a_folder_is_refused(mode: int, data: bytes) -> None:
    with pytest.raises(MegamodError, match="lib/x: lies below lib, which is not a folder"):
        write_cpio([Entry(path="lib/x", mode=REGULAR), Entry(path="lib", mode=mode, data=data)], mtime=0)


@pytest.mark.parametrize("target", [b"", b"a\0b", b"a" * 4096])
def test_a_link_without_a_usable_target_is_refused(target: bytes) -> None:
    with pytest.raises(MegamodError, match="l: the link has no usable target"):
        write_cpio([Entry(path="l", mode=stat.S_IFLNK | 0o777, data=target)], mtime=0)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(path="x", mode=0o644),
        Entry(path="x", mode=stat.S_IFCHR | 0o600),
        Entry(path="x", mode=REGULAR, rdev=(5, 1)),
        Entry(path="x", mode=stat.S_IFDIR | 0o755, data=b"x"),
    ],
)
def test_an_entry_that_contradicts_itself_is_a_bug(entry: Entry) -> None:
    with pytest.raises(AssertionError):
        write_cpio([entry], mtime=0)


def test_a_large_file_is_not_copied_more_than_it_must() -> None:
    size = 64 << 20
    content = bytes(size)
    tracemalloc.start()
    try:
        data = write_cpio([Entry(path="large", mode=REGULAR, data=content)], mtime=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < len(data) < size + 1024
    assert peak < 2.2 * size


NAMES = st.text(alphabet="abcxyzäß-_.0", min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=20), max_size=8))
def test_what_is_written_is_read_back(files: dict[str, bytes]) -> None:
    data = write_cpio([Entry(path=path, mode=REGULAR, data=content) for path, content in files.items()], mtime=0)
    assert {entry.path: entry.data for entry in read_cpio(data)} == files
    assert archive_end(data, 0, source="x") == len(data)
    assert len(data) % 4 == 0


def test_devices_links_and_folders_are_read_back() -> None:
    entries = read_cpio(write_cpio(MIXED, mtime=0))
    assert set(MIXED) <= set(entries)
    assert {entry.path for entry in entries} - {entry.path for entry in MIXED} == {
        "dev",
        "run",
        "usr",
        "usr/bin",
        "usr/lib",
    }


@pytest.mark.parametrize("form", ["newc", "crc"])
def test_archives_of_gnu_cpio_are_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "init").write_bytes(b"hello")
    (tmp_path / "link").symlink_to("init")
    data = cpio("-o", "--quiet", "-H", form, data=b"./init\n./link\n", folder=tmp_path)
    assert {(entry.path, entry.data) for entry in read_cpio(data)} == {("init", b"hello"), ("link", b"init")}


def test_archives_that_follow_each_other_are_all_read() -> None:
    first = write_cpio([Entry(path="early", mode=REGULAR, data=b"1")], mtime=0)
    second = write_cpio([Entry(path="late", mode=REGULAR, data=b"22")], mtime=0)
    data = first + bytes(512) + second + bytes(3)
    assert [entry.path for entry in read_cpio(data)] == ["early", "late"]


def test_an_archive_cut_anywhere_is_an_error() -> None:
    data = write_cpio([Entry(path="a", mode=REGULAR, data=b"12345"), Entry(path="b", mode=REGULAR)], mtime=0)
    # The last four bytes are the end of the trailer's name and padding, which some writers leave out.
    for length in range(1, len(data) - 4):
        with pytest.raises(MegamodError, match="x: the cpio archive is cut short"):
            read_cpio(data[:length], source="x")


@pytest.mark.parametrize("field", [b"-0000001", b" 0000001", b"0x000001", b"0000_001", b"zzzzzzzz"])
def test_a_field_that_is_not_hexadecimal_is_an_error(field: bytes) -> None:
    data = write_cpio([Entry(path="a", mode=REGULAR)], mtime=0)
    with pytest.raises(MegamodError, match="offset 0: damaged cpio header"):
        read_cpio(data[:54] + field + data[62:])


def test_a_mode_that_no_type_holds_is_an_error() -> None:
    data = bytearray(write_cpio([Entry(path="a", mode=REGULAR)], mtime=0))
    data[14:22] = b"a0008180"
    with pytest.raises(MegamodError, match="a number in it is out of range"):
        read_cpio(bytes(data))


@pytest.mark.heavy
@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_archive_is_read_or_refused_in_words(choice: st.DataObject) -> None:
    data = bytearray(write_cpio(MIXED, mtime=MTIME))
    for _ in range(choice.draw(st.integers(1, 4))):
        data[choice.draw(st.integers(0, len(data) - 1))] = choice.draw(st.integers(0, 255))
    try:
        read_cpio(bytes(data))
    except MegamodError as error:
        assert "\n" not in str(error)
