"""A WARN whose ud2 has an unwind state of its own for three bytes: compacted tables must not lose that state.

The module is built here against Debian's headers, so that an insmod is sure to come to such a place.
"""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from megamod.boot.debian import Kernel
from megamod.image.cpio import Entry
from megamod.prelink.link import Megamodule, prelink_files
from megamod.prelink.options import PrelinkOptions, Unwind
from tests.boot.image_fixtures import INIT, Guest, read_stock
from tests.boot.test_megamodule_traces import Frame, frames
from tests.unit.test_levels_header import headers  # noqa: F401

# The push moves the stack for the ud2 and the pop alone: seen with the state before it, the return address is rbx.
# The empty asm after a call keeps it from becoming a jump.
SOURCE = """\
#include <linux/bug.h>
#include <linux/init.h>
#include <linux/module.h>
static noinline void warn_leaf(void)
{
	asm volatile("push %rbx");
	__WARN_FLAGS(BUGFLAG_TAINT(TAINT_WARN));
	asm volatile("pop %rbx");
}
static noinline void warn_inner(void) { warn_leaf(); asm volatile(""); }
static noinline void warn_outer(void) { warn_inner(); asm volatile(""); }
static int __init warn_start(void) { warn_outer(); return 0; }
module_init(warn_start);
MODULE_LICENSE("GPL");
"""

SCRIPT = (
    INIT
    + """
show insmod insmod /merged.ko
show modules cat /proc/modules
show log dmesg
poweroff -f
"""
)

CALL_SIZE = 5
BUG_ENTRY_SIZE = 12  # struct bug_entry with CONFIG_DEBUG_BUGVERBOSE: address, file, line, flags
ORC_ENTRY_SIZE = 6  # struct orc_entry
_RIP = re.compile(r"RIP: 0010:(?P<place>[\w.]+\+0x[0-9a-f]+)/0x[0-9a-f]+ \[(?P<module>\w+)\]")


@pytest.fixture(scope="module")
def kernel(kernels) -> Kernel:
    return kernels("bookworm")


@pytest.fixture(scope="module")
def warner(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The module, built."""
    folder = tmp_path_factory.mktemp("warner")
    (folder / "warner.c").write_text(SOURCE)
    (folder / "Kbuild").write_text("obj-m := warner.o\n")
    command = ["make", "-C", str(headers), f"M={folder}", "CC=gcc", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "warner.ko"


@pytest.fixture(scope="module")
def merged(kernel: Kernel, warner: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Unwind, Megamodule]:
    """The module merged with crc16, per way to treat the unwind tables."""
    stock = tmp_path_factory.mktemp("stock") / "crc16.ko"
    stock.write_bytes(read_stock(kernel, "crc16"))
    return {unwind: merge([stock, warner], unwind) for unwind in ("keep", "compact")}


def merge(files: list[Path], unwind: Unwind) -> Megamodule:
    return prelink_files(files, PrelinkOptions(name="megamod_warn", unwind=unwind, allow_taint=True))


def places(file: ELFFile, section: str, every: int) -> np.ndarray:
    """[section, offset] that each entry's first field, of entries of *every* bytes, is relocated to."""
    symbols = file.get_section_by_name(".symtab")
    found = []
    for row in file.get_section_by_name(f".rela{section}").iter_relocations():
        if row["r_offset"] % every == 0:
            symbol = symbols.get_symbol(row["r_info_sym"])
            found.append((row["r_offset"], symbol["st_shndx"], symbol["st_value"] + row["r_addend"]))
    return np.array(sorted(found), np.int64)[:, 1:]


def states_around_the_bug(module: Path) -> tuple[int, list[bytes]]:
    """Bytes that the ORC entry of the module's only WARN covers; its state between those before and after it."""
    file = ELFFile(io.BytesIO(module.read_bytes()))
    ((home, bug),) = places(file, "__bug_table", BUG_ENTRY_SIZE).tolist()
    assert file.get_section(home).data()[bug : bug + 2] == b"\x0f\x0b"
    ips = places(file, ".orc_unwind_ip", 4)
    states = np.frombuffer(file.get_section_by_name(".orc_unwind").data(), f"V{ORC_ENTRY_SIZE}")
    rows = np.flatnonzero(ips[:, 0] == home)
    rows = rows[np.argsort(ips[rows, 1], kind="stable")]
    starts = ips[rows, 1]
    at = int(np.searchsorted(starts, bug, side="right")) - 1
    return int(starts[at + 1] - starts[at]), [states[row].tobytes() for row in rows[at - 1 : at + 2]]


def unwind_entries(module: Megamodule) -> int:
    return int(ELFFile(io.BytesIO(module.data)).get_section_by_name(".orc_unwind_ip.sorted")["sh_size"]) // 4


def warning(guest: Guest) -> tuple[Frame, list[Frame]]:
    """The place of the guest's only WARN, and the frames of its trace that the kernel is sure of."""
    log = guest.log()
    (rip,) = [match for line in log if (match := _RIP.fullmatch(line))]
    ((start, end),) = zip(
        [at for at, line in enumerate(log) if line == " <TASK>"],
        [at for at, line in enumerate(log) if line == " </TASK>"],
        strict=True,
    )
    # A frame that is a guess has a "?" before its name, which makes its line none of `frames`.
    return (rip["place"], rip["module"]), frames(log[start:end])


def test_the_warn_has_an_unwind_state_of_its_own_for_less_than_a_call(warner):
    size, (before, own, after) = states_around_the_bug(warner)
    assert 2 <= size < CALL_SIZE
    assert own not in (before, after)


def test_a_warn_in_a_short_range_has_the_same_trace_with_compacted_tables(warner, merged, kernel, busybox_image, boot):
    # Compacting has dropped entries, or it could not have dropped this one.
    assert unwind_entries(merged["compact"]) < unwind_entries(merged["keep"])
    traces = {}
    for unwind, module in merged.items():
        entry = Entry(path="merged.ko", mode=stat.S_IFREG | 0o644, data=module.data)
        result = boot(image=busybox_image(SCRIPT, entries=[entry]), vmlinuz=kernel.vmlinuz)
        guest = Guest(
            console=result.console, returncode=result.returncode, timed_out=result.timed_out, seconds=result.seconds
        )
        assert guest.status("insmod") == 0
        assert guest.modules() == ["megamod_warn"]
        traces[unwind] = warning(guest)
    (place, module), trace = traces["keep"]
    assert place.startswith("warn_leaf+")
    assert module == "megamod_warn"
    names = [(place.partition("+")[0], module) for place, module in trace]
    own = [(name, "megamod_warn") for name in ("warn_inner", "warn_outer", "warn_start", "megamod_init")]
    assert names[:5] == [*own, ("do_one_initcall", None)]
    assert names[-1][0].startswith("entry_SYSCALL_64")
    assert traces["compact"] == traces["keep"]
