"""The form of a profile as a JSON Schema, made from the model and from the schema's own tables, for editors.

Editors check and complete with it; what it cannot say (a trigger that does not fit the root, a module that a kernel
does not have) `megamod profile check` says. The YAML is taken as YAML 1.2 has it, where `off` and `no` are texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megamod.profiles.model import CRITICAL, TriggerKind
from megamod.profiles.schema import CHOICES, KEYS, MAX_STAGE

Json = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"

# A module called 842 is a number to YAML; the schema takes every scalar as it is written.
_WORD: Json = {"type": ["string", "number", "boolean"]}

_SELECTOR = (
    r"^!?\??(@detected|@builtin:[a-z0-9_-]+|=[^\s/]+(/[^\s/]+)*/?|(mod)?alias:\S+|(?!(mod)?alias:)[^\s@=!?/][^\s/]*)$"
)
_DURATION = r"^([0-9]{1,9}(\.[0-9]{1,3})? ?(ms|s|min)|0)$"
_PATH = r"^(/(?!\.{1,2}(/|$))[^/]+)+$"

_DESCRIPTIONS: Mapping[str, str] = {
    "name": "What the profile is called; default: the file's name without .yaml.",
    "extends": "The profile that this one builds on: a shipped one, or a file relative to this one.",
    CRITICAL: "The modules that must be there before user space; one call loads them.",
    "deferred": "Stages that are loaded later, each in one call, in this order.",
    "exclude": "Modules that stay out, and with them all that need them.",
    "options": "Module parameters: {module: {parameter: value}}.",
    "modprobe-d": "Where options, softdeps and blacklists of modprobe.d are read: `host`, or a folder.",
    "root": "What comes after the critical stage.",
    "tracing": "Whether members can be traced by ftrace; `keep` makes loading many modules slow.",
    "unwind": "Stack unwinding tables: all, only what calls need, or none.",
    "symbols": "Function names in an oops of a member, or only the names that the kernel needs.",
    "static-calls": "Static calls of members: through their trampolines, or patched into direct calls at load.",
    "probe": "`async`: drivers probe in parallel; device names may come in another order.",
    "compress": "Compression of the image.",
    "fallback": "What the loader does when the merged modules cannot be used.",
    "allow-taint": "Accept staging and out-of-tree modules.",
}


def profile_schema() -> Json:
    """The JSON Schema (draft 2020-12) of a profile, as a value for `json.dumps`."""
    makers: Json = {
        "name": {"type": ["string", "number"], "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
        "extends": {"type": "string", "minLength": 1},
        CRITICAL: _mapping({"modules": _selectors()}),
        "deferred": {
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [_stage(), {"type": "string", "pattern": r"^!."}]},
        },
        "exclude": _selectors(),
        "options": _options(),
        "modprobe-d": {"type": "string", "pattern": r"^(host|none|.*/.*)$"},
        "root": _root(),
        "allow-taint": {"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no", "on", "off"]}]},
    }
    makers |= {key: {"enum": [choice for choice in choices if choice != "modules"]} for key, choices in CHOICES.items()}
    properties = {key: {"description": _DESCRIPTIONS[key], **makers[key]} for key in KEYS}
    return {
        "$schema": DRAFT,
        "title": "megamod profile",
        "description": "Which kernel modules are loaded before user space, and which later.",
        **_mapping(properties),
        "anyOf": [{"required": [CRITICAL]}, {"required": ["extends"]}],
    }


def _mapping(properties: Json, **more: Any) -> Json:
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def _selectors() -> Json:
    text = (
        "A module name, a glob, =folder, alias:GLOB, modalias:TEXT, @detected, @builtin:NAME; `?` before it: optional."
    )
    item = {"type": ["string", "number", "boolean"], "pattern": _SELECTOR, "description": text}
    return {"type": "array", "minItems": 1, "items": item}


def _stage() -> Json:
    name = {"type": ["string", "number"], "pattern": r"^[a-z0-9][a-z0-9_-]*$", "maxLength": MAX_STAGE}
    properties = {"name": {**name, "not": {"const": CRITICAL}}, "modules": _selectors(), "after": _trigger()}
    return _mapping(properties, required=["name"])


def _trigger() -> Json:
    duration = {"anyOf": [{"type": "string", "pattern": _DURATION}, {"const": 0}]}
    nothing = {"anyOf": [{"type": "null"}, {"const": True}]}
    values: Json = {
        TriggerKind.NOW: nothing,
        TriggerKind.USERSPACE: nothing,
        TriggerKind.MANUAL: nothing,
        TriggerKind.DELAY: duration,
        TriggerKind.IDLE: duration,
        TriggerKind.PATH: {"type": "string", "pattern": _PATH},
    }
    forms: list[Json] = [{"enum": [TriggerKind.NOW.value, TriggerKind.USERSPACE.value, TriggerKind.MANUAL.value]}]
    for kind in TriggerKind:
        # What waits for nothing, or ends by itself, takes no timeout (triggers.py).
        waits = kind not in (TriggerKind.NOW, TriggerKind.DELAY)
        properties = {kind.value: values[kind], **({"timeout": duration} if waits else {})}
        forms.append(_mapping(properties, required=[kind.value]))
    return {"description": "When the stage is loaded; default: userspace.", "anyOf": forms}


def _options() -> Json:
    value = {"anyOf": [_WORD, {"type": "array", "minItems": 1, "items": _WORD}]}
    parameters = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": r"^[A-Za-z0-9_.-]+$"},
        "additionalProperties": value,
    }
    names = {"pattern": r"^\??[A-Za-z0-9_+.-]+$"}
    return {"type": "object", "propertyNames": names, "additionalProperties": parameters}


def _root() -> Json:
    words = {"type": "array", "minItems": 1, "items": _WORD}
    program = {"anyOf": [{"type": "string", "pattern": "^['\"]?/"}, words]}
    init = {"anyOf": [{"type": "string", "pattern": _PATH}, {**words, "maxItems": 1}]}
    forms: list[Json] = [
        _mapping({"from": {"const": "cmdline"}}, required=["from"]),
        _mapping({"exec": program}, required=["exec"]),
        _mapping({"chain": init}, required=["chain"]),
    ]
    return {"anyOf": forms}
