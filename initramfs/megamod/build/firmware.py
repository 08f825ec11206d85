"""Firmware for the image: what the modules name (`firmware=` of .modinfo) and what the profile's patterns match.

The kernel looks for NAME in lib/firmware/updates/RELEASE, lib/firmware/updates, lib/firmware/RELEASE and lib/firmware,
as it is, then with .zst, then with .xz (drivers/base/firmware_loader/main.c, fw_path[] and _request_firmware(), 6.1).
A packed file stays packed where the kernel's configuration says that it can read it, else it is unpacked here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath

from megamod.build.files import ImageFile
from megamod.common.compression import decompress, read_regular
from megamod.common.errors import MegamodError, fail
from megamod.common.text import shorten
from megamod.image.cpio import Entry
from megamod.kernel.config import KernelConfig
from megamod.machine.board import Board
from megamod.profile.contents import WILD
from megamod.profile.model import Profile, RootKind, Selector, Trigger, TriggerKind

_PLACE = "lib/firmware"
_PACKED = (".zst", ".xz")
_MAX_FILE = 256 << 20
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class FirmwareFolder:
    """A lib/firmware folder as a kernel of *release* sees it."""

    path: Path
    release: str

    def find(self, name: str) -> Path | None:
        """The file that the kernel would take for *name*."""
        if name.startswith("/") or ".." in name.split("/"):
            return None
        for suffix in ("", *_PACKED):
            for place in self._places:
                found = self.path / place / f"{name}{suffix}"
                if found.is_file():
                    return found
        return None

    def matching(self, pattern: str) -> list[str]:
        """The names, without compression suffix, that *pattern* matches; it takes a folder for all that is in it."""
        parts = pattern.removesuffix("/").split("/")
        return [name for name in self._names if _matches(name.split("/"), parts)]

    @property
    def _places(self) -> tuple[str, ...]:
        return (f"updates/{self.release}", "updates", self.release, "")

    @cached_property
    def _names(self) -> list[str]:
        names: set[str] = set()
        for place in self._places:
            top = self.path / place
            for folder, _folders, files in os.walk(top, followlinks=True):
                below = Path(folder).relative_to(top)
                names.update(_plain((below / name).as_posix()) for name in files)
        return sorted(names)


def _plain(name: str) -> str:
    return name.removesuffix(_suffix(name))


def _suffix(name: str) -> str:
    return next((suffix for suffix in _PACKED if name.endswith(suffix)), "")


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(name) >= len(pattern) and all(fnmatchcase(have, want) for have, want in zip(name, pattern, strict=False))


def firmware_folder(profile: Profile, folder: Path, release: str) -> FirmwareFolder:
    """Where the firmware for the module tree *folder* is looked for: the profile's folder, else that of its root."""
    if profile.firmware_dir is not None:
        return FirmwareFolder(path=Path(profile.firmware_dir), release=release)
    # parents[2] is ROOT of ROOT/lib/modules/RELEASE, ROOT/usr on a merged /usr: both have a lib/firmware there.
    return FirmwareFolder(path=folder.absolute().parents[2] / _PLACE, release=release)


