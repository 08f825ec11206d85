"""The record of a key: how its value is read, checked by an editor, inherited, and explained to a reader.

A mapping of a profile is a frozen dataclass. A field that people write is `Annotated[type, Key(…)]`, its default the
default of the key, so that a new key is one field. Mappings whose keys are not the fields of a value (`after`, `root`,
an entry of `files`) are tuples of Key. The parser, `extends`, the JSON Schema and the reference page read these tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from yaml.nodes import Node

from megamod.common.errors import fail
from megamod.common.text import shorten
from megamod.profile.yaml_reader import choice_of, flag_of, keys_of, text_of, where

Json: TypeAlias = dict[str, Any]

Parse: TypeAlias = Callable[[Node, Path, str], Any]
"""(node, the profile's file, what messages call it) → value; raises a located MegamodError."""

TEXT: Json = {"type": "string", "minLength": 1}

# A module called 842 is a number to YAML; the schema takes every scalar as it is written.
WORD: Json = {"type": ["string", "number", "boolean"]}

ABSENT: Any = object()
"""Stands for a value that is not there, where None is one."""

RELATIVE = "a path relative to the profile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """What `extends` makes of an inherited value and the child's; *words* says it in the reference.

    Without *join* the child's value replaces the other. *empty* stands for a value that is not there; where it is
    ABSENT, *join* is asked only if both are.
    """

    words: str
    join: Callable[[Any, Any], Any] | None = None
    empty: Any = ABSENT
    inherited: bool = True


REPLACED = Merge(words="replaced")
OWN = Merge(words="not inherited", inherited=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a mapping.

    *schema* is the JSON Schema of what *parse* takes, as far as it can be told without files and modules. *help* is one
    or two sentences; *values* and *default_text*, in Markdown, are for the reference page. *inside* are the keys of the
    mapping that the value is or holds. *finish* checks the value of a whole profile, `extends` resolved. *name*,
    *field* and *default* come from the dataclass, if it has the key; a key without a default is required.
    """

    parse: Parse
    schema: Json
    values: str
    help: str
    default_text: str = ""
    merge: Merge = REPLACED
    inside: tuple[Key, ...] = ()
    finish: Callable[[Any], Any] | None = None
    name: str = ""
    field: str = ""
    default: Any = ABSENT

    @property
    def required(self) -> bool:
        """Whether a mapping without this key is an error."""
        return self.default is ABSENT


@cache
def keys_of_class(form: type) -> tuple[Key, ...]:
    """The keys of the dataclass *form* in the order of its fields, each with name, field and default filled in."""
    hints = get_type_hints(form, include_extras=True)
    keys = []
    for field in fields(form):
        for key in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(key, Key):
                default = ABSENT if field.default is MISSING else field.default
                name = key.name or field.name.replace("_", "-")
                keys.append(replace(key, name=name, field=field.name, default=default))
    return tuple(keys)


def read_keys(node: Node, path: Path, what: str, keys: Iterable[Key]) -> dict[str, tuple[Node, Node]]:
    """The mapping *node* as name → (key node, value node); a key that is not in the table is an error."""
    return keys_of(node, str(path), what, (key.name for key in keys))


def parse_values(
    nodes: Mapping[str, tuple[Node, Node]], keys: Iterable[Key], path: Path, *, label: str = ""
) -> dict[str, Any]:
    """Field → value of every key in *nodes*, in the order of the table; *label* begins messages."""
    return {key.field: key.parse(nodes[key.name][1], path, label + key.name) for key in keys if key.name in nodes}


def mapping_schema(keys: Iterable[Key], **more: Any) -> Json:
    """The JSON Schema of a mapping with these keys and no others."""
    properties = {key.name: {"description": key.help, **key.schema} for key in keys}
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def required_of(keys: Iterable[Key]) -> list[str]:
    """The names of the keys that a mapping must have."""
    return [key.name for key in keys if key.required]


def code(*words: str) -> str:
    """*words* as Markdown: `a`, `b`."""
    return ", ".join(f"`{word}`" for word in words)


def choice(words: type[StrEnum], *, help: str) -> Key:  # noqa: A002 - the record's own word
    """A key that takes one word of an enum."""
    allowed = tuple(word.value for word in words)

    def parse(node: Node, path: Path, what: str) -> StrEnum:
        return words(choice_of(node, str(path), what, allowed))

    return Key(parse=parse, schema={"enum": list(allowed)}, values=code(*allowed), help=help)


def flag(*, help: str) -> Key:  # noqa: A002
    """A key that takes true or false."""
    schema: Json = {"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no", "on", "off"]}]}
    return Key(
        parse=lambda node, path, what: flag_of(node, str(path), what),
        schema=schema,
        values=code("true", "false"),
        help=help,
    )


def existing_file(*, help: str, default_text: str = "") -> Key:  # noqa: A002
    """A key that names a file, relative to the profile."""
    return Key(parse=parse_file, schema=TEXT, values="a file", help=help, default_text=default_text)


def parse_file(node: Node, path: Path, what: str) -> str:
    """The path of a file that must be there, below the profile's folder unless it is absolute."""
    text = text_of(node, str(path), f"{what}: a file")
    if "\0" in text or not (path.parent / text).is_file():
        raise fail(where(node, str(path)), f"{what}: no such file: {shorten(text)}", RELATIVE)
    return str(path.parent / text)
