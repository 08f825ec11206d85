"""A bill of materials of an image in CycloneDX 1.5 JSON (cyclonedx.org/docs/1.5/json).

Every module is a component of type device-driver, with what its .modinfo says and the digest of its own file; the
kernel that they are of is one with the names that lists of vulnerabilities know it by (package URL, CPE). Every file of
the image is one with the SHA-256 of its content, megamodules with the modules in them. There is no time in it, and its
serial number comes from the image's content: the same image gives the same text.
"""

from __future__ import annotations

import hashlib
import re
import stat
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from megamod.build.manifest import Manifest, ManifestLoad, ManifestMember
from megamod.image.cpio import Entry
from megamod.kernel.package import KernelPackage

Json = dict[str, Any]

_IMAGE = "image"
_KERNEL = "kernel"
_PROGRAMS = ("init", "megamod/ctl")
_FIRMWARE = "lib/firmware/"


def bill_of_materials(manifest: Manifest, files: Mapping[str, Entry]) -> Json:
    """The document as a value for `json.dumps`; *files* are all entries of the image, by path."""
    modules = [
        _module(member, load, stage.name, manifest)
        for stage in manifest.stages
        for load in stage.loads
        for member in load.members
    ]
    others = [_file(entry, manifest) for _path, entry in sorted(files.items()) if stat.S_ISREG(entry.mode)]
    kernel = [_kernel(manifest.package)] if manifest.package is not None else []
    components = [*kernel, *modules, *others]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{_serial(files)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "megamod", "version": manifest.megamod}]},
            "component": {
                "bom-ref": _IMAGE,
                "type": "firmware",
                "name": manifest.profile,
                "version": manifest.kernel,
                "properties": [_property("root", manifest.root)],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": _IMAGE, "dependsOn": [component["bom-ref"] for component in components]},
            *_members(manifest, files),
            *_firmware_uses(manifest, files),
        ],
    }


def _serial(files: Mapping[str, Entry]) -> uuid.UUID:
    digest = hashlib.sha256()
    for path, entry in sorted(files.items()):
        digest.update(f"{path}\0{entry.mode}\0{len(entry.data)}\0".encode("utf-8", "surrogateescape") + entry.data)
    return uuid.UUID(bytes=digest.digest()[:16], version=4)


def _kernel(package: KernelPackage) -> Json:
    """The kernel's source; its upstream version is what stands before the distribution's revision."""
    upstream = package.source_version.rpartition("-")[0] or package.source_version
    upstream = upstream.partition(":")[2] or upstream
    version = re.match(r"\d+(\.\d+)+", upstream)
    component: Json = {
        "bom-ref": _KERNEL,
        "type": "operating-system",
        "name": package.source,
        "version": package.source_version,
        "purl": f"pkg:deb/{package.vendor}/{quote(package.source)}@{quote(package.source_version)}?arch=source",
        "properties": [
            _property("package", f"{package.name} {package.version}"),
            _property("suite", package.suite),
        ],
    }
    if version is not None:
        component["cpe"] = f"cpe:2.3:o:linux:linux_kernel:{version[0]}:*:*:*:*:*:*:*"
    return component


def _module(member: ManifestMember, load: ManifestLoad, stage: str, manifest: Manifest) -> Json:
    facts = {
        "kernel": manifest.kernel,
        "file": member.file,
        "stage": stage,
        "loaded-in": load.file,
        "selected": member.reason,
        "srcversion": member.srcversion,
        "build-id": member.build_id,
    }
    component: Json = {
        "bom-ref": f"module:{member.name}",
        "type": "device-driver",
        "name": member.name,
        # A module of the kernel's own source has no version but the kernel's.
        "version": member.version or (manifest.package.source_version if manifest.package else manifest.kernel),
        "properties": [
            *(_property(key, value) for key, value in facts.items() if value),
            *(_property("firmware", name) for name in member.firmware),
        ],
    }
    if member.sha256:
        component["hashes"] = [{"alg": "SHA-256", "content": member.sha256}]
    if member.license:
        # The kernel's words (`GPL`, `Dual BSD/GPL`) are not SPDX identifiers (Documentation/process/license-rules.rst).
        component["licenses"] = [{"license": {"name": member.license}}]
    return component


def _file(entry: Entry, manifest: Manifest) -> Json:
    component: Json = {
        "bom-ref": f"file:{entry.path}",
        "type": "firmware" if entry.path.startswith(_FIRMWARE) else "file",
        "name": f"/{entry.path}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(entry.data).hexdigest()}],
    }
    if entry.path in _PROGRAMS:
        component |= {"type": "application", "version": manifest.megamod}
    return component


def _members(manifest: Manifest, files: Mapping[str, Entry]) -> Iterator[Json]:
    """Which modules are in which file of the image, and what kernel they are of."""
    for stage in manifest.stages:
        for load in stage.loads:
            if load.file in files:
                modules = dict.fromkeys(f"module:{member.name}" for member in load.members)
                kernel = [_KERNEL] if manifest.package is not None else []
                yield {"ref": f"file:{load.file}", "dependsOn": [*kernel, *modules]}


def _firmware_uses(manifest: Manifest, files: Mapping[str, Entry]) -> Iterator[Json]:
    """Which module uses which firmware file of the image."""
    there = {path for path, entry in files.items() if path.startswith(_FIRMWARE) and stat.S_ISREG(entry.mode)}
    for stage in manifest.stages:
        for load in stage.loads:
            for member in load.members:
                places = (f"{_FIRMWARE}{name}{suffix}" for name in member.firmware for suffix in ("", ".zst", ".xz"))
                uses = [f"file:{place}" for place in dict.fromkeys(places) if place in there]
                if uses:
                    yield {"ref": f"module:{member.name}", "dependsOn": uses}


def _property(key: str, value: str) -> Json:
    return {"name": f"megamod:{key}", "value": value}
