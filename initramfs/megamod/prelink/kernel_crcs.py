"""CRCs for the glue's own imports, from any module of the same kernel that imports them too.

A kernel with CONFIG_MODVERSIONS wants a version entry for every import, and the members need not import what the glue
does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.prelink.glue import IMPORTS_RESULTS, IMPORTS_RESUME, IMPORTS_TIMES
from megamod.prelink.member import Member
from megamod.prelink.read import read_member

# About every seventh Debian module imports the rarest of them; after so many the tree is taken to have none.
_PATIENCE = 400
# A few of some thousand modules import what a resume needs: these do since 4.2 and are built by most distributions.
_HOLDERS = ("vt8623fb", "s3fb", "arkfb", "ueagle_atm", "myri10ge", "libertas_tf_usb", "mac80211", "i915")


def find_glue_crcs(members: Sequence[Member], others: Iterable[Path]) -> dict[str, int]:
    """name → CRC of the glue's imports that *members* lack, looked up in the module files *others*, in that order."""
    if not any(member.has_versions for member in members):
        return {}
    common, rare = {*IMPORTS_RESULTS, *IMPORTS_TIMES}, set(IMPORTS_RESUME)
    for member in members:
        common -= member.versions.keys()
        rare -= member.versions.keys()
    if len(members) < 2:
        rare.clear()
    if not common and not rare:
        return {}  # asking for the first of the others may mean a walk through a whole tree
    paths = list(others)
    holders = [path for path in paths if _module_name(path) in _HOLDERS]
    holders.sort(key=lambda path: _HOLDERS.index(_module_name(path)))
    vermagic = members[0].info("vermagic") or ""
    found = _look_for(common | rare, holders, vermagic) if rare else {}
    common -= found.keys()
    return found | (_look_for(common, itertools.islice(paths, _PATIENCE), vermagic) if common else {})


def _look_for(missing: set[str], files: Iterable[Path], vermagic: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in files:
        if not missing:
            break
        try:
            other = read_member(read_module_bytes(path), file=path.name)
        except MegamodError:
            continue  # not ours to report: nobody asked for this module
        if other.info("vermagic") != vermagic:
            continue
        found |= {name: other.versions[name] for name in missing & other.versions.keys()}
        missing = missing - found.keys()
    return found


def _module_name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def imported_anywhere(members: Sequence[Member], others: Iterable[Path]) -> frozenset[str]:
    """What the kernel is known to export where nothing else says so: the imports of *members*, and those of the glue
    that any of the module files *others* has, too (TRIM_UNUSED_KSYMS leaves no others)."""
    known = {name for member in members for name in member.imports.values()}
    paths = list(others)
    holders = (path for path in paths if _module_name(path) in _HOLDERS)
    wanted: list[tuple[set[str], Iterable[Path]]] = [
        ({*IMPORTS_RESULTS, *IMPORTS_TIMES} - known, itertools.islice(paths, _PATIENCE)),
        (set(IMPORTS_RESUME) - known if len(members) > 1 else set(), holders),
    ]
    for missing, files in wanted:
        for path in files:
            if not missing:
                break
            try:
                other = read_member(read_module_bytes(path), file=path.name, lenient=True)
            except MegamodError:
                continue
            known |= missing & set(other.imports.values())
            missing -= known
    return frozenset(known)


def neighbours(file: Path) -> Iterator[Path]:
    """Other module files of the tree that *file* lies in, sorted: below its lib/modules/KVER, or in its own folder.

    Not below that: it may be /tmp or somebody's home. Nothing is looked at before the first is asked for.
    """
    try:
        file = file.resolve()
        root = next((parent for parent in file.parents if parent.parent.name == "modules"), None)
        found = root.rglob("*.ko*") if root else file.parent.glob("*.ko*")
        yield from sorted(path for path in found if path.is_file() and path != file)
    except OSError:
        return  # donors are a bonus
