"""A built image → the files that have a boot loader start it: images, boot entries, EFI programs, GRUB's list.

An image that has started this machine is kept when another one takes its place, as the entry after it. Names hold what
is known of an image: GRUB's entries its digest, those of systemd-boot the counter that systemd-boot itself keeps there.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.hooks.generators.boot_entries import WORD
from megamod.hooks.installer.boot_layout import BootLayout, command_line, entry_token, kernel_file, os_release
from megamod.hooks.installer.grubenv import ENV, read_grubenv, with_variables
from megamod.hooks.transaction import NewFile
from megamod.image.uki import SecureBootKey, write_uki
from megamod.machine.machine import Machine

GRUB_IMAGES = "boot/megamod"
GRUB_LIST = f"{GRUB_IMAGES}/entries"
GOOD, TRY = "megamod_good", "megamod_try"
_ID = "megamod.image="
_TRIES = 3
_PANIC = "panic=10"
_COUNTER = r"(?:\+\d+(?:-\d+)?)?"
_MICROCODE = re.compile(r"ucode|microcode")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What is to be written (path below the root → file), and what goes; *entry* is what the boot menu calls it."""

    entry: str
    write: Mapping[str, NewFile] = field(default_factory=dict)
    remove: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnImage:
    """An image for the kernel *kernel*, and its name: the first digits of its digest."""

    kernel: str
    data: bytes

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits: enough to tell the images of one machine from each other."""
        return hashlib.sha256(self.data).hexdigest()[:12]


def boot_files(
    root: Path, layout: BootLayout, image: OwnImage, *, secure_boot: SecureBootKey | None = None
) -> BootFiles:
    """What has the boot loader start *image* next, and keeps what has worked before."""
    if layout.kind == "grub":
        return _grub_files(root, layout, image)
    if layout.kind == "bls":
        return _entry_files(root, layout, image)
    return _uki_files(root, layout, image, secure_boot)


def forgotten_files(root: Path, layout: BootLayout, kernel: str) -> BootFiles:
    """What goes with the image of *kernel*."""
    if layout.kind == "grub":
        left = [row for row in _grub_rows(root) if row[0] != kernel]
        gone = [f"{GRUB_IMAGES}/{row[0]}-{row[1]}.img" for row in _grub_rows(root) if row[0] == kernel]
        env = _without_ids(root, layout, {_grub_id(*row) for row in left})
        write = {**env, **({GRUB_LIST: _grub_list(left)} if left else {})}
        return BootFiles(entry=kernel, write=write, remove=gone if left else [*gone, GRUB_LIST])
    stem = f"{entry_token(root)}-{kernel}.megamod"
    found = [name for suffix in ("conf", "efi") for name in _variants(root, layout, stem, suffix)]
    images = [name for entry in found for name in _images_of(root, layout, entry)]
    return BootFiles(entry=kernel, remove=[*found, *dict.fromkeys(images)])


# GRUB


def _grub_files(root: Path, layout: BootLayout, image: OwnImage) -> BootFiles:
    own = (image.kernel, image.digest)
    rows = _grub_rows(root)
    good = read_grubenv(root / layout.folder / ENV).get(GOOD, "")
    worked = {good, _running(root)}
    kept = [row for row in rows if row[0] == image.kernel and row != own and _grub_id(*row) in worked]
    others = [row for row in rows if row[0] != image.kernel]
    gone = [row for row in rows if row[0] == image.kernel and row != own and row not in kept]
    write = {
        f"{GRUB_IMAGES}/{image.kernel}-{image.digest}.img": NewFile(data=image.data, mode=0o600),
        GRUB_LIST: _grub_list([own, *kept, *others]),
    }
    if good != _grub_id(*own) and layout.counts:
        variables = {TRY: _grub_id(*own)}
        write[f"{layout.folder}/{ENV}"] = NewFile(data=with_variables(root / layout.folder / ENV, variables))
    remove = [f"{GRUB_IMAGES}/{kernel}-{digest}.img" for kernel, digest in gone]
    return BootFiles(entry=_grub_id(*own), write=write, remove=remove)


def grub_is_given_back(root: Path, layout: BootLayout) -> dict[str, NewFile]:
    """What lets GRUB's own default count again; nothing where it does."""
    return _without_ids(root, layout, set())


def _without_ids(root: Path, layout: BootLayout, left: set[str]) -> dict[str, NewFile]:
    path = root / layout.folder / ENV
    found = read_grubenv(path)
    gone = {name: "" for name in (GOOD, TRY) if found.get(name) and found[name] not in left}
    return {f"{layout.folder}/{ENV}": NewFile(data=with_variables(path, gone))} if gone else {}


