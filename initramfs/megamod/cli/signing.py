"""`megamod sign` and `megamod verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from megamod.cli.options import FILE, say
from megamod.common.errors import MegamodError

_ELF = b"\x7fELF"


@click.command()
@click.argument("module", type=FILE, metavar="MODULE.ko")
@click.option("--key", required=True, metavar="FILE|URI", help="The private key, PEM or DER, or a pkcs11: URI.")
@click.option("--cert", required=True, type=FILE, metavar="FILE", help="Its certificate, PEM or DER.")
@click.option(
    "--digest",
    type=click.Choice(["sha256", "sha384", "sha512"]),
    default="sha256",
    show_default=True,
    help="The hash that is signed.",
)
@click.option("-o", "--output", type=FILE, metavar="OUT.ko", help="Write here; default: MODULE.ko itself.")
def sign(*, module: Path, key: str, cert: Path, digest: str, output: Path | None) -> None:
    """Sign a module as the kernel's own build does.

    A signature that already exists is replaced.
    """
    from megamod.common.compression import read_module_bytes
    from megamod.common.files import atomic_write, not_an_input
    from megamod.image.signing.sign import Signer
    from megamod.image.signing.signature import read_signature

    not_an_input(output or module, (cert, None if key.startswith("pkcs11:") else Path(key)))
    signer = Signer(key=key if key.startswith("pkcs11:") else Path(key), certificate=cert, digest=digest)
    signer.check()
    data = read_module_bytes(module)
    if data[:4] != _ELF:
        raise MegamodError(f"{module}: is not a module", hint="only .ko files can be signed")
    if output is None and module.read_bytes()[:4] != _ELF:
        # The kernel checks what is unpacked; a plain file under the old name would be a surprise.
        raise MegamodError(f"{module}: is compressed", hint="-o OUT.ko names a file for the plain, signed module")
    present = read_signature(data, file=str(module))
    signed = signer.sign(present.content if present else data)
    atomic_write(output or module, signed)


@click.command()
@click.argument("file", type=FILE, metavar="MODULE.ko")
@click.option("--cert", type=FILE, metavar="FILE", help="Check against this certificate.")
def verify(*, file: Path, cert: Path | None) -> None:
    """Check a module's signature; status 1 if missing or wrong.

    Valid is what the kernel takes if it trusts the certificate; without one only the signature's form is looked at.
    """
    from megamod.common.compression import read_module_bytes
    from megamod.image.signing.sign import read_certificate
    from megamod.image.signing.signature import MARKER, read_signature

    data = read_module_bytes(file)
    if data[:4] != _ELF:
        raise MegamodError(f"{file}: is not a module", hint="megamod inspect shows what is in an image")
    what = _what(file)
    signature = read_signature(data, file=str(file))
    if signature is None:
        inside = "; the mark of a signature is not at its end, so the kernel sees none" if MARKER in data else ""
        say(f"{file}: {what}, not signed{inside}")
        sys.exit(1)
    by = f"{signature.issuer}, serial number {signature.serial}" if signature.issuer else f"key {signature.serial}"
    say(f"{file}: {what}, signed with {signature.digest} by {by}")
    if cert is None and signature.refused is None:
        say("not checked: --cert FILE names the signer's certificate")
        return
    wrong = signature.why_wrong(read_certificate(cert)) if cert is not None else signature.refused
    say(f"invalid: {wrong}" if wrong else "valid")
    sys.exit(1 if wrong else 0)


def _what(file: Path) -> str:
    from megamod.common.text import counted
    from megamod.inspect.inspection import ModuleInspection, inspect_file

    try:
        inspection = inspect_file(file)
    except MegamodError as error:
        if "is not a megamodule" not in error.message:
            raise
        return "module"
    assert isinstance(inspection, ModuleInspection)  # it begins as an ELF file does
    return f"megamodule of {counted(len(inspection.members), 'member')}"
