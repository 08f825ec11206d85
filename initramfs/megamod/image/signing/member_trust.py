"""Whether a module may get our signature by way of a megamodule: only if its own signature holds.

A kernel that takes signed modules only would take everything that is merged and signed here, so each member must be
what the kernel would have taken itself: signed by a key whose certificate is built into the kernel
(certs/system_keyring.c load_system_certificate_list(), 6.1), enrolled by the machine's owner (MokListRT), or the
signer's own. Of the machine that it is for those count that its running kernel takes for modules and has not revoked
(keyrings.py); of another, certificates in a revocation list (system_revocation_list) cannot be told from those in the
kernel's image, which has no symbols.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from megamod.common.cache import file_key, read_entry, write_entry
from megamod.common.compression import read_regular
from megamod.common.errors import MegamodError
from megamod.image.signing.keyrings import kernel_keys
from megamod.image.signing.signature import certificate_names, read_signature
from megamod.kernel.exports import kernel_image_of
from megamod.kernel.kernel_image import unpacked_kernel
from megamod.modules.kernel_files import KernelFiles

# A certificate in DER: a SEQUENCE of more than 255 bytes that begins with another one.
_DER = re.compile(rb"\x30\x82(..)\x30\x82", re.DOTALL)
_MOK_LIST = "sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"
_X509_GUID = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")  # EFI_CERT_X509_GUID, UEFI 2.10, 32.4.1
_MAX_VARIABLE = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberTrust:
    """*certificates* by subject key identifier or serial number, as a signature names them; *source* says whence."""

    certificates: Mapping[str, tuple[x509.Certificate, ...]]
    source: str

    def why_refused(self, module: bytes, *, file: str) -> str | None:
        """Why the plain bytes of a module must not be merged into one that is signed; None if they may."""
        try:
            signature = read_signature(module, file=file)
        except MegamodError as error:
            return error.message.removeprefix(f"{file}: ")
        if signature is None:
            return "is not signed, and the megamodule will be"
        found = self.certificates.get(signature.serial, ())
        if not found:
            return f"is signed by {signature.issuer or 'key'} {signature.serial}, which is not among {self.source}"
        reasons = [signature.why_wrong(certificate) for certificate in found]
        return None if None in reasons else reasons[0]


def member_trust(files: KernelFiles, *, host: Path | None, own: x509.Certificate) -> MemberTrust | None:
    """What counts for the kernel that *files* belong to, on the machine below *host* (None: any), with
    *own*, the signer's; None where no image of that kernel is found."""
    path = kernel_image_of(files)
    if path is None:
        return None
    keys = kernel_keys(host) if host is not None else None
    built_in = [each for each in kernel_certificates(path) if keys is None or not keys.revokes(each)]
    enrolled = enrolled_certificates(host) if host is not None else []
    enrolled = [each for each in enrolled if keys is not None and keys.why_refused(each) is None]
    return MemberTrust(
        certificates=_by_name([*built_in, *enrolled, own]),
        source=f"the {len(built_in)} certificates in {path}",
    )


def kernel_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates in the kernel image *path*; what an earlier look has found is kept."""
    key = file_key(path)
    body = read_entry("certificates", key)
    if body is None:
        try:
            data = unpacked_kernel(path)
        except MegamodError:
            # Not a bzImage: an image of another architecture may be plain.
            data = read_regular(path, limit=1 << 30)
        body = b"".join(_der_in(data))
        write_entry("certificates", key, body)
    return [x509.load_der_x509_certificate(der) for der in _der_in(body)]


def enrolled_certificates(host: Path) -> list[x509.Certificate]:
    """The machine owner's, in the list that shim leaves for the kernel; none where it cannot be read."""
    try:
        data = read_regular(host / _MOK_LIST, limit=_MAX_VARIABLE)
    except (MegamodError, OSError):
        return []
    found = []
    at = 4  # efivarfs puts the variable's attributes first
    while at + 28 <= len(data):
        # EFI_SIGNATURE_LIST: SignatureType, SignatureListSize, SignatureHeaderSize, SignatureSize
        kind, size, header, each = data[at : at + 16], *struct.unpack_from("<III", data, at + 16)
        if size < 28 or at + size > len(data) or each < 16:
            break
        if kind == _X509_GUID:
            first = at + 28 + header
            for start in range(first, at + size - each + 1, each):
                # SignatureOwner comes before the certificate.
                found += [x509.load_der_x509_certificate(der) for der in _der_in(data[start + 16 : start + each])]
        at += size
    return found


def _der_in(data: bytes) -> Iterator[bytes]:
    end = 0
    for match in _DER.finditer(data):
        if match.start() < end:
            continue
        der = data[match.start() : match.start() + 4 + int.from_bytes(match[1], "big")]
        try:
            x509.load_der_x509_certificate(der).public_key()
        except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm):
            continue
        end = match.start() + len(der)
        yield der


def _by_name(certificates: Iterable[x509.Certificate]) -> dict[str, tuple[x509.Certificate, ...]]:
    found: dict[str, tuple[x509.Certificate, ...]] = {}
    for certificate in certificates:
        for name in certificate_names(certificate):
            found[name] = (*found.get(name, ()), certificate)
    return found
