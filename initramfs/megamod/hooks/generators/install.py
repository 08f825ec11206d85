"""``megamod hook install``, ``remove``, ``status``: the files that make a generator call megamod, and their going.

Only new files are written, each at a path of its own; what was there before is never edited. A record in
var/lib/megamod/hooks names the files and folders that were made, and removing takes away exactly those, so every path
is then what it was. Nothing is generated: the next run of the generator uses what is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.hooks.generators.run import LOADER_PATH, Generator
from megamod.hooks.install_record import Entry, InstallRecord, load_record, save_record
from megamod.hooks.transaction import Changes, NewFile, apply_changes

WORD = f"rdinit=/{LOADER_PATH}"
"""What goes on the kernel command line."""

_RECORDS = "var/lib/megamod/hooks"
_HERE = Path(__file__).parent
_GRUB = "etc/default/grub.d"
_KERNEL_INSTALL = "etc/kernel/cmdline.d"
_GRUB_TEXT = f'# Written by `megamod hook install`.\nGRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {WORD}"\n'
_MKINITCPIO_CONF = "etc/mkinitcpio.conf.d"

# Where the files of this package go, by generator: path below the root → (file, mode).
_PLACES: Mapping[Generator, Mapping[str, tuple[str, int]]] = {
    "dracut": {
        "usr/lib/dracut/modules.d/99megamod/module-setup.sh": ("dracut/module-setup.sh", 0o755),
        "usr/lib/dracut/modules.d/99megamod/megamod-load.sh": ("dracut/megamod-load.sh", 0o755),
        "usr/lib/dracut/modules.d/99megamod/megamod-load.service": ("megamod-load.service", 0o644),
    },
    "initramfs-tools": {
        "etc/initramfs-tools/hooks/zz-megamod": ("initramfs-tools/hook", 0o755),
        "etc/initramfs-tools/scripts/init-top/megamod": ("initramfs-tools/init-top", 0o755),
    },
    "mkinitcpio": {
        "etc/initcpio/install/megamod": ("mkinitcpio/install", 0o644),
        "etc/initcpio/hooks/megamod": ("mkinitcpio/hook", 0o644),
        "etc/megamod/hooks/megamod-load.service": ("megamod-load.service", 0o644),
    },
}
# A folder that is there where the generator is.
_SIGNS: Mapping[Generator, str] = {
    "dracut": "usr/lib/dracut/modules.d",
    "initramfs-tools": "usr/share/initramfs-tools",
    "mkinitcpio": "usr/lib/initcpio",
}
_GENERATE: Mapping[Generator, str] = {
    "dracut": "dracut --regenerate-all --force",
    "initramfs-tools": "update-initramfs -u -k all",
    "mkinitcpio": "mkinitcpio -P",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A generator on a system: *changed* are files of the hook that are not as they were installed."""

    generator: Generator
    present: bool
    entry: Entry | None
    program: str
    changed: tuple[str, ...]
    command_line: tuple[str, ...]


def install(generator: Generator, *, root: Path, entry: Entry | None, program: Path) -> list[str]:
    """Write the hook's files below *root*; returns lines that tell what was done and what is left to do.

    *entry* None takes rdinit where a boot loader's drop-in can be written. *program* is the `megamod` that the hook is
    to call. Raises MegamodError, with nothing written, where the generator is not there or a path is taken.
    """
    if not (root / _SIGNS[generator]).is_dir():
        raise MegamodError(f"{root / _SIGNS[generator]}: no such folder", hint=f"is {generator} installed?")
    if (root / _record_name(generator)).exists():
        raise MegamodError(f"{generator}: the hook is installed already", hint=f"megamod hook remove {generator}")
    drop_ins = _drop_ins(root)
    # Without a folder for drop-ins it is the user who names the hook in mkinitcpio.conf: until then no image has it.
    by_hand = generator == "mkinitcpio" and not (root / _MKINITCPIO_CONF).is_dir()
    entry = entry or ("rdinit" if drop_ins and not by_hand else "hook-points")
    files = {path: NewFile(data=_packed(name), mode=mode) for path, (name, mode) in _PLACES[generator].items()}
    files[_settings_name(generator)] = NewFile(
        data=f"# Written by `megamod hook install`. Settings of yours belong into /etc/megamod/hook.conf.\n"
        f"MEGAMOD={shlex.quote(str(program))}\nMEGAMOD_ENTRY={entry}\n".encode()
    )
    if generator == "mkinitcpio" and not by_hand:
        files[f"{_MKINITCPIO_CONF}/zz-megamod.conf"] = NewFile(data=b"HOOKS+=(megamod)\n")
    own = dict(drop_ins) if entry == "rdinit" else {}
    for path, new in own.items():
        # Another generator's hook may have written it.
        if not (root / path).exists():
            files[path] = new
    for path in files:
        if (root / path).is_symlink() or (root / path).exists():
            raise MegamodError(f"{root / path}: is there already, and not of megamod", hint="move it away")
    folders = sorted({str(folder.relative_to(root)) for path in files for folder in _missing(root, root / path)})
    record_name = _record_name(generator)
    record = InstallRecord(
        entry=entry,
        files={path: _digest(new.data) for path, new in files.items()},
        command_line=tuple(sorted(own)),
        folders=tuple(
            sorted({*folders, *(str(folder.relative_to(root)) for folder in _missing(root, root / record_name))})
        ),
    )
    files[record_name] = NewFile(data=record.to_json())
    apply_changes(root, Changes(write=files))
    first = ["first add `megamod` to the end of HOOKS=(…) in /etc/mkinitcpio.conf"] if by_hand else []
    return [f"{root / path}" for path in sorted(files)] + first + list(_left_to_do(generator, entry, own))


