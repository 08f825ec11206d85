"""`megamod symbolize` on text in all the forms in which kernels and their tools print addresses."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megamod.build.link_map import LinkMap, parse_map
from megamod.cli import main as cli
from megamod.inspect.debug.places import Places
from tests.unit.module_factory import ALLOC, EXEC, FUNC, LOCAL, Back, Ko, link

BASE = 0xFFFFFFFFC0200000
Symbolize = Callable[..., tuple[str, str]]


def function(ko: Ko, name: str, value: int, size: int, section: str = ".text") -> None:
    ko.symbol(name, ko[section], value, size=size, kind=FUNC, bind=LOCAL)


def modules() -> list[Ko]:
    """disk: probe 16 bytes, remove 48. usb: probe 32, remove 48, then a function that never returns; both have show."""
    disk, usb = Ko("disk"), Ko("usb")
    for ko in (disk, usb):
        ko.text.data[:] = b"\x90" * 128
    function(disk, "disk_probe", 0, 16)
    function(disk, "probe", 16, 16)
    function(disk, "remove", 32, 48)
    function(disk, "show", 80, 48)
    function(usb, "usb_probe", 0, 16)
    function(usb, "probe", 16, 32)
    function(usb, "remove", 48, 48)
    function(usb, "abort", 96, 32)
    cold = usb.section(".text.unlikely", b"\x90" * 32, flags=ALLOC | EXEC)
    usb.symbol("usb_cold", cold, 0, size=32, kind=FUNC, bind=LOCAL)
    return [disk, usb]


@pytest.fixture(scope="module")
def made() -> Any:
    return link(*modules(), name="megamod_critical")


@pytest.fixture(scope="module")
def link_map(made: Any) -> LinkMap:
    return parse_map(json.dumps(made.map).encode(), source="m")


@pytest.fixture
def symbolize(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Symbolize:
    """Runs the command on a text; what it printed, and what it complained about."""
    monkeypatch.chdir(tmp_path)
    Path("out.map").write_text(json.dumps(made.map))

    def run(text: str, *words: str, status: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["megamod", "symbolize", "--map", "out.map", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogateescape"))))
        assert cli.main() == status
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def place_of(made: Any, member: int, offset: int) -> int:
    """Where a byte of a member's .text lies in the megamodule's."""
    (chunk,) = (c for c in made.map["chunks"] if c["member"] == member and c["section"] == ".text")
    return int(chunk["offset"]) + offset


# Forms: what the kernel prints → what is shown.
FORMS = [
    ("[    1.000000]  disk_probe+0x4/0x10 [megamod_critical]", "[    1.000000]  disk_probe+0x4/0x10 [disk]"),
    ("[    1.000000]  ? usb_probe+0x4/0x10 [megamod_critical]", "[    1.000000]  ? usb_probe+0x4/0x10 [usb]"),
    ("RIP: 0010:usb_probe+0x4/0x10 [megamod_critical]", "RIP: 0010:usb_probe+0x4/0x10 [usb]"),
    ("pc : usb_probe+0x4/0x10 [megamod_critical]", "pc : usb_probe+0x4/0x10 [usb]"),
    ("lr : disk_probe+0x10/0x10 [megamod_critical]", "lr : disk_probe+0x10/0x10 [disk]"),
    ("PC is at usb_probe+0x4/0x10 [megamod_critical]", "PC is at usb_probe+0x4/0x10 [usb]"),
    ("epc : usb_probe+0x4/0x10 [megamod_critical]", "epc : usb_probe+0x4/0x10 [usb]"),
    ("[<0>] usb_probe+0x4/0x10 [megamod_critical]", "[<0>] usb_probe+0x4/0x10 [usb]"),
    ("Workqueue: usb_hub_wq usb_probe [megamod_critical]", "Workqueue: usb_hub_wq usb_probe [usb]"),
    (
        "WARNING: CPU: 0 PID: 1 at drivers/a.c:1 disk_probe+0x4/0x10 [megamod_critical]",
        "WARNING: CPU: 0 PID: 1 at drivers/a.c:1 disk_probe+0x4/0x10 [disk]",
    ),
    # perf script
    (
        "\tffffffffc0200004 disk_probe+0x4 ([megamod_critical])",
        "\tffffffffc0200004 disk_probe+0x4 ([disk])",
    ),
    # ftrace with sym-offset, kprobe_events, a stack of an event
    ("disk_probe+0x0/0x10 [megamod_critical] <-usb_probe+0x8/0x10 [megamod_critical]",
     "disk_probe+0x0/0x10 [disk] <-usb_probe+0x8/0x10 [usb]"),
    ("p:kprobes/p megamod_critical:usb_probe+4", "p:kprobes/p usb:usb_probe+4"),
    (" => usb_probe+0x8/0x10 [megamod_critical]", " => usb_probe+0x8/0x10 [usb]"),
    # What is not an address of a megamodule stays.
    ("Modules linked in: ext4 megamod_critical(E) [last unloaded: x]", None),
    ("  vfs_read+0x1/0x2", None),
    ("  ext4_read+0x1/0x2 [ext4]", None),
    ("RAX: ffffffffc0200004 RBX: 0000000000000000", None),
    ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("printed", "shown"), FORMS, ids=lambda text: (text or "same")[:40])
def test_a_place_is_shown_with_its_member(symbolize: Symbolize, printed: str, shown: str | None) -> None:
    assert symbolize(f"{printed}\n") == (f"{printed if shown is None else shown}\n", "")


def test_functions_of_one_name_are_told_apart_by_their_size(symbolize: Symbolize) -> None:
    text = " probe+0x4/0x10 [megamod_critical]\n probe+0x4/0x20 [megamod_critical]\n"
    assert symbolize(text) == (" probe+0x4/0x10 [disk]\n probe+0x4/0x20 [usb]\n", "")


def test_functions_of_one_name_and_size_are_both_said(symbolize: Symbolize) -> None:
    out, err = symbolize(" remove+0x4/0x30 [megamod_critical]\n")
    assert out == " remove+0x4/0x30 [disk or usb]\n"
    assert err == ""


def test_an_address_beside_the_name_tells_functions_of_one_name_apart(made: Any, symbolize: Symbolize) -> None:
    address = BASE + place_of(made, 1, 48 + 4)
    text = f" [<{address:016x}>] remove+0x4/0x30 [megamod_critical]\n"
    assert symbolize(text, "--base", hex(BASE))[0] == f" [<{address:016x}>] remove+0x4/0x30 [usb]\n"


def test_the_return_address_of_a_call_that_never_returns_is_in_its_caller(symbolize: Symbolize) -> None:
    assert symbolize(" disk_probe+0x10/0x10 [megamod_critical]\n")[0] == " disk_probe+0x10/0x10 [disk]\n"


def test_a_far_offset_is_carried_to_the_function_that_is_there(made: Any, symbolize: Symbolize) -> None:
    # As a kernel prints it for which only the first function's symbol is there.
    distance = place_of(made, 1, 48 + 9) - place_of(made, 0, 0)
    out, err = symbolize(f" disk_probe+{distance:#x}/0x1000 [megamod_critical]\n")
    assert out == " remove+0x9/0x30 [usb]\n"
    assert "disk_probe/0x1000: no function of megamod_critical has this size: is the map of another build?" in err


def test_the_code_of_the_glue_is_the_megamodules_own(symbolize: Symbolize) -> None:
    out, _ = symbolize(" megamod_init+0x4 [megamod_critical]\n")
    assert out == " megamod_init+0x4 [megamod_critical]\n"


def test_a_name_that_is_in_no_member_is_left_and_complained_of_once(symbolize: Symbolize) -> None:
    text = " nothing+0x1/0x2 [megamod_critical]\n"
    out, err = symbolize(text * 2)
    assert out == text * 2
    assert err == "megamod: megamod_critical: no function nothing in it: is the map of another build?\n"


def test_a_build_id_in_the_trace_must_be_that_of_the_map(made: Any, symbolize: Symbolize) -> None:
    right = f" probe+0x4/0x10 [megamod_critical {made.map['build_id']}]\n"
    assert symbolize(right) == (" probe+0x4/0x10 [disk]\n", "")
    wrong = f" probe+0x4/0x10 [megamod_critical {'ab' * 20}]\n"
    out, err = symbolize(wrong)
    assert out == wrong
    assert err == (
        f"megamod: megamod_critical {'ab' * 20}: the map is of {made.map['build_id']}: nothing of it is rewritten\n"
    )


def test_a_distance_from_the_module_is_found_without_its_address(made: Any, symbolize: Symbolize) -> None:
    distance = place_of(made, 1, 20)
    assert symbolize(f"at megamod_critical+{distance:#x}\n")[0] == "at probe+0x4/0x20 [usb]\n"


RAW = [
    ("[<{0:016x}>]", "[<{0:016x}>] probe+0x4/0x20 [usb]"),
    ("RIP: 0010:0x{0:x}", "RIP: 0010:probe+0x4/0x20 [usb]"),
    ("[   10.0] ? 0x{0:x}", "[   10.0] ? probe+0x4/0x20 [usb]"),
    ("\t{0:x} [unknown] ([megamod_critical])", "\t{0:x} probe+0x4/0x20 ([usb])"),
    ("\t{0:x} probe+4", "\t{0:x} probe+0x4/0x20 [usb]"),
    ("\t{0:x} probe+0x4 ([kernel.kallsyms])", "\t{0:x} probe+0x4/0x20 ([usb])"),
    ("usb_hub <{0:x}>", "usb_hub <{0:x}> probe+0x4/0x20 [usb]"),
]


@pytest.mark.parametrize(("printed", "shown"), RAW)
def test_a_bare_address_is_found_by_the_load_address(made: Any, symbolize: Symbolize, printed: str, shown: str) -> None:
    address = BASE + place_of(made, 1, 20)
    text = printed.format(address) + "\n"
    assert symbolize(text) == (text, "")
    for base in (f"{BASE:#x}", f"{BASE:x}", f"megamod_critical={BASE:#x}"):
        assert symbolize(text, "--base", base) == (shown.format(address) + "\n", "")


def guest_folder(made: Any, root: Path) -> Path:
    """/sys/module with the megamodule's sections, at places that the kernel could have chosen."""
    home = root / "module/megamod_critical"
    (home / "sections").mkdir(parents=True)
    (home / "notes").mkdir()
    (home / "notes/.note.gnu.build-id").write_bytes(Back(made.data)[".note.gnu.build-id"])
    for number, output in enumerate(made.map["outputs"]):
        if output["size"]:
            (home / "sections" / output["name"]).write_text(f"{BASE + number * 0x100000:#018x}\n")
    return root / "module"


