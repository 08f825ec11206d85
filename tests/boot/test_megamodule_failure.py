"""A member whose init fails takes down those that need it, wherever they come from, and nothing else.

libcrc32c fails in its init when no provider of crc32c is there. A btrfs whose init ran after that would call through a
NULL pointer. There is no disk in these guests: what init they have lies in the image.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from tests.boot.image_fixtures import END, Guest, add_program, make_image, run, tree_of

# Since 6.14 or so crc32c is a part of the kernel that cannot fail.
SUITES = ("bookworm", "bookworm-backports")

ONE_STAGE = """
name: one-stage
critical: {modules: [btrfs, xfs, raid456, dm_mod, loop]}
exclude: [crc32c_generic, crc32c_intel]
root: {exec: /main}
"""

TWO_STAGES = """
name: two-stages
critical: {modules: [libcrc32c, loop]}
deferred: [{name: files, modules: [btrfs, xfs, dm_mod], after: userspace}]
exclude: [crc32c_generic, crc32c_intel]
root: {exec: /main}
"""

# The files of these modules are in the guest's /lib/modules, the index files with all others.
STOCK = ("nf_conntrack", "nf_nat", "libcrc32c", "btrfs", "loop", "tun")

# A processor with all that hash drivers want, so that no other member fails.
CPU = ("-cpu", "max")

LOOK = """
show loop sh -c 'dd if=/dev/zero of=/image bs=1M count=1 2>/dev/null; losetup -f /image && losetup -a'
show mapper grep device-mapper /proc/misc
show mount mount -t btrfs /dev/loop0 /run
"""

ASK = """
mkdir -p /sbin; ln -s /usr/bin/kmod /sbin/modprobe
for name in nf_conntrack nf_nat btrfs fs-btrfs libcrc32c loop tun; do show "modprobe $name" /sbin/modprobe $name; done
"""


def real_kmod(tool) -> dict[str, bytes]:
    """This machine's kmod and the libraries that it is linked with."""
    program = Path(tool("kmod", package="kmod"))
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = [word for line in text.splitlines() for word in line.split() if word.startswith("/")]
    return {"usr/bin/kmod": program.read_bytes(), **{path[1:]: Path(path).read_bytes() for path in paths}}


def stock_modules(kernel: Kernel) -> dict[str, bytes]:
    """/lib/modules of a root file system: all index files, the modules `STOCK` and what they depend on."""
    tree = tree_of(kernel)
    wanted = {name for module in STOCK for name in (module, *tree.modules[module].depends)}
    files = [*kernel.modules.glob("modules.*"), *(tree.modules[name].path for name in wanted)]
    return {f"lib/modules/{kernel.release}/{path.relative_to(kernel.modules)}": path.read_bytes() for path in files}


@pytest.fixture(params=SUITES)
def kernel(request, kernels) -> Kernel:
    return kernels(request.param)


@pytest.fixture
def one_stage(made_once, kernel) -> Guest:
    image = add_program(made_once, make_image(made_once, kernel, ONE_STAGE), LOOK + END)
    return run(made_once, kernel, image, extra=CPU)


@pytest.fixture
def two_stages(made_once, kernel, tool) -> Guest:
    image = make_image(made_once, kernel, TWO_STAGES)
    files = {**real_kmod(tool), **stock_modules(kernel)}
    image = add_program(made_once, image, f"wait_for files\n{LOOK}{ASK}{END}", files)
    return run(made_once, kernel, image, extra=CPU, memory=1024)


def kernel_complaints(guest: Guest) -> list[str]:
    return [text for text in guest.failures() if not text.startswith("member ")]


def test_members_that_need_a_failed_member_are_skipped_and_all_others_run(one_stage):
    lines = {line.removeprefix("megamod: member ") for line in one_stage.log() if line.startswith("megamod: member ")}
    assert {line.split()[0] for line in lines if " skipped: needs " in line} == {"btrfs", "xfs", "raid456"}
    assert {line for line in lines if " failed: " in line} == {"libcrc32c failed: -ENOENT"}
    state, ok, failed, skipped = one_stage.stages()["critical"]
    assert (state, failed, skipped) == ("done", 1, 3)
    assert ok > 8


def test_what_does_not_need_the_failed_member_works(one_stage):
    assert one_stage.status("loop") == 0
    assert one_stage.status("mapper") == 0
    assert one_stage.status("mount") != 0


def test_the_kernel_does_not_complain_of_a_stage_with_a_failed_member(one_stage):
    assert kernel_complaints(one_stage) == []


def test_members_of_a_later_stage_that_need_a_failed_one_are_skipped(two_stages):
    assert "megamod: member libcrc32c failed: -ENOENT" in two_stages.log()
    skipped = {line for line in two_stages.log() if " skipped: " in line and "took" not in line}
    assert skipped == {f"megamod: member {name} skipped: needs libcrc32c" for name in ("btrfs", "xfs")}
    assert two_stages.stages()["files"][0] == "done"
    assert two_stages.status("loop") == 0
    assert two_stages.status("mapper") == 0
    assert two_stages.status("mount") != 0


def test_modprobe_refuses_stock_modules_that_need_a_failed_member(two_stages):
    for name in ("nf_conntrack", "nf_nat", "btrfs", "libcrc32c"):
        assert two_stages.status(f"modprobe {name}") != 0, name
    assert set(two_stages.modules()) == {"megamod_critical", "megamod_files", "tun"}


def test_modprobe_takes_members_for_done_and_loads_unrelated_modules(two_stages):
    assert two_stages.status("modprobe loop") == 0
    assert two_stages.status("modprobe tun") == 0


def test_the_kernel_takes_a_second_request_of_a_failed_member_quietly(two_stages):
    assert kernel_complaints(two_stages) == []
