"""YAML → Profile: reads a profile and those that it extends, and checks everything that needs no module tree.

Every mistake is one MegamodError, `file:line:column: message`, with a hint where there is one to give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, get_args

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from megamod.common.errors import Location, MegamodError, fail
from megamod.common.host import data_folder
from megamod.common.text import canonical, did_you_mean, shorten
from megamod.modules.modprobe_d import Option
from megamod.profile import model
from megamod.profile.contents import finished_files, parse_board, parse_files, parse_firmware, parse_skip
from megamod.profile.extends import Draft, Setting, StageDraft, merge
from megamod.profile.model import CRITICAL, Firmware, Profile, Root, Selector, Stage, Trigger, TriggerKind
from megamod.profile.output import parse_output
from megamod.profile.selectors import OPTIONAL, REMOVE, SelectorKind, parse_selector
from megamod.profile.signing import parse_microcode, parse_sign
from megamod.profile.triggers import check_fit, parse_root, parse_trigger
from megamod.profile.yaml_reader import (
    choice_of,
    flag_of,
    items_of,
    keys_of,
    kind_of,
    pairs_of,
    read_yaml,
    text_of,
    where,
)

MAX_STAGE = 55 - len("megamod_")
"""A stage becomes the module `megamod_<stage>`; struct module's name holds 55 characters on 64-bit kernels
(MODULE_NAME_LEN, include/linux/module.h, 6.1)."""

CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tracing": get_args(model.Tracing),
        "unwind": get_args(model.Unwind),
        "symbols": get_args(model.Symbols),
        "static-calls": get_args(model.StaticCalls),
        "probe": get_args(model.Probe),
        "compress": get_args(model.Compress),
        "fallback": get_args(model.Fallback),
    }
)
KEYS = (
    *("name", "extends", CRITICAL, "deferred", "exclude", "options", "modprobe-d", "skip"),
    *("files", "firmware", "firmware-dir", "board", "root", *CHOICES, "storage", "sign", "microcode", "output"),
    "allow-taint",
)
_MAX_EXTENDS = 16


def shipped_profiles() -> Mapping[str, Path]:
    """The profiles that come with megamod: name → file."""
    folder = data_folder("profiles")
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.name != "sets.yaml"}


def find_profile(text: str) -> Profile:
    """The profile that a user names: a file if *text* looks like one or exists, else a shipped profile."""
    return load_profile(_find(text, beside=None))


def find_path(text: str) -> Path:
    """The file of the profile that a user names, as `find_profile` takes it."""
    return _find(text, beside=None)


def load_profile(path: Path) -> Profile:
    """The profile in the file *path*, with everything it extends; raises MegamodError for every mistake."""
    drafts = [_read_draft(path)]
    while (parent := drafts[-1].extends) is not None:
        if len(drafts) >= _MAX_EXTENDS:
            raise fail(parent.location, f"extends: more than {_MAX_EXTENDS} profiles build on one another")
        try:
            base = _find(parent.text, beside=drafts[-1].path.parent)
        except MegamodError as error:
            raise fail(parent.location, f"extends: {error.message}", error.hint) from None
        chain = [draft.path.resolve() for draft in drafts]
        if base.resolve() in chain:
            ring = [p.name for p in (*chain[chain.index(base.resolve()) :], base)]
            raise fail(parent.location, f"extends: a circle: {' → '.join(ring)}")
        drafts.append(_read_draft(base))
    merged = drafts.pop()
    for child in reversed(drafts):
        merged = merge(merged, child)
    return _finish(merged)


def _find(text: str, *, beside: Path | None) -> Path:
    shipped = shipped_profiles()
    listing = f"shipped: {', '.join(shipped)}; a file is given as ./NAME or NAME.yaml"
    if not text:
        raise MegamodError("an empty profile name", hint=listing)
    if "\0" in text:
        raise MegamodError(f"{shorten(text)}: no such profile", hint=listing)
    candidate = Path(text) if beside is None else beside / text
    if "/" in text or text.endswith((".yaml", ".yml")):
        if not candidate.exists():
            raise MegamodError(f"{candidate}: no such profile")
        return candidate
    if candidate.is_file() or (beside is None and text not in shipped and candidate.exists()):
        return candidate
    if text in shipped:
        return shipped[text]
    raise MegamodError(f"{shorten(text)}: no such profile", hint=did_you_mean(text, shipped) or listing)


def _read_draft(path: Path) -> Draft:
    root = read_yaml(path)
    file = str(path)
    if not isinstance(root, MappingNode):
        raise fail(where(root, file), f"a profile is a mapping, not {kind_of(root)}", "it begins with `name:`")
    keys = {key: value for key, (_key_node, value) in keys_of(root, file, "profile", KEYS).items()}
    top = where(root, file)
    return Draft(
        path=path,
        location=top,
        name=_name(keys["name"], file) if "name" in keys else path.stem,
        extends=_selector(keys["extends"], file, "extends: a profile") if "extends" in keys else None,
        critical=_stage(keys[CRITICAL], file, CRITICAL) if CRITICAL in keys else None,
        deferred=_deferred(keys["deferred"], file) if "deferred" in keys else (),
        exclude=_selectors(keys["exclude"], file, "exclude") if "exclude" in keys else (),
        options=_options(keys["options"], file) if "options" in keys else (),
        skip=parse_skip(keys["skip"], file) if "skip" in keys else (),
        files=parse_files(keys["files"], path) if "files" in keys else (),
        firmware=parse_firmware(keys["firmware"], file) if "firmware" in keys else None,
        root=parse_root(keys["root"], file) if "root" in keys else None,
        settings=_settings(keys, file) | _modprobe(keys, path) | _firmware_dir(keys, path),
    )


def _name(node: Node, file: str) -> str:
    text = text_of(node, file, "name: a name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise fail(where(node, file), f"name: `{shorten(text)}`", "letters, digits, `.`, `_`, `-`; at most 64")
    return text


def _settings(keys: Mapping[str, Node], file: str) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for key, allowed in CHOICES.items():
        if key in keys:
            settings[key] = choice_of(keys[key], file, key, allowed)
    if "storage" in keys:
        settings["storage"] = _rate(keys["storage"], file)
    if "sign" in keys:
        settings["sign"] = parse_sign(keys["sign"], Path(file))
    if "microcode" in keys:
        settings["microcode"] = parse_microcode(keys["microcode"], Path(file))
    if "output" in keys:
        settings["output"] = parse_output(keys["output"], Path(file))
    if "board" in keys:
        settings["board"] = parse_board(keys["board"], Path(file))
    if "allow-taint" in keys:
        settings["allow_taint"] = flag_of(keys["allow-taint"], file, "allow-taint")
    return settings


def _rate(node: Node, file: str) -> int:
    text = text_of(node, file, "storage: a rate")
    match = re.fullmatch(r"(\d{1,6})(?:\.(\d))?\s?([kMG])B/s", text)
    if not match or not int(match[1] + (match[2] or "0")):
        raise fail(where(node, file), f"storage: `{shorten(text)}` is no rate", "write it like 25MB/s or 1.5GB/s")
    return int(match[1] + (match[2] or "0")) * {"k": 100, "M": 100_000, "G": 100_000_000}[match[3]]


def _modprobe(keys: Mapping[str, Node], path: Path) -> dict[str, str]:
    if "modprobe-d" not in keys:
        return {}
    node, file = keys["modprobe-d"], str(path)
    text = text_of(node, file, "modprobe-d: `host` or a folder")
    if text in ("host", "none"):
        return {"modprobe": text}
    folder = path.parent / text
    if "/" not in text or "\0" in text or not folder.is_dir():
        hint = "`host` reads /etc/modprobe.d, /run/modprobe.d and /lib/modprobe.d; a folder has a slash"
        raise fail(where(node, file), f"modprobe-d: no such folder: {shorten(text)}", hint)
    return {"modprobe": str(folder)}


def _firmware_dir(keys: Mapping[str, Node], path: Path) -> dict[str, str]:
    if "firmware-dir" not in keys:
        return {}
    node, file = keys["firmware-dir"], str(path)
    text = text_of(node, file, "firmware-dir: a folder")
    if "\0" in text or not (path.parent / text).is_dir():
        hint = "a folder such as /lib/firmware, or one relative to the profile"
        raise fail(where(node, file), f"firmware-dir: no such folder: {shorten(text)}", hint)
    return {"firmware_dir": str(path.parent / text)}


def _selector(node: Node, file: str, what: str) -> Selector:
    return Selector(text=text_of(node, file, what), location=where(node, file))


def _selectors(node: Node, file: str, what: str) -> tuple[Selector, ...]:
    selectors = tuple(_selector(item, file, f"{what}: a selector") for item in items_of(node, file, what))
    for selector in selectors:
        body = selector.text.removeprefix(REMOVE)
        parse_selector(Selector(text=body, location=selector.location))
    return selectors


def _stage(node: Node, file: str, name: str) -> StageDraft:
    if isinstance(node, SequenceNode):
        hint = f"write {name}: {{modules: […]}}"
        raise fail(where(node, file), f"{name}: a mapping expected, not a list", hint)
    if name == CRITICAL and isinstance(node, MappingNode):
        for key_node, _value in node.value:
            if isinstance(key_node, ScalarNode) and key_node.value == "after":
                raise fail(
                    where(key_node, file), "critical: `after` is for deferred stages", "critical is always first"
                )
    known = ("modules",) if name == CRITICAL else ("name", "modules", "after")
    keys = keys_of(node, file, name, known)
    trigger, trigger_location = None, where(node, file)
    if "after" in keys:
        trigger, trigger_location = parse_trigger(keys["after"][1], file), where(keys["after"][1], file)
    return StageDraft(
        name=name,
        location=where(node, file),
        selectors=_selectors(keys["modules"][1], file, "modules") if "modules" in keys else (),
        trigger=trigger,
        trigger_location=trigger_location,
    )


def _deferred(node: Node, file: str) -> tuple[StageDraft | Selector, ...]:
    """Stages in the order written; a bare `!name` (removal of an inherited stage) stays a Selector."""
    stages: list[StageDraft | Selector] = []
    seen: dict[str, Location] = {}
    for item in items_of(node, file, "deferred"):
        place = where(item, file)
        if isinstance(item, ScalarNode):
            text = text_of(item, file, "deferred: a stage")
            if not text.startswith(REMOVE):
                hint = f"write {{name: {shorten(text)}, modules: […]}}"
                raise fail(place, f"deferred: a mapping expected, not {kind_of(item)}", hint)
            stages.append(Selector(text=text, location=place))
            continue
        name, name_location = _stage_name(item, file)
        if canonical(name) in seen:
            first = seen[canonical(name)]
            raise fail(name_location, f"deferred: there are two stages `{name}`", f"first in line {first.line}")
        seen[canonical(name)] = name_location
        stages.append(_stage(item, file, name))
    return tuple(stages)


def _stage_name(node: Node, file: str) -> tuple[str, Location]:
    for key, _key_node, value in pairs_of(node, file, "deferred: a stage"):
        if key == "name":
            text, place = text_of(value, file, "name: a stage name"), where(value, file)
            break
    else:
        raise fail(where(node, file), "deferred: a stage without a name", "write name: usb")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", text):
        raise fail(place, f"name: `{shorten(text)}` is no stage name", "small letters, digits, `_` and `-`")
    if len(text) > MAX_STAGE:
        message = f"name: `{shorten(text)}` has {len(text)} characters, a stage name at most {MAX_STAGE}"
        raise fail(place, message, "the module is called megamod_<stage>, and the kernel takes 55 characters")
    if text == CRITICAL:
        raise fail(place, "name: `critical` is the stage before user space", "it has a key of its own")
    return text, place


def _options(node: Node, file: str) -> tuple[Option, ...]:
    options: list[Option] = []
    modules: dict[str, Location] = {}
    for written, module_node, parameters in pairs_of(node, file, "options"):
        place = where(module_node, file)
        selector = parse_selector(Selector(text=written, location=place))
        if selector.kind is not SelectorKind.NAME or ":" in selector.pattern:
            raise fail(place, f"options: `{shorten(written)}` is no module name", "options belong to one module")
        module = selector.pattern
        if module in modules:
            raise fail(place, f"options: {module} is there twice", f"first in line {modules[module].line}")
        modules[module] = place
        seen: dict[str, Location] = {}
        for parameter, parameter_node, value in pairs_of(parameters, file, f"options: {module}"):
            place = where(parameter_node, file)
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", parameter):
                raise fail(place, f"options: `{shorten(parameter)}` is no parameter name")
            key = canonical(parameter)
            if key in seen:
                raise fail(place, f"options: {module}.{key} is there twice", f"first in line {seen[key].line}")
            seen[key] = place
            text = _value(value, file, f"options: {module}.{parameter}")
            optional = written.startswith(OPTIONAL)
            options.append(Option(module=module, parameter=parameter, value=text, location=place, optional=optional))
        if not seen:
            raise fail(where(parameters, file), f"options: {module}: no parameters", "leave it out")
    return tuple(options)


def _value(node: Node, file: str, what: str) -> str:
    """The parameter's text: true and false become Y and N (kstrtobool, lib/kstrtox.c, 6.1), a list its joined items."""
    if isinstance(node, SequenceNode):
        return ",".join(_value_item(item, file, what) for item in items_of(node, file, what))
    return _value_item(node, file, what)


