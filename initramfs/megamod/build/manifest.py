"""The manifest of an image, ``megamod/manifest.json``: what is in it and why, for `megamod inspect`.

The build fills one in; nothing on the target reads it. The form, all keys required:

    {"version": 1, "megamod": "0.1.0", "profile": "vm", "kernel": "6.1.0-50-amd64",
     "options": {"tracing": "off", "unwind": "drop", "symbols": "trim", "probe": "sync", "compress": "zstd"},
     "root": "cmdline",
     "stages": [{"name": "critical", "trigger": "now", "loads": [
       {"file": "megamod/megamod_critical.ko", "module": "megamod_critical", "kind": "merged", "reason": null,
        "bytes": 812345, "relocations_before": 61234, "relocations_after": 1234,
        "members": [{"name": "virtio", "file": "kernel/drivers/virtio/virtio.ko", "reason": "needed by virtio_blk",
                     "bytes": 40123, "version": "", "srcversion": "…", "build_id": "…", "license": "GPL",
                     "firmware": []}, …],
        "signer": ""}, …]}, …],
     "skip": ["pcspkr"],
     "files": [{"path": "usr/bin/camera", "type": "file", "mode": "0755", "bytes": 81234, "reason": "files"}, …],
     "notes": ["usb_common moved to critical: needed by …", …]}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from megamod.common.errors import MegamodError

MANIFEST_PATH = "megamod/manifest.json"
MANIFEST_VERSION = 1

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestMember:
    """An original module: ``file`` below lib/modules/KVER, ``reason`` why it was selected, ``bytes`` unpacked.

    ``version``, ``srcversion``, ``license`` and ``firmware`` are those of its .modinfo, ``build_id`` in hexadecimal
    digits; empty where it has none.
    """

    name: str
    file: str
    reason: str
    bytes: int
    version: str = ""
    srcversion: str = ""
    build_id: str = ""
    license: str = ""
    firmware: tuple[str, ...] = ()


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
    bytes: int
    relocations_before: int
    relocations_after: int
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
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an image holds; ``megamod`` is the version of the program, ``root`` and ``options`` as in the profile,
    ``skip`` the modules whose init is left out at boot."""

    megamod: str
    profile: str
    kernel: str
    options: Mapping[str, str]
    root: str
    stages: tuple[ManifestStage, ...]
    notes: tuple[str, ...]
    skip: tuple[str, ...] = ()
    files: tuple[ManifestFile, ...] = ()

    def to_json(self) -> bytes:
        """The bytes of the file: ASCII, one line end at its end, the same for the same manifest."""
        value = {"version": MANIFEST_VERSION, **dataclasses.asdict(self)}
        value["options"] = dict(self.options)
        return json.dumps(value, indent=1).encode("ascii") + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, source: str = MANIFEST_PATH) -> Manifest:
        """Read it back; *source* begins the text of a MegamodError, which names the place of what is wrong."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise MegamodError(f"{source}: is not JSON: {error}") from None
        top = _Object(value, f"{source}: ")
        version = top.number("version")
        if version != MANIFEST_VERSION:
            raise MegamodError(
                f"{source}: has version {version}, this program reads {MANIFEST_VERSION}",
                hint="inspect it with the megamod that built it",
            )
        options = top.child("options")
        return cls(
            megamod=top.text("megamod"),
            profile=top.text("profile"),
            kernel=top.text("kernel"),
            options={key: options.text(key) for key in options.names()},
            root=top.text("root"),
            stages=top.array("stages", _stage),
            notes=top.array("notes", _text),
            skip=top.array("skip", _text),
            files=top.array("files", _file),
        )


def _stage(value: object, place: str) -> ManifestStage:
    stage = _Object(value, place)
    return ManifestStage(name=stage.text("name"), trigger=stage.text("trigger"), loads=stage.array("loads", _load))


def _load(value: object, place: str) -> ManifestLoad:
    load = _Object(value, place)
    kind = load.text("kind")
    if kind != "merged" and kind != "single":
        raise MegamodError(f"{place}.kind: is neither merged nor single")
    return ManifestLoad(
        file=load.text("file"),
        module=load.text("module"),
        kind="merged" if kind == "merged" else "single",
        reason=load.text("reason") if kind == "single" else None,
        bytes=load.number("bytes"),
        relocations_before=load.number("relocations_before"),
        relocations_after=load.number("relocations_after"),
        members=load.array("members", _member),
        signer=load.text("signer"),
    )


def _member(value: object, place: str) -> ManifestMember:
    member = _Object(value, place)
    return ManifestMember(
        name=member.text("name"),
        file=member.text("file"),
        reason=member.text("reason"),
        bytes=member.number("bytes"),
        version=member.text("version"),
        srcversion=member.text("srcversion"),
        build_id=member.text("build_id"),
        license=member.text("license"),
        firmware=member.array("firmware", _text),
    )


def _file(value: object, place: str) -> ManifestFile:
    file = _Object(value, place)
    return ManifestFile(
        path=file.text("path"),
        type=file.text("type"),
        mode=file.text("mode"),
        bytes=file.number("bytes"),
        reason=file.text("reason"),
    )


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise MegamodError(f"{place}: is not a text")
    return value


class _Object:
    """A JSON object with checked access; *place* is the file and the path to it, ``FILE: `` for the outermost."""

    def __init__(self, value: object, place: str) -> None:
        if not isinstance(value, dict):
            raise MegamodError(f"{place.removesuffix(': ')}: is not an object")
        self._value: dict[str, object] = value
        self._prefix = place if place.endswith(": ") else f"{place}."

    def names(self) -> list[str]:
        return list(self._value)

    def text(self, key: str) -> str:
        return _text(self._get(key), f"{self._prefix}{key}")

    def number(self, key: str) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise MegamodError(f"{self._prefix}{key}: is not a number from 0 up")
        return value

    def child(self, key: str) -> _Object:
        return _Object(self._get(key), f"{self._prefix}{key}")

    def array(self, key: str, item: Callable[[object, str], _T]) -> tuple[_T, ...]:
        value = self._get(key)
        if not isinstance(value, list):
            raise MegamodError(f"{self._prefix}{key}: is not a list")
        return tuple(item(each, f"{self._prefix}{key}[{index}]") for index, each in enumerate(value))

    def _get(self, key: str) -> object:
        if key not in self._value:
            raise MegamodError(f"{self._prefix}{key}: is missing")
        return self._value[key]
