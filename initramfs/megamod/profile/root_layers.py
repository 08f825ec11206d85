"""`overlay:` and `verity:` of `root:`: what lies over and under the root file system.

`overlay: tmpfs` or `overlay: {tmpfs: size=50%}`. `verity:` takes what `veritysetup format` prints, with the same names.
"""

from __future__ import annotations

import re

from yaml.nodes import MappingNode, Node

from megamod.common.errors import fail
from megamod.common.text import shorten
from megamod.profile.model import Verity
from megamod.profile.yaml_reader import items_of, keys_of, text_of, where

_KEYS = (
    *("root-hash", "salt", "hash-device", "data-blocks", "hash-start"),
    *("algorithm", "data-block-size", "hash-block-size", "options"),
)
_NEEDED = ("root-hash", "hash-device", "data-blocks")
_SIZES = tuple(str(512 << n) for n in range(8))

SAME_DEVICE = "same"
"""The hash tree lies behind the data, on the device that `root=` names."""


def parse_overlay(node: Node, file: str) -> str:
    """The options of the tmpfs that takes what is written to the root, "" for none."""
    if not isinstance(node, MappingNode):
        text = text_of(node, file, "root: overlay")
        if text != "tmpfs":
            raise fail(where(node, file), f"root: overlay `{shorten(text)}`: only `tmpfs` is known")
        return ""
    value = keys_of(node, file, "root: overlay", ("tmpfs",))
    if not value:
        raise fail(where(node, file), "root: overlay: nothing", "write overlay: tmpfs")
    text = text_of(value["tmpfs"][1], file, "root: overlay: options")
    if not re.fullmatch(r"[A-Za-z0-9_%=:.,-]+", text):
        raise fail(where(node, file), f"root: overlay: `{shorten(text)}`", "options of a tmpfs, such as size=50%")
    return text


def parse_verity(node: Node, file: str) -> Verity:
    """The dm-verity table below the root; raises a located MegamodError."""
    keys = keys_of(node, file, "root: verity", _KEYS)
    missing = [key for key in _NEEDED if key not in keys]
    if missing:
        raise fail(where(node, file), f"root: verity: {', '.join(missing)} missing", "veritysetup format prints them")

    def word(key: str, default: str, pattern: str, what: str) -> str:
        if key not in keys:
            return default
        text = text_of(keys[key][1], file, f"root: verity: {key}")
        if not re.fullmatch(pattern, text):
            raise fail(where(keys[key][1], file), f"root: verity: {key} `{shorten(text)}` is not {what}")
        return text

    def number(key: str, default: int) -> int:
        return int(word(key, str(default), r"[0-9]{1,15}", "a whole number"))

    device = word("hash-device", "", rf"{SAME_DEVICE}|/dev/\S+|(PART)?(UUID|LABEL)=\S+|[0-9]+:[0-9]+", "a device")
    options = [text_of(item, file, "root: verity: options") for item in _items(keys, file)]
    for option in options:
        if not re.fullmatch(r"[a-z0-9_.-]+", option):
            raise fail(where(keys["options"][1], file), f"root: verity: options: `{shorten(option)}`")
    verity = Verity(
        root_hash=word("root-hash", "", r"([0-9a-fA-F]{2})+", "a hash in hexadecimal").lower(),
        salt=word("salt", "-", r"-|([0-9a-fA-F]{2})+", "in hexadecimal, or `-`").lower(),
        hash_device=device,
        data_blocks=number("data-blocks", 0),
        hash_start=number("hash-start", 1),
        algorithm=word("algorithm", "sha256", r"[a-z0-9_-]+", "the name of a hash"),
        data_block_size=int(word("data-block-size", "4096", "|".join(_SIZES), f"one of {', '.join(_SIZES)}")),
        hash_block_size=int(word("hash-block-size", "4096", "|".join(_SIZES), f"one of {', '.join(_SIZES)}")),
        options=tuple(options),
    )
    if verity.data_blocks == 0:
        raise fail(where(keys["data-blocks"][1], file), "root: verity: data-blocks: zero")
    if verity.hash_device == SAME_DEVICE and verity.hash_start < 2:
        raise fail(
            where(node, file),
            "root: verity: hash-start is missing, as the hashes are on the same device",
            "the hash offset in hash blocks, plus one for veritysetup's superblock",
        )
    return verity


def _items(keys: dict[str, tuple[Node, Node]], file: str) -> list[Node]:
    return items_of(keys["options"][1], file, "root: verity: options") if "options" in keys else []
