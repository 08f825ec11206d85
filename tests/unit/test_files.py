"""`files` of a profile as entries of the image: files, folders, links, patterns, and each refusal."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from megamod.build.files import collect_files, program_notes
from megamod.common.errors import MegamodError
from megamod.image.cpio import Entry, read_cpio, write_cpio
from megamod.profile.model import Root
from megamod.profile.schema import load_profile

MINIMAL = "critical: {modules: [ext4]}\n"


def collect(folder: Path, files: str) -> dict[str, Entry]:
    (folder / "p.yaml").write_text(f"{MINIMAL}files: {files}")
    return {file.entry.path: file.entry for file in collect_files(load_profile(folder / "p.yaml").files).files}


def refused(folder: Path, files: str) -> str:
    with pytest.raises(MegamodError) as caught:
        collect(folder, files)
    return str(caught.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A program, a key, a folder with a link, a file in it, an empty folder; all modes as set here."""
    for name, mode, data in [
        ("camera", 0o775, "program"),
        ("key", 0o600, "secret"),
        ("tree/etc/camera.conf", 0o664, "fps=30"),
        ("tree/usr/bin/tool", 0o4755, "tool"),
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data)
        path.chmod(mode)
    (tmp_path / "tree/usr/bin/alias").symlink_to("tool")
    (tmp_path / "tree/empty").mkdir(mode=0o700)
    return tmp_path


def shown(entries: dict[str, Entry]) -> dict[str, str]:
    return {path: stat.filemode(entry.mode) for path, entry in entries.items()}


def test_a_file_goes_to_its_destination_with_its_mode_less_the_umask(source: Path) -> None:
    found = collect(source, "{camera: /usr/bin/camera, key: /etc/key}")
    assert shown(found) == {"usr/bin/camera": "-rwxr-xr-x", "etc/key": "-rw-------"}
    assert found["usr/bin/camera"].data == b"program"


def test_a_mode_of_the_profile_counts_before_that_of_the_file(source: Path) -> None:
    assert shown(collect(source, "{camera: {to: /bin/su, mode: 4755}}")) == {"bin/su": "-rwsr-xr-x"}


def test_a_destination_with_a_slash_at_its_end_keeps_the_name(source: Path) -> None:
    assert set(collect(source, "{camera: /usr/bin/, key: /}")) == {"usr/bin/camera", "key"}


def test_a_folder_is_taken_with_all_that_is_in_it_and_its_links_stay_links(source: Path) -> None:
    found = collect(source, "{tree: /opt/camera}")
    assert shown(found) == {
        "opt/camera": "drwxr-xr-x",
        "opt/camera/empty": "drwx------",
        "opt/camera/etc": "drwxr-xr-x",
        "opt/camera/etc/camera.conf": "-rw-r--r--",
        "opt/camera/usr": "drwxr-xr-x",
        "opt/camera/usr/bin": "drwxr-xr-x",
        "opt/camera/usr/bin/alias": "lrwxrwxrwx",
        "opt/camera/usr/bin/tool": "-rwxr-xr-x",
    }
    assert found["opt/camera/usr/bin/alias"].data == b"tool"


def test_a_source_with_a_slash_at_its_end_is_what_is_in_the_folder(source: Path) -> None:
    assert "etc/camera.conf" in collect(source, "{tree/: /}")
    assert "opt/etc/camera.conf" in collect(source, "{tree/: /opt/}")
    assert "opt/tree/etc/camera.conf" in collect(source, "{tree: /opt/}")


def test_mount_points_of_a_tree_are_the_images_own(source: Path) -> None:
    (source / "tree/proc").mkdir()
    assert "proc" not in collect(source, "{tree/: /}")
    (source / "tree/proc/x").write_text("")
    assert "proc/x" not in collect(source, "{tree/: /}")


def test_a_pattern_takes_what_it_matches_sorted_without_hidden_files(source: Path) -> None:
    for name in ("b.so", "a.so", ".c.so"):
        (source / name).write_text(name)
    (source / "link.so").symlink_to("a.so")
    found = collect(source, "{'*.so': /usr/lib/}")
    assert shown(found) == {
        "usr/lib/a.so": "-rw-r--r--",
        "usr/lib/b.so": "-rw-r--r--",
        "usr/lib/link.so": "lrwxrwxrwx",
    }


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(source: Path) -> None:
    (source / "a[1]").write_text("")
    assert set(collect(source, "{'a[1]': /x}")) == {"x"}


def test_a_source_that_is_a_link_is_followed(source: Path) -> None:
    (source / "current").symlink_to("camera")
    assert collect(source, "{current: /bin/camera}")["bin/camera"].data == b"program"


def test_an_absolute_source_is_taken_from_there(source: Path) -> None:
    assert collect(source, f"{{{source}/camera: /bin/camera}}")["bin/camera"].data == b"program"


