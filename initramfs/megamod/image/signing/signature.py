"""The signature at the end of a module file, read and judged: the reverse of sign.py.

Needs the bytes of a file; knows the CMS form of scripts/sign-file.c and what openssl makes of the same (RFC 5652, with
and without signed attributes), signed by RSA (PKCS #1 v1.5) or ECDSA. The kernel takes whatever
crypto/asymmetric_keys/pkcs7_verify.c takes; this takes no more.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

MARKER = b"~Module signature appended~\n"
_TRAILER = struct.Struct(">BBBBB3xI")
_PKCS7 = 2
_SEQUENCE, _SET, _OID, _OCTETS, _INTEGER = 0x30, 0x31, 0x06, 0x04, 0x02
_CONTEXT0, _KEY_ID = 0xA0, 0x80
_SIGNED_DATA = "1.2.840.113549.1.7.2"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
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
    key identifier names the signer), *serial* its number or that identifier in hexadecimal digits."""

    content: bytes
    digest: str
    issuer: str
    serial: str
    value: bytes
    attributes: bytes | None
    message_digest: bytes | None

    def why_wrong(self, certificate: x509.Certificate) -> str | None:
        """What is wrong with the signature if *certificate* is to be the signer's; None if nothing is."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

        if self.serial not in certificate_names(certificate):
            return f"signed by another certificate, {self.serial}, not by {certificate_names(certificate)[0]}"
        known: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
            "sha256": hashes.SHA256(),
            "sha384": hashes.SHA384(),
            "sha512": hashes.SHA512(),
        }
        if self.digest not in known:
            return f"the digest {self.digest} is not checked here"
        algorithm, signed = known[self.digest], self.content
        if self.attributes is not None:
            state = hashes.Hash(algorithm)
            state.update(self.content)
            if state.finalize() != self.message_digest:
                return "the file is not what was signed"
            signed = self.attributes
        key = certificate.public_key()
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(self.value, signed, padding.PKCS1v15(), algorithm)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(self.value, signed, ec.ECDSA(algorithm))
            else:
                return "the certificate's key is neither RSA nor ECDSA"
        except InvalidSignature:
            return "the file is not what was signed, or the signature is damaged"
        return None


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
    algorithm, digest, kind, signer, identifier, length = _TRAILER.unpack_from(data, max(end, 0))
    # mod_check_sig() (kernel/module_signature.c, 6.1)
    if end < length or kind != _PKCS7 or algorithm or digest or signer or identifier:
        raise MegamodError(f"{file}: its signature is damaged: the PKCS #7 trailer is missing")
    content, cms = data[: end - length], data[end - length : end]
    try:
        return _read(content, cms)
    except (ValueError, IndexError, StopIteration) as error:
        raise MegamodError(f"{file}: its signature is damaged: {error or 'it is cut short'}") from None


def _read(content: bytes, cms: bytes) -> Signature:
    kind, wrapped = _walk(_only(cms, _SEQUENCE))
    if kind[0] != _OID or _oid(kind[1]) != _SIGNED_DATA or wrapped[0] != _CONTEXT0:
        raise ValueError("no SignedData")
    fields = list(_walk(_only(wrapped[1], _SEQUENCE)))
    if fields[-1][0] != _SET:
        raise ValueError("no signers")
    infos = list(_walk(fields[-1][1]))
    if len(infos) != 1:
        raise ValueError(f"{len(infos)} signers")
    return _signer(content, iter(_walk(infos[0][1])))


def _signer(content: bytes, fields: Iterator[tuple[int, bytes, bytes]]) -> Signature:
    """SignerInfo (RFC 5652, 5.3): version, sid, digestAlgorithm, [0] attributes, signatureAlgorithm, signature."""
    next(fields)
    tag, sid, _whole = next(fields)
    issuer, serial = "", sid.hex()
    if tag == _SEQUENCE:
        (_tag, _name, name), (_tag, number, _number) = _walk(sid)
        issuer, serial = _words(name), f"{int.from_bytes(number, 'big', signed=True):x}"
    elif tag != _KEY_ID:
        raise ValueError("no signer identifier")
    digest = _oid(next(_walk(next(fields)[1]))[1])
    tag, body, whole = next(fields)
    attributes = message = None
    if tag == _CONTEXT0:
        # What is signed is the same with the tag of a SET (RFC 5652, 5.4).
        attributes = bytes([_SET]) + whole[1:]
        for _tag, attribute, _whole in _walk(body):
            (_tag, name, _whole), (_tag, values, _whole) = _walk(attribute)
            if _oid(name) == _MESSAGE_DIGEST:
                message = _only(values, _OCTETS)
        next(fields)
    tag, value, _whole = next(fields)
    if tag != _OCTETS:
        raise ValueError("no signature value")
    return Signature(
        content=content,
        digest=_DIGESTS.get(digest, digest),
        issuer=issuer,
        serial=serial,
        value=value,
        attributes=attributes,
        message_digest=message,
    )


def _only(data: bytes, tag: int) -> bytes:
    """The content of the one element in *data*, which must have *tag*; what follows it is looked at by nobody."""
    found, body, _whole = next(_walk(data))
    if found != tag:
        raise ValueError(f"tag {found:#x} where {tag:#x} was expected")
    return body


def _walk(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(tag, content, whole element) of each DER element in *data* (X.690, 8.1; definite lengths alone)."""
    at = 0
    while at < len(data):
        tag, length, start = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, start = int.from_bytes(data[start : start + size], "big"), start + size
            if not 0 < size <= 4:
                raise ValueError("a length that DER does not have")
        if start + length > len(data):
            raise ValueError("it is cut short")
        yield tag, data[start : start + length], data[at : start + length]
        at = start + length


def _oid(body: bytes) -> str:
    numbers, value = [], 0
    for byte in body:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def _words(name: bytes) -> str:
    """A distinguished name: `CN=Build time autogenerated kernel key`, in the order written."""
    short = {"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU"}
    words = []
    for _tag, relative, _whole in _walk(_only(name, _SEQUENCE)):
        for _tag, pair, _whole in _walk(relative):
            (_tag, kind, _whole), (_tag, text, _whole) = _walk(pair)
            words.append(f"{short.get(_oid(kind), _oid(kind))}={text.decode('utf-8', 'replace')}")
    return ", ".join(words)
