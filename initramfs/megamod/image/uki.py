"""A Unified Kernel Image: kernel, initramfs, command line and the like as sections of one EFI program.

Needs systemd's EFI stub, to which the sections are added; firmware starts the stub, the stub starts the kernel.
Guarantees the same bytes for the same input; with a key the result is signed by sbsign for Secure Boot.

Source: UAPI.5 Unified Kernel Image (section names and their order), Microsoft PE/COFF specification (headers);
systemd-stub(7).
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pefile

from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write, is_private, not_an_input, read_file
from megamod.common.host import find_program, run_program

# What EFI calls a machine: the stub's name, and IMAGE_FILE_HEADER.Machine.
_STUBS = {0x8664: "linuxx64.efi.stub", 0xAA64: "linuxaa64.efi.stub"}
_FOLDERS = ("/usr/lib/systemd/boot/efi", "/lib/systemd/boot/efi")
_MOST_STEP = 1 << 21  # alignments: a page of 2 MiB at most, and a power of two
_MOST_MEMORY = 1 << 31  # what sections may take up; addresses in the headers have 32 bits
_HEADER = struct.Struct("<8sIIIIIIHHI")  # IMAGE_SECTION_HEADER
_DATA, _CODE = 0x40000040, 0x60000020  # initialised data that is read; code that is read and run
# The kernel comes last, so that it may be unpacked over what follows it in memory.
_ORDER = (".osrel", ".uname", ".cmdline", ".dtb", ".splash", ".ucode", ".initrd", ".linux")
_OS_RELEASE = b'ID=linux\nNAME="Linux"\nPRETTY_NAME="Linux (megamod)"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureBootKey:
    """PEM files for sbsign."""

    key: Path
    certificate: Path


def find_stub(machine: int) -> Path:
    """systemd's stub for an EFI machine number, as Debian installs it."""
    name = _STUBS.get(machine)
    if name is None:
        raise MegamodError(f"EFI machine {machine:#x}: systemd has no stub for it", hint="--stub FILE names one")
    for folder in _FOLDERS:
        if (path := Path(folder, name)).is_file():
            return path
    raise MegamodError(f"{name}: not installed", hint="apt install systemd-boot-efi, or --stub FILE")


def efi_machine(kernel: bytes, file: str) -> int:
    """The machine of a kernel with an EFI entry; raises MegamodError for one that EFI cannot start."""
    if kernel[:2] == b"MZ" and len(kernel) >= 0x40:
        (at,) = struct.unpack_from("<I", kernel, 0x3C)
        if kernel[at : at + 4] == b"PE\0\0" and at + 6 <= len(kernel):
            (machine,) = struct.unpack_from("<H", kernel, at + 4)
            return int(machine)
    raise MegamodError(f"{file}: not an EFI program", hint="a kernel with CONFIG_EFI_STUB is needed")


def write_uki(
    output: Path,
    *,
    kernel: Path,
    image: Path,
    command_line: str,
    os_release: Path | bytes | None = None,
    splash: Path | None = None,
    device_tree: Path | None = None,
    release: str | None = None,
    stub: Path | None = None,
    secure_boot: SecureBootKey | None = None,
) -> int:
    """Write the UKI and return its size in bytes. *release* is what `uname -r` will say; *splash* a BMP file;
    *os_release* the text of os-release(5), or a file with it."""
    keys = (secure_boot.key, secure_boot.certificate) if secure_boot else ()
    release_file = None if isinstance(os_release, bytes) else os_release
    not_an_input(output, (kernel, image, release_file, splash, device_tree, stub, *keys))
    data = read_file(kernel)
    machine = efi_machine(data, str(kernel))
    sections = {
        ".osrel": os_release if isinstance(os_release, bytes) else read_file(os_release) if os_release else _OS_RELEASE,
        ".cmdline": command_line.encode(),
        ".initrd": read_file(image),
        ".linux": data,
    }
    if release:
        sections[".uname"] = release.encode()
    if device_tree:
        sections[".dtb"] = _checked(device_tree, b"\xd0\x0d\xfe\xed", "a device tree (.dtb)")
    if splash:
        sections[".splash"] = _checked(splash, b"BM", "a BMP picture")
    path = stub or find_stub(machine)
    made = make_uki(read_file(path), sections, machine=machine, file=str(path))
    if secure_boot is not None:
        made = _signed(made, secure_boot)
    atomic_write(output, made, private=is_private(image, device_tree))
    return len(made)


