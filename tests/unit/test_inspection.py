"""Inspecting images and megamodules; the oracle for ELF files is readelf."""

from __future__ import annotations

import dataclasses
import json
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megamod.build.manifest import MANIFEST_PATH, Manifest, ManifestLoad, ManifestMember, ManifestStage
from megamod.common.errors import MegamodError
from megamod.image.archive import write_image
from megamod.image.cpio import Entry, write_cpio
from megamod.inspect.inspection import ImageInspection, ModuleInspection, inspect_file

REGULAR = stat.S_IFREG | 0o644

ALLOC, WRITE, EXEC, INFO = 2, 1, 4, 0x40

MODINFO = (
    "license=GPL",
    "name=megamod_critical",
    "vermagic=6.1.0-50-amd64 SMP preempt mod_unload modversions ",
    "megamod=1",
    "megamod.member=virtio_ring",
    "megamod.member=virtio",
    "megamod.member=virtio_blk",
    "megamod.version=0.1.0",
)


def elf(modinfo: tuple[str, ...] = MODINFO, *, e_type: int = 1) -> bytes:
    """A relocatable x86_64 file with two relocated sections, one not loaded, three exports and two parameters."""
    sections: list[tuple[str, int, int, bytes, int, int, int]] = [
        # name, type, flags, content, link, info, entry size
        ("", 0, 0, b"", 0, 0, 0),
        (".text", 1, ALLOC | EXEC, b"\x90" * 64, 0, 0, 0),
        (".rela.text", 4, INFO, bytes(24 * 3), 11, 1, 24),
        ("__ksymtab_gpl", 1, ALLOC, bytes(36), 0, 0, 0),
        (".rela__ksymtab_gpl", 4, INFO, bytes(24 * 9), 11, 3, 24),
        ("__kcrctab_gpl", 1, ALLOC, bytes(12), 0, 0, 0),
        ("__param", 1, ALLOC | WRITE, bytes(80), 0, 0, 0),
        (".modinfo", 1, ALLOC, "\0".join([*modinfo, ""]).encode(), 0, 0, 0),
        (".bss", 8, ALLOC | WRITE, bytes(4096), 0, 0, 0),
        (".debug_info", 1, 0, bytes(10), 0, 0, 0),
        (".rela.debug_info", 4, INFO, bytes(24), 11, 9, 24),
        (".symtab", 2, 0, bytes(24 * 5), 12, 5, 24),
        (".strtab", 3, 0, b"\0", 0, 0, 0),
        (".shstrtab", 3, 0, b"", 0, 0, 0),
    ]
    names = b"".join(name.encode() + b"\0" for name, *_ in sections)
    body = b""
    table = b""
    for name, kind, flags, content, link, info, entry_size in sections:
        content = names if name == ".shstrtab" else content
        offset = 64 + len(body)
        if kind != 8:
            body += content + bytes(-len(content) % 8)
        at = names.index(b"\0" + name.encode() + b"\0") + 1 if name else 0
        table += struct.pack("<IIQQQQIIQQ", at, kind, flags, 0, offset, len(content), link, info, 8, entry_size)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", e_type, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 14, 13)
    return header + body + table


def readelf(*arguments: str) -> str:
    if shutil.which("readelf") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("readelf is not installed")
        pytest.skip("readelf is not installed")
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        ["readelf", "-W", *arguments], capture_output=True, text=True, check=True, env=environment, timeout=1200
    ).stdout


def module(path: Path) -> ModuleInspection:
    found = inspect_file(path)
    assert isinstance(found, ModuleInspection)
    return found


def member(name: str, reason: str) -> ManifestMember:
    return ManifestMember(name=name, file=f"kernel/{name}.ko", reason=reason, bytes=40960)


MANIFEST = Manifest(
    megamod="0.1.0",
    profile="vm",
    kernel="6.1.0-50-amd64",
    options={"tracing": "off", "unwind": "drop", "compress": "zstd"},
    root="cmdline",
    stages=(
        ManifestStage(
            name="critical",
            trigger="now",
            loads=(
                ManifestLoad(
                    file="megamod/megamod_critical.ko",
                    module="megamod_critical",
                    kind="merged",
                    reason=None,
                    bytes=3072,
                    relocations_before=61234,
                    relocations_after=1234,
                    members=(member("virtio", "needed by virtio_blk"), member("virtio_blk", "named")),
                ),
                ManifestLoad(
                    file="megamod/kvm.ko",
                    module="kvm",
                    kind="single",
                    reason="imports from the namespace module:kvm",
                    bytes=100,
                    relocations_before=10,
                    relocations_after=10,
                    members=(member("kvm", "matches =arch/x86/kvm"),),
                ),
            ),
        ),
        ManifestStage(name="usb", trigger="userspace", loads=()),
    ),
    notes=("virtio_pci is built in",),
)

