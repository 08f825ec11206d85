"""What one entry of a `modules` or `exclude` list means: its syntax, and the modules of a tree that it names.

| written | means |
| --- | --- |
| `ext4`, `snd-hda-intel` | the module of that name, else every provider of the alias of that name, as modprobe has it |
| `nf_*`, `[eou]hci_pci` | every module whose name matches (`*`, `?`, `[…]`) |
| `=drivers/usb` | every module below that folder of `kernel/`; each part may hold `*`, `?`, `[…]` |
| `alias:usb:v046D*` | every module with an alias that matches, the alias taken as a plain text |
| `modalias:pci:v00008086d…` | every module that modprobe would load for that modalias |
| `@detected` | what this machine needs: the way to its root in the critical stage, the rest in a deferred one |
| `@builtin:usb-storage` | a set of profiles/sets.yaml |
| `@dtb:board.dtb` | what drives the enabled nodes of a device tree |
| `@dtb:board.dtb#storage` | what drives its storage, and what that needs; also `#/soc/mmc@…` and `#mmc0` (an alias) |
| `@list:modules.load` | the modules that a file lists, as modules-load.d and Android have it |
| `?ext4` | the same, and no error if nothing matches |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from yaml.nodes import Node, SequenceNode

from megamod.common.errors import Location, fail
from megamod.common.text import canonical, did_you_mean, shorten
from megamod.modules.aliases import normalise_alias
from megamod.profile.keys import Json, Merge
from megamod.profile.yaml_reader import items_of, text_of, where

OPTIONAL = "?"
REMOVE = "!"

_NAME = re.compile(r"[A-Za-z0-9_+.,-]+")
_WILD = re.compile(r"[*?\[]")
_PATTERN = (
    r"^!?\??(@detected|@builtin:[a-z0-9_-]+|@dtb:[^\s#]+(#\S+)?|@list:\S+|"
    r"=[^\s/]+(/[^\s/]+)*/?|(mod)?alias:\S+|(?!(mod)?alias:)[^\s@=!?/][^\s/]*)$"
)
_FORMS = (
    "A module name, a glob, =folder, alias:GLOB, modalias:TEXT, @detected, @builtin:NAME, @dtb:FILE#NODES, @list:FILE; "
    "`?` before it: optional."
)

SELECTORS: Json = {
    "type": "array",
    "minItems": 1,
    "items": {"type": ["string", "number", "boolean"], "pattern": _PATTERN, "description": _FORMS},
}
"""The JSON Schema of a list of selectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One entry of a `modules` or `exclude` list, as written."""

    text: str
    location: Location


class SelectorKind(StrEnum):
    """How a selector finds its modules."""

    NAME = "name"
    GLOB = "glob"
    PATH = "path"
    ALIAS = "alias"
    MODALIAS = "modalias"
    DETECTED = "detected"
    SET = "set"
    DTB = "dtb"
    LIST = "list"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedSelector:
    """A selector taken apart: *pattern* is the part that is compared, in canonical spelling for names and globs."""

    kind: SelectorKind
    pattern: str
    optional: bool
    text: str
    location: Location

    @property
    def written(self) -> Selector:
        """The selector as the profile has it."""
        return Selector(text=self.text, location=self.location)

    @property
    def is_name(self) -> bool:
        """Whether the selector names one module (or alias) and nothing else."""
        return self.kind is SelectorKind.NAME

    @property
    def key(self) -> tuple[SelectorKind, str]:
        """Equal for two selectors that mean the same."""
        return self.kind, self.pattern


def parse_selector(selector: Selector) -> ParsedSelector:
    """*selector* taken apart; raises a located MegamodError for one that cannot mean anything."""
    text, location = selector.text, selector.location
    optional = text.startswith(OPTIONAL)
    body = text[1:] if optional else text
    kind, pattern = _kind_and_pattern(body, location)
    return ParsedSelector(kind=kind, pattern=pattern, optional=optional, text=text, location=location)


def _kind_and_pattern(body: str, location: Location) -> tuple[SelectorKind, str]:
    if not body:
        raise fail(location, "a module name expected after `?`")
    if not body.isprintable() or body != body.strip() or any(c.isspace() for c in body):
        hint = "one selector an entry" if body.isprintable() else None
        raise fail(location, f"`{shorten(body)}`: spaces and control characters are not allowed in a selector", hint)
    if body.startswith(REMOVE):
        raise fail(location, f"`{shorten(body)}`: nothing is inherited here", "`!name` works with `extends`, in lists")
    if body.startswith("@"):
        return _special(body, location)
    if body.startswith("="):
        return SelectorKind.PATH, _folder(body, location)
    for kind in (SelectorKind.ALIAS, SelectorKind.MODALIAS):
        if body.startswith(f"{kind}:"):
            pattern = body.removeprefix(f"{kind}:")
            if not pattern:
                raise fail(location, f"`{body}`: nothing follows `{kind}:`")
            return kind, pattern
    return _name_or_glob(body, location)


def _special(body: str, location: Location) -> tuple[SelectorKind, str]:
    if body == "@detected":
        return SelectorKind.DETECTED, body
    if body.startswith("@builtin:") and body != "@builtin:":
        return SelectorKind.SET, body.removeprefix("@builtin:")
    if body.startswith("@dtb:"):
        file, mark, nodes = body.removeprefix("@dtb:").partition("#")
        if not file or (mark and not nodes) or "\0" in body:
            hint = "as in @dtb:board.dtb, @dtb:board.dtb#storage or @dtb:board.dtb#/soc/mmc@7e300000"
            raise fail(location, f"`{shorten(body)}`: a file expected, and nodes after a `#`", hint)
        return SelectorKind.DTB, file + mark + nodes
    if body.startswith("@list:") and body != "@list:" and "\0" not in body:
        return SelectorKind.LIST, body.removeprefix("@list:")
    hint = "@detected, @builtin:NAME, @dtb:FILE and @list:FILE are known"
    raise fail(location, f"`{shorten(body)}`: unknown kind of selector", hint)


def _folder(body: str, location: Location) -> str:
    folder = body[1:].removesuffix("/")
    folder = folder.removeprefix("kernel/")
    parts = folder.split("/")
    if not folder or any(part in ("", ".", "..") for part in parts):
        raise fail(location, f"`{shorten(body)}`: a folder below kernel/ expected", "as in =drivers/usb")
    return folder


def _name_or_glob(body: str, location: Location) -> tuple[SelectorKind, str]:
    if "/" in body:
        raise fail(location, f"`{shorten(body)}` has a slash", f"a folder is written ={shorten(body.strip('/'))}")
    if re.search(r"\.ko(\.xz|\.zst|\.gz)?$", body):
        raise fail(location, f"`{shorten(body)}` is a file name", f"write {shorten(body.split('.ko')[0])}")
    if _WILD.search(body):
        return SelectorKind.GLOB, normalise_alias(body)
    if ":" not in body and not _NAME.fullmatch(body):
        raise fail(location, f"`{shorten(body)}` is not a module name")
    return SelectorKind.NAME, canonical(body)


def parse_selectors(node: Node, path: Path, what: str) -> tuple[Selector, ...]:
    """A list of selectors, each of which can mean something; with `extends` an entry may be `!selector`."""
    file = str(path)
    selectors = tuple(
        Selector(text=text_of(item, file, f"{what}: a selector"), location=where(item, file))
        for item in items_of(node, file, what)
    )
    for selector in selectors:
        parse_removable(selector)
    return selectors


def parse_selectors_or_none(node: Node, path: Path, what: str) -> tuple[Selector, ...]:
    """The same for a list that may be empty."""
    return () if isinstance(node, SequenceNode) and not node.value else parse_selectors(node, path, what)


def parse_removable(selector: Selector) -> ParsedSelector:
    """*selector* taken apart, without the `!` that removes an inherited one."""
    body = selector.text.removeprefix(REMOVE)
    return parse_selector(Selector(text=body, location=selector.location))


def merge_selectors(base: tuple[Selector, ...], child: tuple[Selector, ...]) -> tuple[Selector, ...]:
    """The inherited list and what *child* appends to it; `!name` takes an entry out that means the same."""
    kept = list(base)
    for selector in child:
        if not selector.text.startswith(REMOVE):
            kept.append(selector)
            continue
        key = parse_removable(selector).key
        rest = [other for other in kept if parse_selector(other).key != key]
        if len(rest) == len(kept):
            hint = did_you_mean(selector.text.removeprefix(REMOVE), [other.text for other in kept])
            raise fail(selector.location, f"{shorten(selector.text)}: nothing of that name is inherited here", hint)
        kept = rest
    return tuple(kept)


APPENDED = Merge(words='appended; `"!entry"` removes', join=merge_selectors, empty=())


def finished_selectors(selectors: tuple[Selector, ...]) -> tuple[Selector, ...]:
    """The list of a whole profile; a removal that is left had nothing to remove."""
    for selector in selectors:
        parse_selector(selector)
    return selectors
