"""Debian 13's own kernel-install with `initrd_generator=megamod`, layouts bls and uki: which initrd an entry starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hooks.debian_systems import Layer, run_in

# What it prints on standard output is read below, by sections.
_SCRIPT = """\
{{
printf 'deb http://deb.debian.org/debian trixie main\\n' >/etc/apt/sources.list
export DEBIAN_FRONTEND=noninteractive SYSTEMD_RELAX_ESP_CHECKS=1 BOOT_ROOT=/boot/efi
mkdir -p /boot/efi/loader/entries /etc/kernel /etc/megamod
echo 'root=LABEL=root ro' >/etc/kernel/cmdline
apt-get -qq update
apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends systemd-boot systemd-ukify
echo 'layout={layout}' >/etc/kernel/install.conf
printf 'name: own\\ncritical: {{modules: [virtio_pci, virtio_blk, ext4]}}\\n' >/etc/megamod/own.yaml
: >/boot/initrd.img-{kernel}
kernel-install add {kernel} /boot/vmlinuz-{kernel}
/opt/megamod/bin/megamod install -p /etc/megamod/own.yaml
cp /etc/megamod/own.yaml /etc/megamod/profile.yaml
rm -r /boot/efi/EFI/Linux /boot/efi/loader/entries 2>/dev/null
mkdir -p /boot/efi/loader/entries /boot/efi/EFI/Linux
echo 'initrd_generator=megamod' >>/etc/kernel/install.conf
kernel-install add {kernel} /boot/vmlinuz-{kernel}
}} >&2
echo "[entries]"
cat /boot/efi/loader/entries/*.conf 2>/dev/null || true
echo "[programs]"
ls /boot/efi/EFI/Linux
echo "[inside]"
for file in /boot/efi/EFI/Linux/*.efi /boot/efi/*/{kernel}/initrd*; do
    [ ! -e "$file" ] || /opt/megamod/bin/megamod inspect --json "$file"
done
echo "[broken]"
echo 'critical: {{modules: [nothing_such]}}' >/etc/megamod/profile.yaml
kernel-install add {kernel} /boot/vmlinuz-{kernel} 2>&1 && echo "it went well" || echo "status $?"
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["bls", "uki"])
def test_kernel_install_takes_megamod_for_its_generator(
    layout: str, installed: Callable[[str], Layer], tmp_path: Path
) -> None:
    layer = installed("trixie")
    script = _SCRIPT.format(layout=layout, kernel=layer.system.kernel)
    done = run_in(layer.system, layer, tmp_path / "upper", script)
    print(done.stdout, done.stderr)
    parts = dict(part.split("]\n", 1) for part in done.stdout.split("\n[") if "]\n" in part)
    parts["entries"] = parts.pop("[entries", parts.get("entries", ""))
    initrds = [line for line in parts["entries"].splitlines() if line.startswith("initrd")]
    if layout == "bls":
        # One image, megamod's, and none of the generator that the machine has too.
        assert len(initrds) == 1
        assert initrds[0].endswith(f"/{layer.system.kernel}/initrd")
    else:
        assert initrds == []
        assert f"-{layer.system.kernel}.efi" in parts["programs"]
    assert '"profile": "own"' in parts["inside"]
    # A machine that asked for megamod's image never gets another without a word.
    assert "no module or alias nothing_such" in parts["broken"]
    assert "status 1" in parts["broken"]
    assert "it went well" not in parts["broken"]
