"""`megamod inspect`: what is in an image or in a megamodule, read from the file alone.

An image tells it in its manifest. A megamodule tells it in .modinfo, where the prelinker writes ``megamod=1`` and a
``megamod.member=NAME`` for each member in init order; other ``megamod.KEY=VALUE`` entries are shown as they are.
"""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from megamod.build.link_stages import PACKED_ENDING
from megamod.build.manifest import MANIFEST_PATH, Manifest, ManifestFile, ManifestLoad
from megamod.common.compression import MAX_MODULE, decompress, detect
from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.common.text import counted, human_bytes, human_count, table
from megamod.image.archive import Segment, segments
from megamod.image.cpio import Entry
from megamod.inspect.container import ContainerInspection, inspect_container, is_container

_ELF = b"\x7fELF"
_HINT = "give an image that megamod build made, or a megamodule that megamod prelink made"

_MARK = "megamod"
_MEMBER = "megamod.member"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSummary:
    """A part of an image file: its compression, its size as it stands and unpacked, its number of files."""

    compression: str
    bytes: int
    unpacked: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInspection:
    """An image: its size in bytes, its parts in the order of the file, its manifest."""

    path: str
    bytes: int
    segments: tuple[SegmentSummary, ...]
    manifest: Manifest

    def as_text(self) -> str:
        """Stages, loads and members in init order, for people."""
        manifest = self.manifest
        parts = [
            f"{part.compression}, {human_bytes(part.bytes)} "
            f"({human_bytes(part.unpacked)} unpacked, {counted(part.files, 'file')})"
            for part in self.segments
        ]
        lines = [
            f"{self.path}: {human_bytes(self.bytes)}: {'; '.join(parts)}",
            f"profile {manifest.profile}, kernel {manifest.kernel}, root {manifest.root}, megamod {manifest.megamod}",
            "options: " + ", ".join(f"{key} {value}" for key, value in manifest.options.items()),
        ]
        for stage in manifest.stages:
            lines += ["", f"stage {stage.name} ({stage.trigger})"]
            for load in stage.loads:
                lines += [f"  {line}" for line in _load_lines(load)]
        if manifest.skip:
            lines += ["", f"skipped at boot: {', '.join(manifest.skip)}"]
        if manifest.files:
            lines += ["", "files", *(f"  {line}" for line in _file_lines(manifest.files))]
        if manifest.notes:
            lines += ["", "notes", *(f"  {note}" for note in manifest.notes)]
        return "\n".join(lines)

    def as_json(self) -> str:
        """The same for programs: ``kind`` is ``image``; ``manifest`` has the form of manifest.py."""
        value = {
            "kind": "image",
            "path": self.path,
            "bytes": self.bytes,
            "segments": [dataclasses.asdict(part) for part in self.segments],
            "manifest": json.loads(self.manifest.to_json()),
        }
        return json.dumps(value, indent=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionSummary:
    """A section that is loaded: its size in bytes, its relocations."""

    name: str
    bytes: int
    relocations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleInspection:
    """A megamodule.

    ``bytes`` is the size of the file as it stands, ``properties`` what the prelinker noted beside the members (in
    init order); ``relocations`` are those against sections that are loaded.
    """

    path: str
    bytes: int
    compression: str
    name: str
    vermagic: str
    members: tuple[str, ...]
    properties: tuple[tuple[str, str], ...]
    parameters: int
    symbols: int
    exports: int
    relocations: int
    sections: tuple[SectionSummary, ...]

    def as_text(self) -> str:
        """Members in init order and sections by size, for people."""
        lines = [
            f"{self.path}: megamodule {self.name}, {human_bytes(self.bytes)}"
            + (f" ({self.compression})" if self.compression != "none" else ""),
            f"vermagic {self.vermagic}",
            *(f"{key} {value}" for key, value in self.properties),
            ", ".join(
                [
                    counted(len(self.members), "member"),
                    counted(self.parameters, "parameter"),
                    counted(self.exports, "export"),
                    counted(self.symbols, "symbol"),
                    counted(self.relocations, "relocation"),
                ]
            ),
            "",
            "members in init order",
            *_numbered([[name] for name in self.members]),
            "",
        ]
        rows = [
            [section.name, human_bytes(section.bytes), human_count(section.relocations)]
            for section in sorted(self.sections, key=lambda section: (-section.bytes, section.name))
        ]
        return "\n".join([*lines, table(["section", "size", "relocations"], rows, left=1)])

    def as_json(self) -> str:
        """The same for programs: ``kind`` is ``megamodule``; sections are in the order of the file."""
        value = {"kind": "megamodule", **dataclasses.asdict(self), "properties": dict(self.properties)}
        return json.dumps(value, indent=2)


Inspection = ImageInspection | ModuleInspection | ContainerInspection


def inspect_file(path: Path) -> Inspection:
    """Read an image of any compression, an EFI program or FIT image, or a megamodule (plain, .xz, .zst, .gz).

    Raises MegamodError naming *path* for a file that is neither or is damaged.
    """
    data = read_file(path)
    source = str(path)
    if data[:4] == _ELF:
        return _inspect_module(source, data, packed=len(data), compression="none")
    if not data.strip(b"\0"):
        raise MegamodError(f"{source}: is empty", hint=_HINT)
    if is_container(data):
        return inspect_container(path, data, _image_inside)
    method = detect(data, source=source)
    if method == "none" and data[:1] not in (b"0", b"\0"):
        raise MegamodError(f"{source}: is neither an image nor a megamodule", hint=_HINT)
    parts: list[Segment] = []
    try:
        parts.extend(segments(data, source=source))
    except MegamodError:
        # A compressed module ends up here too: what is unpacked is not an archive.
        if method != "none" and (content := decompress(data, source=source))[:4] == _ELF:
            return _inspect_module(source, content, packed=len(data), compression=method)
        raise
    return _inspect_image(source, len(data), parts)


def _image_inside(source: str, data: bytes) -> ImageInspection | None:
    parts = list(segments(data, source=source))
    ours = any(entry.path == MANIFEST_PATH for part in parts for entry in part.entries)
    return _inspect_image(source, len(data), parts) if ours else None


def _inspect_image(source: str, size: int, parts: list[Segment]) -> ImageInspection:
    # A later entry of the same path replaces an earlier one, as it does in the kernel.
    files = {entry.path: entry for part in parts for entry in part.entries}
    if MANIFEST_PATH not in files:
        raise MegamodError(f"{source}: is an initramfs image without {MANIFEST_PATH}", hint=_HINT)
    manifest = Manifest.from_json(files[MANIFEST_PATH].data, source=f"{source}: {MANIFEST_PATH}")
    for stage in manifest.stages:
        for load in stage.loads:
            if load.file not in files or _module_size(files[load.file]) != load.bytes:
                what = "has another size" if load.file in files else "is missing"
                raise MegamodError(
                    f"{source}: {load.file}: {what}, against {MANIFEST_PATH}", hint="build the image again"
                )
    return ImageInspection(
        path=source,
        bytes=size,
        segments=tuple(
            SegmentSummary(compression=part.method, bytes=part.packed, unpacked=part.unpacked, files=len(part.entries))
            for part in parts
        ),
        manifest=manifest,
    )


def _module_size(entry: Entry) -> int:
    """The size of a module in an image, unpacked if it lies there packed."""
    if not entry.path.endswith(PACKED_ENDING):
        return len(entry.data)
    return len(decompress(entry.data, limit=MAX_MODULE, source=entry.path))


def _inspect_module(source: str, data: bytes, *, packed: int, compression: str) -> ModuleInspection:
    try:
        return _read_module(source, data, packed, compression)
    except MegamodError:
        raise
    except Exception as error:
        # pyelftools lets many kinds of errors through on damaged input, of its own and of construct.
        text = " ".join(str(error).split()) or type(error).__name__
        raise MegamodError(f"{source}: damaged ELF file: {text}", hint=_HINT) from error


def _read_module(source: str, data: bytes, packed: int, compression: str) -> ModuleInspection:
    elf = ELFFile(io.BytesIO(data))
    if elf["e_type"] != "ET_REL":
        raise MegamodError(f"{source}: is an ELF file, but not a relocatable one", hint=_HINT)
    sections = list(elf.iter_sections())
    if elf["e_shoff"] + elf.num_sections() * elf["e_shentsize"] > len(data):
        raise MegamodError(f"{source}: is cut short", hint=_HINT)
    relocations = [0] * len(sections)
    symbols = 0
    for section in sections:
        if section["sh_type"] != "SHT_NOBITS" and section["sh_offset"] + section["sh_size"] > len(data):
            raise MegamodError(f"{source}: {section.name}: is cut short", hint=_HINT)
        if section["sh_type"] in ("SHT_REL", "SHT_RELA") and section["sh_info"] < len(sections):
            relocations[section["sh_info"]] += section["sh_size"] // section["sh_entsize"]
        elif section["sh_type"] == "SHT_SYMTAB":
            # Without the null symbol.
            symbols += section["sh_size"] // section["sh_entsize"] - 1
    modinfo = [entry for section in sections if section.name == ".modinfo" for entry in _modinfo(section.data())]
    if (_MARK, "1") not in modinfo:
        raise MegamodError(f"{source}: is not a megamodule", hint=f"modinfo shows an ordinary module; or {_HINT}")
    first = dict(reversed(modinfo))
    sizes = {section.name: section["sh_size"] for section in sections}
    # struct kernel_param (include/linux/moduleparam.h, 6.1): three pointers, u16, s8, u8, a pointer.
    parameter_size = 40 if elf.elfclass == 64 else 20
    loaded = tuple(
        SectionSummary(name=section.name, bytes=section["sh_size"], relocations=count)
        for section, count in zip(sections, relocations, strict=True)
        if section["sh_flags"] & SH_FLAGS.SHF_ALLOC
    )
    return ModuleInspection(
        path=source,
        bytes=packed,
        compression=compression,
        name=first.get("name", ""),
        vermagic=first.get("vermagic", "").strip(),
        members=tuple(value for key, value in modinfo if key == _MEMBER),
        properties=tuple(
            (key.removeprefix("megamod."), value)
            for key, value in modinfo
            if key.startswith("megamod.") and key != _MEMBER
        ),
        parameters=sizes.get("__param", 0) // parameter_size,
        symbols=symbols,
        exports=_exports(sizes, {section.name: section.relocations for section in loaded}),
        relocations=sum(section.relocations for section in loaded),
        sections=loaded,
    )


def _exports(sizes: dict[str, int], relocations: dict[str, int]) -> int:
    """Exported symbols: one 4-byte CRC each where the kernel has versions, else one struct kernel_symbol each."""
    count = 0
    for kind in ("", "_gpl"):
        table_size = sizes.get(f"__ksymtab{kind}", 0)
        crcs = sizes.get(f"__kcrctab{kind}", 0) // 4
        # struct kernel_symbol (kernel/module/internal.h, 6.1) has a value, a name and a namespace, each relocated.
        count += crcs or (relocations.get(f"__ksymtab{kind}", 0) // 3 if table_size else 0)
    return count


def _modinfo(data: bytes) -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for text in data.decode("utf-8", "replace").split("\0"):
        if text:
            key, _, value = text.partition("=")
            entries.append((key, value))
    return entries


def _load_lines(load: ManifestLoad) -> list[str]:
    relocations = f"{counted(load.relocations_before, 'relocation')}, now {human_count(load.relocations_after)}"
    if load.kind == "single":
        selected = "".join(f" ({member.reason})" for member in load.members)
        return [f"single {load.module}{selected}: {human_bytes(load.bytes)}, not merged: {load.reason}"]
    return [
        f"{load.module}: {counted(len(load.members), 'member')}, {human_bytes(load.bytes)}, {relocations}"
        + (f", signed {load.signer}" if load.signer else ""),
        *_numbered([[member.name, member.reason, human_bytes(member.bytes)] for member in load.members]),
    ]


def _file_lines(files: tuple[ManifestFile, ...]) -> list[str]:
    rows = [
        [f"/{file.path}", file.mode if file.type == "file" else file.type, human_bytes(file.bytes), file.reason]
        for file in files
    ]
    return table(["path", "mode", "size", "why"], rows, left=2).split("\n")


def _numbered(rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    width = len(str(len(rows)))
    numbered = [[f"{index:>{width}}", *row] for index, row in enumerate(rows, start=1)]
    return [f"  {line}" for line in table(numbered[0], numbered[1:], left=3).split("\n")]