def _value_item(node: Node, file: str, what: str) -> str:
    if isinstance(node, ScalarNode) and node.style in ("'", '"') and node.value == "":
        return ""
    text = text_of(node, file, f"{what}: a value")
    if isinstance(node, ScalarNode) and node.style is None and text.lower() in ("true", "false"):
        return "Y" if text.lower() == "true" else "N"
    if '"' in text or not text.isprintable():
        # next_arg (lib/cmdline.c, 6.1) ends a value at the second quote and knows no escape.
        raise fail(where(node, file), f"{what}: no quotes and control characters in a value")
    return text


def _finish(draft: Draft) -> Profile:
    if draft.critical is None:
        raise fail(draft.location, "profile: `critical` is missing", "write critical: {modules: […]}")
    root = draft.root or Root(kind="cmdline")
    stages = []
    for stage in (draft.critical, *draft.stages):
        _check_removals(stage.selectors)
        if not stage.selectors:
            raise fail(stage.location, f"{stage.name}: the stage has no modules", "modules: [ext4, …]")
        trigger = None
        if stage.name != CRITICAL:
            trigger = stage.trigger or Trigger(kind=TriggerKind.USERSPACE)
            check_fit(trigger, root, stage.trigger_location)
        stages.append(Stage(name=stage.name, selectors=stage.selectors, trigger=trigger))
    _check_removals(draft.exclude)
    _check_removals(draft.skip)
    _check_twice(stages)
    return Profile(
        name=draft.name,
        source=str(draft.path),
        critical=stages[0],
        deferred=tuple(stages[1:]),
        exclude=draft.exclude,
        options=draft.options,
        skip=draft.skip,
        files=finished_files(draft.files),
        firmware=draft.firmware or Firmware(),
        root=root,
        **cast(dict[str, Any], {key.replace("-", "_"): value for key, value in dict(draft.settings).items()}),
    )


def _check_removals(selectors: tuple[Selector, ...]) -> None:
    for selector in selectors:
        parse_selector(selector)


def _check_twice(stages: list[Stage]) -> None:
    seen: dict[tuple[SelectorKind, str, bool], tuple[str, Location]] = {}
    for stage in stages:
        for selector in stage.selectors:
            parsed = parse_selector(selector)
            # `@detected` stands for other modules in the critical stage than in a deferred one.
            key = (*parsed.key, parsed.kind is SelectorKind.DETECTED and stage.name == CRITICAL)
            if key in seen:
                other, first = seen[key]
                again = "twice in" if other == stage.name else f"in two stages, {other} and"
                place = f"first at {first}" if first.file != selector.location.file else f"first in line {first.line}"
                raise fail(selector.location, f"{shorten(selector.text)} is {again} {stage.name}", place)
            seen[key] = (stage.name, selector.location)
