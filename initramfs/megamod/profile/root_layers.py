"""`overlay:` and `verity:` of `root:`: what lies over and under the root file system.

`overlay: tmpfs` or `overlay: {tmpfs: size=50%}`. `verity:` takes what `veritysetup format` prints, with the same names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from yaml.nodes import MappingNode, Node

from megamod.common.errors import fail
from megamod.common.text import shorten
from megamod.profile.keys import Json, Key, code, keys_of_class, mapping_schema, parse_values, read_keys, required_of
from megamod.profile.yaml_reader import items_of, text_of, where

SAME_DEVICE = "same"
"""The hash tree lies behind the data, on the device that `root=` names."""

_TEXT: Json = {"type": ["string", "integer"]}
_SIZES = tuple(512 << n for n in range(8))
_TMPFS = "tmpfs"


def _word(node: Node, path: Path, what: str, pattern: str, form: str) -> str:
    text = text_of(node, str(path), what)
    if not re.fullmatch(pattern, text):
        raise fail(where(node, str(path)), f"{what} `{shorten(text)}` is not {form}")
    return text


def _hexadecimal(node: Node, path: Path, what: str) -> str:
    return _word(node, path, what, r"([0-9a-fA-F]{2})+", "a hash in hexadecimal").lower()


def _salt(node: Node, path: Path, what: str) -> str:
    return _word(node, path, what, r"-|([0-9a-fA-F]{2})+", "in hexadecimal, or `-`").lower()


def _device(node: Node, path: Path, what: str) -> str:
    pattern = rf"{SAME_DEVICE}|/dev/\S+|(PART)?(UUID|LABEL)=\S+|[0-9]+:[0-9]+"
    return _word(node, path, what, pattern, "a device")


def _count(node: Node, path: Path, what: str) -> int:
    return int(_word(node, path, what, r"[0-9]{1,15}", "a whole number"))


def _blocks(node: Node, path: Path, what: str) -> int:
    blocks = _count(node, path, what)
    if blocks == 0:
        raise fail(where(node, str(path)), f"{what}: zero")
    return blocks


def _algorithm(node: Node, path: Path, what: str) -> str:
    return _word(node, path, what, r"[a-z0-9_-]+", "the name of a hash")


def _size(node: Node, path: Path, what: str) -> int:
    sizes = [str(size) for size in _SIZES]
    return int(_word(node, path, what, "|".join(sizes), f"one of {', '.join(sizes)}"))


def _options(node: Node, path: Path, what: str) -> tuple[str, ...]:
    options = tuple(text_of(item, str(path), what) for item in items_of(node, str(path), what))
    for option in options:
        if not re.fullmatch(r"[a-z0-9_.-]+", option):
            raise fail(where(node, str(path)), f"{what}: `{shorten(option)}`")
    return options


def _block_size(of: str) -> Key:
    sizes = f"a power of two, {_SIZES[0]} to {_SIZES[-1]}"
    return Key(parse=_size, schema={"enum": list(_SIZES)}, values=sizes, help=f"Bytes in a block of the {of}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verity:
    """A dm-verity device below the root, in the words of `veritysetup format`. *hash_device* is written as `root=` is,
    or `same`; *hash_start* counts hash blocks; *salt* is `-` if there is none; *options* are the target's."""

    root_hash: Annotated[
        str, Key(parse=_hexadecimal, schema=_TEXT, values="hexadecimal", help="The hash of the tree's root.")
    ]
    salt: Annotated[
        str, Key(parse=_salt, schema=_TEXT, values="hexadecimal, or `-`", help="The salt of the hashes, `-` for none.")
    ] = "-"
    hash_device: Annotated[
        str,
        Key(
            parse=_device,
            schema=_TEXT,
            values="a device as `root=` has it, or `same`",
            help="Where the hash tree is; `same`: behind the data, on the device of `root=`.",
        ),
    ]
    data_blocks: Annotated[
        int,
        Key(
            parse=_blocks,
            schema={"type": "integer", "minimum": 1},
            values="a number",
            help="How many data blocks are checked.",
        ),
    ]
    hash_start: Annotated[
        int,
        Key(
            parse=_count,
            schema={"type": "integer", "minimum": 0},
            values="a number",
            help="Where the hash tree begins, in hash blocks; 1 is behind veritysetup's superblock.",
        ),
    ] = 1
    algorithm: Annotated[
        str, Key(parse=_algorithm, schema=_TEXT, values="the name of a hash", help="The kernel's name of the hash.")
    ] = "sha256"
    data_block_size: Annotated[int, _block_size("data, no larger than the file system's blocks")] = 4096
    hash_block_size: Annotated[int, _block_size("hash tree")] = 4096
    options: Annotated[
        tuple[str, ...],
        Key(
            parse=_options,
            schema={
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "pattern": r"^[a-z0-9_.-]+$"},
            },
            values="a list of words",
            help="Optional arguments of the device-mapper target, such as `panic_on_corruption`.",
        ),
    ] = ()


OVERLAY_KEYS = (
    Key(
        name=_TMPFS,
        field=_TMPFS,
        parse=lambda node, path, what: text_of(node, str(path), f"{what.removesuffix(_TMPFS)}options"),
        schema={"type": "string", "pattern": r"^[A-Za-z0-9_%=:.,-]+$"},
        values=f"mount options, such as {code('size=50%')}",
        help="The options of the tmpfs.",
    ),
)


def overlay_schema() -> Json:
    """The JSON Schema of `overlay`."""
    return {"anyOf": [{"const": _TMPFS}, mapping_schema(OVERLAY_KEYS, required=required_of(OVERLAY_KEYS))]}


def parse_overlay(node: Node, path: Path, what: str) -> str:
    """The options of the tmpfs that takes what is written to the root, "" for none."""
    place = where(node, str(path))
    if not isinstance(node, MappingNode):
        text = text_of(node, str(path), what)
        if text != _TMPFS:
            raise fail(place, f"{what} `{shorten(text)}`: only `tmpfs` is known")
        return ""
    nodes = read_keys(node, path, what, OVERLAY_KEYS)
    if not nodes:
        raise fail(place, f"{what}: nothing", "write overlay: tmpfs")
    options: str = parse_values(nodes, OVERLAY_KEYS, path, label=f"{what}: ")[_TMPFS]
    if not re.fullmatch(r"[A-Za-z0-9_%=:.,-]+", options):
        raise fail(place, f"{what}: `{shorten(options)}`", "options of a tmpfs, such as size=50%")
    return options


def verity_schema() -> Json:
    """The JSON Schema of `verity`."""
    keys = keys_of_class(Verity)
    return mapping_schema(keys, required=required_of(keys))


def parse_verity(node: Node, path: Path, what: str) -> Verity:
    """The dm-verity table below the root; raises a located MegamodError."""
    keys = keys_of_class(Verity)
    nodes = read_keys(node, path, what, keys)
    missing = [name for name in required_of(keys) if name not in nodes]
    if missing:
        place = where(node, str(path))
        raise fail(place, f"{what}: {', '.join(missing)} missing", "veritysetup format prints them")
    verity = Verity(**parse_values(nodes, keys, path, label=f"{what}: "))
    if verity.hash_device == SAME_DEVICE and verity.hash_start < 2:
        raise fail(
            where(node, str(path)),
            f"{what}: hash-start is missing, as the hashes are on the same device",
            "the hash offset in hash blocks, plus one for veritysetup's superblock",
        )
    return verity
