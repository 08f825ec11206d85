"""Signatures of megamodules, judged by openssl; where one is needed, and with which key."""

from __future__ import annotations

import datetime
import hashlib
import os
import struct
import subprocess
import sys
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


RINGS = {0x10: [0x2A8D3C4E], 0x11: [0x10, 0x12], 0x12: [0x20], 0x13: [0x21], 0x14: [0x22], 0x15: [0x23]}
"""What is linked into the keyrings of `trust`: into .secondary_trusted_keys the built-in ones and .machine."""


@pytest.fixture(autouse=True)
def keyrings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megamod.image.signing.keyrings.read_keyring", RINGS.get)


def trust(root: Path, *identifiers: str, version: str = "", secondary: bool = True, more: str = "") -> None:
    """/proc/keys with a key in each of .builtin_trusted_keys, .machine, .platform, .ima and .blacklist, in order."""
    (root / "proc").mkdir()
    names = (".builtin_trusted_keys", ".secondary_trusted_keys", ".machine", ".platform", ".ima", ".blacklist")
    lines = [
        f"{number:08x} I------     1 perm 1f0f0000     0     0 keyring   {name}: 1\n"
        for number, name in enumerate(names, start=0x10)
        if secondary or name != names[1]
    ]
    lines += [
        f"{number:08x} I------     1 perm 1f030000     0     0 asymmetri Key: {number}: {name}: X509.rsa 89abcdef []\n"
        for number, name in zip((0x2A8D3C4E, 0x20, 0x21, 0x22, 0x23), identifiers, strict=False)
    ]
    (root / "proc/keys").write_text("".join(lines) + more)
    (root / "proc/version").write_text(version)


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
    with pytest.raises(
        MegamodError, match=r"does not trust .*mok\.pub: it is in none .* \(hint: enrol it: `mokutil --import"
    ):
        Signer.for_machine(make_tree(tmp_path), host=tmp_path)


DEBIAN = "Linux version 6.12 (debian-kernel@lists.debian.org) (gcc) #1 SMP\n"


@pytest.mark.parametrize(
    ("place", "version", "wanted"),
    [
        (0, "", None),
        (1, "", None),
        (2, DEBIAN, None),
        (
            2,
            "Linux version 6.12 (somebody@example) #1\n",
            "it is in the keyring .platform alone, which is not used for",
        ),
        (3, DEBIAN, "it is in the keyring .ima alone, which is not used for modules"),
        (4, DEBIAN, "the kernel has revoked it"),
        (9, DEBIAN, "it is in none of the kernel's keyrings for modules"),
    ],
)
def test_only_keyrings_that_the_kernel_uses_for_modules_count(
    place: int, version: str, wanted: str | None, tmp_path: Path
) -> None:
    own = make_key(tmp_path)
    trust(tmp_path, *(own if number == place else "00" * 20 for number in range(5)), version=version)
    key, certificate = find_key(tmp_path)
    why = Signer(key=key, certificate=certificate, digest="sha256").why_untrusted(tmp_path)
    assert (why or "").startswith(wanted or "") and (why is None) == (wanted is None)


def test_a_revoked_key_does_not_count_in_any_keyring(tmp_path: Path) -> None:
    own = make_key(tmp_path)
    key, certificate = find_key(tmp_path)
    trust(tmp_path, own, "00", "00", "00", own)
    assert (
        Signer(key=key, certificate=certificate, digest="sha256").why_untrusted(tmp_path) == "the kernel has revoked it"
    )


def test_the_hash_of_a_certificate_can_be_revoked(tmp_path: Path) -> None:
    own = make_key(tmp_path)
    key, certificate = find_key(tmp_path)
    signed = x509.load_der_x509_certificate(certificate.read_bytes()).tbs_certificate_bytes
    line = "00000abc I------     1 perm 0c030000     0     0 blacklist tbs:{}: \n"
    trust(tmp_path, own, more=line.format(hashlib.sha256(signed + b"x").hexdigest()))
    signer = Signer(key=key, certificate=certificate, digest="sha256")
    assert signer.why_untrusted(tmp_path) is None
    with (tmp_path / "proc/keys").open("a") as file:
        file.write(line.format(hashlib.sha256(signed).hexdigest()))
    assert signer.why_untrusted(tmp_path) == "the kernel has revoked it"


def test_without_a_secondary_keyring_that_of_the_kernel_itself_counts_alone(tmp_path: Path) -> None:
    own = make_key(tmp_path)
    key, certificate = find_key(tmp_path)
    signer = Signer(key=key, certificate=certificate, digest="sha256")
    trust(tmp_path, "00", own, secondary=False)
    assert signer.why_untrusted(tmp_path) == "it is in the keyring .machine alone, which is not used for modules"
    assert signer.why_untrusted(tmp_path / "nowhere") == "its keyrings cannot be read"


def test_keyctl_lists_what_proc_keys_counts() -> None:
    """Of this machine's own keyrings, by the code that the other tests replace."""
    code = (
        "from megamod.image.signing.keyrings import read_keyring; import re\n"
        "for line in open('/proc/keys'):\n"
        "    found = re.search(r'^([0-9a-f]{8}) .* keyring +\\.\\S+: (\\d+|empty)$', line)\n"
        "    members = read_keyring(int(found[1], 16)) if found else None\n"
        "    if members is not None:\n"
        "        assert len(members) == int(found[2].replace('empty', '0')), line\n"
    )
    if os.access("/proc/keys", os.R_OK):
        subprocess.run([sys.executable, "-c", code], check=True)


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
