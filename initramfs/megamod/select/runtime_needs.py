"""What modules ask the kernel for by name, which no index of depmod knows.

`crypto_alloc_shash("sha512")`, `load_nls("cp437")`, a parser of flash partitions: each becomes a request_module(), and
before user space there is nobody to answer it. Each row names the kernel's file and function (6.1 to 6.12). What is
certain, or what the profile's own values show, comes along; the rest is a note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile, Stage, TriggerKind


class When(StrEnum):
    """When a module asks: in its init or a driver's probe, when nobody can answer although user space may be there, or
    later, when a file system is mounted or a device is set up."""

    INIT = "init"
    PROBE = "probe"
    USE = "use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """*words*, names or aliases, are asked for at *when*; *source* is where. Not *sure*: only some users need it, and
    *what* says who."""

    words: tuple[str, ...]
    when: When
    source: str
    sure: bool = True
    what: str = ""


def _sure(words: str, when: When, source: str) -> Need:
    return Need(words=tuple(words.split()), when=when, source=source)


def _perhaps(words: str, what: str, source: str) -> Need:
    return Need(words=tuple(words.split()), when=When.USE, source=source, sure=False, what=what)


NEEDS: Mapping[str, tuple[Need, ...]] = MappingProxyType(
    {
        "ubifs": (
            _sure("crypto-lzo crypto-deflate crypto-zstd", When.INIT, "fs/ubifs/compress.c, ubifs_compressors_init()"),
        ),
        "mtd": (_sure("ofpart cmdlinepart", When.PROBE, "drivers/mtd/mtdpart.c, parse_mtd_partitions()"),),
        "physmap": (_sure("cfi_probe", When.PROBE, "drivers/mtd/maps/physmap-core.c, physmap_flash_probe()"),),
        "gen_probe": (
            _sure(
                "cfi_cmdset_0001 cfi_cmdset_0002 cfi_cmdset_0020",
                When.PROBE,
                "drivers/mtd/chips/gen_probe.c, cfi_cmdset_unknown()",
            ),
        ),
        "brcmfmac": (
            _sure(
                "brcmfmac_wcc brcmfmac_cyw brcmfmac_bca",
                When.PROBE,
                "drivers/net/wireless/broadcom/brcm80211/brcmfmac/fwvid.c, brcmf_fwvid_request_module()",
            ),
        ),
        "vfat": (_sure("nls_cp437 nls_ascii nls_iso8859_1 nls_utf8", When.USE, "fs/fat/inode.c, fat_fill_super()"),),
        "hfsplus": (_sure("nls_utf8", When.USE, "fs/hfsplus/super.c, hfsplus_fill_super()"),),
        "9p": (_sure("9pnet_virtio", When.USE, "net/9p/mod.c, v9fs_get_trans_by_name()"),),
        "nfs": (_sure("nfsv3", When.USE, "fs/nfs/client.c, get_nfs_version()"),),
        "dm_crypt": (
            _perhaps("crypto-xts crypto-aes crypto-ecb", "its cipher", "drivers/md/dm-crypt.c, crypt_alloc_tfms()"),
        ),
        "dm_integrity": (_perhaps("crypto-crc32c", "its checksum", "drivers/md/dm-integrity.c, get_mac()"),),
        "scsi_mod": (
            _perhaps(
                "sd_mod", "the driver of disks", "drivers/scsi/scsi_sysfs.c, scsi_bus_uevent(): only udev loads it"
            ),
        ),
        "mmc_core": (
            _perhaps(
                "mmc_block", "the driver of cards", "drivers/mmc/core/bus.c, mmc_bus_uevent(): only udev loads it"
            ),
        ),
    }
)
"""Module → what it asks for."""


def needs_of(name: str, profile: Profile) -> tuple[Need, ...]:
    """The needs of the module *name* under *profile*, whose root may show more or other ones."""
    root = profile.root
    flags = dict(word.partition("=")[::2] for word in (root.flags or "").split(","))
    if name == "dm_verity" and root.verity is not None:
        tables = [verity for _slot, verity in root.slot_verity] or [root.verity]
        hashes = dict.fromkeys(f"crypto-{verity.algorithm}" for verity in tables)
        return (_sure(" ".join(hashes), When.USE, "drivers/md/dm-verity-target.c, verity_ctr()"),)
    if name == "vfat" and ("codepage" in flags or "iocharset" in flags):
        words = f"nls_cp{flags.get('codepage', '437')} nls_{flags.get('iocharset', 'ascii').replace('-', '_')}"
        return (_sure(words, When.USE, NEEDS["vfat"][0].source),)
    if name == "nfs" and (root.type == "nfs4" or flags.get("vers", flags.get("nfsvers", "")).startswith("4")):
        return (_sure("nfsv4", When.USE, NEEDS["nfs"][0].source),)
    return NEEDS.get(name, ())


def certain_needs(name: str, profile: Profile, stage: int, tree: ModuleTree) -> list[tuple[str, bool]]:
    """(module, whether it must be initialised before *name*) of what comes along with *name* in the stage *stage*.

    What is asked for later than at the probe comes along only where no user space could answer: into the critical
    stage and those beside it.
    """
    early = _is_early(profile.stages[stage])
    found: dict[str, bool] = {}
    for need in needs_of(name, profile):
        if need.sure and (early or need.when is not When.USE):
            for module in _modules(need.words, tree):
                if module != name:
                    found.setdefault(module, need.when is When.INIT)
    return list(found.items())


def open_needs(names: Iterable[str], profile: Profile, tree: ModuleTree) -> list[str]:
    """A note for each module of *names*, the critical stage's, that may need what is neither there nor built in."""
    there = set(names)
    notes = []
    for name in sorted(there):
        for need in needs_of(name, profile):
            missing = [word for word in need.words if _is_missing(word, there, tree)]
            if not need.sure and missing:
                notes.append(f"{name} asks for {need.what} by name: if it is needed, add {', '.join(missing)}")
    return notes


def _is_missing(word: str, there: set[str], tree: ModuleTree) -> bool:
    modules, builtin = tree.resolve(word)
    return bool(modules) and not builtin and not there & set(modules)


def _is_early(stage: Stage) -> bool:
    return stage.trigger is None or stage.trigger.kind is TriggerKind.NOW


def _modules(words: Iterable[str], tree: ModuleTree) -> list[str]:
    return [module for word in words for module in tree.resolve(word)[0]]
