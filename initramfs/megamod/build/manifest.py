"""The manifest of an image, ``megamod/manifest.json``: what is in it and why, for `megamod inspect`.

The build fills one in; nothing on the target reads it. Its form is `Manifest`, its schema for other programs
initramfs/docs/schemas/manifest.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from megamod.common.documents import Count, document_bytes, read_document
from megamod.common.errors import MegamodError
from megamod.kernel.package import KernelPackage

MANIFEST_PATH = "megamod/manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestMember:
    """An original module: ``file`` below lib/modules/KVER, ``reason`` why it was selected, ``bytes`` unpacked.

    ``version``, ``srcversion``, ``license`` and ``firmware`` are those of its .modinfo, ``build_id`` in hexadecimal
    digits; empty where it has none. ``sha256`` is the digest of the file, unpacked.
    """

    name: str
    file: str
    reason: str
    bytes: Count
    version: str = ""
    srcversion: str = ""
    build_id: str = ""
    license: str = ""
    firmware: tuple[str, ...] = ()
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestLoad:
    """One file that the loader inserts.

    ``members`` are in init order; a single has one. ``reason`` says why a single may not be merged, and is None for a
    megamodule. ``bytes`` is the size of ``file`` (a path in the image); the relocations are those against sections
    that are loaded, in the members' files and in this one. ``signer`` is whose signature the build has added
    (``sha256 by CN=Our modules``), empty for none.
    """

    file: str
    module: str
    kind: Literal["merged", "single"]
    reason: str | None
    bytes: Count
    relocations_before: Count
    relocations_after: Count
    members: tuple[ManifestMember, ...]
    signer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestStage:
    """A stage, its ``trigger`` in words (``now``, ``userspace``, ``path /run/x, timeout 5 s``)."""

    name: str
    trigger: str
    loads: tuple[ManifestLoad, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """A file, folder or link that is neither module nor plan: ``mode`` octal, ``bytes`` 0 for all but files,
    ``reason`` whence it came (``files``, ``firmware of e100``)."""

    path: str
    type: str
    mode: str
    bytes: Count
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an image holds; ``megamod`` is the version of the program, ``root`` and ``options`` as in the profile,
    ``skip`` the modules whose init is left out at boot, ``package`` what the kernel's modules come from."""

    version: Literal[1] = 1
    megamod: str
    profile: str
    kernel: str
    options: Mapping[str, str]
    root: str
    stages: tuple[ManifestStage, ...]
    notes: tuple[str, ...]
    skip: tuple[str, ...] = ()
    files: tuple[ManifestFile, ...] = ()
    package: KernelPackage | None = None

    def to_json(self) -> bytes:
        """The bytes of the file: ASCII, one line end at its end, the same for the same manifest."""
        return document_bytes(replace(self, options=dict(self.options)))

    @classmethod
    def from_json(cls, data: bytes, *, source: str = MANIFEST_PATH) -> Manifest:
        """Read it back; *source* begins the text of a MegamodError, which names the place of what is wrong."""
        manifest = read_document(data, cls, source=source)
        for s, stage in enumerate(manifest.stages):
            for n, load in enumerate(stage.loads):
                if load.kind == "single" and load.reason is None:
                    place = f"stages[{s}].loads[{n}].reason"
                    raise MegamodError(f"{source}: {place}: must be a string, as the load is a single")
        return manifest
