"""`overlay:` and `verity:` of `root:`: what lies over and under the root file system.

`overlay: tmpfs`, `overlay: {tmpfs: size=50%}` or `overlay: {device: LABEL=data}`. `verity:` takes what
`veritysetup format` prints, with the same names, or says where that comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from yaml.nodes import MappingNode, Node

from megamod.common.errors import Location, fail
from megamod.common.text import shorten
from megamod.profile.keys import TEXT, Json, Key, choice, code, keys_of_class, mapping_schema, parse_values, read_keys
from megamod.profile.yaml_reader import items_of, text_of, where

SAME_DEVICE = "same"
"""The hash tree lies behind the data, on the device that `root=` names."""
BY_HASH = "roothash"
"""The partitions' UUIDs are the halves of the root hash (systemd-veritysetup-generator(8))."""
FROM_CMDLINE = "cmdline"
SLOT = "${slot}"
"""What stands for the slot that is booted, in a device or a file."""

DEVICE = r"/dev/\S+|(PART)?(UUID|LABEL)=\S+|[0-9]+:[0-9]+"

_TEXT: Json = {"type": ["string", "integer"]}
_SIZES = tuple(512 << n for n in range(8))
_TMPFS = "tmpfs"
_SOURCE_TYPES = frozenset({"9p", "virtiofs", "ubifs", "jffs2", "nfs", "nfs4", "cifs", "ceph", "afs"})
_TYPE_NAMES = ", ".join(sorted(_SOURCE_TYPES))
_IMAGE_PATH = r"/[A-Za-z0-9_./${}+-]+"


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
    return _word(node, path, what, rf"{SAME_DEVICE}|{DEVICE}", "a device")


def parse_device(node: Node, path: Path, what: str) -> str:
    """A device as `root=` has it, which may have `${slot}` in it."""
    return _word(node, path, what, DEVICE, "a device such as /dev/vda2, UUID=… or PARTLABEL=…")


def parse_source(node: Node, path: Path, what: str) -> str:
    """A device, or what a file system without one is mounted from: a tag, a volume, another machine's folder."""
    return _word(node, path, what, r"[!-~]+", "a device such as /dev/vda2, UUID=… or PARTLABEL=…")


def check_source(source: str, types: str | None, place: Location, what: str) -> None:
    """Raises MegamodError if *source* is not a device, and none of *types* is mounted from anything else."""
    if re.fullmatch(DEVICE, source) or _SOURCE_TYPES.intersection((types or "").split(",")):
        return
    problem = f"{what}: device `{shorten(source)}` is not a device such as /dev/vda2, UUID=… or PARTLABEL=…"
    raise fail(place, problem, f"with one of these as its type it may be a name of another kind: {_TYPE_NAMES}")


def parse_type(node: Node, path: Path, what: str) -> str:
    """A file system's type, or a comma-separated list."""
    return _word(node, path, what, r"[A-Za-z0-9_.,-]+", "a file system's type")


def parse_flags(node: Node, path: Path, what: str) -> str:
    """Mount options, separated by commas."""
    return _word(node, path, what, r"[!-~]+", "a list of mount options, separated by commas")


def _count(node: Node, path: Path, what: str) -> int:
    return int(_word(node, path, what, r"[0-9]{1,15}", "a whole number"))


def _blocks(node: Node, path: Path, what: str) -> int:
    blocks = _count(node, path, what)
    if blocks == 0:
        raise fail(where(node, str(path)), f"{what}: zero")
    return blocks


def _source(node: Node, path: Path, what: str) -> str:
    return text_of(node, str(path), what)


def _algorithm(node: Node, path: Path, what: str) -> str:
    return _word(node, path, what, r"[a-z0-9_-]+", "the name of a hash")


