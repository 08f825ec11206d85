"""`after:` of a deferred stage: YAML node → Trigger.

Forms: `now`, `userspace`, `manual`, or a mapping with one of the six words and perhaps a `timeout`:
`{delay: 2s}`, `{path: /run/x, timeout: 5s}`, `{idle: 500ms, timeout: 30s}`, `{userspace: , timeout: 10s}`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from yaml.nodes import MappingNode, Node, ScalarNode

from megamod.common.errors import Location, fail
from megamod.common.text import did_you_mean, shorten
from megamod.profile.keys import Json, Key, mapping_schema, parse_values, read_keys
from megamod.profile.yaml_reader import is_null, kind_of, text_of, where

MAX_MS = 24 * 60 * 60 * 1000
"""A day: far more than a boot takes, and small enough for the loader's 32-bit poll timeouts."""

_UNITS = {"ms": 1, "s": 1000, "min": 60_000}
_DURATION = re.compile(r"(\d{1,9})(?:\.(\d{1,3}))?\s?(ms|s|min)")
_FORMS = "now, userspace, manual, {delay: 2s}, {path: /run/x} or {idle: 500ms}"


class TriggerKind(StrEnum):
    """What a deferred stage waits for; the values are the words of the plan."""

    NOW = "now"
    USERSPACE = "userspace"
    DELAY = "delay"
    PATH = "path"
    IDLE = "idle"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """When a deferred stage is loaded.

    *path* is set for PATH alone, *delay_ms* for DELAY and IDLE (how long the machine must have been idle).
    *timeout_ms* loads the stage after that time whatever happened; 0 waits for ever.
    """

    kind: TriggerKind
    path: str | None = None
    delay_ms: int | None = None
    timeout_ms: int = 0


def parse_duration(node: Node, path: Path, what: str, *, zero: bool) -> int:
    """Milliseconds of `500ms`, `5s`, `1.5s`, `2min`; a number without a unit is refused, except 0 where *zero*."""
    text = text_of(node, str(path), f"{what}: a duration")
    place = where(node, str(path))
    match = _DURATION.fullmatch("0s" if text == "0" else text)
    if not match:
        hint = f"write {text}ms or {text}s" if text.isdigit() else "write it like 500ms, 5s or 2min"
        raise fail(place, f"{what}: `{shorten(text)}` is not a duration", hint)
    whole, part, unit = match.groups()
    scale: int = _UNITS[unit]
    fraction = int(part or 0) * scale
    divisor: int = 10 ** len(part or "")
    if fraction % divisor:
        raise fail(place, f"{what}: `{shorten(text)}` is not a whole number of milliseconds")
    milliseconds = int(whole) * scale + fraction // divisor
    if milliseconds > MAX_MS:
        raise fail(place, f"{what}: `{shorten(text)}` is longer than a day")
    if milliseconds == 0 and not zero:
        raise fail(place, f"{what}: zero", "`after: now` waits for nothing")
    return milliseconds


def absolute_path(node: Node, path: Path, what: str) -> str:
    """An absolute path without `.`, `..` and empty parts, as written."""
    return checked_path(text_of(node, str(path), f"{what}: a path"), where(node, str(path)), what)


def checked_path(text: str, place: Location, what: str) -> str:
    """*text* if it is an absolute path that names a file; *what* begins the message."""
    if not text.startswith("/"):
        raise fail(place, f"{what}: `{shorten(text)}` is not absolute", f"it begins with a slash: /{shorten(text)}")
    parts = text[1:].split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise fail(place, f"{what}: `{shorten(text)}` must name a file, without empty parts, `.` and `..`")
    if "\0" in text or len(text.encode()) > 4000:
        raise fail(place, f"{what}: `{shorten(text)}` is not a path")
    return text


def _no_value(node: Node, path: Path, what: str) -> None:
    if not is_null(node) and text_of(node, str(path), what).lower() != "true":
        raise fail(where(node, str(path)), f"after: `{what}` takes no value, not {kind_of(node)}")


TIME: Json = {"anyOf": [{"type": "string", "pattern": r"^([0-9]{1,9}(\.[0-9]{1,3})? ?(ms|s|min)|0)$"}, {"const": 0}]}
_NOTHING: Json = {"anyOf": [{"type": "null"}, {"const": True}]}
PATH: Json = {"type": "string", "pattern": r"^(/(?!\.{1,2}(/|$))[^/]+)+$"}
"""The JSON Schema of an absolute path."""


