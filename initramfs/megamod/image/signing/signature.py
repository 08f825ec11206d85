"""The signature at the end of a module file, read and judged: the reverse of sign.py.

Needs the bytes of a file; knows the CMS form of scripts/sign-file.c and what openssl makes of the same (RFC 5652),
signed by RSA (PKCS #1 v1.5) or ECDSA. Takes nothing that the kernel refuses (pkcs7_parser.c and pkcs7_verify.c in
crypto/asymmetric_keys, 6.1), and not all that it takes: one signer, DER, SHA-2 of 256 bits and more.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megamod.common.errors import MegamodError
from megamod.image.signing.der import CONTEXT0, INTEGER, KEY_ID, OCTETS, OID, SEQUENCE, SET, oid, only, walk, words_of

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

MARKER = b"~Module signature appended~\n"
_TRAILER = struct.Struct(">BBBBB3sI")
_PKCS7 = 2
_SIGNED_DATA = "1.2.840.113549.1.7.2"
_DATA = "1.2.840.113549.1.7.1"
# The names of a signature's algorithm that the kernel knows (pkcs7_sig_note_pkey_algo()): RSA by its key's alone.
_RSA = "1.2.840.113549.1.1.1"
_ECDSA = {"1.2.840.10045.4.3.2": "sha256", "1.2.840.10045.4.3.3": "sha384", "1.2.840.10045.4.3.4": "sha512"}
_DIGESTS = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
    "2.16.840.1.101.3.4.2.4": "sha224",
    "2.16.840.1.101.3.4.2.8": "sha3-256",
    "2.16.840.1.101.3.4.2.9": "sha3-384",
    "2.16.840.1.101.3.4.2.10": "sha3-512",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """*content* is what is signed, *digest* its name, *issuer* the signer's certificate's issuer in words ("" where a
    key identifier names the signer), *serial* its number or that identifier in hexadecimal digits. *name* is the issuer
    in DER, *algorithm* the identifier of the kind of signature; *refused* says why the kernel takes it from nobody."""

    content: bytes
    digest: str
    issuer: str
    serial: str
    value: bytes
    name: bytes
    algorithm: str
    refused: str | None

    def why_wrong(self, certificate: x509.Certificate) -> str | None:
        """What is wrong with the signature if *certificate* is to be the signer's; None if nothing is."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

        if self.refused is not None:
            return self.refused
        if self.serial not in certificate_names(certificate) or self.name not in (b"", _issuer(certificate)):
            own = f"{words_of(_issuer(certificate))}, {certificate_names(certificate)[0]}"
            return f"signed by another certificate, {self.issuer or 'key'}, {self.serial}, not by {own}"
        known: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
            "sha256": hashes.SHA256(),
            "sha384": hashes.SHA384(),
            "sha512": hashes.SHA512(),
        }
        if self.digest not in known:
            return f"the digest {self.digest} is not checked here"
        algorithm = known[self.digest]
        key = certificate.public_key()
        try:
            if isinstance(key, rsa.RSAPublicKey) and self.algorithm == _RSA:
                key.verify(self.value, self.content, padding.PKCS1v15(), algorithm)
            elif isinstance(key, ec.EllipticCurvePublicKey) and self.algorithm in _ECDSA:
                key.verify(self.value, self.content, ec.ECDSA(algorithm))
            else:
                return f"the kernel does not check signatures of the kind {self.algorithm} by this certificate's key"
        except InvalidSignature:
            return "the file is not what was signed, or the signature is damaged"
        return None


def _issuer(certificate: x509.Certificate) -> bytes:
    return certificate.issuer.public_bytes()


def certificate_names(certificate: x509.Certificate) -> list[str]:
    """What a signature may call its signer, in hexadecimal digits: the serial number, the subject key identifier."""
    from cryptography import x509

    names = [f"{certificate.serial_number:x}"]
    with contextlib.suppress(x509.ExtensionNotFound):
        names.append(certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex())
    return names


