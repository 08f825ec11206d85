"""Signatures of megamodules, judged by openssl; where one is needed, and with which key."""

from __future__ import annotations

import datetime
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from megamod.common.errors import MegamodError
from megamod.image.signing.sign import Signer, digest_of, find_key, why_enforced
from megamod.image.signing.signature import MARKER
from megamod.kernel.config import KernelConfig, parse_config
from megamod.modules.tree import ModuleTree

RELEASE = "6.1.0-1-test"
LOCKED = "none [integrity] confidentiality\n"


def make_key(folder: Path, key: str = "var/lib/dkms/mok.key", certificate: str = "var/lib/dkms/mok.pub") -> str:
    """A key and its certificate in DER, as DKMS makes them; returns the key's identifier."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "DKMS module signing key")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
    now = datetime.datetime(2026, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(0x0123456789)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
        .add_extension(identifier, critical=False)
        .sign(private, hashes.SHA256())
    )
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for place, data in ((key, private.private_bytes(pem, pkcs8, plain)), (certificate, made.public_bytes(_DER))):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(data)
    return identifier.digest.hex()


_DER = serialization.Encoding.DER


def make_tree(root: Path, config: str = 'CONFIG_MODULE_SIG_HASH="sha256"\n') -> ModuleTree:
    folder = root / "lib/modules" / RELEASE
    folder.mkdir(parents=True)
    (folder / "config").write_text(config)
    return ModuleTree(release=RELEASE, folder=folder, modules={}, indexes={})


def lock_down(root: Path, text: str = LOCKED) -> None:
    (root / "sys/kernel/security").mkdir(parents=True)
    (root / "sys/kernel/security/lockdown").write_text(text)


def trust(root: Path, identifier: str) -> None:
    (root / "proc").mkdir()
    line = (
        f"2a8d3c4e I------ 1 perm 1f030000 0 0 asymmetri DKMS module signing key: {identifier}: X509.rsa 89abcdef []\n"
    )
    (root / "proc/keys").write_text(line)


def parts(signed: bytes) -> tuple[bytes, bytes]:
    """(module, CMS) of a signed file, taken apart as mod_check_sig() does."""
    assert signed.endswith(MARKER)
    rest = signed[: -len(MARKER)]
    zeros, kind, pad, length = struct.unpack(">2sB5sI", rest[-12:])
    assert (zeros, kind, pad) == (bytes(2), 2, bytes(5))
    return rest[: -12 - length], rest[-12 - length : -12]


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_openssl_verifies_the_signature_with_the_certificate(
    digest: str, tool: Callable[..., str], tmp_path: Path
) -> None:
    make_key(tmp_path)
    key, certificate = find_key(tmp_path)
    module = bytes(range(256)) * 100
    signed = Signer(key=key, certificate=certificate, digest=digest).sign(module)
    content, cms = parts(signed)
    assert content == module
    (tmp_path / "content").write_bytes(content)
    (tmp_path / "cms").write_bytes(cms)
    openssl = tool("openssl", package="openssl")
    pem = subprocess.run(
        [openssl, "x509", "-inform", "DER", "-in", certificate], capture_output=True, check=True
    ).stdout
    (tmp_path / "cert.pem").write_bytes(pem)
    # The certificate is not in the signature: it is given, and its chain is nobody's business.
    command = [openssl, "cms", "-verify", "-binary", "-inform", "DER", "-in", tmp_path / "cms", "-noverify"]
    command += ["-content", tmp_path / "content", "-certfile", tmp_path / "cert.pem", "-out", "/dev/null"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (tmp_path / "content").write_bytes(content[:-1] + b"x")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_signature_has_no_certificates_and_no_attributes(tool: Callable[..., str], tmp_path: Path) -> None:
    make_key(tmp_path)
    key, certificate = find_key(tmp_path)
    _content, cms = parts(Signer(key=key, certificate=certificate, digest="sha256").sign(b"module"))
    (tmp_path / "cms").write_bytes(cms)
    openssl = tool("openssl", package="openssl")
    command = [openssl, "cms", "-cmsout", "-print", "-inform", "DER", "-in", tmp_path / "cms"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = " ".join(said.split())
    assert "certificates: <ABSENT>" in text
    assert "signedAttrs: <ABSENT>" in text
    assert "eContent: <ABSENT>" in text
    assert f"serialNumber: {0x0123456789}" in text


@pytest.mark.parametrize(
    ("config", "lockdown", "sig_enforce", "wanted"),
    [
        ("", None, "N", None),
        ("", "[none] integrity confidentiality\n", "N", None),
        ("", LOCKED, "N", "the kernel is locked down (integrity): modules must be signed"),
        ("", None, "Y", "module.sig_enforce is set: modules must be signed"),
        ("CONFIG_MODULE_SIG_FORCE=y\n", None, "N", "config:1: CONFIG_MODULE_SIG_FORCE=y: modules must be signed"),
    ],
)
def test_what_enforces_signatures_is_named(
    config: str, lockdown: str | None, sig_enforce: str, wanted: str | None, tmp_path: Path
) -> None:
    if lockdown:
        lock_down(tmp_path, lockdown)
    (tmp_path / "sys/module/module/parameters").mkdir(parents=True)
    (tmp_path / "sys/module/module/parameters/sig_enforce").write_text(f"{sig_enforce}\n")
    assert why_enforced(parse_config(config, source="config"), tmp_path) == wanted


def test_a_kernel_that_takes_unsigned_modules_needs_no_key(tmp_path: Path) -> None:
    assert Signer.for_machine(make_tree(tmp_path), host=tmp_path) is None


def test_a_locked_kernel_without_a_key_is_an_error_with_the_way_to_one(tmp_path: Path) -> None:
    lock_down(tmp_path)
    with pytest.raises(MegamodError, match=r"locked down .* there is no key .*dkms generate_mok.*mokutil --import"):
        Signer.for_machine(make_tree(tmp_path), host=tmp_path)


def test_an_untrusted_key_is_an_error_that_says_how_to_enrol_it(tmp_path: Path) -> None:
    lock_down(tmp_path)
    make_key(tmp_path)
    trust(tmp_path, "00" * 20)
    with pytest.raises(MegamodError, match=r"does not trust .*mok\.pub \(hint: enrol it: `mokutil --import"):
        Signer.for_machine(make_tree(tmp_path), host=tmp_path)


def test_a_trusted_key_is_used_with_the_kernels_digest(tmp_path: Path) -> None:
    lock_down(tmp_path)
    trust(tmp_path, make_key(tmp_path))
    signer = Signer.for_machine(make_tree(tmp_path, 'CONFIG_MODULE_SIG_HASH="sha512"\n'), host=tmp_path)
    assert signer is not None
    assert (signer.key, signer.digest) == (tmp_path / "var/lib/dkms/mok.key", "sha512")


def test_dkms_configuration_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "etc/dkms/framework.conf.d").mkdir(parents=True)
    (tmp_path / "etc/dkms/framework.conf").write_text("# mok_signing_key=/no\nmok_certificate=/etc/keys/a.der\n")
    (tmp_path / "etc/dkms/framework.conf.d/own.conf").write_text('mok_signing_key="/etc/keys/a.key"\n')
    assert find_key(tmp_path) == (tmp_path / "etc/keys/a.key", tmp_path / "etc/keys/a.der")


def test_ubuntus_key_is_found_where_dkms_has_none(tmp_path: Path) -> None:
    make_key(tmp_path, "var/lib/shim-signed/mok/MOK.priv", "var/lib/shim-signed/mok/MOK.der")
    assert find_key(tmp_path)[1] == tmp_path / "var/lib/shim-signed/mok/MOK.der"


def test_a_digest_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    make_key(tmp_path)
    key, certificate = find_key(tmp_path)
    with pytest.raises(MegamodError, match="CONFIG_MODULE_SIG_HASH=sm3: signing with this digest is not supported"):
        Signer(key=key, certificate=certificate, digest="sm3").sign(b"")
    assert digest_of(KernelConfig(source="", values={})) == "sha256"


def test_a_file_that_is_no_key_is_an_error(tmp_path: Path) -> None:
    make_key(tmp_path)
    key, certificate = find_key(tmp_path)
    key.write_text("nothing\n")
    with pytest.raises(MegamodError, match=r"mok\.key: cannot sign with this key"):
        Signer(key=key, certificate=certificate, digest="sha256").sign(b"")
