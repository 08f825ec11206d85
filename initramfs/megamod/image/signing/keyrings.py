"""Which certificates the running kernel takes for modules, and which it has revoked, by its own keyrings.

A module's signature is checked with .secondary_trusted_keys, into which .builtin_trusted_keys and .machine are linked,
or with .builtin_trusted_keys alone where the kernel has no secondary one (kernel/module/signing.c mod_verify_sig() and
certs/system_keyring.c verify_pkcs7_message_sig(), 6.12). .platform, which has the firmware's keys and on older
kernels those of the machine's owner, counts only in the kernels of distributions that patch it in ("KEYS: Make use of
platform keyring for module signature verify"). Keys of other keyrings (.ima, .evm, users' own) are listed in /proc/keys
too, and count for nothing.

What is in a keyring only keyctl(2) tells; /proc/keys names the keys: an asymmetric one by its certificate's subject and
its subject key identifier, or its serial number (x509_key_preparse(), x509_public_key.c).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

_LINE = re.compile(r"([0-9a-f]{8}) \S+ +\S+ +\S+ +[0-9a-f]{8} +\S+ +\S+ +(\S+) +(.*)")
_BUILT_IN, _SECONDARY, _PLATFORM = ".builtin_trusted_keys", ".secondary_trusted_keys", ".platform"
_REVOKED = ".blacklist"
# Whose kernels check modules with .platform too, as /proc/version tells.
_PATCHED = re.compile(r"debian-kernel@lists\.debian\.org|Ubuntu|fedoraproject\.org|redhat\.com")
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "armv7l": 311, "armv6l": 311}
_READ = 11  # KEYCTL_READ, include/uapi/linux/keyctl.h
_MOST_KEYS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelKeys:
    """*names*: the identifiers or numbers, in hexadecimal digits, of the certificates that modules may be signed by;
    *elsewhere* those of keys in other keyrings → the keyring; *revoked* names of certificates, *hashes* of what is
    signed in one (``tbs``) that the kernel refuses."""

    names: frozenset[str]
    elsewhere: Mapping[str, str]
    revoked: frozenset[str]
    hashes: frozenset[str]

    def revokes(self, certificate: x509.Certificate) -> bool:
        """Whether the kernel refuses whatever is signed by *certificate*."""
        return bool(_names(certificate) & self.revoked or _hash_of(certificate) & self.hashes)

    def why_refused(self, certificate: x509.Certificate) -> str | None:
        """Why the kernel takes no module that is signed by *certificate*; None if it does."""
        names = _names(certificate)
        if self.revokes(certificate):
            return "the kernel has revoked it"
        if names & self.names:
            return None
        rings = sorted({self.elsewhere[name] for name in names if name in self.elsewhere})
        if rings:
            return f"it is in the keyring {', '.join(rings)} alone, which is not used for modules"
        return "it is in none of the kernel's keyrings for modules"


def kernel_keys(host: Path) -> KernelKeys | None:
    """The running kernel's keys, by the /proc below *host*; None where they cannot be read."""
    try:
        text = (host / "proc/keys").read_text(errors="replace")
    except OSError:
        return None
    keys = {int(match[1], 16): (match[2], match[3]) for match in map(_LINE.fullmatch, text.splitlines()) if match}
    rings = {body.rpartition(": ")[0]: number for number, (kind, body) in keys.items() if kind == "keyring"}
    trusted = [rings[name] for name in (_SECONDARY, _BUILT_IN) if name in rings][:1]
    if _PLATFORM in rings and _PATCHED.search(_version(host)):
        trusted.append(rings[_PLATFORM])
    listed: dict[int, list[int]] = {}
    for number in rings.values():
        members = read_keyring(number)
        if members is None and number in trusted:
            return None
        listed[number] = members or []
    within = set(_below(trusted, listed))
    elsewhere = {
        name: ring for ring, number in rings.items() if ring != _REVOKED for name in _asymmetric(listed[number], keys)
    }
    return KernelKeys(
        names=frozenset(_asymmetric(within, keys)),
        elsewhere=elsewhere,
        revoked=frozenset(_asymmetric(listed.get(rings.get(_REVOKED, -1), []), keys)),
        hashes=frozenset(body.removeprefix("tbs:").strip(": ") for kind, body in keys.values() if kind == "blacklist"),
    )


def read_keyring(number: int) -> list[int] | None:
    """The serial numbers of the keys that are linked into the keyring *number*; None where that may not be read."""
    call = _KEYCTL.get(os.uname().machine)
    if call is None:
        return None
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    room = 4 * 256
    while room <= 4 * _MOST_KEYS:
        buffer = ctypes.create_string_buffer(room)
        size = int(
            syscall(ctypes.c_long(call), ctypes.c_long(_READ), ctypes.c_long(number), buffer, ctypes.c_size_t(room))
        )
        if size < 0:
            return None
        if size <= room:
            return list(struct.unpack(f"={size // 4}i", buffer.raw[: size // 4 * 4]))
        room = size
    return None


def _below(rings: Iterable[int], listed: Mapping[int, list[int]]) -> Iterator[int]:
    """All that is linked into *rings*, and into keyrings there."""
    seen: set[int] = set()
    waiting = list(rings)
    while waiting:
        number = waiting.pop()
        if number not in seen:
            seen.add(number)
            yield number
            waiting += listed.get(number, [])


def _asymmetric(numbers: Iterable[int], keys: Mapping[int, tuple[str, str]]) -> Iterator[str]:
    """The names of those that are certificates' keys. /proc/keys cuts the name of the type: ``asymmetri``."""
    for number in numbers:
        kind, body = keys.get(number, ("", ""))
        # Subject, name, then what the key's type says of it; a subject may hold anything.
        if kind == "asymmetri" and (match := re.fullmatch(r".*: ([0-9a-f]+): X509\.\S+ [0-9a-f]+ \[.*\]", body)):
            yield match[1]


def _names(certificate: x509.Certificate) -> frozenset[str]:
    """What the kernel may call a certificate: its number as it is encoded, or its subject key identifier."""
    number = certificate.serial_number
    encoded = number.to_bytes(number.bit_length() // 8 + 1, "big").hex()
    names = {f"{number:x}", encoded, encoded.removeprefix("00")}
    with contextlib.suppress(x509.ExtensionNotFound, ValueError):
        name = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
        names = {name, name.removeprefix("00")}
    return frozenset(names)


def _hash_of(certificate: x509.Certificate) -> frozenset[str]:
    """The hash of what is signed in it, by the algorithm that it is signed with (x509_get_sig_params(), 6.12)."""
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None or algorithm.name not in hashlib.algorithms_available:
        return frozenset()
    return frozenset([hashlib.new(algorithm.name, certificate.tbs_certificate_bytes).hexdigest()])


def _version(host: Path) -> str:
    try:
        return (host / "proc/version").read_text(errors="replace")
    except OSError:
        return ""
