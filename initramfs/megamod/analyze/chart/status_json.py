"""The form of /run/megamod/status.json, which the loader writes (loader/status.c); times in nanoseconds.

Schema for other programs: initramfs/docs/schemas/status.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megamod.common.documents import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusMember:
    """A module of a load. *result*: what its init returned, null if it is not known; *because*: why it was skipped, and
    *needs*: the member that it needs and that is missing."""

    name: str
    state: Literal["waiting", "ok", "failed", "skipped"]
    result: int | None
    nanoseconds: Count
    because: str | None = None
    needs: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusLoad:
    """A file that is loaded. *loaded*: by its own call, by its members' files instead (originals), or not (none)."""

    name: str
    kind: Literal["merged", "single"]
    loaded: Literal["none", "own", "originals"]
    errno: int
    nanoseconds: Count
    members: tuple[StatusMember, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusStage:
    """A stage. *triggered*: what it was loaded by, null if it is not; *path*: what a path trigger waits for;
    *fallback*: members' files were loaded."""

    name: str
    state: str
    trigger: str
    triggered: str | None
    path: str | None = None
    fallback: bool
    errno: int
    nanoseconds: Count
    ok: Count
    failed: Count
    skipped: Count
    loads: tuple[StatusLoad, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusDocument:
    """What was loaded in this boot. *off*: megamod=off was on the kernel command line."""

    version: Literal[1] = 1
    kernel: str | None
    off: bool
    stages: tuple[StatusStage, ...]
