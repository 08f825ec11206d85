"""Module signatures: a megamodule signed with the machine's own key, where its kernel takes nothing else.

The form is that of the kernel's scripts/sign-file.c (6.1): the file, a CMS signature in DER (detached, binary, without
attributes and certificates), struct module_signature and a marker (kernel/module_signing.c mod_check_sig()). The kernel
finds the key by issuer and serial number (crypto/asymmetric_keys/pkcs7_trust.c).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megamod.common.choices import Digest
from megamod.common.compression import read_regular
from megamod.common.errors import MegamodError
from megamod.common.trust import require_trusted
from megamod.image.signing.signature import MARKER
from megamod.image.signing.token import sign_on_token
from megamod.kernel.config import KernelConfig, find_config
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    from megamod.image.signing.member_trust import MemberTrust

    _Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

_PKEY_ID_PKCS7 = 2  # include/linux/module_signature.h
_MAX_KEY = 1 << 20
_OPTIONS = {"sha256": "CRYPTO_SHA256", "sha384": "CRYPTO_SHA512", "sha512": "CRYPTO_SHA512"}

# DKMS's settings (dkms(8), framework.conf) and its own key; Ubuntu's DKMS uses the key of shim-signed.
_DKMS_CONF = ("etc/dkms/framework.conf", "etc/dkms/framework.conf.d")
_DKMS_LINE = re.compile(
    r"^\s*(mok_signing_key|mok_certificate)\s*=\s*[\"']?([^\"'\s]+)[\"']?\s*(?:#.*)?$", re.MULTILINE
)
_KEYS = (
    ("var/lib/dkms/mok.key", "var/lib/dkms/mok.pub"),
    ("var/lib/shim-signed/mok/MOK.priv", "var/lib/shim-signed/mok/MOK.der"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A key with its certificate, files in PEM or DER, and the digest that the kernel was built for; *key* may be a
    `pkcs11:` URI, with which openssl signs."""

    key: Path | str
    certificate: Path
    digest: str

    @staticmethod
    def for_machine(tree: ModuleTree, *, host: Path = Path("/")) -> Signer | None:
        """The signer that the kernel of *tree* needs on the machine below *host*; None where it takes unsigned modules.

        Raises MegamodError where it does not and there is no key that it trusts.
        """
        config = find_config(tree.kernel_files)
        why = why_enforced(config, host)
        if why is None:
            return None
        key, certificate = find_key(host)
        if not key.is_file() or not certificate.is_file():
            raise MegamodError(
                f"{why}, and there is no key to sign a megamodule with",
                hint=f"make one with `dkms generate_mok`, then `mokutil --import {certificate}` and restart",
            )
        require_trusted(key, "a key")
        require_trusted(certificate, "a certificate")
        signer = Signer(key=key, certificate=certificate, digest=digest_of(config))
        if untrusted := signer.why_untrusted(host):
            raise MegamodError(
                f"{why}, and the kernel does not trust {certificate}: {untrusted}",
                hint=f"enrol it: `mokutil --import {certificate}`, restart, and confirm with the password",
            )
        return signer

    @staticmethod
    def for_profile(profile: Profile, config: KernelConfig | None) -> Signer | None:
        """The signer that the profile names, found to be usable; None if it names none."""
        sign = profile.sign
        if sign is None:
            return None
        digest = digest_of(config) if sign.digest is Digest.AUTO else sign.digest
        key = sign.key if sign.key.startswith("pkcs11:") else Path(sign.key)
        signer = Signer(key=key, certificate=Path(sign.cert), digest=digest)
        try:
            signer.check()
            _check_known(digest, config)
        except MegamodError as error:
            raise MegamodError(f"{sign.location}: sign: {error.message}", hint=error.hint) from None
        return signer

    def check(self) -> None:
        """Raises MegamodError for a key or a certificate that cannot be read, and for two that do not belong together:
        the kernel would find the wrong key. A key on a token is left to openssl."""
        certificate = self._certificate()
        _hash(self.digest)
        if isinstance(self.key, str):
            return
        # The class is that of the certificate's key, or they differ; both compare by value.
        if self._private().public_key() != certificate.public_key():
            raise MegamodError(
                f"{self.key}: is not the key of {self.certificate}", hint="use a key and its own certificate"
            )

    def trust_for(self, tree: ModuleTree, *, host: Path) -> MemberTrust:
        """What the members' own signatures must be of; MegamodError where that cannot be known."""
        from megamod.image.signing.member_trust import member_trust

        trust = member_trust(tree.kernel_files, host=host, own=self._certificate())
        if trust is None:
            raise MegamodError(
                f"{tree.folder}: no kernel image near it: the modules' own signatures cannot be checked",
                hint=f"it is looked for as boot/vmlinuz-{tree.release}",
            )
        return trust

    def name(self) -> str:
        """Whose signature it is, in words: `sha256 by CN=Test key`."""
        return f"{self.digest} by {self._certificate().subject.rfc4514_string() or 'a nameless certificate'}"

    def sign(self, module: bytes) -> bytes:
        """*module* with its signature; raises MegamodError for a key that cannot be used."""
        signature = self._on_token(self.key, module) if isinstance(self.key, str) else self._cms(module)
        trailer = struct.pack(">BBBBB3xI", 0, 0, _PKEY_ID_PKCS7, 0, 0, len(signature))
        return module + signature + trailer + MARKER

    def _on_token(self, uri: str, module: bytes) -> bytes:
        from cryptography.hazmat.primitives import serialization

        certificate = self._certificate().public_bytes(serialization.Encoding.PEM)
        return sign_on_token(uri, module, certificate=certificate, digest=self.digest)

    def _cms(self, module: bytes) -> bytes:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.serialization import pkcs7

        flags = pkcs7.PKCS7Options
        # Without attributes there are no S/MIME capabilities either.
        options = [flags.DetachedSignature, flags.Binary, flags.NoAttributes, flags.NoCerts]
        builder = pkcs7.PKCS7SignatureBuilder().set_data(module)
        try:
            # What kind of key it is the builder says itself.
            builder = builder.add_signer(self._certificate(), self._private(), _hash(self.digest))
            return builder.sign(serialization.Encoding.DER, options)
        except (ValueError, TypeError) as error:
            raise MegamodError(f"{self.key}: cannot sign with this key: {error}") from None

    def _private(self) -> Any:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization

        path = Path(self.key)
        data = self._bytes(path)
        pem = b"-----BEGIN" in data
        try:
            return (serialization.load_pem_private_key if pem else serialization.load_der_private_key)(data, None)
        except TypeError:
            hint = f"decrypt it: openssl pkey -in {path} -out plain.pem; or keep it on a token (pkcs11:…)"
            raise MegamodError(f"{path}: cannot sign with this key: it is encrypted", hint=hint) from None
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MegamodError(f"{path}: cannot sign with this key: {error}") from None

    def why_untrusted(self, host: Path = Path("/")) -> str | None:
        """Why the running kernel, whose /proc lies below *host*, takes no module that is signed with this certificate;
        None if it does."""
        from megamod.image.signing.keyrings import kernel_keys

        keys = kernel_keys(host)
        if keys is None:
            return "its keyrings cannot be read"
        return keys.why_refused(self._certificate())

    def _certificate(self) -> x509.Certificate:
        return read_certificate(self.certificate)

    def _bytes(self, path: Path) -> bytes:
        return read_regular(path, limit=_MAX_KEY)


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in *path*, PEM or DER."""
    from cryptography import x509

    data = read_regular(path, limit=_MAX_KEY)
    try:
        return (x509.load_pem_x509_certificate if b"-----BEGIN" in data else x509.load_der_x509_certificate)(data)
    except ValueError as error:
        raise MegamodError(f"{path}: is not a certificate: {error}") from None


def why_enforced(config: KernelConfig | None, host: Path) -> str | None:
    """What makes the kernel refuse unsigned modules, None if nothing does."""
    if config is not None and config.enabled("MODULE_SIG_FORCE"):
        return f"{config.line_of('MODULE_SIG_FORCE')}: modules must be signed"
    if _text(host / "sys/module/module/parameters/sig_enforce") == "Y":
        return "module.sig_enforce is set: modules must be signed"
    lockdown = re.search(r"\[(integrity|confidentiality)\]", _text(host / "sys/kernel/security/lockdown"))
    return f"the kernel is locked down ({lockdown[1]}): modules must be signed" if lockdown else None


def find_key(host: Path) -> tuple[Path, Path]:
    """(private key, certificate): those that DKMS signs with, by its configuration."""
    files = [host / _DKMS_CONF[0], *sorted((host / _DKMS_CONF[1]).glob("*.conf"))]
    said = {name: value for file in files for name, value in _DKMS_LINE.findall(_text(file))}
    for key, certificate in _KEYS:
        if not said and (host / key).is_file():
            return host / key, host / certificate
    key = said.get("mok_signing_key", f"/{_KEYS[0][0]}")
    certificate = said.get("mok_certificate", f"/{_KEYS[0][1]}")
    return host / key.lstrip("/"), host / certificate.lstrip("/")


def _check_known(digest: str, config: KernelConfig | None) -> None:
    """Raises MegamodError if the kernel can make *digest* only after a module for it is loaded, or never.

    It refuses what is signed so (-ENOPKG, module_sig_check(), kernel/module/signing.c, 6.1).
    """
    option = _OPTIONS.get(digest, "")
    if config is not None and (config.values.get(f"CONFIG_{option}", ("", 0))[0] == "m" or config.is_off(option)):
        hint = f"digest: {digest_of(config)} is what its own modules are signed with"
        raise MegamodError(f"digest {digest}: {config.line_of(option)}: this kernel cannot check it", hint=hint)


def digest_of(config: KernelConfig | None) -> str:
    """CONFIG_MODULE_SIG_HASH, sha256 where it is not known."""
    value = config.values.get("CONFIG_MODULE_SIG_HASH", ("", 0))[0] if config is not None else ""
    return value.strip('"') or "sha256"


def _hash(name: str) -> _Hash:
    from cryptography.hazmat.primitives import hashes

    known: dict[str, _Hash] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
    if name not in known:
        raise MegamodError(f"CONFIG_MODULE_SIG_HASH={name}: signing with this digest is not supported")
    return known[name]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
