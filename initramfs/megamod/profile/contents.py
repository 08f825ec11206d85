"""`skip`, `files` and `firmware` of a profile: YAML nodes → what goes into the image besides the modules.

Forms of `files`, SOURCE a path relative to the profile's folder, perhaps with `*`, `?` and `[…]`:

    files: {camera: /usr/bin/camera, key.pem: {to: /etc/key.pem, mode: "0600"}, "*.so": /usr/lib/}
    files: [{from: camera, to: /usr/bin/camera}, "!/etc/inherited"]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from yaml.nodes import MappingNode, Node, ScalarNode

from megamod.common.errors import Location, fail
from megamod.common.text import shorten
from megamod.profile.keys import WORD, Json, Key, Merge, mapping_schema, read_keys
from megamod.profile.selectors import OPTIONAL, REMOVE, Selector, SelectorKind, parse_removable
from megamod.profile.triggers import checked_path
from megamod.profile.yaml_reader import items_of, kind_of, pairs_of, text_of, where

AUTO, NONE = "auto", "none"

WILD = re.compile(r"[*?\[]")
"""What makes a source or a name of firmware a pattern."""

_OWN = {
    "init": "the loader itself",
    "megamod": "megamod's own folder",
    "dev": "a mount point: the loader mounts a file system over it",
    "proc": "a mount point: the loader mounts a file system over it",
    "run": "a mount point: the loader mounts a file system over it",
    "sys": "a mount point: the loader mounts a file system over it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileItem:
    """A file or folder that goes into the image: *source* as written, below *base* unless it is absolute; *to* is
    absolute, and ends in a slash where the source goes below it under its own name. *mode* None takes the source's."""

    source: str
    base: str
    to: str
    location: Location
    mode: int | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """Which firmware goes into the image: with *auto* what the modules name, and what *patterns* match."""

    auto: bool = True
    patterns: tuple[Selector, ...] = ()


Files: TypeAlias = tuple[FileItem | Selector, ...]
"""The entries of `files`; a Selector is `!/to`, the removal of an inherited one."""

SKIP: Json = {"type": "array", "minItems": 1, "items": {**WORD, "pattern": r"^!?\??[A-Za-z0-9_+.-]+$"}}


def parse_skip(node: Node, path: Path, what: str) -> tuple[Selector, ...]:
    """The module names of `skip`; with `extends` an entry may be `!name`."""
    selectors, file = [], str(path)
    for item in items_of(node, file, what):
        selector = Selector(text=text_of(item, file, f"{what}: a module name"), location=where(item, file))
        parsed = parse_removable(selector)
        if parsed.kind is not SelectorKind.NAME or ":" in parsed.pattern:
            text = shorten(selector.text.removeprefix(REMOVE))
            raise fail(selector.location, f"{what}: `{text}` is not a module name", "`exclude` takes patterns")
        selectors.append(selector)
    return tuple(selectors)


def parse_files(node: Node, path: Path, _what: str) -> Files:
    """The entries of `files`, in the order written."""
    file = str(path)
    if isinstance(node, MappingNode):
        pairs = pairs_of(node, file, "files")
        items = [_item(key, key_node, value, path) for key, key_node, value in pairs]
        if not items:
            raise fail(where(node, file), "files: no entries", "leave it out, or write files: {SOURCE: /to}")
        return _unique(items)
    if isinstance(node, ScalarNode):
        raise fail(where(node, file), f"files: a mapping expected, not {kind_of(node)}", "write files: {SOURCE: /to}")
    return _unique([_listed(item, path) for item in items_of(node, file, "files")])


def _listed(node: Node, path: Path) -> FileItem | Selector:
    file = str(path)
    if isinstance(node, ScalarNode):
        text = text_of(node, file, "files: an entry")
        if not text.startswith(f"{REMOVE}/"):
            hint = f"write {{from: {shorten(text)}, to: /etc/…}}"
            raise fail(where(node, file), f"files: `{shorten(text)}` has no destination", hint)
        return Selector(text=text, location=where(node, file))
    nodes = read_keys(node, path, "files", FILE_KEYS)
    if "from" not in nodes:
        raise fail(where(node, file), "files: an entry without `from`", "write {from: camera, to: /usr/bin/camera}")
    source = _FROM.parse(nodes["from"][1], path, "from")
    return _made(source, where(nodes["from"][1], file), where(node, file), nodes, path)


