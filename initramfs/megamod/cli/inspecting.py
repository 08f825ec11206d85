"""`megamod inspect`, `ls`, `cat` and `unpack`: what is in an image or a megamodule."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from megamod.cli.options import FILE, JSON, say
from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from megamod.inspect.inspection import ImageInspection


@click.command()
@click.argument("file", type=FILE, metavar="IMAGE|UKI|FIT|FILE.ko")
@JSON
@click.option("--tree", "what", flag_value="tree", help="List every file of the image instead, as `megamod ls -l`.")
@click.option("--sbom", "what", flag_value="sbom", help="Print a CycloneDX bill of materials of the image instead.")
@click.option("--file", "path", metavar="PATH", help="Print this file of the image instead, as `megamod cat`.")
@click.option("--diff", "other", type=FILE, metavar="OTHER", help="Show what differs from OTHER; status 1 if anything.")
def inspect(*, file: Path, as_json: bool, what: str | None, path: str | None, other: Path | None) -> None:
    """Show stages, members, sizes of an image or a megamodule.

    Also of what holds an image: UKIs and other EFI programs, FIT images. Members are in init order, each with
    the reason why it was selected.
    """
    from megamod.inspect.image_files import find_file, image_files, tree_text
    from megamod.inspect.inspection import inspect_file

    if sum(choice is not None for choice in (what, path, other)) > 1:
        raise MegamodError("--tree, --sbom, --file and --diff: only one of them at a time")
    if path is not None:
        entry = find_file(image_files(file), path, source=str(file))
        target = b"\n" if stat.S_ISLNK(entry.mode) else b""
        click.echo(entry.data + target, nl=False)
    elif what == "tree":
        _print(tree_text(image_files(file)))
    elif what == "sbom":
        say(_bill_text(_image(file), file))
    elif other is not None:
        sys.exit(_compare(file, other, as_json=as_json))
    else:
        inspection = inspect_file(file)
        say(inspection.as_json() if as_json else inspection.as_text())


def _image(file: Path) -> ImageInspection:
    from megamod.inspect.container import ContainerInspection
    from megamod.inspect.inspection import ImageInspection, inspect_file

    inspection = inspect_file(file)
    if isinstance(inspection, ContainerInspection) and isinstance(inspection.inside, ImageInspection):
        return inspection.inside
    if not isinstance(inspection, ImageInspection):
        raise MegamodError(f"{file}: is a megamodule, not an image", hint="give what megamod build made")
    return inspection


def _bill_text(inspection: ImageInspection, file: Path) -> str:
    import json

    from megamod.inspect.image_files import image_files
    from megamod.inspect.sbom import bill_of_materials

    return json.dumps(bill_of_materials(inspection.manifest, image_files(file)), indent=2)


def _compare(file: Path, other: Path, *, as_json: bool) -> int:
    import json

    from megamod.inspect.image_files import difference, image_files

    found = difference(_image(file).manifest, image_files(file), _image(other).manifest, image_files(other))
    if as_json:
        say(json.dumps(found, indent=2))
    elif found:
        say("\n".join(found))
    else:
        say(f"{file} and {other} hold the same")
    return 1 if found else 0


@click.command("ls")
@click.argument("image", type=FILE)
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("-l", "--long", "as_long", is_flag=True, help="Mode, size and link target of each, as ls -l.")
def list_files(*, image: Path, paths: tuple[str, ...], as_long: bool) -> None:
    """List the files of an image.

    IMAGE is any initramfs image or UKI, whoever made it. With PATH only that file, or all below that folder.
    """
    from megamod.inspect.image_files import chosen_files, image_files, names_text, tree_text

    files = chosen_files(image_files(image), paths, source=str(image))
    if files:
        _print(tree_text(files) if as_long else names_text(files))


def _print(text: str) -> None:
    """Names of files are bytes: those that are not UTF-8 are printed as they are."""
    click.echo(f"{text}\n".encode("utf-8", "surrogateescape"), nl=False)


@click.command()
@click.argument("image", type=FILE)
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
def cat(*, image: Path, paths: tuple[str, ...]) -> None:
    """Print files of an image, byte for byte.

    Links are followed inside the image.
    """
    from megamod.inspect.image_files import find_file, image_files

    files = image_files(image)
    entries = [find_file(files, path, source=str(image)) for path in paths]
    for path, entry in zip(paths, entries, strict=True):
        if stat.S_ISLNK(entry.mode):
            target = entry.data.decode("utf-8", "surrogateescape")
            raise MegamodError(f"{image}: {path}: is a link to {target}, which is not a file of the image")
    for entry in entries:
        click.echo(entry.data, nl=False)


@click.command()
@click.argument("image", type=FILE)
@click.argument("folder", type=FILE)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def unpack(*, image: Path, folder: Path, quiet: bool) -> None:
    """Unpack an image into a new or empty folder.

    Nothing is written outside of FOLDER, whatever the image holds. Device nodes need root; without, they are left out
    with a note.
    """
    from megamod.common.text import counted
    from megamod.image.archive import read_image
    from megamod.inspect.unpack import unpack_entries

    report = unpack_entries(read_image(image), folder)
    for note in report.notes:
        say(f"megamod: note: {note}", err=True)
    if not quiet:
        say(f"{folder}: {counted(report.files, 'file')}")