_ONE = "one of these six"


def _word(kind: TriggerKind, *, help: str) -> Key:  # noqa: A002 - the record's own word
    return Key(name=kind, field=kind, parse=_no_value, schema=_NOTHING, values="nothing", default_text=_ONE, help=help)


def _time(kind: TriggerKind, *, help: str) -> Key:  # noqa: A002
    parse = partial(parse_duration, zero=False)
    return Key(name=kind, field="delay_ms", parse=parse, schema=TIME, values="a duration", default_text=_ONE, help=help)


TRIGGERS = (
    _word(TriggerKind.NOW, help="At once, while the root is mounted and user space starts."),
    _word(TriggerKind.USERSPACE, help="When the real init has started."),
    _time(TriggerKind.DELAY, help="That long after the critical stage."),
    Key(
        name=TriggerKind.PATH,
        field="path",
        parse=absolute_path,
        schema=PATH,
        values="an absolute path",
        default_text=_ONE,
        help="When that file appears.",
    ),
    _time(TriggerKind.IDLE, help="When the machine has been idle for that long."),
    _word(TriggerKind.MANUAL, help="When a program writes the stage's name to `/run/megamod/control`."),
)
TIMEOUT = Key(
    name="timeout",
    field="timeout_ms",
    parse=partial(parse_duration, zero=True),
    schema=TIME,
    values="a duration",
    help="The stage is loaded after that time in any case; 0 waits for ever. Not with `now` and `delay`.",
    default=0,
    default_text="`0`",
)
AFTER = (*TRIGGERS, TIMEOUT)
"""The keys of `after`."""

_BARE = tuple(key.name for key in TRIGGERS if key.parse is _no_value)
_WORDS = tuple(key.name for key in TRIGGERS)
_NOTIMEOUT = {
    TriggerKind.NOW: "`now` takes no timeout",
    TriggerKind.DELAY: "the delay ends by itself",
}


def trigger_schema() -> Json:
    """The JSON Schema of `after`."""
    forms: list[Json] = [{"enum": list(_BARE)}]
    for key in TRIGGERS:
        timeout = () if key.name in _NOTIMEOUT else (TIMEOUT,)
        forms.append(mapping_schema((key, *timeout), required=[key.name]))
    return {"anyOf": forms}


def parse_trigger(node: Node, path: Path, what: str) -> Trigger:
    """The trigger that the value of `after` says; raises a located MegamodError."""
    place = where(node, str(path))
    if isinstance(node, MappingNode):
        return _trigger_of_mapping(node, path, what)
    if not isinstance(node, ScalarNode):
        raise fail(place, f"{what}: a word or a mapping expected, not {kind_of(node)}", _FORMS)
    word = text_of(node, str(path), f"{what}: a trigger")
    if word in _BARE:
        return Trigger(kind=TriggerKind(word))
    if word in _WORDS:
        example = {"delay": "2s", "path": "/run/x", "idle": "500ms"}[word]
        raise fail(place, f"{what}: `{word}` needs a value", f"write {{{word}: {example}}}")
    raise fail(place, f"{what}: `{shorten(word)}` is not a trigger", did_you_mean(word, _WORDS) or _FORMS)


def _trigger_of_mapping(node: Node, path: Path, what: str) -> Trigger:
    file = str(path)
    nodes = read_keys(node, path, what, AFTER)
    kinds = [TriggerKind(name) for name in nodes if name != TIMEOUT.name]
    if len(kinds) != 1:
        problem = "no trigger" if not kinds else f"more than one trigger ({', '.join(kinds)})"
        raise fail(where(node, file), f"{what}: {problem}", f"one of {_FORMS}")
    [kind] = kinds
    if TIMEOUT.name in nodes and kind in _NOTIMEOUT:
        place = where(nodes[TIMEOUT.name][0], file)
        raise fail(place, f"{what}: `{kind}` takes no timeout", _NOTIMEOUT[kind])
    values = parse_values(nodes, AFTER, path)
    if kind in _BARE:
        del values[kind]
    trigger = Trigger(kind=kind, **values)
    if kind is TriggerKind.IDLE and 0 < trigger.timeout_ms <= (trigger.delay_ms or 0):
        place = where(nodes[TIMEOUT.name][0], file)
        raise fail(place, f"{what}: the timeout ends before the idle time can have passed")
    return trigger
