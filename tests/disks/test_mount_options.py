"""rootflags= as the loader splits them, beside mount(8): both mount a tmpfs, and /proc/self/mountinfo is compared."""

from __future__ import annotations

import ctypes
import ctypes.util
import subprocess
from pathlib import Path

import pytest

from tests.conftest import missing

_MOUNT = """
#include "mount_options.h"
int main(int argc, char **argv, char **envp)
{
    u32 flags = 0;
    TEXT(data, 1024);
    (void)envp;
    text_reset(&data);
    split_options(argv[1], &flags, &data);
    if (argc > 2)
        return sys_mount("none", argv[2], "tmpfs", flags, data.used ? data.data : NULL) < 0;
    text_format(&data, "|%u", flags);
    sys_write(1, data.data, data.used);
    return 0;
}
"""
# The same for both: a new tmpfs on a folder, in namespaces of its own, so that root is not needed.
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
_SHOW = "grep \" $2 \" /proc/self/mountinfo | cut -d' ' -f 6-"

_OPTIONS = [
    *("ro", "rw", "ro,rw", "rw,ro", "defaults", "defaults,ro", "noexec", "exec", "noexec,exec", "nosuid", "suid"),
    *("nosuid,suid", "nodev", "dev", "nodev,dev", "noatime", "atime", "noatime,atime", "nodiratime", "diratime"),
    *("relatime", "norelatime", "strictatime", "nostrictatime", "strictatime,nostrictatime", "noatime,relatime"),
    *("sync", "async", "sync,async", "dirsync", "lazytime", "nolazytime", "silent", "loud", "symfollow"),
    *("nosymfollow", "nosymfollow,symfollow", "auto", "noauto", "nofail", "_netdev", "nouser", "nousers", "noowner"),
    *("nogroup", "comment=from fstab", "x-systemd.device-timeout=5", "x-initrd.mount", "X-mount.mkdir", "iversion"),
    *(
        "noiversion",
        "mode=0700",
        "size=1m,noatime,mode=0711",
        "ro,x-systemd.growfs,nofail,size=2m",
        "size=1m,,mode=0701",
    ),
    *("ro,noatime,nodiratime,nodev,nosuid,noexec,size=64k,nr_inodes=20", "uid=0,gid=0,mode=0755,nosuid", "huge=never"),
]


@pytest.fixture(scope="module")
def splitter(program) -> Path:
    """The loader's splitting around a mount()."""
    return program(_MOUNT, "mount_options.c")


def _mounted(script: str, *arguments: object) -> list[str]:
    command = [*_NAMESPACE, f"{script} && {_SHOW}", "sh", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.stderr.startswith("unshare:"):
        missing(f"no user namespaces: {result.stderr}")
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize("options", _OPTIONS)
def test_options_mean_what_they_mean_to_mount(splitter, tmp_path, options):
    theirs = _mounted('mount -t tmpfs -o "$1" none "$2"', options, tmp_path)
    ours = _mounted('"$3" "$1" "$2"', options, tmp_path, splitter)
    assert ours == theirs and "tmpfs" in ours


def test_forty_options_are_compared_and_most_of_them_change_something(splitter, tmp_path):
    assert len(_OPTIONS) >= 40
    plain = _mounted('"$3" "" "$2"', "", tmp_path, splitter)
    assert (
        sum(_mounted('"$3" "$1" "$2"', word, tmp_path, splitter) != plain for word in ("ro", "noexec", "size=1m")) == 3
    )


@pytest.mark.parametrize(
    "options",
    [
        *("loop", "loop=/dev/loop3,ro", "offset=512", "sizelimit=4096,compress=zstd", "encryption=aes", "uhelper=hal"),
        *(
            "helper=x",
            "subvol=@,x-systemd.requires=/a,compress=zstd:3",
            "errors=remount-ro,noatime",
            "nofail,acl,user_xattr",
        ),
        *("userland", "roast=1", "devil", "autodefrag", "commentary", "grpquota,usrquota", "data=ordered,barrier=1"),
    ],
)
def test_words_of_mount_alone_are_left_out_and_those_of_the_file_system_stay(splitter, options):
    """libmount, which mount(8) is made of: what it would hand to the kernel."""
    name = ctypes.util.find_library("mount")
    if name is None:
        missing("libmount")
    library = ctypes.CDLL(name)
    user, vfs, fs = ctypes.c_char_p(), ctypes.c_char_p(), ctypes.c_char_p()
    assert library.mnt_split_optstr(options.encode(), *map(ctypes.byref, (user, vfs, fs)), 0, 0) == 0
    ours = subprocess.run([splitter, options], capture_output=True, text=True, check=True).stdout
    assert ours.rpartition("|")[0] == (fs.value or b"").decode()


class _Word(ctypes.Structure):
    """struct libmnt_optmap, libmount.h."""

    _fields_ = (("name", ctypes.c_char_p), ("flag", ctypes.c_int), ("mask", ctypes.c_int))


def _own_words(which: int) -> list[tuple[str, int, bool]]:
    """(word, flag, whether it clears it) of a map that libmount has built in: 1 the kernel's flags, 2 fstab's words."""
    name = ctypes.util.find_library("mount")
    if name is None:
        missing("libmount")
    library = ctypes.CDLL(name)
    library.mnt_get_builtin_optmap.restype = ctypes.POINTER(_Word)
    rows, found = library.mnt_get_builtin_optmap(which), []
    while rows[len(found)].name:
        row = rows[len(found)]
        found.append((row.name.decode(), row.flag & 0xFFFFFFFF, bool(row.mask & 2)))
    return found


# They bind a folder, change a mount or how mounts spread: none mounts a device.
_NOT_A_MOUNT = {"remount", "bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave"}
_NOT_A_MOUNT |= {"unbindable", "runbindable"}


def test_every_flag_in_util_linuxs_own_list_is_set_or_cleared(splitter):
    words = _own_words(1)
    for word, flag, clears in words:
        expected = 0 if clears or word in _NOT_A_MOUNT else flag
        ours = subprocess.run([splitter, word], capture_output=True, text=True, check=True).stdout
        assert ours == f"|{expected}", word
        if clears:
            other = next(one for one, bit, inverse in words if bit == flag and not inverse)
            ours = subprocess.run([splitter, f"{other},{word}"], capture_output=True, text=True, check=True).stdout
            assert ours == "|0", word
    assert len(words) >= 30


def test_every_word_for_fstab_in_util_linuxs_own_list_is_left_out(splitter):
    words = _own_words(2)
    for word, _flag, _clears in words:
        name, optional, _ = word.partition("[=]")
        for form in [f"{name}=x", name] if optional else [f"{name}x" if name[-1] in "=-" else name]:
            ours = subprocess.run([splitter, f"{form},size=1m"], capture_output=True, text=True, check=True).stdout
            assert ours == "size=1m|0", form
    assert len(words) >= 20


def test_commas_between_quotes_belong_to_the_option(splitter):
    ours = subprocess.run([splitter, 'ro,context="a:b,c",nofail,size=1m'], capture_output=True, text=True, check=True)
    assert ours.stdout == 'context="a:b,c",size=1m|1'


@pytest.mark.parametrize("word", ["user", "users", "owner", "group", "user=me", "rprivate", "shared", "bind"])
def test_words_that_would_close_a_root_or_change_its_propagation_are_left_out(splitter, word):
    ours = subprocess.run([splitter, f"{word},size=1m"], capture_output=True, text=True, check=True).stdout
    assert ours == "size=1m|0"
