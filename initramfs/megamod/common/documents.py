"""JSON documents with a version: read into a typed value or refused with file and place, and written.

A document's form is a dataclass whose first field is ``version: Literal[N] = N``. Needs bytes, gives the dataclass;
keys that the form does not have are passed over, so keys can be added without a new version. The text is the standard
library's JSON, which keeps file names that are not UTF-8 (as lone surrogates); types and ranges are msgspec's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec

from megamod.common.errors import MegamodError

Count = Annotated[int, msgspec.Meta(ge=0)]
"""A number from 0 up."""

_T = TypeVar("_T")

_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def read_document(data: bytes, form: type[_T], *, source: str, hint: str | None = None) -> _T:
    """The document in *data*, of the form *form*. Raises MegamodError with *source* and the place of what is wrong."""
    value = parse_json(data, source=source, hint=hint)
    check_version(value, form, source=source, hint=hint)
    return typed(value, form, source=source, hint=hint)


def parse_json(data: bytes, *, source: str, hint: str | None = None) -> dict[str, Any]:
    """The JSON object in *data*; raises MegamodError for what is not one."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MegamodError(f"{source}: is not JSON: {error}", hint=hint) from None
    if not isinstance(value, dict):
        raise MegamodError(f"{source}: is not an object", hint=hint)
    return value


def check_version(value: Mapping[str, Any], form: type[Any], *, source: str, hint: str | None = None) -> None:
    """Raises MegamodError unless *value* has the version of *form*; other versions are not guessed at."""
    wanted = version_of(form)
    if "version" not in value:
        raise MegamodError(f"{source}: version: is missing", hint=hint)
    if value["version"] != wanted or isinstance(value["version"], bool):
        other = "use the megamod that wrote it, or write it again with this one"
        raise MegamodError(f"{source}: has version {value['version']!r}, this megamod reads {wanted}", hint=other)


def typed(value: object, form: type[_T], *, source: str, place: str = "", hint: str | None = None) -> _T:
    """The parsed *value* as a *form*; *place* is the path to it inside the document, for messages."""
    try:
        return msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        _refuse(str(error), source, place, hint)
    except UnicodeEncodeError:
        # A name that is not UTF-8 where one of a few words is allowed.
        raise MegamodError(f"{source}: {place or 'a key or value'}: is not a valid name", hint=hint) from None


def _refuse(text: str, source: str, place: str, hint: str | None) -> NoReturn:
    """Raise in the words of messages what msgspec has in those of Python: ``Expected `int` - at `$.a[3]` ``."""
    text, _, at = text.partition(" - at ")
    inner = at.strip("`").removeprefix("$")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        inner, text = f"{inner}.{missing[1]}", "is missing"
    where = f"{place}{inner}" if place else inner.removeprefix(".")
    text = re.sub(r"`([a-z]+(?: \| [a-z]+)*)`", _words, text)
    for theirs, ours in (("Expected ", "must be "), (", got ", ", not "), ("Invalid enum value", "unknown value")):
        text = text.replace(theirs, ours)
    raise MegamodError(f"{source}: {where}: {text}" if where else f"{source}: {text}", hint=hint) from None


def _words(found: re.Match[str]) -> str:
    return " or ".join(_NAMES.get(word, word) for word in found[1].split(" | "))


def version_of(form: type[Any]) -> int:
    """The version of the documents of *form*."""
    (version,) = (field.default for field in fields(form) if field.name == "version")
    assert isinstance(version, int), form
    return version


def plain(document: Any) -> Any:
    """*document* as dicts, tuples and plain values, keys in the order of its fields."""
    return msgspec.to_builtins(document)


def document_bytes(document: Any, *, indent: int | None = 1) -> bytes:
    """The bytes of the file: ASCII, one line end at its end; the same document gives the same bytes."""
    separators = (",", ":") if indent is None else None
    return json.dumps(plain(document), indent=indent, separators=separators).encode("ascii") + b"\n"


def schema_of(form: type[Any]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the documents of *form*: it tells another program what it can rely on."""
    schema = msgspec.json.schema(form)
    name = schema["$ref"].rpartition("/")[2]
    # msgspec takes what has a default for optional; the writer leaves none of them out of the outermost object.
    whole = schema["$defs"].pop(name)
    required = [field.name for field in fields(form)]
    plain_schema = {**whole, "required": required, "$defs": schema["$defs"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_stripped(plain_schema)}


def _stripped(schema: Any) -> Any:
    """*schema* without what its readers do not need and msgspec's versions write in different ways: defaults, which are
    those of our reader; names of properties; the indentation of docstrings."""
    if isinstance(schema, list):
        return [_stripped(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _stripped(value) for key, value in schema.items() if key not in ("default", "propertyNames")}
    if isinstance(properties := schema.get("properties"), dict):
        kept["properties"] = {name: _stripped(value) for name, value in properties.items()}
    if isinstance(text := kept.get("description"), str):
        kept["description"] = " ".join(text.split())
    return kept
