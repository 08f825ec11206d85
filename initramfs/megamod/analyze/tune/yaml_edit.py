"""A profile's text with selectors moved from the critical stage to a deferred one; comments and style stay.

Text is cut and put in at the places that YAML's own nodes have; nothing is written anew.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, SequenceNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What to do with the critical stage's selectors, by their text. *away*: to the deferred stage. *split*: to the
    deferred stage, too, but the names given for it stay. *inherited* are those of both that another file says."""

    away: tuple[str, ...]
    split: Mapping[str, tuple[str, ...]]
    inherited: frozenset[str]
    stage: str
    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edit:
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    text: str
    comment: str = ""


def moved(text: str, move: Move) -> str:
    """The profile *text* after *move*. The text must be a profile that the schema has accepted."""
    newline = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, MappingNode)
    keys = {key.value: value for key, value in root.value}
    critical = _modules(keys.get("critical"))
    entries = list(critical.value) if critical is not None else []
    gone = [node for node in entries if node.value in {*move.away, *move.split} - move.inherited]
    inherited = [selector for selector in (*move.away, *move.split) if selector in move.inherited]
    later = [_Entry(text=_as_written(text, node), comment=_comment(text, node)) for node in gone]
    later += [_Entry(text=_quoted(selector)) for selector in inherited]
    added = [_quoted(f"!{selector}") for selector in inherited]
    added += [_quoted(name) for names in move.split.values() for name in names]
    edits: list[_Edit] = []
    if critical is not None:
        edits = (_flow if critical.flow_style else _block)(text, critical, gone, added, newline)
    elif added:
        place = _line_end(text, keys["extends"].end_mark.index)
        lines = ["critical:", "  modules:", *(f"    - {entry}" for entry in added)]
        edits = [_Edit(start=place, end=place, text="".join(f"{line}{newline}" for line in lines))]
    edits.append(_new_stage(text, root, keys.get("deferred"), later, move, newline))
    return _applied(text, edits)


def difference(before: str, after: str, path: Path) -> str:
    """A unified diff of the two texts, as `patch` takes it."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), fromfile=str(path), tofile=str(path)
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _modules(stage: Node | None) -> SequenceNode | None:
    if not isinstance(stage, MappingNode):
        return None
    found = next((value for key, value in stage.value if key.value == "modules"), None)
    return found if isinstance(found, SequenceNode) else None


def _as_written(text: str, node: Node) -> str:
    return text[node.start_mark.index : node.end_mark.index]


def _quoted(selector: str) -> str:
    plain = selector.replace("_", "").replace("-", "").isalnum() and not selector.startswith("-")
    words = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
    return selector if plain and selector.lower() not in words else '"' + selector.replace('"', '\\"') + '"'


def _line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def _line_end(text: str, index: int) -> int:
    """The start of the line after the one that *index* is in."""
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1


def _comment(text: str, node: Node) -> str:
    """What follows an entry on its line, a comment in a block."""
    rest = text[node.end_mark.index : _line_end(text, node.end_mark.index)].strip()
    return rest if rest.startswith("#") else ""


def _block(text: str, sequence: SequenceNode, gone: Sequence[Node], added: Sequence[str], newline: str) -> list[_Edit]:
    """A list of lines without the entries *gone*, and with *added* at its beginning."""
    edits = [
        _Edit(start=_line_start(text, node.start_mark.index), end=_line_end(text, node.end_mark.index), text="")
        for node in gone
    ]
    place = _line_start(text, sequence.value[0].start_mark.index)
    indent = text[place : text.index("-", place)]
    return [*edits, _Edit(start=place, end=place, text="".join(f"{indent}- {entry}{newline}" for entry in added))]


def _flow(text: str, sequence: SequenceNode, gone: Sequence[Node], added: Sequence[str], _newline: str) -> list[_Edit]:
    """The same for a list in brackets; a comma goes with the entry before it, with the last ones that before them."""
    entries = sequence.value
    kept = [number for number, node in enumerate(entries) if node not in gone]
    first = entries[0].start_mark.index
    if not kept:
        return [_Edit(start=first, end=entries[-1].end_mark.index, text=", ".join(added))]
    edits = [
        _Edit(start=node.start_mark.index, end=entries[number + 1].start_mark.index, text="")
        for number, node in enumerate(entries[: kept[-1]])
        if node in gone
    ]
    edits.append(_Edit(start=entries[kept[-1]].end_mark.index, end=entries[-1].end_mark.index, text=""))
    return [*edits, _Edit(start=first, end=first, text="".join(f"{entry}, " for entry in added))]


def _new_stage(
    text: str, root: MappingNode, deferred: Node | None, entries: Sequence[_Entry], move: Move, newline: str
) -> _Edit:
    """The deferred stage, at the end of `deferred`, or as a new key behind `critical`."""
    listed = ", ".join(entry.text for entry in entries)
    if isinstance(deferred, SequenceNode) and deferred.flow_style:
        place = deferred.end_mark.index - 1
        comma = "," if deferred.value else ""
        return _Edit(
            start=place,
            end=place,
            text=f"{comma} {{name: {move.stage}, modules: [{listed}], after: {move.trigger}}}",
        )
    lines = [f"- name: {move.stage}", "  modules:"]
    lines += [f"    - {entry.text} {entry.comment}".rstrip() for entry in entries]
    lines.append(f"  after: {move.trigger}")
    if isinstance(deferred, SequenceNode):
        first = deferred.value[0].start_mark.index
        start = _line_start(text, first)
        indent = text[start : text.index("-", start)]
        place = _end_of(text, deferred)
        head = ""
    else:
        indent, head = "  ", f"deferred:{newline}"
        anchor = next((value for key, value in root.value if key.value == "critical"), root.value[0][1])
        place = _end_of(text, anchor)
    body = head + "".join(f"{indent}{line}{newline}" for line in lines)
    if place and text[place - 1] != "\n":
        body = newline + body
    return _Edit(start=place, end=place, text=body)


def _end_of(text: str, node: Node) -> int:
    """The start of the line after the last one that *node* has something in: a block's own end lies behind comments."""
    last = node
    while isinstance(last, MappingNode | SequenceNode) and not last.flow_style and last.value:
        entry = last.value[-1]
        last = entry[1] if isinstance(entry, tuple) else entry
    return _line_end(text, last.end_mark.index)


def _applied(text: str, edits: Sequence[_Edit]) -> str:
    """All edits at once. They do not overlap; where one takes text away, another may put some in before it."""
    at = len(text)
    parts: list[str] = []
    for edit in sorted(edits, key=lambda edit: (-edit.start, edit.end == edit.start)):
        assert edit.end <= at, "edits of a profile overlap"
        parts += [text[edit.end : at], edit.text]
        at = edit.start
    parts.append(text[:at])
    return "".join(reversed(parts))
