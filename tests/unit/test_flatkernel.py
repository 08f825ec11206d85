"""The exports of kernel images without section headers, judged by the modules of the same kernel: what they import and
none of them exports, the kernel must."""

from __future__ import annotations

import random
import struct

import pytest

from megamod.common.errors import MegamodError
from megamod.kernel.export_sources import read_image_exports
from megamod.kernel.exports import find_exports
from megamod.kernel.flat_image import flat_exports
from megamod.kernel.kernel_image import unwrap
from megamod.modules.kernel_files import KernelFiles
from megamod.modules.tree import open_tree
from megamod.prelink.read import read_members

KERNELS = [
    ("bookworm", "arm64"),
    ("sid", "arm64"),
    ("trixie", "riscv64"),
    ("sid", "riscv64"),
    ("trixie", "armhf"),
]


@pytest.mark.parametrize("pair", KERNELS, ids="-".join)
def test_every_import_is_an_export_of_the_kernel_or_of_a_module(kernels, pair):
    kernel = kernels(*pair)
    exports = find_exports(KernelFiles(folder=kernel.modules, release=kernel.release))
    assert exports is not None
    # depmod's list of what modules export (alias symbol:NAME MODULE).
    others = {
        line.split()[1].removeprefix("symbol:")
        for line in (kernel.modules / "modules.symbols").read_text().splitlines()
        if line.startswith("alias ")
    }
    tree = open_tree(str(kernel.modules))
    chosen = random.Random(1).sample(sorted(tree.modules), 40)
    members = read_members(tree.modules[name].path for name in chosen)
    wanted = {name for member in members for name in member.imports.values()}
    assert len(wanted) > 300
    assert wanted - others - exports.symbols.keys() == set()


def test_newer_kernels_reserve_symbols_for_modules_by_name(kernels):
    kernel = kernels("sid", "arm64")
    exports = find_exports(KernelFiles(folder=kernel.modules, release=kernel.release))
    assert exports is not None
    assert any(export.namespace.startswith("module:kvm") or "btrfs" in export.namespace
               for export in exports.symbols.values())  # fmt: skip


def test_an_image_without_the_table_has_no_exports(tmp_path):
    image = tmp_path / "vmlinuz"
    image.write_bytes(bytes(0x38) + b"ARM\x64" + bytes(1 << 16))
    with pytest.raises(MegamodError, match=r"^.*vmlinuz: no table of exports is found"):
        read_image_exports(image)


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08", b"MZ\0\0zimg"], ids=["compressed", "EFI zboot"])
def test_an_image_whose_packed_kernel_is_damaged_is_refused(tmp_path, head):
    image = tmp_path / "vmlinuz"
    image.write_bytes(head + bytes(1 << 12))
    with pytest.raises(MegamodError, match=r"vmlinuz: "):
        read_image_exports(image)


def test_a_zimage_whose_kernel_cannot_be_unpacked_is_refused():
    image = bytes(0x24) + struct.pack("<I", 0x016F2818) + b"\x1f\x8b\x08\0" + bytes(100)
    with pytest.raises(MegamodError, match="a zImage, and what is packed in it is not found"):
        unwrap(image, source="zImage")


def test_a_table_shorter_than_any_kernels_is_none():
    data = bytearray(b"\0param_ops_int\0".ljust(4096, b"\0"))
    data += struct.pack("<iii", 0, 1 - 4100, 500)
    assert list(flat_exports(bytes(data))) == []