@pytest.mark.parametrize("part", [".", "megamod_critical", "megamod_critical/sections"])
def test_addresses_come_from_a_copy_of_sysfs_or_a_part_of_it(
    made: Any, symbolize: Symbolize, tmp_path: Path, part: str
) -> None:
    folder = guest_folder(made, tmp_path)
    text = int((folder / "megamod_critical/sections/.text").read_text(), 16)
    address = text + place_of(made, 1, 20)
    shown = symbolize(f"[<{address:x}>]\n", "--sections", str(folder / part))[0]
    assert shown == f"[<{address:x}>] probe+0x4/0x20 [usb]\n"


def test_addresses_come_from_text_as_grep_prints_it_or_proc_modules(
    made: Any, symbolize: Symbolize, tmp_path: Path
) -> None:
    address = BASE + place_of(made, 1, 20)
    texts = [
        f"/sys/module/megamod_critical/sections/.text:{BASE:#x}\n/sys/module/x/sections/.data:0x1\n",
        f"ext4 1 0 - Live 0xffffffffc0000000\nmegamod_critical 65536 3 x,y, Live {BASE:#x} (OE)\n",
    ]
    for text in texts:
        Path("addresses").write_text(text)
        shown = symbolize(f"[<{address:x}>]\n", "--sections", "addresses")[0]
        assert shown == f"[<{address:x}>] probe+0x4/0x20 [usb]\n"


