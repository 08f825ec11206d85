"""gdb on QEMU's stub, with what `megamod debug gdb` prints: break in a member by name and by line, see arguments.

The same session makes the guest oops at a place that gdb has chosen, and the oops is symbolized.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.boot.disk import FileSystem
from megamod.boot.qemu import run_qemu
from tests.boot.debug_kernels import (  # noqa: F401
    FLAVOUR,
    TIMEOUT,
    cloud,
    connected,
    debug_folder,
    debug_image,
    debug_kernel,
    megamod,
    read_until,
    wait_for,
)
from tests.boot.image_fixtures import Guest, MadeOnce, add_program, make_data_disk
from tests.boot.test_debug_symbolize import module_file

# The second serial port takes the addresses out, and brings the word that gdb is ready.
SCRIPT = """
mkdir -p /mnt
stty -F /dev/ttyS1 raw -echo
grep -r . /sys/module/megamod_critical/sections > /dev/ttyS1
echo end > /dev/ttyS1
head -c 1 /dev/ttyS1 > /dev/null
mount -t {filesystem} /dev/vda /mnt
show mounted echo $?
show log dmesg
# Without a sync, which would wait for the mount that the oops has ended.
poweroff -nf
"""

COMMANDS = """\
set pagination off
set confirm off
set width 0
source {script}
target remote {stub}
break {function}
break {line}
shell touch {ready}
continue
echo <<<name\\n
frame
info args
print {name}
print {module}_fs_type.name
continue
echo <<<line\\n
frame
print {name}
delete
stepi 12
echo <<<oops\\n
info symbol $pc
info line *$pc
print/x $pc
set *(unsigned short *)$pc = 0x0b0f
detach
quit
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file system and what mounting it goes through. function: its arguments are shown; name: an expression in both
    functions that is the name of the device; entry: a function that is found by the line it begins at."""

    flavour: str
    module: FileSystem
    function: str
    shown: str
    name: str
    entry: str


XFS = Case(
    flavour="cloud-amd64",
    module="xfs",
    function="xfs_mountfs",
    shown=r"xfs_mountfs \(mp=(mp@entry=)?0xffff[0-9a-f]{12}\) at fs/xfs/xfs_mount\.c:\d+",
    name="mp->m_super->s_id",
    entry="xfs_log_mount",
)
EXT4 = Case(
    flavour="amd64",
    module="ext4",
    function="__ext4_fill_super",
    shown=r"__ext4_fill_super \((fc=.*, )?sb=(sb@entry=)?0xffff[0-9a-f]{12}(, fc=.*)?\) at fs/ext4/super\.c:\d+",
    name="sb->s_id",
    entry="__ext4_iget",
)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What gdb printed after each mark, and the guest that it worked on."""

    case: Case
    debug: Path
    link_map: Path
    parts: dict[str, str]
    guest: Guest
    script: str
    line: str


