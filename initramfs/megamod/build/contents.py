"""What goes into the image beside loader, plan and modules: the profile's `files` and the modules' firmware."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from megamod.build.files import ImageFile, collect_files, program_notes, through_links
from megamod.build.firmware import Firmware, collect_firmware, firmware_folder, wanted_early
from megamod.build.manifest import ManifestFile
from megamod.common.text import counted, human_bytes
from megamod.kernel.config import find_config
from megamod.machine.board import Board, read_board
from megamod.prelink.member import Member
from megamod.profile.model import Profile
from megamod.select.select import Selection

_SHOWN = 8
_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """*files* in no path twice; *missing* is the firmware that was not found, name → modules."""

    files: tuple[ImageFile, ...]
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """In a few words, for the step."""
        return f"{counted(len(self.files), 'file')}, {human_bytes(sum(len(file.entry.data) for file in self.files))}"

    def manifest(self) -> tuple[ManifestFile, ...]:
        """The same for the manifest."""
        return tuple(
            ManifestFile(
                path=file.entry.path,
                type=_TYPES[stat.S_IFMT(file.entry.mode)],
                mode=f"{stat.S_IMODE(file.entry.mode):04o}",
                bytes=len(file.entry.data) if stat.S_ISREG(file.entry.mode) else 0,
                reason=file.reason,
            )
            for file in sorted(self.files, key=lambda file: file.entry.path)
        )


def collect_contents(selection: Selection, members: Mapping[str, Member]) -> Contents:
    """All files of the image that the profile asks for; a file of `files` stands before firmware of the same path."""
    profile = selection.profile
    collected = collect_files(profile.files)
    own = collected.files
    firmware, notes = firmware_of(selection, members)
    taken = {file.entry.path for file in own}
    placed = (_below_links(file, own) for file in firmware.files)
    fresh = tuple(file for file in placed if file.entry.path not in taken)
    notes = [*collected.notes, *program_notes(profile.root, own, deferred=len(selection.stages) > 1), *notes]
    return Contents(files=(*own, *fresh), missing=firmware.missing, notes=tuple(notes))


def _below_links(file: ImageFile, own: tuple[ImageFile, ...]) -> ImageFile:
    """A file of the firmware where the links of `files` lead: with a merged /usr lib is one."""
    links = {each.entry.path: os.fsdecode(each.entry.data) for each in own if stat.S_ISLNK(each.entry.mode)}
    return replace(file, entry=replace(file.entry, path=through_links(file.entry.path, links) or file.entry.path))


def firmware_of(selection: Selection, members: Mapping[str, Member]) -> tuple[Firmware, list[str]]:
    """The firmware for the image, and what the user should hear of it."""
    profile, tree = selection.profile, selection.tree
    wanted = wanted_firmware(selection, members)
    board = _board(profile)
    if board is not None and profile.firmware.auto and board.firmware:
        wanted["the device tree"] = board.firmware
    if not wanted and not profile.firmware.patterns:
        return Firmware(), []
    folder = firmware_folder(profile, tree.folder, tree.release)
    if not folder.path.is_dir() and not profile.firmware.patterns:
        count = len({name for names in wanted.values() for name in names})
        hint = "`firmware-dir: FOLDER` or --firmware-dir names a folder, `firmware: none` looks for none"
        # No path of this machine in a note: notes go into the manifest, and images must be the same everywhere.
        return Firmware(), [f"firmware: no lib/firmware beside the modules: {counted(count, 'name')} left out ({hint})"]
    config = find_config(tree.kernel_files)
    firmware = collect_firmware(wanted, profile.firmware.patterns, folder=folder, config=config, board=board)
    names = list(firmware.missing)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    note = f"firmware that was not found: {', '.join(names[:_SHOWN])}{more}"
    return firmware, [note] if names else []


def _board(profile: Profile) -> Board | None:
    if profile.board is None or isinstance(profile.board, tuple):
        return Board(names=profile.board) if profile.board else None
    return read_board(profile.board)


def wanted_firmware(selection: Selection, members: Mapping[str, Member]) -> dict[str, tuple[str, ...]]:
    """Module → the firmware that it names, for the modules that may ask before a real root is there."""
    profile = selection.profile
    if not profile.firmware.auto:
        return {}
    early = (stage for stage in selection.stages if wanted_early(profile, stage.trigger))
    found = ((module.name, members[module.name].infos("firmware")) for stage in early for module in stage.modules)
    return {name: tuple(names) for name, names in found if names}
