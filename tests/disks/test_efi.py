"""What boot loader and systemd leave in EFI variables: four bytes of attributes, then the value."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_READ = """
#include "resume.c"
int main(int argc, char **argv, char **envp)
{
    static struct boot boot;
    char uuid[UUID_ROOM] = "";
    const char *location;
    u64 offset = 0;
    TEXT(t, 512);
    TEXT(saver, 80);
    (void)argc; (void)envp;
    boot.sys = (int)sys_openat(AT_FDCWD, argv[1], O_RDONLY | O_DIRECTORY, 0);
    text_format(&t, "%s|", find_boot_partition(&boot, uuid) ? uuid : "unknown");
    location = find_location(&boot, &offset, &saver);
    text_format(&t, "%s|%llu", location ? location : "none", (unsigned long long)offset);
    if (saver.used)
        text_format(&t, "|%s", saver.data);
    sys_write(1, t.data, t.used);
    return 0;
}
"""
_PARTS = ("efi.c", "device.c", "find.c", "scan.c", "superblock.c", "partition.c")
_PARTS += ("files.c", "log.c", "retry.c", "uevents.c")
_GUID = "0F3C7E1A-2B4D-4E5F-8A9B-0C1D2E3F4A5B"
_LOADER = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_LOCATION = "HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67"


@pytest.fixture(scope="module")
def reader(program) -> Path:
    return program(_READ, *_PARTS)


@pytest.fixture
def ask(reader, tmp_path):
    """``ask({name: text})``: what the loader reads of these variables."""

    def run(variables: dict[str, bytes]) -> str:
        folder = tmp_path / "firmware/efi/efivars"
        folder.mkdir(parents=True)
        # Each is there, as the loader would mount efivarfs to look for one that is not.
        for name in (_LOADER, _LOCATION):
            (folder / name).write_bytes(b"\x06\0\0\0" + variables.get(name, b""))
        return subprocess.run([reader, tmp_path], capture_output=True, text=True, check=True).stdout

    return run


def _wide(text: str) -> bytes:
    return f"{text}\0".encode("utf-16-le")


def test_partition_of_the_boot_loader_is_read(ask):
    assert ask({_LOADER: _wide(_GUID)}) == f"{_GUID}|none|0"


@pytest.mark.parametrize("value", [b"", b"\0", _wide("short"), _wide(_GUID)[:70]])
def test_variable_that_is_cut_off_is_as_if_it_were_not_there(ask, value):
    assert ask({_LOADER: value, _LOCATION: value}) == "unknown|none|0"


def test_machine_without_variables_has_neither(reader, tmp_path):
    assert subprocess.run([reader, tmp_path], capture_output=True, text=True, check=True).stdout == "unknown|none|0"


def test_hibernation_location_of_systemd_is_read(ask):
    """The fields come in this order (write_efi_hibernate_location, src/shared/hibernate-util.c, systemd 257)."""
    text = f'{{"uuid":"{_GUID.lower()}","offset":38912,"kernelVersion":"6.12.9","osReleaseId":"debian"}}'
    assert ask({_LOCATION: _wide(text)}) == f"unknown|UUID={_GUID.lower()}|38912|6.12.9"