def _item(source: str, key_node: Node, value: Node, path: Path) -> FileItem:
    place, file = where(key_node, str(path)), str(path)
    if not isinstance(value, MappingNode):
        text_of(value, file, f"files: {shorten(source)}: a path in the image")
        return _made(source, place, place, {"to": (value, value)}, path)
    nodes = read_keys(value, path, f"files: {shorten(source)}", (_TO, _MODE))
    return _made(source, place, where(value, file), nodes, path)


def _made(source: str, place: Location, whole: Location, nodes: dict[str, tuple[Node, Node]], path: Path) -> FileItem:
    optional = source.startswith(OPTIONAL)
    source = source.removeprefix(OPTIONAL)
    if not source or "\0" in source:
        raise fail(place, "files: a path expected")
    if "to" not in nodes:
        raise fail(whole, f"files: {shorten(source)}: no `to`", "the absolute path in the image")
    to_node = nodes["to"][1]
    to: str = _TO.parse(to_node, path, "to")
    if WILD.search(source) and not (path.parent / source).exists() and not to.endswith("/"):
        hint = f"a pattern goes into a folder: {to}/"
        place = where(to_node, str(path))
        raise fail(place, f"files: {shorten(source)} is a pattern, {shorten(to)} one file", hint)
    return FileItem(
        source=source,
        base=str(path.parent),
        to=to,
        location=place,
        mode=_MODE.parse(nodes["mode"][1], path, "mode") if "mode" in nodes else None,
        optional=optional,
    )


def _destination(node: Node, path: Path, what: str) -> str:
    text, place = text_of(node, str(path), f"{what}: a path"), where(node, str(path))
    if text == "/":
        return text
    checked_path(text.removesuffix("/"), place, what)
    check_destination(text.strip("/"), place)
    return text


def check_destination(path: str, location: Location) -> None:
    """Refuse a *path* in the image (without leading slash) that belongs to megamod or is mounted over at boot."""
    why = _OWN.get(path.split("/")[0])
    if why:
        raise fail(location, f"files: /{shorten(path)}: /{path.split('/')[0]} is {why}", "choose another place")


def _mode(node: Node, path: Path, what: str) -> int:
    text = text_of(node, str(path), f"{what}: octal digits")
    if not re.fullmatch(r"(0o?)?[0-7]{3,4}", text):
        hint = "octal digits, as in 0755 or 644"
        raise fail(where(node, str(path)), f"{what}: `{shorten(text)}` is not a file mode", hint)
    return int(text.removeprefix("0o"), 8)


_FROM = Key(
    name="from",
    parse=lambda node, path, what: text_of(node, str(path), f"{what}: a path"),
    schema={"type": ["string", "number"], "minLength": 1},
    values="a path, or a pattern",
    help="The source, relative to the profile; a leading `?`: it may be missing. In `{SOURCE: …}` it is the key.",
)
_TO = Key(
    name="to",
    parse=_destination,
    schema={
        "type": "string",
        "pattern": rf"^(/|(?!/({'|'.join(sorted(_OWN))})(/|$))(/(?!\.{{1,2}}(/|$))[^/]+)+/?)$",
    },
    values="an absolute path",
    help="The place in the image; with a slash at the end the source keeps its name.",
)
_MODE = Key(
    name="mode",
    parse=_mode,
    schema={"type": ["string", "integer"], "pattern": r"^(0o?)?[0-7]{3,4}$", "minimum": 64, "maximum": 7777},
    values="octal digits",
    help="Permissions; set-user-ID and write permission for others only if this says so.",
    default=None,
    default_text="the source's",
)
FILE_KEYS = (_FROM, _TO, _MODE)
"""The keys of an entry of `files`."""


