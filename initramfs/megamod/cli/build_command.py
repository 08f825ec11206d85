"""What `megamod build` does, without click; on its own, so that an unchanged build imports little."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from megamod.build.image_cache import image_key, read_image_entry, write_image_entry
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write_all, not_an_input, read_file
from megamod.common.progress import Steps, human_bytes
from megamod.modules.tree import open_tree
from megamod.profile.schema import find_path, load_profile


def build_command(
    *,
    profile: str,
    kernel: str,
    output: Path,
    firmware_dir: str | None = None,
    map_file: str | None = None,
    cache: bool = True,
    steps: Steps,
) -> None:
    """``megamod build``; with *cache* an image that was built before from the same input is taken as it was.

    map_file: where the map goes, "none" for nowhere, by default beside the image.
    """
    map_path = None if map_file == "none" else Path(map_file) if map_file else output.parent / f"{output.name}.map"
    if map_path is not None and os.path.realpath(map_path) == os.path.realpath(output):
        raise MegamodError(f"{map_path}: cannot be written: is the image too", hint="another name, or --map none")
    source = find_path(profile)
    for path in filter(None, (output, map_path)):
        not_an_input(path, [source])
    chosen = load_profile(source)
    if firmware_dir is not None:
        if not Path(firmware_dir).is_dir():
            raise MegamodError(f"{firmware_dir}: no such folder", hint="firmware is looked for there")
        chosen = replace(chosen, firmware_dir=firmware_dir)
    tree = open_tree(kernel)
    key = image_key(chosen, tree.folder, tree.release) if cache else None
    known = read_image_entry(key) if key else None
    if known is not None:
        image, link_map = known
        atomic_write_all([(output, image), *([(map_path, link_map)] if map_path else [])])
        steps.say(f"unchanged: {output} {human_bytes(len(image))}, as built before (--no-cache builds it anew)")
        return
    # What links and packs is imported only where it is needed: an unchanged image wants none of it.
    from megamod.build.recipe import build_image

    # An entry holds both, whatever this run has been asked to write.
    with tempfile.TemporaryDirectory(prefix="megamod-map-") as folder:
        report = build_image(chosen, tree, output, steps=steps, map_file=map_path or Path(folder) / "map")
        link_map = read_file(map_path or Path(folder) / "map")
    steps.closing_table(report.rows)
    # What has changed while it was read belongs to no entry.
    if key and key == image_key(chosen, tree.folder, tree.release):
        write_image_entry(key, read_file(output), link_map)
