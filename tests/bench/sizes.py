#!/usr/bin/env python3
"""The size of another generator's image beside megamod's with the same modules (README.md, "sizes.py")."""

from __future__ import annotations

import argparse
import io
import re
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from megamod.build.recipe import build_image
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.common.text import canonical
from megamod.image.archive import make_image, read_image
from megamod.image.cpio import Entry
from megamod.modules.tree import ModuleTree, open_tree
from megamod.profile.schema import load_profile
from tests.bench.shared.arguments import run_main
from tests.bench.shared.tables import markdown

_MODULE = re.compile(r"(?:usr/)?lib/modules/[^/]+/(?:.*/)?([^/]+)\.ko(?:\.(?:xz|zst|gz))?")
# Of one kind for all: what a generator's own configuration says of levels is not the question.
METHODS = ("none", "zstd")


def main() -> int:
    options = _parse()
    tree = open_tree(str(options.kernel))
    rows = [row for path in options.images for row in _rows(path, tree)]
    heads = ["image", "modules", "MB of modules", *(f"MB, {method}" for method in METHODS)]
    print(markdown(heads, rows))
    return 0


def _rows(path: Path, tree: ModuleTree) -> list[list[str]]:
    entries = {entry.path: entry for entry in read_image(path) if entry.path not in ("", ".")}
    modules = {
        canonical(found[1]): len(entry.data)
        for name, entry in entries.items()
        if (found := _MODULE.fullmatch(name)) and stat.S_ISREG(entry.mode)
    }
    names = sorted(modules.keys() & tree.modules.keys())
    if not names:
        raise MegamodError(f"{path}: no module of {tree.release} in it", hint="--kernel names its lib/modules/KVER")
    theirs = list(entries.values())
    alone = [entry for name, entry in entries.items() if _MODULE.fullmatch(name) or stat.S_ISDIR(entry.mode)]
    return [
        _row(f"{path.name}", len(names), sum(modules.values()), [_size(theirs, method) for method in METHODS]),
        _row("its modules alone", len(names), sum(modules.values()), [_size(alone, method) for method in METHODS]),
        *(_ours(names, tree, unwind) for unwind in ("compact", "drop")),
    ]


def _ours(names: Sequence[str], tree: ModuleTree, unwind: str) -> list[str]:
    sizes, total = [], 0
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            profile = Path(folder) / "sizes.yaml"
            listed = ", ".join(f'"{name}"' for name in names)
            text = f"critical: {{modules: [{listed}]}}\nunwind: {unwind}\ncompress: {method}\nfirmware: none\n"
            profile.write_text(f"{text}allow-taint: true\n")
            report = build_image(
                load_profile(profile), tree, Path(folder) / "image", steps=Steps(io.StringIO(), quiet=True)
            )
            sizes.append(report.bytes)
            total = sum(row.bytes for row in report.rows)
    return _row(f"megamod, `unwind: {unwind}`", len(names), total, sizes)


def _size(entries: Sequence[Entry], method: str) -> int:
    return len(make_image(entries, method=method))


def _row(name: str, count: int, modules: int, sizes: Sequence[int]) -> list[str]:
    return [name, str(count), f"{modules / 1e6:.1f}", *(f"{size / 1e6:.1f}" for size in sizes)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an initramfs of dracut or the like")
    parser.add_argument("--kernel", required=True, type=Path, metavar="DIR", help="the lib/modules/KVER of its kernel")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_main(main))
