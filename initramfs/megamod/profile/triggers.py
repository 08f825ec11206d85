"""`after:` and `root:` of a profile: YAML node → Trigger, Root, and whether the two fit together.

Forms of `after`: `now`, `userspace`, `manual`, or a mapping with one of the six words and perhaps a `timeout`:
`{delay: 2s}`, `{path: /run/x, timeout: 5s}`, `{idle: 500ms, timeout: 30s}`, `{userspace: , timeout: 10s}`.
"""

from __future__ import annotations

import re
import shlex

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from megamod.common.errors import Location, fail
from megamod.common.text import did_you_mean, shorten
from megamod.profile.model import Root, RootKind, Trigger, TriggerKind
from megamod.profile.root_layers import parse_overlay, parse_verity
from megamod.profile.yaml_reader import is_null, items_of, keys_of, kind_of, text_of, where

_UNITS = {"ms": 1, "s": 1000, "min": 60_000}
_DURATION = re.compile(r"(\d{1,9})(?:\.(\d{1,3}))?\s?(ms|s|min)")
_BARE = (TriggerKind.NOW, TriggerKind.USERSPACE, TriggerKind.MANUAL)
_WORDS = tuple(kind.value for kind in TriggerKind)
_NO_TIMEOUT = {
    TriggerKind.NOW: "it waits for nothing",
    TriggerKind.DELAY: "the delay ends by itself",
}

MAX_MS = 24 * 60 * 60 * 1000
"""A day: far more than a boot takes, and small enough for the loader's 32-bit poll timeouts."""

RUN = "/run/"
"""The one file system that the stage keeper still sees after the switch to the real root."""


def parse_duration(node: Node, file: str, what: str, *, zero: bool) -> int:
    """Milliseconds of `500ms`, `5s`, `1.5s`, `2min`; a number without a unit is refused, except 0 where *zero*."""
    text = text_of(node, file, f"{what}: a duration")
    place = where(node, file)
    match = _DURATION.fullmatch("0s" if text == "0" else text)
    if not match:
        hint = f"write {text}ms or {text}s" if text.isdigit() else "write it like 500ms, 5s or 2min"
        raise fail(place, f"{what}: `{shorten(text)}` is no duration", hint)
    whole, part, unit = match.groups()
    scale: int = _UNITS[unit]
    fraction = int(part or 0) * scale
    divisor: int = 10 ** len(part or "")
    if fraction % divisor:
        raise fail(place, f"{what}: `{shorten(text)}` is no whole number of milliseconds")
    milliseconds = int(whole) * scale + fraction // divisor
    if milliseconds > MAX_MS:
        raise fail(place, f"{what}: `{shorten(text)}` is longer than a day")
    if milliseconds == 0 and not zero:
        raise fail(place, f"{what}: zero", "`after: now` waits for nothing")
    return milliseconds


def parse_trigger(node: Node, file: str) -> Trigger:
    """The trigger that the value of `after` says; raises a located MegamodError."""
    if isinstance(node, MappingNode):
        return _trigger_of_mapping(node, file)
    if not isinstance(node, ScalarNode):
        raise fail(where(node, file), f"after: a word or a mapping expected, not {kind_of(node)}", _forms())
    word = text_of(node, file, "after: a trigger")
    if word in _BARE:
        return Trigger(kind=TriggerKind(word))
    if word in _WORDS:
        example = {"delay": "2s", "path": "/run/x", "idle": "500ms"}[word]
        raise fail(where(node, file), f"after: `{word}` needs a value", f"write {{{word}: {example}}}")
    raise fail(where(node, file), f"after: `{shorten(word)}` is no trigger", did_you_mean(word, _WORDS) or _forms())


def _forms() -> str:
    return "now, userspace, manual, {delay: 2s}, {path: /run/x} or {idle: 500ms}"


