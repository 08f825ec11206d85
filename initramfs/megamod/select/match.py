"""Selector and ModuleTree → the modules that it names, or a located error with the nearest names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from megamod.common.errors import MegamodError, fail
from megamod.common.text import did_you_mean, shorten
from megamod.machine.dtb_modules import match_device_tree
from megamod.modules.aliases import normalise_alias
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Selector
from megamod.profile.selectors import ParsedSelector, SelectorKind, parse_selector
from megamod.select.gone_names import answer_for
from megamod.select.module_list import listed_modules
from megamod.select.sets import shipped_set

_MODULE_ENDING = re.compile(r"\.ko(\.\w+)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a selector found: *modules* sorted, *builtin* the names that are linked into the kernel, *exact* whether
    it is the very name of its one module. *detected* has the reason of each for `@detected`, *why* the whole reason of
    each for `@dtb:`."""

    selector: ParsedSelector
    modules: tuple[str, ...]
    builtin: tuple[str, ...]
    exact: bool
    detected: Mapping[str, str]
    why: Mapping[str, str] = field(default_factory=dict)

    def reason_of(self, name: str) -> str:
        """Why the module *name* is in, in a few words."""
        if self.exact:
            return "named"
        if name in self.why:
            return self.why[name]
        if name in self.detected:
            return f"detected: {self.detected[name]}"
        if self.selector.is_name:
            return f"provides {self.selector.pattern}"
        return f"matches {shorten(self.selector.text.removeprefix('?'))}"


def match(selector: Selector, tree: ModuleTree, detected: Mapping[str, str]) -> Match:
    """What *selector* names in *tree*; raises a located MegamodError for nothing, unless it is optional.

    *detected* is what `@detected` stands for, module → reason.
    """
    parsed = parse_selector(selector)
    if parsed.kind is SelectorKind.DETECTED:
        # A machine may need nothing but what is built in.
        return Match(selector=parsed, modules=tuple(sorted(detected)), builtin=(), exact=False, detected=detected)
    why: Mapping[str, str] = {}
    if parsed.kind is SelectorKind.DTB:
        why, inside = _device_tree(parsed, tree)
        modules, builtin = tuple(sorted(why)), tuple(sorted(inside))
    elif parsed.kind is SelectorKind.LIST:
        why, builtin = _listed(parsed, tree)
        modules = tuple(sorted(why))
    else:
        modules, builtin = _find(parsed, tree)
    if not modules and not builtin and not parsed.optional and parsed.kind is not SelectorKind.LIST:
        raise _nothing(parsed, tree)
    exact = parsed.is_name and modules == (parsed.pattern,)
    return Match(selector=parsed, modules=modules, builtin=builtin, exact=exact, detected={}, why=why)


def _device_tree(selector: ParsedSelector, tree: ModuleTree) -> tuple[dict[str, str], frozenset[str]]:
    try:
        return match_device_tree(selector.pattern, Path(selector.location.file).parent, tree)
    except MegamodError as error:
        raise fail(selector.location, f"@dtb: {error.message}", error.hint) from None


def _listed(selector: ParsedSelector, tree: ModuleTree) -> tuple[dict[str, str], tuple[str, ...]]:
    """Module → why of all that a list names, and what of it is built in; a name for nothing is an error at its place,
    unless the selector is optional."""
    try:
        listed = listed_modules(Path(selector.location.file).parent / selector.pattern)
    except MegamodError as error:
        if selector.optional:
            return {}, ()
        raise fail(selector.location, f"@list: {error.message}", error.hint) from None
    why: dict[str, str] = {}
    builtin: set[str] = set()
    for one in listed:
        modules, inside = tree.resolve(one.name)
        if not modules and not inside and not selector.optional:
            hint = nearest_modules(one.name, tree) or f"`?{shorten(selector.text, 30)}` takes those that are there"
            raise fail(one.location, f"no module or alias {shorten(one.name)} in {tree.release}", hint)
        builtin.update(inside)
        place = Path(one.location.file).name
        why.update({name: f"line {one.location.line} of {place}" for name in modules if name not in why})
    return why, tuple(sorted(builtin))


