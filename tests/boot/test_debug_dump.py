"""drgn and crash on a dump of a guest's memory, with the scripts of `megamod debug`: members' variables and types."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from megamod.boot.debian import Kernel
from megamod.boot.qemu import run_qemu
from tests.boot.debug_kernels import (  # noqa: F401
    TIMEOUT,
    cloud,
    connected,
    debug_files,
    debug_folder,
    debug_image,
    megamod,
    read_until,
)
from tests.boot.image_fixtures import MadeOnce, add_program, make_data_disk

# qemu_fw_cfg hands the kernel's note on itself (VMCOREINFO) to QEMU, which puts it into the dump.
SCRIPT = """
mkdir -p /mnt
mount -t xfs /dev/vda /mnt
echo later > /run/megamod/control
wait_for later
stty -F /dev/ttyS1 raw -echo
cat /mnt/hello > /dev/ttyS1
grep -r . /sys/module/megamod_critical/sections > /dev/ttyS1
echo end > /dev/ttyS1
sleep 1000
"""

# Every mounted XFS, from the list that the module's file system type heads.
LOOK = """
import json, sys
import drgn
from drgn.helpers.linux.list import hlist_for_each_entry
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
if sys.argv[3:]:
    prog.load_debug_info(sys.argv[3:])
exec(open(sys.argv[2]).read())
found = []
kind = prog.variable("xfs_fs_type", "xfs_super.c")
for sb in hlist_for_each_entry("struct super_block", kind.fs_supers.address_of_(), "s_instances"):
    mount = drgn.cast("struct xfs_mount *", sb.s_fs_info)
    found.append({
        "name": kind.name.string_().decode(),
        "device": sb.s_id.string_().decode(),
        "uuid": bytes(mount.m_sb.sb_uuid.b.value_()).hex(),
        "function": prog.symbol(mount.m_super.s_op.statfs.value_()).name,
        "source": prog.source_location(mount.m_super.s_op.statfs.value_())[0].filename,
    })
print(json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Dump:
    """A guest's memory while an XFS was mounted; sections: what its /sys said of the megamodule."""

    core: Path
    sections: Path
    link_map: Path


@pytest.fixture(scope="module")
def dump(
    made_once: MadeOnce,
    cloud: Kernel,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Dump]:
    image, link_map = debug_image(made_once, cloud)
    program = add_program(made_once, image, SCRIPT)
    folder = tmp_path_factory.mktemp("dump")
    made = Dump(core=folder / "vmcore", sections=folder / "sections", link_map=link_map)
    # The path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="megamod-dump-") as short, ThreadPoolExecutor(1) as pool:
        port, monitor = f"{short}/port", f"{short}/qmp"
        extra = ["-qmp", f"unix:{monitor},server=on,wait=off", "-device", "vmcoreinfo"]
        extra += ["-chardev", f"socket,id=port,path={port},server=on,wait=off", "-device", "isa-serial,chardev=port"]
        running = pool.submit(
            run_qemu,
            image=program,
            vmlinuz=cloud.vmlinuz,
            disks=[make_data_disk(made_once, "xfs")],
            extra=extra,
            memory=256,
            timeout=TIMEOUT,
            accel="tcg",
        )
        with connected(port) as wire:
            made.sections.write_text(read_until(wire, "end\n"))
        with connected(monitor) as wire:
            command(wire, "qmp_capabilities")
            command(wire, "dump-guest-memory", paging=False, protocol=f"file:{made.core}")
            command(wire, "quit")
        console = running.result().console
    print("\n".join(console.splitlines()[-40:]))
    yield made
    made.core.unlink()


def members_script(debugger: str, dump: Dump, debug: Path, *, sections: bool = True) -> Path:
    """What `megamod debug` makes for the dump; without *sections* drgn has to find the addresses in it."""
    script = dump.core.with_name(f"members.{debugger}")
    words = ["--sections", dump.sections] if sections else []
    megamod("debug", debugger, dump.link_map, *words, "--debug-dir", debug, "-o", script)
    return script


@pytest.fixture(scope="module")
def found(dump: Dump, debug_files: Path) -> list[dict[str, Any]]:  # noqa: F811
    """What `LOOK` finds in the dump."""
    return look(dump, members_script("drgn", dump, debug_files))


def look(dump: Dump, *words: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(dump.core), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def command(wire: socket.socket, name: str, **arguments: object) -> None:
    """A command of QEMU's monitor, and its answer; events in between are of no interest."""
    wire.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
    text = ""
    while '"return"' not in text:
        text += wire.recv(65536).decode()
        assert '"error"' not in text, text


def test_a_dump_shows_a_members_variables_by_its_own_debug_file(found: list[dict[str, Any]]) -> None:
    assert [(row["name"], row["device"]) for row in found] == [("xfs", "vda")]


def test_a_structure_of_the_member_holds_what_is_on_the_disk(
    found: list[dict[str, Any]], made_once: MadeOnce, tool: Callable[..., str]
) -> None:
    disk = make_data_disk(made_once, "xfs")
    blkid = [tool("blkid", package="util-linux"), "-p", "-o", "value", "-s", "UUID", str(disk)]
    uuid = subprocess.run(blkid, capture_output=True, text=True, check=True).stdout.strip()
    assert found[0]["uuid"] == uuid.replace("-", "")


def test_an_address_in_the_dump_is_a_function_and_a_file_of_the_member(found: list[dict[str, Any]]) -> None:
    assert found[0]["function"] == "xfs_fs_statfs"
    assert found[0]["source"].endswith("fs/xfs/xfs_super.c")


@pytest.mark.slow
def test_drgn_finds_the_addresses_in_the_dump_by_debug_information(
    dump: Dump,
    cloud: Kernel,  # noqa: F811
    found: list[dict[str, Any]],
) -> None:
    debug = debug_folder(cloud, ("vmlinux", "xfs"))
    (vmlinux,) = debug.glob("boot/vmlinux-*")
    assert look(dump, members_script("drgn", dump, debug, sections=False), vmlinux) == found


@pytest.mark.slow
def test_crash_shows_variables_types_and_lines_of_members(
    dump: Dump,
    cloud: Kernel,  # noqa: F811
    tool: Callable[..., str],
) -> None:
    crash = tool("crash", package="crash")
    debug = debug_folder(cloud, ("vmlinux", "xfs"))
    (vmlinux,) = debug.glob("boot/vmlinux-*")
    commands = dump.core.with_name("commands")
    script = members_script("crash", dump, debug).read_text()
    commands.write_text(
        f"{script}p xfs_fs_type.name\ngdb info line xfs_mountfs\nwhatis struct xfs_mount.m_super\nquit\n"
    )
    done = subprocess.run(
        [crash, "-s", "-i", commands, vmlinux, dump.core],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
        check=False,
    )
    assert re.search(r'^\$1 = 0x[0-9a-f]{16} .*"xfs"$', done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert re.search(r'^Line \d+ of "fs/xfs/xfs_mount\.c" starts at .* <xfs_mountfs>', done.stdout, re.MULTILINE)
    assert "struct super_block *m_super;" in done.stdout
