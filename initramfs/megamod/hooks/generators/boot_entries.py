"""The kernel command line of this machine's boot entries: what puts our word there, and which entries have it.

GRUB reads /etc/default/grub.d where its distribution's grub-mkconfig does (Debian's does, upstream's does not), so
that is looked up there. systemd has no folder of drop-ins for the command line: /etc/kernel/cmdline.d is read by
nothing of it (90-loaderentry.install and 60-ukify.install, 257; systemd's issue 23308 asks for it). So a plugin of
kernel-install(8), which runs after 90-loaderentry.install, edits the entry that has been written. Unified kernel
images take the command line of /etc/kernel/cmdline, which is the administrator's own: it is edited only where
that is asked for. Entries that exist are not touched.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.files import read_file
from megamod.hooks.contained import inside
from megamod.hooks.generators.run import LOADER_PATH
from megamod.hooks.transaction import NewFile

WORD = f"rdinit=/{LOADER_PATH}"
"""What goes on the kernel command line."""

GRUB = "etc/default/grub.d"
PLUGIN = "etc/kernel/install.d/95-megamod.install"
_MKCONFIG = ("usr/sbin/grub-mkconfig", "usr/bin/grub-mkconfig", "sbin/grub-mkconfig")
_GRUB_TEXT = f'# Written by `megamod hook install`.\nGRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {WORD}"\n'
_LOADER_ENTRY = ("usr/lib/kernel/install.d/90-loaderentry.install", "lib/kernel/install.d/90-loaderentry.install")
# Where the EFI system partition or XBOOTLDR is mounted (the Boot Loader Specification, kernel-install(8)).
_BOOT = ("efi", "boot/efi", "boot")
_IMAGES = "EFI/Linux"  # unified kernel images (the Boot Loader Specification, type 2)
_INSTALL_CONF = ("etc/kernel/install.conf", "run/kernel/install.conf", "usr/lib/kernel/install.conf")
COMMAND_LINE = "etc/kernel/cmdline"
_GRUB_CFG = ("boot/grub/grub.cfg", "boot/grub2/grub.cfg")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootEntry:
    """A boot entry: the *file* it stands in, its *title*, and whether the word is on its kernel command line."""

    file: Path
    title: str
    has_word: bool


def drop_ins(root: Path) -> dict[str, NewFile]:
    """The files that put the word on the command line, for the boot loaders that are there."""
    found = {}
    if _reads_drop_ins(root):
        found[f"{GRUB}/megamod.cfg"] = NewFile(data=_GRUB_TEXT.encode())
    if any((root / name).is_file() for name in _LOADER_ENTRY) and any(True for _folder in _entry_folders(root)):
        plugin = Path(__file__).with_name("kernel-install").read_bytes()
        found[PLUGIN] = NewFile(data=plugin, mode=0o755)
    return found


def to_apply(root: Path, names: Mapping[str, NewFile]) -> Iterator[str]:
    """What has the boot loaders take over the drop-ins *names*, and what only the administrator can do."""
    if _makes_images(root) and not any(WORD in line.split() for line in _lines(root / COMMAND_LINE)):
        yield f"kernel-install makes unified kernel images: add to /{COMMAND_LINE}, or they start without it: {WORD}"
        yield "or let --edit-cmdline do so when you install the hook"
    if f"{GRUB}/megamod.cfg" in names:
        yield "then: update-grub"
    if PLUGIN in names:
        yield "then, for each kernel: kernel-install add KVER /boot/vmlinuz-KVER"


def with_word(root: Path) -> NewFile | None:
    """/etc/kernel/cmdline with the word after all others; None if it has it. Raises MegamodError if it is not there."""
    path = inside(root, COMMAND_LINE)
    if not path.is_file():
        hint = "without it kernel-install takes the running kernel's words: write down those that are to stay"
        raise MegamodError(f"{root / COMMAND_LINE}: not there", hint=hint)
    text = path.read_bytes()
    if WORD.encode() in text.split():
        return None
    words = text.rstrip()
    return NewFile(data=words + f" {WORD}".encode() + text[len(words) :], mode=stat.S_IMODE(path.stat().st_mode))


def without_word(root: Path) -> NewFile | None:
    """/etc/kernel/cmdline without the word; None if it does not have it."""
    path = inside(root, COMMAND_LINE)
    if not path.is_file() or WORD.encode() not in path.read_bytes().split():
        return None
    text = re.sub(rb"(^|[ \t]+)" + re.escape(WORD.encode()) + rb"(?=\s|$)", b"", path.read_bytes(), flags=re.MULTILINE)
    return NewFile(data=text, mode=stat.S_IMODE(path.stat().st_mode))


def boot_entries(root: Path) -> list[BootEntry]:
    """The entries of systemd-boot (loader/entries), unified kernel images and those of GRUB (grub.cfg) below *root*."""
    found = []
    for folder in _entry_folders(root):
        for path in sorted(folder.glob("*.conf")):
            lines = _lines(path)
            titles = [words[1] for line in lines if (words := line.split(None, 1))[0] == "title" and len(words) > 1]
            options = [line for line in lines if line.split()[:1] == ["options"]]
            found.append(
                BootEntry(
                    file=path,
                    title=titles[0] if titles else path.stem,
                    has_word=any(WORD in line.split() for line in options),
                )
            )
    for folder in _folders(root, _IMAGES):
        found += [entry for path in sorted(folder.glob("*.efi")) if (entry := _image_entry(path)) is not None]
    for name in _GRUB_CFG:
        # `linux` and its variants: linux16, linuxefi (grub's loader commands).
        kernels = [line.split() for line in _lines(root / name) if line.lstrip().startswith("linux")]
        found += [
            BootEntry(file=root / name, title=words[1], has_word=WORD in words) for words in kernels if len(words) > 1
        ]
    return found


def _reads_drop_ins(root: Path) -> bool:
    """Whether grub-mkconfig reads /etc/default/grub.d: Debian's patch has it do so."""
    if not (root / GRUB).is_dir() and not (root / "etc/default/grub").is_file():
        return False
    scripts = [root / name for name in _MKCONFIG if (root / name).is_file()]
    return any("default/grub.d" in "\n".join(_lines(script)) for script in scripts)


def _makes_images(root: Path) -> bool:
    """Whether kernel-install's layout is `uki`: the first install.conf that is there counts (kernel-install(8))."""
    for path in (root / name for name in _INSTALL_CONF):
        if path.is_file():
            return any(line.replace(" ", "") == "layout=uki" for line in _lines(path))
    return False


def _image_entry(path: Path) -> BootEntry | None:
    from megamod.image.uki import uki_sections

    try:
        sections = uki_sections(read_file(path), file=str(path))
    except MegamodError:
        return None  # a boot manager's business, and its message
    release = sections.get(".osrel", b"").decode("utf-8", "replace")
    title = re.search(r'^PRETTY_NAME="?([^"\n]+)', release, re.MULTILINE)
    words = sections.get(".cmdline", b"").rstrip(b"\0").decode("utf-8", "replace").split()
    return BootEntry(file=path, title=title[1] if title else path.stem, has_word=WORD in words)


def _entry_folders(root: Path) -> Iterator[Path]:
    yield from _folders(root, "loader/entries")


def _folders(root: Path, below: str) -> Iterator[Path]:
    yield from (folder for name in _BOOT if (folder := root / name / below).is_dir())


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
