"""What `megamod inspect` does, without click: from plain arguments to output and exit status."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import click

from megamod.common.errors import MegamodError
from megamod.inspect.image_files import difference, find_file, image_files, tree_text
from megamod.inspect.inspection import ImageInspection, inspect_file
from megamod.inspect.sbom import bill_of_materials


def inspect_command(*, file: Path, as_json: bool, what: str | None, path: str | None, other: Path | None) -> int:
    """``megamod inspect``: 0, or 1 where two images differ."""
    if sum(choice is not None for choice in (what, path, other)) > 1:
        raise MegamodError("--tree, --sbom, --file and --diff: only one of them at a time")
    if path is not None:
        entry = find_file(image_files(file), path, source=str(file))
        target = b"\n" if stat.S_ISLNK(entry.mode) else b""
        click.echo(entry.data + target, nl=False)
        return 0
    if what == "tree":
        click.echo(tree_text(image_files(file)))
        return 0
    inspection = inspect_file(file)
    if what is None and other is None:
        click.echo(inspection.as_json() if as_json else inspection.as_text())
        return 0
    if not isinstance(inspection, ImageInspection):
        raise MegamodError(f"{file}: is a megamodule, not an image", hint="give what megamod build made")
    if other is None:
        click.echo(json.dumps(bill_of_materials(inspection.manifest, image_files(file)), indent=2))
        return 0
    compared = inspect_file(other)
    if not isinstance(compared, ImageInspection):
        raise MegamodError(f"{other}: is a megamodule, not an image", hint="give what megamod build made")
    found = difference(inspection.manifest, image_files(file), compared.manifest, image_files(other))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        click.echo("\n".join(found))
    else:
        click.echo(f"{file} and {other} hold the same")
    return 1 if found else 0
