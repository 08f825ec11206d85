"""The loader's readers built with the address and undefined-behaviour sanitizers, over disks, plans and command lines.

What they read comes from disks, the image and the boot loader. The good files are made here; each is damaged many times
with a fixed seed.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from megamod.common.host import data_folder
from tests.fuzz.damage import some_bytes, some_text

pytestmark = pytest.mark.heavy

_FLAGS = ("-std=gnu11", "-O1", "-g", "-fno-builtin", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
_SANITIZE = "-fsanitize=address,undefined"
# What is a function of the loader's own entry code would stand in the way of the C library's.
_OWN = ("_start", "start", "memcpy", "memset", "memcmp")

_DISKS = """
#include "files.h"
#include "superblock.h"
int main(int argc, char **argv, char **envp)
{
	static struct superblock s;
	struct partition p;
	struct statx st;
	u32 number;
	int i;
	(void)envp;
	for (i = 1; i < argc; i++) {
		int fd = (int)sys_openat(AT_FDCWD, argv[i], O_RDONLY, 0);
		if (fd < 0 || sys_statx(AT_FDCWD, argv[i], 0, &st) < 0)
			return 2;
		if (read_superblock(fd, st.size, &s) == 0) {
			read_tail(fd, st.size, true, &s);
			read_tail(fd, st.size, false, &s);
		}
		for (number = 0; number < 9; number++)
			read_partition(fd, st.size, number, &p);
		sys_close(fd);
	}
	return 0;
}
"""

_PLANS = """
#include "files.h"
#include "read_plan.h"
int main(int argc, char **argv, char **envp)
{
	static struct plan plan;
	u32 number, i;
	(void)envp;
	for (i = 1; i < (u32)argc; i++) {
		memset(&plan, 0, sizeof(plan));
		if (read_plan(AT_FDCWD, argv[i], &plan))
			for (number = 0; number < plan.member_count; number++)
				stage_of(&plan, number);
	}
	return 0;
}
"""

_WORDS = """
#include "cmdline.h"
#include "files.h"
#include "mount_options.h"
int main(int argc, char **argv, char **envp)
{
	static struct options options;
	static char text[8192];
	struct word word;
	const char *at;
	u32 flags;
	int i;
	(void)envp;
	for (i = 1; i < argc; i++) {
		TEXT(data, 4096);
		int fd = (int)sys_openat(AT_FDCWD, argv[i], O_RDONLY, 0);
		long size = fd < 0 ? -1 : sys_read(fd, text, sizeof(text) - 1);
		if (size < 0)
			return 2;
		text[size] = 0;
		sys_close(fd);
		for (at = text; next_word(&at, &word);)
			key_is(&word, "root");
		memset(&options, 0, sizeof(options));
		read_options(text, &options);
		in_list(text, "snd_pcm");
		in_exact_list(text, "ext4");
		flags = 0;
		split_options(text, &flags, &data);
		has_option(text, "ro");
	}
	return 0;
}
"""

_PLAN = b"""\
megamod-plan 1
kernel 6.1.0
root cmdline
overlay tmpfs size=1m
verity /dev/vdb sha256 4096 4096 10 1 00 -
fallback modules
probe async
skip d
stage critical now - 0
merged /megamod/megamod_critical.ko megamod_critical 1
member a
member b 0
original /megamod/originals/a.ko
original /megamod/originals/b.ko
argument a.x=1
requests -
single /megamod/c.ko c 1
stage second userspace - 900
merged /megamod/megamod_second.ko megamod_second 1
member e 0
original /megamod/originals/e.ko
requests -
stage third path /run/nowhere 500
single /megamod/f.ko f
stage fourth idle 100 5000
single /megamod/g.ko g 3
softdep a
dependents 0 y z
"""
_COMMAND_LINE = (
    b'root=UUID=5f0c2d3a-8a54-4f0e-9c8e-0123456789ab rootwait=3 rw rootflags=noatime,commit=5 a.y="2 3" quiet '
    b"megamod.skip=snd_pcm,ext4 megamod.deferred=now ro,nosuid,relatime,x=y init=/bin/sh -- one two\n"
)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory, tool: Callable[..., str]) -> Callable[..., Path]:
    """``sanitized(text, "plan.c")``: the C program *text* with files of the loader, under both sanitizers."""
    compiler, objcopy = tool("gcc", package="gcc"), tool("objcopy", package="binutils")
    own = data_folder("loader")

    def make(text: str, *parts: str) -> Path:
        folder = tmp_path_factory.mktemp("sanitized")
        (folder / "main.c").write_text(text)
        entry = folder / "sys.o"
        subprocess.run([compiler, *_FLAGS[:4], "-c", own / "sys.c", "-o", entry], check=True)
        renamed = [f"--redefine-sym={name}=loader_{name}" for name in _OWN]
        subprocess.run([objcopy, *renamed, entry], check=True)
        sources = [folder / "main.c", *(own / part for part in (*parts, "files.c", "text.c")), entry]
        command = [compiler, *_FLAGS, _SANITIZE, f"-I{own}", *sources, "-o", folder / "program"]
        subprocess.run(command, check=True, capture_output=True)
        return folder / "program"

    return make


def clean(program: Path, files: Sequence[Path]) -> None:
    """The program goes through *files* and no sanitizer has a word to say."""
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    for start in range(0, len(files), 100):
        command = [program, *files[start : start + 100]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, errors="replace")
        said = [line for line in done.stderr.splitlines() if not line.startswith("megamod: ")]
        assert (done.returncode, said) == (0, []), done.stderr[:3000]


def damaged(
    good: Sequence[bytes], how: Callable[[bytes, random.Random], bytes], folder: Path, *, count: int
) -> list[Path]:
    """*count* files, one after the other of *good* damaged, and the good ones themselves."""
    rng = random.Random(19)
    made = []
    for number, data in enumerate([*good, *(how(good[n % len(good)], rng) for n in range(count))]):
        made.append(folder / f"{number}")
        made[-1].write_bytes(data)
    return made


def test_a_sanitizer_would_speak(sanitized: Callable[..., Path]) -> None:
    text = '#include "files.h"\nint main(int argc, char **argv, char **envp)\n{\n\tchar t[4] = "abc";\n'
    program = sanitized(f"{text}\t(void)argv; (void)envp;\n\treturn t[argc + 4];\n}}\n")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert "stack-buffer-overflow" in done.stderr or "out of bounds" in done.stderr


def disks() -> list[bytes]:
    """The beginnings and ends of disks with the signatures that the loader looks for, where it looks for them."""
    made = []
    for size in (4096, 70_000, 160_000):
        mark = {510: b"\x55\xaa"}
        for places in (
            {1024 + 56: b"\x53\xef"}, {0: b"XFSB"}, {0x10040: b"_BHRfS_M"}, {1024: b"\x10\x20\xf5\xf2"},
            {1024: b"\xe2\xe1\xf5\xe0"}, {0: b"hsqs"}, {54: b"FAT16   ", **mark}, {3: b"NTFS    ", **mark},
            {3: b"EXFAT   ", **mark}, {32769: b"CD001"}, {0: b"LUKS\xba\xbe\0\2"}, {0: b"UBI#"}, {0: b"verity\0\0"},
            {512: b"LABELONE", 536: b"LVM2 001"}, {0: b"\xfc\x4e\x2b\xa9"}, {size - 65_536: b"\xfc\x4e\x2b\xa9"},
            {4096 + 24: bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")}, {512: b"EFI PART", **mark},
            {446: struct.pack("<8BII", 0x80, 0, 0, 0, 5, 0, 0, 0, 1, 100), **mark},
            {32768: b"JFS1"}, {65536 + 52: b"ReIsEr2Fs"}, {1024 + 6: b"\x34\x34"},
        ):  # fmt: skip
            data = bytearray(size)
            for place, magic in places.items():
                if 0 <= place <= size - len(magic):
                    data[place : place + len(magic)] = magic
            made.append(bytes(data))
    return made


def test_damaged_disks_are_read_within_bounds(sanitized: Callable[..., Path], tmp_path: Path) -> None:
    program = sanitized(_DISKS, "superblock.c", "partition.c")
    clean(program, damaged(disks(), some_bytes, tmp_path, count=600))


def test_damaged_plans_are_read_within_bounds(sanitized: Callable[..., Path], tmp_path: Path) -> None:
    program = sanitized(_PLANS, "read_plan.c", "plan.c", "plan_records.c", "root_records.c", "log.c")
    (tmp_path / "good").write_bytes(_PLAN)
    assert subprocess.run([program, tmp_path / "good"], capture_output=True, check=True).stderr == b""
    clean(program, damaged([_PLAN], some_text, tmp_path, count=1500))


def test_damaged_command_lines_are_read_within_bounds(sanitized: Callable[..., Path], tmp_path: Path) -> None:
    program = sanitized(_WORDS, "cmdline.c", "mount_options.c")
    clean(program, damaged([_COMMAND_LINE], some_text, tmp_path, count=1500))
