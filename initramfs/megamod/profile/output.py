"""`output` of a profile: what the build makes, an initramfs image or a Unified Kernel Image.

output: image
output: uki
output: {uki: {cmdline: "root=LABEL=root ro quiet", os-release: os-release, key: db.key, cert: db.crt}}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from yaml.nodes import MappingNode, Node

from megamod.common.errors import fail
from megamod.common.text import shorten
from megamod.profile.keys import (
    Json,
    Key,
    existing_file,
    keys_of_class,
    mapping_schema,
    parse_values,
    read_keys,
    required_of,
)
from megamod.profile.yaml_reader import text_of, where

IMAGE, UKI = "image", "uki"


def _cmdline(node: Node, path: Path, what: str) -> str:
    text = text_of(node, str(path), f"{what}: a text")
    if not text.isprintable():
        raise fail(where(node, str(path)), f"{what}: one line without control characters")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Uki:
    """A Unified Kernel Image: its command line, and files that go into it or make it; *vmlinuz* None takes the kernel
    beside the modules, *key* and *cert* sign it for Secure Boot."""

    cmdline: Annotated[
        str,
        Key(parse=_cmdline, schema={"type": "string"}, values="a text", help="The kernel command line."),
    ] = ""
    vmlinuz: Annotated[str | None, existing_file(help="The kernel.", default_text="the kernel next to the modules")] = (
        None
    )
    os_release: Annotated[str | None, existing_file(help="The text of the section `.osrel`, as in os-release(5).")] = (
        None
    )
    splash: Annotated[str | None, existing_file(help="A picture that the stub shows, BMP.")] = None
    dtb: Annotated[str | None, existing_file(help="A device tree for the kernel.")] = None
    stub: Annotated[
        str | None, existing_file(help="The EFI stub.", default_text="systemd's (package systemd-boot-efi)")
    ] = None
    key: Annotated[str | None, existing_file(help="With `cert`: sbsign signs the program for Secure Boot.")] = None
    cert: Annotated[str | None, existing_file(help="The certificate of `key`.")] = None


def _uki(node: Node, path: Path, what: str) -> Uki:
    keys = keys_of_class(Uki)
    values = parse_values(read_keys(node, path, what, keys), keys, path, label=f"{what}: ")
    if ("key" in values) != ("cert" in values):
        missing = "cert" if "key" in values else "key"
        raise fail(where(node, str(path)), f"{what}: no `{missing}`", "Secure Boot needs key and cert")
    return Uki(**values)


OUTPUT_KEYS = (
    Key(
        name=UKI,
        field=UKI,
        parse=_uki,
        schema=mapping_schema(keys_of_class(Uki), dependentRequired={"key": ["cert"], "cert": ["key"]}),
        values="a mapping",
        help="What the Unified Kernel Image is made of.",
        inside=keys_of_class(Uki),
    ),
)


def output_schema() -> Json:
    """The JSON Schema of `output`."""
    return {"anyOf": [{"enum": [IMAGE, UKI]}, mapping_schema(OUTPUT_KEYS, required=required_of(OUTPUT_KEYS))]}


def parse_output(node: Node, path: Path, what: str) -> Uki | None:
    """The UKI to be made, None for an image; raises a located MegamodError."""
    place = where(node, str(path))
    if not isinstance(node, MappingNode):
        text = text_of(node, str(path), f"{what}: `image` or `uki`")
        if text not in (IMAGE, UKI):
            raise fail(place, f"{what}: `{shorten(text)}` is neither `image` nor `uki`")
        return Uki() if text == UKI else None
    nodes = read_keys(node, path, what, OUTPUT_KEYS)
    if not nodes:
        raise fail(place, f"{what}: nothing", "write output: uki")
    uki: Uki = parse_values(nodes, OUTPUT_KEYS, path, label=f"{what}: ")[UKI]
    return uki
