"""`megamod debug` with the scripts for gdb and drgn on small modules: every section at its own place, clear errors."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megamod.build.link_map import MapMember
from megamod.cli import main as cli
from megamod.inspect.debug.debug_files import DebugFiles, debuginfod_cache
from megamod.prelink.link import prelink_files
from megamod.prelink.options import PrelinkOptions
from tests.unit.module_factory import VERMAGIC

BASE = 0xFFFFFFFFC0200000
Debug = Callable[..., tuple[int, str, str]]

# A module as kbuild would make it, with a build id and debug information, by the compiler alone.
SOURCE = """\
struct module {{
	char head[24], name[56], rest[232];
	int (*init)(void);
	char more[528];
	void (*exit)(void);
	char end[40];
}};
#define INFO(n, text) static const char info##n[] __attribute__((section(".modinfo"), used, aligned(1))) = text
INFO(0, "license=GPL"); INFO(1, "name={name}"); INFO(2, "vermagic={vermagic}"); INFO(3, "intree=Y");
int {name}_table[4] = {{1, 2, 3, 4}};
int {name}_zero[8];
__attribute__((noinline)) int probe(int a) {{ return {name}_table[a & 3] + {name}_zero[a & 7]; }}
__attribute__((section(".init.text"))) int init_module(void) {{ return probe({number}); }}
struct module __this_module __attribute__((section(".gnu.linkonce.this_module"))) = {{
	.name = "{name}",
	.init = init_module,
}};
"""


@pytest.fixture
def modules(tmp_path: Path, tool: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like /usr/lib/debug with two modules, and out.map and sections of the megamodule of both."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "debug files/lib/modules/6.1.0-test/kernel"
    folder.mkdir(parents=True)
    for number, name in enumerate(("disk", "usb")):
        source = SOURCE.format(name=name, number=number, vermagic=VERMAGIC)
        (tmp_path / f"{name}.c").write_text(source)
        options = "-g -O1 -mcmodel=kernel -fno-pic -ffreestanding -fcf-protection=none -fno-asynchronous-unwind-tables"
        compiler = tool("gcc", package="gcc")
        subprocess.run([compiler, *options.split(), "-c", f"{name}.c", "-o", f"{name}.o"], check=True)
        linker = tool("ld", package="binutils")
        subprocess.run([linker, "-r", "--build-id", f"{name}.o", "-o", folder / f"{name}.ko"], check=True)
    made = prelink_files([folder / "disk.ko", folder / "usb.ko"], PrelinkOptions(name="megamod_test"))
    Path("out.map").write_text(json.dumps(made.map))
    Path("sections").write_text(
        "".join(
            f"/sys/module/megamod_test/sections/{output['name']}:{BASE + number * 0x10000:#x}\n"
            for number, output in enumerate(made.map["outputs"])
            if output["size"]
        )
    )
    return tmp_path / "debug files"


@pytest.fixture
def debug(modules: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Debug:
    """Runs `megamod debug …`; status, output, errors."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["megamod", "debug", *map(str, words)])
        status = cli.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def added(script: str) -> dict[str, dict[str, int]]:
    """Per member: section → address, out of a script for gdb."""
    found: dict[str, dict[str, int]] = {}
    for line in script.splitlines():
        words = shlex.split(line)
        if words[:1] == ["add-symbol-file"]:
            pairs = {name: int(address, 16) for name, address in zip(words[4::3], words[5::3], strict=True)}
            found[Path(words[1]).stem] = {".text": int(words[2], 16), **pairs}
    return found


def test_each_section_of_each_member_has_its_address(debug: Debug, modules: Path) -> None:
    status, out, err = debug("gdb", "out.map", "--sections", "sections", "--debug-dir", modules)
    assert (status, err) == (0, "")
    whole = json.loads(Path("out.map").read_text())
    bases = {output["name"]: BASE + number * 0x10000 for number, output in enumerate(whole["outputs"])}
    for number, name in enumerate(("disk", "usb")):
        for section in (".text", ".data", ".bss"):
            (chunk,) = (c for c in whole["chunks"] if c["member"] == number and c["section"] == section)
            assert added(out)[name][section] == bases[chunk["output"]] + chunk["offset"]
    assert "init.text" not in out