def test_a_map_of_another_build_is_noticed_by_the_build_id_in_sysfs(
    made: Any, symbolize: Symbolize, tmp_path: Path
) -> None:
    folder = guest_folder(made, tmp_path)
    note = folder / "megamod_critical/notes/.note.gnu.build-id"
    note.write_bytes(note.read_bytes()[:16] + b"\xab" * 20)
    _, err = symbolize("", "--sections", str(folder), status=1)
    assert err.startswith(
        f"megamod: {note}: build id {'ab' * 20}, the map is of megamod_critical {made.map['build_id']}"
    )
    assert len(err.splitlines()) == 1


def test_overlapping_sections_are_those_of_another_build(made: Any, symbolize: Symbolize, tmp_path: Path) -> None:
    folder = guest_folder(made, tmp_path)
    (folder / "megamod_critical/sections/.data").write_text(f"{BASE + 8:#x}\n")
    _, err = symbolize("", "--sections", str(folder), status=1)
    assert re.search(r"megamod_critical: \.text with its 0x[0-9a-f]+ bytes reaches into \.data", err)


ERRORS = [
    (["--base", "x"], "--base x: must be [NAME=]ADDRESS (hint: --base megamod_critical=0xffffffffc0200000)"),
    (
        ["--base", "other=0x1000"],
        "--base other=0x1000: of which megamodule? (hint: --base NAME=ADDRESS; the map has megamod_critical)",
    ),
    (["--base", "0"], "megamod_critical: its address is hidden (0) (hint: read it as root: the kernel shows addresses"
                      " to nobody else (kptr_restrict, kernel/kallsyms.c))"),
    (["--map", "no"], "no: No such file or directory"),
    (["--debug-dir", "no"], "no: no such folder (hint: the debuginfo package of the kernel brings it)"),
    (["--modules", "no"], "no: no such folder (hint: the debuginfo package of the kernel brings it)"),
    (["--sections", "out.map"], "out.map: no address of megamod_critical (hint: give /sys/module/NAME/sections, or"
                                " what grep -r . prints of it, or /proc/modules)"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), ERRORS, ids=lambda part: str(part)[:30])
