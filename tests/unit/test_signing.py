"""`sign` in a profile, `megamod sign` and `megamod verify`; openssl and modinfo are the judges."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.cli import main as cli
from megamod.common.compression import decompress
from megamod.image.archive import read_image
from megamod.image.signing.signature import MARKER, read_signature
from megamod.profile.schema import load_profile
from tests.unit.module_factory import Ko
from tests.unit.signing_keys import make_pair
from tests.unit.test_cli_build import GOOD, Builder, builder, module_tree

__all__ = ["builder"]

SIGN = "sign: {key: modules.pem, cert: modules.crt}\n"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def megamod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs megamod in tmp_path, with a module `a.ko` and a key pair there; returns status, output, errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ko").write_bytes(bytes(Ko("a")))
    make_pair(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["megamod", *map(str, words)])
        try:
            status = cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def openssl_verifies(openssl: str, signed: bytes, certificate: Path, folder: Path) -> bool:
    """The module's signature taken off by its trailer and judged by `openssl cms`."""
    assert signed.endswith(MARKER)
    rest = signed[: -len(MARKER)]
    length = int.from_bytes(rest[-4:], "big")
    (folder / "cms").write_bytes(rest[-12 - length : -12])
    (folder / "content").write_bytes(rest[: -12 - length])
    command = [openssl, "cms", "-verify", "-binary", "-inform", "DER", "-in", folder / "cms", "-noverify"]
    command += ["-content", folder / "content", "-certfile", certificate, "-out", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["rsa", "ec"])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_a_signed_module_is_valid_to_openssl_and_to_verify(
    megamod: Run, kind: str, digest: str, tool: Callable[..., str], tmp_path: Path
) -> None:
    key, certificate = make_pair(tmp_path, "other", kind=kind)  # type: ignore[arg-type]
    done = megamod("sign", "a.ko", "--key", key, "--cert", certificate, "--digest", digest, "-o", "b.ko")
    assert done == (0, "", "")
    assert openssl_verifies(tool("openssl", package="openssl"), (tmp_path / "b.ko").read_bytes(), certificate, tmp_path)
    status, out, _err = megamod("verify", "b.ko", "--cert", certificate)
    assert (status, out.splitlines()) == (
        0,
        [f"b.ko: module, signed with {digest} by CN=other, O=Test, serial number 1234abcd", "valid"],
    )


@pytest.mark.parametrize("output", ["modules.pem", "modules.crt"])
def test_a_key_or_certificate_is_not_written_over(megamod: Run, tmp_path: Path, output: str) -> None:
    before = (tmp_path / output).read_bytes()
    status, _out, err = megamod("sign", "a.ko", "--key", "modules.pem", "--cert", "modules.crt", "-o", output)
    assert (status, err) == (1, f"megamod: {output}: cannot be written: is read, too (hint: choose another name)\n")
    assert (tmp_path / output).read_bytes() == before


def test_modinfo_reads_the_signature(megamod: Run, tool: Callable[..., str], tmp_path: Path) -> None:
    megamod("sign", "a.ko", "--key", "modules.pem", "--cert", "modules.crt", "--digest", "sha512")
    said = subprocess.run([tool("modinfo", package="kmod"), tmp_path / "a.ko"], capture_output=True, text=True)
    fields = dict(line.split(":", 1) for line in said.stdout.splitlines() if ":" in line and line[0] != "\t")
    found = {name: fields[name].strip() for name in ("sig_id", "signer", "sig_key", "sig_hashalgo")}
    assert found == {"sig_id": "PKCS#7", "signer": "modules", "sig_key": "12:34:AB:CD", "sig_hashalgo": "sha512"}


def test_signing_again_replaces_the_signature(megamod: Run, tmp_path: Path) -> None:
    plain = (tmp_path / "a.ko").read_bytes()
    for _ in range(2):
        megamod("sign", "a.ko", "--key", "modules.pem", "--cert", "modules.crt")
    signature = read_signature((tmp_path / "a.ko").read_bytes(), file="a.ko")
    assert signature is not None
    assert signature.content == plain


def test_verify_without_a_certificate_names_the_signer_unchecked(megamod: Run) -> None:
    megamod("sign", "a.ko", "--key", "modules.pem", "--cert", "modules.crt")
    status, out, _err = megamod("verify", "a.ko")
    assert status == 0
    assert out.endswith(
        "by CN=modules, O=Test, serial number 1234abcd\nnot checked: --cert FILE names the signer's certificate\n"
    )


