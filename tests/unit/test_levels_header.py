"""profiles/megamod-initlevel.h: a module that is built with it against Debian's headers says its initcall level."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.apt import host_architecture
from megamod.boot.debian import fetch_package_files
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder, data_folder
from megamod.modules.levels import tagged_rank
from megamod.prelink.read import read_member
from tests.conftest import missing

# Compiles, or runs for a minute: not in tests/run.sh --unit.
pytestmark = pytest.mark.heavy

SOURCE = """\
#define pr_fmt(fmt) "mine: " fmt
#include <linux/init.h>
#include <linux/module.h>
static int __init start(void) { pr_info("here\\n"); return 0; }
static void __exit stop(void) { }
%s(start);
module_exit(stop);
MODULE_LICENSE("GPL");
"""
INITCALLS = {
    "tagged_core": ("core_initcall", "1"),
    "tagged_subsys": ("subsys_initcall_sync", "4"),
    "tagged_rootfs": ("rootfs_initcall", "5"),
    "tagged_late": ("late_initcall", "7"),
    "untagged": ("module_init", None),
}


@pytest.fixture(scope="session")
def headers(kernels, tool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The headers of the suite's kernel with paths of their own, ready for `make -C`."""
    for name, package in (("gcc", "gcc"), ("make", "make")):
        tool(name, package=package)
    if host_architecture() != "amd64":
        missing("the tools in linux-kbuild are programs of amd64")
    release = kernels("bookworm").release
    kbuild = "linux-kbuild-" + ".".join(release.split(".")[:2])
    root = tmp_path_factory.mktemp("headers")
    try:
        # The headers that all flavours share come along.
        for package in (f"linux-headers-{release}", kbuild):
            tree = fetch_package_files(package, "bookworm", architecture="amd64", cache=cache_folder())
            shutil.copytree(tree / "usr", root / "usr", symlinks=True, dirs_exist_ok=True)
    except MegamodError as error:
        missing(str(error))
    folder = root / f"usr/src/linux-headers-{release}"
    # The packages' files name each other by absolute paths.
    for path in (folder / "Makefile", folder / ".kernelvariables"):
        path.write_text(path.read_text().replace("/usr/src/", f"{root}/usr/src/"))
    return folder


@pytest.fixture(scope="session")
def built(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    header = (data_folder("profiles") / "megamod-initlevel.h").read_text()
    (folder / "shadow/linux").mkdir(parents=True)
    (folder / "shadow/linux/module.h").write_text(header)
    for name, (macro, _level) in INITCALLS.items():
        (folder / f"{name}.c").write_text(SOURCE % macro)
    objects = " ".join(f"{name}.o" for name in INITCALLS)
    (folder / "Kbuild").write_text(f"obj-m := {objects}\nNOSTDINC_FLAGS += -I$(src)/shadow\n")
    # Another compiler than the kernel's knows other options; BTF needs pahole and the vmlinux.
    command = ["make", "-C", str(headers), f"M={folder}", "CC=gcc", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "warning" not in done.stderr.replace("warning: the compiler differs", "")
    return folder


@pytest.mark.parametrize("name", list(INITCALLS))
def test_a_module_built_with_the_header_says_its_level(name: str, built: Path, tool: Callable[..., str]) -> None:
    level = INITCALLS[name][1]
    shown = subprocess.run(
        [tool("modinfo", package="kmod"), "-F", "initlevel", str(built / f"{name}.ko")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ([level] if level else [])


def test_the_tag_is_what_the_init_order_goes_by(built: Path) -> None:
    member = read_member((built / "tagged_subsys.ko").read_bytes(), file="tagged_subsys.ko")
    assert tagged_rank((6, 17), member.info("initlevel")) == (4, 17)
    member = read_member((built / "untagged.ko").read_bytes(), file="untagged.ko")
    assert tagged_rank((6, 17), member.info("initlevel")) == (6, 17)


def test_pr_fmt_of_the_source_still_counts(built: Path) -> None:
    assert b"mine: here" in (built / "tagged_late.ko").read_bytes()
