"""`skip`, `files`, `firmware` and `board` of a profile: YAML nodes → what goes into the image beside the modules.

Forms of `files`, SOURCE a path relative to the profile's folder, perhaps with `*`, `?` and `[…]`:

    files: {camera: /usr/bin/camera, key.pem: {to: /etc/key.pem, mode: "0600"}, "*.so": /usr/lib/}
    files: [{from: camera, to: /usr/bin/camera}, "!/etc/inherited"]
"""

from __future__ import annotations

import re
from pathlib import Path

from yaml.nodes import MappingNode, Node, ScalarNode

from megamod.common.errors import Location, fail
from megamod.common.text import shorten
from megamod.machine.board import HOST
from megamod.profile.model import FileItem, Firmware, Selector
from megamod.profile.selectors import OPTIONAL, REMOVE, SelectorKind, parse_selector
from megamod.profile.triggers import checked_path
from megamod.profile.yaml_reader import items_of, keys_of, kind_of, pairs_of, text_of, where

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


def parse_skip(node: Node, file: str) -> tuple[Selector, ...]:
    """The module names of `skip`; with `extends` an entry may be `!name`."""
    selectors = []
    for item in items_of(node, file, "skip"):
        selector = Selector(text=text_of(item, file, "skip: a module name"), location=where(item, file))
        body = selector.text.removeprefix(REMOVE)
        parsed = parse_selector(Selector(text=body, location=selector.location))
        if parsed.kind is not SelectorKind.NAME or ":" in parsed.pattern:
            raise fail(selector.location, f"skip: `{shorten(body)}` is no module name", "`exclude` takes patterns")
        selectors.append(selector)
    return tuple(selectors)


def parse_files(node: Node, path: Path) -> tuple[FileItem | Selector, ...]:
    """The entries of `files`, in the order written; a Selector is `!/to`, the removal of an inherited one."""
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
    keys = keys_of(node, file, "files", ("from", "to", "mode"))
    if "from" not in keys:
        raise fail(where(node, file), "files: an entry without `from`", "write {from: camera, to: /usr/bin/camera}")
    source = text_of(keys["from"][1], file, "from: a path")
    return _made(source, where(keys["from"][1], file), where(node, file), keys, path)


def _item(source: str, key_node: Node, value: Node, path: Path) -> FileItem:
    place, file = where(key_node, str(path)), str(path)
    if not isinstance(value, MappingNode):
        text_of(value, file, f"files: {shorten(source)}: a path in the image")
        return _made(source, place, place, {"to": (value, value)}, path)
    keys = keys_of(value, file, f"files: {shorten(source)}", ("to", "mode"))
    return _made(source, place, where(value, file), keys, path)


def _made(source: str, place: Location, whole: Location, keys: dict[str, tuple[Node, Node]], path: Path) -> FileItem:
    file = str(path)
    optional = source.startswith(OPTIONAL)
    source = source.removeprefix(OPTIONAL)
    if not source or "\0" in source:
        raise fail(place, "files: a path expected")
    if "to" not in keys:
        raise fail(whole, f"files: {shorten(source)}: no `to`", "the absolute path in the image")
    to_node = keys["to"][1]
    to = _destination(text_of(to_node, file, "to: a path"), where(to_node, file))
    if WILD.search(source) and not (path.parent / source).exists() and not to.endswith("/"):
        hint = f"a pattern goes into a folder: {to}/"
        raise fail(where(to_node, file), f"files: {shorten(source)} is a pattern, {shorten(to)} one file", hint)
    return FileItem(
        source=source,
        base=str(path.parent),
        to=to,
        location=place,
        mode=_mode(keys["mode"][1], file) if "mode" in keys else None,
        optional=optional,
    )


def _destination(text: str, place: Location) -> str:
    if text == "/":
        return text
    checked_path(text.removesuffix("/"), place, "to")
    check_destination(text.strip("/"), place)
    return text