def _grub_rows(root: Path) -> list[tuple[str, str]]:
    """(kernel, digest) of the images that GRUB's script makes entries for."""
    lines = (line.split() for line in Machine(root=root).text(GRUB_LIST).splitlines())
    return [(words[0], words[1]) for words in lines if len(words) == 2]


def _grub_list(rows: Iterable[tuple[str, str]]) -> NewFile:
    return NewFile(data="".join(f"{kernel} {digest}\n" for kernel, digest in rows).encode())


def _grub_id(kernel: str, digest: str) -> str:
    return f"megamod-{kernel}-{digest}"


def _running(root: Path) -> str:
    """The identifier of the image that has started this machine, "" if it is none of ours."""
    words = Machine(root=root).text("proc/cmdline").split()
    return next((f"megamod-{word.removeprefix(_ID)}" for word in words if word.startswith(_ID)), "")


# systemd-boot: boot entries


def _entry_files(root: Path, layout: BootLayout, image: OwnImage) -> BootFiles:
    token = entry_token(root)
    template = _generators_entry(root, layout, token, image.kernel)
    if template is None:
        hint = f"kernel-install add {image.kernel} /boot/vmlinuz-{image.kernel} makes one; or --layout uki"
        what = f"{root / layout.folder / 'loader/entries'}: no boot entry of {image.kernel}"
        raise MegamodError(what, hint=hint)
    fields = _fields(read_file(root / template).decode("utf-8", "replace"))
    kernel = _field(fields, "linux")
    place = f"{layout.folder}/{PurePosixPath(kernel).parent.as_posix().strip('/')}"
    initrd = f"{PurePosixPath(kernel).parent}/megamod-{image.digest}.img"
    early = [value for name, value in fields if name == "initrd" and _MICROCODE.search(PurePosixPath(value).name)]
    title = _field(fields, "title") or os_release(root).get("PRETTY_NAME", "Linux")
    text = [
        ("title", f"{title} (megamod)"),
        ("version", _field(fields, "version") or image.kernel),
        *((name, value) for name, value in fields if name in ("machine-id", "devicetree", "architecture")),
        ("sort-key", _field(fields, "sort-key") or os_release(root).get("ID", "linux")),
        ("options", own_command_line(" ".join(value for name, value in fields if name == "options"))),
        ("linux", kernel),
        *(("initrd", value) for value in early),
        ("initrd", initrd),
    ]
    entry = "".join(f"{name:<10} {value}\n" for name, value in text).encode()
    write = {f"{place}/megamod-{image.digest}.img": NewFile(data=image.data)}
    entries, remove, kept = _in_turn(root, layout, f"{token}-{image.kernel}.megamod", "conf", entry)
    images = set(_images_below(root, place)) - write.keys()
    kept_images = {name for data in kept for name in _named_images(layout, data)}
    return BootFiles(
        entry=f"{title} (megamod)", write={**write, **entries}, remove=[*remove, *sorted(images - kept_images)]
    )


def _generators_entry(root: Path, layout: BootLayout, token: str, kernel: str) -> str | None:
    """The entry of *kernel* that kernel-install or somebody else has written: kernel and command line come from it."""
    folder = root / layout.folder / "loader/entries"
    first = re.compile(rf"{re.escape(f'{token}-{kernel}')}{_COUNTER}\.conf")
    paths = sorted(folder.glob("*.conf"), key=lambda path: (not first.fullmatch(path.name), path.name))
    for path in paths:
        fields = _fields(path.read_text(errors="replace"))
        own = ".megamod" in path.name
        there = (root / layout.folder / _field(fields, "linux").lstrip("/")).is_file()
        if not own and there and (first.fullmatch(path.name) or _field(fields, "version") == kernel):
            return f"{layout.folder}/loader/entries/{path.name}"
    return None


def _fields(text: str) -> list[tuple[str, str]]:
    lines = (line.strip().split(None, 1) for line in text.splitlines())
    return [(words[0], words[1]) for words in lines if len(words) == 2 and not words[0].startswith("#")]


def _field(fields: Iterable[tuple[str, str]], wanted: str) -> str:
    return next((value for name, value in fields if name == wanted), "")


def own_command_line(options: str) -> str:
    """*options* for an image of ours: it has the loader as /init, and a kernel that panics must start again."""
    words = [word for word in options.split() if word != WORD and not word.startswith(("BOOT_IMAGE=", "initrd="))]
    return " ".join([*words, *([] if any(word.startswith("panic=") for word in words) else [_PANIC])])


