"""`megamod build` and `megamod prelink`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from megamod.cli.options import FILE, KERNELS, PROFILE, kernel_files, progress, steps_of, word_of
from megamod.common.choices import Order, StaticCalls, Symbols, Tracing, Unwind
from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from megamod.common.progress import Steps
    from megamod.prelink.options import PrelinkOptions


@click.command()
@PROFILE
@KERNELS
@kernel_files()
@click.option("-o", "--output", type=FILE, metavar="IMAGE", help="Write the image here; default: PROFILE-KVER.img.")
@click.option(
    "--firmware-dir", metavar="DIR", help="Look for firmware here; default: lib/firmware of the kernel's root."
)
@click.option("--map", "map_file", metavar="FILE|none", help="The map for symbolize and debug; default: IMAGE.map.")
@click.option("--no-cache", "cache", flag_value=False, default=True, help="Build it even if nothing has changed.")
@progress
def build(
    *,
    profile: str,
    kernels: tuple[str, ...],
    named: dict[str, Path],
    output: Path | None,
    firmware_dir: str | None,
    map_file: str | None,
    cache: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Build an initramfs image from a profile.

    PROFILE is a file, or the name of a shipped profile (megamod profile list). The build also writes IMAGE.map: keep it
    for symbolize and debug. An image that was built before from the same input is taken from the cache.
    """
    from megamod.build.image_cache import KeptImage, find_image, image_key, keep_image
    from megamod.build.reads import Reads
    from megamod.cli.defaults import chosen_tree, default_output
    from megamod.common.files import atomic_write_all, check_writable, not_an_input, read_file
    from megamod.common.text import human_bytes
    from megamod.profile.schema import find_path, load_profile

    steps = steps_of(quiet=quiet, verbose=verbose)
    source = find_path(profile)
    if output is not None:
        # Before anything is read: the profile itself must not be written over.
        not_an_input(output, [source])
    chosen = load_profile(source)
    if firmware_dir is not None:
        if not Path(firmware_dir).is_dir():
            raise MegamodError(f"{firmware_dir}: no such folder", hint="firmware is looked for there")
        chosen = replace(chosen, firmware_dir=firmware_dir)
    reads = Reads()
    with reads.recording():
        tree = chosen_tree(kernels[0] if kernels else None, named, overlays=kernels[1:])
    output = output or default_output(chosen, tree)
    map_path = _map_path(output, map_file)
    for path in filter(None, (output, map_path)):
        not_an_input(path, [source])
        check_writable(path)
    steps.detail(f"profile {chosen.name}: {source}")
    steps.detail(f"kernel {tree.release}: {tree.folder}, {len(tree.modules):,} modules")
    steps.detail(f"output {output}, map {map_path or 'not written'}")
    key = image_key(chosen, tree) if cache else None
    known = find_image(key) if key else None
    if known is not None:
        beside = [(map_path, known.link_map)] if map_path else []
        atomic_write_all([(output, known.image), *beside], private=known.private)
        steps.say(f"unchanged: {output} {human_bytes(len(known.image))}, as built before (--no-cache builds it again)")
        return
    # What links and packs is imported only where it is needed: an unchanged image wants none of it.
    import tempfile

    from megamod.build.recipe import build_image

    # An entry holds both, whatever this run has been asked to write.
    with tempfile.TemporaryDirectory(prefix="megamod-map-") as folder:
        reads.leave_out(*filter(None, (output, map_path)), Path(folder))
        with reads.recording():
            report = build_image(chosen, tree, output, steps=steps, map_file=map_path or Path(folder) / "map")
        link_map = read_file(map_path or Path(folder) / "map")
    steps.closing_table(report.rows)
    # A change of the program while it ran belongs to no entry.
    if key and key == image_key(chosen, tree):
        keep_image(key, reads, KeptImage(image=read_file(output), link_map=link_map, private=report.private))


def _map_path(output: Path, map_file: str | None) -> Path | None:
    """Where the map goes: "none" is nowhere, the default is next to the image."""
    path = None if map_file == "none" else Path(map_file) if map_file else output.parent / f"{output.name}.map"
    if path is not None and os.path.realpath(path) == os.path.realpath(output):
        raise MegamodError(f"{path}: cannot be written: is the image too", hint="another name, or --map none")
    return path