def test_two_folders_may_meet_and_two_files_may_not(source: Path) -> None:
    (source / "more/etc").mkdir(parents=True)
    (source / "more/etc/other").write_text("")
    assert {"etc/camera.conf", "etc/other"} <= set(collect(source, "{tree/: /, more/: /}"))
    (source / "more/etc/camera.conf").write_text("")
    message = refused(source, "{tree/: /,\n more/: /}")
    assert message == "p.yaml:3:2: files: /etc/camera.conf is given twice (hint: first by the entry at p.yaml:2:9)"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("{cam: /bin/cam}", "p.yaml:2:9: files: cam: no such file (hint: sources are relative to FOLDER;"),
        ("{'*.so': /lib/}", "p.yaml:2:9: files: *.so: no such file"),
        ("{camera/: /bin/}", "p.yaml:2:9: files: camera: not a folder"),
        ("{tree: /}", None),
        ("{camera: /}", None),
        ("{camera: /root}", "p.yaml:2:9: files: camera: /root is a folder of the image"),
        ("{fifo: /x}", "p.yaml:2:9: files: fifo: is a pipe"),
        ("{dangling: /x}", "p.yaml:2:9: files: dangling: no such file"),
        ("{outside: /x}", "p.yaml:2:9: files: outside/up: the link to ../../etc/passwd leads out of the image"),
        ("{camera: /x, key: /x/key}", "p.yaml:2:21: files: /x/key lies below /x, which is not a folder in the image"),
        ("{tree2/: /}", "p.yaml:2:9: files: /init: /init is the loader itself"),
    ],
)
def test_what_cannot_go_into_the_image_is_refused_at_its_place(source: Path, files: str, message: str | None) -> None:
    os.mkfifo(source / "fifo")
    (source / "dangling").symlink_to("nowhere")
    for folder, link, target in (("outside", "up", "../../etc/passwd"), ("links", "l", "/etc")):
        (source / folder).mkdir()
        (source / folder / link).symlink_to(target)
    (source / "tree2").mkdir()
    (source / "tree2/init").write_text("")
    if message is None:
        collect(source, files)
    else:
        assert refused(source, files).startswith(message)


def test_what_is_put_below_a_link_goes_where_it_leads(source: Path) -> None:
    (source / "tree/lib").symlink_to("usr/lib")
    (source / "tree/usr/lib64").symlink_to("/lib")
    found = collect(source, "{tree/: /, key: /usr/lib64/keys/key, camera: /lib/keys/}")
    assert {"usr/lib/keys/key", "usr/lib/keys/camera"} <= set(found)
    assert stat.S_ISLNK(found["lib"].mode)
    assert refused(source, "{tree/: /, key: /usr/lib/key,\n camera: /lib/key}") == (
        "p.yaml:3:2: files: /usr/lib/key is there twice (hint: first by the entry at p.yaml:2:19)"
    )


def test_what_is_put_below_a_circle_of_links_is_refused(source: Path) -> None:
    (source / "tree/a").symlink_to("b")
    (source / "tree/b").symlink_to("a")
    assert refused(source, "{tree/: /, key: /a/key}") == (
        "p.yaml:2:19: files: /a/key lies below links that lead in a circle"
    )


def test_of_a_whole_system_what_no_image_needs_is_passed_over(source: Path) -> None:
    tree = source / "tree"
    (tree / "usr/bin/su").write_text("")
    (tree / "usr/bin/su").chmod(0o4755)
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    os.mkfifo(tree / "usr/pipe")
    (tree / "up").symlink_to("../../usr")
    (tree / "gone").symlink_to("nowhere")
    for name in ("dev", "run"):
        (tree / name).mkdir()
    (tree / "dev/null").write_text("")
    (source / "p.yaml").write_text(f"{MINIMAL}files: {{tree/: /}}")
    found = collect_files(load_profile(source / "p.yaml").files)
    names = {file.entry.path: stat.filemode(file.entry.mode) for file in found.files}
    assert names["usr/bin/su"] == "-rwsr-xr-x"
    assert names["tmp"] == "drwxrwxrwt"
    assert names["up"] == names["gone"] == "lrwxrwxrwx"
    assert not {"usr/pipe", "dev/null", "dev", "run"} & names.keys()
    assert found.notes == ("files: passed over, as no image has use for them: what lies in /dev, /usr/pipe (a pipe)",)


def test_an_optional_source_may_be_missing(source: Path) -> None:
    assert collect(source, "{'?cam': /bin/cam, '?*.so': /lib/}") == {}


def test_a_folder_that_cannot_be_read_is_a_located_error(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("megamod.build.files.os.scandir", denied)
    assert refused(source, "{tree: /opt}") == "p.yaml:2:9: files: tree: Permission denied"


def test_the_entries_make_an_archive_that_is_read_back(source: Path) -> None:
    found = collect(source, "{tree/: /, camera: /usr/bin/}")
    back = {entry.path: entry for entry in read_cpio(write_cpio(found.values(), mtime=0))}
    assert back == found


def test_the_roots_program_is_found_through_links_with_its_interpreter(source: Path) -> None:
    (source / "script").write_text("#!/bin/sh -e\n")
    (source / "tree/bin").symlink_to("usr/bin")
    (source / "p.yaml").write_text(f"{MINIMAL}files: {{tree/: /, script: /usr/bin/script}}")
    files = collect_files(load_profile(source / "p.yaml").files).files
    assert program_notes(Root(kind="exec", path="/bin/tool"), files) == []
    assert program_notes(Root(kind="exec", path="/bin/script"), files) == [
        "root: /bin/script is run by /bin/sh, which is not in `files`"
    ]
    assert program_notes(Root(kind="exec", path="/bin/camera"), files) == [
        "root: exec /bin/camera is not in `files`: another archive must bring it"
    ]
    assert program_notes(Root(kind="cmdline"), files) == []


def test_a_program_that_leaves_the_initramfs_is_told_to_be_chained(source: Path) -> None:
    (source / "own").write_text("#!/tool\nexec switch_root /new /sbin/init\n")
    (source / "p.yaml").write_text(f"{MINIMAL}files: {{tree/usr/bin/tool: /tool, own: /own}}")
    files = collect_files(load_profile(source / "p.yaml").files).files
    notes = program_notes(Root(kind="exec", path="/own"), files, deferred=True)
    assert len(notes) == 1
    assert "`root: {chain: /own}` keeps them open" in notes[0]
    assert program_notes(Root(kind="exec", path="/own"), files) == []
    assert program_notes(Root(kind="chain", path="/own"), files, deferred=True) == []
