"""``megamod hook install``, ``remove``, ``status``: the files that make a generator call megamod, and their going.

Only new files are written, each at a path of its own; what was there before is never edited. A record in
var/lib/megamod/hooks names the files and folders that were made, and removing takes away exactly those, so every path
is then what it was; `sh /etc/megamod/hooks/GENERATOR.remove` does the same without megamod. Nothing is generated: the
next run of the generator uses what is installed.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.hooks.contained import inside
from megamod.hooks.generators.boot_entries import (
    COMMAND_LINE,
    GRUB,
    WORD,
    BootEntry,
    boot_entries,
    drop_ins,
    to_apply,
    with_word,
    without_word,
)
from megamod.hooks.generators.program_trust import trust_list
from megamod.hooks.generators.run import LOADER_PATH, Generator
from megamod.hooks.install_record import Entry, InstallRecord, load_record
from megamod.hooks.removal_script import removal_script
from megamod.hooks.transaction import SYSTEM_JOURNAL, Changes, NewFile, apply_changes

_RECORDS = "var/lib/megamod/hooks"
_FOLDER = "etc/megamod/hooks"
_HERE = Path(__file__).parent
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


# What has a generator run when a kernel is installed, where it is the one that is run.
_CALLED: Mapping[Generator, tuple[str, ...]] = {
    "dracut": ("etc/kernel/postinst.d/dracut", "usr/lib/kernel/install.d/50-dracut.install"),
    "initramfs-tools": ("etc/kernel/postinst.d/initramfs-tools",),
    "mkinitcpio": ("usr/share/libalpm/hooks/90-mkinitcpio-install.hook",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A generator on a system: *changed* are files of the hook that are not as they were installed, *entries* the boot
    entries that there are if they need a word on their command line."""

    generator: Generator
    present: bool
    entry: Entry | None
    program: str
    changed: tuple[str, ...]
    command_line: tuple[str, ...]
    entries: tuple[BootEntry, ...]


def find_generator(root: Path) -> Generator:
    """The generator that makes the images of the system below *root*; raises MegamodError if it is not clear which."""
    present = [name for name, sign in _SIGNS.items() if (root / sign).is_dir()]
    called = [name for name in present if any((root / path).exists() for path in _CALLED[name])]
    found = called if len(present) > 1 else present
    if len(found) == 1:
        return found[0]
    if not present:
        raise MegamodError(f"{root}: neither dracut, initramfs-tools nor mkinitcpio is installed")
    raise MegamodError(f"{root}: {' and '.join(present)} are installed", hint="name the one that makes your images")


def generate_command(generator: Generator) -> str:
    """The command that has *generator* make its images anew."""
    return _GENERATE[generator]


def install(
    generator: Generator, *, root: Path, entry: Entry | None, program: Path, edit_cmdline: bool = False
) -> list[str]:
    """Write the hook's files below *root*; returns lines that tell what was done and what is left to do.

    *entry* None takes rdinit where a boot loader's drop-in can be written. *program* is the `megamod` that the hook is
    to call. *edit_cmdline* also puts the word into /etc/kernel/cmdline. Raises MegamodError, with nothing written,
    where the generator is not there or a path is taken.
    """
    if not (root / _SIGNS[generator]).is_dir():
        raise MegamodError(f"{root / _SIGNS[generator]}: no such folder", hint=f"is {generator} installed?")
    record_name = _record_name(generator)
    if (root / record_name).exists():
        raise MegamodError(f"{generator}: the hook is already installed", hint=f"megamod hook remove {generator}")
    drops = drop_ins(root)
    # Without a folder for drop-ins it is the user who names the hook in mkinitcpio.conf: until then no image has it.
    by_hand = generator == "mkinitcpio" and not (root / _MKINITCPIO_CONF).is_dir()
    entry = entry or ("rdinit" if edit_cmdline or (drops and not by_hand) else "hook-points")
    if edit_cmdline and entry != "rdinit":
        raise MegamodError(f"--edit-cmdline: with --hook-points nothing needs {WORD} on the kernel command line")
    own = drops if entry == "rdinit" else {}
    files = {path: NewFile(data=_packed(name), mode=mode) for path, (name, mode) in _PLACES[generator].items()}
    files |= _own_files(generator, entry, trust_list(program, root=root), program)
    if generator == "mkinitcpio" and not by_hand:
        files[f"{_MKINITCPIO_CONF}/zz-megamod.conf"] = NewFile(data=b"HOOKS+=(megamod)\n")
    files |= own
    others = _others(generator, root)
    shared = {name for other in others for name in other.files}
    for path in files:
        if path not in shared and os.path.lexists(inside(root, path, follow=False)):
            raise MegamodError(f"{root / path}: exists and does not belong to megamod", hint="move it away")
    needed = {str(folder) for path in (*files, record_name, _removal_name(generator)) for folder in Path(path).parents}
    missing = {name for name in needed if not os.path.lexists(inside(root, name))}
    folders = tuple(sorted(missing | {name for other in others for name in other.folders if name in needed}))
    edited = {COMMAND_LINE: new} if edit_cmdline and (new := with_word(root)) is not None else {}
    # Nothing to edit where another hook has done so; the last one takes the word off.
    ours = bool(edited) or (edit_cmdline and any(COMMAND_LINE in other.edited for other in others))
    files[_removal_name(generator)] = _removal(generator, entry, (*files, _removal_name(generator)), folders, ours=ours)
    record = InstallRecord(
        entry=entry,
        files={path: _digest(new.data) for path, new in files.items()},
        command_line=tuple(sorted(own)),
        edited=(COMMAND_LINE,) if ours else (),
        folders=folders,
    )
    files[record_name] = NewFile(data=record.to_json())
    apply_changes(root, Changes(write={**files, **edited}), journal=SYSTEM_JOURNAL, durable=True)
    first = ["first add `megamod` to the end of HOOKS=(…) in /etc/mkinitcpio.conf"] if by_hand else []
    first += [f"{root / name}: has {WORD} now" for name in edited]
    return [f"{root / path}" for path in sorted(files)] + first + list(_left_to_do(generator, entry, own, root))