def test_verify_of_an_unsigned_module_is_status_1(megamod: Run) -> None:
    assert megamod("verify", "a.ko") == (1, "a.ko: module, not signed\n", "")


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_a_flipped_bit_anywhere_in_the_module_is_invalid(megamod: Run, kind: str, tmp_path: Path) -> None:
    key, certificate = make_pair(tmp_path, "other", kind=kind)  # type: ignore[arg-type]
    size = (tmp_path / "a.ko").stat().st_size
    megamod("sign", "a.ko", "--key", key, "--cert", certificate, "-o", "b.ko")
    signed = (tmp_path / "b.ko").read_bytes()
    for place in (64, size // 2, size - 1):
        damaged = bytearray(signed)
        damaged[place] ^= 1
        (tmp_path / "b.ko").write_bytes(damaged)
        status, out, _err = megamod("verify", "b.ko", "--cert", certificate)
        assert status == 1
        assert "invalid: the file is not what was signed" in out


def test_another_certificate_is_told(megamod: Run, tmp_path: Path) -> None:
    other = make_pair(tmp_path, "other")
    megamod("sign", "a.ko", "--key", other[0], "--cert", other[1])
    # The serial number is the same, the issuer's name is not.
    status, out, _err = megamod("verify", "a.ko", "--cert", "modules.crt")
    assert (status, out.splitlines()[-1]) == (
        1,
        "invalid: signed by another certificate, CN=other, O=Test, 1234abcd, not by CN=modules, O=Test, 1234abcd",
    )
    (tmp_path / "again").mkdir()
    again = make_pair(tmp_path / "again")
    status, out, _err = megamod("verify", "a.ko", "--cert", again[1])
    assert status == 1
    megamod("sign", "a.ko", "--key", "modules.pem", "--cert", "modules.crt")
    # The same issuer and serial number find the certificate, so it is the key that tells.
    status, out, _err = megamod("verify", "a.ko", "--cert", again[1])
    assert (status, out.splitlines()[-1]) == (
        1,
        "invalid: the file is not what was signed, or the signature is damaged",
    )


def test_content_behind_the_mark_makes_a_module_unsigned(megamod: Run, tmp_path: Path) -> None:
    megamod("sign", "a.ko", "--key", "modules.pem", "--cert", "modules.crt")
    with (tmp_path / "a.ko").open("ab") as file:
        file.write(b"\n")
    assert megamod("verify", "a.ko") == (
        1,
        "a.ko: module, not signed; the mark of a signature is not at its end, so the kernel sees none\n",
        "",
    )


@pytest.mark.parametrize("attributes", [True, False])
@pytest.mark.parametrize("by_key", [True, False])
def test_what_openssl_signs_is_valid_unless_it_has_attributes(
    megamod: Run, attributes: bool, by_key: bool, tool: Callable[..., str], tmp_path: Path
) -> None:
    command = [
        tool("openssl", package="openssl"),
        "cms",
        "-sign",
        "-inkey",
        "modules.pem",
        "-signer",
        "modules.crt",
        "-md",
        "sha256",
    ]
    command += ["-in", "a.ko", "-out", "cms", "-outform", "DER", "-binary"]
    command += [] if attributes else ["-noattr"]
    command += ["-keyid"] if by_key else []
    subprocess.run(command, check=True, capture_output=True)
    plain, cms = (tmp_path / "a.ko").read_bytes(), (tmp_path / "cms").read_bytes()
    trailer = bytes([0, 0, 2, 0, 0, 0, 0, 0]) + len(cms).to_bytes(4, "big")
    (tmp_path / "b.ko").write_bytes(plain + cms + trailer + MARKER)
    status, out, _err = megamod("verify", "b.ko", "--cert", "modules.crt")
    if attributes:
        # pkcs7_verify(), crypto/asymmetric_keys/pkcs7_verify.c: "Invalid module sig (has authattrs)".
        why = "invalid: it has signed attributes, which the kernel takes for no module"
        assert (status, out.splitlines()[-1]) == (1, why)
        assert megamod("verify", "b.ko")[1].splitlines()[-1] == why
        return
    assert (status, out.splitlines()[-1]) == (0, "valid")
    (tmp_path / "b.ko").write_bytes(plain[:-1] + bytes([plain[-1] ^ 1]) + cms + trailer + MARKER)
    assert megamod("verify", "b.ko", "--cert", "modules.crt")[0] == 1


def test_a_damaged_signature_is_an_error(megamod: Run, tmp_path: Path) -> None:
    megamod("sign", "a.ko", "--key", "modules.pem", "--cert", "modules.crt")
    signed = (tmp_path / "a.ko").read_bytes()
    size = int.from_bytes(signed[-len(MARKER) - 4 : -len(MARKER)], "big")
    start = len(signed) - len(MARKER) - 12 - size
    for damaged in (
        signed[:start] + bytes(size) + signed[start + size :],
        signed[: start + 1] + b"\xff" + signed[start + 2 :],
        signed[: -len(MARKER) - 10] + b"\x03" + signed[-len(MARKER) - 9 :],
        MARKER,
    ):
        (tmp_path / "b.ko").write_bytes(b"\x7fELF" + damaged if damaged == MARKER else damaged)
        with pytest.raises(Exception, match="its signature is damaged"):
            read_signature((tmp_path / "b.ko").read_bytes(), file="b.ko")


def test_each_mistake_of_sign_is_a_line(megamod: Run, tmp_path: Path) -> None:
    make_pair(tmp_path, "locked", password=b"secret")
    make_pair(tmp_path, "other")
    (tmp_path / "text").write_text("no key")
    (tmp_path / "a.ko.gz").write_bytes(b"\x1f\x8b")
    cases = {
        ("a.ko", "locked.pem", "locked.crt"): "locked.pem: cannot sign with this key: it is encrypted (hint: decrypt",
        ("a.ko", "other.pem", "modules.crt"): "other.pem: is not the key of modules.crt (hint: use a key",
        ("a.ko", "text", "modules.crt"): "text: cannot sign with this key: ",
        ("a.ko", "none", "modules.crt"): "none: No such file or directory",
        ("a.ko", "modules.pem", "text"): "text: is not a certificate: ",
        ("text", "modules.pem", "modules.crt"): "text: is not a module (hint: only .ko files can be signed)",
    }
    for (module, key, certificate), message in cases.items():
        status, out, err = megamod("sign", module, "--key", key, "--cert", certificate)
        assert (status, out, len(err.splitlines())) == (1, "", 1)
        assert err.startswith(f"megamod: {message}")


def test_megamodules_of_a_build_are_signed_and_singles_keep_theirs(
    builder: Builder, tmp_path: Path, tool: Callable[..., str]
) -> None:
    _key, certificate = make_pair(tmp_path)
    (tmp_path / "p.yaml").write_text(GOOD + SIGN)
    tree = module_tree(tmp_path)
    (tree / "config").write_text('CONFIG_MODULE_SIG_HASH="sha384"\nCONFIG_RD_ZSTD=y\n')
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img")
    assert status == 0
    assert "sign: sha384 by O=Test,CN=modules, " in err
    entries = {entry.path: entry.data for entry in read_image(tmp_path / "out.img")}
    for name, file in {"critical": "critical.ko", "usb": "usb.ko.lz4"}.items():
        data = decompress(entries[f"megamod/megamod_{file}"])
        assert openssl_verifies(tool("openssl", package="openssl"), data, certificate, tmp_path)
        signature = read_signature(data, file=name)
        assert signature is not None
        assert signature.digest == "sha384"
    builder.monkeypatch.setattr(sys, "argv", ["megamod", "inspect", "out.img"])
    assert cli.main() == 0
    assert builder.capsys.readouterr().out.count(", signed sha384 by O=Test,CN=modules\n") == 2


def test_without_a_configuration_the_digest_is_sha256_for_a_stated_reason(builder: Builder, tmp_path: Path) -> None:
    make_pair(tmp_path)
    (tmp_path / "p.yaml").write_text(GOOD + SIGN)
    status, _out, err = builder.run("p.yaml", "-k", module_tree(tmp_path), "-o", "out.img")
    assert status == 0
    assert "sign: sha256 by O=Test,CN=modules; the kernel's configuration does not name a digest, " in err


@pytest.mark.parametrize("config", ["CONFIG_CRYPTO_SHA512=m\n", "# CONFIG_CRYPTO_SHA512 is not set\n"])
def test_a_digest_that_the_kernel_cannot_make_yet_is_refused(builder: Builder, tmp_path: Path, config: str) -> None:
    make_pair(tmp_path)
    (tmp_path / "p.yaml").write_text(GOOD + "sign: {key: modules.pem, cert: modules.crt, digest: sha384}\n")
    tree = module_tree(tmp_path)
    (tree / "config").write_text(f'CONFIG_MODULE_SIG_HASH="sha256"\nCONFIG_RD_ZSTD=y\n{config}')
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img")
    assert status == 1
    assert "sign: digest sha384: " in err
    assert err.endswith(
        ": this kernel cannot check it (hint: digest: sha256 is what its own modules are signed with)\n"
    )


def test_a_key_that_does_not_fit_is_refused_with_the_place_in_the_profile(builder: Builder, tmp_path: Path) -> None:
    make_pair(tmp_path)
    make_pair(tmp_path, "other")
    text = GOOD + "sign: {key: other.pem, cert: modules.crt}\n"
    assert builder.refused(profile=text).startswith("p.yaml:3:7: sign: other.pem: is not the key of modules.crt")


def test_a_key_on_a_token_signs(megamod: Run, tool: Callable[..., str], tmp_path: Path, monkeypatch) -> None:
    softhsm = tool("softhsm2-util", package="softhsm2")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    library = next(Path("/usr/lib").glob("*/softhsm/libsofthsm2.so"), Path("/usr/lib/softhsm/libsofthsm2.so"))
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm.conf"))
    monkeypatch.setenv("PKCS11_MODULE_PATH", str(library))
    pins = ["--pin", "1234"]
    start = [softhsm, "--init-token", "--free", "--label", "signing", "--so-pin", "12345678", *pins]
    subprocess.run(start, check=True, capture_output=True)
    load = [softhsm, "--import", "modules.pem", "--token", "signing", "--label", "modules", "--id", "01", *pins]
    subprocess.run(load, check=True, capture_output=True)
    uri = "pkcs11:token=signing;object=modules;type=private?pin-value=1234"
    assert megamod("sign", "a.ko", "--key", uri, "--cert", "modules.crt", "--digest", "sha512") == (0, "", "")
    assert openssl_verifies(
        tool("openssl", package="openssl"), (tmp_path / "a.ko").read_bytes(), tmp_path / "modules.crt", tmp_path
    )
    assert megamod("verify", "a.ko", "--cert", "modules.crt")[0] == 0
    status, _out, err = megamod("sign", "a.ko", "--key", uri.replace("signing", "none"), "--cert", "modules.crt")
    assert status == 1
    assert err.startswith(
        "megamod: pkcs11:token=none;object=modules;type=private: openssl cannot sign with it: engine: "
    )
    assert "1234" not in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sign: x", "2:7: sign: a mapping expected, not `x`"),
        ("sign: {key: modules.pem}", "2:7: sign: no `cert` (hint: write sign: {key: FILE, cert: FILE})"),
        ("sign: {cert: modules.crt}", "2:7: sign: no `key`"),
        ("sign: {key: none, cert: modules.crt}", "2:13: sign: key: no such file: none (hint: a path relative to"),
        ("sign: {key: modules.pem, cert: none}", "2:32: sign: cert: no such file: none"),
        ("sign: {key: modules.pem, cert: modules.crt, digest: md5}", "2:53: sign: digest: `md5` is none of auto, sha"),
        ("sign: {key: modules.pem, cert: modules.crt, pin: 1}", "2:45: sign: unknown key `pin`"),
    ],
)
def test_a_wrong_sign_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    make_pair(tmp_path)
    (tmp_path / "p.yaml").write_text(f"critical: {{modules: [ext4]}}\n{text}\n")
    with pytest.raises(Exception) as caught:
        load_profile(tmp_path / "p.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/p.yaml:{message}")


def test_sign_is_relative_to_its_profile_and_a_child_can_take_it_back(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    make_pair(tmp_path / "base")
    (tmp_path / "base/p.yaml").write_text("critical: {modules: [ext4]}\n" + SIGN)
    child = tmp_path / "child.yaml"
    child.write_text("extends: base/p.yaml\n")
    sign = load_profile(child).sign
    assert sign is not None
    assert (sign.key, sign.cert, sign.digest) == (
        f"{tmp_path}/base/modules.pem",
        f"{tmp_path}/base/modules.crt",
        "auto",
    )
    child.write_text("extends: base/p.yaml\nsign: none\n")
    assert load_profile(child).sign is None
