"""The root file system's stack of block devices: partitions, LUKS, LVM, RAID, several disks of btrfs, down to disks.

Read from mountinfo, /sys/dev/block, /sys/block/*/slaves and /sys/fs/btrfs; *needs* are names or aliases that a module
tree resolves, so a layer whose code is built in, or called otherwise in another kernel, is found all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from megamod.machine.machine import Machine, Mount

MOUNTED_EARLY = ("/", "/usr")
"""What is mounted before the real init; a separate /usr too, since systemd refuses to start without it."""

_NETWORK = {"nfs": ("nfs", "nfsv3"), "nfs4": ("nfs", "nfsv4"), "cifs": ("cifs",), "smb3": ("cifs",), "ceph": ("ceph",)}
_VIRTUAL = {"9p": ("9p", "9pnet_virtio"), "virtiofs": ("virtiofs",)}
# FAT asks for its character sets by name when it is mounted (fat_fill_super, fs/fat/inode.c, 6.1).
_BESIDE = {"vfat": ("nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8")}
_PLAIN = {"ext2": "ext4", "ext3": "ext4", "fuseblk": "fuse", "msdos": "vfat"}

# Device-mapper devices by the beginning of their UUID, which names who made them: dm_crypt and LVM's own targets;
# libdevmapper and cryptsetup write these.
_DM = {
    "CRYPT-": ("LUKS or plain dm-crypt", ("dm_crypt",)),
    "CRYPT-VERITY": ("dm-verity", ("dm_verity",)),
    "CRYPT-INTEGRITY": ("dm-integrity", ("dm_integrity",)),
    "CRYPT-LUKS": ("LUKS", ("dm_crypt",)),
    "CRYPT-PLAIN": ("plain dm-crypt", ("dm_crypt",)),
    "LVM-": ("LVM", ()),
    "mpath-": ("multipath", ("dm_multipath", "dm_service_time", "dm_round_robin", "dm_queue_length")),
    "DMRAID-": ("dmraid", ("dm_mirror", "dm_raid", "dm_raid45")),
    "VDO-": ("VDO", ("dm_vdo", "kvdo")),
    "STRATIS-": ("stratis", ("dm_thin_pool", "dm_cache", "dm_crypt")),
}
# LVM names the hidden parts of a volume after what they are for (lib/metadata/lv_manip.c, lvm2 2.03).
_LVM_PARTS = {
    "rimage": ("dm_raid", "md-raid1", "md-raid5", "md-raid10"),
    "rmeta": ("dm_raid",),
    "mimage": ("dm_mirror", "dm_log"),
    "tdata": ("dm_thin_pool",),
    "tmeta": ("dm_thin_pool",),
    "cdata": ("dm_cache", "dm_cache_smq"),
    "cmeta": ("dm_cache", "dm_cache_smq"),
    "cow": ("dm_snapshot",),
    "vdata": ("dm_vdo", "kvdo"),
    "imeta": ("dm_integrity",),
    "wcorig": ("dm_writecache",),
}
_BY_NAME = {
    "bcache": ("bcache", ("bcache",)),
    "loop": ("a loop device", ("loop",)),
    "drbd": ("DRBD", ("drbd",)),
    "nbd": ("a network block device", ("nbd",)),
    "zram": ("zram", ("zram",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A block device of the stack, *depth* layers below the file system.

    *path* is its folder in sysfs, *what* it is in a few words, *needs* the modules (or aliases) that make it; a disk
    needs what its way through the buses says.
    """

    depth: int
    device: str
    path: str
    what: str
    needs: tuple[str, ...]
    is_disk: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RootStack:
    """A mounted file system and the devices under it, each after those that are built upon it; *needs* are the file
    system's own modules. *network* means that a network card is part of the way, *shared* that a virtual bus is."""

    mount: Mount
    layers: tuple[Layer, ...]
    needs: tuple[str, ...]
    network: bool
    shared: bool

    @property
    def text(self) -> str:
        """In words: "/ is xfs on md0 (RAID) on sda1 (a partition) and sdb1 (a partition) on sda and sdb"."""
        levels: dict[int, list[str]] = {}
        for layer in self.layers:
            described = f"{layer.device} ({layer.what})" if layer.what else layer.device
            levels.setdefault(layer.depth, []).append(described)
        parts = [" and ".join(level) for _depth, level in sorted(levels.items())] or [self.mount.source]
        return " on ".join([f"{self.mount.point} is {self.mount.fstype}", *parts])

    @property
    def encrypted(self) -> bool:
        """Whether a passphrase or key file opens one of the layers."""
        return any("dm_crypt" in layer.needs for layer in self.layers)


def root_stacks(machine: Machine) -> list[RootStack]:
    """The stacks of what is mounted before the real init: the root, and /usr where it is separate."""
    seen = {mount.point: mount for mount in machine.mounts()}
    stacks = [_stack(machine, seen[point]) for point in MOUNTED_EARLY if point in seen]
    resume = machine.text("sys/power/resume")
    if re.fullmatch(r"[1-9]\d*:\d+", resume) and (path := machine.real_path(f"sys/dev/block/{resume}")):
        mount = Mount(point="the image of hibernation", device=resume, fstype="swap", source=resume)
        layers = tuple(_walk(machine, [path]))
        stacks.append(RootStack(mount=mount, layers=layers, needs=(), network=False, shared=False))
    return stacks


