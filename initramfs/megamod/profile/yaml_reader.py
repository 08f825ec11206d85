"""YAML text → nodes with places, and the few questions that schema.py asks of a node.

Scalars are taken as they are written: YAML 1.1 would turn `off` into False and the module `no` into another False.
Every error names the file, the line and the column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from megamod.common.errors import Location, MegamodError, fail
from megamod.common.text import did_you_mean, shorten

MAX_BYTES = 256 * 1024
"""No profile is that long; a larger file is a mistake (an image, a log), or meant to hurt."""

# A profile that is as long as it may be has no more, without aliases.
_MOST_NODES = MAX_BYTES // 2
_ALIASES = "write out what the alias stands for"

_NULL_TAG = "tag:yaml.org,2002:null"


def read_yaml(path: Path) -> Node:
    """The root node of the one YAML document in *path*.

    Raises MegamodError for a file that cannot be read, is not UTF-8, is not YAML, or holds no document.
    """
    file = str(path)
    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _marked_error(file, error) from None
    except yaml.reader.ReaderError as error:
        line, column = _place(text, error.position)
        location = Location(file=file, line=line, column=column)
        raise fail(location, f"character U+{ord(text[error.position]):04X} is not allowed in YAML") from None
    except (RecursionError, ValueError) as error:
        # The composer recurses once a level; int() and chr() of odd escapes end in a ValueError.
        what = "nested too deeply" if isinstance(error, RecursionError) else f"no YAML ({error})"
        raise MegamodError(f"{file}:1:1: {what}", hint="a profile is a mapping of a few levels") from None
    if root is None:
        raise MegamodError(f"{file}:1:1: the profile is empty", hint="it needs at least `critical: {modules: […]}`")
    _check_aliases(root, file)
    return root


def _check_aliases(root: Node, file: str) -> None:
    """An alias stands for all that its anchor holds: lists of aliases of lists of aliases grow without bounds, and one
    that holds itself has no end. Each reader of a node goes through the whole of it."""
    sizes: dict[int, int] = {}
    waiting = [(root, False)]
    open_now: set[int] = set()
    while waiting:
        node, seen = waiting.pop()
        below = _below(node)
        if seen:
            open_now.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in below)
            if sizes[id(node)] > _MOST_NODES:
                raise fail(where(node, file), f"aliases make more than {_MOST_NODES:,} values of it", _ALIASES)
        elif id(node) in open_now:
            raise fail(where(node, file), "the alias is inside its own anchor", _ALIASES)
        elif id(node) not in sizes:
            open_now.add(id(node))
            waiting.append((node, True))
            waiting += [(child, False) for child in below]


def _below(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        hint = "`-` is not read: give a file" if str(path) == "-" else None
        raise MegamodError(f"{path}: {error.strerror or error}", hint=hint) from None
    if len(data) > MAX_BYTES:
        raise MegamodError(f"{path}: longer than {MAX_BYTES // 1024} KiB, too long for a profile")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        message = f"{path}:{line}:{column}: byte 0x{data[error.start]:02x} is not UTF-8"
        raise MegamodError(message, hint="save the file as UTF-8") from None


def _place(text: str, index: int) -> tuple[int, int]:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _marked_error(file: str, error: yaml.MarkedYAMLError) -> MegamodError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = error.problem or error.context or "no YAML"
    hint = None
    if "cannot start any token" in problem or "undefined alias" in problem or "alias" in (error.context or ""):
        hint = 'quote selectors that begin with a sign: "*_test", "@detected"'
    elif "single document" in (error.context or "") or "another document" in problem:
        hint = "a profile is one document, without `---` in the middle"
    elif "\\t" in problem:
        hint = "indent with spaces, not with tabs"
    return fail(Location(file=file, line=line, column=column), problem, hint)


def where(node: Node, file: str) -> Location:
    """The place where *node* begins."""
    return Location(file=file, line=node.start_mark.line + 1, column=node.start_mark.column + 1)


def kind_of(node: Node) -> str:
    """What *node* is, in a reader's words, for messages."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return "nothing" if is_null(node) else f"`{shorten(node.value)}`"


def is_null(node: Node) -> bool:
    """Whether *node* is a missing value (`key:` with nothing after it, `~`, `null`)."""
    return isinstance(node, ScalarNode) and node.tag == _NULL_TAG