FILES = (
    Entry(path=MANIFEST_PATH, mode=REGULAR, data=MANIFEST.to_json()),
    Entry(path="megamod/megamod_critical.ko", mode=REGULAR, data=bytes(3072)),
    Entry(path="megamod/kvm.ko", mode=REGULAR, data=bytes(100)),
)


def test_an_image_shows_stages_ordered_members_singles_reasons_and_sizes(tmp_path: Path) -> None:
    write_image(tmp_path / "image", FILES, method="zstd")
    lines = inspect_file(tmp_path / "image").as_text().splitlines()
    assert re.fullmatch(r".*/image: \d+ B: zstd, \d+ B \([\d.]+ KiB unpacked, 4 files\)", lines[0])
    assert lines[1:] == [
        "profile vm, kernel 6.1.0-50-amd64, root cmdline, megamod 0.1.0",
        "options: tracing off, unwind drop, compress zstd",
        "",
        "stage critical (now)",
        "  megamod_critical: 2 members, 3.0 KiB, 61,234 relocations, now 1,234",
        "    1  virtio      needed by virtio_blk  40.0 KiB",
        "    2  virtio_blk  named                 40.0 KiB",
        "  single kvm (matches =arch/x86/kvm): 100 B, not merged: imports from the namespace module:kvm",
        "",
        "stage usb (userspace)",
        "",
        "notes",
        "  virtio_pci is built in",
    ]


def test_the_json_of_an_image_holds_the_whole_manifest(tmp_path: Path) -> None:
    size = write_image(tmp_path / "image", FILES, method="none")
    value = json.loads(inspect_file(tmp_path / "image").as_json())
    assert (value["kind"], value["bytes"]) == ("image", size)
    assert value["segments"] == [{"compression": "none", "bytes": size, "unpacked": size, "files": 4}]
    assert Manifest.from_json(json.dumps(value["manifest"]).encode()) == MANIFEST


def test_an_early_archive_before_the_compressed_one_is_shown(tmp_path: Path) -> None:
    early = write_cpio([Entry(path="kernel/x86/microcode/GenuineIntel.bin", mode=REGULAR, data=b"x")], mtime=0)
    write_image(tmp_path / "image", FILES, method="zstd")
    (tmp_path / "both").write_bytes(early + bytes(512) + (tmp_path / "image").read_bytes())
    found = inspect_file(tmp_path / "both")
    assert isinstance(found, ImageInspection)
    assert [(part.compression, part.files) for part in found.segments] == [("none", 4), ("zstd", 4)]
    assert found.manifest == MANIFEST


def test_the_last_manifest_counts_as_in_the_kernel(tmp_path: Path) -> None:
    older = Entry(path=MANIFEST_PATH, mode=REGULAR, data=b"{}")
    (tmp_path / "image").write_bytes(write_cpio([older], mtime=0) + write_cpio(FILES, mtime=0))
    found = inspect_file(tmp_path / "image")
    assert isinstance(found, ImageInspection)
    assert found.manifest == MANIFEST


def test_an_image_of_another_program_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "image", [Entry(path="init", mode=REGULAR)], method="zstd")
    with pytest.raises(MegamodError, match=r"image: is an initramfs image without megamod/manifest\.json \(hint: "):
        inspect_file(tmp_path / "image")


def test_a_damaged_manifest_is_named_with_its_place(tmp_path: Path) -> None:
    entry = dataclasses.replace(FILES[0], data=MANIFEST.to_json().replace(b'"trigger": "now"', b'"trigger": 5'))
    write_image(tmp_path / "image", [entry, *FILES[1:]], method="zstd")
    with pytest.raises(
        MegamodError, match=r"image: megamod/manifest\.json: stages\[0\]\.trigger: must be a string, not a"
    ):
        inspect_file(tmp_path / "image")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (FILES[:2], r"megamod/kvm\.ko: is missing, against megamod/manifest\.json"),
        ((*FILES[:2], dataclasses.replace(FILES[2], data=b"x")), r"megamod/kvm\.ko: has another size"),
    ],
)
def test_a_file_that_does_not_fit_the_manifest_is_named(tmp_path: Path, files: tuple[Entry, ...], message: str) -> None:
    write_image(tmp_path / "image", files, method="zstd")
    with pytest.raises(MegamodError, match=message):
        inspect_file(tmp_path / "image")


def test_a_megamodule_shows_its_members_in_init_order(tmp_path: Path) -> None:
    (tmp_path / "m.ko").write_bytes(elf())
    lines = inspect_file(tmp_path / "m.ko").as_text().splitlines()
    assert re.fullmatch(r".*/m\.ko: megamodule megamod_critical, [\d.]+ KiB", lines[0])
    assert lines[1:] == [
        "vermagic 6.1.0-50-amd64 SMP preempt mod_unload modversions",
        "version 0.1.0",
        "3 members, 2 parameters, 3 exports, 4 symbols, 12 relocations",
        "",
        "members in init order",
        "  1  virtio_ring",
        "  2  virtio",
        "  3  virtio_blk",
        "",
        "section           size  relocations",
        ".bss           4.0 KiB            0",
        ".modinfo         201 B            0",
        "__param           80 B            0",
        ".text             64 B            3",
        "__ksymtab_gpl     36 B            9",
        "__kcrctab_gpl     12 B            0",
    ]


