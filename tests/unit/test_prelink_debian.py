"""Debian's own modules, merged, as binutils and kmod see the result: no complaint, and what a module should say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from tests.unit.module_factory import Back

SCRIPT = Path(sys.executable).with_name("megamod")
NAMES = """virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk crc16 mbcache jbd2
crc32c_generic ext4 usb-common usbcore usb-storage mmc_core mmc_block scsi_common scsi_mod sd_mod""".split()
Tool = Callable[..., str]


@pytest.fixture(scope="module")
def kernel(kernels: Callable[[str], Kernel]) -> Kernel:
    return kernels("bookworm")


@pytest.fixture(scope="module")
def files(kernel: Kernel) -> list[Path]:
    found = {path.name.split(".ko")[0]: path for path in kernel.modules.rglob("*.ko*")}
    return [found[name] for name in NAMES if name in found]


def prelink(output: Path, files: list[Path], *options: str, seed: str = "0") -> bytes:
    subprocess.run(
        [SCRIPT, "prelink", "-q", *options, "-o", output, *files],
        check=True, timeout=1200, env={**os.environ, "PYTHONHASHSEED": seed},
    )  # fmt: skip
    return output.read_bytes()


@pytest.fixture(scope="module")
def merged(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("merged") / "megamod_test.ko"
    prelink(path, files)
    return path


def said(*words: object) -> tuple[str, str]:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=True, timeout=1200)
    return done.stdout, done.stderr


@pytest.mark.parametrize("options", [(), ("--unwind", "compact"), ("--unwind", "drop", "--symbols", "trim")])
def test_readelf_has_no_complaint(files: list[Path], tmp_path: Path, tool: Tool, options: tuple[str, ...]) -> None:
    path = tmp_path / "out.ko"
    prelink(path, files, *options)
    out, err = said(tool("readelf", package="binutils"), "-aW", path)
    assert err == ""
    assert not re.search(r"(?m)^readelf: |<corrupt|<unknown", out)
    assert "REL (Relocatable file)" in out


def test_objdump_disassembles_the_glue_to_its_end(merged: Path, tool: Tool) -> None:
    out, err = said(tool("objdump", package="binutils"), "-d", "-r", "-j", ".init.text", merged)
    assert err == ""
    assert "(bad)" not in out.partition("endbr64")[2].rpartition("endbr64")[2]
    assert "ktime_get" in out


def test_modinfo_says_what_a_module_should(merged: Path, kernel: Kernel, tool: Tool) -> None:
    modinfo = tool("modinfo", package="kmod")
    out, err = said(modinfo, merged)
    assert err == ""
    fields = dict(re.findall(r"(?m)^(\S+?):\s+(.*)$", out))
    assert fields["name"] == "megamod_test"
    assert fields["license"] == "GPL"
    assert fields["vermagic"].startswith(f"{kernel.release} ")
    assert fields["intree"] == "Y"
    members = said(modinfo, "-F", "megamod.member", merged)[0].split()
    assert sorted(members) == sorted(name.replace("-", "_") for name in NAMES if name.replace("-", "_") in members)
    assert len(members) > 12


def test_depmod_finds_the_exports(merged: Path, kernel: Kernel, files: list[Path], tmp_path: Path, tool: Tool) -> None:
    folder = tmp_path / "lib/modules" / kernel.release
    folder.mkdir(parents=True)
    shutil.copy(merged, folder)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (kernel.modules / name).exists():
            shutil.copy(kernel.modules / name, folder)
    # A real module that imports from members: depmod must find their exports in the megamodule.
    user = next(kernel.modules.rglob("uas.ko*"))
    shutil.copy(user, folder)
    depmod = tool("depmod", package="kmod")
    out, err = said(depmod, "-b", tmp_path, "-n", kernel.release)
    assert err == ""
    assert "symbol:jbd2_journal_start megamod_test" in out
    assert re.search(r"(?m)^uas\.ko\S*: megamod_test\.ko$", out)
    # Symbols that only other modules have may be missing; nothing of the members may be.
    _, err = said(depmod, "-b", tmp_path, "-n", "-w", kernel.release)
    assert err == ""


def test_exports_are_those_of_the_members(merged: Path, files: list[Path]) -> None:
    expected: dict[str, int | None] = {}
    for path in files:
        if path.suffix == ".ko":
            back = Back(path.read_bytes())
            for table in ("__ksymtab", "__ksymtab_gpl"):
                expected |= {name: crc for name, _, crc in back.exports(table)} if table in back else {}
    back = Back(merged.read_bytes())
    found = {name: crc for table in ("__ksymtab", "__ksymtab_gpl") for name, _, crc in back.exports(table)}
    assert expected
    assert expected.items() <= found.items()


def test_two_links_are_the_same_bytes_in_any_process(merged: Path, files: list[Path], tmp_path: Path) -> None:
    assert prelink(tmp_path / "megamod_test.ko", files, seed="4711") == merged.read_bytes()


@pytest.mark.parametrize("name", ["virtio_pci", "ext4", "usb-storage"])
def test_real_module_cut_anywhere_is_refused(files: list[Path], tmp_path: Path, name: str) -> None:
    data = next(path for path in files if path.name.startswith(f"{name}.ko")).read_bytes()
    for part in (1, 3, 5, 7, 9):
        (tmp_path / "cut.ko").write_bytes(data[: len(data) * part // 10])
        done = subprocess.run(
            [SCRIPT, "prelink", "-o", tmp_path / "out.ko", tmp_path / "cut.ko"],
            capture_output=True, text=True, check=False, timeout=1200,
        )  # fmt: skip
        assert done.returncode == 1
        assert re.fullmatch(r"megamod: \S*cut\.ko: .*\(hint: the file is truncated\)\n", done.stderr), done.stderr
