"""Keys and self-signed certificates for tests, in files."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

_PEM, _PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def make_pair(
    folder: Path, name: str = "modules", *, kind: Literal["rsa", "ec"] = "rsa", password: bytes | None = None
) -> tuple[Path, Path]:
    """`NAME.pem` (the key) and `NAME.crt` in *folder*; the subject is CN=NAME, O=Test."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048) if kind == "rsa" else None
    key = private or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test")]
    )
    certificate = certificate_of(key, subject)
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    paths = folder / f"{name}.pem", folder / f"{name}.crt"
    paths[0].write_bytes(key.private_bytes(_PEM, _PKCS8, lock))
    paths[1].write_bytes(certificate.public_bytes(_PEM))
    return paths


def certificate_of(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, subject: x509.Name, *more: x509.ExtensionType
) -> x509.Certificate:
    """Self-signed, for a hundred years, with a subject key identifier and *more* extensions."""
    start = datetime.datetime(2026, 1, 1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(0x1234ABCD)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
    )
    for extension in (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), *more):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())
