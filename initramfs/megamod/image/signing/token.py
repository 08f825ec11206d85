"""A signature by a key that does not leave its token: openssl makes it, through a PKCS #11 engine or provider.

The form is that of sign.py: CMS in DER, detached, binary, without attributes and certificates.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.host import find_program, run_program

# OpenSSL 3 has both ways, of which engines go away with 4; which of them is installed only trying shows.
_WAYS = (
    ("-engine", "pkcs11", "-keyform", "engine"),
    ("-provider", "pkcs11", "-provider", "default"),
)


def sign_on_token(uri: str, module: bytes, *, certificate: bytes, digest: str) -> bytes:
    """The CMS signature of *module* by the key of the *uri*, with its *certificate* in PEM; the PIN is in the URI
    (`?pin-value=…`,
    `?pin-source=FILE`, RFC 7512). Raises MegamodError with openssl's words."""
    openssl = find_program("openssl", package="openssl")
    said = []
    with tempfile.TemporaryDirectory(prefix="megamod-sign-") as folder:
        content, out = Path(folder) / "content", Path(folder) / "cms"
        content.write_bytes(module)
        signer = Path(folder) / "cert.pem"
        signer.write_bytes(certificate)
        for way in _WAYS:
            command: list[str | Path] = [openssl, "cms", "-sign", *way, "-inkey", uri]
            command += ["-signer", signer, "-md", digest, "-in", content, "-out", out, "-outform", "DER"]
            command += ["-binary", "-noattr", "-nocerts", "-nosmimecap"]
            try:
                run_program(command)
            except MegamodError as error:
                said.append(f"{way[0].removeprefix('-')}: {error.message.removeprefix('openssl: ')}")
                continue
            return out.read_bytes()
    # A PIN may be part of the URI.
    name = uri.partition("?")[0]
    raise MegamodError(
        f"{name}: openssl cannot sign with it: {'; '.join(said)}",
        hint="apt install libengine-pkcs11-openssl, or pkcs11-provider",
    )
