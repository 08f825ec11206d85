"""Members of RAID arrays and volume groups, made by mdadm and lvm in a guest: they need the kernel's drivers."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from megamod.boot.debian import Kernel
from megamod.boot.qemu import run_qemu
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from megamod.modules.tree import open_tree
from tests.boot.layered_disks import program_entries, stock_modules
from tests.disks.zoo import UUID, run

_MIB = 64
_FILE = stat.S_IFREG | 0o755
_MODULES = ("virtio_pci", "virtio_blk", "raid1", "dm_mod", "ext4")
_PROGRAMS = (("mdadm", "sbin/mdadm"), ("lvm2", "sbin/lvm"), ("", "mkfs.ext4"))

# In the order of the guest's disks. One half of each mirror is enough: the other one has the same to say.
_MIRROR = "mdadm --create /dev/md1 --run --level=1 --raid-devices=2 --metadata={} {} missing </dev/null\n"
_ROOT = f"mkfs.ext4 -q -F -U {UUID} -L mirrored /dev/md1 && mdadm --stop /dev/md1\n"
_SCRIPTS: Mapping[str, str] = {
    "md 0.90": _MIRROR.format("0.90", "{}") + _ROOT,
    "md 1.0": _MIRROR.format("1.0", "{}") + _ROOT,
    "md 1.1": _MIRROR.format("1.1", "{}") + _ROOT,
    "md 1.2": _MIRROR.format("1.2", "{}") + _ROOT,
    "md 1.0 with a bitmap": _MIRROR.format("1.0 --bitmap=internal", "{}") + _ROOT,
    "md 0.90 in a partition": _MIRROR.format("0.90", "{}1") + _ROOT,
    "md 1.0 around partitions": _MIRROR.format("1.0", "{}") + "mdadm --stop /dev/md1\n",
    "imsm": "export IMSM_NO_PLATFORM=1 IMSM_DEVNAME_AS_SERIAL=1\n"
    "mdadm --create /dev/md/c --run -e imsm --raid-devices=1 --force {} </dev/null\nmdadm --stop --scan\n",
    "ddf": "mdadm --create /dev/md/c --run -e ddf --raid-devices=1 --force {} </dev/null\nmdadm --stop --scan\n",
    "lvm": f"lvm pvcreate -q -y {{}} && lvm vgcreate -q vg {{}} && lvm lvcreate -q -y -Zn -Wn -l 100%FREE -n root vg\n"
    f"lvm vgmknodes; mkfs.ext4 -q -F -U {UUID} /dev/mapper/vg-root; lvm vgchange -q -an vg\n",
    "lvm in the second sector": "lvm pvcreate -q -y --labelsector 2 {}\n",
}
ARRAYS = tuple(_SCRIPTS)

# From here on a partition reaches to the end of the disk, and with it a 0.90 superblock.
_PARTITIONED = b"label: dos\nstart=2048,type=83\n"


def make_arrays(folder: Path, kernel: Kernel) -> None:
    """Makes a disk of each of ARRAYS, `folder/0.img` and on, in one boot of *kernel*."""
    folder.mkdir(parents=True)
    disks = [folder / f"{number}.img" for number in range(len(ARRAYS))]
    modules = stock_modules(open_tree(str(kernel.modules)), _MODULES)
    script = "".join(f"insmod /modules/{name}.ko\n" for name, _data in modules)
    for number, (name, commands) in enumerate(_SCRIPTS.items()):
        with disks[number].open("wb") as file:
            file.truncate(_MIB << 20)
        if "in a partition" in name:
            run(["sfdisk", "-q", disks[number]], data=_PARTITIONED)
        script += f"echo '=== {name}'\n" + commands.replace("{}", f"/dev/vd{chr(ord('a') + number)}")
    init = (
        "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin DM_DISABLE_UDEV=1\n"
        "mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run\n"
        f"mkdir /dev/md\n{script}sync\necho everything is made\npoweroff -f\n"
    )
    entries = [
        *program_entries(_PROGRAMS),
        *(Entry(path=name, mode=stat.S_IFDIR | 0o755) for name in ("dev", "proc", "sys", "modules")),
        *(Entry(path=f"modules/{name}.ko", mode=_FILE, data=data) for name, data in modules),
        Entry(path="init", mode=_FILE, data=init.encode()),
    ]
    image = folder / "make.img"
    write_image(image, entries, method="none")
    result = run_qemu(image=image, vmlinuz=kernel.vmlinuz, disks=disks, disk_mode="write", accel="tcg", timeout=300)
    assert "everything is made" in result.console, result.tail(80)
    (folder / "console").write_text(result.console)
    # A mirror with its metadata at the end shows what is in it: here a partition table and a file system.
    around = disks[ARRAYS.index("md 1.0 around partitions")]
    run(["sfdisk", "-q", "--no-reread", "-w", "never", around], data=b"label: dos\nstart=2048,size=40960,type=83\n")
