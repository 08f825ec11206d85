"""The files of an image for people: all of them as a list, one of them, and what differs between two images."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from megamod.build.files import resolved
from megamod.build.manifest import MANIFEST_PATH, Manifest, ManifestMember
from megamod.common.errors import MegamodError
from megamod.common.text import did_you_mean, human_bytes, printable, shorten
from megamod.image.archive import read_image
from megamod.image.cpio import Entry


def image_files(path: Path) -> dict[str, Entry]:
    """Path → entry of the image *path*; a later entry replaces an earlier one, as it does in the kernel."""
    return {entry.path: entry for entry in read_image(path) if entry.path not in ("", ".")}


def find_file(files: Mapping[str, Entry], path: str, *, source: str) -> Entry:
    """The file at *path*, with or without its leading slash; links are followed where they lead to a file."""
    plain = path.strip("/")
    entry = resolved(f"/{plain}", files) or files.get(plain)
    if entry is None:
        hint = did_you_mean(plain, files) or "megamod ls lists what there is"
        raise MegamodError(f"{source}: no /{shorten(plain)} in the image", hint=hint)
    if not (stat.S_ISREG(entry.mode) or stat.S_ISLNK(entry.mode)):
        what = "folder" if stat.S_ISDIR(entry.mode) else "device node"
        raise MegamodError(f"{source}: /{shorten(plain)} is a {what}", hint="megamod ls lists what there is")
    return entry


def chosen_files(files: Mapping[str, Entry], paths: Sequence[str], *, source: str) -> dict[str, Entry]:
    """Those of *files* that are, or lie below, one of *paths*; all of them without paths.

    Raises MegamodError for a path that is not there.
    """
    wanted = [path.strip("/") for path in paths]
    for path in wanted:
        if path and path not in files and not any(name.startswith(f"{path}/") for name in files):
            hint = did_you_mean(path, files) or "without PATH all files are listed"
            raise MegamodError(f"{source}: no /{shorten(path)} in the image", hint=hint)
    return {
        name: entry
        for name, entry in files.items()
        if not wanted or any(not path or name == path or name.startswith(f"{path}/") for path in wanted)
    }


def names_text(files: Mapping[str, Entry]) -> str:
    """A path a line, sorted, without a leading slash, as `cpio -t` has them."""
    return "\n".join(_printable(path) for path in sorted(files))


def _printable(path: str) -> str:
    """As `printable`, but bytes that are not UTF-8 stay what they are."""
    return "".join(c if "\udc80" <= c <= "\udcff" else printable(c) for c in path)


def tree_text(files: Mapping[str, Entry]) -> str:
    """A line an entry, sorted by path, as `ls -l` has it."""
    return "\n".join(_line(files[path]) for path in sorted(files))


def _line(entry: Entry) -> str:
    size = human_bytes(len(entry.data)) if stat.S_ISREG(entry.mode) else ""
    if entry.rdev is not None:
        size = f"{entry.rdev[0]}, {entry.rdev[1]}"
    target = f" -> {_printable(entry.data.decode('utf-8', 'surrogateescape'))}" if stat.S_ISLNK(entry.mode) else ""
    return f"{stat.filemode(entry.mode)} {size:>9}  /{_printable(entry.path)}{target}"


def difference(
    old: Manifest, old_files: Mapping[str, Entry], new: Manifest, new_files: Mapping[str, Entry]
) -> list[str]:
    """What the second image has that the first has not, and the other way round, a line each."""
    lines = [*_settings(old, new), *_members(old, new)]
    for path in sorted({*old_files, *new_files}):
        if path != MANIFEST_PATH:
            lines += _entry_lines(old_files.get(path), new_files.get(path))
    if not lines and old != new:
        lines.append(f"/{MANIFEST_PATH}: differs")
    return lines


def _settings(old: Manifest, new: Manifest) -> Iterator[str]:
    before = {"profile": old.profile, "kernel": old.kernel, "megamod": old.megamod, "root": old.root, **old.options}
    after = {"profile": new.profile, "kernel": new.kernel, "megamod": new.megamod, "root": new.root, **new.options}
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) != after.get(key):
            yield f"{key}: {before.get(key, 'not set')} → {after.get(key, 'not set')}"
    for name in sorted({*old.skip} ^ {*new.skip}):
        yield f"{name}: {'no longer skipped' if name in old.skip else 'skipped'} at boot"


def _members(old: Manifest, new: Manifest) -> Iterator[str]:
    before, after = dict(_placed(old)), dict(_placed(new))
    for name in sorted({*before, *after}):
        if name not in after:
            yield f"- {name} ({before[name][0]})"
        elif name not in before:
            yield f"+ {name} ({after[name][0]}): {after[name][1].reason}"
        else:
            (place, member), (now, changed) = before[name], after[name]
            if place != now:
                yield f"  {name}: {place} → {now}"
            if member.build_id != changed.build_id or member.srcversion != changed.srcversion:
                yield f"  {name}: another build"


def _placed(manifest: Manifest) -> Iterator[tuple[str, tuple[str, ManifestMember]]]:
    for stage in manifest.stages:
        for load in stage.loads:
            for member in load.members:
                yield member.name, (f"{stage.name}{', alone' if load.kind == 'single' else ''}", member)


def _entry_lines(old: Entry | None, new: Entry | None) -> Iterator[str]:
    if old is None or new is None:
        entry = old or new
        assert entry is not None
        yield f"{'-' if new is None else '+'} {_line(entry)}"
    elif old != new:
        said = []
        if old.mode != new.mode:
            said.append(f"{stat.filemode(old.mode)} → {stat.filemode(new.mode)}")
        if old.data != new.data:
            sizes = f"{human_bytes(len(old.data))} → {human_bytes(len(new.data))}"
            said.append(sizes if len(old.data) != len(new.data) else "other content of the same size")
        if old.rdev != new.rdev:
            said.append("another device")
        yield f"  /{old.path}: {', '.join(said)}"
