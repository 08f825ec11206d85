"""`output` of a profile: what the build makes, an initramfs image or a Unified Kernel Image.

output: image
output: uki
output: {uki: {cmdline: "root=LABEL=root ro quiet", os-release: os-release, key: db.key, cert: db.crt}}
"""

from __future__ import annotations

from pathlib import Path

from yaml.nodes import MappingNode, Node

from megamod.common.errors import fail
from megamod.common.text import shorten
from megamod.profile.model import Uki
from megamod.profile.yaml_reader import keys_of, text_of, where

IMAGE, UKI = "image", "uki"
FILES = ("vmlinuz", "os-release", "splash", "dtb", "stub", "key", "cert")
"""The keys of a UKI that name a file, relative to the profile."""


def parse_output(node: Node, path: Path) -> Uki | None:
    """The UKI to be made, None for an image; raises a located MegamodError."""
    file = str(path)
    if not isinstance(node, MappingNode):
        text = text_of(node, file, "output: `image` or `uki`")
        if text not in (IMAGE, UKI):
            raise fail(where(node, file), f"output: `{shorten(text)}` is neither `image` nor `uki`")
        return Uki() if text == UKI else None
    outer = keys_of(node, file, "output", (UKI,))
    if UKI not in outer:
        raise fail(where(node, file), "output: nothing", "write output: uki")
    keys = keys_of(outer[UKI][1], file, "output: uki", ("cmdline", *FILES))
    found: dict[str, str] = {}
    for key in FILES:
        if key in keys:
            value = keys[key][1]
            text = text_of(value, file, f"output: uki: {key}: a file")
            if "\0" in text or not (path.parent / text).is_file():
                hint = "a path relative to the profile"
                raise fail(where(value, file), f"output: uki: {key}: no such file: {shorten(text)}", hint)
            found[key.replace("-", "_")] = str(path.parent / text)
    if ("key" in found) != ("cert" in found):
        missing = "cert" if "key" in found else "key"
        raise fail(where(outer[UKI][1], file), f"output: uki: no `{missing}`", "Secure Boot needs key and cert")
    if "cmdline" in keys:
        text = text_of(keys["cmdline"][1], file, "output: uki: cmdline: a text")
        if not text.isprintable():
            raise fail(where(keys["cmdline"][1], file), "output: uki: cmdline: one line without control characters")
        found["cmdline"] = text
    return Uki(**found)