def _find(selector: ParsedSelector, tree: ModuleTree) -> tuple[tuple[str, ...], tuple[str, ...]]:
    pattern = selector.pattern
    if selector.kind is SelectorKind.NAME:
        return tree.resolve(pattern)
    if selector.kind is SelectorKind.GLOB:
        return _globbed(tree.modules, pattern), _globbed(tree.builtin, pattern)
    if selector.kind is SelectorKind.PATH:
        parts = normalise_alias(pattern).split("/")
        below = tuple(sorted(name for name, module in tree.modules.items() if _is_below(module.relpath, parts)))
        inside = tuple(sorted(name for name, path in tree.builtin_paths.items() if _is_below(path, parts)))
        return below, inside
    if selector.kind is SelectorKind.SET:
        found = [_find(parse_selector(entry), tree) for entry in shipped_set(pattern, selector.location)]
        return _union(modules for modules, _builtin in found), _union(builtin for _modules, builtin in found)
    if selector.kind is SelectorKind.ALIAS:
        return tree.aliases.matching(pattern), tree.builtin_aliases.matching(pattern)
    return tree.aliases.providers(pattern), tree.builtin_aliases.providers(pattern)


def _union(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({name for names in lists for name in names}))


def _globbed(names: Iterable[str], pattern: str) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if fnmatchcase(name, pattern)))


def _is_below(relpath: str, parts: list[str]) -> bool:
    """Whether the module file *relpath* is the folder (or file) *parts*, or below it; each part may be a glob."""
    path = _path_parts(relpath)
    return len(path) >= len(parts) and all(
        have == want or fnmatchcase(have, want) for have, want in zip(path, parts, strict=False)
    )


@cache
def _path_parts(relpath: str) -> tuple[str, ...]:
    plain = _MODULE_ENDING.sub("", relpath).removeprefix("kernel/")
    return tuple(plain.replace("-", "_").split("/"))


def _nothing(selector: ParsedSelector, tree: ModuleTree) -> MegamodError:
    text = shorten(selector.text)
    if selector.kind is SelectorKind.NAME:
        message = f"no module or alias {text} in {tree.release}"
    else:
        message = f"{text} matches nothing in {tree.release}"
    return fail(selector.location, message, _hint(selector, tree))


def _hint(selector: ParsedSelector, tree: ModuleTree) -> str:
    if selector.kind is SelectorKind.NAME and ":" in selector.pattern:
        return "a pattern over aliases is written alias:GLOB"
    nearest = None
    if selector.kind is SelectorKind.NAME:
        nearest = nearest_modules(selector.pattern, tree)
    elif selector.kind is SelectorKind.PATH:
        folders = {module.relpath.rpartition("/")[0].removeprefix("kernel/") for module in tree.modules.values()}
        parents = {folder.rpartition("/")[0] for folder in folders} - {""}
        nearest = did_you_mean(selector.pattern, folders | parents)
    elif selector.kind is SelectorKind.GLOB:
        nearest = nearest_modules(re.sub(r"[*?]|\[[^\]]*\]", "", selector.pattern), tree)
    return nearest or f"`?{shorten(selector.text, 30)}` if it may be missing"


def nearest_modules(name: str, tree: ModuleTree) -> str | None:
    """A hint: what became of *name*, else the nearest names of modules and built-ins of *tree*; None for nothing."""
    if answer := answer_for(name, tree):
        return answer
    hint = did_you_mean(name, {*tree.modules, *tree.builtin})
    if tree.has_builtin_list:
        return hint
    missing = "the tree has no modules.builtin, so what is built in looks missing"
    return f"{hint} {missing}" if hint else missing
