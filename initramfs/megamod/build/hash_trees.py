"""`verity: {from: FILE}` of a root: what `veritysetup format` has printed, read for each slot."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.profile.model import Profile
from megamod.profile.root_layers import FROM_CMDLINE, SAME_DEVICE, SLOT, Verity

_MOST_SLOTS = 4
"""How many the loader takes (loader/plan.h)."""

# The lines of veritysetup (src/veritysetup.c, _print_verity_info and action_format, cryptsetup 2.7).
_NUMBERS = {"Data blocks": "data_blocks", "Data block size": "data_block_size", "Hash block size": "hash_block_size"}
_HEXADECIMAL = re.compile(r"([0-9a-f]{2})+")


def with_hash_trees(profile: Profile) -> Profile:
    """*profile* with the tables that its root takes from files; raises MegamodError naming the file."""
    verity = profile.root.verity
    if verity is None or verity.source in (None, FROM_CMDLINE):
        return profile
    source = str(verity.source)
    if SLOT not in source:
        read = read_hash_tree(Path(source), verity)
        return replace(profile, root=replace(profile.root, verity=read))
    found = _slots(source)
    if not found:
        raise MegamodError(f"{source}: no such file for any slot", hint=f"{SLOT} stands for the slot's name")
    if len(found) > _MOST_SLOTS:
        raise MegamodError(f"{source}: {len(found)} slots, the loader takes {_MOST_SLOTS}")
    tables = tuple((slot, read_hash_tree(path, verity)) for slot, path in found)
    return replace(profile, root=replace(profile.root, slot_verity=tables))


def _slots(source: str) -> list[tuple[str, Path]]:
    folder, _slash, name = source.rpartition("/")
    if SLOT in folder:
        raise MegamodError(f"{source}: {SLOT} may stand in the file's name only")
    before, _slot, after = name.partition(SLOT)
    try:
        names = sorted(entry.name for entry in Path(folder or ".").iterdir())
    except OSError as error:
        raise MegamodError(f"{folder}: {error.strerror}") from None
    pattern = re.compile(rf"{re.escape(before)}([A-Za-z0-9.-]+){re.escape(after)}")
    return [(match.group(1), Path(folder, each)) for each in names if (match := pattern.fullmatch(each))]


def read_hash_tree(path: Path, verity: Verity) -> Verity:
    """*verity* with root hash, salt, sizes and algorithm as veritysetup has printed them into the file *path*."""
    text = read_file(path).decode("utf-8", "replace")
    said = {key.strip(): value.strip() for key, value in re.findall(r"^([^:\n]+):[ \t]*(.+)$", text, re.MULTILINE)}
    values: dict[str, Any] = {}
    for key, field in _NUMBERS.items():
        if not re.fullmatch(r"[0-9]{1,15}", said.get(key, "")):
            raise _broken(path, key)
        values[field] = int(said[key])
    for key, field in (("Root hash", "root_hash"), ("Salt", "salt")):
        value = said.get(key, "").lower()
        if not _HEXADECIMAL.fullmatch(value) and not (field == "salt" and value == "-"):
            raise _broken(path, key)
        values[field] = value
    if not re.fullmatch(r"[a-z0-9_-]+", said.get("Hash algorithm", "")):
        raise _broken(path, "Hash algorithm")
    if verity.hash_device == SAME_DEVICE and verity.hash_start < 2:
        raise MegamodError(
            f"{path}: the hashes are on the same device, and hash-start is missing",
            hint="the hash offset in hash blocks, plus one for veritysetup's superblock",
        )
    return replace(verity, source=None, algorithm=said["Hash algorithm"], **values)


def _broken(path: Path, key: str) -> MegamodError:
    return MegamodError(
        f"{path}: no line `{key}: …` that fits", hint="it must be what `veritysetup format` has printed"
    )
