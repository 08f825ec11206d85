"""`megamod fit` and `megamod append`: what U-Boot's tools and fdtget read in a FIT image, and what is refused."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from megamod.cli import main as cli
from megamod.common.errors import MegamodError
from megamod.image.append import append_image
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from megamod.image.fit import write_fit
from megamod.image.uki import uki_sections

ARM64, ARM, RISCV = 0xB7, 0x28, 0xF3
_SOURCE = '/dts-v1/; / { compatible = "acme,board", "acme,soc"; model = "%s"; };'


def flat(magic: bytes, body: bytes = b"kernel" * 1000) -> bytes:
    """An Image: nothing but its magic number, at 0x38, and content."""
    return bytes(0x38) + magic + bytes(4) + body


def zboot(packed: bytes) -> bytes:
    """An EFI image that unpacks itself, as much of it as is read."""
    return b"MZ\0\0zimg" + struct.pack("<II", 64, len(packed)) + bytes(48) + packed


KERNELS = {ARM64: flat(b"ARM\x64"), RISCV: flat(b"RSC\x05"), ARM: bytes(0x24) + bytes.fromhex("18286f01") + bytes(99)}


@pytest.fixture
def image(tmp_path: Path) -> Callable[[int], Path]:
    def make(machine: int) -> Path:
        init = b"\x7fELF" + bytes(14) + struct.pack("<H", machine) + bytes(44)
        write_image(tmp_path / "image", [Entry(path="init", mode=0o100755, data=init)], method="zstd")
        return tmp_path / "image"

    return make


@pytest.fixture
def trees(tool: Callable[..., str], tmp_path: Path) -> list[Path]:
    """Two device trees, by dtc."""
    for name in ("one", "two"):
        command = [tool("dtc", package="device-tree-compiler"), "-q", "-o", tmp_path / f"{name}.dtb", "-"]
        subprocess.run(command, input=(_SOURCE % name).encode(), check=True)
    return [tmp_path / "one.dtb", tmp_path / "two.dtb"]


def make(folder: Path, image: Path, kernel: bytes, trees: Sequence[Path] = (), load: int | None = None) -> Path:
    (folder / "vmlinuz").write_bytes(kernel)
    write_fit(folder / "out.itb", image=image, vmlinuz=folder / "vmlinuz", dtbs=trees, load=load)
    return folder / "out.itb"


def test_mkimage_lists_kernel_trees_and_initramfs_with_their_hashes(tool, image, trees, tmp_path) -> None:
    path = make(tmp_path, image(ARM64), KERNELS[ARM64], trees)
    command = [tool("mkimage", package="u-boot-tools"), "-l", path]
    lines = [line.strip() for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()]
    assert "FIT description: megamod: kernel and initramfs" in lines
    assert "Type:         Kernel Image (no loading done)" in lines
    assert "Type:         RAMDisk Image" in lines
    assert lines.count("Type:         Flat Device Tree") == 2
    assert lines.count("Hash algo:    sha256") == 4
    assert "Default Configuration: 'conf-1'" in lines
    place = lines.index("Configuration 1 (conf-2)")
    assert lines[place + 1 : place + 5] == [
        "Description:  two.dtb",
        "Kernel:       kernel-1",
        "Init Ramdisk: ramdisk-1",
        "FDT:          fdt-2",
    ]


def test_dumpimage_takes_out_what_was_put_in(tool, image, trees, tmp_path) -> None:
    ramdisk = image(ARM64)
    path = make(tmp_path, ramdisk, KERNELS[ARM64], trees)
    wanted = [KERNELS[ARM64], ramdisk.read_bytes(), *(tree.read_bytes() for tree in trees)]
    for number, data in enumerate(wanted):
        out = tmp_path / "part"
        command = [tool("dumpimage", package="u-boot-tools"), "-T", "flat_dt", "-p", str(number), "-o", out, path]
        subprocess.run(command, capture_output=True, check=True)
        assert out.read_bytes() == data


def test_hashes_are_right_by_u_boots_own_check(tool, image, trees, tmp_path) -> None:
    """fit_check_sign goes over every hash, and fails for a changed byte."""
    path = make(tmp_path, image(ARM64), KERNELS[ARM64], trees)
    hashed = subprocess.run(
        [tool("sha256sum", package="coreutils"), tmp_path / "vmlinuz"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    fdtget = tool("fdtget", package="device-tree-compiler")
    command = [fdtget, "-t", "bx", path, "/images/kernel-1/hash-1", "value"]
    value = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "".join(f"{int(byte, 16):02x}" for byte in value) == hashed


@pytest.mark.parametrize(
    ("machine", "load", "kind", "address"),
    [
        (ARM64, None, "kernel_noload", 0),
        (ARM, 0x41000000, "kernel", 0x41000000),
        (RISCV, None, "kernel", 0x80200000),
        (ARM64, 0x40200000, "kernel", 0x40200000),
    ],
)
def test_kernel_is_started_where_it_lies_or_at_the_address(tool, image, tmp_path, machine, load, kind, address) -> None:
    path = make(tmp_path, image(machine), KERNELS[machine], load=load)
    fdtget = tool("fdtget", package="device-tree-compiler")

    def value(name: str, *form: str) -> str:
        command = [fdtget, *form, path, "/images/kernel-1", name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert (value("type"), value("load", "-t", "x"), value("entry", "-t", "x")) == (
        kind,
        f"{address:x}",
        f"{address:x}",
    )


def test_compatible_of_the_tree_is_that_of_its_configuration(tool, image, trees, tmp_path) -> None:
    path = make(tmp_path, image(ARM64), KERNELS[ARM64], trees)
    command = [tool("fdtget", package="device-tree-compiler"), path, "/configurations/conf-1", "compatible"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "acme,board acme,soc\n"


@pytest.mark.parametrize("wrap", [gzip.compress, lambda data: zboot(gzip.compress(data) + b"\0\0\0\1")])
def test_a_packed_kernel_is_unpacked(tool, image, tmp_path, wrap) -> None:
    path = make(tmp_path, image(ARM64), wrap(KERNELS[ARM64]))
    out = tmp_path / "part"
    command = [tool("dumpimage", package="u-boot-tools"), "-T", "flat_dt", "-p", "0", "-o", out, path]
    subprocess.run(command, capture_output=True, check=True)
    assert out.read_bytes() == KERNELS[ARM64]


def test_same_input_gives_the_same_bytes(image, trees, tmp_path) -> None:
    first = make(tmp_path, image(ARM64), KERNELS[ARM64], trees).read_bytes()
    assert make(tmp_path, image(ARM64), KERNELS[ARM64], trees).read_bytes() == first


@pytest.mark.parametrize(
    ("machine", "kernel", "message"),
    [
        (ARM64, b"junk" * 200, "vmlinuz: no kernel image (hint: a FIT image is for an Image of arm64 or riscv64"),
        (ARM64, bytes(0x202) + b"HdrS" + bytes(99), "vmlinuz: a bzImage, which U-Boot starts by `zboot`"),
        (ARM, KERNELS[ARM64], "image: is for arm, "),
        (ARM, KERNELS[ARM], "vmlinuz: a zImage must be started at an address of the board's (hint: --load ADDRESS"),
        (0x3E, KERNELS[ARM64], "image: is for another architecture, "),
    ],
)
def test_what_does_not_fit_is_refused(image, tmp_path, machine, kernel, message) -> None:
    with pytest.raises(MegamodError) as caught:
        make(tmp_path, image(machine), kernel)
    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(message)
    assert not (tmp_path / "out.itb").exists()


def test_what_is_no_image_and_no_tree_is_refused(image, tmp_path) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 20)
    with pytest.raises(MegamodError, match=r"junk: is not a device tree .hint: dtc -O dtb makes one"):
        make(tmp_path, image(ARM64), KERNELS[ARM64], [tmp_path / "junk"])
    write_image(tmp_path / "other", [Entry(path="hello", mode=0o100644, data=b"world")], method="none")
    with pytest.raises(MegamodError, match=r"other: has no /init from megamod"):
        make(tmp_path, tmp_path / "other", KERNELS[ARM64])


def test_an_address_that_is_none_is_refused(image, tmp_path, monkeypatch, capsys) -> None:
    words = ["fit", str(image(ARM64)), "--vmlinuz", "vmlinuz", "-o", "out.itb", "--load", "here"]
    monkeypatch.setattr(sys, "argv", ["megamod", *words])
    assert cli.main() == 2
    assert "fit: --load here: must be a 32-bit address such as 0x40200000" in capsys.readouterr().err


# append


def test_append_makes_one_efi_program_of_a_kernel_with_an_efi_entry(kernels, image, tmp_path) -> None:
    kernel = kernels("bookworm").vmlinuz
    append_image(kernel, image(0x3E), tmp_path / "out.efi", command_line="quiet")
    sections = uki_sections((tmp_path / "out.efi").read_bytes(), file="out.efi")
    assert sections[".linux"] == kernel.read_bytes()
    assert sections[".initrd"] == (tmp_path / "image").read_bytes()
    assert sections[".cmdline"] == b"quiet"


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (b"\x7fELF" + bytes(99), "a linked vmlinux has no room for an image: its own lies between other data"),
        (KERNELS[ARM], "a zImage looks for a device tree behind it, for no image (hint: megamod fit; or CONFIG_"),
        (KERNELS[ARM64], "an Image without CONFIG_EFI_STUB looks for its image where the device tree says (hint: mega"),
        (bytes(0x202) + b"HdrS", "a bzImage without CONFIG_EFI_STUB looks for its image where the boot loader says"),
        (b"junk", "no kernel image (hint: give vmlinuz)"),
    ],
)
def test_append_says_why_a_kernel_cannot_carry_an_image(image, tmp_path, kernel, message) -> None:
    (tmp_path / "vmlinuz").write_bytes(kernel)
    with pytest.raises(MegamodError) as caught:
        append_image(tmp_path / "vmlinuz", image(ARM64), tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path}/vmlinuz: {message}")
    assert not (tmp_path / "out").exists()