def _stack(machine: Machine, mount: Mount) -> RootStack:
    fstype = mount.fstype
    if fstype in _NETWORK:
        return RootStack(mount=mount, layers=(), needs=_NETWORK[fstype], network=True, shared=False)
    if fstype in _VIRTUAL:
        return RootStack(mount=mount, layers=(), needs=_VIRTUAL[fstype], network=False, shared=True)
    paths = block_devices(machine, mount)
    if fstype == "overlay" and not paths:
        # A live system or a container: the file systems below cannot be told from the line, so all that have a device.
        below = [other for other in machine.mounts() if other.fstype != "overlay"]
        paths = list(dict.fromkeys(path for other in below for path in block_devices(machine, other)))
        kinds = {_PLAIN.get(m.fstype, m.fstype) for m in below if block_devices(machine, m)}
        needs = ("overlay", *sorted(kinds))
    else:
        plain = _PLAIN.get(fstype, fstype)
        needs = (plain, *_BESIDE.get(plain, ()))
    return RootStack(mount=mount, layers=tuple(_walk(machine, paths)), needs=needs, network=False, shared=False)


def block_devices(machine: Machine, mount: Mount) -> list[str]:
    """The folders in sysfs of the block devices that *mount* lies on; empty for a file system without any."""
    path = ""
    if not mount.device.startswith("0:"):
        path = machine.real_path(f"sys/dev/block/{mount.device}")
    if not path and mount.source.startswith("/dev/"):
        # btrfs has an anonymous device number; its source is one of its devices.
        path = _named_device(machine, mount.source)
    if not path:
        return []
    if mount.fstype == "btrfs":
        return _btrfs_devices(machine, path) or [path]
    if mount.fstype == "bcachefs":
        return [found for part in mount.source.split(":") if (found := _named_device(machine, part))]
    return [path]


def _named_device(machine: Machine, node: str) -> str:
    name = node.removeprefix("/dev/")
    if name.startswith("mapper/"):
        wanted = name.removeprefix("mapper/")
        for device in machine.entries("sys/block"):
            if machine.text(f"sys/block/{device}/dm/name") == wanted:
                return machine.real_path(f"sys/block/{device}")
    # An md array's /dev/md/NAME and the links below /dev/disk are udev's, and not in sysfs.
    return machine.real_path(f"sys/class/block/{name.replace('/', '!')}") if name else ""


def _btrfs_devices(machine: Machine, path: str) -> list[str]:
    """All devices of the btrfs that has the one in *path* (fs/btrfs/sysfs.c, btrfs_sysfs_add_device, 6.1)."""
    name = path.rpartition("/")[2]
    for uuid in machine.entries("sys/fs/btrfs"):
        devices = machine.entries(f"sys/fs/btrfs/{uuid}/devices")
        if name in devices:
            paths = (machine.real_path(f"sys/class/block/{device}") for device in devices)
            return [found for found in paths if found]
    return []


def _walk(machine: Machine, paths: list[str]) -> Iterator[Layer]:
    """The devices *paths* and all below, each once."""
    queue = [(path, 0) for path in paths]
    seen = set(paths)
    for path, depth in queue:
        yield _layer(machine, path, depth)
        if machine.exists(f"{path}/partition"):
            below = [path.rpartition("/")[0]]
        else:
            slaves = machine.entries(f"{path}/slaves")
            below = [found for name in slaves if (found := machine.real_path(f"{path}/slaves/{name}"))]
        queue += [(other, depth + 1) for other in below if other not in seen]
        seen.update(below)


def _layer(machine: Machine, path: str, depth: int) -> Layer:
    device = path.rpartition("/")[2]
    what, needs, is_disk = "", tuple[str, ...](), False
    if machine.exists(f"{path}/partition"):
        what = "a partition"
    elif machine.exists(f"{path}/dm"):
        what, needs = _mapped(machine, path)
    elif machine.exists(f"{path}/md"):
        level = machine.text(f"{path}/md/level")
        # The container of an array with foreign metadata is of no level.
        named = [f"md-{level}"] if level not in ("", "container", "inactive") else []
        what, needs = f"RAID, level {level}", ("md_mod", *named)
    else:
        kind = re.sub(r"\d.*", "", device)
        what, needs = _BY_NAME.get(kind, ("", ()))
        is_disk = not needs
    return Layer(depth=depth, device=device, path=path, what=what, needs=needs, is_disk=is_disk)


def _mapped(machine: Machine, path: str) -> tuple[str, tuple[str, ...]]:
    uuid, name = machine.text(f"{path}/dm/uuid"), machine.text(f"{path}/dm/name")
    if re.match(r"part\d+-", uuid):
        return "a partition", ("dm_mod",)
    found = max((prefix for prefix in _DM if uuid.startswith(prefix)), key=len, default="")
    what, needs = _DM.get(found, ("a device-mapper device", ()))
    if found == "LVM-":
        part = re.search(r"_(rimage|rmeta|mimage|tdata|tmeta|cdata|cmeta|vdata|imeta|wcorig)(_\d+)?$", name)
        suffix = part.group(1) if part else "cow" if re.search(r"-cow$", uuid) else ""
        needs = _LVM_PARTS.get(suffix, ())
    return f"{what} {name}".strip(), ("dm_mod", *needs)
