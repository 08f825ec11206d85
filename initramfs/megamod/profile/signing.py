"""`sign` and `microcode` of a profile: YAML nodes → what the megamodules are signed with, what the processor gets.

sign: {key: keys/module.pem, cert: keys/module.crt}
sign: {key: "pkcs11:token=signing;object=modules", cert: keys/module.crt, digest: sha512}
microcode: auto
microcode: [ucode/06-8e-0a]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from yaml.nodes import Node, ScalarNode

from megamod.common.choices import Digest
from megamod.common.errors import Location, fail
from megamod.profile.keys import (
    TEXT,
    Json,
    Key,
    choice,
    existing_file,
    keys_of_class,
    mapping_schema,
    parse_file,
    parse_values,
    read_keys,
    required_of,
)
from megamod.profile.yaml_reader import choice_of, items_of, text_of, where

PKCS11 = "pkcs11:"
AUTO, NONE = "auto", "none"


def _key(node: Node, path: Path, what: str) -> str:
    text = text_of(node, str(path), f"{what}: a file or a pkcs11: URI")
    if not text.startswith(PKCS11):
        return parse_file(node, path, what)
    if not text.isprintable():
        raise fail(where(node, str(path)), f"{what}: control characters in the URI")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What megamodules are signed with: *key* a file or a `pkcs11:` URI, *cert* a file, *digest* as the kernel's
    configuration calls it, or AUTO for the one that it names."""

    key: Annotated[
        str,
        Key(
            parse=_key,
            schema=TEXT,
            values="a file, or a `pkcs11:` URI",
            help="The private key: PEM or DER, not encrypted, or on a token.",
        ),
    ]
    cert: Annotated[str, existing_file(help="The key's certificate, PEM or DER.")]
    digest: Annotated[
        Digest,
        choice(Digest, help="`auto`: what CONFIG_MODULE_SIG_HASH of the kernel names, sha256 if that is not known."),
    ] = Digest.AUTO
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Microcode:
    """Which microcode goes into an early archive: with *auto* what the firmware folder has, else *files*."""

    auto: bool = False
    files: tuple[str, ...] = ()


def sign_schema() -> Json:
    """The JSON Schema of `sign`."""
    keys = keys_of_class(Sign)
    return {"anyOf": [{"const": NONE}, mapping_schema(keys, required=required_of(keys))]}


MICROCODE: Json = {"anyOf": [{"enum": [AUTO, NONE]}, {"type": "array", "minItems": 1, "items": TEXT}]}


def parse_sign(node: Node, path: Path, what: str) -> Sign | None:
    """The key and certificate of `sign`, None for `none`; that they fit each other is for the build to see."""
    if isinstance(node, ScalarNode) and node.value == NONE:
        return None
    keys, place = keys_of_class(Sign), where(node, str(path))
    nodes = read_keys(node, path, what, keys)
    for name in required_of(keys):
        if name not in nodes:
            raise fail(place, f"{what}: no `{name}`", "write sign: {key: FILE, cert: FILE}")
    return Sign(location=place, **parse_values(nodes, keys, path, label=f"{what}: "))


def parse_microcode(node: Node, path: Path, what: str) -> Microcode:
    """The files of `microcode`; `auto` stands alone."""
    if isinstance(node, ScalarNode):
        return Microcode(auto=choice_of(node, str(path), what, (AUTO, NONE)) == AUTO)
    return Microcode(files=tuple(parse_file(item, path, what) for item in items_of(node, str(path), what)))
