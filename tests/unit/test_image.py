"""Image files: whole or not there, the same bytes for the same input."""

from __future__ import annotations

import errno
import gzip
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from megamod.common.compression import decompress
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write, source_date_epoch
from megamod.image.archive import read_image, segments, write_image
from megamod.image.cpio import Entry, read_cpio, write_cpio

REGULAR = stat.S_IFREG | 0o644

ENTRIES = (
    Entry(path="init", mode=stat.S_IFREG | 0o755, data=b"#!/bin/sh\n" * 100),
    Entry(path="megamod/plan", mode=REGULAR, data=b"megamod-plan 1\n"),
)


def archive(name: str) -> bytes:
    return write_cpio([Entry(path=name, mode=REGULAR, data=name.encode())], mtime=0)


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failing(number: int) -> Callable[..., NoReturn]:
    def fail(*arguments: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("method", ["zstd", "none"])
def test_an_image_is_read_back(tmp_path: Path, method: str) -> None:
    path = tmp_path / "image"
    size = write_image(path, ENTRIES, method=method)
    assert size == path.stat().st_size
    assert set(ENTRIES) < set(read_image(path))


@pytest.mark.parametrize("method", ["zstd", "none"])
def test_two_images_of_the_same_entries_are_the_same(tmp_path: Path, method: str) -> None:
    write_image(tmp_path / "a", ENTRIES, method=method)
    write_image(tmp_path / "b", reversed(ENTRIES), method=method)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_files_carry_the_time_of_source_date_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    write_image(tmp_path / "image", ENTRIES, method="zstd")
    assert decompress((tmp_path / "image").read_bytes())[46:54] == b"6553f100"


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [({}, 0), ({"SOURCE_DATE_EPOCH": ""}, 0), ({"SOURCE_DATE_EPOCH": "4294967295"}, 4294967295)],
)
def test_a_time_that_is_not_given_is_zero(environment: dict[str, str], seconds: int) -> None:
    assert source_date_epoch(environment) == seconds


@pytest.mark.parametrize("text", ["-1", "now", "1.5", "4294967296", "१", "1" * 5000, "0x10"])
def test_a_source_date_epoch_that_is_no_time_is_an_error(text: str) -> None:
    with pytest.raises(MegamodError, match=r"SOURCE_DATE_EPOCH=.*: not a number of seconds"):
        source_date_epoch({"SOURCE_DATE_EPOCH": text})


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o644)])
def test_the_umask_decides_who_may_read_the_output(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "image", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "image").stat().st_mode) == mode


def test_an_existing_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"old" * 1000)
    with (tmp_path / "image").open("rb") as reader:
        atomic_write(tmp_path / "image", b"new")
        assert reader.read() == b"old" * 1000
    assert (tmp_path / "image").read_bytes() == b"new"
    assert only(tmp_path) == ["image"]


def test_a_link_is_kept_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "link").symlink_to("boot/image")
    for content in (b"first", b"second"):
        atomic_write(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "boot/image").read_bytes() == content
    assert only(tmp_path / "boot") == ["image"]


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    atomic_write(tmp_path / ("n" * 255), b"x")
    assert only(tmp_path) == ["n" * 255]


def test_a_folder_a_device_and_standard_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match=f"{tmp_path}: cannot be written: is a folder"):
        atomic_write(tmp_path, b"x")
    with pytest.raises(MegamodError, match="/dev/null: cannot be written: is not a regular file"):
        atomic_write(Path("/dev/null"), b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(MegamodError, match="standard output is not supported"):
        atomic_write(Path("-"), b"x")


def test_a_folder_that_does_not_exist_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match=r"no/image: cannot be written: No such file or directory \(hint: make its"):
        atomic_write(tmp_path / "no/image", b"x")


def test_a_path_below_a_file_and_a_loop_of_links_are_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MegamodError, match="file/image: cannot be written: Not a directory"):
        atomic_write(tmp_path / "file/image", b"x")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(MegamodError, match="loop: cannot be written: Too many levels of symbolic links"):
        atomic_write(tmp_path / "loop", b"x")
    assert only(tmp_path) == ["file", "loop"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "open", failing(number))
    with pytest.raises(MegamodError, match=f"image: cannot be written: {os.strerror(number)}"):
        atomic_write(tmp_path / "image", b"x")


