"""The plan: the line-based file in the image that tells the loader what to do. The builder's half;
loader/read_plan.c reads it.

Grammar (ASCII, one record a line, fields separated by one space; in a field every byte outside 0x21 to 0x7e and ``%``
itself is written ``%XX``, an empty field is ``%`` alone; an unknown record or a wrong number of fields is fatal):

    megamod-plan 1
    kernel RELEASE
    fallback none | fallback modules
    root cmdline | root exec PATH ARG… | root chain PATH
    device DEVICE TYPE FLAGS         the root where root=, rootfstype=, rootflags= say nothing, - each for none; in this
                                     and the devices below ${slot} stands for the slot that is booted
    slot WORD…                       words of the command line that name it, the first that is there counts
    before-mount MILLISECONDS PROGRAM ARG…    runs before the root is mounted; 0 waits for ever
    on-failure panic | on-failure reboot      when the root cannot be mounted; a shell without it
    overlay tmpfs [OPTIONS]          a tmpfs over the root takes what is written
    overlay device DEVICE TYPE FLAGS FALLBACK RESET OPTIONS
                                     a device takes and keeps it; FALLBACK none or tmpfs with OPTIONS, if it cannot be
                                     mounted; RESET, a word of the command line, removes what was written; - for none
    slot-verity SLOT …               as verity, for one slot
    verity HASH-DEVICE ALGORITHM DATA-BLOCK-SIZE HASH-BLOCK-SIZE DATA-BLOCKS HASH-START ROOT-HASH SALT [OPTION…]
                                     a dm-verity device below the root; HASH-DEVICE as root= is written, - for the same,
                                     `roothash` for the partition that the hash names; ROOT-HASH - and DATA-BLOCKS 0:
                                     from the command line and from veritysetup's superblock; an OPTION
                                     root_hash_sig_key_desc comes first and names a file of the image
    probe root|async                 only if asked for
    build-id HEX                     of the kernel that loads with a record names are for
    watchdog SECONDS                 a call in which nothing happens for so long is given up; 30 without it, 0 never
    shell none                       nobody gets a shell, neither in an emergency nor by megamod.break=
    skip NAME                        as if the kernel had got megamod.skip=NAME; megamod.run=NAME takes it back
    stage NAME KIND ARG TIMEOUT      KIND now userspace delay path idle manual; ARG a path, milliseconds or -;
                                     TIMEOUT milliseconds, 0 none
    merged FILE NAME RESULTS         a megamodule; RESULTS 1 if it has the parameters result and skip
    argument TEXT                    words for the load above
    member NAME [ID…]                in init order; ID: what it needs, of this load or an earlier one
    parameters NAME=KIND…            what the member or single above takes: KIND is byte short ushort int uint long
                                     ulong ullong hexint bool invbool bint charp string:SIZE (the kernel's
                                     param_ops_KIND), KIND[N] for an array of N at most, none for one that can only
                                     be read; any other takes everything, own by a function of the member's; NAME has a
                                     fixed prefix with it
    original FILE                    with fallback modules: the members' own files, in the members' order
    names FILE                       the load above is for the kernel of the record build-id alone; FILE is a patch that
                                     makes it fit any other (prelink/names_form.py)
    prefix NAME                      command-line words NAME.x belong to the load above, too
    requests PROGRAM                 the load above may call request_module() from an init: PROGRAM, or nothing for -,
                                     stands for modprobe meanwhile
    single FILE NAME [ID…]           a module on its own
    softdep NAME                     NAME has a softdep, which the mask must empty
    dependents ID NAME…              modules in no stage that need ID

Every member and single has the next number, from 0, as its ID.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from megamod.profile.model import Fallback, Probe, Root, RootKind, Trigger, TriggerKind
from megamod.profile.root import OnFailure
from megamod.profile.root_layers import SAME_DEVICE, Overlay, Verity

PLAN_PATH = "megamod/plan"

MAX_STAGES = 64
"""How many stages the loader takes (loader/plan.h)."""

WATCHDOG = 30
"""Seconds without progress after which the loader gives a call up, where the plan does not say (loader/plan.h)."""

CTL_PATH = "megamod/ctl"
"""Where the loader expects the program of the stage keeper, megamod-ctl."""

# What is written as it is.
_PLAIN = re.compile(r"[!-$&-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanModule:
    """A member or single, and the names of the earlier modules, of its own load too, that it needs. *parameters*: of a
    member, as (name, kind)."""

    name: str
    needs: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLoad:
    """One call: *file* is the absolute path in the image; singles have exactly one module. *originals*, if any, are the
    absolute paths of the members' own files, in the order of *modules*. *names*: the patch of a load for one build."""

    file: str
    name: str
    merged: bool
    has_results: bool
    modules: tuple[PlanModule, ...]
    arguments: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    requests: str | None = None
    originals: tuple[str, ...] = ()
    names: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStage:
    """A stage; *trigger* None means at once."""

    name: str
    trigger: Trigger | None
    loads: tuple[PlanLoad, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole plan. dependents: name of a planned module → modules in no stage that need it; skips: planned modules
    whose init is left out. watchdog: seconds, 0 never. shell: whether anybody may get one. build_id: of the
    one kernel that loads with *names* are for."""

    kernel: str
    root: Root
    probe: Probe
    stages: tuple[PlanStage, ...]
    softdeps: tuple[str, ...]
    dependents: Mapping[str, Sequence[str]]
    skips: tuple[str, ...] = ()
    fallback: Fallback = Fallback.NONE
    watchdog: int = WATCHDOG
    shell: bool = True
    build_id: str | None = None


def plan_text(plan: Plan) -> bytes:
    """The file's bytes."""
    numbers: dict[str, int] = {}
    lines = [_record("megamod-plan", "1"), _record("kernel", plan.kernel), _record("fallback", plan.fallback)]
    lines += _root(plan.root)
    if plan.probe is not Probe.SYNC:
        lines.append(_record("probe", plan.probe))
    if plan.build_id:
        lines.append(_record("build-id", plan.build_id))
    if plan.watchdog != WATCHDOG:
        lines.append(_record("watchdog", str(plan.watchdog)))
    if not plan.shell:
        lines.append(_record("shell", "none"))
    lines += [_record("skip", name) for name in plan.skips]
    for stage in plan.stages:
        lines.append(_record("stage", stage.name, *_trigger(stage.trigger)))
        for load in stage.loads:
            lines += _load(load, numbers)
    lines += [_record("softdep", name) for name in plan.softdeps]
    lines += [
        _record("dependents", str(numbers[name]), *users)
        for name, users in sorted(plan.dependents.items(), key=lambda item: numbers[item[0]])
        if users
    ]
    return b"".join(lines)


def _load(load: PlanLoad, numbers: dict[str, int]) -> Iterable[bytes]:
    if load.merged:
        yield _record("merged", load.file, load.name, "1" if load.has_results else "0")
    for module in load.modules:
        ids = [str(number) for number in sorted(numbers[name] for name in module.needs)]
        numbers[module.name] = len(numbers)
        if load.merged:
            yield _record("member", module.name, *ids)
            if module.parameters:
                yield _record("parameters", *(f"{name}={kind}" for name, kind in module.parameters))
        else:
            yield _record("single", load.file, module.name, *ids)
    yield from (_record("original", path) for path in load.originals)
    if load.names is not None:
        yield _record("names", load.names)
    yield from (_record("argument", text) for text in load.arguments)
    yield from (_record("prefix", name) for name in load.prefixes)
    if load.requests is not None:
        yield _record("requests", load.requests)


def _root(root: Root) -> Iterable[bytes]:
    if root.kind != RootKind.CMDLINE:
        assert root.path is not None
        yield _record("root", root.kind, root.path, *root.args)
        return
    yield _record("root", root.kind)
    if root.device or root.type or root.flags:
        yield _record("device", root.device or "-", root.type or "-", root.flags or "-")
    if root.slot:
        yield _record("slot", *root.slot)
    if root.before is not None:
        yield _record("before-mount", str(root.before.timeout), *root.before.command)
    if root.on_failure is not OnFailure.SHELL:
        yield _record("on-failure", root.on_failure)
    if root.overlay is not None:
        yield _overlay(root.overlay)
    if root.verity is not None and not root.slot_verity:
        yield _record("verity", *_verity(root.verity))
    for slot, verity in root.slot_verity:
        yield _record("slot-verity", slot, *_verity(verity))


def _overlay(overlay: Overlay) -> bytes:
    if overlay.device is None:
        return _record("overlay", "tmpfs", *filter(None, [overlay.tmpfs]))
    words = (overlay.device, overlay.type, overlay.flags, overlay.fallback, overlay.reset, overlay.tmpfs)
    return _record("overlay", "device", *(word or "-" for word in words))


def _verity(v: Verity) -> tuple[str, ...]:
    device = "-" if v.hash_device == SAME_DEVICE else v.hash_device
    options = v.options if v.signature is None else ("root_hash_sig_key_desc", v.signature, *v.options)
    if v.source is not None:  # the command line and veritysetup's superblock
        return (device, "-", "0", "0", "0", "0", "-", "-", *options)
    numbers = (v.data_block_size, v.hash_block_size, v.data_blocks, v.hash_start)
    return (device, v.algorithm, *map(str, numbers), v.root_hash, v.salt, *options)


def _trigger(trigger: Trigger | None) -> tuple[str, str, str]:
    if trigger is None:
        return TriggerKind.NOW.value, "-", "0"
    argument = trigger.path if trigger.path is not None else trigger.delay_ms
    return trigger.kind.value, "-" if argument is None else str(argument), str(trigger.timeout_ms)


def trigger_text(trigger: Trigger | None) -> str:
    """The trigger in words, for people: ``path /run/x, timeout 5 s``."""
    kind, argument, timeout = _trigger(trigger)
    text = kind
    if argument != "-":
        text += f" {argument}" + (" ms" if trigger is not None and trigger.path is None else "")
    return text + (f", timeout {int(timeout) / 1000:g} s" if timeout != "0" else "")


def _record(*fields: str) -> bytes:
    return b" ".join(_escape(field) for field in fields) + b"\n"


def _escape(field: str) -> bytes:
    if _PLAIN.fullmatch(field):
        return field.encode("ascii")
    raw = field.encode("utf-8", "surrogateescape")
    escaped = b"".join(bytes([c]) if 0x21 <= c <= 0x7E and c != 0x25 else b"%%%02X" % c for c in raw)
    return escaped or b"%"
