"""A root on LUKS on LVM, its passphrase typed on the console, with the hook in both generators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hooks.conftest import GENERATE, GENERATORS, SUITES, MadeOnce
from tests.hooks.debian_systems import Layer, make_disk, run_in
from tests.hooks.system_boots import REPORT, boot_system, disk_options, type_and_boot
from tests.hooks.test_hook_boot import RDINIT
from tests.hooks.test_second_generation import members_of

pytestmark = pytest.mark.slow
PASSPHRASE = "open sesame"
UUID = "6c756b73-6c75-4b73-8000-6c756b730000"
_CRYPTTAB = f"cryptroot UUID={UUID} none luks,initramfs"
_PREPARE = f"""\
rm -f /boot/*.img
echo "/dev/mapper/cryptroot / ext4 errors=remount-ro 0 1" >/etc/fstab
echo "{_CRYPTTAB}" >/etc/crypttab
"""
# The guest makes the disk as an installer would, and looks at the machine from within that root.
_MAKE = f"""\
set -e
disk=/dev/disk/by-id/virtio-luks
pvcreate -q -y -ff $disk && vgcreate -q vg0 $disk && lvcreate -q -y -n crypt -l 100%FREE vg0
printf %s '{PASSPHRASE}' >/tmp/key
cryptsetup luksFormat -q --type luks2 --uuid {UUID} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \\
    --sector-size 4096 --key-file /tmp/key /dev/vg0/crypt
cryptsetup open --key-file /tmp/key /dev/vg0/crypt cryptroot
dd if=/dev/disk/by-id/virtio-content of=/dev/mapper/cryptroot bs=4M status=none
mount /dev/mapper/cryptroot /mnt
for place in dev proc sys run; do mount --rbind /$place /mnt/$place; done
set +e
show record chroot /mnt /opt/megamod/bin/megamod detect --record /tmp/machine
send -C /mnt/tmp machine
umount -l /mnt/dev /mnt/proc /mnt/sys /mnt/run
umount /mnt && cryptsetup close cryptroot && vgchange -q -an vg0
"""
# The device is not there in a chroot, so cryptsetup's own hook cannot find it; what it would write is written for it.
_GENERATE = f"""\
echo CRYPTSETUP=y >>/etc/cryptsetup-initramfs/conf-hook
cat >/etc/initramfs-tools/hooks/crypttab <<'END'
#!/bin/sh
[ "$1" != prereqs ] || exit 0
mkdir -p "$DESTDIR/cryptroot"
echo "{_CRYPTTAB}" >"$DESTDIR/cryptroot/crypttab"
END
chmod 755 /etc/initramfs-tools/hooks/crypttab
"""
_APPEND = {
    "dracut": f"rd.luks.name={UUID}=cryptroot rd.lvm.vg=vg0",
    "initramfs-tools": "",
}


class Laptop(NamedTuple):
    """The encrypted disk, and each generator's image for it."""

    disk: Path
    images: dict[str, Path]


@pytest.fixture(scope="session")
def laptop(
    hooked: Callable[[str], tuple[Layer, dict[str, Path]]],
    plain_image: Callable[[str, str], Path],
    made_once: MadeOnce,
) -> Callable[[str], Laptop]:
    """``laptop("bookworm")``: a machine whose root is encrypted."""

    def get(suite: str) -> Laptop:
        layer, _images = hooked(suite)

        def make(path: Path) -> None:
            path.mkdir()
            run_in(layer.system, layer, path / "upper", _PREPARE)
            prepared = Layer(system=layer.system, uppers=(path / "upper", *layer.uppers))
            make_disk(prepared, path / "content.img", size_mib=1280)
            with (path / "luks.img").open("wb") as file:
                file.truncate(1344 << 20)
            run = boot_system(
                layer.system,
                plain_image(suite, "initramfs-tools"),
                _MAKE,
                path / "boot",
                extra=[
                    *disk_options(path / "luks.img", "luks", ""),
                    *disk_options(path / "content.img", "content", ",readonly=on"),
                ],
                timeout=900.0,
            )
            (path / "content.img").unlink()
            assert run.status("record") == 0
            lines = [_GENERATE, *(GENERATE[g].format(name=f"{g}.img", kernel=layer.system.kernel) for g in GENERATORS)]
            run_in(layer.system, prepared, path / "images", "\n".join(lines), bind={path / "boot/out/machine": "mnt"})

        folder = made_once(f"laptop-{suite}", make)
        return Laptop(folder / "luks.img", {each: folder / f"images/boot/{each}.img" for each in GENERATORS})

    return get


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("suite", SUITES)
def test_the_passphrase_is_asked_for_and_opens_the_root(
    suite: str,
    generator: str,
    laptop: Callable[[str], Laptop],
    hooked: Callable[[str], tuple[Layer, dict[str, Path]]],
    tmp_path: Path,
) -> None:
    disk, images = laptop(suite)
    assert {"dm_crypt", "dm_mod", "ext4", "virtio_blk"} <= members_of(images[generator])
    run = type_and_boot(
        hooked(suite)[0].system,
        images[generator],
        REPORT + "show root findmnt -n -o SOURCE /\n",
        tmp_path,
        disks={"luks": disk},
        append=f"root=/dev/mapper/cryptroot {_APPEND[generator]} {RDINIT}",
        answers={"Please (unlock disk|enter passphrase for disk)": PASSPHRASE},
    )
    assert run.section("target") == ["active"]
    assert run.section("failed") == []
    assert "megamod_critical" in run.modules()
    assert "dm_crypt" in run.members()
    assert run.section("root") == ["/dev/mapper/cryptroot"]
