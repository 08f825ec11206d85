"""`megamod install`: an image of this machine as what it boots next, the generator's as the second entry.

What a boot needs is written first and named last, in one transaction: up to its one rename the machine boots as before.
An image that has not started the machine yet is on trial (boot_files.py); with the next one, or by hand, the machine
starts what has. var/lib/megamod/install.json names all that was written, and `--remove` takes exactly that away.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from megamod.build.recipe import build_image
from megamod.common.errors import Location, MegamodError
from megamod.common.files import read_file
from megamod.common.host import run_program
from megamod.common.progress import Steps
from megamod.common.text import human_bytes
from megamod.common.trust import require_trusted
from megamod.hooks.contained import inside
from megamod.hooks.install_record import InstallRecord, load_record
from megamod.hooks.installer.boot_files import (
    BootFiles,
    OwnImage,
    boot_files,
    forgotten_files,
    grub_is_given_back,
)
from megamod.hooks.installer.boot_layout import BootLayout, Layout, find_layout, mkconfig
from megamod.hooks.installer.pieces import GUARD, PROFILE, REMOVAL, pieces
from megamod.hooks.removal_script import removal_script
from megamod.hooks.transaction import SYSTEM_JOURNAL, Changes, NewFile, apply_changes
from megamod.image.signing.sign import Signer
from megamod.image.uki import SecureBootKey
from megamod.modules.tree import open_tree
from megamod.profile.model import Profile
from megamod.profile.schema import load_profile
from megamod.profile.signing import Sign

RECORD = "var/lib/megamod/install.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """What is to be installed below *root*: an image of *kernel* by the profile in *profile*.

    *profile_text* is written to /etc/megamod/profile.yaml, where *profile* then is. *program* is what the scripts call.
    """

    root: Path
    kernel: str
    layout: BootLayout
    profile: Path
    profile_text: str | None
    program: Path


def read_install(root: Path) -> InstallRecord:
    """The record below *root*, empty if nothing is installed; raises MegamodError for one that cannot be read."""
    return load_record(root / RECORD) or InstallRecord()


def layout_of(root: Path, record: InstallRecord) -> BootLayout:
    """The layout that was installed."""
    kinds: Mapping[str, Layout] = {"grub": "grub", "bls": "bls", "uki": "uki"}
    settings = record.settings_of("")
    return find_layout(root, kinds.get(settings.get("layout", "")))


def planned(request: InstallRequest) -> list[str]:
    """What `install` will do, in words."""
    layout = request.layout
    how = {
        "grub": f"/boot/megamod/{request.kernel}-….img, an entry in GRUB's menu (/etc/grub.d/45_megamod)",
        "bls": f"a boot entry of systemd-boot with an image of its own, in /{layout.folder}",
        "uki": f"an EFI program of its own, in /{layout.folder}/EFI/Linux",
    }[layout.kind]
    tried = (
        "the next boot tries it; if that does not reach user space, the previous entry is started again"
        if layout.counts
        else f"choose it in the menu to start it; boots are not counted: {layout.why_not}"
    )
    profile = f"/{PROFILE}, written for this machine" if request.profile_text is not None else str(request.profile)
    return [
        f"kernel {request.kernel}, profile {profile}",
        f"writes {how}",
        tried,
        "the generator's image stays, as an entry of its own; updates of kernels renew both",
    ]


def own_image(root: Path, kernel: str, profile: Profile, *, steps: Steps) -> tuple[OwnImage, bytes]:
    """Build the image of *kernel* by *profile*; and its map. Signed where the kernel takes only signed modules."""
    tree = open_tree(kernel, release_folders=(root / "lib/modules", root / "usr/lib/modules"))
    if profile.sign is None and (signer := Signer.for_machine(tree, host=root)) is not None:
        profile = replace(profile, sign=_signing(signer, profile))
    with tempfile.TemporaryDirectory(prefix="megamod-install-") as folder:
        output, link_map = Path(folder) / f"{kernel}.img", Path(folder) / "map"
        # A UKI is made with the machine's command line; the profile's would be another machine's.
        build_image(replace(profile, output=None), tree, output, steps=steps, map_file=link_map)
        return OwnImage(kernel=kernel, data=read_file(output)), read_file(link_map)


def install(request: InstallRequest, *, steps: Steps) -> list[str]:
    """Do it; returns lines that tell what was done. Doing it twice is the same as once."""
    root = request.root
    profile = _profile(request)
    image, link_map = own_image(root, request.kernel, profile, steps=steps)
    files = boot_files(root, request.layout, image, secure_boot=_secure_boot(profile))
    own = pieces(root, request.layout, request.program)
    if request.profile_text is not None:
        own[PROFILE] = NewFile(data=request.profile_text.encode())
    maps = {f"var/lib/megamod/images/{request.kernel}.map": NewFile(data=link_map)}
    inside_root = request.profile.resolve().is_relative_to(root.resolve())
    path = request.profile.resolve().relative_to(root.resolve()) if inside_root else request.profile
    settings = {"layout": request.layout.kind, "profile": f"/{path}" if inside_root else str(path)}
    _write(root, request.layout, request.kernel, files, own, maps, settings)
    return [f"{files.entry}: {human_bytes(len(image.data))}"]


def forget(root: Path, kernel: str) -> list[str]:
    """Take the image of *kernel* away; nothing if there is none."""
    record = read_install(root)
    if kernel not in record.kernels:
        return []
    files = forgotten_files(root, layout_of(root, record), kernel)
    kernels = {name: own for name, own in record.kernels.items() if name != kernel}
    settings = {name: own for name, own in record.settings.items() if name != kernel}
    now = replace(record, kernels=kernels, settings=settings or record.settings)
    gone = [name for name in (*files.remove, *record.kernels[kernel]) if os.path.lexists(root / name)]
    changes = Changes(
        write={**files.write, RECORD: NewFile(data=now.to_json())},
        remove=[root / name for name in dict.fromkeys(gone) if name not in files.write],
        prune=sorted({str(PurePosixPath(name).parent) for name in gone}, reverse=True),
    )
    apply_changes(root, changes, journal=SYSTEM_JOURNAL, durable=True)
    return [f"{root / name}: removed" for name in gone]


def withdraw(root: Path, kernel: str) -> None:
    """See to it that the image of *kernel* is not started; needs no space."""
    try:
        forget(root, kernel)
    except (MegamodError, OSError):
        files = forgotten_files(root, layout_of(root, read_install(root)), kernel)
        for name in files.remove:
            inside(root, name, follow=False).unlink(missing_ok=True)


def remove(root: Path) -> list[str]:
    """Take everything away that `install` has written below *root*; a profile that was edited since stays."""
    record = load_record(root / RECORD)
    if record is None:
        raise MegamodError("megamod install: nothing is installed")
    layout = layout_of(root, record)
    files = [forgotten_files(root, layout, kernel) for kernel in record.kernels]
    write = dict(grub_is_given_back(root, layout)) if layout.kind == "grub" else {}
    names = dict.fromkeys([*(name for each in files for name in each.remove), *(n for n, _d in record.all_files())])
    if layout.kind == "grub" and record.kernels:
        names["boot/megamod/entries"] = None
    lines, gone = [], []
    for name in names:
        path = inside(root, name, follow=False)
        if not os.path.lexists(path) or name in write:
            continue
        if name == PROFILE and _digest_of(path) != record.files.get(name):
            lines.append(f"{root / name}: stays, as it was edited")
            continue
        gone.append(name)
    changes = Changes(
        write=write,
        remove=[root / name for name in (*gone, RECORD)],
        prune=sorted({*record.folders, *(str(PurePosixPath(name).parent) for name in gone)}, reverse=True),
    )
    apply_changes(root, changes, journal=SYSTEM_JOURNAL, durable=True)
    return [*lines, *(f"{root / name}: removed" for name in gone)]


def renew_menu(root: Path, layout: BootLayout) -> str:
    """Have GRUB's menu made again where this is the running system; else what is left to do."""
    program = mkconfig(root)
    if layout.kind != "grub" or program is None:
        return ""
    if root != Path("/"):
        return f"then, in {root}: {program} -o /{layout.folder}/grub.cfg"
    run_program([program, "-o", f"/{layout.folder}/grub.cfg"])
    return f"/{layout.folder}/grub.cfg: made again"