def files_schema() -> Json:
    """The JSON Schema of `files`."""
    listed = mapping_schema(FILE_KEYS, required=["from", "to"])
    value = {"anyOf": [_TO.schema, mapping_schema((_TO, _MODE), required=["to"])]}
    forms: list[Json] = [
        {"type": "object", "minProperties": 1, "additionalProperties": value},
        {"type": "array", "minItems": 1, "items": {"anyOf": [listed, {"type": "string", "pattern": "^!/"}]}},
    ]
    return {"anyOf": forms}


def _unique(items: list[FileItem] | list[FileItem | Selector]) -> Files:
    seen: dict[str, Location] = {}
    for item in items:
        if isinstance(item, FileItem) and not item.to.endswith("/"):
            if item.to in seen:
                hint = f"first in line {seen[item.to].line}"
                raise fail(item.location, f"files: two entries for {shorten(item.to)}", hint)
            seen[item.to] = item.location
    return tuple(items)


def merge_files(base: Files, child: Files) -> Files:
    """What *child* adds to the inherited files: an entry with the same `to` replaces one, `!/to` removes it."""
    kept = list(base)
    for item in child:
        if isinstance(item, FileItem):
            if not item.to.endswith("/"):
                kept = [other for other in kept if not (isinstance(other, FileItem) and other.to == item.to)]
            kept.append(item)
            continue
        to = item.text.removeprefix(REMOVE)
        rest = [other for other in kept if not (isinstance(other, FileItem) and other.to == to)]
        if len(rest) == len(kept):
            raise fail(item.location, f"files: {shorten(item.text)}: nothing inherited goes there")
        kept = rest
    return tuple(kept)


FILES_MERGED = Merge(words='appended; the same `to` replaces, `"!/to"` removes', join=merge_files, empty=())


def finished_files(items: Files) -> tuple[FileItem, ...]:
    """The entries of a whole profile; a removal that is left had nothing to remove."""
    for item in items:
        if isinstance(item, Selector):
            raise fail(item.location, f"files: {shorten(item.text)}: nothing is inherited here")
    return tuple(item for item in items if isinstance(item, FileItem))


FIRMWARE: Json = {
    "anyOf": [
        {"enum": [AUTO, NONE]},
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "string",
                "pattern": r"^\??(?!\.{1,2}(/|$))[^/]+(/(?!\.{1,2}(/|$))[^/]+)*/?$",
                "not": {"pattern": r"\.(xz|zst)$"},
            },
        },
    ]
}


def parse_firmware(node: Node, path: Path, what: str) -> Firmware:
    """`auto`, `none`, or a list of patterns below lib/firmware, in which `auto` may stand too."""
    file = str(path)
    if isinstance(node, ScalarNode):
        text = text_of(node, file, f"{what}: auto, none or a list")
        if text not in (AUTO, NONE):
            hint = f"a list names files: [{shorten(text)}]"
            raise fail(where(node, file), f"{what}: `{shorten(text)}` is neither auto nor none", hint)
        return Firmware(auto=text == AUTO)
    patterns, auto = [], False
    for item in items_of(node, file, what):
        text, place = text_of(item, file, f"{what}: a name or pattern"), where(item, file)
        if text == AUTO:
            auto = True
            continue
        body = text.removeprefix(OPTIONAL)
        if not body or any(part in ("", ".", "..") for part in body.removesuffix("/").split("/")) or "\0" in body:
            hint = "write it as modinfo does, as in brcm/brcmfmac43455-sdio.*"
            raise fail(place, f"{what}: `{shorten(text)}` is not a path below lib/firmware", hint)
        if re.search(r"\.(xz|zst)$", body):
            plain = re.sub(r"\.(xz|zst)$", "", body)
            raise fail(place, f"{what}: `{shorten(text)}` names the compression", f"write {shorten(plain)}")
        patterns.append(Selector(text=text, location=place))
    return Firmware(auto=auto, patterns=tuple(patterns))
