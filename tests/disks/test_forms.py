"""The forms of root=: those of the kernel, and as udev, systemd and people write them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_FORMS = """
#include "device.h"
int main(int argc, char **argv, char **envp)
{
    struct target t;
    TEXT(text, 1024);
    (void)argc; (void)envp;
    if (parse_target(argv[1], &t))
        text_format(&text, "%d|%s|%d", (int)t.by, t.value, t.offset);
    sys_write(1, text.data, text.used);
    return 0;
}
"""
_NAME, _NUMBER, _MAPPER, _UUID, _LABEL, _PARTUUID, _PARTLABEL = range(7)
_GUID = "00112233-4455-6677-8899-aabbccddeeff"


@pytest.fixture(scope="module")
def parse(program):
    """``parse("LABEL=x")``: (form, value, offset of the partition's number), or None."""
    parts = ("device.c", "files.c", "superblock.c", "partition.c")
    reader: Path = program(_FORMS, *parts)

    def run(wanted: str) -> tuple[int, str, int] | None:
        text = subprocess.run([reader, wanted], capture_output=True, check=True).stdout.decode()
        if not text:
            return None
        form, value, offset = text.split("|")
        return int(form), value, int(offset)

    return run


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("/dev/sda1", (_NAME, "sda1", 0)),
        ("/dev/cciss/c0d0p1", (_NAME, "cciss/c0d0p1", 0)),
        ("/dev/mapper/vg-root", (_MAPPER, "vg-root", 0)),
        ("UUID=12-34", (_UUID, "12-34", 0)),
        ('UUID="12-34"', (_UUID, "12-34", 0)),
        ('"UUID=12-34', (_UUID, "12-34", 0)),
        ("UUID='12-34'", (_UUID, "12-34", 0)),
        ("/dev/disk/by-uuid/12-34", (_UUID, "12-34", 0)),
        ("LABEL=root", (_LABEL, "root", 0)),
        ("LABEL=my root", (_LABEL, "my root", 0)),
        (r"LABEL=my\x20root", (_LABEL, "my root", 0)),
        (r"LABEL=a\x2fb\x", (_LABEL, r"a/b\x", 0)),
        ('LABEL="my root"', (_LABEL, "my root", 0)),
        (r"/dev/disk/by-label/my\x20root", (_LABEL, "my root", 0)),
        (r"PARTLABEL=the\x20root", (_PARTLABEL, "the root", 0)),
        (r"/dev/disk/by-partlabel/the\x20root", (_PARTLABEL, "the root", 0)),
        (f"PARTUUID={_GUID}", (_PARTUUID, _GUID, 0)),
        (f"PARTUUID={_GUID}/PARTNROFF=1", (_PARTUUID, _GUID, 1)),
        (f"PARTUUID={_GUID}/PARTNROFF=-2", (_PARTUUID, _GUID, -2)),
        (f"/dev/disk/by-partuuid/{_GUID}", (_PARTUUID, _GUID, 0)),
        ("8:1", (_NUMBER, "8:1", 0)),
        # new_decode_dev(): twelve bits of the major number between eight and twelve of the minor one
        ("801", (_NUMBER, "8:1", 0)),
        ("fe02", (_NUMBER, "254:2", 0)),
        ("0x801", (_NUMBER, "8:1", 0)),
        ("0xg", None),
        ("10310305", (_NUMBER, "259:66309", 0)),
        (f"PARTUUID={_GUID}/PARTNROFF=", None),
        (f"PARTUUID={_GUID}/PARTNROFF=1x", None),
        (f"PARTUUID={_GUID}/1", None),
        ("UUID=", None),
        ('UUID=""', None),
        ("mytag", None),
        ("host:/path", None),
        ("LABEL=" + "x" * 600, None),
        ("", None),
    ],
)
def test_form_of_a_device_means(parse, wanted, meant):
    assert parse(wanted) == meant
