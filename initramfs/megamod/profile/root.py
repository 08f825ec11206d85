"""`root:` of a profile: YAML node → Root, and whether a trigger can fire under it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from megamod.common.errors import Location, fail
from megamod.common.text import shorten
from megamod.profile.keys import TEXT, WORD, Json, Key, choice, keys_of_class, mapping_schema, parse_values, read_keys
from megamod.profile.root_layers import (
    OVERLAY_KEYS,
    SLOT,
    Overlay,
    Verity,
    check_source,
    overlay_schema,
    parse_flags,
    parse_overlay,
    parse_source,
    parse_type,
    parse_verity,
    verity_schema,
)
from megamod.profile.triggers import PATH, TIME, Trigger, TriggerKind, checked_path, parse_duration
from megamod.profile.yaml_reader import items_of, kind_of, text_of, where

RUN = "/run/"
"""The one file system that the stage keeper still sees after the switch to the real root."""


class RootKind(StrEnum):
    """What comes after the critical stage."""

    CMDLINE = "cmdline"
    EXEC = "exec"
    CHAIN = "chain"


class OnFailure(StrEnum):
    """What becomes of a boot that has failed."""

    SHELL = "shell"
    PANIC = "panic"
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeMount:
    """A program of the image and its arguments, and how long it may take, in milliseconds (0: as long as it likes)."""

    command: tuple[str, ...]
    timeout: int = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """What comes after the critical stage: mount `root=`, execute *path* with *args*, or go on with another init.

    The rest belongs to a mounted root. *device*, *type* and *flags* count where the command line says nothing; *slot*
    are the words that may name the slot there. *overlay* lies over the root, *verity* below it; *slot_verity* has what
    was read for each slot.
    """

    kind: RootKind
    path: str | None = None
    args: tuple[str, ...] = ()
    device: str | None = None
    type: str | None = None
    flags: str | None = None
    slot: tuple[str, ...] = ()
    before: BeforeMount | None = None
    on_failure: OnFailure = OnFailure.SHELL
    overlay: Overlay | None = None
    verity: Verity | None = None
    slot_verity: tuple[tuple[str, Verity], ...] = ()


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
        raise fail(where(node, file), f"{what}: NUL characters are not allowed")
    return words


def _before(node: Node, path: Path, what: str) -> BeforeMount:
    if not isinstance(node, MappingNode):
        return BeforeMount(command=_program(node, path, what))
    nodes = read_keys(node, path, what, _BEFORE)
    if "run" not in nodes:
        raise fail(where(node, str(path)), f"{what}: run is missing", "the program that is to run")
    return BeforeMount(**parse_values(nodes, _BEFORE, path, label=f"{what}: "))


def _slot_words(node: Node, path: Path, what: str) -> tuple[str, ...]:
    items = items_of(node, str(path), what) if isinstance(node, SequenceNode) else [node]
    words = tuple(text_of(item, str(path), what) for item in items)
    for word in words:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", word):
            raise fail(where(node, str(path)), f"{what}: `{shorten(word)}` is not a word for the kernel command line")
    if not words:
        raise fail(where(node, str(path)), f"{what}: a word expected", "such as androidboot.slot_suffix or rauc.slot")
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
_COMMAND: Json = {"anyOf": [{"type": "string", "pattern": "^['\"]?/"}, _LIST]}
_BEFORE = (
    Key(
        name="run",
        field="command",
        parse=_program,
        schema=_COMMAND,
        values="`/path arg…`, or a list `[/path, arg…]`",
        help="The program, in the image.",
    ),
    Key(
        name="timeout",
        field="timeout",
        parse=partial(parse_duration, zero=True),
        schema=TIME,
        values="a duration; 0 waits for ever",
        help="How long it may take.",
        default=30_000,
        default_text="`30s`",
    ),
)
LAYERS = (
    Key(
        name="device",
        field="device",
        parse=parse_source,
        schema=TEXT,
        values="a device as `root=` has it, which may have `${slot}` in it; with the type of a file system without "
        "a device what that is mounted from, such as `ubi0:root`",
        help="The root, unless `root=` is on the kernel command line.",
        default=None,
    ),
    Key(
        name="type",
        field="type",
        parse=parse_type,
        schema=TEXT,
        values="a file system's type, or several separated by commas",
        help="Of that device, unless `rootfstype=` is on the kernel command line.",
        default=None,
        default_text="found",
    ),
    Key(
        name="flags",
        field="flags",
        parse=parse_flags,
        schema=TEXT,
        values="mount options",
        help="Of that device, unless `rootflags=` is on the kernel command line.",
        default=None,
    ),
    Key(
        name="slot-from",
        field="slot",
        parse=_slot_words,
        schema={"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": TEXT}]},
        values="a word on the kernel command line such as `androidboot.slot_suffix` or `rauc.slot`, or several",
        help="What says which slot is booted; its value stands for `${slot}`, without an underscore before it.",
        default=(),
    ),
    Key(
        name="before-mount",
        field="before",
        parse=_before,
        schema={"anyOf": [*_COMMAND["anyOf"], mapping_schema(_BEFORE, required=["run"])]},
        values="`/path arg…`, a list `[/path, arg…]`, or `{run: …, timeout: 10s}`",
        help="A program of the image that runs after the critical stage; if it fails the root is not mounted.",
        default=None,
        inside=_BEFORE,
    ),
    Key(
        name="on-failure",
        field="on_failure",
        parse=choice(OnFailure, help="").parse,
        schema={"enum": [word.value for word in OnFailure]},
        values="`shell`, `panic`, `reboot`",
        help="When the root cannot be mounted: a shell if the image has one, the kernel's panic, or a restart, so that "
        "the boot loader counts the boot as failed.",
        default=OnFailure.SHELL,
        default_text="`shell`",
    ),
    Key(
        name="overlay",
        field="overlay",
        parse=parse_overlay,
        schema=overlay_schema(),
        values="`tmpfs`, `{tmpfs: OPTIONS}`, or `{device: …}`",
        help="What lies over the mounted root and takes all writes: memory, until the next boot, or a device.",
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
    return {"anyOf": [*forms, mapping_schema((KINDS[0], *LAYERS), required=["device"])]}


def parse_root(node: Node, path: Path, what: str) -> Root:
    """What `root` says; raises a located MegamodError."""
    file = str(path)
    if isinstance(node, ScalarNode):
        hint = "write root: {from: cmdline}"
        raise fail(where(node, file), f"{what}: a mapping expected, not {kind_of(node)}", hint)
    nodes = read_keys(node, path, what, ROOT_KEYS)
    kinds = [key for key in KINDS if key.name in nodes] or [KINDS[0]] * ("device" in nodes)
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
        values.pop(RootKind.CMDLINE, None)
        root = Root(kind=kind, **values)
        if root.device is not None:
            check_source(root.device, root.type, where(nodes["device"][1], file), what)
        _check_slot(root, where(node, file), what)
        return root
    program, *args = values[kind]
    return Root(kind=kind, path=program, args=tuple(args))


def _check_slot(root: Root, place: Location, what: str) -> None:
    """`${slot}` and the words that say what it is belong together."""
    verity = root.verity
    texts = [root.device, root.overlay and root.overlay.device, verity and verity.source, verity and verity.hash_device]
    texts.append(verity and verity.signature)
    used = any(SLOT in text for text in texts if text)
    if used and not root.slot:
        raise fail(place, f"{what}: {SLOT} without slot-from", "slot-from: androidboot.slot_suffix, or rauc.slot")
    if root.slot and not used:
        raise fail(place, f"{what}: slot-from, but {SLOT} is nowhere", f'write device: "PARTLABEL=root_{SLOT}"')


def check_fit(trigger: Trigger, root: Root, place: Location) -> None:
    """Refuse a trigger that cannot fire, or fires at the wrong moment, under this kind of root.

    With `chain` the next generator's init is not user space yet, and the keeper would take it for one. With `cmdline`
    and `chain` the keeper sees only /run after the switch to the real root.
    """
    if root.kind is RootKind.CHAIN and trigger.kind in (TriggerKind.USERSPACE, TriggerKind.IDLE):
        message = f"after: `{trigger.kind}` is impossible with root: {{chain: …}}, whose init is not yet user space"
        raise fail(place, message, "use now, manual, {delay: …} or {path: /run/…}")
    if trigger.path and root.kind is not RootKind.EXEC and not trigger.path.startswith(RUN):
        message = f"after: path {shorten(trigger.path)} is not below /run, all that is seen after the switch of roots"
        raise fail(place, message, "create the file in /run")