@pytest.mark.parametrize("call", ["write", "fsync", "close"])
def test_a_full_disk_leaves_the_old_output_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "image").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.ENOSPC))
        with pytest.raises(MegamodError, match=r"image: cannot be written: No space left on device \(hint: free some"):
            atomic_write(tmp_path / "image", b"new")
    assert (tmp_path / "image").read_bytes() == b"old"
    assert only(tmp_path) == ["image"]


def test_a_write_that_the_kernel_breaks_off_leaves_the_old_output(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"old")
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from megamod.image.archive import atomic_write\nfrom megamod.common.errors import MegamodError\n"
        "try:\n    atomic_write(Path(sys.argv[1]), bytes(1 << 20))\n"
        "except MegamodError as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "image"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.stdout == f"{tmp_path}/image: cannot be written: File too large\n"
    assert (tmp_path / "image").read_bytes() == b"old"
    assert only(tmp_path) == ["image"]


def test_a_write_that_takes_only_a_part_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    atomic_write(tmp_path / "image", bytes(range(100)))
    monkeypatch.undo()
    assert (tmp_path / "image").read_bytes() == bytes(range(100))


def test_ctrl_c_leaves_the_old_output_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image").write_bytes(b"old")

    def interrupt(descriptor: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "image", b"new")
    assert (tmp_path / "image").read_bytes() == b"old"
    assert only(tmp_path) == ["image"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_program_and_leaves_the_old_output(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "image").write_bytes(b"old")
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from megamod.image.archive import atomic_write\n"
        "def stop(descriptor):\n    os.kill(os.getpid(), int(sys.argv[2]))\n"
        "os.fsync = stop\n"
        "atomic_write(Path(sys.argv[1]), b'new')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "image", str(int(number))], capture_output=True, timeout=1200
    )
    assert (result.returncode, result.stderr) == (-number, b"")
    assert (tmp_path / "image").read_bytes() == b"old"
    assert only(tmp_path) == ["image"]


def test_signal_handlers_are_as_they_were_afterwards(tmp_path: Path) -> None:
    def mine(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        atomic_write(tmp_path / "image", b"x")
        assert signal.getsignal(signal.SIGTERM) is mine
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        atomic_write(tmp_path / "image", b"x")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_may_write_too(tmp_path: Path) -> None:
    thread = threading.Thread(target=atomic_write, args=(tmp_path / "image", b"x"))
    thread.start()
    thread.join(timeout=1200)
    assert (tmp_path / "image").read_bytes() == b"x"


def test_parts_are_read_as_the_kernel_meets_them() -> None:
    early = archive("early")
    packed = gzip.compress(archive("late") + archive("later"), mtime=0)
    parts = list(segments(early + bytes(512) + packed + bytes(1) + packed, source="x"))
    assert [(part.method, part.packed, len(part.entries)) for part in parts] == [
        ("none", len(early), 1),
        ("gzip", len(packed), 2),
        ("gzip", len(packed), 2),
    ]
    assert [entry.path for part in parts for entry in part.entries] == ["early", "late", "later", "late", "later"]


@pytest.mark.parametrize(
    "command",
    [["gzip", "-n"], ["zstd", "-q"], ["xz", "--check=crc32"], ["lz4", "-q", "-l"]],
    ids=["gzip", "zstd", "xz", "lz4"],
)
def test_images_of_other_tools_are_read(tmp_path: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{command[0]} is not installed")
        pytest.skip(f"{command[0]} is not installed")
    packed = subprocess.run(command, input=archive("init"), stdout=subprocess.PIPE, check=True, timeout=1200).stdout
    (tmp_path / "image").write_bytes(archive("early") + bytes(4) + packed + bytes(3))
    assert [entry.path for entry in read_image(tmp_path / "image")] == ["early", "init"]


def test_an_early_archive_alone_and_its_padding_are_read(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(4) + archive("early") + bytes(1 << 20))
    assert read_image(tmp_path / "image") == read_cpio(archive("early"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive("a") + b"junk", "offset 240: neither a cpio archive nor compressed data"),
        (bytes(2) + archive("a"), "offset 2: neither a cpio archive nor compressed data"),
        (gzip.compress(b"not an archive", mtime=0), "offset 0: not a newc cpio header"),
        (gzip.compress(archive("a"), mtime=0)[:-9], "gzip data is cut short"),
        (archive("a")[:-30], "the cpio archive is cut short"),
    ],
)
def test_junk_in_an_image_is_an_error_with_its_place(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(MegamodError, match=f"^{tmp_path}/image: ({message})"):
        read_image(tmp_path / "image")


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match="image: No such file or directory"):
        read_image(tmp_path / "image")
