"""Finished images, kept for the next build with the same input.

What the input is, the build itself has shown: all that it looked at is recorded (reads.py), and the list of these paths
is kept under a key of what is known before: the profile's values, the program's own files, the libraries' versions. The
next build takes that list and asks for the present facts of each path: type, size, times, inode, where a link leads,
what a folder holds, that there is nothing. They are the name of the image. So an unchanged build costs a look at each
path, and a change of any of them, whoever reads it, leads to another image.

An entry that is damaged is made again; a folder that cannot be written, or looked at, is not an error. Images may hold
secrets (`files`), so nobody else may read the folder.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from megamod.build.reads import Reads, digest_of, own_folders
from megamod.common.cache import file_facts, paths_below, read_entry, write_entry
from megamod.machine.board import HOST
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile
from megamod.profile.selectors import ParsedSelector, SelectorKind, parse_selector

_FORMAT = 4
_DISTRIBUTIONS = ("megamod", "msgspec", "zstandard", "lz4", "libarchive-c", "cryptography", "numpy", "pyelftools")


def image_key(profile: Profile, tree: ModuleTree) -> str | None:
    """The key of what is known before a build of *profile* on *tree*; None if its image is not to be kept.

    `@detected`, `modprobe-d: host` and `board: host` are of the machine as it is now, and a UKI is made by other tools.
    """
    kinds = {selector.kind for selector in _selectors(profile)}
    if profile.output is not None or HOST in (profile.modprobe, profile.board) or SelectorKind.DETECTED in kinds:
        return None
    # Paths in a profile are relative to the working folder if the profile's own is.
    words = [str(_FORMAT), sys.version, os.getcwd(), str(tree.folder.resolve()), tree.release]  # noqa: PTH109
    words += [repr(profile), repr(tree.kernel_files), repr(tree.overlays)]
    words += [os.environ.get("SOURCE_DATE_EPOCH", ""), *(version(name) for name in _DISTRIBUTIONS)]
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape"))
    try:
        for own in own_folders():
            for path in paths_below(own, skip=("__pycache__",)):
                digest.update(file_facts(path))
    except OSError:
        return None
    return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage:
    """An image and its map; *private*: others may not read all that is in it."""

    image: bytes
    link_map: bytes
    private: bool


def find_image(key: str) -> KeptImage | None:
    """What has been built from what is there now; None if there is no such entry, or it is damaged."""
    looks = read_entry("reads", key)
    if looks is None:
        return None
    body = read_entry("images", _image_name(key, _texts(looks)))
    if body is None:
        return None
    head, _newline, rest = body.partition(b"\n")
    size, private = map(int, head.split())
    return KeptImage(image=rest[:size], link_map=rest[size:], private=bool(private))


def keep_image(key: str, reads: Reads, made: KeptImage) -> None:
    """Keep an image and its map, in one entry, so that neither is there without the other.

    Nothing is kept if something has changed while it was read, or if *reads* cannot know all that was.
    """
    looks = reads.looks()
    if looks is None:
        return
    write_entry("reads", key, "\0".join(looks).encode("utf-8", "surrogateescape"))
    head = b"%d %d\n" % (len(made.image), made.private)
    write_entry("images", _image_name(key, looks), head + made.image + made.link_map)


def _image_name(key: str, looks: Iterable[str]) -> str:
    return hashlib.sha256(f"{key}\0{digest_of(looks)}".encode()).hexdigest()[:32]


def _texts(body: bytes) -> list[str]:
    return body.decode("utf-8", "surrogateescape").split("\0")


def _selectors(profile: Profile) -> Iterator[ParsedSelector]:
    for selector in (*(s for stage in profile.stages for s in stage.selectors), *profile.exclude):
        yield parse_selector(selector)
