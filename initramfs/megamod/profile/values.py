"""The parsers of keys with one plain value: names, a rate, folders, the board."""

from __future__ import annotations

import re
from pathlib import Path

from yaml.nodes import Node, ScalarNode

from megamod.common.errors import fail
from megamod.common.text import shorten
from megamod.machine.board import HOST
from megamod.profile.keys import Json
from megamod.profile.selectors import Selector
from megamod.profile.yaml_reader import items_of, text_of, where

NONE = "none"

DEFAULT_STORAGE = 100_000_000
"""Bytes a second, where the profile names no rate: an eMMC or a SATA disk behind a boot loader's driver."""

NAME: Json = {"type": ["string", "number"], "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
RATE: Json = {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9])? ?[kMG]B/s$"}
MODPROBE_D: Json = {"type": "string", "pattern": r"^(host|none|.*/.*)$"}


def parse_name(node: Node, path: Path, what: str) -> str:
    """The name of a profile."""
    text = text_of(node, str(path), f"{what}: a name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise fail(where(node, str(path)), f"{what}: `{shorten(text)}`", "letters, digits, `.`, `_`, `-`; at most 64")
    return text


def parse_parent(node: Node, path: Path, what: str) -> Selector:
    """The profile that this one builds on, with the place that says so."""
    return Selector(text=text_of(node, str(path), f"{what}: a profile"), location=where(node, str(path)))


def parse_rate(node: Node, path: Path, what: str) -> int:
    """Bytes a second of `25MB/s`; k, M and G are powers of 1000."""
    text = text_of(node, str(path), f"{what}: a rate")
    match = re.fullmatch(r"(\d{1,6})(?:\.(\d))?\s?([kMG])B/s", text)
    if not match or not int(match[1] + (match[2] or "0")):
        hint = "write it like 25MB/s or 1.5GB/s"
        raise fail(where(node, str(path)), f"{what}: `{shorten(text)}` is not a rate", hint)
    return int(match[1] + (match[2] or "0")) * {"k": 100, "M": 100_000, "G": 100_000_000}[match[3]]


def parse_modprobe_d(node: Node, path: Path, what: str) -> str:
    """`host`, `none`, or the path of a folder that is there."""
    text = text_of(node, str(path), f"{what}: `host` or a folder")
    if text in (HOST, NONE):
        return text
    folder = path.parent / text
    if "/" not in text or "\0" in text or not folder.is_dir():
        hint = "`host` reads /etc/modprobe.d, /run/modprobe.d and /lib/modprobe.d; a folder has a slash"
        raise fail(where(node, str(path)), f"{what}: no such folder: {shorten(text)}", hint)
    return str(folder)


def parse_folder(node: Node, path: Path, what: str) -> str:
    """The path of a folder that is there."""
    text = text_of(node, str(path), f"{what}: a folder")
    if "\0" in text or not (path.parent / text).is_dir():
        hint = "a folder such as /lib/firmware, or one relative to the profile"
        raise fail(where(node, str(path)), f"{what}: no such folder: {shorten(text)}", hint)
    return str(path.parent / text)


def parse_board(node: Node, path: Path, what: str) -> tuple[str, ...] | str:
    """`host`, the path of a .dtb or a folder, or a list of names."""
    file = str(path)
    if not isinstance(node, ScalarNode):
        return tuple(text_of(item, file, f"{what}: a name") for item in items_of(node, file, what))
    text = text_of(node, file, f"{what}: `host`, a .dtb, a folder, or a list of names")
    if text == HOST:
        return text
    if "\0" in text or not (path.parent / text).exists():
        hint = "`host`, a .dtb, a folder that `megamod detect --record` wrote, or names in a list: [NAME]"
        raise fail(where(node, file), f"{what}: no such file: {shorten(text)}", hint)
    return str(path.parent / text)
