"""`options` of a profile: `{module: {parameter: value}}` → the text that the kernel's parser gets."""

from __future__ import annotations

import re
from pathlib import Path

from yaml.nodes import Node, ScalarNode, SequenceNode

from megamod.common.errors import Location, fail
from megamod.common.text import canonical, shorten
from megamod.modules.modprobe_d import Option
from megamod.profile.keys import WORD, Json, Merge
from megamod.profile.selectors import OPTIONAL, Selector, SelectorKind, parse_selector
from megamod.profile.yaml_reader import items_of, pairs_of, text_of, where

OPTIONS: Json = {
    "type": "object",
    "propertyNames": {"pattern": r"^\??[A-Za-z0-9_+.-]+$"},
    "additionalProperties": {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": r"^[A-Za-z0-9_.-]+$"},
        "additionalProperties": {"anyOf": [WORD, {"type": "array", "minItems": 1, "items": WORD}]},
    },
}


def parse_options(node: Node, path: Path, what: str) -> tuple[Option, ...]:
    """The options in the order written; a module, and a parameter of one, stands once."""
    file = str(path)
    options: list[Option] = []
    modules: dict[str, Location] = {}
    for written, module_node, parameters in pairs_of(node, file, what):
        place = where(module_node, file)
        selector = parse_selector(Selector(text=written, location=place))
        if selector.kind is not SelectorKind.NAME or ":" in selector.pattern:
            raise fail(place, f"{what}: `{shorten(written)}` is not a module name", "options belong to one module")
        module = selector.pattern
        if module in modules:
            raise fail(place, f"{what}: {module} is given twice", f"first in line {modules[module].line}")
        modules[module] = place
        seen: dict[str, Location] = {}
        for parameter, parameter_node, value in pairs_of(parameters, file, f"{what}: {module}"):
            place = where(parameter_node, file)
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", parameter):
                raise fail(place, f"{what}: `{shorten(parameter)}` is not a parameter name")
            key = canonical(parameter)
            if key in seen:
                raise fail(place, f"{what}: {module}.{key} is given twice", f"first in line {seen[key].line}")
            seen[key] = place
            text = _value(value, file, f"{what}: {module}.{parameter}")
            optional = written.startswith(OPTIONAL)
            options.append(Option(module=module, parameter=parameter, value=text, location=place, optional=optional))
        if not seen:
            raise fail(where(parameters, file), f"{what}: {module}: no parameters", "leave it out")
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
        raise fail(where(node, file), f"{what}: quotes and control characters are not allowed in a value")
    return text


def _merge(base: tuple[Option, ...], child: tuple[Option, ...]) -> tuple[Option, ...]:
    merged = {(option.module, canonical(option.parameter)): option for option in base}
    for option in child:
        key = (option.module, canonical(option.parameter))
        merged.pop(key, None)
        merged[key] = option
    return tuple(merged.values())


OPTIONS_MERGED = Merge(words="merged, parameter by parameter", join=_merge, empty=())
