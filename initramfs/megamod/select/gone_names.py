"""Modules that kernels have dropped, renamed or made part of something else, and what takes their place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from megamod.modules.tree import ModuleTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """Kernels before *since* have the module, if they are configured so; *where* its work has gone, and *instead* the
    modules that do it now, none if the kernel's own code does or what needs it brings them along."""

    since: tuple[int, int]
    where: str
    instead: tuple[str, ...] = ()


def _all(names: str, since: tuple[int, int], where: str, *instead: str) -> dict[str, Gone]:
    return dict.fromkeys(names.split(), Gone(since=since, where=where, instead=instead))


_CRC = "the kernel's CRC library, which chooses the processor's instructions itself (lib/crc)"
_HASH = "the kernel's crypto library, which chooses the processor's instructions itself (lib/crypto)"

GONE: Mapping[str, Gone] = MappingProxyType(
    {
        **_all("crc32c_intel crc32_pclmul crct10dif_pclmul crc32_ce crct10dif_ce crc32_arm_ce", (6, 14), _CRC),
        **_all(
            "crct10dif_arm_ce crct10dif_common crct10dif_generic crc64_rocksoft crc64_rocksoft_generic", (6, 14), _CRC
        ),
        **_all("libcrc32c crc32c_generic crc32_generic", (6, 15), _CRC),
        **_all("sha1_ssse3 sha1_ce sha1_arm sha1_arm_neon sha1_generic", (6, 17), _HASH),
        **_all("sha256_ssse3 sha256_generic sha2_ce sha256_arm64 sha256_arm sha2_arm_ce", (6, 16), _HASH),
        **_all("sha512_ssse3 sha512_generic sha512_ce sha512_arm64 sha512_arm", (6, 17), _HASH),
        **_all("chacha_x86_64 poly1305_x86_64 curve25519_x86_64 chacha_neon poly1305_neon", (6, 16), _HASH),
        **_all("blake2s_x86_64 blake2b_generic ghash_clmulni_intel polyval_clmulni", (6, 18), _HASH),
        **_all("aes_x86_64 aes_i586", (5, 4), "other modules", "aes_generic", "aesni_intel"),
        **_all("snd_hda_codec_realtek", (6, 17), "one module a family", "snd_hda_codec_alc269", "snd_hda_codec_alc662"),
        **_all("ntfs", (6, 9), "another driver", "ntfs3"),
        **_all("reiserfs", (6, 13), "no driver: the file system is gone"),
    }
)


def answer_for(name: str, tree: ModuleTree) -> str | None:
    """What became of the module *name* in the kernel of *tree*, which does not have it; None if that is not known."""
    gone = GONE.get(name)
    if gone is None or _version(tree.release) < gone.since:
        return None
    there = [module for module in gone.instead if module in tree.modules or module in tree.builtin]
    if gone.instead:
        return f"{name} has become {gone.where}: {', '.join(there or gone.instead)}"
    return f"{name} has become {gone.where}: leave it out, or write `?{name}`"


def _version(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
