"""Where a member's debug information is: by build id as distributions and debuginfod keep it, or beside the modules.

Looked at in this order, below each folder: ``.build-id/ab/cdef….debug`` (elfutils, gdb), ``lib/modules/KVER/…/NAME.ko``
and ``NAME.ko.debug`` (Debian, Fedora), then debuginfod's cache, then the modules themselves. Only a file with the
member's build id and with debug information counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megamod.build.link_map import MapMember
from megamod.common.compression import decompress, read_regular
from megamod.common.errors import MegamodError
from megamod.inspect.debug.dwarf import DebugFile

STANDARD = Path("/usr/lib/debug")
_LIMIT = 1 << 30  # bytes; the largest module of Debian with its debug information (amdgpu) has 300 MB
_ENDINGS = ("", ".debug", ".xz", ".zst", ".gz")


def debuginfod_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that debuginfod's clients fill: debuginfod_find_debuginfo(3), "Cache"."""
    if own := environment.get("DEBUGINFOD_CACHE_PATH", ""):
        return Path(own)
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "debuginfod_client"


@dataclass(frozen=True, kw_only=True)
class DebugFiles:
    """Finds and keeps debug files. release: the kernel's, "" for any."""

    folders: Sequence[Path] = (STANDARD,)
    modules: Path | None = None
    cache: Path | None = None
    release: str = ""
    _known: dict[str, tuple[Path, DebugFile] | None] = field(default_factory=dict)
    _trees: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    def find(self, member: MapMember) -> DebugFile | None:
        """The member's debug file, None if there is none."""
        found = self._find(member)
        return found[1] if found else None

    def path(self, member: MapMember) -> Path | None:
        """Where it is."""
        found = self._find(member)
        return found[0] if found else None

    def _find(self, member: MapMember) -> tuple[Path, DebugFile] | None:
        if member.name not in self._known:
            self._known[member.name] = next(self._matching(member), None)
        return self._known[member.name]

    def _matching(self, member: MapMember) -> Iterator[tuple[Path, DebugFile]]:
        for path in self._candidates(member):
            try:
                data = decompress(read_regular(path, limit=_LIMIT), limit=_LIMIT, source=str(path))
                file = DebugFile(data, str(path))
                if file.build_id == member.build_id and file.has_lines:
                    yield path, file
            except MegamodError:
                continue  # unreadable, or no ELF file: another may be better

    def _candidates(self, member: MapMember) -> Iterator[Path]:
        if not member.build_id:
            return
        for folder in self.folders:
            yield folder / ".build-id" / member.build_id[:2] / f"{member.build_id[2:]}.debug"
        stem = member.file.split(".ko")[0]
        for folder in self.folders:
            for part in ("lib/modules", "usr/lib/modules"):
                yield from self._below(folder / part / self.release, stem)
        if self.cache is not None:
            yield self.cache / member.build_id / "debuginfo"
        if self.modules is not None:
            yield from self._below(self.modules, stem)

    def _below(self, folder: Path, stem: str) -> list[Path]:
        if folder not in self._trees:
            index: dict[str, list[Path]] = {}
            for parent, folders, files in os.walk(folder):
                folders.sort()
                for name in sorted(files):
                    head, dot, ending = name.partition(".ko")
                    if dot and ending in _ENDINGS:
                        index.setdefault(head.replace("-", "_"), []).append(Path(parent, name))
            self._trees[folder] = index
        return self._trees[folder].get(stem.replace("-", "_"), [])
