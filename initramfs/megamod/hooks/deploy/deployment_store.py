"""``megamod deploy``, ``--remove``, ``--status`` on disk: deployments, the pieces that load and renew them, a record.

Only new files are written; var/lib/megamod/deploy.json names each with its digest, and the folders that were made for
them. The pieces are there as long as one kernel has a deployment. What is removed is what the record names; `sh
/usr/lib/megamod/remove` does it without megamod. A deployment is a folder that is never changed, and a link to it.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.hooks.contained import inside
from megamod.hooks.deploy.deployment import FOLDER, VERSIONS, open_kernel
from megamod.hooks.generators.program_trust import trust_list
from megamod.hooks.install_record import InstallRecord, load_record
from megamod.hooks.removal_script import removal_script
from megamod.hooks.transaction import SYSTEM_JOURNAL, Changes, NewFile, apply_changes
from megamod.modules.tree import read_index

_RECORD = "var/lib/megamod/deploy.json"
_CONF = "etc/megamod/deploy.conf"
_TRUST = "etc/megamod/deploy.trust"
_GUARD = f"{FOLDER}/guard"
_REMOVAL = f"{FOLDER}/remove"
_HERE = Path(__file__).parent / "files"

# Path below the root → (file of deploy/, mode).
_PIECES: Mapping[str, tuple[str, int]] = {
    f"{FOLDER}/start": ("start", 0o755),
    f"{FOLDER}/request": ("request", 0o755),
    f"{FOLDER}/gate": ("gate", 0o755),
    f"{FOLDER}/update": ("update", 0o755),
    f"{FOLDER}/forget": ("forget", 0o755),
    _GUARD: ("../../generators/guard", 0o755),
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
    """Write the deployment of *kernel*, in place of the one that it has, and the pieces; all or nothing.

    At each moment the kernel's link names a whole deployment: what it named before or what it names then.
    """
    link = _link(kernel)
    record = read_record(root)
    if any(name.startswith(f"{link}/") for name in record.kernels.get(kernel, {})):
        # The first versions had a folder where the link is now.
        take_away(root, kernel)
        record = read_record(root)
    old = record.kernels.get(kernel, {})
    versions = {name.rsplit("/", 1)[0] for name in files}
    assert len(versions) == 1, "a deployment is one folder"
    files = {**files, link: NewFile(link=str(PurePosixPath(versions.pop()).relative_to(FOLDER)))}
    pieces = _pieces(program, root)
    kernels = {**record.kernels, kernel: {name: _digest(new) for name, new in files.items()}}
    # The link comes after all that it leads to.
    own = {**{name: new for name, new in files.items() if name != link}, **pieces, link: files[link]}
    known = {*record.files, *old}
    for name in own:
        if name not in known and os.path.lexists(inside(root, name, follow=False)):
            raise MegamodError(f"{root / name}: exists and does not belong to megamod", hint="move it away")
    needed = {str(folder) for name in (*own, _RECORD, _REMOVAL) for folder in PurePosixPath(name).parents}
    # The folders of the deployments themselves are known by their files.
    made = {n for n in needed if not n.startswith(f"{VERSIONS}/") and not os.path.lexists(inside(root, n))}
    folders = tuple(sorted({*record.folders, *made}))
    own[_REMOVAL] = _removal([name for each in kernels.values() for name in each], pieces, folders)
    pieces[_REMOVAL] = own[_REMOVAL]
    now = InstallRecord(
        settings={**{name: own for name, own in record.settings.items() if name != kernel}, kernel: settings},
        files={name: _digest(new) for name, new in pieces.items()},
        kernels=kernels,
        folders=folders,
    )
    gone = [name for name in old if name not in files]
    changes = Changes(
        write={**own, _RECORD: NewFile(data=now.to_json())},
        remove=[root / name for name in gone],
        prune=sorted({str(PurePosixPath(name).parent) for name in gone}),
    )
    apply_changes(root, changes, journal=SYSTEM_JOURNAL, durable=True)
    return [f"{root / link}: written", *_not_booted(root)]


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
    places = {name: inside(root, name, follow=False) for name in gone}
    lines = [
        f"{root / name} has changed since; removed anyway"
        for name, digest in gone.items()
        if os.path.lexists(places[name]) and _digest_of(places[name]) != digest
    ]
    # Without its link a deployment is not loaded: that goes first.
    links = {_link(name) for name in record.kernels if name not in left}
    removed = sorted(gone, key=lambda name: name not in links)
    folders = {str(PurePosixPath(name).parent) for name in gone if name.startswith(VERSIONS)}
    settings = {name: own for name, own in record.settings.items() if name in left}
    after = replace(record, settings=settings, kernels=left)
    changes = Changes(
        write={_RECORD: NewFile(data=after.to_json())} if left else {},
        remove=[root / name for name in (*removed, *(() if left else (_RECORD,)))],
        prune=sorted({*folders, *record.folders}, reverse=True),
    )
    apply_changes(root, changes, journal=SYSTEM_JOURNAL, durable=True)
    return [*lines, *(f"{root / FOLDER / name}: removed" for name in record.kernels if name not in left)]


def withdraw(root: Path, kernel: str) -> None:
    """See to it that the deployment of *kernel* is not loaded; needs no space."""
    try:
        take_away(root, kernel)
    except MegamodError:
        inside(root, _link(kernel), follow=False).unlink(missing_ok=True)


def exchanged(root: Path, kernel: str, record: InstallRecord) -> Iterator[str]:
    """The members of the deployment of *kernel* whose files are not those that it was made of."""
    tree = open_kernel(root, kernel)
    for line in _own_lines(root, record, kernel, "digests"):
        digest, _space, name = line.partition(" ")
        module = tree.modules.get(name)
        if module is None or hashlib.sha256(read_module_bytes(module.path)).hexdigest() != digest:
            yield name


def changed(root: Path, record: InstallRecord) -> Iterator[str]:
    """Files of the record that are not as they were written."""
    for name, digest in record.all_files():
        if not os.path.lexists(root / name) or _digest_of(root / name) != digest:
            yield str(root / name)


def _pieces(program: Path, root: Path) -> dict[str, NewFile]:
    conf = f"# Written by `megamod deploy`.\nMEGAMOD={shlex.quote(str(program))}\n"
    trusted = "".join(f"{name}\n" for name in trust_list(program, root=root))
    return {
        **{path: NewFile(data=(_HERE / name).read_bytes(), mode=mode) for path, (name, mode) in _PIECES.items()},
        **{path: NewFile(link=target) for path, target in _LINKS.items()},
        _CONF: NewFile(data=conf.encode()),
        _TRUST: NewFile(data=trusted.encode()),
    }


def _removal(deployed: Iterable[str], pieces: Iterable[str], folders: Iterable[str]) -> NewFile:
    deployed = list(deployed)
    script = removal_script(
        what="all deployments",
        own=_REMOVAL,
        names=[*(name for name in deployed if not name.startswith(VERSIONS)), *deployed, *pieces],
        folders={*folders, *(str(PurePosixPath(name).parent) for name in deployed if name.startswith(VERSIONS))},
        record=_RECORD,
        records=_RECORD,
        settler=_GUARD,
        journal=SYSTEM_JOURNAL,
        left="the modules are loaded one by one from the next boot on",
        more='set -- var/lib/megamod/hooks/*.json\n[ -e "$1" ] || rm -rf var/lib/megamod/maps',
    )
    return NewFile(data=script, mode=0o755)


def _link(kernel: str) -> str:
    return f"{FOLDER}/{kernel}"


def _not_booted(root: Path) -> Iterable[str]:
    if not (root / "lib/systemd/systemd").exists() and not (root / "usr/lib/systemd/systemd").exists():
        yield f"no systemd found: let your init call /{FOLDER}/start KVER before it starts udev"


def _digest(new: NewFile) -> str:
    return f"link {new.link}" if new.link else hashlib.sha256(new.data).hexdigest()


def _digest_of(path: Path) -> str:
    return f"link {path.readlink()}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()


def members_of(root: Path, record: InstallRecord) -> frozenset[str]:
    """The members of all deployments below *root*, withdrawn ones among them."""
    return frozenset(name for kernel in record.kernels for name in _own_lines(root, record, kernel, "members"))


def _own_lines(root: Path, record: InstallRecord, kernel: str, file: str) -> list[str]:
    found = (name for name in record.kernels[kernel] if name.startswith(VERSIONS) and name.endswith(f"/{file}"))
    return [line for name in found for line in read_index(inside(root, name)).splitlines()]
