"""Whether a kernel can do what an image will ask of it, by its configuration: known at build time, not at the boot.

Each rule is an option, what needs it, and what happens without it. What makes the boot impossible is an error, what
only takes something away is a note; of a kernel whose configuration is not found nothing is known,
and the build says so.
Options and their defaults: Kconfig of 6.1 to 7.2; an option that a kernel does not have yet or any more is not "off".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from megamod.common.errors import MegamodError
from megamod.kernel.config import KernelConfig
from megamod.profile.model import Profile, TriggerKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An *option* (without CONFIG_) that must be built in, or with *absent* must not be; *why* completes the sentence
    "this kernel cannot boot the image: …" (*fatal*) or stands alone as a note. *gate*: the rule counts only where this
    option is on. *word*: the option is CMDLINE, and must not have a word that matches this. *asked*: whether a profile
    has use for it."""

    option: str
    why: str
    absent: bool = False
    word: re.Pattern[str] | None = None
    fatal: bool = True
    gate: str | None = None
    asked: Callable[[Profile], bool] = lambda profile: True


def _has_modules(profile: Profile) -> bool:
    return any(stage.selectors for stage in profile.stages)


def _mounts_root(profile: Profile) -> bool:
    return profile.root.kind == "cmdline"


def _has_verity(profile: Profile) -> bool:
    return profile.root.verity is not None


def _unsigned(profile: Profile) -> bool:
    return profile.sign is None and profile.fallback == "none" and _has_modules(profile)


def _waits_for_a_path(profile: Profile) -> bool:
    return any(stage.trigger and stage.trigger.kind is TriggerKind.PATH for stage in profile.deferred)


def _waits_for_a_path_alone(profile: Profile) -> bool:
    triggers = (stage.trigger for stage in profile.deferred)
    return any(t and t.kind is TriggerKind.PATH and not t.timeout_ms for t in triggers)


def _has_deferred(profile: Profile) -> bool:
    return bool(profile.deferred)


def _falls_back(profile: Profile) -> bool:
    return profile.sign is None and profile.fallback != "none" and _has_modules(profile)


_SIGN = "and the profile has neither `sign` nor `fallback: modules`"