def test_gdb_takes_the_script_and_finds_each_members_function(
    debug: Debug, modules: Path, tool: Callable[..., str]
) -> None:
    _, out, _ = debug("gdb", "out.map", "--sections", "sections", "--debug-dir", modules, "-o", "members.gdb")
    assert out == ""
    gdb = tool("gdb", package="gdb")
    command = [gdb, "-nx", "-batch", "-ex", "source members.gdb"]
    command += [
        word for name in ("disk", "usb") for word in ("-ex", f"print &{name}_table", "-ex", f"print &{name}_zero")
    ]
    command += ["-ex", "info line disk.c:probe", "-ex", "info line usb.c:probe"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    places = added(Path("members.gdb").read_text())
    for name in ("disk", "usb"):
        path = modules / f"lib/modules/6.1.0-test/kernel/{name}.ko"
        listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
        value = {line.split()[2]: int(line.split()[0], 16) for line in listed.splitlines() if len(line.split()) == 3}
        for variable, section in ((f"{name}_table", ".data"), (f"{name}_zero", ".bss")):
            assert f"{places[name][section] + value[variable]:#x} <{variable}>" in shown
        assert f'of "{name}.c" starts at address {places[name][".text"] + value["probe"]:#x} <probe>' in shown


def test_init_sections_are_there_if_asked_for(debug: Debug, modules: Path) -> None:
    _, out, _ = debug("gdb", "out.map", "--sections", "sections", "--debug-dir", modules, "--init")
    assert ".init.text" in added(out)["disk"]


def test_one_member_can_be_taken_alone(debug: Debug, modules: Path) -> None:
    words = ["--sections", "sections", "--debug-dir", modules, "--member", "usb"]
    assert list(added(debug("gdb", "out.map", *words)[1])) == ["usb"]
    status, out, err = debug("gdb", "out.map", *words, "--member", "ext4")
    assert (status, out, err) == (1, "", "megamod: out.map: there is no member ext4\n")


def test_a_script_for_crash_hands_the_same_to_the_gdb_inside(debug: Debug, modules: Path) -> None:
    words = ["out.map", "--sections", "sections", "--debug-dir", modules]
    gdb, crash = (debug(name, *words)[1] for name in ("gdb", "crash"))
    assert re.findall("^gdb (.*)$", crash, re.MULTILINE) == re.findall("^add-symbol-file.*$", gdb, re.MULTILINE)


def test_a_script_for_drgn_is_python_with_places_sizes_and_build_ids(debug: Debug, modules: Path) -> None:
    out = debug("drgn", "out.map", "--sections", "sections", "--debug-dir", modules)[1]
    names: dict[str, Any] = {"__builtins__": __builtins__}
    monkey = type(sys)("drgn")
    before = sys.modules.get("drgn")
    sys.modules["drgn"] = monkey
    try:
        exec(out, names)
    finally:
        sys.modules.pop("drgn")
        if before is not None:
            sys.modules["drgn"] = before
    whole = json.loads(Path("out.map").read_text())
    assert [(row[0], row[1]) for row in names["_MEMBERS"]] == [(m["name"], m["build_id"]) for m in whole["members"]]
    rows = [place for row in names["_MEMBERS"] for place in row[4].values()]
    assert all(output is None and address >= BASE and size > 0 for output, address, size in rows)


def test_members_without_a_debug_file_are_said(debug: Debug, modules: Path) -> None:
    (modules / "lib/modules/6.1.0-test/kernel/usb.ko").unlink()
    status, out, err = debug("gdb", "out.map", "--sections", "sections", "--debug-dir", modules)
    assert (status, err) == (0, "megamod: no debug file of usb: left out\n")
    assert list(added(out)) == ["disk"]


def test_without_any_debug_file_there_is_no_script(debug: Debug, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert debug("gdb", "out.map", "--sections", "sections", "--debug-dir", "empty") == (
        1,
        "",
        "megamod: out.map: no debug file of disk, usb (hint: the debuginfo package of the kernel brings them;"
        " --debug-dir says where they are)\n",
    )


def test_the_map_of_another_kernel_needs_addresses(debug: Debug, modules: Path) -> None:
    megamodule = json.loads(Path("out.map").read_text())
    whole = {"version": 1, "kernel": "1.2.3", "profile": "p", "megamodules": {"megamod_test": megamodule}}
    Path("whole.map").write_text(json.dumps(whole))
    status, _, err = debug("gdb", "whole.map", "--debug-dir", modules)
    assert platform.release() != "1.2.3"
    assert (status, err) == (
        1,
        "megamod: whole.map: of kernel 1.2.3, which does not run here (hint: --sections: a copy of /sys/module, or text"
        " of `grep -r . /sys/module/NAME/sections`)\n",
    )


def member(modules: Path, name: str = "usb") -> MapMember:
    rows = json.loads((modules.parent / "out.map").read_text())["members"]
    (row,) = (row for row in rows if row["name"] == name)
    return MapMember(name=name, file=row["file"], build_id=row["build_id"])


def test_a_debug_file_is_found_by_its_build_id(modules: Path, tmp_path: Path) -> None:
    wanted = member(modules)
    place = tmp_path / "other/.build-id" / wanted.build_id[:2] / f"{wanted.build_id[2:]}.debug"
    place.parent.mkdir(parents=True)
    (modules / "lib/modules/6.1.0-test/kernel/usb.ko").rename(place)
    assert DebugFiles(folders=[tmp_path / "other"]).path(wanted) == place


def test_a_debug_file_is_found_in_debuginfods_cache(modules: Path, tmp_path: Path) -> None:
    wanted = member(modules)
    place = tmp_path / "cache" / wanted.build_id / "debuginfo"
    place.parent.mkdir(parents=True)
    (modules / "lib/modules/6.1.0-test/kernel/usb.ko").rename(place)
    assert DebugFiles(folders=[tmp_path], cache=tmp_path / "cache").path(wanted) == place
    assert debuginfod_cache({"DEBUGINFOD_CACHE_PATH": "/c"}) == Path("/c")
    assert debuginfod_cache({"XDG_CACHE_HOME": "/x"}) == Path("/x/debuginfod_client")


def test_a_file_of_another_build_or_without_debug_data_does_not_count(modules: Path, tmp_path: Path) -> None:
    wanted = member(modules)
    path = modules / "lib/modules/6.1.0-test/kernel/usb.ko"
    assert DebugFiles(folders=[modules]).path(wanted) == path
    other = MapMember(name="usb", file="usb.ko", build_id="ab" * 20)
    assert DebugFiles(folders=[modules]).path(other) is None
    subprocess.run(["objcopy", "--strip-debug", path], check=True)
    assert DebugFiles(folders=[modules]).path(wanted) is None
    path.write_bytes(b"\x7fELF junk")
    assert DebugFiles(folders=[modules]).path(wanted) is None


def test_a_packed_debug_file_is_read_too(modules: Path) -> None:
    wanted = member(modules)
    path = modules / "lib/modules/6.1.0-test/kernel/usb.ko"
    subprocess.run(["xz", "-q", path], check=True)
    assert DebugFiles(folders=[modules]).path(wanted) == path.with_name("usb.ko.xz")


def test_a_debugger_is_given_no_packed_file(debug: Debug, modules: Path) -> None:
    subprocess.run(["xz", "-q", modules / "lib/modules/6.1.0-test/kernel/usb.ko"], check=True)
    _, out, err = debug("gdb", "out.map", "--sections", "sections", "--debug-dir", modules)
    assert list(added(out)) == ["disk"]
    assert err == "megamod: no debug file of usb: left out\n"


def test_without_addresses_drgns_script_counts_from_the_sections(debug: Debug, modules: Path) -> None:
    status, out, _ = debug("drgn", "out.map", "--debug-dir", modules)
    assert status == 0
    whole = json.loads(Path("out.map").read_text())
    (chunk,) = (c for c in whole["chunks"] if c["member"] == 1 and c["section"] == ".data")
    assert f"'.data': ({chunk['output']!r}, {chunk['offset']:#x}, {chunk['size']:#x})," in out
    assert whole["build_id"] in out