def test_what_is_wrong_is_said_in_one_line(symbolize: Symbolize, words: list[str], message: str) -> None:
    assert symbolize("", *words, status=1) == ("", f"megamod: {message}\n")


def test_the_map_is_found_beside_the_image(symbolize: Symbolize) -> None:
    Path("out.img").write_bytes(b"070701 an image")
    Path("out.img.map").write_bytes(Path("out.map").read_bytes())
    assert symbolize(" usb_probe+0x4/0x10 [megamod_critical]\n", "--map", "out.img")[0].endswith("[usb]\n")


def test_bytes_that_are_no_text_go_through_as_they_are(symbolize: Symbolize) -> None:
    symbolize("")
    text = b"\xff\x80 \x00\x1b[1m usb_probe+0x4/0x10 [megamod_critical]\r\n"
    command = [sys.executable, "-c", "from megamod.cli import main as cli; cli.main()", "symbolize", "--map", "out.map"]
    for locale in ("C", "C.UTF-8"):
        done = subprocess.run(
            command, input=text, capture_output=True, env={**os.environ, "LC_ALL": locale}, check=True
        )
        assert done.stdout == text.replace(b"megamod_critical", b"usb")


def test_every_byte_of_every_function_comes_back_from_a_printed_address(made: Any, link_map: LinkMap) -> None:
    # The kernel's own way: the nearest symbol of the file's symbol table, and the distance to the next one.
    back = Back(made.data)
    table = back.elf.get_section_by_name(".symtab")
    section = back.names.index(".text")
    symbols = sorted((s["st_value"], s.name) for s in table.iter_symbols() if s.name and s["st_shndx"] == section)
    ends = [value for value, _ in symbols[1:]] + [len(back[".text"])]
    places = Places(link_map.megamodules["megamod_critical"])
    for (value, name), end in zip(symbols, ends, strict=True):
        for offset in range(end - value):
            found, fits = places.by_symbol(name, offset, end - value)
            assert fits
            expected = places.at(".text", value + offset)
            assert expected is not None
            assert (expected.member, expected.offset) in [(place.member, place.offset) for place in found]
