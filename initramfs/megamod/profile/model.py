"""The profile as values: what the YAML says, checked, with the place of everything that can turn out wrong later."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from megamod.common.errors import Location
from megamod.modules.modprobe_d import Option

Tracing = Literal["off", "keep"]
Unwind = Literal["keep", "compact", "drop"]
Symbols = Literal["keep", "trim"]
StaticCalls = Literal["trampoline", "patch"]
Probe = Literal["sync", "async"]
Compress = Literal["none", "gzip", "lz4", "xz", "zstd", "auto"]
Fallback = Literal["none", "modules"]
Digest = Literal["auto", "sha256", "sha384", "sha512"]
RootKind = Literal["cmdline", "exec", "chain"]

CRITICAL = "critical"
"""The name of the first stage."""


class TriggerKind(StrEnum):
    """What a deferred stage waits for; the values are the words of the plan."""

    NOW = "now"
    USERSPACE = "userspace"
    DELAY = "delay"
    PATH = "path"
    IDLE = "idle"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """When a deferred stage is loaded.

    *path* is set for PATH alone, *delay_ms* for DELAY and IDLE (how long the machine must have been idle).
    *timeout_ms* loads the stage after that time whatever happened; 0 waits for ever.
    """

    kind: TriggerKind
    path: str | None = None
    delay_ms: int | None = None
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One entry of a `modules` or `exclude` list, as written; selectors.py knows what it means."""

    text: str
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A group of modules that one call loads; *trigger* is None for the critical stage."""

    name: str
    selectors: tuple[Selector, ...]
    trigger: Trigger | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verity:
    """A dm-verity device below the root, in the words of `veritysetup format`. *hash_device* is written as `root=` is,
    or `same`; *hash_start* counts hash blocks; *salt* is `-` if there is none; *options* are the target's."""

    root_hash: str
    salt: str
    hash_device: str
    data_blocks: int
    hash_start: int
    algorithm: str
    data_block_size: int
    hash_block_size: int
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """What comes after the critical stage: mount `root=`, execute *path* with *args*, or go on with another init.

    *overlay* and *verity* belong to a mounted root: the options of a tmpfs over it ("" for none), a device below it.
    """

    kind: RootKind
    path: str | None = None
    args: tuple[str, ...] = ()
    overlay: str | None = None
    verity: Verity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileItem:
    """A file or folder that goes into the image: *source* as written, below *base* unless it is absolute; *to* is
    absolute, and ends in a slash where the source goes below it under its own name. *mode* None takes the source's."""

    source: str
    base: str
    to: str
    location: Location
    mode: int | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """Which firmware goes into the image: with *auto* what the modules name, and what *patterns* match."""

    auto: bool = True
    patterns: tuple[Selector, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Uki:
    """A Unified Kernel Image: its command line, and files that go into it or make it; *vmlinuz* None takes the kernel
    beside the modules, *key* and *cert* sign it for Secure Boot."""

    cmdline: str = ""
    vmlinuz: str | None = None
    os_release: str | None = None
    splash: str | None = None
    dtb: str | None = None
    stub: str | None = None
    key: str | None = None
    cert: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What megamodules are signed with: *key* a file or a `pkcs11:` URI, *cert* a file, *digest* as the kernel's
    configuration calls it, or "auto" for the one that it names."""

    key: str
    cert: str
    digest: Digest
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Microcode:
    """Which microcode goes into an early archive: with *auto* what the firmware folder has, else *files*."""

    auto: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A whole profile, `extends` resolved and defaults filled in.

    *modprobe* is where modprobe.d is read: "none", "host", or a folder. *skip* holds module names alone.
    *firmware_dir* is where firmware is looked for, None for the root of the module tree. *board* is a .dtb, "host", or
    a folder with a recorded machine, or the board's names; None: any board. *storage* is how many bytes a second the
    boot loader reads, for `compress: auto`. *output* None is the image itself. Without *sign* the megamodules have no
    signature.
    """

    name: str
    source: str
    critical: Stage
    deferred: tuple[Stage, ...] = ()
    exclude: tuple[Selector, ...] = ()
    options: tuple[Option, ...] = ()
    skip: tuple[Selector, ...] = ()
    files: tuple[FileItem, ...] = ()
    firmware: Firmware = Firmware()
    firmware_dir: str | None = None
    board: tuple[str, ...] | str | None = None
    root: Root = Root(kind="cmdline")
    tracing: Tracing = "off"
    unwind: Unwind = "keep"
    symbols: Symbols = "keep"
    static_calls: StaticCalls = "trampoline"
    probe: Probe = "sync"
    compress: Compress = "zstd"
    storage: int | None = None
    fallback: Fallback = "none"
    allow_taint: bool = False
    modprobe: str = "none"
    output: Uki | None = None
    sign: Sign | None = None
    microcode: Microcode = Microcode()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages in load order, the critical one first."""
        return (self.critical, *self.deferred)
