"""CRCs for the glue's own imports, from any module of the same kernel that imports them too.

A kernel with CONFIG_MODVERSIONS wants a version entry for every import, and the members need not import what the glue
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.prelink.glue import IMPORTS_RESULTS, IMPORTS_TIMES
from megamod.prelink.member import Member
from megamod.prelink.read import read_member

# About every seventh Debian module imports the rarest of them; after so many the tree is taken to have none.
_PATIENCE = 400


def find_glue_crcs(members: Sequence[Member], others: Iterable[Path]) -> dict[str, int]:
    """name → CRC of the glue's imports that *members* lack, looked up in the module files *others*, in that order."""
    if not any(member.has_versions for member in members):
        return {}
    missing = {*IMPORTS_RESULTS, *IMPORTS_TIMES}
    for member in members:
        missing -= member.versions.keys()
    if not missing:
        return {}  # asking for the first of the others may mean a walk through a whole tree
    found: dict[str, int] = {}
    vermagic = members[0].info("vermagic")
    for tried, path in enumerate(others):
        if not missing or tried >= _PATIENCE:
            break
        try:
            other = read_member(read_module_bytes(path), file=path.name)
        except MegamodError:
            continue  # not ours to report: nobody asked for this module
        if other.info("vermagic") != vermagic:
            continue
        found |= {name: other.versions[name] for name in missing & other.versions.keys()}
        missing -= found.keys()
    return found


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