def remove(generator: Generator, *, root: Path) -> list[str]:
    """Take away what `install` has made below *root*, and nothing else; returns lines that tell it."""
    path = root / _record_name(generator)
    record = load_record(path)
    if record is None:
        raise MegamodError(f"{generator}: the hook is not installed")
    # What another hook needs, too, goes with that.
    kept = {name for other in _others(generator, root) for name in (*other.files, *other.edited)}
    gone, lines = [], []
    for name, digest in record.files.items():
        file = inside(root, name, follow=False)
        if name in kept or not os.path.lexists(file):
            continue
        if file.is_symlink() or not file.is_file() or _digest(file.read_bytes()) != digest:
            lines.append(f"{root / name} has changed since; removed anyway")
        gone.append(root / name)
    ours = COMMAND_LINE in record.edited and COMMAND_LINE not in kept
    write = {COMMAND_LINE: new} if ours and (new := without_word(root)) is not None else {}
    changes = Changes(write=write, remove=[*gone, path], prune=sorted(record.folders, reverse=True))
    apply_changes(root, changes, journal=SYSTEM_JOURNAL, durable=True)
    lines += [f"{file}: removed" for file in gone]
    lines += [f"{root / name}: {WORD} was taken off" for name in write]
    if record.entry == "rdinit":
        update = " (update-grub)" if any(name.startswith(GRUB) for name in record.files) else ""
        lines.append(
            f"first take {WORD} off the kernel command line{update}: images without megamod do not boot with it"
        )
    lines.append(f"then generate the images again: {_GENERATE[generator]}")
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
        entries=tuple(boot_entries(root)) if record and record.entry == "rdinit" else (),
    )


def read_settings(path: Path) -> dict[str, str]:
    """NAME=VALUE lines as a shell would read them, none without a file. Raises MegamodError for other lines."""
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
            raise MegamodError(f"{path}:{number}: `{line.strip()[:60]}` is not NAME=VALUE")
        settings[name] = value
    return settings


def _left_to_do(generator: Generator, entry: Entry, drops: Mapping[str, NewFile], root: Path) -> Iterator[str]:
    yield f"now generate the images again: {_GENERATE[generator]}"
    if entry == "hook-points":
        yield f"quicker by some milliseconds: --rdinit, which puts {WORD} on the kernel command line"
        return
    yield f"all images, for every kernel that you may start: one without /{LOADER_PATH} does not boot with {WORD}"
    yield from to_apply(root, drops)
    if not drops:
        yield f"then add to the kernel command line: {WORD}"


def _own_files(generator: Generator, entry: Entry, trusted: Sequence[str], program: Path) -> dict[str, NewFile]:
    """What lies in /etc/megamod/hooks: settings, the guard that calls the program, and what it trusts."""
    text = (
        f"# Written by `megamod hook install`. Put your settings into /etc/megamod/hook.conf.\n"
        f"MEGAMOD={shlex.quote(str(program))}\nMEGAMOD_ENTRY={entry}\n"
    )
    return {
        _settings_name(generator): NewFile(data=text.encode()),
        f"{_FOLDER}/{generator}.run": NewFile(data=_packed("guard"), mode=0o755),
        f"{_FOLDER}/{generator}.trust": NewFile(data="".join(f"{name}\n" for name in trusted).encode()),
    }


def _removal(
    generator: Generator, entry: Entry, names: Sequence[str], folders: Sequence[str], *, ours: bool
) -> NewFile:
    word = f"take {WORD} off the kernel command line, " if entry == "rdinit" else ""
    edited = f"""\
if grep -qsF {WORD} {COMMAND_LINE} && ! shared {COMMAND_LINE}; then
	cp -p {COMMAND_LINE} {COMMAND_LINE}.megamod &&
		sed -E 's@(^|[[:space:]]+){WORD}([[:space:]]|$)@\\2@' {COMMAND_LINE} >{COMMAND_LINE}.megamod &&
		mv -f {COMMAND_LINE}.megamod {COMMAND_LINE} || exit 1
fi
"""
    more = f"""\
{edited if ours else ""}set -- var/lib/megamod/hooks/*.json
[ -e "$1" ] || [ -e var/lib/megamod/deploy.json ] || rm -rf var/lib/megamod/maps"""
    script = removal_script(
        what=f"the hook of {generator}",
        own=_removal_name(generator),
        names=names,
        folders=folders,
        record=_record_name(generator),
        records=f"{_RECORDS}/*.json",
        settler=f"{_FOLDER}/{generator}.run",
        journal=SYSTEM_JOURNAL,
        left=f"now {word}generate the images again: {_GENERATE[generator]}",
        more=more,
    )
    return NewFile(data=script, mode=0o755)


def _others(generator: Generator, root: Path) -> list[InstallRecord]:
    return [found for each in _PLACES if each != generator and (found := load_record(root / _record_name(each)))]


def _record_name(generator: Generator) -> str:
    return f"{_RECORDS}/{generator}.json"


def _settings_name(generator: Generator) -> str:
    return f"{_FOLDER}/{generator}.conf"


def _removal_name(generator: Generator) -> str:
    return f"{_FOLDER}/{generator}.remove"


def _packed(name: str) -> bytes:
    return (_HERE / name).read_bytes()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
