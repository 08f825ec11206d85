"""The files that root runs when a hook calls megamod: program, interpreter, packages, and the way to each.

`hook install` refuses what others can change, and leaves the list for the hook (generators/guard), which checks it
again, with find(1), before each run.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.trust import WAY_OUT, way_to, why_untrusted


def trust_list(program: Path, *, root: Path) -> list[str]:
    """Paths as seen from *root*: `/opt/megamod/bin` one file, link or folder, `/opt/megamod/` a folder with all in it.

    Empty where the program is not there. Raises MegamodError if this is root and others can change one of them.
    """
    if not _below(root, program).exists():
        return []
    steps: dict[Path, None] = {}
    for path in (program, *_needed(program, root)):
        steps |= dict.fromkeys(way_to(path, root=root))
    trees = list(_trees(program, root))
    for tree in trees:
        steps |= dict.fromkeys(way_to(tree, root=root))
    if os.geteuid() == 0:
        for step in (*steps, *(each for tree in trees for each in _all_in(_below(root, tree)))):
            if why := why_untrusted(step):
                raise MegamodError(f"{program}: root would run files that others can change: {why}", hint=WAY_OUT)
    seen = [str(Path("/") / step.relative_to(root)) for step in steps]
    return [*seen, *(f"{tree}/" for tree in trees)]


def _needed(program: Path, root: Path) -> Iterator[Path]:
    """The interpreter, and for this very Python what it imports from."""
    with _below(root, program).open("rb") as file:
        first = file.readline(4096)
    words = shlex.split(first[2:].decode("utf-8", "replace")) if first.startswith(b"#!") else []
    yield from (Path(word) for word in words if word.startswith("/"))
    if root == Path("/"):
        yield Path(sys.executable)
        yield from (Path(name).absolute() for name in sys.path if name and Path(name).exists())


def _trees(program: Path, root: Path) -> Iterator[Path]:
    """Folders whose every file is run or imported: the virtual environment, or else the package."""
    environment = program.parent.parent
    if (_below(root, environment) / "pyvenv.cfg").is_file():
        yield environment
    elif root == Path("/"):
        yield Path(__file__).resolve().parents[2]


def _all_in(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
