"""`megamod symbolize` and `megamod debug`: addresses back to members, functions and lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from megamod.cli.options import FILE, say
from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from megamod.build.link_map import LinkMap
    from megamod.inspect.debug.debug_files import DebugFiles
    from megamod.inspect.debug.debuggers import Debugger
    from megamod.inspect.debug.places import Loaded

INSTALLED = Path("/var/lib/megamod/maps")
"""Where hooks keep the maps of the images that they have changed, as RELEASE.map."""

_MODULES = click.option("--modules", type=FILE, metavar="DIR", help="Modules with debug information of their own.")
_DEBUG_DIRS = click.option(
    "--debug-dir", "debug_dirs", multiple=True, type=FILE, metavar="DIR", help="Default: /usr/lib/debug."
)
_SECTIONS = click.option(
    "--sections", type=FILE, metavar="DIR|FILE", help="A copy of /sys/module or parts of it, or /proc/modules."
)


@click.command()
@click.option("--map", "map_file", type=FILE, metavar="FILE", help="IMAGE.map, or what prelink --map wrote.")
@_MODULES
@_DEBUG_DIRS
@_SECTIONS
@click.option("--base", metavar="[NAME=]ADDRESS", help="Where the megamodule's text lies.")
def symbolize(
    *,
    map_file: Path | None,
    modules: Path | None,
    debug_dirs: Sequence[Path],
    sections: Path | None,
    base: str | None,
) -> None:
    """Rewrite a trace's addresses: member, function, line.

    Reads an oops, a trace, or text of perf or ftrace on standard input, line by line, so that it can stand in a pipe.
    """
    from megamod.inspect.debug.addresses import load_addresses
    from megamod.inspect.debug.symbolize import Symbolizer

    link_map = find_map(map_file)
    symbolizer = Symbolizer(
        link_map=link_map,
        loaded=load_addresses(link_map, sections=sections, base=base),
        debug=_open_debug_files(link_map, modules=modules, debug_dirs=debug_dirs),
        complain=lambda line: say(f"megamod: {line}", err=True),
    )
    # A log may hold anything: what is not UTF-8 goes through as it is.
    sys.stdin.reconfigure(errors="surrogateescape", newline="\n")  # type: ignore[union-attr]
    sys.stdout.reconfigure(errors="surrogateescape", newline="\n")  # type: ignore[union-attr]
    for line in symbolizer.rewrite(text.removesuffix("\n") for text in sys.stdin):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@click.command()
@click.argument("debugger", type=click.Choice(["gdb", "crash", "drgn"]))
@click.argument("map_file", type=FILE, metavar="MAP")
@_MODULES
@_DEBUG_DIRS
@_SECTIONS
@click.option("--base", metavar="[NAME=]ADDRESS", help="Where the megamodule's text lies: code only.")
@click.option("--member", "members", multiple=True, metavar="NAME", help="Only this member; repeatable.")
@click.option("--init", is_flag=True, help="Init code too, which the kernel frees after its run.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write the script here; default: print it.")
def debug(
    *,
    debugger: Debugger,
    map_file: Path,
    modules: Path | None,
    debug_dirs: Sequence[Path],
    sections: Path | None,
    base: str | None,
    members: Sequence[str],
    init: bool,
    output: Path | None,
) -> None:
    """Write a script for gdb, crash or drgn.

    The script loads each member's own debug file at its place. --sections - reads from a pipe.
    """
    from megamod.common.files import atomic_write
    from megamod.inspect.debug.debuggers import place_members, script
    from megamod.inspect.debug.places import Places, not_loaded

    link_map = find_map(map_file)
    if debugger == "drgn" and sections is None and base is None:
        # drgn finds the sections itself, in a dump too.
        loaded = {name: not_loaded(Places(megamodule)) for name, megamodule in link_map.megamodules.items()}
    else:
        loaded = _addresses(link_map, map_file, sections=sections, base=base)
    files = _open_debug_files(link_map, modules=modules, debug_dirs=debug_dirs)
    placed, without = place_members(link_map, loaded, files, only=frozenset(members), init=init)
    if not placed:
        raise MegamodError(
            f"{link_map.source}: no debug file of {', '.join(without) or 'any member'}",
            hint="the debuginfo package of the kernel brings them; --debug-dir says where they are",
        )
    if without:
        say(f"megamod: no debug file of {', '.join(without)}: left out", err=True)
    text = script(debugger, placed, link_map)
    if output is not None:
        atomic_write(output, text.encode())
    else:
        sys.stdout.write(text)


def _addresses(link_map: LinkMap, map_file: Path, *, sections: Path | None, base: str | None) -> dict[str, Loaded]:
    """What was given, or those of this machine if the map is of its kernel."""
    import platform

    from megamod.inspect.debug.addresses import load_addresses

    if sections is None and base is None:
        if link_map.kernel not in ("", platform.release()):
            raise MegamodError(
                f"{map_file}: of kernel {link_map.kernel}, which does not run here",
                hint="--sections: a copy of /sys/module, or text of `grep -r . /sys/module/NAME/sections`",
            )
        sections = Path("/sys/module")
    return load_addresses(link_map, sections=sections, base=base)


def find_map(path: Path | None) -> LinkMap:
    """The map in *path*, or next to the image *path*; by default that of the running kernel, if a hook has kept it."""
    import platform

    from megamod.build.link_map import read_map

    if path is None:
        path = INSTALLED / f"{platform.release()}.map"
        if not path.is_file():
            raise MegamodError(f"{path}: there is no map of the running kernel", hint="--map IMAGE.map")
    beside = path.with_name(f"{path.name}.map")
    with path.open("rb") as file:
        is_map = file.read(1) in (b"{", b"")
    return read_map(beside if not is_map and beside.is_file() else path)


def _open_debug_files(link_map: LinkMap, *, modules: Path | None, debug_dirs: Sequence[Path]) -> DebugFiles:
    """The debug files below *debug_dirs*, by default /usr/lib/debug; folders that are named must be there."""
    from megamod.inspect.debug.debug_files import STANDARD, DebugFiles, debuginfod_cache

    for folder in (*debug_dirs, *([modules] if modules else [])):
        if not folder.is_dir():
            raise MegamodError(f"{folder}: no such folder", hint="the debuginfo package of the kernel brings it")
    return DebugFiles(
        folders=tuple(debug_dirs) or (STANDARD,),
        modules=modules,
        cache=debuginfod_cache(),
        release=link_map.kernel,
    )
