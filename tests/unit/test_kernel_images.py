"""The kernel inside of what boot loaders start, and its files where distributions and build systems leave them."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.common.compression import compress
from megamod.common.errors import MegamodError
from megamod.kernel.config import find_config
from megamod.kernel.exports import find_exports, kernel_image_of, search_exports
from megamod.kernel.kernel_image import kernel_release, unwrap
from megamod.modules.kernel_files import KernelFiles, yocto_folders
from tests.unit.test_kernel_exports import NAMES, kernel

RELEASE = "6.1.0-test"
FLAT = (bytes(0x38) + b"ARM\x64" + f"\0Linux version {RELEASE} (a@b) (gcc)\n".encode()).ljust(5000, b"\x5a")
SYMVERS = "0x12345678\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n0x1\tother\tdrivers/other\tEXPORT_SYMBOL\t\n"


def zboot(data: bytes) -> bytes:
    """zboot-header.S: magic numbers, then offset and size of the payload."""
    return (b"MZ\0\0zimg" + struct.pack("<II", 4096, len(data))).ljust(4096, b"\0") + data + b"PE"


def zimage(data: bytes) -> bytes:
    code = b"\0" * 0x24 + struct.pack("<I", 0x016F2818) + b"code \x1f\x8b\x08\0 by chance"
    return code + data + b"a device tree"


def android(data: bytes, *, version: int) -> bytes:
    if version >= 3:
        head = struct.pack("<8s4I16xI", b"ANDROID!", len(data), 0, 0, 1580, version)
        return head.ljust(4096, b"\0") + data
    head = struct.pack("<8s10I", b"ANDROID!", len(data), 0x80008000, 0, 0, 0, 0, 0, 2048, version, 0)
    return head.ljust(2048, b"\0") + data.ljust(8192, b"\0")


def bzimage(data: bytes, *, appended: bool) -> bytes:
    head = bytearray(4 * 512 + 0x300)
    head[0x1F1] = 3
    head[0x202:0x206] = b"HdrS"
    payload = data + (struct.pack("<I", 5000) if appended else b"")
    struct.pack_into("<II", head, 0x248, 0x300, len(payload))
    return bytes(head) + payload + b"more"


WRAPPED = {
    "Image": FLAT,
    "Image.gz": gzip.compress(FLAT),
    "Image.zst": compress(FLAT, "zstd"),
    "Image.lz4": compress(FLAT, "lz4"),
    "Image.gz-dtb": gzip.compress(FLAT) + b"\xd0\x0d\xfe\xed" + bytes(64),
    "zboot, gzip": zboot(gzip.compress(FLAT)),
    "zboot, zstd": zboot(compress(FLAT, "zstd")),
    "zImage, gzip": zimage(gzip.compress(FLAT, mtime=0)),
    "zImage, lzma": zimage(lzma.compress(FLAT, format=lzma.FORMAT_ALONE)),
    "zImage, xz": zimage(lzma.compress(FLAT)),
    "boot.img 0": android(gzip.compress(FLAT), version=0),
    "boot.img 2": android(FLAT, version=2),
    "boot.img 4": android(compress(FLAT, "lz4"), version=4),
    "bzImage, gzip": bzimage(gzip.compress(FLAT), appended=False),
    "bzImage, lzma": bzimage(lzma.compress(FLAT, format=lzma.FORMAT_ALONE), appended=True),
    "bzImage, xz": bzimage(lzma.compress(FLAT), appended=True),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_kernel_is_found_in_its_wrapping(name: str) -> None:
    assert unwrap(WRAPPED[name], source=name) == FLAT
    assert kernel_release(FLAT) == RELEASE


@pytest.mark.parametrize("packing", ["none", "gzip"])
def test_the_kernel_is_found_in_what_mkimage_makes(tool: Callable[..., str], tmp_path: Path, packing: str) -> None:
    plain, image = tmp_path / "Image", tmp_path / "uImage"
    plain.write_bytes(gzip.compress(FLAT) if packing == "gzip" else FLAT)
    command = [tool("mkimage", package="u-boot-tools"), "-A", "arm64", "-T", "kernel", "-C", packing, "-a", "0x80000"]
    subprocess.run([*command, "-n", "Linux", "-d", plain, image], check=True, capture_output=True)
    assert unwrap(image.read_bytes(), source="uImage") == FLAT


@pytest.mark.parametrize("where", ["inside", "behind the tree"])
def test_the_kernel_is_found_in_a_fit_image_of_mkimages(tool: Callable[..., str], tmp_path: Path, where: str) -> None:
    (tmp_path / "Image.gz").write_bytes(gzip.compress(FLAT))
    (tmp_path / "x.dtb").write_bytes(bytes(64))
    tool("dtc", package="device-tree-compiler")
    command = [tool("mkimage", package="u-boot-tools"), "-f", "auto", "-A", "arm64", "-O", "linux", "-T", "kernel"]
    command += ["-C", "gzip", "-a", "0x80000", "-e", "0x80000", *(["-E"] if where != "inside" else []), "-n", "Linux"]
    fit = tmp_path / "fitImage"
    subprocess.run([*command, "-d", tmp_path / "Image.gz", fit], check=True, capture_output=True)
    assert unwrap(fit.read_bytes(), source="fitImage") == FLAT


def test_the_image_of_arm_has_no_header_and_is_known_by_its_banner() -> None:
    plain = b"\x01\x02" * 600 + FLAT[0x3C:]
    assert unwrap(plain, source="Image") == plain


@pytest.mark.parametrize(
    ("name", "left"), [("boot.img 2", 7000), ("bzImage, xz", 2900), ("zboot, gzip", 4100), ("zImage, lzma", 90)]
)
def test_an_image_that_is_cut_short_is_refused_with_its_name(name: str, left: int) -> None:
    with pytest.raises(MegamodError, match=r"^vmlinuz: "):
        unwrap(WRAPPED[name][:left], source="vmlinuz")


def test_something_else_is_refused() -> None:
    with pytest.raises(MegamodError, match=r"^x: is not a kernel image that is known here"):
        unwrap(b"#!/bin/sh\n".ljust(5000), source="x")


def tree(root: Path) -> KernelFiles:
    folder = root / "lib/modules" / RELEASE
    folder.mkdir(parents=True)
    return KernelFiles(folder=folder, release=RELEASE)


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("name", ["Image", "Image.gz", "zImage", "vmlinuz", "vmlinux"])
def test_boot_of_the_same_tree_has_the_image_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    files = tree(tmp_path)
    image = put(tmp_path / f"boot/{name}-{RELEASE}", FLAT)
    put(tmp_path / f"boot/{name}-6.1.0-other", FLAT)
    assert kernel_image_of(files) == image


def test_buildroots_output_is_known_by_the_target_folder(tmp_path: Path) -> None:
    output = tmp_path / "output"
    files = tree(output / "target")
    build = output / "build/linux-6.1"
    put(output / "build/linux-5.9/include/config/kernel.release", "5.9.0\n")
    put(output / "build/linux-5.9/.config", "CONFIG_WRONG=y\n")
    put(build / "include/config/kernel.release", f"{RELEASE}\n")
    put(build / ".config", "CONFIG_RD_XZ=y\n")
    symvers = put(build / "Module.symvers", SYMVERS)
    image = put(output / "images/Image", FLAT)
    config, exports = find_config(files), find_exports(files)
    assert config is not None and config.enabled("RD_XZ")
    assert exports is not None and (exports.source, list(exports.symbols)) == (symvers, ["kfree"])
    assert kernel_image_of(files) == image


def test_yoctos_folders_are_known_below_tmp_and_from_the_environment(tmp_path: Path) -> None:
    tmp = tmp_path / "tmp"
    build, deploy = tmp / "work-shared/qemuarm64/kernel-build-artifacts", tmp / "deploy/images/qemuarm64"
    put(build / "kernel-abiversion", f"{RELEASE}\n")
    config = put(build / ".config", "CONFIG_RD_XZ=y\n")
    symbols = put(build / f"System.map-{RELEASE}", "ffff800008000000 r __ksymtab_kfree\n")
    image = put(deploy / "Image", FLAT)
    inside = tree(tmp / "work/qemuarm64-poky-linux/core-image-minimal/1.0/rootfs")
    named = {"STAGING_KERNEL_BUILDDIR": str(build), "DEPLOY_DIR_IMAGE": str(deploy)}
    elsewhere = KernelFiles(
        folder=tree(tmp_path / "sysroot").folder, release=RELEASE, **yocto_folders({**named, "PATH": "/bin"})
    )
    for files in (inside, elsewhere):
        assert list(files.configs()) == [config]
        assert list(files.system_maps()) == [symbols]
        assert kernel_image_of(files) == image


def test_an_image_of_another_kernel_is_passed_over_unless_it_is_named(tmp_path: Path) -> None:
    output = tmp_path / "output"
    files = tree(output / "target")
    image = put(output / "images/Image", _with_exports(tmp_path, "5.9.0-other"))
    assert kernel_image_of(files) is None
    assert search_exports(files) == (None, ())
    named = KernelFiles(folder=files.folder, release=RELEASE, vmlinuz=image)
    with pytest.raises(MegamodError, match=r"Image: is Linux 5.9.0-other, and the modules are of 6.1.0-test"):
        search_exports(named)


def test_an_image_that_cannot_be_read_is_a_note_and_the_next_source_is_taken(tmp_path: Path) -> None:
    files = tree(tmp_path)
    put(tmp_path / f"boot/vmlinuz-{RELEASE}", b"\x7fELF what is this")
    symvers = put(tmp_path / f"boot/symvers-{RELEASE}.gz", gzip.compress(SYMVERS.encode()))
    for _ in range(2):  # the second answer is the one that was kept
        exports, notes = search_exports(files)
        assert exports is not None and exports.source == symvers
        assert len(notes) == 1 and notes[0].endswith(": its exports are not read")


def test_a_system_map_says_which_exports_are_for_gpl_only(tmp_path: Path) -> None:
    lines = ["1000 R __start___ksymtab", "1000 r __ksymtab_kfree", "2000 R __start___ksymtab_gpl",
             "2000 r __ksymtab_gpl_only", "200c R __stop___ksymtab_gpl", "3000 T kfree"]  # fmt: skip
    named = put(tmp_path / "System.map", "".join(f"ffffffff8100{line}\n" for line in lines))
    exports = find_exports(KernelFiles(folder=tree(tmp_path).folder, release=RELEASE, system_map=named))
    assert exports is not None and not exports.has_crcs
    assert {name: export.gpl for name, export in exports.symbols.items()} == {"kfree": False, "gpl_only": True}


def test_a_system_map_is_not_looked_at_where_the_image_has_said_all_of_it(tmp_path: Path) -> None:
    files = tree(tmp_path)
    put(tmp_path / f"boot/vmlinuz-{RELEASE}", _with_exports(tmp_path, RELEASE))
    put(tmp_path / f"boot/System.map-{RELEASE}", "ffffffffffffffff B The real System.map is in another package\n")
    exports, notes = search_exports(files)
    assert exports is not None and notes == ()


def test_a_file_that_only_looks_like_a_configuration_is_passed_over(tmp_path: Path) -> None:
    files = tree(tmp_path)
    put(tmp_path / f"boot/config-{RELEASE}", "")
    assert find_config(files) is None
    put(files.folder / "build/.config", "CONFIG_RD_XZ=y\n")
    config = find_config(files)
    assert config is not None and config.enabled("RD_XZ")


def test_what_has_crcs_is_taken_before_what_has_none(tmp_path: Path) -> None:
    files = tree(tmp_path)
    put(tmp_path / f"boot/vmlinuz-{RELEASE}", _with_exports(tmp_path, RELEASE))
    exports = find_exports(files)
    assert exports is not None and set(exports.symbols) == set(NAMES)
    put(tmp_path / f"boot/symvers-{RELEASE}", SYMVERS)
    exports = find_exports(files)
    assert exports is not None and exports.has_crcs


def _with_exports(tmp_path: Path, release: str) -> bytes:
    return kernel(tmp_path / "made", None).read_bytes() + f"\0Linux version {release} (a@b)\n".encode()
