"""The record of an installation on a system: which files megamod has written there, so that exactly those are removed.

One form for the hooks (var/lib/megamod/hooks/GENERATOR.json) and for deployments (var/lib/megamod/deploy.json). Its
schema is initramfs/docs/schemas/install-record.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from megamod.common.documents import check_version, document_bytes, parse_json, typed
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write

Entry = Literal["rdinit", "hook-points"]
"""How an image's megamodule is started: by rdinit= on the kernel command line, or from the generator's own scripts."""

_HINT = "the record says what to remove; restore it from a backup, or remove the files by hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRecord:
    """What was written below a root. All paths are relative to the root; a digest is the SHA-256 of the file in hex, or
    ``link TARGET`` for a symbolic link.

    *files* are the files themselves by path, *kernels* those that belong to one kernel each: release → path → digest.
    *folders* were made for them and go when they are empty. *entry* and *command_line* (the files that put the loader
    on the kernel command line) are those of a hook, as are *edited* files of the administrator's, which have a word of
    ours as long as it is installed; *settings* are each kernel's of `megamod deploy`, the latest last.
    """

    version: Literal[1] = 1
    entry: Entry | None = None
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    command_line: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    kernels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()

    def settings_of(self, kernel: str) -> Mapping[str, str]:
        """The settings of *kernel*; those of the latest command for a kernel that is new."""
        latest = list(self.settings.values())[-1:] or [{}]
        return self.settings.get(kernel, latest[0])

    def all_files(self) -> Iterator[tuple[str, str]]:
        """Path and digest of every file, those of the kernels last."""
        yield from self.files.items()
        for files in self.kernels.values():
            yield from files.items()

    def to_json(self) -> bytes:
        """The bytes of the file."""
        return document_bytes(self)


def load_record(path: Path) -> InstallRecord | None:
    """The record in *path*, None if there is none.

    Raises MegamodError with file and place for a damaged one, for one of another version, and for one that names a path
    outside the root: what it names is removed, by root.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MegamodError(f"{path}: cannot be read: {error.strerror or error}", hint=_HINT) from None
    value = parse_json(data, source=str(path), hint=_HINT)
    check_version(value, InstallRecord, source=str(path), hint=_HINT)
    if isinstance(settings := value.get("settings"), dict):
        # The first records of deployments had one list of settings for all kernels; what they installed must go, too.
        value["settings"] = {kernel: own for kernel, own in settings.items() if not isinstance(own, str)}
    record = typed(value, InstallRecord, source=str(path), hint=_HINT)
    for name in [
        *(name for name, _digest in record.all_files()),
        *record.command_line,
        *record.edited,
        *record.folders,
    ]:
        if not _is_inside(name):
            raise MegamodError(f"{path}: `{name}` is not a path below the root of the system", hint=_HINT)
    return record


def save_record(path: Path, record: InstallRecord) -> None:
    """Write *record* to *path*, whole or not at all."""
    atomic_write(path, record.to_json())


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in name
