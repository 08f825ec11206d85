"""`root:` of a profile: YAML node → Root, and whether a trigger can fire under it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from yaml.nodes import Node, ScalarNode, SequenceNode

from megamod.common.errors import Location, fail
from megamod.common.text import shorten
from megamod.profile.keys import WORD, Json, Key, keys_of_class, mapping_schema, parse_values, read_keys
from megamod.profile.root_layers import OVERLAY_KEYS, Verity, overlay_schema, parse_overlay, parse_verity, verity_schema
from megamod.profile.triggers import PATH, Trigger, TriggerKind, checked_path
from megamod.profile.yaml_reader import items_of, kind_of, text_of, where

RUN = "/run/"
"""The one file system that the stage keeper still sees after the switch to the real root."""


class RootKind(StrEnum):
    """What comes after the critical stage."""

    CMDLINE = "cmdline"
    EXEC = "exec"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """What comes after the critical stage: mount `root=`, execute *path* with *args*, or go on with another init.

    *overlay* and *verity* belong to a mounted root: the options of a tmpfs over it ("" for none), a device below it.
    """

    kind: RootKind
    path: str | None = None
    args: tuple[str, ...] = ()
    overlay: str | None = None
    verity: Verity | None = None
    device: str | None = None
    type: str | None = None
    flags: str | None = None


def _from(node: Node, path: Path, what: str) -> RootKind:
    text = text_of(node, str(path), what)
    if text != RootKind.CMDLINE:
        raise fail(where(node, str(path)), f"{what} `{shorten(text)}`: only `cmdline` is known")
    return RootKind.CMDLINE


def _program(node: Node, path: Path, what: str) -> tuple[str, ...]:
    """The program's absolute path and its arguments."""
    words = _words(node, str(path), what)
    return checked_path(words[0], where(node, str(path)), what), *words[1:]


def _init(node: Node, path: Path, what: str) -> tuple[str, ...]:
    words = _words(node, str(path), what)
    if len(words) > 1:
        hint = "the next init gets the kernel's arguments"
        raise fail(where(node, str(path)), f"{what} takes a path alone", hint)
    return (checked_path(words[0], where(node, str(path)), what),)


def _words(node: Node, file: str, what: str) -> list[str]:
    if isinstance(node, SequenceNode):
        words = [text_of(item, file, what) for item in items_of(node, file, what)]
    else:
        text = text_of(node, file, what)
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise fail(where(node, file), f"{what}: {error}: `{shorten(text)}`", "close it, or write a list") from None
    if not words:
        raise fail(where(node, file), f"{what}: a path expected")
    if any("\0" in word for word in words):
        raise fail(where(node, file), f"{what}: a NUL character cannot be passed on")
    return words


_LIST: Json = {"type": "array", "minItems": 1, "items": WORD}
_ONE = "one of these three"

KINDS = (
    Key(
        name="from",
        field=RootKind.CMDLINE,
        parse=_from,
        schema={"const": "cmdline"},
        values="`cmdline`",
        default_text=_ONE,
        help="Mount what `root=` on the kernel command line names and start its init.",
    ),
    Key(
        name="exec",
        field=RootKind.EXEC,
        parse=_program,
        schema={"anyOf": [{"type": "string", "pattern": "^['\"]?/"}, _LIST]},
        values="`/path arg…`, or a list `[/path, arg…]`",
        default_text=_ONE,
        help="The whole system is in the image: execute this program.",
    ),
    Key(
        name="chain",
        field=RootKind.CHAIN,
        parse=_init,
        schema={"anyOf": [{"type": "string", "pattern": PATH["pattern"]}, {**_LIST, "maxItems": 1}]},
        values="an absolute path",
        default_text=_ONE,
        help="Go on with the init of another initramfs generator, in the same image.",
    ),
)
LAYERS = (
    Key(
        name="overlay",
        field="overlay",
        parse=parse_overlay,
        schema=overlay_schema(),
        values="`tmpfs`, or `{tmpfs: OPTIONS}`",
        help="What lies over the mounted root and takes all writes, until the next boot.",
        default=None,
        inside=OVERLAY_KEYS,
    ),
    Key(
        name="verity",
        field="verity",
        parse=parse_verity,
        schema=verity_schema(),
        values="what `veritysetup format` prints",
        help="A dm-verity device below the mounted root: every block is checked when it is read.",
        default=None,
        inside=keys_of_class(Verity),
    ),
)
ROOT_KEYS = (*KINDS, *LAYERS)
"""The keys of `root`: exactly one of KINDS, and LAYERS with the first of them."""


def root_schema() -> Json:
    """The JSON Schema of `root`."""
    forms = [
        mapping_schema((key, *(LAYERS if key.field is RootKind.CMDLINE else ())), required=[key.name]) for key in KINDS
    ]
    return {"anyOf": forms}


def parse_root(node: Node, path: Path, what: str) -> Root:
    """What `root` says; raises a located MegamodError."""
    file = str(path)
    if isinstance(node, ScalarNode):
        hint = "write root: {from: cmdline}"
        raise fail(where(node, file), f"{what}: a mapping expected, not {kind_of(node)}", hint)
    nodes = read_keys(node, path, what, ROOT_KEYS)
    kinds = [key for key in KINDS if key.name in nodes]
    if len(kinds) != 1:
        written = [name for name in nodes if name in {key.name for key in kinds}]
        problem = "nothing" if not written else " and ".join(written)
        raise fail(where(node, file), f"{what}: exactly one of from, exec, chain expected, not {problem}")
    kind = RootKind(kinds[0].field)
    for layer in (key.name for key in LAYERS if key.name in nodes):
        if kind is not RootKind.CMDLINE:
            message = f"{what}: {layer} belongs to {{from: cmdline}}, not to {kinds[0].name}"
            raise fail(where(nodes[layer][0], file), message)
    values = parse_values(nodes, ROOT_KEYS, path, label=f"{what}: ")
    if kind is RootKind.CMDLINE:
        return Root(kind=kind, overlay=values.get("overlay"), verity=values.get("verity"))
    program, *args = values[kind]
    return Root(kind=kind, path=program, args=tuple(args))


def check_fit(trigger: Trigger, root: Root, place: Location) -> None:
    """Refuse a trigger that cannot fire, or fires at the wrong moment, under this kind of root.

    With `chain` the next generator's init is no user space yet, and the keeper would take it for one. With `cmdline`
    and `chain` the keeper sees only /run after the switch to the real root.
    """
    if root.kind is RootKind.CHAIN and trigger.kind in (TriggerKind.USERSPACE, TriggerKind.IDLE):
        message = f"after: `{trigger.kind}` is impossible with root: {{chain: …}}, whose init is not yet user space"
        raise fail(place, message, "use now, manual, {delay: …} or {path: /run/…}")
    if trigger.path and root.kind is not RootKind.EXEC and not trigger.path.startswith(RUN):
        message = f"after: path {shorten(trigger.path)} is not below /run, all that is seen after the switch of roots"
        raise fail(place, message, "create the file in /run")