def text_of(node: Node, file: str, what: str) -> str:
    """The text of a scalar exactly as written; *what* names it in messages ("a module name")."""
    if isinstance(node, ScalarNode) and not node.tag.startswith("tag:yaml.org,2002:"):
        # `!name` without quotes is a YAML tag on an empty value; the only tag with a meaning here is that one.
        tag = node.tag
        if node.value == "" and tag.startswith("!") and all(c.isalnum() or c in "!_-." for c in tag):
            return tag
        raise fail(where(node, file), f"YAML takes {shorten(tag)} for a tag", f'quote it: "{shorten(tag)}"')
    if not isinstance(node, ScalarNode) or (is_null(node) and node.value in ("", "~")):
        raise fail(where(node, file), f"{what} expected, not {kind_of(node)}", _quote_hint(node))
    if node.value == "":
        raise fail(where(node, file), f"{what} expected, not an empty text")
    return str(node.value)


def _quote_hint(node: Node) -> str | None:
    # In a flow list YAML reads [?name] as a mapping with the key `name`, and [name:] likewise.
    if isinstance(node, MappingNode) and node.flow_style is not False and len(node.value) == 1:
        key, value = node.value[0]
        if isinstance(key, ScalarNode) and is_null(value):
            return f'if an optional module is meant, quote it: "?{shorten(key.value)}"'
        if isinstance(key, ScalarNode):
            return "quote texts with `: ` in them"
    return None


def items_of(node: Node, file: str, what: str) -> list[Node]:
    """The entries of a list that must not be empty; *what* names the list in messages ("modules")."""
    if not isinstance(node, SequenceNode):
        hint = f"write {what}: [{shorten(node.value)}]" if isinstance(node, ScalarNode) and not is_null(node) else None
        raise fail(where(node, file), f"{what}: a list expected, not {kind_of(node)}", hint)
    if not node.value:
        raise fail(where(node, file), f"{what}: the list is empty", "leave it out, or name something")
    return list(node.value)


def pairs_of(node: Node, file: str, what: str) -> Iterator[tuple[str, Node, Node]]:
    """(key, key node, value node) of a mapping in the order written; a key written twice is an error."""
    if not isinstance(node, MappingNode):
        raise fail(where(node, file), f"{what}: a mapping expected, not {kind_of(node)}")
    seen: dict[str, Location] = {}
    for key_node, value in node.value:
        key = text_of(key_node, file, f"{what}: a key")
        place = where(key_node, file)
        if key in seen:
            raise fail(place, f"{what}: `{shorten(key)}` is given twice", f"first in line {seen[key].line}")
        seen[key] = place
        yield key, key_node, value


def keys_of(node: Node, file: str, what: str, known: Iterable[str]) -> dict[str, tuple[Node, Node]]:
    """The mapping *node* as key → (key node, value node); a key that is not in *known* is an error."""
    names = tuple(known)
    found: dict[str, tuple[Node, Node]] = {}
    for key, key_node, value in pairs_of(node, file, what):
        if key not in names:
            hint = did_you_mean(key, names) or f"known keys: {', '.join(names)}"
            if key == "<<":
                hint = "YAML's merge keys are not read; `extends` builds on another profile"
            raise fail(where(key_node, file), f"{what}: unknown key `{shorten(key)}`", hint)
        found[key] = (key_node, value)
    return found


def choice_of(node: Node, file: str, what: str, allowed: tuple[str, ...]) -> str:
    """A scalar that must be one of the words *allowed*."""
    text = text_of(node, file, f"{what}: one of {', '.join(allowed)}")
    if text not in allowed:
        hint = did_you_mean(text, allowed)
        raise fail(where(node, file), f"{what}: `{shorten(text)}` is none of {', '.join(allowed)}", hint)
    return text


def flag_of(node: Node, file: str, what: str) -> bool:
    """A scalar that must be true or false."""
    text = text_of(node, file, f"{what}: true or false").lower()
    if text in ("true", "yes", "on"):
        return True
    if text in ("false", "no", "off"):
        return False
    raise fail(where(node, file), f"{what}: `{shorten(text)}` is neither true nor false")
