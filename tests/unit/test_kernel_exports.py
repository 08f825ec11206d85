"""The export tables of a kernel that is an ELF file, as GNU ld and ld.lld leave them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from megamod.kernel.export_sources import KernelExport, read_image_exports
from tests.unit.module_factory import Ko

NAMES = ("first", "second")


def kernel(path: Path, crcs: bytes | None) -> Path:
    """A file with two exports; all sections are at address 0, so an offset counts from the start of its own table."""
    elf = Ko("vmlinux")
    text = b"\0" + b"".join(name.encode() + b"\0" for name in NAMES)
    rows = [struct.pack("<iii", 0, text.index(name.encode()) - 4 - 12 * n, -8 - 12 * n) for n, name in enumerate(NAMES)]
    elf.section("__ksymtab_strings", text)
    elf.section("__ksymtab", b"".join(rows))
    if crcs is not None:
        elf.section("__kcrctab", crcs)
    path.write_bytes(bytes(elf))
    return path


@pytest.mark.parametrize("crcs", [None, b""], ids=["no table", "an empty table, as ld.lld leaves it"])
def test_exports_of_a_kernel_without_modversions_have_no_crc(tmp_path: Path, crcs: bytes | None) -> None:
    exports = read_image_exports(kernel(tmp_path / "vmlinux", crcs))
    assert exports.symbols == {name: KernelExport(crc=None, gpl=False, namespace="") for name in NAMES}


def test_exports_of_a_kernel_with_modversions_have_their_crcs(tmp_path: Path) -> None:
    exports = read_image_exports(kernel(tmp_path / "vmlinux", struct.pack("<II", 7, 0xFFFFFFFE)))
    assert [export.crc for export in exports.symbols.values()] == [7, 0xFFFFFFFE]
