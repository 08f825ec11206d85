"""`sign` and `microcode` of a profile: YAML nodes → what the megamodules are signed with, what the processor gets.

sign: {key: keys/module.pem, cert: keys/module.crt}
sign: {key: "pkcs11:token=signing;object=modules", cert: keys/module.crt, digest: sha512}
microcode: auto
microcode: [ucode/06-8e-0a]
"""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from yaml.nodes import Node, ScalarNode

from megamod.common.errors import fail
from megamod.common.text import shorten
from megamod.profile.model import Digest, Microcode, Sign
from megamod.profile.yaml_reader import choice_of, items_of, keys_of, text_of, where

PKCS11 = "pkcs11:"
DIGESTS = get_args(Digest)
SIGN_KEYS = ("key", "cert", "digest")


def parse_sign(node: Node, path: Path) -> Sign | None:
    """The key and certificate of `sign`, None for `none`; that they fit each other is for the build to see."""
    file = str(path)
    if isinstance(node, ScalarNode) and node.value == "none":
        return None
    keys = keys_of(node, file, "sign", SIGN_KEYS)
    for key in ("key", "cert"):
        if key not in keys:
            raise fail(where(node, file), f"sign: no `{key}`", "write sign: {key: FILE, cert: FILE}")
    key = text_of(keys["key"][1], file, "sign: key: a file or a pkcs11: URI")
    if not key.startswith(PKCS11):
        key = _file(keys["key"][1], path, "sign: key")
    elif not key.isprintable():
        raise fail(where(keys["key"][1], file), "sign: key: control characters in the URI")
    return Sign(
        key=key,
        cert=_file(keys["cert"][1], path, "sign: cert"),
        digest=cast(
            Digest, choice_of(keys["digest"][1], file, "sign: digest", DIGESTS) if "digest" in keys else "auto"
        ),
        location=where(node, file),
    )


def parse_microcode(node: Node, path: Path) -> Microcode:
    """The files of `microcode`; `auto` stands alone."""
    file = str(path)
    if isinstance(node, ScalarNode):
        text = choice_of(node, file, "microcode", ("auto", "none"))
        return Microcode(auto=text == "auto")
    return Microcode(files=tuple(_file(item, path, "microcode") for item in items_of(node, file, "microcode")))


def _file(node: Node, path: Path, what: str) -> str:
    text = text_of(node, str(path), f"{what}: a file")
    if "\0" in text or not (path.parent / text).is_file():
        hint = "a path relative to the profile"
        raise fail(where(node, str(path)), f"{what}: no such file: {shorten(text)}", hint)
    return str(path.parent / text)
