"""A trace through members, provoked on Debian's kernel, symbolized with the debug files that Debian ships.

XFS says file and line of what it complains about itself; addr2line says the rest.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.cli import main as cli
from tests.boot.debug_kernels import cloud, debug_files, debug_image, overlapping_disk  # noqa: F401
from tests.boot.image_fixtures import Guest, MadeOnce, add_program, run

SCRIPT = """
mkdir -p /mnt
mount -t xfs /dev/vda /mnt
rm /mnt/file
sync
tries=0
until dmesg | grep -q 'XFS.*Shutting down' || [ $tries = 100 ]; do tries=$((tries + 1)); sleep 0.1; done
show sections grep -r . /sys/module/megamod_critical/sections
show modules cat /proc/modules
show status cat /run/megamod/status
show log dmesg
poweroff -f
"""

_SITE = re.compile(
    r"Internal error .* at line (?P<line>\d+) of file (?P<file>\S+)\. +Caller \S+ \[xfs\] \((?P<found>\S+)\)"
)
_SHUTDOWN = re.compile(r"detected at (?P<place>\S+) \[xfs\] \((?P<found>\S+)\) \((?P<said>\S+)\)\. +Shutting down")
_FRAME = re.compile(
    r" (?P<guess>\? )?(?P<name>[\w.]+)\+(?P<offset>0x[0-9a-f]+)/0x[0-9a-f]+ \[xfs\] \((?P<where>\S+:\d+)\)"
)
_INLINED = re.compile(r"   (?P<name>[\w.]+) \[xfs\] \((?P<where>\S+:\d+), inlined\)")


@pytest.fixture
def guest(made_once: MadeOnce, cloud: Kernel, tool: Callable[..., str]) -> Guest:  # noqa: F811
    image, _ = debug_image(made_once, cloud)
    program = add_program(made_once, image, SCRIPT)
    return run(made_once, cloud, program, disks=[overlapping_disk(made_once, tool)], append="root=none")


@pytest.fixture
def symbolize(
    made_once: MadeOnce,
    cloud: Kernel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., list[str]]:
    _, link_map = debug_image(made_once, cloud)

    def call(lines: list[str], *words: object) -> list[str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["megamod", "symbolize", "--map", str(link_map), *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
        assert cli.main() == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out.splitlines()

    return call


def module_file(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"lib/modules/*/kernel/**/{name}.ko*")
    return found


def frames_by_addr2line(path: Path, name: str, offset: int) -> list[tuple[str, str]]:
    """(function, file:line) of each frame at ``name+offset``, innermost first; the function by nm."""
    listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    (value,) = {line.split()[0] for line in listed.splitlines() if line.split()[1:] in (["t", name], ["T", name])}
    command = ["addr2line", "-i", "-f", "-j", ".text", "-e", str(path), hex(int(value, 16) + offset)]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    places = [row.split(" (")[0].rpartition("/debian/build/")[2] for row in rows[1::2]]
    return list(zip(rows[::2], [re.sub(r"^.*?/(?=fs/|include/|arch/)", "", place) for place in places], strict=True))


def test_what_xfs_says_of_itself_is_what_is_found(
    guest: Guest,
    symbolize: Callable[..., list[str]],
    debug_files: Path,  # noqa: F811
) -> None:
    text = "\n".join(symbolize(guest.log(), "--debug-dir", debug_files))
    site, shutdown = _SITE.search(text), _SHUTDOWN.search(text)
    assert site, text
    assert site["found"] == f"{site['file']}:{site['line']}"
    assert shutdown, text
    assert shutdown["found"] == shutdown["said"]


def test_each_frame_of_the_trace_has_the_lines_that_addr2line_finds(
    guest: Guest,
    symbolize: Callable[..., list[str]],
    debug_files: Path,  # noqa: F811
) -> None:
    shown = symbolize(guest.log(), "--debug-dir", debug_files)
    path = module_file(debug_files, "xfs")
    trace = shown[shown.index(" <TASK>") : shown.index(" </TASK>")]
    inlined: list[tuple[str, str]] = []
    checked = 0
    for line in trace:
        if match := _INLINED.fullmatch(line):
            inlined.append((match["name"], match["where"]))
        elif match := _FRAME.fullmatch(line):
            # A frame is where a call returns to; the call is before it.
            expected = frames_by_addr2line(path, match["name"], int(match["offset"], 16) - 1)
            assert [where for _, where in inlined] + [match["where"]] == [where for _, where in expected]
            assert [name for name, _ in inlined] == [name for name, _ in expected[:-1]]
            inlined = []
            checked += 1
    assert checked > 10
    assert {"xfs_free_ag_extent", "xfs_inactive"} <= {m["name"] for line in trace if (m := _FRAME.fullmatch(line))}


def test_the_map_alone_names_members_and_functions(
    guest: Guest, symbolize: Callable[..., list[str]], tmp_path: Path
) -> None:
    shown = symbolize(guest.log(), "--debug-dir", tmp_path)
    assert any(re.fullmatch(r" xfs_free_ag_extent\+0x[0-9a-f]+/0x[0-9a-f]+ \[xfs\]", line) for line in shown)
    assert not any("[megamod_critical]" in line for line in shown)


def test_without_symbols_in_the_megamodule_addresses_are_enough(
    made_once: MadeOnce,
    cloud: Kernel,  # noqa: F811
    tool: Callable[..., str],
    guest: Guest,
    debug_files: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, link_map = debug_image(made_once, cloud, symbols="trim")
    program = add_program(made_once, image, SCRIPT)
    trimmed = run(made_once, cloud, program, disks=[overlapping_disk(made_once, tool)], append="root=none")
    assert not any("xfs_free_ag_extent" in line for line in trimmed.log())
    shown = {}
    for name in ("sections", "modules"):
        (tmp_path / name).write_text("\n".join(trimmed.section(name)))
        words = ["--map", str(link_map), "--sections", str(tmp_path / name), "--debug-dir", str(debug_files)]
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["megamod", "symbolize", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(trimmed.log()).encode())))
        assert cli.main() == 0
        shown[name] = [match["name"] for line in capsys.readouterr().out.splitlines() if (match := _FRAME.match(line))]
    plain = [match[1] for line in guest.log() if (match := re.match(r" (?:\? )?(xfs_\w+|__xfs\w+)\+0x", line))]
    assert "xfs_inactive" in plain
    assert shown["sections"] == shown["modules"] == plain
