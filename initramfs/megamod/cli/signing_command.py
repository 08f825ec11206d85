"""`megamod sign` and `megamod verify`, without click: from plain arguments to output and exit status."""

from __future__ import annotations

from pathlib import Path

import click

from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write, not_an_input
from megamod.common.progress import counted
from megamod.image.signing.sign import Signer, read_certificate
from megamod.image.signing.signature import read_signature
from megamod.inspect.inspection import ModuleInspection, inspect_file

_ELF = b"\x7fELF"


def sign_command(*, module: Path, key: str, cert: Path, digest: str, output: Path | None) -> None:
    """``megamod sign``: in place without *output*; a signature that is there already is replaced."""
    not_an_input(output or module, (cert, None if key.startswith("pkcs11:") else Path(key)))
    signer = Signer(key=key if key.startswith("pkcs11:") else Path(key), certificate=cert, digest=digest)
    signer.check()
    data = read_module_bytes(module)
    if data[:4] != _ELF:
        raise MegamodError(f"{module}: is not a module", hint="only .ko files are signed so")
    if output is None and module.read_bytes()[:4] != _ELF:
        # The kernel checks what is unpacked; a plain file under the old name would be a surprise.
        raise MegamodError(f"{module}: is compressed", hint="-o OUT.ko names a file for the plain, signed module")
    present = read_signature(data, file=str(module))
    signed = signer.sign(present.content if present else data)
    atomic_write(output or module, signed)


def verify_command(*, file: Path, cert: Path | None) -> int:
    """``megamod verify``: 0 for a signature that is there and, with *cert*, is that certificate's; else 1."""
    data = read_module_bytes(file)
    if data[:4] != _ELF:
        raise MegamodError(f"{file}: is not a module", hint="megamod inspect shows what is in an image")
    what = _what(file)
    signature = read_signature(data, file=str(file))
    if signature is None:
        click.echo(f"{file}: {what}, not signed")
        return 1
    by = f"{signature.issuer}, serial number {signature.serial}" if signature.issuer else f"key {signature.serial}"
    click.echo(f"{file}: {what}, signed with {signature.digest} by {by}")
    if cert is None:
        click.echo("not checked: --cert FILE names the signer's certificate")
        return 0
    wrong = signature.why_wrong(read_certificate(cert))
    click.echo(f"invalid: {wrong}" if wrong else "valid")
    return 1 if wrong else 0


def _what(file: Path) -> str:
    try:
        inspection = inspect_file(file)
    except MegamodError as error:
        if "is not a megamodule" not in error.message:
            raise
        return "module"
    assert isinstance(inspection, ModuleInspection)  # it begins as an ELF file does
    return f"megamodule of {counted(len(inspection.members), 'member')}"