def test_the_numbers_of_a_megamodule_are_those_of_readelf(tmp_path: Path) -> None:
    path = tmp_path / "m.ko"
    path.write_bytes(elf())
    found = module(path)
    sections = re.findall(
        r"\] (\S+) +[A-Z]+ +[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+) [0-9a-f]+ +(?:[WX]*A)", readelf("-S", str(path))
    )
    assert [(section.name, section.bytes) for section in found.sections] == [
        (name, int(size, 16)) for name, size in sections
    ]
    counts = dict(re.findall(r"'\.rela(\S+)' .* contains (\d+) entr", readelf("-r", str(path))))
    assert {section.name: section.relocations for section in found.sections if section.relocations} == {
        name: int(count) for name, count in counts.items() if not name.startswith(".debug")
    }


def test_the_json_of_a_megamodule_has_members_and_sections(tmp_path: Path) -> None:
    (tmp_path / "m.ko").write_bytes(elf())
    value = json.loads(inspect_file(tmp_path / "m.ko").as_json())
    assert value["kind"] == "megamodule"
    assert value["members"] == ["virtio_ring", "virtio", "virtio_blk"]
    assert value["properties"] == {"version": "0.1.0"}
    assert {"name": ".text", "bytes": 64, "relocations": 3} in value["sections"]


@pytest.mark.parametrize("suffix", ["xz", "zst"])
def test_a_compressed_megamodule_is_read(tmp_path: Path, suffix: str) -> None:
    packed = lzma.compress(elf()) if suffix == "xz" else zstandard.ZstdCompressor().compress(elf())
    path = tmp_path / f"m.ko.{suffix}"
    path.write_bytes(packed)
    found = module(path)
    assert (found.bytes, found.compression) == (len(packed), {"xz": "xz", "zst": "zstd"}[suffix])
    assert found.members == ("virtio_ring", "virtio", "virtio_blk")


def test_an_appended_signature_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "m.ko").write_bytes(elf() + bytes(300) + b"~Module signature appended~\n")
    assert module(tmp_path / "m.ko").relocations == 12


def test_exports_are_counted_without_versions_too(tmp_path: Path) -> None:
    (tmp_path / "m.ko").write_bytes(elf().replace(b"__kcrctab_gpl", b"__other__data"))
    assert module(tmp_path / "m.ko").exports == 3


def test_an_ordinary_module_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "ext4.ko").write_bytes(elf(("name=ext4", "license=GPL")))
    with pytest.raises(MegamodError, match=r"ext4\.ko: is not a megamodule \(hint: modinfo shows"):
        inspect_file(tmp_path / "ext4.ko")


def test_an_executable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ls").write_bytes(elf(e_type=2))
    with pytest.raises(MegamodError, match="ls: is an ELF file, but not a relocatable one"):
        inspect_file(tmp_path / "ls")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (bytes(1024), "is empty"),
        (b"MZ" + bytes(100), "no EFI program"),
        (b"name: camera\n", "is neither an image nor a megamodule"),
        (b"070707000000", "not a newc cpio header"),
        (lzma.compress(b"text"), "not a newc cpio header"),
        (lzma.compress(elf())[:-30], "xz data is cut short"),
    ],
)
def test_a_file_that_is_neither_is_refused_in_words(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(MegamodError, match=f"^{tmp_path}/file: .*{message}"):
        inspect_file(tmp_path / "file")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match="image: No such file or directory"):
        inspect_file(tmp_path / "image")
    with pytest.raises(MegamodError, match=f"{tmp_path}: Is a directory"):
        inspect_file(tmp_path)


def test_a_megamodule_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    data = elf()
    path = tmp_path / "m.ko"
    for length in range(4, len(data), 11):
        path.write_bytes(data[:length])
        with pytest.raises(MegamodError, match=r"m\.ko: .*(cut short|damaged ELF file)"):
            inspect_file(path)


@pytest.mark.heavy
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_megamodule_is_read_or_refused_in_words(tmp_path: Path, choice: st.DataObject) -> None:
    data = bytearray(elf())
    for _ in range(choice.draw(st.integers(1, 4))):
        data[choice.draw(st.integers(4, len(data) - 1))] = choice.draw(st.integers(0, 255))
    path = tmp_path / "m.ko"
    path.write_bytes(data)
    try:
        inspect_file(path).as_text()
    except MegamodError as error:
        assert "\n" not in str(error)