def changed(root: Path, record: InstallRecord) -> list[str]:
    """Files of the record that are not as they were written; entries that systemd-boot has renamed are."""
    return [
        str(root / name)
        for name, digest in record.files.items()
        if not os.path.lexists(root / name) or _digest_of(root / name) != digest
    ]


def _write(
    root: Path,
    layout: BootLayout,
    kernel: str,
    files: BootFiles,
    own: Mapping[str, NewFile],
    maps: Mapping[str, NewFile],
    settings: Mapping[str, str],
) -> None:
    record = read_install(root)
    known = {*record.files, *(name for each in record.kernels.values() for name in each)}
    for name in own:
        if name not in known and os.path.lexists(inside(root, name, follow=False)):
            raise MegamodError(f"{root / name}: exists and does not belong to megamod", hint="move it away")
    # GRUB's own file is changed, and not ours.
    ours = {name: new for name, new in files.write.items() if not name.endswith("/grubenv")}
    kernels = {**record.kernels, kernel: {name: _digest(new) for name, new in {**ours, **maps}.items()}}
    # An image that is there as it was is not written once more: what it lies on may be small and slow.
    fresh = {name: new for name, new in files.write.items() if not _is_there(root, name, new)}
    everything = {**own, **maps, **fresh}
    needed = {str(folder) for name in (*everything, RECORD, REMOVAL) for folder in PurePosixPath(name).parents}
    made = {name for name in needed if not os.path.lexists(inside(root, name))}
    folders = tuple(sorted({*record.folders, *made}))
    pieces_now = {name: _digest(new) for name, new in own.items()}
    if PROFILE in record.files and PROFILE not in own:
        pieces_now[PROFILE] = record.files[PROFILE]
    names = [name for each in kernels.values() for name in each]
    removal = _removal(layout, [*names, *pieces_now], folders)
    pieces_now[REMOVAL] = _digest(removal)
    now = InstallRecord(
        settings={**{name: each for name, each in record.settings.items() if name != kernel}, kernel: settings},
        files=pieces_now,
        kernels=kernels,
        folders=folders,
    )
    last = {name: new for name, new in fresh.items() if name.endswith((".conf", ".efi", "/entries", "/grubenv"))}
    write = {
        **{name: new for name, new in everything.items() if name not in last},
        REMOVAL: removal,
        RECORD: NewFile(data=now.to_json()),
        **last,
    }
    stale = [name for name in record.files if name not in pieces_now and os.path.lexists(root / name)]
    gone = [name for name in dict.fromkeys([*files.remove, *stale]) if name not in {**write, **files.write}]
    changes = Changes(write=write, remove=[root / name for name in gone])
    apply_changes(root, changes, journal=SYSTEM_JOURNAL, durable=True)