def make_uki(stub: bytes, sections: Mapping[str, bytes], *, machine: int, file: str) -> bytes:
    """The stub with further sections; *file* is its name, for messages."""
    program = _parsed(stub, file)
    if int(program.FILE_HEADER.Machine) != machine:
        raise MegamodError(f"{file}: for EFI machine {program.FILE_HEADER.Machine:#x}, the kernel is for {machine:#x}")
    have = [section.Name.rstrip(b"\0").decode("ascii", "replace") for section in program.sections]
    if ".linux" in have or _has_signature(program):
        raise MegamodError(f"{file}: has a kernel or a signature already", hint="give the bare stub")
    names = [name for name in _ORDER if name in sections]
    alignment, step = int(program.OPTIONAL_HEADER.SectionAlignment), int(program.OPTIONAL_HEADER.FileAlignment)
    last = program.sections[-1]
    table = last.get_file_offset() + _HEADER.size
    room = int(program.OPTIONAL_HEADER.SizeOfHeaders)
    if table + _HEADER.size * len(names) > room:
        raise MegamodError(f"{file}: no room for {len(names)} more section headers", hint="a newer stub has more room")
    # Pages: the stub hands addresses of sections to the kernel, which wants its own at a page's start.
    alignment = max(alignment, 4096)
    address = max(s.VirtualAddress + max(s.Misc_VirtualSize, s.SizeOfRawData) for s in program.sections)
    if address + sum(map(len, sections.values())) > _MOST_MEMORY:
        raise MegamodError(f"{file}: an EFI program has no room for {sum(map(len, sections.values()))} bytes more")
    out = bytearray(stub[: max(room, *(s.PointerToRawData + s.SizeOfRawData for s in program.sections))])
    for number, name in enumerate(names):
        body = sections[name]
        address = -(-address // alignment) * alignment
        out += bytes(-len(out) % step)
        kind = _CODE if name == ".linux" else _DATA
        size = -(-len(body) // step) * step
        header = _HEADER.pack(name.encode(), len(body), address, size, len(out), 0, 0, 0, 0, kind)
        at = table + number * _HEADER.size
        out[at : at + _HEADER.size] = header
        out += body + bytes(size - len(body))
        address += len(body)
    return _with_header(bytes(out), added=len(names), end=-(-address // alignment) * alignment, program=program)


def _parsed(data: bytes, file: str) -> Any:
    """*data* as pefile has it: with both headers, sections that lie inside of the file, and sizes that can be."""
    try:
        program: Any = pefile.PE(data=data, fast_load=True)
        optional = program.OPTIONAL_HEADER
        steps = int(optional.SectionAlignment), int(optional.FileAlignment)
        ends = [int(s.PointerToRawData) + int(s.SizeOfRawData) for s in program.sections]
        addresses = [int(s.VirtualAddress) + max(s.Misc_VirtualSize, s.SizeOfRawData) for s in program.sections]
        room = int(optional.SizeOfHeaders)
    except pefile.PEFormatError as error:
        hint = "systemd's linuxx64.efi.stub is one"
        raise MegamodError(f"{file}: not an EFI program: {error.value}", hint=hint) from None
    except (AttributeError, ValueError, TypeError, IndexError, struct.error):
        raise MegamodError(f"{file}: damaged EFI program") from None
    fits = ends and max(*ends, room) <= len(data) and max(addresses) < _MOST_MEMORY
    if not fits or any(not step or step & step - 1 or step > _MOST_STEP for step in steps):
        raise MegamodError(f"{file}: damaged EFI program: its sections cannot be where it says")
    return program


def _with_header(data: bytes, *, added: int, end: int, program: Any) -> bytes:
    """*data* with its headers telling of the new sections: their number, the size in memory, and the checksum."""
    out = bytearray(data)
    file_header, optional = program.FILE_HEADER, program.OPTIONAL_HEADER
    fields = (
        (file_header, "NumberOfSections", "<H", int(file_header.NumberOfSections) + added),
        # The stub's symbols lay behind its sections, where the new ones are now.
        (file_header, "PointerToSymbolTable", "<I", 0),
        (file_header, "NumberOfSymbols", "<I", 0),
        (optional, "SizeOfImage", "<I", end),
        (optional, "CheckSum", "<I", 0),
    )
    for header, name, form, value in fields:
        struct.pack_into(form, out, header.get_field_absolute_offset(name), value)
    made: Any = pefile.PE(data=bytes(out), fast_load=True)
    struct.pack_into("<I", out, optional.get_field_absolute_offset("CheckSum"), made.generate_checksum())
    return bytes(out)


def _has_signature(program: Any) -> bool:
    directory = program.OPTIONAL_HEADER.DATA_DIRECTORY
    return len(directory) > 4 and bool(directory[4].Size)


def _checked(path: Path, magic: bytes, what: str) -> bytes:
    data = read_file(path)
    if not data.startswith(magic):
        raise MegamodError(f"{path}: not {what}")
    return data


def _signed(data: bytes, secure_boot: SecureBootKey) -> bytes:
    program = find_program("sbsign", package="sbsigntool")
    with tempfile.TemporaryDirectory(prefix="megamod-uki-") as folder:
        plain, signed = Path(folder) / "plain.efi", Path(folder) / "signed.efi"
        plain.write_bytes(data)
        keys = ["--key", str(secure_boot.key), "--cert", str(secure_boot.certificate)]
        run_program([program, *keys, "--output", signed, plain])
        return signed.read_bytes()


def uki_sections(data: bytes, *, file: str) -> dict[str, bytes]:
    """Name → content of the sections that make *data* a UKI; {} if it is an EFI program but none."""
    program = _parsed(data, file)
    found = ((s.Name.rstrip(b"\0").decode("ascii", "replace"), s) for s in program.sections)
    return {
        name: data[s.PointerToRawData : s.PointerToRawData + min(s.Misc_VirtualSize, s.SizeOfRawData)]
        for name, s in found
        if name in _ORDER
    }
