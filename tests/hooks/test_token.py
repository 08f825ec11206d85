"""Signing by a key on a token through OpenSSL's provider, which trixie has: there are no engines from OpenSSL 4 on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from tests.hooks.debian_systems import Layer, run_in

_SIGN = """\
export DEBIAN_FRONTEND=noninteractive PATH=/opt/megamod/bin:$PATH
apt-get -qq update
apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends openssl softhsm2 pkcs11-provider >/dev/null
mkdir -p /tmp/tokens; cd /tmp
printf 'directories.tokendir = /tmp/tokens\\nobjectstore.backend = file\\n' >softhsm.conf
export SOFTHSM2_CONF=/tmp/softhsm.conf PKCS11_PROVIDER_MODULE=/usr/lib/softhsm/libsofthsm2.so
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=token -keyout key.pem -out cert.pem 2>openssl.log
softhsm2-util --init-token --free --label signing --so-pin 12345678 --pin 1234
softhsm2-util --import key.pem --token signing --label modules --id 01 --pin 1234
rm key.pem
ls /usr/lib/*/engines-3/pkcs11.so 2>/dev/null && exit 1
key='pkcs11:token=signing;object=modules;type=private?pin-value=1234'
megamod sign /mnt/%s --key "$key" --cert cert.pem -o signed.ko
megamod verify signed.ko --cert cert.pem
"""


@pytest.mark.parametrize("suite", ["trixie"])
def test_a_key_on_a_token_signs_through_the_provider(
    suite: str, kernels: Callable[..., Kernel], installed: Callable[[str], Layer], tmp_path: Path
) -> None:
    modules = kernels("bookworm").modules
    name = next(modules.rglob("ext4.ko")).relative_to(modules)
    layer = installed(suite)
    done = run_in(layer.system, layer, tmp_path / "upper", _SIGN % name, bind={modules: "mnt"})
    assert done.stdout.splitlines()[-1] == "valid"
