"""The maps of the megamodules on this machine: /var/lib/megamod/maps/KVER.map, where `megamod symbolize` looks.

One file a kernel has those of its initramfs and those of its deployment; each of the two writes its own part.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from megamod.build.link_map import write_map
from megamod.build.link_stages import BuiltStage
from megamod.common.errors import MegamodError
from megamod.hooks.contained import inside

Part = Literal["image", "deployment"]

FOLDER = "var/lib/megamod/maps"

# What the megamodules of a hook's only stage are called (stages.py).
_CRITICAL = "megamod_critical"


def keep_maps(root: Path, kernel: str, part: Part, stages: Iterable[BuiltStage]) -> str:
    """Write the maps of *stages* in place of that *part* of the kernel's file; why it cannot be done, or "".

    Nobody needs a map to boot, so it is not an error.
    """
    path = inside(root, FOLDER) / f"{kernel}.map"
    fresh = {load.load.module: load.merged.map for stage in stages for load in stage.loads if load.merged}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_map(path, kernel=kernel, profile="hooks", megamodules={**_others(path, part), **fresh})
    except (MegamodError, OSError) as error:
        return f"the map was not stored: {error}"
    return ""


def drop_maps(root: Path, kernel: str | None, part: Part) -> None:
    """Take away that *part* of the file of *kernel*, or of all (None), and what is empty then."""
    folder = inside(root, FOLDER)
    for path in sorted(folder.glob("*.map")):
        if kernel is not None and path.stem != kernel:
            continue
        left = _others(path, part)
        if left:
            write_map(path, kernel=path.stem, profile="hooks", megamodules=left)
        else:
            path.unlink()
    for each in (folder, folder.parent):
        with contextlib.suppress(OSError):
            each.rmdir()


def _others(path: Path, part: Part) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())["megamodules"]
        return {name: found[name] for name in found if name.startswith(_CRITICAL) != (part == "image")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
