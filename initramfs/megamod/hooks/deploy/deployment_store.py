"""``megamod deploy``, ``--remove``, ``--status`` on disk: deployments, the pieces that load and renew them, a record.

Only new files are written; var/lib/megamod/deploy.json names each with its digest, and the folders that were made for
them. The pieces are there as long as one kernel has a deployment. What is removed is what the record names.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.hooks.deploy.deployment import FOLDER
from megamod.hooks.install_record import InstallRecord, load_record
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


def read_record(root: Path) -> InstallRecord:
    """The record below *root*, empty if there is none; raises MegamodError for one that cannot be read."""
    return load_record(root / _RECORD) or InstallRecord()


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
    now = InstallRecord(
        settings={**{name: own for name, own in record.settings.items() if name != kernel}, kernel: settings},
        files={name: _digest(new) for name, new in own.items() if name not in files},
        kernels={**record.kernels, kernel: {name: _digest(new) for name, new in files.items()}},
        folders=tuple(sorted({*record.folders, *made})),
    )
    gone = [root / name for name in old if name not in files and os.path.lexists(root / name)]
    apply_changes(root, Changes(write={**own, _RECORD: NewFile(data=now.to_json())}, remove=gone))
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
    after = replace(record, settings=settings, kernels=left)
    write = {_RECORD: NewFile(data=after.to_json())} if left else {}
    apply_changes(root, Changes(write=write, remove=[*removed, *([] if left else [root / _RECORD])]))
    for name in sorted(record.folders, reverse=True):
        with contextlib.suppress(OSError):
            (root / name).rmdir()
    return [*lines, *(f"{root / FOLDER / name}: removed" for name in record.kernels if name not in left)]


def changed(root: Path, record: InstallRecord) -> Iterator[str]:
    """Files of the record that are not as they were written."""
    for name, digest in record.all_files():
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


def _missing(root: Path, path: Path) -> Iterator[Path]:
    folder = path.parent
    while folder != root and not os.path.lexists(folder):
        yield folder
        folder = folder.parent


def _digest(new: NewFile) -> str:
    return f"link {new.link}" if new.link else hashlib.sha256(new.data).hexdigest()


def _digest_of(path: Path) -> str:
    return f"link {path.readlink()}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()


def members_of(root: Path, record: InstallRecord) -> frozenset[str]:
    """The members of all deployments below *root*."""
    lists = [root / FOLDER / kernel / "members" for kernel in record.kernels]
    return frozenset(name for path in lists for name in read_index(path).split())
