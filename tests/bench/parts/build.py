"""Build: what making an image costs, and how large it is by each compression."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megamod.common.compression import compress, decompress
from megamod.image.archive import read_image
from tests.bench.parts.context import Context, Part, Plot, Table
from tests.bench.shared.generators import QUICK, Generated, make_images, own_images

METHODS = ("none", "lz4", "gzip", "zstd", "xz")
_MODULE = re.compile(r"(?!megamod/).*\.ko(?:\.\w+)?")


def measure_build(context: Context) -> Part:
    """Every generator's cost for the same system; the images of the boot part."""
    folder = context.store.folder.parent / "images"
    only = QUICK if context.quick else ()
    if context.system is None:
        release = context.kernel.release
        images: Iterable[Generated | str] = own_images(
            context.kernel.tree, folder, release, step=context.step, only=only
        )
    else:
        release, images = context.system.kernel, make_images(context.system, folder, step=context.step)
    rows: list[dict[str, Any]] = []
    notes = []
    for made in images:
        if isinstance(made, str):
            notes.append(made)
            continue
        context.step(f"build: sizes of {made.key}")
        depends = {"image": made.image.name}
        found = context.store.figure("image", depends, lambda made=made: _look(made))  # type: ignore[misc]
        rows.append({"key": made.key, "title": made.title, **asdict(made.cost), **found})
    rows.sort(key=lambda row: row["sizes"]["zstd"])
    cells = [
        [
            row["title"],
            str(row["modules"]),
            *(f"{row[name]:.1f}" if row["wall"] else "-" for name in ("wall", "processor")),
            f"{row['peak_mib']:.0f}" if row["wall"] else "-",
            *(f"{row['sizes'][method] / 1e6:.2f}" for method in METHODS),
        ]
        for row in rows
    ]
    heads = ["image", "modules", "wall s", "processor s", "peak MiB", *(f"MB, {method}" for method in METHODS)]
    notes.append(
        "Wall time is this machine's. The peak is that of the largest process. All packed anew by each method."
    )
    table = Table(title=f"Build: {release}", heads=heads, rows=cells, notes=notes)
    plot = Plot(
        name="build",
        title="Size of the image, zstd",
        axis="MB",
        parts=("size",),
        bars={row["title"]: (row["sizes"]["zstd"] / 1e6,) for row in rows},
    )
    return Part(name="build", tables=[table], plots=[plot], data=rows)


def _look(made: Generated) -> dict[str, Any]:
    archive = decompress(made.image.read_bytes())
    return {
        "modules": count_modules(made.image),
        "sizes": {method: len(archive if method == "none" else compress(archive, method)) for method in METHODS},
    }


def count_modules(image: Path) -> int:
    """Modules as files, and members of megamodules; not the files that a fallback would take."""
    files = {entry.path: entry for entry in read_image(image) if stat.S_ISREG(entry.mode)}
    count = sum(1 for path in files if _MODULE.fullmatch(path))
    if manifest := files.get("megamod/manifest.json"):
        stages = json.loads(manifest.data)["stages"]
        count += sum(len(load["members"]) or 1 for stage in stages for load in stage["loads"])
    return count
