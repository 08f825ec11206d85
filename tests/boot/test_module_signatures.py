"""What `megamod verify` says of a signature, judged by a kernel that enforces signatures and trusts the certificate.

One boot tries one small module with many signatures. Nothing that verify calls valid is refused, and what it calls
wrong is refused, but for what it does not look into.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from megamod.boot.debian import Kernel
from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.image.cpio import Entry
from megamod.image.signing.sign import Signer, read_certificate
from megamod.image.signing.signature import MARKER, read_signature
from tests.boot.image_fixtures import MadeOnce
from tests.boot.trusting_kernel import trusting_kernel
from tests.unit.signing_keys import certificate_of, make_pair

STRICTER = {"two signers", "sha1", "sha224"}
"""What the kernel takes and verify does not."""

# Debian 6.1 has the longer digests in a module, without which it takes none of their signatures.
SCRIPT = """
insmod /sha512_generic.ko
for file in /m/*.ko; do
	if insmod $file 2>/err; then echo "VERDICT $file loaded"; rmmod dummy; else echo "VERDICT $file $(cat /err)"; fi
done
poweroff -f
"""


def trailer(size: int, *, kind: int = 2, pad: bytes = bytes(3), algorithm: int = 0) -> bytes:
    """struct module_signature (include/linux/module_signature.h)."""
    return struct.pack(">BBBBB3sI", algorithm, 0, kind, 0, 0, pad, size)


class Signing:
    """openssl's signatures of one module with the kernel's key, in a folder with modules.pem and modules.crt."""

    def __init__(self, openssl: str, folder: Path, content: bytes) -> None:
        self.openssl, self.folder, self.content = openssl, folder, content

    def cms(self, *words: str, key: str = "modules.pem", certificate: str = "modules.crt") -> bytes:
        (self.folder / "content").write_bytes(self.content)
        command = [self.openssl, "cms", "-sign", "-binary", "-outform", "DER", "-in", "content", "-out", "cms"]
        command += ["-inkey", key, "-signer", certificate, *words]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        return (self.folder / "cms").read_bytes()

    def module(self, *words: str, **pair: str) -> bytes:
        cms = self.cms(*words, **pair)
        return self.content + cms + trailer(len(cms)) + MARKER


@pytest.fixture(scope="module")
def folder(made_once: MadeOnce, kernels: Callable[[str], Kernel]) -> Path:
    def make(path: Path) -> None:
        path.mkdir()
        trusting_kernel(kernels("bookworm").vmlinuz, path)

    return made_once("trusting", make)


def other_pairs(folder: Path, source: Path) -> None:
    """A key that the kernel does not know; and its own key under another issuer's name with the same serial number."""
    make_pair(folder, "other")
    key: Any = serialization.load_pem_private_key((source / "modules.pem").read_bytes(), None)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    (folder / "renamed.crt").write_bytes(certificate_of(key, subject).public_bytes(serialization.Encoding.PEM))


def variants(folder: Path, openssl: str, content: bytes) -> Mapping[str, bytes]:
    """The module under each signature; names are what is special in it."""
    signing = Signing(openssl, folder, content)
    bare = ("-noattr", "-nocerts", "-nosmimecap", "-md", "sha256")
    plain, cms = signing.module(*bare), signing.cms(*bare)
    key, certificate = folder / "modules.pem", folder / "modules.crt"
    found = {
        digest: Signer(key=key, certificate=certificate, digest=digest).sign(content)
        for digest in ("sha256", "sha384", "sha512")
    }
    found |= {digest: signing.module(*bare[:-1], digest) for digest in ("sha1", "sha224")}
    found |= {
        "openssl": plain,
        "with its certificate": signing.module(*(word for word in bare if word != "-nocerts")),
        "by key identifier": signing.module(*bare, "-keyid"),
        "attributes": signing.module("-nocerts", "-nosmimecap", "-md", "sha256"),
        "attributes and capabilities": signing.module("-md", "sha256"),
        "content within": signing.module(*bare, "-nodetach"),
        "two signers": signing.module(*bare, "-signer", "other.crt", "-inkey", "other.pem"),
        "another key": signing.module(*bare, key="other.pem", certificate="other.crt"),
        "another issuer": signing.module(*bare, certificate="renamed.crt"),
        "flipped in the module": content[:600] + bytes([content[600] ^ 1]) + content[601:] + plain[len(content) :],
        "flipped in the signature": content + cms[:-3] + bytes([cms[-3] ^ 1]) + cms[-2:] + trailer(len(cms)) + MARKER,
        "cut short": content + cms[:-1] + trailer(len(cms) - 1) + MARKER,
        "length of a byte less": content + cms + trailer(len(cms) - 1) + MARKER,
        "length of a byte more": content + cms + trailer(len(cms) + 1) + MARKER,
        "length of all": content + cms + trailer(len(content) + len(cms)) + MARKER,
        "length beyond the file": content + cms + trailer(1 << 30) + MARKER,
        "no message": content + trailer(0) + MARKER,
        "identifier type 1": content + cms + trailer(len(cms), kind=1) + MARKER,
        "padding": content + cms + trailer(len(cms), pad=b"\0\1\0") + MARKER,
        "algorithm": content + cms + trailer(len(cms), algorithm=1) + MARKER,
        "behind the mark": plain + b"\n",
        "no mark": plain[: -len(MARKER)],
        "unsigned": content,
        "twice": signing.module(*bare) + cms + trailer(len(cms)) + MARKER,
        "zeros": content + bytes(len(cms)) + trailer(len(cms)) + MARKER,
    }
    return found


def _module(kernel: Kernel, name: str) -> bytes:
    return read_module_bytes(next(kernel.modules.rglob(f"{name}.ko*")))


def verified(data: bytes, certificate: x509.Certificate) -> bool:
    try:
        signature = read_signature(data, file="x")
    except MegamodError:
        return False
    return signature is not None and signature.why_wrong(certificate) is None


def loaded(console: str, names: Sequence[str]) -> dict[str, str]:
    found = dict(re.findall(r"VERDICT /m/(\d+)\.ko (.*?)\r?$", console, re.MULTILINE))
    assert len(found) == len(names), console[-2000:]
    return {name: found[f"{number:02}"] for number, name in enumerate(names)}


def test_verify_and_the_kernel_agree_on_every_signature(
    folder: Path,
    kernels: Callable[[str], Kernel],
    tool: Callable[..., str],
    busybox_image: Callable[..., Path],
    boot: Callable[..., Any],
    tmp_path: Path,
) -> None:
    for name in ("modules.pem", "modules.crt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    other_pairs(tmp_path, folder)
    signed = _module(kernels("bookworm"), "dummy")
    signature = read_signature(signed, file="dummy")
    assert signature is not None
    modules = variants(tmp_path, tool("openssl", package="openssl"), signature.content)
    entries = [Entry(path="m", mode=0o040755)]
    entries += [Entry(path=f"m/{n:02}.ko", mode=0o100644, data=data) for n, data in enumerate(modules.values())]
    digests = read_signature(_module(kernels("bookworm"), "sha512_generic"), file="sha512_generic")
    assert digests is not None
    signer = Signer(key=folder / "modules.pem", certificate=folder / "modules.crt", digest="sha256")
    entries.append(Entry(path="sha512_generic.ko", mode=0o100644, data=signer.sign(digests.content)))
    # What Debian signed is the control: this kernel does not know its key.
    modules = {**modules, "Debian's own": signed}
    entries.append(Entry(path=f"m/{len(modules) - 1:02}.ko", mode=0o100644, data=signed))
    result = boot(
        image=busybox_image(SCRIPT, entries=entries), vmlinuz=folder / "vmlinux", append="module.sig_enforce=1 quiet"
    )
    kernel = loaded(result.console, list(modules))
    certificate = read_certificate(folder / "modules.crt")
    ours = {name: verified(data, certificate) for name, data in modules.items()}
    taken = {name: verdict == "loaded" for name, verdict in kernel.items()}
    wrong = {name: kernel[name] for name in modules if ours[name] and not taken[name]}
    assert wrong == {}
    stricter = {name for name in modules if taken[name] and not ours[name]}
    assert stricter <= STRICTER
    assert {name for name, good in taken.items() if good} >= {
        "sha256",
        "sha384",
        "sha512",
        "openssl",
        "by key identifier",
    }
    assert not taken["unsigned"] and not taken["attributes"] and not taken["Debian's own"]
