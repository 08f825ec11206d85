"""dracut's words on the kernel command line, as the loader takes them (dracut.cmdline(7))."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.common.host import data_folder
from megamod.loader import programs as build

pytestmark = pytest.mark.heavy

_PROGRAM = """
#include "cmdline.h"
#include "files.h"
int main(int argc, char **argv, char **envp)
{
    static struct options o;
    TEXT(t, 512);
    (void)argc; (void)envp;
    read_options(argv[1], &o);
    text_format(&t, "break %s, wait %s %u, emergency %u, shell %s, debug %s", o.break_at, o.wait_forever ? "ever" : "",
                (u32)o.wait_seconds, (u32)o.emergency, o.no_shell ? "no" : "yes", o.debug ? "yes" : "no");
    write_all(1, t.data, t.used);
    return 0;
}
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("words")
    (folder / "main.c").write_text(_PROGRAM)
    own = data_folder("loader")
    parts: list[Path] = [folder / "main.c", *(own / part for part in ("cmdline.c", "files.c", "text.c", "sys.c"))]
    program = folder / "program"
    program.write_bytes(build.compile_program("x86_64", parts))
    program.chmod(0o755)
    return lambda text: subprocess.run([program, text], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("words", "points"),
    [
        ("rd.break", "pre-switch"),
        ("rd.break=pre-pivot", "pre-switch"),
        ("rd.break=cleanup", "pre-switch"),
        ("rd.break=cmdline", "pre-load"),
        ("rd.break=pre-udev", "pre-load"),
        ("rd.break=pre-trigger", "pre-load"),
        ("rd.break=initqueue", "pre-mount"),
        ("rd.break=pre-mount rd.break", "pre-mount,pre-switch"),
        ("rd.break=mount", "pre-mount"),
        ("rd.break=nowhere", ""),
        ("megamod.break=pre-load,pre-mount rd.break", "pre-load,pre-mount,pre-switch"),
        ("rd.breaks rd.break.x", ""),
    ],
)
def test_rd_break_names_points_of_the_loader(read, words: str, points: str) -> None:
    assert read(words).startswith(f"break {points}, ")


@pytest.mark.parametrize(
    ("words", "waits"),
    [
        ("rd.timeout=7", " 7"),
        ("rd.timeout=0", "ever 0"),
        ("rd.timeout=", " 0"),
        ("rd.timeout=7 rootwait=3", " 3"),
        ("rootwait=3 rd.timeout=7", " 3"),
        ("rootwait rd.timeout=7", "ever 0"),
        ("rd.timeout=7 rootwait", "ever 0"),
    ],
)
def test_rd_timeout_is_the_time_for_the_root_unless_rootwait_is_there(read, words: str, waits: str) -> None:
    assert f"wait {waits}, " in read(words)


@pytest.mark.parametrize(
    ("words", "number"),
    [("rd.emergency=reboot", 1), ("rd.emergency=poweroff", 2), ("rd.emergency=halt", 3), ("rd.emergency=x", 0)],
)
def test_rd_emergency_says_what_comes_when_nothing_is_left(read, words: str, number: int) -> None:
    assert f"emergency {number}, " in read(words)


def test_rd_shell_and_rd_debug_switch_the_shell_and_more_lines(read) -> None:
    assert read("rd.shell=0 rd.debug").endswith("shell no, debug yes")
    assert read("rd.shell rd.debug=0").endswith("shell yes, debug no")
