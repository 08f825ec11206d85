"""``tracing: keep``: ftrace and trace events work on members as on the modules they were."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megamod.boot.debian import Kernel
from megamod.image.cpio import Entry
from megamod.modules.tree import open_tree
from megamod.prelink.link import prelink_files
from megamod.prelink.options import PrelinkOptions

_INIT = """\
insmod /merged.ko && echo loaded
tracing=/sys/kernel/tracing
mount -t tracefs tracefs $tracing
echo "events: $(ls $tracing/events/ext4 | grep -c '^ext4_')"
echo 1 > $tracing/events/ext4/enable
echo ext4_fill_super > $tracing/set_ftrace_filter
echo function > $tracing/current_tracer
mount -t ext4 /dev/vda /mnt && echo mounted
grep -v '^#' $tracing/trace
poweroff -f
"""


def members(kernel: Kernel) -> list[Path]:
    tree = open_tree(str(kernel.modules))
    wanted = {"virtio_pci", "virtio_blk", "ext4", "crc32c_generic"} & tree.modules.keys()
    names = sorted(wanted.union(*(tree.modules[name].depends for name in wanted)))
    return [tree.modules[name].path for name in names]


@pytest.mark.parametrize("suite", ["bookworm", "bookworm-backports"])
def test_a_member_can_be_traced_by_function_and_by_event(
    suite: str,
    kernels: Callable[[str], Kernel],
    busybox_image: Any,
    make_root: Any,
    make_disk_image: Any,
    boot: Any,
) -> None:
    kernel = kernels(suite)
    merged = prelink_files(members(kernel), PrelinkOptions(name="megamod_traced", tracing="keep"))
    image = busybox_image(_INIT, entries=[Entry(path="merged.ko", mode=stat.S_IFREG | 0o644, data=merged.data)])
    disk = make_disk_image(make_root("exit 0"))
    console = boot(image=image, vmlinuz=kernel.vmlinuz, disks=[disk], append="quiet").console
    assert "loaded" in console
    assert "mounted" in console
    events = int(console.split("events: ")[1].split()[0])
    assert events > 100
    assert "ext4_fill_super <-" in console
    assert "ext4_load_inode: dev " in console