@pytest.fixture(scope="module", params=[XFS, pytest.param(EXT4, marks=pytest.mark.slow)], ids=lambda case: case.module)
def session(
    request: pytest.FixtureRequest,
    made_once: MadeOnce,
    cloud: Kernel,  # noqa: F811
    tool: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Session]:
    gdb = tool("gdb", package="gdb")
    case: Case = request.param
    kernel = cloud if case.flavour == FLAVOUR else debug_kernel(case.flavour)
    debug = debug_folder(kernel, ("btrfs", case.module, "virtio_blk", "virtio_pci"))
    image, link_map = debug_image(made_once, kernel)
    program = add_program(made_once, image, SCRIPT.replace("{filesystem}", case.module))
    line = entry_line(module_file(debug, case.module), case.entry)
    folder = tmp_path_factory.mktemp("gdb")
    # The path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="megamod-gdb-") as short, ThreadPoolExecutor(2) as pool:
        stub, port = f"{short}/gdb", f"{short}/port"
        extra = ["-gdb", f"unix:{stub},server=on,wait=off"]
        extra += ["-chardev", f"socket,id=port,path={port},server=on,wait=off", "-device", "isa-serial,chardev=port"]
        running = pool.submit(
            run_qemu,
            image=program,
            vmlinuz=kernel.vmlinuz,
            disks=[make_data_disk(made_once, case.module)],
            extra=extra,
            timeout=TIMEOUT,
            accel="tcg",
        )
        with connected(port) as wire:
            sections = folder / "sections"
            sections.write_text(read_until(wire, "end\n"))
            script = folder / "members.gdb"
            words = ["debug", "gdb", link_map, "--sections", sections, "--debug-dir", debug, "-o", script]
            megamod(*words)
            ready = folder / "ready"
            commands = folder / "commands"
            words = {"script": script, "stub": stub, "line": line, "ready": ready}
            words |= {"function": case.function, "name": case.name, "module": case.module}
            commands.write_text(COMMANDS.format(**words))
            talking = pool.submit(
                subprocess.run,
                [gdb, "-nx", "-batch", "-x", str(commands)],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
            wait_for(lambda: ready.exists() or talking.done())
            wire.sendall(b"\n")
            done = talking.result()
        result = running.result()
    guest = Guest(
        console=result.console, returncode=result.returncode, timed_out=result.timed_out, seconds=result.seconds
    )
    print(done.stdout[-4000:], done.stderr[-2000:])
    print("\n".join(guest.console.splitlines()[-40:]))
    parts = {text.split("\n", 1)[0]: text.split("\n", 1)[1] for text in done.stdout.split("<<<")[1:]}
    yield Session(
        case=case, debug=debug, link_map=link_map, parts=parts, guest=guest, script=script.read_text(), line=line
    )


def entry_line(path: Path, name: str) -> str:
    """The place of a function's first instruction as ``xfs_log.c:123``, by nm and addr2line."""
    listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    (value,) = {line.split()[0] for line in listed.splitlines() if line.split()[2:] == [name]}
    return by_addr2line(path, int(value, 16)).rsplit("/", 1)[-1]


def by_addr2line(path: Path, offset: int) -> str:
    command = ["addr2line", "-j", ".text", "-e", str(path), hex(offset)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" (")[0].strip()


def test_gdb_breaks_in_a_member_by_name_and_shows_arguments(session: Session) -> None:
    shown = session.parts["name"]
    assert re.search(session.case.shown, shown)
    assert re.search(r"^(mp|sb) = 0xffff[0-9a-f]{12}$", shown, re.MULTILINE)


def test_gdb_reads_what_an_argument_points_to(session: Session) -> None:
    assert '= "vda"' in session.parts["name"]


def test_gdb_reads_a_members_variable(session: Session) -> None:
    # The name of the file system's type is in the module's .data, and points to its .rodata.
    assert f'"{session.case.module}"' in session.parts["name"]


def test_gdb_breaks_in_a_member_by_line(session: Session) -> None:
    pattern = rf"{session.case.entry} \(.*\) at fs/{session.case.module}/{re.escape(session.line)}$"
    assert re.search(pattern, session.parts["line"], re.MULTILINE)


def test_an_oops_in_a_member_is_symbolized_to_function_and_line(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = session.guest.log()
    assert any(line.startswith("invalid opcode: 0000") for line in log)
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(log).encode())))
    megamod("symbolize", "--map", session.link_map, "--debug-dir", session.debug)
    shown = capsys.readouterr().out
    module = session.case.module
    match = re.search(rf"^RIP: 0010:(?P<place>\w+)\+\S+ \[{module}\] \((?P<where>\S+)\)$", shown, re.MULTILINE)
    assert match, shown
    # gdb has said where it put the invalid instruction: "Line 123 of "fs/xfs/xfs_log.c" starts at address …".
    said = re.search(r'^Line (\d+) of "(\S+)"', session.parts["oops"], re.MULTILINE)
    assert said
    assert match["where"] == f"{said[2]}:{said[1]}"
    assert f"{match['place']} + " in session.parts["oops"] or f"{match['place']} in section" in session.parts["oops"]


def test_every_member_with_a_debug_file_is_loaded_where_its_functions_are(session: Session) -> None:
    members = re.findall(r"^# (\w+) in megamod_critical$", session.script, re.MULTILINE)
    assert {"btrfs", session.case.module, "virtio_blk", "virtio_pci"} <= set(members)
    assert session.script.count("add-symbol-file ") == len(members)
