"""What the kernel itself exports: names, CRCs, namespaces, from its image, Module.symvers or System.map.

A module does not say that a symbol it imports is reserved for it by name (``module:btrfs``, EXPORT_SYMBOL_FOR_MODULES,
6.16+, kernel/module/main.c verify_module_namespace()); only the exporter does. How a file is read: export_sources.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from megamod.common.cache import file_key, read_entry, write_entry
from megamod.common.errors import MegamodError
from megamod.kernel.export_sources import (
    KernelExport,
    KernelExports,
    read_image_exports,
    read_symvers,
    read_system_map,
)
from megamod.kernel.kernel_image import kernel_release, unpacked_kernel
from megamod.modules.kernel_files import KernelFiles
from megamod.prelink.distance import KernelImage
from megamod.prelink.exports import reserved
from megamod.prelink.member import Member


def find_exports(files: KernelFiles) -> KernelExports | None:
    """The exports of the kernel that *files* belong to; None where no source of them is found."""
    return search_exports(files)[0]


def search_exports(files: KernelFiles) -> tuple[KernelExports | None, tuple[str, ...]]:
    """The exports as above, and what is to be said of files that could not be used. The answer of each file is kept by
    its size, times and inode.

    The image is the truth, and where it has no CRCs that can be read Module.symvers has them; raises MegamodError for a
    file that the user has named and that is of another kernel.
    """
    notes: list[str] = []
    usable: list[KernelExports] = []
    for path, reader in _sources(files):
        if usable and reader is read_system_map and not files.is_named(path):
            continue  # it has no more, and Debian's says only where the real one is
        try:
            exports = _cached(path, reader)
        except MegamodError as error:
            notes.append(f"{error.message}: its exports are not read")
            continue
        if exports.release is not None and exports.release != files.release:
            text = f"{path}: is Linux {exports.release}, and the modules are of {files.release}"
            if files.is_named(path):
                raise MegamodError(text, hint="take kernel and modules of one build")
            # What lies in a build system's output may well be of another kernel.
            if files.release in path.name or path.parent == files.folder:
                notes.append(f"{text}: its exports are not used")
            continue
        usable.append(exports)
        if exports.has_crcs:
            break
    best = next((exports for exports in usable if exports.has_crcs), usable[0] if usable else None)
    return best, tuple(notes)


def _sources(files: KernelFiles) -> Iterator[tuple[Path, Callable[[Path], KernelExports]]]:
    """Files with exports, the best first. What the user has named rules out what would be found."""
    named = files.vmlinuz or files.symvers or files.system_map
    if not named or files.vmlinuz:
        yield from ((path, read_image_exports) for path in files.images())
    if not named or files.symvers:
        yield from ((path, read_symvers) for path in files.symvers_files())
    if not named or files.system_map:
        yield from ((path, read_system_map) for path in files.system_maps())


def kernel_image_of(files: KernelFiles) -> Path | None:
    """The image of the kernel that *files* belong to; None if none is found, or all are of other kernels."""
    for path in files.images():
        if files.is_named(path) or files.release in path.name or path.parent == files.folder:
            return path
        try:
            if kernel_release(unpacked_kernel(path)) in (files.release, None):
                return path
        except MegamodError:
            continue
    return None


def image_of(exports: KernelExports | None) -> KernelImage | None:
    """What the linker may bind by distance; None for an image without a build id, or if no addresses are known."""
    return exports.image if exports is not None else None


def why_reserved(member: Member, exports: KernelExports | None) -> str | None:
    """The reason why *member* must keep its name: it imports a symbol that the kernel gives to that name alone."""
    if exports is None:
        return None
    for name in sorted(member.imports.values()):
        export = exports.symbols.get(name)
        names = reserved(export.namespace) if export else None
        if names is not None:
            return f"imports {name}, which the kernel reserves for {names}"
    return None


def check_imports(member: Member, exports: KernelExports | None, others: frozenset[str]) -> None:
    """Every import is the kernel's or another selected module's (*others*: their exports), with the same CRC."""
    if exports is None:
        return
    for index, name in member.imports.items():
        if name in others or index in member.weak_imports:
            continue
        export = exports.symbols.get(name)
        if export is None:
            raise MegamodError(
                f"{member.file}: imports {name}, which neither {exports.source} nor a selected module exports",
                hint="kernel image and modules folder are of different builds?",
            )
        crc = member.versions.get(name)
        if crc is not None and export.crc is not None and crc != export.crc:
            raise MegamodError(
                f"{member.file}: the version (CRC) of {name} is {crc:#010x}, in {exports.source} {export.crc:#010x}",
                hint="kernel image and modules folder are of different builds",
            )
        names = reserved(export.namespace)
        if names is not None and not any(fnmatchcase(member.name, n.replace("-", "_")) for n in names.split(",")):
            raise MegamodError(f"{member.file}: imports {name}, which the kernel reserves for {names}")


def _cached(path: Path, reader: Callable[[Path], KernelExports]) -> KernelExports:
    """What *reader* makes of *path*, or its error, as it was kept."""
    key = file_key(path)
    body = read_entry("kernel-addresses", key)
    if body is not None:
        known = json.loads(body)
        if "error" in known:
            raise MegamodError(f"{path}: {known['error']}")
        symbols = {
            name: KernelExport(crc=crc, gpl=gpl, namespace=space, address=address)
            for name, crc, gpl, space, address in known["symbols"]
        }
        build_id = tuple(known["build_id"]) if known["build_id"] else None
        return KernelExports(source=path, symbols=symbols, release=known["release"], build_id=build_id)
    try:
        exports = reader(path)
    except MegamodError as error:
        why = error.message.removeprefix(f"{path}: ")
        write_entry("kernel-addresses", key, json.dumps({"error": why}).encode("ascii"))
        raise
    rows = [[name, e.crc, e.gpl, e.namespace, e.address] for name, e in exports.symbols.items()]
    form = {"symbols": rows, "release": exports.release, "build_id": exports.build_id}
    write_entry("kernel-addresses", key, json.dumps(form).encode("ascii"))
    return exports