def wanted_early(profile: Profile, trigger: Trigger | None) -> bool:
    """Whether modules of a stage with this trigger (None: critical) may ask for firmware before the real root is there.

    Only `root: {from: cmdline}` has a real root that the loader knows of, and only stages that wait for user space, or
    for something that user space does, come after it for sure.
    """
    if profile.root.kind != RootKind.CMDLINE or trigger is None:
        return True
    return trigger.kind in (TriggerKind.NOW, TriggerKind.DELAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """What was found, and the names that were not: *missing* maps each to the modules that ask for it."""

    files: tuple[ImageFile, ...] = ()
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def collect_firmware(
    wanted: Mapping[str, Iterable[str]],
    patterns: Sequence[Selector],
    *,
    folder: FirmwareFolder,
    config: KernelConfig | None,
    board: Board | None = None,
) -> Firmware:
    """The entries for *wanted* (module → names, which may be patterns) and for the profile's *patterns*.

    A module's pattern may match files for many boards: with *board* only those that it takes.

    Raises a located MegamodError for a pattern of the profile that matches nothing and is not optional.
    """
    reasons: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for module, names in sorted(wanted.items()):
        for name in names:
            if WILD.search(name):
                found = [each for each in folder.matching(name) if board is None or board.takes(each)]
            else:
                found = [name] if folder.find(name) else []
            for each in found:
                reasons.setdefault(each, []).append(module)
            if not found:
                missing.setdefault(name, []).append(module)
    for selector in patterns:
        found = folder.matching(selector.text.removeprefix("?"))
        if not found and not selector.text.startswith("?"):
            hint = "write `?` before it if it may be missing; `firmware-dir` names another folder"
            raise fail(selector.location, f"firmware: no {shorten(selector.text)} below {folder.path}", hint)
        for each in found:
            reasons.setdefault(each, [])
    entries: dict[str, ImageFile] = {}
    for name, modules in sorted(reasons.items()):
        path = folder.find(name)
        if path is not None:
            for entry in _entries(path, folder, config):
                entries.setdefault(entry.path, ImageFile(entry=entry, reason=_reason(modules)))
    return Firmware(
        files=tuple(entries[path] for path in sorted(entries)),
        missing={name: tuple(modules) for name, modules in sorted(missing.items())},
    )


def _reason(modules: Sequence[str]) -> str:
    if not modules:
        return "firmware"
    unique = sorted(set(modules))
    more = f" and {len(unique) - _SHOWN} more" if len(unique) > _SHOWN else ""
    return f"firmware of {', '.join(unique[:_SHOWN])}{more}"


def _entries(path: Path, folder: FirmwareFolder, config: KernelConfig | None) -> Iterator[Entry]:
    """The file at *path*, or a link and the file that it leads to where that lies in the same folder."""
    keep = can_read(config, _suffix(path.name))
    try:
        top, real = folder.path.resolve(strict=True), path.resolve(strict=True)
        place = path.relative_to(folder.path)
        inside = real.relative_to(top) if real.is_relative_to(top) else None
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror or error}") from None
    data = read_regular(real, limit=_MAX_FILE)
    if not keep:
        data = decompress(data, limit=_MAX_FILE, source=str(path))
    regular = stat.S_IFREG | 0o644
    if inside is None or inside == place or _suffix(inside.name) != _suffix(place.name):
        yield Entry(path=_in_image(place, keep), mode=regular, data=data)
        return
    yield Entry(path=_in_image(inside, keep), mode=regular, data=data)
    link, target = _in_image(place, keep), _in_image(inside, keep)
    relative = os.path.relpath(target, PurePosixPath(link).parent)
    yield Entry(path=link, mode=stat.S_IFLNK | 0o777, data=os.fsencode(relative))


def _in_image(place: Path, keep: bool) -> str:
    name = place.as_posix()
    return f"{_PLACE}/{name if keep else _plain(name)}"


def can_read(config: KernelConfig | None, suffix: str) -> bool:
    """Whether the kernel reads firmware files with this compression suffix; what is not known, it does not."""
    if not suffix:
        return True
    if config is None:
        return False
    if suffix == ".zst":
        return config.enabled("FW_LOADER_COMPRESS_ZSTD")
    # Before 5.19 CONFIG_FW_LOADER_COMPRESS stood for xz alone (drivers/base/firmware_loader/Kconfig).
    split = "CONFIG_FW_LOADER_COMPRESS_XZ" in config.values or "CONFIG_FW_LOADER_COMPRESS_ZSTD" in config.values
    return config.enabled("FW_LOADER_COMPRESS_XZ") or (not split and config.enabled("FW_LOADER_COMPRESS"))
