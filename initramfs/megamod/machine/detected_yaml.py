"""Detection → the YAML that `megamod detect` prints: a profile, with a comment per line that says why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from megamod.machine.detect import GROUPS, Detection, closure, group_of
from megamod.machine.device_path import ModuleReason
from megamod.modules.tree import ModuleTree

_TRIGGERS = {"display": "now"}
_WIDTH = 32


def detected_profile(detection: Detection, tree: ModuleTree, *, name: str = "detected") -> str:
    """The text of a profile that has what *detection* found; modules that another one brings along are not named."""
    lines = [
        f"# What this machine needs from the modules of {tree.release}, as `megamod detect` saw it.",
        *(line for stack in detection.stacks for line in _wrapped(f"{stack.text}.")),
        *(line for note in detection.notes for line in _wrapped(f"Note: {note}.")),
        f"name: {name}",
        "critical: # the way to the root and to the console",
        "  modules:",
    ]
    critical = _without_needed(detection.critical, (), tree)
    lines += _entries(critical, "    ")
    if not critical:
        # A stage must ask for something, and a kernel may have all of this built in.
        lines += _entries(
            [ModuleReason(name='"?ext4"', why="all that is needed is built in; a stage names something")], "    "
        )
    groups = {group: [f for f in detection.deferred if group_of(tree, f.name) == group] for group in GROUPS}
    kept = {group: _without_needed(found, detection.critical, tree) for group, found in groups.items()}
    stages = {group: found for group, found in kept.items() if found}
    if stages:
        lines.append("deferred:")
    for group, found in stages.items():
        lines += [f"  - name: {group}", f"    after: {_TRIGGERS.get(group, 'userspace')}", "    modules:"]
        lines += _entries(found, "      ")
    return "".join(f"{line}\n" for line in lines)


def _without_needed(
    found: Iterable[ModuleReason], earlier: Iterable[ModuleReason], tree: ModuleTree
) -> list[ModuleReason]:
    """*found* without what others of them bring along."""
    kept = list(found)
    known = closure(tree, (one.name for one in earlier))
    for one in tuple(kept):
        others = [other.name for other in kept if other is not one]
        if one.name in known or one.name in closure(tree, others):
            kept.remove(one)
    return kept


def _entries(found: Iterable[ModuleReason], indent: str) -> list[str]:
    return [f"{f'{indent}- {one.name}':<{_WIDTH}} # {_comment(one.why)}" for one in found]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(_comment(text), 118, initial_indent="# ", subsequent_indent="#   ")


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
