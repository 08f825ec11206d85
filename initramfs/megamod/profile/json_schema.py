"""The form of a profile as a JSON Schema, made from the model and from the schema's own tables, for editors.

Editors check and complete with it; what it cannot say (a trigger that does not fit the root, a module that a kernel
does not have) `megamod profile check` says. The YAML is taken as YAML 1.2 has it, where `off` and `no` are texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megamod.profile.model import CRITICAL, TriggerKind
from megamod.profile.output import FILES, IMAGE, UKI
from megamod.profile.schema import CHOICES, KEYS, MAX_STAGE
from megamod.profile.signing import DIGESTS

Json = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"

# A module called 842 is a number to YAML; the schema takes every scalar as it is written.
_WORD: Json = {"type": ["string", "number", "boolean"]}

_SELECTOR = (
    r"^!?\??(@detected|@builtin:[a-z0-9_-]+|@dtb:[^\s#]+(#\S+)?|"
    r"=[^\s/]+(/[^\s/]+)*/?|(mod)?alias:\S+|(?!(mod)?alias:)[^\s@=!?/][^\s/]*)$"
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
    "skip": "Modules whose init is left out at boot, unless the kernel command line has megamod.run=NAME.",
    "files": "Files and folders for the image: {SOURCE: /to}, or a list of {from, to, mode}.",
    "firmware": "Firmware for the image: what the modules name (`auto`), none, or a list of names and patterns.",
    "board": "Of firmware named by board only that of this one: a .dtb, host, a recorded machine, or a list of names.",
    "firmware-dir": "The folder where firmware is looked for; default: lib/firmware beside lib/modules.",
    "root": "What comes after the critical stage.",
    "tracing": "Whether members can be traced by ftrace; `keep` makes loading many modules slow.",
    "unwind": "Stack unwinding tables: all, only what calls need, or none.",
    "symbols": "Function names in an oops of a member, or only the names that the kernel needs.",
    "static-calls": "Static calls of members: through their trampolines, or patched into direct calls at load.",
    "probe": "`async`: drivers probe in parallel; device names may come in another order.",
    "compress": "Compression of the image.",
    "storage": "How fast the boot loader reads, as in 25MB/s; `compress: auto` goes by it.",
    "sign": "Key and certificate that sign the megamodules; digest: that of the kernel's configuration (`auto`).",
    "microcode": "Microcode before the image: what the firmware folder has (`auto`), none, or a list of files; x86.",
    "output": "What is built: `image`, an initramfs, or `uki`, one EFI program with kernel and command line.",
    "fallback": "`modules`: the members' own files are in the image too, for the day that the merged one is refused.",
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
        "skip": {"type": "array", "minItems": 1, "items": {**_WORD, "pattern": r"^!?\??[A-Za-z0-9_+.-]+$"}},
        "files": _files(),
        "firmware": _firmware(),
        "firmware-dir": {"type": "string", "minLength": 1},
        "board": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": _WORD}]},
        "root": _root(),
        "sign": _sign(),
        "microcode": _microcode(),
        "output": _output(),
        "storage": {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9])? ?[kMG]B/s$"},
        "allow-taint": {"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no", "on", "off"]}]},
    }
    makers |= {key: {"enum": list(choices)} for key, choices in CHOICES.items()}
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
        "A module name, a glob, =folder, alias:GLOB, modalias:TEXT, @detected, @builtin:NAME, @dtb:FILE#NODES; "
        "`?` before it: optional."
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


def _sign() -> Json:
    text = {"type": "string", "minLength": 1}
    properties = {"key": text, "cert": text, "digest": {"enum": list(DIGESTS)}}
    return {"anyOf": [{"const": "none"}, _mapping(properties, required=["key", "cert"])]}


def _microcode() -> Json:
    files = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
    return {"anyOf": [{"enum": ["auto", "none"]}, files]}


def _output() -> Json:
    text = {"type": "string", "minLength": 1}
    uki = _mapping({"cmdline": {"type": "string"}, **dict.fromkeys(FILES, text)})
    uki["dependentRequired"] = {"key": ["cert"], "cert": ["key"]}
    return {"anyOf": [{"enum": [IMAGE, UKI]}, _mapping({UKI: uki}, required=[UKI])]}


def _files() -> Json:
    own = "(dev|init|megamod|proc|run|sys)"
    to = {"type": "string", "pattern": rf"^(/|(?!/{own}(/|$))(/(?!\.{{1,2}}(/|$))[^/]+)+/?)$"}
    mode = {"type": ["string", "integer"], "pattern": r"^(0o?)?[0-7]{3,4}$", "minimum": 64, "maximum": 7777}
    source = {"type": ["string", "number"], "minLength": 1}
    listed = _mapping({"from": source, "to": to, "mode": mode}, required=["from", "to"])
    value = {"anyOf": [to, _mapping({"to": to, "mode": mode}, required=["to"])]}
    forms: list[Json] = [
        {"type": "object", "minProperties": 1, "additionalProperties": value},
        {"type": "array", "minItems": 1, "items": {"anyOf": [listed, {"type": "string", "pattern": "^!/"}]}},
    ]
    return {"anyOf": forms}


def _firmware() -> Json:
    name = r"^\??(?!\.{1,2}(/|$))[^/]+(/(?!\.{1,2}(/|$))[^/]+)*/?$"
    item = {"type": "string", "pattern": name, "not": {"pattern": r"\.(xz|zst)$"}}
    return {"anyOf": [{"enum": ["auto", "none"]}, {"type": "array", "minItems": 1, "items": item}]}


def _root() -> Json:
    words = {"type": "array", "minItems": 1, "items": _WORD}
    program = {"anyOf": [{"type": "string", "pattern": "^['\"]?/"}, words]}
    init = {"anyOf": [{"type": "string", "pattern": _PATH}, {**words, "maxItems": 1}]}
    options = {"type": "string", "pattern": r"^[A-Za-z0-9_%=:.,-]+$"}
    overlay = {"anyOf": [{"const": "tmpfs"}, _mapping({"tmpfs": options}, required=["tmpfs"])]}
    forms: list[Json] = [
        _mapping({"from": {"const": "cmdline"}, "overlay": overlay, "verity": _verity()}, required=["from"]),
        _mapping({"exec": program}, required=["exec"]),
        _mapping({"chain": init}, required=["chain"]),
    ]
    return {"anyOf": forms}


def _verity() -> Json:
    text = {"type": ["string", "integer"]}
    size = {"enum": [512 << n for n in range(8)]}
    properties: Json = {
        **dict.fromkeys(("root-hash", "salt", "hash-device", "algorithm"), text),
        "data-blocks": {"type": "integer", "minimum": 1},
        "hash-start": {"type": "integer", "minimum": 0},
        **dict.fromkeys(("data-block-size", "hash-block-size"), size),
        "options": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": r"^[a-z0-9_.-]+$"}},
    }
    return _mapping(properties, required=["root-hash", "hash-device", "data-blocks"])