@click.command()
@click.argument("modules", nargs=-1, required=True, type=FILE, metavar="MODULE.ko…")
@click.option("-o", "--output", required=True, type=FILE, metavar="OUT.ko", help="Write the megamodule here.")
@click.option("--map", "map_file", type=FILE, metavar="FILE", help="Write where each member's sections went, as JSON.")
@click.option("--name", metavar="NAME", help="The module's name; default: from OUT.ko.")
@click.option("--unwind", type=word_of(Unwind), default=Unwind.KEEP.value, help="ORC tables.")
@click.option("--tracing", type=word_of(Tracing), default=Tracing.OFF.value, help="Tables that ftrace reads.")
@click.option("--symbols", type=word_of(Symbols), default=Symbols.KEEP.value, show_default=True, help="Symbol table.")
@click.option(
    "--static-calls",
    type=word_of(StaticCalls),
    default=StaticCalls.TRAMPOLINE.value,
    show_default=True,
    help="Leave static calls in their trampolines, or let the kernel patch each.",
)
@click.option(
    "--order",
    type=word_of(Order),
    default=Order.WAITS.value,
    show_default=True,
    help="In a level, drivers of disks and USB first, or in the order given.",
)
@click.option("--allow-taint", is_flag=True, help="Accept staging and out-of-tree members.")
@click.option("--leave-out", is_flag=True, help="If a module cannot be merged, link the others.")
@kernel_files()
@progress
def prelink(
    *,
    modules: tuple[Path, ...],
    output: Path,
    map_file: Path | None,
    name: str | None,
    unwind: str,
    tracing: str,
    symbols: str,
    static_calls: str,
    order: str,
    allow_taint: bool,
    leave_out: bool,
    named: dict[str, Path],
    quiet: bool,
    verbose: bool,
) -> None:
    """Link modules into one megamodule.

    Modules may be plain, .gz, .xz or .zst. Nothing is written before the link has been verified.
    """
    from megamod.common.documents import document_bytes
    from megamod.common.files import atomic_write_all, check_writable
    from megamod.common.text import counted, human_bytes
    from megamod.prelink.link import prelink_files
    from megamod.prelink.options import PrelinkOptions

    steps = steps_of(quiet=quiet, verbose=verbose)
    _check_names(modules, output, map_file)
    for path in filter(None, (output, map_file)):
        check_writable(path)
    chosen = PrelinkOptions(
        name=name or _name_from(output),
        unwind=Unwind(unwind),
        tracing=Tracing(tracing),
        symbols=Symbols(symbols),
        static_calls=StaticCalls(static_calls),
        order=Order(order),
        allow_taint=allow_taint,
    )
    source = None
    if named:
        chosen, source = _of_kernel(modules[0], chosen, named, steps)
    with steps.step("prelink") as step:
        megamodule = prelink_files(modules, chosen, leave_out=leave_out, kernel=source)
        before, after = megamodule.relocations
        step.note(f"{counted(len(megamodule.members), 'member')}, {human_bytes(len(megamodule.data))}")
        step.note(f"relocations {before:,} → {after:,}")
    for member in megamodule.members:
        steps.detail(f"  member {member.name}")
    for note in megamodule.notes:
        steps.say(f"  note: {note}")
    files = [(output, megamodule.data)]
    if map_file is not None:
        files.append((map_file, document_bytes(megamodule.map, indent=None)))
    atomic_write_all(files)


def _of_kernel(
    module: Path, options: PrelinkOptions, named: dict[str, Path], steps: Steps
) -> tuple[PrelinkOptions, dict[str, int | None] | None]:
    """What the files *named* say of the kernel that *module* is for: options, and its exports with their CRCs."""
    from megamod.common.compression import read_module_bytes
    from megamod.kernel.config import find_config, has_kcfi
    from megamod.kernel.exports import search_exports
    from megamod.modules.kernel_files import KernelFiles
    from megamod.prelink.read import read_member

    member = read_member(read_module_bytes(module), file=module.name, lenient=True)
    release = (member.info("vermagic") or "").partition(" ")[0]
    files = KernelFiles(folder=module.parent, release=release, **named)
    exports, notes = search_exports(files) if named.keys() - {"config"} else (None, ())
    for note in notes:
        steps.say(f"  note: {note}")
    options = replace(options, kcfi=has_kcfi(find_config(files)))
    return options, {name: export.crc for name, export in exports.symbols.items()} if exports else None


def _check_names(modules: tuple[Path, ...], output: Path, map_file: Path | None) -> None:
    """No file is both read and written, or written twice."""
    taken = {os.path.realpath(module): "a module to link" for module in modules}
    for path in filter(None, (output, map_file)):
        place = os.path.realpath(path)
        if place in taken:
            raise MegamodError(f"{path}: cannot be written: is {taken[place]} too", hint="choose another name")
        taken[place] = "the output"


def _name_from(output: Path) -> str:
    """The module's name that a file name suggests, as kbuild would."""
    return output.name.removesuffix(".ko").replace("-", "_").replace(".", "_")