def read_signature(data: bytes, *, file: str) -> Signature | None:
    """The signature of the module *data*, None if it has none; MegamodError for one that cannot be read."""
    if not data.endswith(MARKER):
        return None
    end = len(data) - len(MARKER) - _TRAILER.size
    *parameters, padding, length = _TRAILER.unpack_from(data, max(end, 0))
    # mod_check_sig() (kernel/module_signature.c, 6.1)
    if end <= length or parameters != [0, 0, _PKCS7, 0, 0] or any(padding):
        raise MegamodError(f"{file}: its signature is damaged: the PKCS #7 trailer is missing")
    content, cms = data[: end - length], data[end - length : end]
    try:
        return _read(content, cms)
    except (ValueError, IndexError, StopIteration) as error:
        raise MegamodError(f"{file}: its signature is damaged: {error or 'it is cut short'}") from None


def _read(content: bytes, cms: bytes) -> Signature:
    kind, wrapped = walk(only(cms, SEQUENCE))
    if kind[0] != OID or oid(kind[1]) != _SIGNED_DATA or wrapped[0] != CONTEXT0:
        raise ValueError("no SignedData")
    fields = list(walk(only(wrapped[1], SEQUENCE)))
    if len(fields) < 4 or fields[-1][0] != SET:
        raise ValueError("no signers")
    infos = list(walk(fields[-1][1]))
    if len(infos) != 1:
        raise ValueError(f"{len(infos)} signers")
    # SignedData (RFC 5652, 5.1): version, digestAlgorithms, encapContentInfo, …
    return _signer(content, iter(walk(infos[0][1])), version=fields[0][1], inner=list(walk(fields[2][1])))


def _signer(
    content: bytes, fields: Iterator[tuple[int, bytes, bytes]], *, version: bytes, inner: list[tuple[int, bytes, bytes]]
) -> Signature:
    """SignerInfo (RFC 5652, 5.3): version, sid, digestAlgorithm, [0] attributes, signatureAlgorithm, signature."""
    tag, own_version, _whole = next(fields)
    if tag != INTEGER:
        raise ValueError("no version")
    tag, sid, _whole = next(fields)
    issuer, serial, name = "", sid.hex(), b""
    if tag == SEQUENCE:
        (_tag, _name, name), (_tag, number, _number) = walk(sid)
        issuer, serial = words_of(name), f"{int.from_bytes(number, 'big', signed=True):x}"
    elif tag != KEY_ID:
        raise ValueError("no signer identifier")
    digest = oid(next(walk(next(fields)[1]))[1])
    tag, body, _whole = next(fields)
    refused = _why_refused(inner, version, own_version, by_key=not name)
    if tag == CONTEXT0:
        refused = refused or "it has signed attributes, which the kernel takes for no module"
        tag, body, _whole = next(fields)
    algorithm = oid(next(walk(body))[1])
    tag, value, _whole = next(fields)
    if tag != OCTETS:
        raise ValueError("no signature value")
    if algorithm != _RSA and _ECDSA.get(algorithm, "") not in ("", _DIGESTS.get(digest)):
        refused = refused or "its two names of a digest differ"
    return Signature(
        content=content,
        digest=_DIGESTS.get(digest, digest),
        issuer=issuer,
        serial=serial,
        value=value,
        name=name,
        algorithm=algorithm,
        refused=refused,
    )


def _why_refused(
    inner: list[tuple[int, bytes, bytes]], version: bytes, own_version: bytes, *, by_key: bool
) -> str | None:
    """What the kernel takes no signature with, whoever made it (pkcs7_verify(), pkcs7_supply_detached_data(),
    pkcs7_note_signerinfo_version())."""
    if not inner or inner[0][0] != OID or oid(inner[0][1]) != _DATA:
        return "it is not of plain data"
    if len(inner) > 1:
        return "it has content of its own, where that of the module belongs"
    if (version, own_version) != ((b"\3", b"\3") if by_key else (b"\1", b"\1")):
        return "its version does not fit the way that it names its signer"
    return None
