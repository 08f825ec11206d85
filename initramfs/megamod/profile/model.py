"""The profile as a value, which is also the table of its keys: a field with a Key is what people write.

Whatever is known of a key stands in its record: the parser, `extends`, the JSON Schema and the reference page in
profiles/README.md are made from it. To add a key, add a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from megamod.common.choices import (
    Compress,
    CompressDeferred,
    Digest,
    Fallback,
    Imports,
    Merging,
    Order,
    Probe,
    Shell,
    StaticCalls,
    Symbols,
    Tracing,
    Unwind,
)
from megamod.modules.modprobe_d import Option
from megamod.profile import values
from megamod.profile.contents import (
    FILE_KEYS,
    FILES_MERGED,
    FIRMWARE,
    SKIP,
    FileItem,
    Firmware,
    files_schema,
    finished_files,
    parse_files,
    parse_firmware,
    parse_skip,
)
from megamod.profile.keys import OWN, TEXT, WORD, Key, choice, code, flag, keys_of_class
from megamod.profile.module_options import OPTIONS, OPTIONS_MERGED, parse_options
from megamod.profile.output import OUTPUT_KEYS, Uki, output_schema, parse_output
from megamod.profile.root import ROOT_KEYS, Root, RootKind, parse_root, root_schema
from megamod.profile.root_layers import Verity
from megamod.profile.selectors import APPENDED, SELECTORS, Selector, finished_selectors, parse_selectors
from megamod.profile.signing import MICROCODE, Microcode, Sign, parse_microcode, parse_sign, sign_schema
from megamod.profile.stages import (
    CRITICAL,
    CRITICAL_KEYS,
    CRITICAL_MERGED,
    DEFERRED_MERGED,
    STAGE_KEYS,
    Stage,
    critical_schema,
    deferred_schema,
    parse_critical,
    parse_deferred,
)
from megamod.profile.triggers import TIME, Trigger, TriggerKind, parse_duration

__all__ = [
    "CRITICAL",
    "Compress",
    "CompressDeferred",
    "Digest",
    "Fallback",
    "FileItem",
    "Firmware",
    "Imports",
    "Microcode",
    "Option",
    "Order",
    "Probe",
    "Profile",
    "Root",
    "RootKind",
    "Selector",
    "Sign",
    "Stage",
    "StaticCalls",
    "Symbols",
    "Tracing",
    "Trigger",
    "TriggerKind",
    "Uki",
    "Unwind",
    "Verity",
    "profile_keys",
]

_AUTO = Firmware()
_CMDLINE = Root(kind=RootKind.CMDLINE)
_NO_MICROCODE = Microcode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A whole profile, defaults filled in and what *extends* names merged in. *source* is its file.

    *modprobe* is where modprobe.d is read: "none", "host", or a folder. *skip* holds module names alone.
    *firmware_dir* is where firmware is looked for, None for the root of the module tree. *board* is a .dtb, "host", or
    a folder with a recorded machine, or the board's names; None: any board. *storage* is how many bytes a second the
    boot loader reads, for `compress: auto` and `compress-deferred: auto`. *watchdog* is in milliseconds, 0 never.
    *output* None is the image itself. Without *sign* the megamodules have no signature.
    """

    source: str
    name: Annotated[
        str,
        Key(
            parse=values.parse_name,
            schema=values.NAME,
            values="letters, digits, `.`, `_`, `-`; at most 64",
            help="What the profile is called.",
            default_text="the file's name",
            merge=OWN,
        ),
    ]
    extends: Annotated[
        Selector | None,
        Key(
            parse=values.parse_parent,
            schema=TEXT,
            values="a shipped profile, or a file relative to this one",
            help="The profile that this one builds on.",
            merge=OWN,
        ),
    ] = None
    critical: Annotated[
        Stage,
        Key(
            parse=parse_critical,
            schema=critical_schema(),
            values="`{modules: [selector…]}`",
            help="The modules that must be there before user space; one call loads them.",
            default_text="required, here or in what is extended",
            merge=CRITICAL_MERGED,
            inside=CRITICAL_KEYS,
        ),
    ]
    deferred: Annotated[
        tuple[Stage, ...],
        Key(
            parse=parse_deferred,
            schema=deferred_schema(),
            values="a list of stages `{name, modules, after}`",
            help="Stages that are loaded later, each in one call, in this order.",
            merge=DEFERRED_MERGED,
            inside=STAGE_KEYS,
        ),
    ] = ()
    exclude: Annotated[
        tuple[Selector, ...],
        Key(
            parse=parse_selectors,
            schema=SELECTORS,
            values="a list of selectors",
            help="Modules that stay out, and with them all that need them.",
            merge=APPENDED,
            finish=finished_selectors,
        ),
    ] = ()
    options: Annotated[
        tuple[Option, ...],
        Key(
            parse=parse_options,
            schema=OPTIONS,
            values="`{module: {parameter: value}}`",
            help="Module parameters.",
            merge=OPTIONS_MERGED,
        ),
    ] = ()
    modprobe: Annotated[
        str,
        Key(
            name="modprobe-d",
            parse=values.parse_modprobe_d,
            schema=values.MODPROBE_D,
            values="`host`, `none`, or a folder relative to the profile",
            help="Where options, softdeps, blacklists and install lines of modprobe.d are read.",
            default_text=code(values.NONE),
        ),
    ] = values.NONE
    skip: Annotated[
        tuple[Selector, ...],
        Key(
            parse=parse_skip,
            schema=SKIP,
            values="a list of module names",
            help="Modules whose init is left out at boot, unless the kernel command line has megamod.run=NAME.",
            merge=APPENDED,
            finish=finished_selectors,
        ),
    ] = ()
    files: Annotated[
        tuple[FileItem, ...],
        Key(
            parse=parse_files,
            schema=files_schema(),
            values="`{SOURCE: /to}`, `{SOURCE: {to: /to, mode: 0755}}`, or a list of `{from, to, mode}`",
            help="Files and folders for the image.",
            merge=FILES_MERGED,
            inside=FILE_KEYS,
            finish=finished_files,
        ),
    ] = ()
    firmware: Annotated[
        Firmware,
        Key(
            parse=parse_firmware,
            schema=FIRMWARE,
            values="`auto`, `none`, or a list of names and patterns, which may have `auto` in it",
            help="Firmware for the image: what the modules name (`auto`), none, or what the list names.",
            default_text="`auto`",
        ),
    ] = _AUTO
    firmware_dir: Annotated[
        str | None,
        Key(
            parse=values.parse_folder,
            schema=TEXT,
            values="a folder relative to the profile",
            help="The folder where firmware is looked for.",
            default_text="`lib/firmware` next to `lib/modules`",
        ),
    ] = None
    board: Annotated[
        tuple[str, ...] | str | None,
        Key(
            parse=values.parse_board,
            schema={"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": WORD}]},
            values="a .dtb, `host`, a folder with a recorded machine, or a list of names",
            help="Firmware that is named by board goes in for this board only.",
            default_text="any board",
        ),
    ] = None
    root: Annotated[
        Root,
        Key(
            parse=parse_root,
            schema=root_schema(),
            values="`{device: …}` or `{from: cmdline}`, with its layers; `{exec: …}`; `{chain: /init}`",
            help="What comes after the critical stage.",
            default_text="`{from: cmdline}`",
            inside=ROOT_KEYS,
        ),
    ] = _CMDLINE
    tracing: Annotated[
        Tracing,
        choice(Tracing, help="Whether ftrace can trace the members; `keep` makes loading many modules slow."),
    ] = Tracing.OFF
    unwind: Annotated[Unwind, choice(Unwind, help="Stack unwinding tables: all, only what calls need, or none.")] = (
        Unwind.KEEP
    )
    symbols: Annotated[
        Symbols,
        choice(Symbols, help="All function names, which an oops shows, or only the names that the kernel needs."),
    ] = Symbols.KEEP
    static_calls: Annotated[
        StaticCalls,
        choice(
            StaticCalls,
            help="Static calls of members: through their trampolines, or patched into direct calls at load.",
        ),
    ] = StaticCalls.TRAMPOLINE
    imports: Annotated[
        Imports,
        choice(
            Imports,
            help="How the kernel's symbols are found. `distance`: in the build of the kernel that the image is made "
            "for by their distances, which halves what a load costs, in any other by name; `names`: always by name.",
        ),
    ] = Imports.DISTANCE
    order: Annotated[
        Order,
        choice(
            Order,
            help="`waits`: in an initcall level drivers of disks and USB on PCI and the like come first, as their "
            "devices take time, libraries that try out algorithms last; `link`: as in a kernel with all built in.",
        ),
    ] = Order.WAITS
    probe: Annotated[
        Probe,
        choice(
            Probe,
            help="`sync`: drivers probe one after the other, and the boot waits until all have; `root`: in the same "
            "order, but user space starts as soon as the root is there (for one that waits for its devices, as "
            "with udev); `async`: drivers probe in parallel, and device names may come in another order.",
        ),
    ] = Probe.SYNC
    compress: Annotated[
        Compress, choice(Compress, help="Compression of the image; `auto` takes what boots fastest from `storage`.")
    ] = Compress.ZSTD
    compress_deferred: Annotated[
        CompressDeferred,
        choice(
            CompressDeferred,
            help="Compression of deferred modules inside the image: with `lz4` they are unpacked when their stage "
            "comes and not by the kernel before user space; `auto` takes it where that is faster, by `storage`.",
        ),
    ] = CompressDeferred.AUTO
    fallback: Annotated[
        Fallback,
        choice(
            Fallback,
            help="`modules`: the members' own files are in the image too, for a kernel that refuses the megamodule "
            "and for megamod=off.",
        ),
    ] = Fallback.NONE
    merge: Annotated[
        Merging,
        choice(
            Merging,
            help="`if-possible`: a module that cannot be merged is loaded on its own, with a note that says why; "
            "`required`: it is an error.",
        ),
    ] = Merging.IF_POSSIBLE
    watchdog: Annotated[
        int,
        Key(
            parse=partial(parse_duration, zero=True),
            schema=TIME,
            values="a duration; 0 waits for ever",
            help="How long a load may go on without anything happening before it is given up and the boot goes on.",
            default_text="`30s`",
        ),
    ] = 30_000
    shell: Annotated[
        Shell,
        choice(
            Shell,
            help="`if-present`: an emergency, and megamod.break=, end in the image's shell; `none`: never, whatever "
            "the command line says (a kiosk).",
        ),
    ] = Shell.IF_PRESENT
    storage: Annotated[
        int | None,
        Key(
            parse=values.parse_rate,
            schema=values.RATE,
            values="a rate such as `25MB/s`",
            help="How fast the boot loader reads, for `compress: auto` and `compress-deferred: auto`.",
            default_text=code(f"{values.DEFAULT_STORAGE // 1_000_000}MB/s"),
        ),
    ] = None
    sign: Annotated[
        Sign | None,
        Key(
            parse=parse_sign,
            schema=sign_schema(),
            values="`{key, cert, digest}`, or `none`",
            help="Key and certificate that sign the megamodules.",
            inside=keys_of_class(Sign),
        ),
    ] = None
    microcode: Annotated[
        Microcode,
        Key(
            parse=parse_microcode,
            schema=MICROCODE,
            values="`auto`, `none`, or a list of files",
            help="Microcode for x86 processors, in front of the image: what the firmware folder has (`auto`), none, or "
            "these files.",
            default_text="`none`",
        ),
    ] = _NO_MICROCODE
    output: Annotated[
        Uki | None,
        Key(
            parse=parse_output,
            schema=output_schema(),
            values="`image`, `uki`, or `{uki: {…}}`",
            help="What is built: an initramfs image, or a Unified Kernel Image: kernel, image and command line in one "
            "EFI program.",
            default_text="`image`",
            inside=OUTPUT_KEYS,
        ),
    ] = None
    allow_taint: Annotated[bool, flag(help="Accept staging and out-of-tree modules.")] = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages in load order, the critical one first."""
        return (self.critical, *self.deferred)


def profile_keys(form: type[Profile] = Profile) -> tuple[Key, ...]:
    """The keys of a profile, in the order of the reference."""
    table: type = form
    return keys_of_class(table)