def check_destination(path: str, location: Location) -> None:
    """Refuse a *path* in the image (without leading slash) that belongs to megamod or is mounted over at boot."""
    why = _OWN.get(path.split("/")[0])
    if why:
        raise fail(location, f"files: /{shorten(path)}: /{path.split('/')[0]} is {why}", "choose another place")


def _mode(node: Node, file: str) -> int:
    text = text_of(node, file, "mode: octal digits")
    if not re.fullmatch(r"(0o?)?[0-7]{3,4}", text):
        hint = "octal digits, as in 0755 or 644"
        raise fail(where(node, file), f"mode: `{shorten(text)}` is no file mode", hint)
    return int(text.removeprefix("0o"), 8)


def _unique(items: list[FileItem] | list[FileItem | Selector]) -> tuple[FileItem | Selector, ...]:
    seen: dict[str, Location] = {}
    for item in items:
        if isinstance(item, FileItem) and not item.to.endswith("/"):
            if item.to in seen:
                hint = f"first in line {seen[item.to].line}"
                raise fail(item.location, f"files: two entries for {shorten(item.to)}", hint)
            seen[item.to] = item.location
    return tuple(items)


def merge_files(
    base: tuple[FileItem | Selector, ...], child: tuple[FileItem | Selector, ...]
) -> tuple[FileItem | Selector, ...]:
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


def finished_files(items: tuple[FileItem | Selector, ...]) -> tuple[FileItem, ...]:
    """The entries of a whole profile; a removal that is left had nothing to remove."""
    for item in items:
        if isinstance(item, Selector):
            raise fail(item.location, f"files: {shorten(item.text)}: nothing is inherited here")
    return tuple(item for item in items if isinstance(item, FileItem))


def parse_firmware(node: Node, file: str) -> Firmware:
    """`auto`, `none`, or a list of patterns below lib/firmware, in which `auto` may stand too."""
    if isinstance(node, ScalarNode):
        text = text_of(node, file, "firmware: auto, none or a list")
        if text not in (AUTO, NONE):
            hint = f"a list names files: [{shorten(text)}]"
            raise fail(where(node, file), f"firmware: `{shorten(text)}` is neither auto nor none", hint)
        return Firmware(auto=text == AUTO)
    patterns, auto = [], False
    for item in items_of(node, file, "firmware"):
        text, place = text_of(item, file, "firmware: a name or pattern"), where(item, file)
        if text == AUTO:
            auto = True
            continue
        body = text.removeprefix(OPTIONAL)
        if not body or any(part in ("", ".", "..") for part in body.removesuffix("/").split("/")) or "\0" in body:
            hint = "write it as modinfo does, as in brcm/brcmfmac43455-sdio.*"
            raise fail(place, f"firmware: `{shorten(text)}` is no path below lib/firmware", hint)
        if re.search(r"\.(xz|zst)$", body):
            plain = re.sub(r"\.(xz|zst)$", "", body)
            raise fail(place, f"firmware: `{shorten(text)}` names the compression", f"write {shorten(plain)}")
        patterns.append(Selector(text=text, location=place))
    return Firmware(auto=auto, patterns=tuple(patterns))


def parse_board(node: Node, path: Path) -> tuple[str, ...] | str:
    """`host`, a .dtb or a folder relative to the profile *path*, or a list of names."""
    file = str(path)
    if not isinstance(node, ScalarNode):
        return tuple(text_of(item, file, "board: a name") for item in items_of(node, file, "board"))
    text = text_of(node, file, "board: `host`, a .dtb, a folder, or a list of names")
    if text == HOST:
        return text
    if "\0" in text or not (path.parent / text).exists():
        hint = "`host`, a .dtb, a folder that `megamod detect --record` wrote, or names in a list: [NAME]"
        raise fail(where(node, file), f"board: no such file: {shorten(text)}", hint)
    return str(path.parent / text)
