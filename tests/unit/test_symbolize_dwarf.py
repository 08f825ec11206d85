"""Source lines from debug information, against addr2line, at every instruction of objects that gcc makes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.inspect.debug.dwarf import DebugFile

# Functions in two sections that both begin at 0, inlined ones in each other and across a header, a cold part.
SOURCE = """\
#include "helper.h"
int table[4];
extern int other(int);
static inline __attribute__((always_inline)) int inner(int a) { return helper(a) + 1; }
static inline __attribute__((always_inline)) int outer(int a)
{
	int b = inner(a);
	return b * other(b);
}
int first(int a) { return outer(a) + table[a & 3]; }
__attribute__((noinline, cold)) int third(int a) { return other(a) + inner(a); }
int second(int a)
{
	if (__builtin_expect(a > 100, 0)) {
		other(outer(a));
		__builtin_trap();
	}
	return a;
}
__attribute__((section(".init.text"))) int start(int a) { return inner(a) + second(a); }
"""
HELPER = """\
extern int table[];
static inline __attribute__((always_inline)) int helper(int a)
{
	table[a & 3] += a;
	return table[0];
}
"""
VARIANTS = [["-gdwarf-5"], ["-gdwarf-4"], ["-gdwarf-5", "-gz=zlib"], ["-gdwarf-5", "-fno-asynchronous-unwind-tables"]]


@pytest.fixture(params=VARIANTS, ids=" ".join)
def made(request: pytest.FixtureRequest, tmp_path: Path, tool: Callable[..., str]) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/demo.c").write_text(SOURCE)
    (tmp_path / "src/helper.h").write_text(HELPER)
    command = [tool("gcc", package="gcc"), "-O2", "-fcf-protection", *request.param, "-c", "src/demo.c", "-o", "demo.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path / "demo.o"


def by_addr2line(tool: Callable[..., str], path: Path, section: str, offsets: list[int]) -> list[list[tuple[str, str]]]:
    """Per offset, (function, file:line) of each frame as addr2line prints them, the innermost first."""
    program = tool("addr2line", package="binutils")
    command = [program, "-a", "-i", "-f", "-j", section, "-e", str(path), *map(hex, offsets)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: list[list[tuple[str, str]]] = []
    rows = iter(text.splitlines())
    for row in rows:
        if row.startswith("0x"):
            found.append([])
        else:
            found[-1].append((row, next(rows).split(" (")[0].rsplit("/", 1)[-1]))
    return found


@pytest.mark.parametrize("section", [".text", ".init.text", ".text.unlikely"])
def test_every_byte_has_the_lines_that_addr2line_says(made: Path, tool: Callable[..., str], section: str) -> None:
    file = DebugFile(made.read_bytes(), "demo.o")
    index = file.section_index(section)
    assert index is not None
    sizes = subprocess.run(["readelf", "-SW", made], capture_output=True, text=True, check=True).stdout
    row = next(line for line in sizes.splitlines() if f" {section} " in line).split("]")[1].split()
    offsets = list(range(int(row[4], 16)))
    assert len(offsets) >= 5
    ours = [
        [(line.function, f"{line.file.rsplit('/', 1)[-1]}:{line.line}") for line in file.lines(index, offset)]
        for offset in offsets
    ]
    theirs = by_addr2line(tool, made, section, offsets)
    # Padding after a function is in none; addr2line takes the symbol before it.
    inside = [number for number, frames in enumerate(ours) if frames and frames[0][0]]
    assert [ours[number] for number in inside] == [theirs[number] for number in inside]
    assert max(map(len, ours)) >= 3
    assert len(inside) > 0.8 * len(ours)


def test_the_paths_of_files_are_those_of_the_source(made: Path) -> None:
    file = DebugFile(made.read_bytes(), "demo.o")
    index = file.section_index(".text")
    assert index is not None
    assert {line.file for offset in range(8) for line in file.lines(index, offset)} == {"src/demo.c", "src/helper.h"}


def test_beyond_a_section_there_are_no_lines(made: Path) -> None:
    file = DebugFile(made.read_bytes(), "demo.o")
    index = file.section_index(".text")
    assert index is not None
    assert file.lines(index, 1 << 20) == []
    assert file.lines(999, 0) == []


def test_damaged_debug_information_is_an_error_of_one_line_or_no_lines(made: Path) -> None:
    whole = made.read_bytes()
    start = whole.index(b"\x7fELF") + 64
    for at in range(start, len(whole), 401):
        damaged = DebugFile(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :], "demo.o")
        try:
            index = damaged.section_index(".text")
            if index is not None:
                damaged.lines(index, 4)
        except MegamodError as error:
            assert str(error).startswith("demo.o: ")
            assert "\n" not in str(error)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(80), b"hello" * 40])
def test_what_is_no_module_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(MegamodError, match=r"^demo\.o: no module: "):
        DebugFile(data, "demo.o").section_index(".text")
