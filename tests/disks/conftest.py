"""Parts of the loader as programs of this machine, and what libblkid says of a disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from megamod.common.host import data_folder
from megamod.loader.programs import compile_program

_LOOK = """
#include "files.h"
#include "superblock.h"
int main(int argc, char **argv, char **envp)
{
    static struct superblock s;
    struct partition p;
    struct statx st;
    TEXT(t, 2048);
    const char *at = argv[2];
    u64 number = 0;
    long fd = sys_openat(AT_FDCWD, argv[1], O_RDONLY, 0);
    (void)argc; (void)envp;
    if (fd < 0 || sys_statx(AT_FDCWD, argv[1], 0, &st) < 0)
        return 2;
    if (take_number(&at, &number)) {
        if (read_partition((int)fd, st.size, (u32)number, &p))
            text_format(&t, "%s|%s|%s|%llu", p.uuid, p.label, p.type, (unsigned long long)p.attributes);
    } else {
        if (read_superblock((int)fd, st.size, &s) < 0)
            return 2;
        read_tail((int)fd, st.size, streq(at, "whole"), &s);
        text_format(&t, "%s|%s|%s|%s|%s|%s|%u", s.member ? s.member : "", s.member_uuid, s.name ? s.name : "",
                    s.second ? s.second : "", s.uuid, s.label, s.devices);
    }
    write_all(1, t.data, t.used);
    return 0;
}
"""


@dataclass(frozen=True)
class Seen:
    """What the loader finds on a device; texts are empty where there is nothing."""

    member: str
    member_uuid: str
    name: str
    second: str
    uuid: str
    label: str
    devices: int


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Callable[..., Path]:
    """``program(text, "superblock.c", "text.c")``: the C program *text* with files of the loader."""

    def make(text: str, *parts: str) -> Path:
        folder = tmp_path_factory.mktemp("program")
        source = folder / "main.c"
        source.write_text(text)
        own = data_folder("loader")
        target = folder / "program"
        target.write_bytes(compile_program("x86_64", [source, *(own / part for part in (*parts, "text.c", "sys.c"))]))
        target.chmod(0o755)
        return target

    return make


@pytest.fixture(scope="session")
def look(program) -> Callable[..., str]:
    """``look(path, "whole")``: the answer of the loader's reader; ``look(path, "3")``: of its third partition."""
    reader = program(_LOOK, "superblock.c", "partition.c", "files.c")

    def run(path: Path, what: str = "whole") -> str:
        return subprocess.run([reader, path, what], capture_output=True, check=True).stdout.decode()

    return run


@pytest.fixture(scope="session")
def identify(look) -> Callable[..., Seen]:
    """``identify(path)``: what the loader finds on a whole disk; ``identify(path, "part")``: on a partition."""

    def run(path: Path, what: str = "whole") -> Seen:
        *texts, devices = look(path, what).split("|")
        return Seen(*texts, int(devices))  # type: ignore[arg-type]

    return run