def _is_there(root: Path, name: str, new: NewFile) -> bool:
    path = inside(root, name, follow=False)
    return path.is_file() and not path.is_symlink() and path.read_bytes() == new.data


def _removal(layout: BootLayout, names: Sequence[str], folders: Sequence[str]) -> NewFile:
    more = ""
    left = "the machine boots its generator's images"
    if layout.kind == "grub":
        more = "rm -f boot/megamod/entries boot/megamod/*.img\nrmdir boot/megamod 2>/dev/null"
        left += "; now update-grub"
    else:
        more = (
            f"rm -f {layout.folder}/loader/entries/*.megamod*.conf {layout.folder}/EFI/Linux/*.megamod*.efi "
            f"{layout.folder}/*/*/megamod-*.img"
        )
    script = removal_script(
        what="megamod's own image",
        own=REMOVAL,
        names=[name for name in names if name != PROFILE],
        folders=folders,
        record=RECORD,
        records=RECORD,
        settler=GUARD,
        journal=SYSTEM_JOURNAL,
        left=left,
        more=more,
    )
    return NewFile(data=script, mode=0o755)


def _profile(request: InstallRequest) -> Profile:
    if request.profile_text is None:
        require_trusted(request.profile, "a profile")
        return load_profile(request.profile)
    with tempfile.TemporaryDirectory(prefix="megamod-install-") as folder:
        path = Path(folder) / Path(PROFILE).name
        path.write_text(request.profile_text)
        return load_profile(path)


def _secure_boot(profile: Profile) -> SecureBootKey | None:
    uki = profile.output
    if uki is None or not uki.key or not uki.cert:
        return None
    return SecureBootKey(key=Path(uki.key), certificate=Path(uki.cert))


def _signing(signer: Signer, profile: Profile) -> Sign:
    place = Location(file=profile.source, line=1, column=1)
    return Sign(key=str(signer.key), cert=str(signer.certificate), location=place)


def _digest(new: NewFile) -> str:
    return f"link {new.link}" if new.link else hashlib.sha256(new.data).hexdigest()


def _digest_of(path: Path) -> str:
    return f"link {path.readlink()}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
