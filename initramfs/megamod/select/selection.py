"""What select.py answers with: the modules of each stage, and for every one the reason why it is there or left out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from megamod.common.errors import Location
from megamod.modules.modprobe_d import Option
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile, Selector, Trigger


class Cause(StrEnum):
    """Why a module is in the selection: a selector found it, or a module brought it along."""

    NAMED = "named"
    MATCHED = "matched"
    DEPENDENCY = "dependency"
    SOFTDEP = "softdep"
    REQUEST = "request"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedModule:
    """A module of a stage. *reason* is a short text ("named", "needed by ext4", "softdep of btrfs", "asked for by
    ubifs at run time").

    *rank* is (initcall level, place among the selected modules), the order of a static link among modules that do not
    depend on each other; the level is the earliest of the module's own and of those that need it (levels.py). *after*
    names selected modules whose init should come first by a softdep; a cycle may break the wish.

    The reason once more, for programs: *cause*; *selector* where one asked for the module, whether in this stage or in
    the later stage *promoted_from*; *by*, the module that brought it along.
    """

    name: str
    path: Path
    relpath: str
    reason: str
    rank: tuple[int, int]
    after: tuple[str, ...]
    cause: Cause = Cause.NAMED
    selector: Selector | None = None
    by: str | None = None
    promoted_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedStage:
    """A stage and its modules, sorted by name."""

    name: str
    trigger: Trigger | None
    modules: tuple[SelectedModule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A module that the profile speaks of and that is in no stage; *reason* is a short text, *location* where the
    profile (or modprobe.d) says so."""

    name: str
    reason: str
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The modules of all stages, the critical stage first; *notes* say what differs from what the profile asks for.

    *profile* has the options of modprobe.d merged in, where it asks for that; *left_out* is sorted by name. *skip*
    names the selected modules whose init is left out at boot.
    """

    profile: Profile
    tree: ModuleTree
    stages: tuple[SelectedStage, ...]
    notes: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()
    skip: tuple[str, ...] = ()

    def find(self, name: str) -> tuple[SelectedStage, SelectedModule] | None:
        """The stage that has the module *name* (canonical), and the module."""
        for stage in self.stages:
            for module in stage.modules:
                if module.name == name:
                    return stage, module
        return None

    def options_of(self, name: str) -> tuple[Option, ...]:
        """The options of the module *name*."""
        return tuple(option for option in self.profile.options if option.module == name)
