"""What `megamod build` does, without click; on its own, so that an unchanged build imports little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megamod.initramfs.archive.image import atomic_write, read_file
from megamod.initramfs.output.cache import image_key, read_entry, write_entry
from megamod.initramfs.steps import Steps, human_bytes
from megamod.profiles.schema import find_profile
from megamod.profiles.tree import open_tree


def build_command(
    *, profile: str, kernel: str, output: Path, firmware_dir: str | None = None, cache: bool = True, steps: Steps
) -> None:
    """``megamod build``; with *cache* an image that was built before from the same input is taken as it was."""
    chosen = find_profile(profile)
    if firmware_dir is not None:
        chosen = replace(chosen, firmware_dir=firmware_dir)
    tree = open_tree(kernel)
    key = image_key(chosen, tree.folder, tree.release) if cache else None
    known = read_entry("images", key) if key else None
    if known is not None:
        atomic_write(output, known)
        steps.say(f"unchanged: {output} {human_bytes(len(known))}, as built before (--no-cache builds it anew)")
        return
    # What links and packs is imported only where it is needed: an unchanged image wants none of it.
    from megamod.initramfs.build import build_image

    report = build_image(chosen, tree, output, steps=steps)
    steps.closing_table(report.rows)
    # What has changed while it was read belongs to no entry.
    if key and key == image_key(chosen, tree.folder, tree.release):
        write_entry("images", key, read_file(output))