# systemd-boot: EFI programs


def _uki_files(root: Path, layout: BootLayout, image: OwnImage, secure_boot: SecureBootKey | None) -> BootFiles:
    kernel = kernel_file(root, image.kernel)
    if kernel is None:
        raise MegamodError(f"{root / 'boot'}: no vmlinuz-{image.kernel}", hint="is that kernel installed?")
    names = {"ID": "linux", **os_release(root)}
    title = f"{names.get('PRETTY_NAME', 'Linux')} (megamod)"
    with tempfile.TemporaryDirectory(prefix="megamod-install-") as scratch:
        inner, release, outer = (Path(scratch) / name for name in ("image", "os-release", "uki"))
        inner.write_bytes(image.data)
        release.write_text("".join(f'{name}="{value}"\n' for name, value in {**names, "PRETTY_NAME": title}.items()))
        write_uki(
            outer,
            kernel=root / kernel,
            image=inner,
            command_line=own_command_line(command_line(root)),
            os_release=release,
            release=image.kernel,
            secure_boot=secure_boot,
        )
        program = outer.read_bytes()
    stem = f"{entry_token(root)}-{image.kernel}.megamod"
    write, remove, _kept = _in_turn(root, layout, stem, "efi", program)
    return BootFiles(entry=title, write=write, remove=remove)


# Both


def _in_turn(
    root: Path, layout: BootLayout, stem: str, suffix: str, data: bytes
) -> tuple[dict[str, NewFile], list[str], list[bytes]]:
    """The entry *data* under the name *stem*; what was there becomes the one after it if it has started the machine.

    Returns what is written, what goes, and the entries that stay.
    """
    folder = f"{layout.folder}/{_FOLDERS[suffix]}"
    present = _variants(root, layout, stem, suffix)
    same = [name for name in present if (root / name).read_bytes() == data]
    if same and "-old" not in PurePosixPath(same[0]).name.removeprefix(stem):
        # As it was installed before: its counter stays.
        return {same[0]: NewFile(data=data)}, [], [(root / name).read_bytes() for name in present]
    counter = f"+{_TRIES}" if layout.counts else ""
    write = {f"{folder}/{stem}{counter}.{suffix}": NewFile(data=data)}
    kept = [data]
    # Without a counter in its name it has reached user space, or nobody counts.
    worked = f"{folder}/{stem}.{suffix}"
    if worked in present:
        old = (root / worked).read_bytes()
        write[f"{folder}/{stem}-old.{suffix}"] = NewFile(data=_renamed(old) if suffix == "conf" else old)
        kept.append(old)
    elif f"{folder}/{stem}-old.{suffix}" in present:
        old = (root / folder / f"{stem}-old.{suffix}").read_bytes()
        write[f"{folder}/{stem}-old.{suffix}"] = NewFile(data=old)
        kept.append(old)
    return write, [name for name in present if name not in write], kept


_FOLDERS = {"conf": "loader/entries", "efi": "EFI/Linux"}


def _renamed(entry: bytes) -> bytes:
    return re.sub(rb"(?m)^(title .*)\(megamod\)$", rb"\1(megamod, previous image)", entry)


def _variants(root: Path, layout: BootLayout, stem: str, suffix: str) -> list[str]:
    """The entries of that name with any counter, and the one that is kept."""
    folder = f"{layout.folder}/{_FOLDERS[suffix]}"
    form = re.compile(rf"{re.escape(stem)}(?:-old)?{_COUNTER}\.{suffix}")
    return [f"{folder}/{name}" for name in Machine(root=root).entries(folder) if form.fullmatch(name)]


def _images_of(root: Path, layout: BootLayout, entry: str) -> list[str]:
    if not entry.endswith(".conf"):
        return []
    named = _named_images(layout, (root / entry).read_bytes())
    return [name for name in named if (root / name).is_file()]


def _named_images(layout: BootLayout, entry: bytes) -> list[str]:
    values = (value for name, value in _fields(entry.decode("utf-8", "replace")) if name == "initrd")
    return [f"{layout.folder}/{value.lstrip('/')}" for value in values if "/megamod-" in value]


def _images_below(root: Path, place: str) -> list[str]:
    names = Machine(root=root).entries(place)
    return [f"{place}/{name}" for name in names if re.fullmatch(r"megamod-[0-9a-f]{12}\.img", name)]
