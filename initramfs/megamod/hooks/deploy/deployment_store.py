"""``megamod deploy``, ``--remove``, ``--status`` on disk: deployments, the pieces that load and renew them, a record.

Only new files are written; var/lib/megamod/deploy.json names each with its digest, and the folders that were made for
them. The pieces are there as long as one kernel has a deployment. What is removed is what the record names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.hooks.deploy.deployment import FOLDER
from megamod.hooks.transaction import Changes, NewFile, apply_changes
from megamod.modules.tree import read_index

_RECORD = "var/lib/megamod/deploy.json"
_CONF = "etc/megamod/deploy.conf"
_HERE = Path(__file__).parent / "files"

# Path below the root → (file of deploy/, mode).
_PIECES: Mapping[str, tuple[str, int]] = {
    f"{FOLDER}/start": ("start", 0o755),
    f"{FOLDER}/request": ("request", 0o755),
    f"{FOLDER}/gate": ("gate", 0o755),
    f"{FOLDER}/update": ("update", 0o755),
    f"{FOLDER}/forget": ("forget", 0o755),
    "etc/systemd/system/megamod-deploy.service": ("megamod-deploy.service", 0o644),
    "etc/systemd/system/megamod-deploy-update.service": ("megamod-deploy-update.service", 0o644),
    "etc/systemd/system/megamod-deploy-update.path": ("megamod-deploy-update.path", 0o644),
    "etc/kernel/postinst.d/zzz-megamod": ("kernel-postinst", 0o755),
    "etc/kernel/postrm.d/zzz-megamod": ("kernel-postrm", 0o755),
    "etc/kernel/install.d/99-megamod.install": ("kernel-install", 0o755),
    "etc/initramfs/post-update.d/megamod": ("initramfs-post-update", 0o755),
}
_LINKS = {
    "etc/systemd/system/sysinit.target.wants/megamod-deploy.service": "../megamod-deploy.service",
    "etc/systemd/system/paths.target.wants/megamod-deploy-update.path": "../megamod-deploy-update.path",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is deployed below a root. *settings* are each kernel's of the command, for making it anew, the latest last;
    *files* the pieces, and
    *kernels* each kernel's files, as path → digest; *folders* what was made for any of them."""

    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()

    def settings_of(self, kernel: str) -> Mapping[str, str]:
        """The settings of *kernel*; those of the latest command for a kernel that is new."""
        latest = list(self.settings.values())[-1:] or [{}]
        return self.settings.get(kernel, latest[0])


def read_record(root: Path) -> Record:
    """The record below *root*, empty if there is none; raises MegamodError for one that cannot be read."""
    path = root / _RECORD
    try:
        found = json.loads(path.read_text())
        if found.pop("version") != 1:
            raise MegamodError(f"{path}: is not of this version of megamod")
        settings = {name: own for name, own in found["settings"].items() if isinstance(own, dict)}
        return Record(**{**found, "settings": settings, "folders": tuple(found["folders"])})
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MegamodError(f"{path}: cannot be read: {error}", hint="the file says what to remove") from None


def put(root: Path, kernel: str, files: Mapping[str, NewFile], settings: Mapping[str, str], program: Path) -> list[str]:
    """Write the deployment of *kernel*, in place of the one that it has, and the pieces; all or nothing."""
    record = read_record(root)
    old = record.kernels.get(kernel, {})
    own = {**_pieces(program), **files}
    known = {*record.files, *old}
    for name in own:
        if name not in known and os.path.lexists(root / name):
            raise MegamodError(f"{root / name}: is there already, and not of megamod", hint="move it away")
    made = {str(folder.relative_to(root)) for name in (*own, _RECORD) for folder in _missing(root, root / name)}
    now = Record(
        settings={**{name: own for name, own in record.settings.items() if name != kernel}, kernel: settings},
        files={name: _digest(new) for name, new in own.items() if name not in files},
        kernels={**record.kernels, kernel: {name: _digest(new) for name, new in files.items()}},
        folders=tuple(sorted({*record.folders, *made})),
    )
    gone = [root / name for name in old if name not in files and os.path.lexists(root / name)]
    apply_changes(root, Changes(write={**own, _RECORD: _record_file(now)}, remove=gone))
    return [f"{root / FOLDER / kernel}: written", *_not_booted(root)]


def take_away(root: Path, kernel: str | None) -> list[str]:
    """Remove the deployment of *kernel*, or of all (None); the pieces go with the last one."""
    record = read_record(root)
    if not record.kernels or (kernel is not None and kernel not in record.kernels):
        raise MegamodError(f"{kernel or 'no kernel'}: nothing is deployed" if kernel else "nothing is deployed")
    left = {name: files for name, files in record.kernels.items() if kernel is not None and name != kernel}
    gone = {
        path: digest for name, files in record.kernels.items() if name not in left for path, digest in files.items()
    }
    if not left:
        gone |= record.files
    lines = [
        f"{root / name} was changed since; it is removed all the same"
        for name, digest in gone.items()
        if os.path.lexists(root / name) and _digest_of(root / name) != digest
    ]
    removed = [root / name for name in gone if os.path.lexists(root / name)]
    settings = {name: own for name, own in record.settings.items() if name in left}
    after = Record(settings=settings, files=record.files, kernels=left, folders=record.folders)
    write = {_RECORD: _record_file(after)} if left else {}
    apply_changes(root, Changes(write=write, remove=[*removed, *([] if left else [root / _RECORD])]))
    for name in sorted(record.folders, reverse=True):
        with contextlib.suppress(OSError):
            (root / name).rmdir()
    return [*lines, *(f"{root / FOLDER / name}: removed" for name in record.kernels if name not in left)]


def changed(root: Path, record: Record) -> Iterator[str]:
    """Files of the record that are not as they were written."""
    for name, digest in [*record.files.items(), *(i for files in record.kernels.values() for i in files.items())]:
        if not os.path.lexists(root / name) or _digest_of(root / name) != digest:
            yield str(root / name)


def _pieces(program: Path) -> dict[str, NewFile]:
    conf = f"# Written by `megamod deploy`.\nMEGAMOD={shlex.quote(str(program))}\n"
    return {
        **{path: NewFile(data=(_HERE / name).read_bytes(), mode=mode) for path, (name, mode) in _PIECES.items()},
        **{path: NewFile(link=target) for path, target in _LINKS.items()},
        _CONF: NewFile(data=conf.encode()),
    }


def _not_booted(root: Path) -> Iterable[str]:
    if not (root / "lib/systemd/systemd").exists() and not (root / "usr/lib/systemd/systemd").exists():
        yield f"there is no systemd: have your init call /{FOLDER}/start KVER before it starts udev"


def _record_file(record: Record) -> NewFile:
    text = {
        "version": 1,
        "settings": dict(record.settings),
        "files": dict(record.files),
        "kernels": {name: dict(files) for name, files in record.kernels.items()},
        "folders": list(record.folders),
    }
    return NewFile(data=json.dumps(text, indent=1).encode() + b"\n")


def _missing(root: Path, path: Path) -> Iterator[Path]:
    folder = path.parent
    while folder != root and not os.path.lexists(folder):
        yield folder
        folder = folder.parent


def _digest(new: NewFile) -> str:
    return f"link {new.link}" if new.link else hashlib.sha256(new.data).hexdigest()


def _digest_of(path: Path) -> str:
    return f"link {path.readlink()}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()


def members_of(root: Path, record: Record) -> frozenset[str]:
    """The members of all deployments below *root*."""
    lists = [root / FOLDER / kernel / "members" for kernel in record.kernels]
    return frozenset(name for path in lists for name in read_index(path).split())
