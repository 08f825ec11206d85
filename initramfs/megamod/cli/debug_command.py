"""What `megamod symbolize` and `megamod debug` do, without click."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from megamod.build.link_map import LinkMap, read_map
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write
from megamod.inspect.debug.addresses import load_addresses
from megamod.inspect.debug.debug_files import STANDARD, DebugFiles, debuginfod_cache
from megamod.inspect.debug.debuggers import Debugger, place_members, script
from megamod.inspect.debug.places import Loaded, Places, not_loaded
from megamod.inspect.debug.symbolize import Symbolizer

INSTALLED = Path("/var/lib/megamod/maps")
"""Where hooks keep the maps of the images that they have changed, as RELEASE.map."""


def symbolize_command(
    *,
    map_file: Path | None,
    modules: Path | None,
    debug_dirs: Sequence[Path],
    sections: Path | None,
    base: str | None,
) -> None:
    """``megamod symbolize``: standard input to standard output, line by line, so that it can stand in a pipe."""
    link_map = find_map(map_file)
    symbolizer = Symbolizer(
        link_map=link_map,
        loaded=load_addresses(link_map, sections=sections, base=base),
        debug=open_debug_files(link_map, modules=modules, debug_dirs=debug_dirs),
        complain=lambda line: print(f"megamod: {line}", file=sys.stderr),
    )
    # A log may hold anything: what is not UTF-8 goes through as it is.
    sys.stdin.reconfigure(errors="surrogateescape", newline="\n")  # type: ignore[union-attr]
    sys.stdout.reconfigure(errors="surrogateescape", newline="\n")  # type: ignore[union-attr]
    for line in symbolizer.rewrite(text.removesuffix("\n") for text in sys.stdin):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def debug_command(
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
    """``megamod debug``: the script on standard output or in *output*; members without a debug file are said."""
    link_map = find_map(map_file)
    if debugger == "drgn" and sections is None and base is None:
        # drgn finds the sections itself, in a dump too.
        loaded = {name: not_loaded(Places(megamodule)) for name, megamodule in link_map.megamodules.items()}
    else:
        loaded = _addresses(link_map, map_file, sections=sections, base=base)
    files = open_debug_files(link_map, modules=modules, debug_dirs=debug_dirs)
    placed, without = place_members(link_map, loaded, files, only=frozenset(members), init=init)
    if not placed:
        raise MegamodError(
            f"{link_map.source}: no debug file of {', '.join(without) or 'any member'}",
            hint="the debuginfo package of the kernel brings them; --debug-dir says where they are",
        )
    if without:
        print(f"megamod: no debug file of {', '.join(without)}: left out", file=sys.stderr)
    text = script(debugger, placed, link_map)
    if output is not None:
        atomic_write(output, text.encode())
    else:
        sys.stdout.write(text)


def _addresses(link_map: LinkMap, map_file: Path, *, sections: Path | None, base: str | None) -> dict[str, Loaded]:
    """What was given, or those of this machine if the map is of its kernel."""
    if sections is None and base is None:
        if link_map.kernel not in ("", platform.release()):
            raise MegamodError(
                f"{map_file}: of kernel {link_map.kernel}, which does not run here",
                hint="--sections: a copy of /sys/module, or text of `grep -r . /sys/module/NAME/sections`",
            )
        sections = Path("/sys/module")
    return load_addresses(link_map, sections=sections, base=base)


def find_map(path: Path | None) -> LinkMap:
    """The map in *path*, or beside the image *path*; by default that of the running kernel, if a hook has kept it."""
    if path is None:
        path = INSTALLED / f"{platform.release()}.map"
        if not path.is_file():
            raise MegamodError(f"{path}: there is no map of the running kernel", hint="--map IMAGE.map")
    beside = path.with_name(f"{path.name}.map")
    with path.open("rb") as file:
        is_map = file.read(1) in (b"{", b"")
    return read_map(beside if not is_map and beside.is_file() else path)


def open_debug_files(link_map: LinkMap, *, modules: Path | None, debug_dirs: Sequence[Path]) -> DebugFiles:
    """The debug files below *debug_dirs*, by default /usr/lib/debug; folders that are named must be there."""
    for folder in (*debug_dirs, *([modules] if modules else [])):
        if not folder.is_dir():
            raise MegamodError(f"{folder}: no such folder", hint="the debuginfo package of the kernel brings it")
    return DebugFiles(
        folders=tuple(debug_dirs) or (STANDARD,),
        modules=modules,
        cache=debuginfod_cache(),
        release=link_map.kernel,
    )