def remove(generator: Generator, *, root: Path) -> list[str]:
    """Take away what `install` has made below *root*, and nothing else; returns lines that tell it."""
    path = root / _record_name(generator)
    record = load_record(path)
    if record is None:
        raise MegamodError(f"{generator}: the hook is not installed")
    others = [other for g in _PLACES if g != generator and (other := load_record(root / _record_name(g)))]
    shared = {name for other in others for name in other.command_line}
    gone, lines = [], []
    for name, digest in record.files.items():
        if name in shared:
            # The other's hook still needs it, and takes it away when it goes.
            _hand_over(name, digest, root, generator)
            continue
        file = root / name
        if file.is_file():
            if _digest(file.read_bytes()) != digest:
                lines.append(f"{file} was changed since; it is removed all the same")
            gone.append(file)
    apply_changes(root, Changes(remove=[*gone, path]))
    kept = {folder for other in others for folder in other.folders}
    for name in sorted(record.folders, reverse=True):
        with contextlib.suppress(OSError):
            (root / name).rmdir()
    _hand_over_folders(record.folders, kept, root)
    lines += [f"{file}: removed" for file in gone]
    if record.entry == "rdinit":
        update = " (update-grub)" if any(name.startswith(_GRUB) for name in record.files) else ""
        lines.append(
            f"first take {WORD} off the kernel command line{update}: images without megamod do not boot with it"
        )
    lines.append(f"then make the images anew: {_GENERATE[generator]}")
    return [line for line in lines if line]


def status(generator: Generator, *, root: Path) -> Status:
    """What is installed below *root*."""
    record = load_record(root / _record_name(generator))
    changed = []
    for name, digest in (record.files if record else {}).items():
        file = root / name
        if not file.is_file() or _digest(file.read_bytes()) != digest:
            changed.append(str(file))
    settings = read_settings(root / _settings_name(generator))
    return Status(
        generator=generator,
        present=(root / _SIGNS[generator]).is_dir(),
        entry=record.entry if record else None,
        program=settings.get("MEGAMOD", ""),
        changed=tuple(changed),
        command_line=record.command_line if record else (),
    )


def read_settings(path: Path) -> dict[str, str]:
    """NAME=VALUE lines as a shell would read them; no file is no settings. Raises MegamodError for other lines."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise MegamodError(f"{path}: {error}") from None
    settings = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise MegamodError(f"{path}:{number}: {error}") from None
        if not words:
            continue
        name, equals, value = words[0].partition("=")
        if len(words) > 1 or not equals or not name.isidentifier():
            raise MegamodError(f"{path}:{number}: `{line.strip()[:60]}` is no NAME=VALUE")
        settings[name] = value
    return settings


def _left_to_do(generator: Generator, entry: Entry, drop_ins: Mapping[str, NewFile]) -> Iterator[str]:
    yield f"now make the images anew: {_GENERATE[generator]}"
    if entry == "hook-points":
        yield f"quicker by some milliseconds: --rdinit, which puts {WORD} on the kernel command line"
        return
    yield f"all images, for every kernel that you may start: one without /{LOADER_PATH} does not boot with {WORD}"
    if any(name.startswith(_GRUB) for name in drop_ins):
        yield "then: update-grub"
    if not drop_ins:
        yield f"then add to the kernel command line: {WORD}"


def _drop_ins(root: Path) -> dict[str, NewFile]:
    """The files that put the word on the command line, for the boot loaders that are there."""
    found = {}
    if (root / _GRUB).is_dir() or (root / "etc/default/grub").is_file():
        found[f"{_GRUB}/megamod.cfg"] = NewFile(data=_GRUB_TEXT.encode())
    if (root / _KERNEL_INSTALL).is_dir():
        found[f"{_KERNEL_INSTALL}/megamod.conf"] = NewFile(data=f"{WORD}\n".encode())
    return found


def _hand_over(name: str, digest: str, root: Path, leaving: Generator) -> None:
    for generator in _PLACES:
        path = root / _record_name(generator)
        record = load_record(path)
        if generator != leaving and record is not None and name in record.command_line:
            save_record(path, replace(record, files={name: digest, **record.files}))
            return


def _hand_over_folders(folders: Sequence[str], kept: set[str], root: Path) -> None:
    """Folders that this hook made and another's files still lie in go with the other."""
    left = [name for name in folders if (root / name).is_dir() and name not in kept]
    for generator in _PLACES:
        path = root / _record_name(generator)
        record = load_record(path)
        if left and record is not None:
            save_record(path, replace(record, folders=tuple(sorted({*record.folders, *left}))))
            return


def _record_name(generator: Generator) -> str:
    return f"{_RECORDS}/{generator}.json"


def _settings_name(generator: Generator) -> str:
    return f"etc/megamod/hooks/{generator}.conf"


def _packed(name: str) -> bytes:
    return (_HERE / name).read_bytes()


def _missing(root: Path, path: Path) -> Iterator[Path]:
    folder = path.parent
    while folder != root and not os.path.lexists(folder):
        yield folder
        folder = folder.parent


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
