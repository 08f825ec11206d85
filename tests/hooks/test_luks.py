"""A root on LUKS on LVM, its passphrase typed on the console, with the hook in both generators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hooks.conftest import GENERATORS, MadeOnce
from hooks.guestkit import REPORT, boot_system, type_and_boot
from hooks.test_hook_boot import RDINIT
from hooks.test_second_generation import NAMES, members_of
from hooks.treekit import Layer, make_disk, run_in

pytestmark = pytest.mark.slow
PASSPHRASE = "open sesame"
_PREPARE = """\
rm -f /boot/*.img
echo MEGAMOD_STRICT=yes >/etc/megamod/hook.conf
cd /lib/modules/{kernel}/kernel
rm -rf sound drivers/gpu drivers/media drivers/infiniband drivers/staging drivers/net/wireless drivers/iio fs/ocfs2
depmod -a {kernel}
: >/boot/initrd.img-{kernel}
"""
# The guest makes the disk as an installer would, copies itself there, and has the generators run in that root.
_MAKE = """\
disk=/dev/disk/by-id/virtio-luks
set -e
pvcreate -q -y -ff $disk && vgcreate -q vg0 $disk && lvcreate -q -y -n crypt -l 100%FREE vg0
printf %s '{passphrase}' >/tmp/key
cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /tmp/key /dev/vg0/crypt
cryptsetup open --key-file /tmp/key /dev/vg0/crypt cryptroot
mkfs.ext4 -q /dev/mapper/cryptroot && mount /dev/mapper/cryptroot /mnt
rm -f /etc/fstab
cp -ax /. /mnt
for place in dev proc sys run; do mount --rbind /$place /mnt/$place; done
echo "/dev/mapper/cryptroot / ext4 errors=remount-ro 0 1" >/mnt/etc/fstab
echo "cryptroot UUID=$(cryptsetup luksUUID /dev/vg0/crypt) none luks,initramfs" >/mnt/etc/crypttab
set +e
show initramfs-tools chroot /mnt update-initramfs -u -k {kernel}
show dracut chroot /mnt dracut -q -f --hostonly /boot/dracut.img {kernel}
show uuid cryptsetup luksUUID /dev/vg0/crypt
mv /mnt/boot/initrd.img-{kernel} /mnt/boot/initrd.img
send -C /mnt/boot dracut.img initrd.img
umount -l /mnt/dev /mnt/proc /mnt/sys /mnt/run
umount /mnt && cryptsetup close cryptroot && vgchange -q -an vg0
sync
"""


@pytest.fixture(scope="session")
def laptop(
    hooked: Callable[[str], tuple[Layer, dict[str, Path]]],
    plain_image: Callable[[str, str], Path],
    made_once: MadeOnce,
) -> Path:
    """A folder with the encrypted disk, and the images that the generators made for it."""
    layer, _images = hooked("bookworm")
    kernel = layer.system.kernel

    def make(path: Path) -> None:
        path.mkdir()
        run_in(layer.system, layer, path / "upper", _PREPARE.format(kernel=kernel))
        make_disk(Layer(system=layer.system, uppers=(path / "upper", *layer.uppers)), path / "root.img")
        with (path / "luks.img").open("wb") as file:
            file.truncate(1536 << 20)
        run = boot_system(
            layer.system,
            plain_image("bookworm", "initramfs-tools"),
            _MAKE.format(kernel=kernel, passphrase=PASSPHRASE),
            path / "boot",
            disk=path / "root.img",
            extra=[
                *("-drive", f"file={path}/luks.img,format=raw,if=none,id=luks"),
                *("-device", "virtio-blk-pci,drive=luks,serial=luks"),
            ],
            timeout=900.0,
        )
        (path / "root.img").unlink()
        assert [run.status(each) for each in GENERATORS] == [0, 0]

    return made_once("laptop", make)


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_passphrase_is_asked_for_and_opens_the_root(
    generator: str, laptop: Path, hooked: Callable[[str], tuple[Layer, dict[str, Path]]], tmp_path: Path
) -> None:
    image = laptop / "boot/out" / NAMES[generator]
    assert {"dm_crypt", "dm_mod", "ext4", "virtio_blk"} <= members_of(image)
    run = type_and_boot(
        hooked("bookworm")[0].system,
        image,
        REPORT + "show root findmnt -n -o SOURCE /\n",
        tmp_path,
        disks={"luks": laptop / "luks.img"},
        append=f"root=/dev/mapper/cryptroot {RDINIT}",
        answers={"Please (unlock disk|enter passphrase for disk)": PASSPHRASE},
    )
    assert run.section("target") == ["active"]
    assert run.section("failed") == []
    assert "megamod_critical" in run.modules()
    assert run.section("root")[0].startswith("/dev/mapper/")