def _trigger_of_mapping(node: Node, file: str) -> Trigger:
    keys = keys_of(node, file, "after", (*_WORDS, "timeout"))
    kinds = [key for key in keys if key != "timeout"]
    if len(kinds) != 1:
        what = "no trigger" if not kinds else f"more than one trigger ({', '.join(kinds)})"
        raise fail(where(node, file), f"after: {what}", f"one of {_forms()}")
    kind = TriggerKind(kinds[0])
    value = keys[kind][1]
    timeout = 0
    if "timeout" in keys:
        key_node, timeout_node = keys["timeout"]
        if kind in _NO_TIMEOUT:
            raise fail(where(key_node, file), f"after: `{kind}` takes no timeout", _NO_TIMEOUT[kind])
        timeout = parse_duration(timeout_node, file, "timeout", zero=True)
    if kind is TriggerKind.PATH:
        return Trigger(kind=kind, path=absolute_path(value, file, "path"), timeout_ms=timeout)
    if kind in (TriggerKind.DELAY, TriggerKind.IDLE):
        delay = parse_duration(value, file, kind.value, zero=False)
        if kind is TriggerKind.IDLE and 0 < timeout <= delay:
            raise fail(where(keys["timeout"][0], file), "after: the timeout ends before the idle time can have passed")
        return Trigger(kind=kind, delay_ms=delay, timeout_ms=timeout)
    if not is_null(value) and text_of(value, file, f"{kind}").lower() != "true":
        raise fail(where(value, file), f"after: `{kind}` takes no value, not {kind_of(value)}")
    return Trigger(kind=kind, timeout_ms=timeout)


def absolute_path(node: Node, file: str, what: str) -> str:
    """An absolute path without `.`, `..` and empty parts, as written."""
    return checked_path(text_of(node, file, f"{what}: a path"), where(node, file), what)


def checked_path(text: str, place: Location, what: str) -> str:
    """*text* if it is an absolute path that names a file; *what* begins the message."""
    if not text.startswith("/"):
        raise fail(place, f"{what}: `{shorten(text)}` is not absolute", f"it begins with a slash: /{shorten(text)}")
    parts = text[1:].split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise fail(place, f"{what}: `{shorten(text)}` must name a file, without empty parts, `.` and `..`")
    if "\0" in text or len(text.encode()) > 4000:
        raise fail(place, f"{what}: `{shorten(text)}` is no path")
    return text


def parse_root(node: Node, file: str) -> Root:
    """What `root` says: exactly one of `from`, `exec`, `chain`, with `from` perhaps `overlay` and `verity`; raises a
    located MegamodError."""
    if isinstance(node, ScalarNode):
        raise fail(where(node, file), f"root: a mapping expected, not {kind_of(node)}", "write root: {from: cmdline}")
    keys = keys_of(node, file, "root", ("from", "exec", "chain", "overlay", "verity"))
    layers = {key: keys.pop(key) for key in ("overlay", "verity") if key in keys}
    if len(keys) != 1:
        what = "nothing" if not keys else " and ".join(keys)
        raise fail(where(node, file), f"root: exactly one of from, exec, chain expected, not {what}")
    [(key, (_key_node, value))] = keys.items()
    for layer, (layer_node, _layer) in layers.items():
        if key != "from":
            raise fail(where(layer_node, file), f"root: {layer} belongs to {{from: cmdline}}, not to {key}")
    if key == "from":
        text = text_of(value, file, "root: from")
        if text != "cmdline":
            raise fail(where(value, file), f"root: from `{shorten(text)}`: only `cmdline` is known")
        overlay = parse_overlay(layers["overlay"][1], file) if "overlay" in layers else None
        verity = parse_verity(layers["verity"][1], file) if "verity" in layers else None
        return Root(kind="cmdline", overlay=overlay, verity=verity)
    words = _words(value, file, key)
    if key == "chain" and len(words) > 1:
        raise fail(where(value, file), "root: chain takes a path alone", "the next init gets the kernel's arguments")
    kind: RootKind = "exec" if key == "exec" else "chain"
    path = checked_path(words[0], where(value, file), f"root: {key}")
    return Root(kind=kind, path=path, args=tuple(words[1:]))


def _words(node: Node, file: str, key: str) -> list[str]:
    what = f"root: {key}"
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


def check_fit(trigger: Trigger, root: Root, place: Location) -> None:
    """Refuse a trigger that cannot fire, or fires at the wrong moment, under this kind of root.

    With `chain` the next generator's init is no user space yet, and the keeper would take it for one. With `cmdline`
    and `chain` the keeper sees only /run after the switch to the real root.
    """
    if root.kind == "chain" and trigger.kind in (TriggerKind.USERSPACE, TriggerKind.IDLE):
        message = f"after: `{trigger.kind}` is impossible with root: {{chain: …}}, whose init is not yet user space"
        raise fail(place, message, "use now, manual, {delay: …} or {path: /run/…}")
    if trigger.path and root.kind != "exec" and not trigger.path.startswith(RUN):
        message = f"after: path {shorten(trigger.path)} is not below /run, all that is seen after the switch of roots"
        raise fail(place, message, "create the file in /run")