def _path_in_the_image(node: Node, path: Path, what: str) -> str:
    return _word(node, path, what, _IMAGE_PATH, "an absolute path in the image")


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
    or `same`; *hash_start* counts hash blocks; *salt* is `-` if there is none; *options* are the target's. *signature*
    is that of the root hash, a file of the image.

    *source* says where the rest comes from: `cmdline`, or a file with what `veritysetup format` has printed, which has
    `${slot}` in its name if there is one for each slot; then *root_hash* is "" and *data_blocks* 0."""

    source: Annotated[
        str | None,
        Key(
            name="from",
            parse=_source,
            schema=TEXT,
            values="`cmdline`, or a file that may have `${slot}` in its name",
            help="Where the rest comes from: `roothash=` on the kernel command line and veritysetup's superblock, or "
            "a file with what `veritysetup format` has printed.",
        ),
    ] = None
    root_hash: Annotated[
        str, Key(parse=_hexadecimal, schema=_TEXT, values="hexadecimal", help="The hash of the tree's root.")
    ] = ""
    salt: Annotated[
        str, Key(parse=_salt, schema=_TEXT, values="hexadecimal, or `-`", help="The salt of the hashes, `-` for none.")
    ] = "-"
    hash_device: Annotated[
        str,
        Key(
            parse=_device,
            schema=_TEXT,
            values="a device as `root=` has it, or `same`",
            help="Where the hash tree is; `same`: behind the data, on the device of `root=`. With `from: cmdline` it "
            "may be left out: then the partitions' UUIDs are the halves of the root hash.",
        ),
    ] = ""
    data_blocks: Annotated[
        int,
        Key(
            parse=_blocks,
            schema={"type": "integer", "minimum": 1},
            values="a number",
            help="How many data blocks are checked.",
        ),
    ] = 0
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
    signature: Annotated[
        str | None,
        Key(
            parse=_path_in_the_image,
            schema={"type": "string", "pattern": rf"^{_IMAGE_PATH}$"},
            values="an absolute path in the image, which may have `${slot}` in it",
            help="The signature of the root hash (PKCS #7, DER), for a kernel that checks it; `files` puts it into the "
            "image. `roothashsig=` on the kernel command line counts more.",
        ),
    ] = None


class Fallback(StrEnum):
    """What takes the place of a layer that cannot be mounted."""

    NONE = "none"
    TMPFS = "tmpfs"


def _word_on_the_command_line(node: Node, path: Path, what: str) -> str:
    return _word(node, path, what, r"[A-Za-z][A-Za-z0-9_.-]*", "a word for the kernel command line")


def _tmpfs_options(node: Node, path: Path, what: str) -> str:
    options = text_of(node, str(path), f"{what.removesuffix(_TMPFS)}options")
    if not re.fullmatch(r"[A-Za-z0-9_%=:.,-]+", options):
        raise fail(
            where(node, str(path)),
            f"{what.removesuffix(f': {_TMPFS}')}: `{shorten(options)}`",
            "options of a tmpfs, such as size=50%",
        )
    return options


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """What takes all writes to the root: a tmpfs with the options *tmpfs*, or *device*, which keeps them.

    If the device cannot be mounted, *fallback* says what becomes of the boot; *reset* is a word on the kernel command
    line that removes what has been written.
    """

    tmpfs: Annotated[
        str,
        Key(
            parse=_tmpfs_options,
            schema={"type": "string", "pattern": r"^[A-Za-z0-9_%=:.,-]+$"},
            values=f"mount options, such as {code('size=50%')}",
            help="The options of the tmpfs.",
        ),
    ] = ""
    device: Annotated[
        str | None,
        Key(
            parse=parse_device,
            schema=TEXT,
            values="a device as `root=` has it",
            help="Where what is written is kept. The root itself stays to be seen below `/run/megamod/lower`.",
        ),
    ] = None
    type: Annotated[
        str | None,
        Key(parse=parse_type, schema=TEXT, values="a file system's type", help="Of the device.", default_text="found"),
    ] = None
    flags: Annotated[str | None, Key(parse=parse_flags, schema=TEXT, values="mount options", help="Of the device.")] = (
        None
    )
    fallback: Annotated[
        Fallback,
        choice(
            Fallback,
            help="If the device cannot be mounted: `tmpfs` takes its place for this boot; `none`: the boot fails.",
        ),
    ] = Fallback.NONE
    reset: Annotated[
        str | None,
        Key(
            parse=_word_on_the_command_line,
            schema=TEXT,
            values="a word",
            help="A factory reset: with this word on the kernel command line what has been written is removed.",
        ),
    ] = None


OVERLAY_KEYS = keys_of_class(Overlay)


def overlay_schema() -> Json:
    """The JSON Schema of `overlay`."""
    return {"anyOf": [{"const": _TMPFS}, mapping_schema(OVERLAY_KEYS, minProperties=1)]}


def parse_overlay(node: Node, path: Path, what: str) -> Overlay:
    """What takes the writes to the root; raises a located MegamodError."""
    place = where(node, str(path))
    if not isinstance(node, MappingNode):
        text = text_of(node, str(path), what)
        if text != _TMPFS:
            raise fail(place, f"{what} `{shorten(text)}`: only `tmpfs` is known", "write {device: LABEL=data}")
        return Overlay()
    nodes = read_keys(node, path, what, OVERLAY_KEYS)
    if not nodes:
        raise fail(place, f"{what}: nothing", "write overlay: tmpfs")
    overlay = Overlay(**parse_values(nodes, OVERLAY_KEYS, path, label=f"{what}: "))
    alone = [name for name in nodes if name != _TMPFS]
    if overlay.device is None and alone:
        raise fail(where(nodes[alone[0]][0], str(path)), f"{what}: {alone[0]} without a device")
    if overlay.device is not None and overlay.tmpfs and overlay.fallback is Fallback.NONE:
        hint = "with fallback: tmpfs they are those of the tmpfs that takes its place"
        raise fail(where(nodes[_TMPFS][0], str(path)), f"{what}: a device, and options of a tmpfs", hint)
    return overlay


def verity_schema() -> Json:
    """The JSON Schema of `verity`."""
    return mapping_schema(
        keys_of_class(Verity),
        anyOf=[{"required": ["from"]}, {"required": ["root-hash", "hash-device", "data-blocks"]}],
    )


def parse_verity(node: Node, path: Path, what: str) -> Verity:
    """The dm-verity table below the root; raises a located MegamodError."""
    place = where(node, str(path))
    nodes = read_keys(node, path, what, keys_of_class(Verity))
    verity = Verity(**parse_values(nodes, keys_of_class(Verity), path, label=f"{what}: "))
    if verity.source is not None:
        return _sourced(verity, nodes, path, what)
    missing = [name for name in ("root-hash", "hash-device", "data-blocks") if name not in nodes]
    if missing:
        raise fail(
            place, f"{what}: {', '.join(missing)} missing", "veritysetup format prints them; or write from: FILE"
        )
    if verity.hash_device == SAME_DEVICE and verity.hash_start < 2:
        raise fail(
            place,
            f"{what}: hash-start is missing, as the hashes are on the same device",
            "the hash offset in hash blocks, plus one for veritysetup's superblock",
        )
    return verity


def _sourced(verity: Verity, nodes: Mapping[str, tuple[Node, Node]], path: Path, what: str) -> Verity:
    """A table that mostly comes from elsewhere: what stands there must not stand here, too."""
    place = where(nodes["from"][1], str(path))
    foreign = ["root-hash", "data-blocks", "salt", "data-block-size", "hash-block-size"]
    if verity.source == FROM_CMDLINE:
        foreign.append("hash-start")
        if verity.hash_device == SAME_DEVICE:
            raise fail(place, f"{what}: from: cmdline needs the hashes on a device of their own", "name hash-device")
        return _without(replace(verity, hash_device=verity.hash_device or BY_HASH), nodes, foreign, path, what)
    if not verity.hash_device:
        raise fail(place, f"{what}: hash-device missing", "a file with what veritysetup has printed does not name it")
    foreign.append("algorithm")
    return _without(replace(verity, source=str(path.parent / str(verity.source))), nodes, foreign, path, what)


def _without(
    verity: Verity, nodes: Mapping[str, tuple[Node, Node]], foreign: list[str], path: Path, what: str
) -> Verity:
    for name in foreign:
        if name in nodes:
            raise fail(where(nodes[name][0], str(path)), f"{what}: {name} comes from where `from` says")
    return verity
