"""Random prelinks of real modules: drawing a case, running it through prelink and oracle, shrinking one that fails."""

import random
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from megamod.common.errors import MegamodError
from megamod.prelink.link import Megamodule, prelink_files
from megamod.prelink.options import PrelinkOptions
from tests.oracle import judge
from tests.properties.modules import Tree, canonical, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One prelink: canonical names of all members (closed under dependencies), and the options."""

    members: tuple[str, ...]
    unwind: str
    tracing: str
    symbols: str
    static_calls: str = "trampoline"
    allow_taint: bool = True

    def __str__(self) -> str:
        return (
            f"{len(self.members)} members, unwind {self.unwind}, tracing {self.tracing}, symbols {self.symbols}, "
            f"static calls {self.static_calls}{'' if self.allow_taint else ', no taint'}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case. kinds: sorted names of what is wrong, empty for a case that holds.

    singles: members that the prelinker refused by name, with its sentence; case: what was left and merged.
    """

    case: Case
    kinds: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    singles: tuple[tuple[str, str], ...] = ()
    megamodule: Megamodule | None = None


def draw(tree: Tree, seed: str) -> Case:
    """A case that depends on the seed and the tree alone: a few modules, many, or a folder's, with what they need."""
    rng = random.Random(seed)
    names = sorted(tree.files)
    style = rng.random()
    if style < 0.5:
        roots = rng.sample(names, min(len(names), rng.randint(1, 6)))
    elif style < 0.8:
        roots = rng.sample(names, min(len(names), rng.randint(7, 60)))
    else:
        folder = tree.files[rng.choice(names)].parent
        near = [name for name in names if tree.files[name].parent == folder]
        roots = rng.sample(near, rng.randint(1, min(len(near), 40)))
    return Case(
        members=tree.closure(roots),
        unwind=rng.choice(("keep", "compact", "drop")),
        tracing=rng.choice(("off", "off", "keep")),
        symbols=rng.choice(("keep", "trim")),
        allow_taint=rng.random() < 0.8,
        static_calls=rng.choice(("trampoline", "patch")),
    )


def run_case(tree: Tree, case: Case) -> Outcome:
    """Prelinks (which verifies) and judges. A member refused by name is left out, with those that need it."""
    singles: list[tuple[str, str]] = []
    users = tree.users()
    while True:
        if not case.members:
            return Outcome(case=case, singles=tuple(singles))
        options: Any = {
            "unwind": case.unwind,
            "tracing": case.tracing,
            "symbols": case.symbols,
            "static_calls": case.static_calls,
        }
        files = [tree.files[name] for name in case.members]
        try:
            options = PrelinkOptions(name="megamod_test", allow_taint=case.allow_taint, **options)
            result = prelink_files(files, options)
        except MegamodError as error:
            # "ext4.ko: …" names a file; the modules that need it cannot be merged without it either.
            # Several are named in one line.
            text = str(error)
            several = re.match(r"\d+ modules cannot be merged: ", text)
            pattern = r"([^/\s]+\.ko)\S*: it " if several else r"^\S*?([^/\s]+\.ko)\S*:"
            alone = [canonical(name) for name in re.findall(pattern, text)]
            if not alone or not set(alone) <= set(case.members):
                return Outcome(case=case, kinds=("unnamed refusal",), lines=(text,), singles=tuple(singles))
            singles += [(name, text) for name in alone]
            gone = set(alone).union(*(users[name] for name in alone))
            left = tuple(n for n in case.members if n not in gone)
            case = replace(case, members=left)
            continue
        except Exception:
            lines = traceback.format_exc().splitlines()
            return Outcome(case=case, kinds=(f"crash {lines[-1]}",), lines=tuple(lines), singles=tuple(singles))
        members = [(name, plain(tree.files[name])) for name in case.members]
        found = judge(members, result.data, result.map)
        return Outcome(
            case=case,
            kinds=tuple(sorted({d.kind for d in found})),
            lines=tuple(str(d) for d in found),
            singles=tuple(singles),
            megamodule=result,
        )


def shrink(
    tree: Tree, outcome: Outcome, *, run: Callable[[Tree, Case], Outcome] = run_case, tries: int = 200
) -> Outcome:
    """A smaller case that fails in a way the first one did: members go in ever smaller groups, then options."""
    users = tree.users()

    def fails(case: Case) -> Outcome | None:
        nonlocal tries
        tries -= 1
        result = run(tree, case) if case.members and tries >= 0 else None
        return result if result is not None and set(result.kinds) & set(outcome.kinds) else None

    best = outcome
    size = max(len(best.case.members) // 2, 1)
    while size:
        start = 0
        while start < len(best.case.members):
            gone = set(best.case.members[start : start + size])
            for name in list(gone):
                gone |= users[name]
            smaller = fails(replace(best.case, members=tuple(n for n in best.case.members if n not in gone)))
            if smaller is not None:
                best = smaller
            else:
                start += size
        size //= 2
    simpler: list[dict[str, Any]] = [{"unwind": "drop"}, {"tracing": "off"}, {"symbols": "trim"}]
    for change in simpler:
        tried = fails(replace(best.case, **change))
        best = tried if tried is not None else best
    return best