RULES = (
    Rule(option="BLK_DEV_INITRD", why="the kernel cannot unpack an initramfs"),
    Rule(
        option="INITRAMFS_FORCE",
        absent=True,
        why="the kernel ignores the boot loader's initramfs",
    ),
    Rule(option="BINFMT_ELF", why="the kernel cannot execute ELF programs such as /init"),
    Rule(option="CPU_BIG_ENDIAN", absent=True, why="the kernel is big-endian, and the loader is little-endian"),
    Rule(option="MMU", why="without an MMU there is no fork(), which the loader calls"),
    # arch/arm/kernel/elf.c elf_check_arch() and setup.c setup_processor(), 6.12; the loader is EABI and Thumb code.
    Rule(option="AEABI", gate="ARM", why="the kernel knows the old ABI only, and /init has the EABI"),
    Rule(option="ARM_THUMB", gate="ARM", why="the kernel cannot execute Thumb programs such as /init"),
    Rule(option="CMDLINE", word=re.compile(r"rdinit=(?!/init$).*"), why="the kernel starts a program other than /init"),
    Rule(option="MODULES", why="the kernel cannot load modules", asked=_has_modules),
    Rule(option="PROC_FS", why="root= is read from /proc/cmdline", asked=_mounts_root),
    Rule(option="SYSFS", why="block devices are found in /sys", asked=_mounts_root),
    Rule(option="DEVTMPFS", why="the root's device node comes from devtmpfs", asked=_mounts_root),
    Rule(option="MODULE_SIG_FORCE", absent=True, why=f"the kernel takes no unsigned modules, {_SIGN}", asked=_unsigned),
    Rule(
        option="MODULE_SIG_FORCE",
        absent=True,
        fatal=False,
        why="the kernel takes no unsigned modules: without `sign` every module is loaded one by one",
        asked=_falls_back,
    ),
    Rule(
        option="LOCK_DOWN_KERNEL_FORCE_INTEGRITY",
        absent=True,
        gate="MODULE_SIG",  # without it nothing looks at signatures (kernel/module/signing.c, 6.1)
        why=f"the kernel is locked down and takes no unsigned modules, {_SIGN}",
        asked=_unsigned,
    ),
    Rule(
        option="LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
        absent=True,
        gate="MODULE_SIG",  # without it nothing looks at signatures (kernel/module/signing.c, 6.1)
        why=f"the kernel is locked down and takes no unsigned modules, {_SIGN}",
        asked=_unsigned,
    ),
    Rule(option="CMDLINE", word=re.compile(r"nomodule(=1)?"), why="the kernel cannot load modules", asked=_has_modules),
    Rule(
        option="CMDLINE",
        word=re.compile(r"module\.sig_enforce(=[1yYtT].*|=on)?"),
        gate="MODULE_SIG",
        why=f"the kernel takes no unsigned modules, {_SIGN}",
        asked=_unsigned,
    ),
    Rule(
        option="CMDLINE",
        word=re.compile(r"lockdown=(integrity|confidentiality)"),
        gate="MODULE_SIG",
        why=f"the kernel is locked down and takes no unsigned modules, {_SIGN}",
        asked=_unsigned,
    ),
    # security/integrity/ima/ima_policy.c build_appraise_rules[] has no IMA_MODSIG_ALLOWED, and goes before the default
    # policy's exception for tmpfs (6.12); the rootfs has no extended attributes.
    Rule(
        option="IMA_APPRAISE_REQUIRE_MODULE_SIGS",
        absent=True,
        why="IMA wants a signature in an extended attribute of each module, and files of an initramfs have none",
        asked=_has_modules,
    ),
    Rule(option="BLOCK", why="there are no block devices, and root.verity needs one", asked=_has_verity),
    Rule(
        option="DM_VERITY_VERIFY_ROOTHASH_SIG",
        why="dm_verity checks no signature of a root hash, and root.verity.signature gives one",
        asked=lambda profile: profile.root.verity is not None and profile.root.verity.signature is not None,
    ),
    Rule(
        option="INOTIFY_USER",
        why="a stage with `after: {path: …}` and no timeout would never be loaded",
        asked=_waits_for_a_path_alone,
    ),
    Rule(
        option="INOTIFY_USER",
        fatal=False,
        why="paths cannot be watched: stages with `after: {path: …}` are loaded when their timeouts run out",
        asked=lambda profile: _waits_for_a_path(profile) and not _waits_for_a_path_alone(profile),
    ),
    Rule(
        option="BLOCK",
        fatal=False,
        why="there are no block devices: only a root of another kind can be mounted",
        asked=lambda profile: not _has_verity(profile),
    ),
    Rule(option="TMPFS", fatal=False, why="/run is a ramfs without limits"),
    Rule(
        option="NET",
        fatal=False,
        why="there are no uevents: the loader polls for devices",
        asked=_mounts_root,
    ),
    Rule(
        option="PROC_SYSCTL",
        fatal=False,
        why="request_module cannot be switched off during a deferred load",
        asked=_has_deferred,
    ),
    Rule(option="PRINTK", fatal=False, why="the loader's messages cannot be read"),
    Rule(
        option="SECURITY_LOADPIN_ENFORCE",
        absent=True,
        fatal=False,
        why="modules are taken only from the file system of the first load, which is the image: none from the root",
    ),
    Rule(option="CMDLINE_FORCE", absent=True, fatal=False, why="the boot loader's command line is ignored"),
    Rule(option="CMDLINE_OVERRIDE", absent=True, fatal=False, why="the boot loader's command line is ignored"),
)
"""In the order in which they are reported."""


def check_kernel(profile: Profile, config: KernelConfig | None) -> tuple[str, ...]:
    """Notes on what *profile* loses on this kernel; raises MegamodError naming all that makes the boot impossible."""
    if config is None:
        return ("the kernel's configuration was not found: cannot check whether it can boot this image",)
    broken = [rule for rule in RULES if rule.asked(profile) and _is_broken(rule, config)]
    fatal = [rule for rule in broken if rule.fatal]
    if fatal:
        reasons = "; ".join(_sentence(rule, config) for rule in fatal)
        raise MegamodError(f"this kernel cannot boot the image: {reasons}", hint="change the kernel's configuration")
    return tuple(_sentence(rule, config) for rule in broken)


def _is_broken(rule: Rule, config: KernelConfig) -> bool:
    if rule.gate is not None and not config.enabled(rule.gate):
        return False
    if rule.word is not None:
        return any(rule.word.fullmatch(word) for word in config.words(rule.option))
    if rule.absent:
        return config.enabled(rule.option)
    return config.is_off(rule.option)


def _sentence(rule: Rule, config: KernelConfig) -> str:
    return f"{rule.why} ({config.line_of(rule.option)})"
