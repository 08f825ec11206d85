"""`megamod detect` on recorded and made-up machines: what the way to the root and the console needs, and the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.machine.detect import Detection, detect
from megamod.machine.detected_yaml import detected_profile
from megamod.machine.machine import Machine
from megamod.modules.tree import ModuleTree, open_tree
from megamod.profile.schema import load_profile
from megamod.select.select import select
from tests.unit.machine_records import ALIASES, MODULES, disk, fake_machine, mapped, mounted, recorded_machine
from tests.unit.module_trees import make_tree

KEYBOARD = "1000000000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe"
POWER_BUTTON = "10000000000000 0"


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    softdep = ["ext4 pre: crc32c"]
    return open_tree(
        str(make_tree(tmp_path / "kernel", MODULES, alias=ALIASES, softdep=softdep, builtin=["kernel/sd_mod.ko"]))
    )


def critical(detection: Detection) -> dict[str, str]:
    return detection.by_stage()[0]


def test_a_disk_needs_its_file_system_and_every_bus_above_it(tree: ModuleTree, tmp_path: Path) -> None:
    text = """
        sys/devices/pci0000:00/0000:00:02.0/modalias
        | pci:v00001AF4d1001
        sys/devices/pci0000:00/0000:00:02.0/subsystem -> ../../../bus/pci
        sys/devices/pci0000:00/0000:00:02.0/virtio0/modalias
        | virtio:d00000002v00001AF4
        sys/devices/pci0000:00/0000:00:02.0/virtio0/subsystem -> ../../../../bus/virtio
        sys/devices/pci0000:00/0000:00:02.0/virtio0/block/vda/vda1/partition
        | 1
        sys/dev/block/254:1 -> ../../devices/pci0000:00/0000:00:02.0/virtio0/block/vda/vda1
    """
    found = detect(fake_machine(tmp_path / "m", text + mounted("/ 254:1 ext4 /dev/vda1")), tree)
    assert critical(found) == {
        "ext4": "the file system of /",
        "virtio_blk": "disk vda: virtio virtio0",
        "virtio_pci": "disk vda: pci 0000:00:02.0",
    }
    assert found.stacks[0].text == "/ is ext4 on vda1 (a partition) on vda"


def test_the_bound_driver_counts_before_what_the_modalias_asks_for(tree: ModuleTree, tmp_path: Path) -> None:
    bound = """
        sys/devices/pci0000:00/0000:00:01.0/driver -> ../../../bus/pci/drivers/mine
        sys/bus/pci/drivers/mine/module -> ../../../../module/other
    """
    found = detect(fake_machine(tmp_path / "m", disk() + bound + mounted("/ 259:0 ext4 /dev/nvme0n1")), tree)
    assert set(critical(found)) == {"ext4", "other"}


def test_among_several_modules_for_a_device_its_named_driver_counts(tree: ModuleTree, tmp_path: Path) -> None:
    more = """
        sys/devices/platform/busy/modalias
        | platform:busy
        sys/devices/platform/busy/driver -> ../../../bus/platform/drivers/busy
        sys/bus/platform/drivers/busy/name
    """
    machine = fake_machine(tmp_path / "m", disk() + more + mounted("/ 259:0 ext4 /dev/nvme0n1"))
    assert set(detect(machine, tree).by_stage()[1]) == {"busy"}


def test_a_megamodule_as_the_drivers_module_is_seen_through(tree: ModuleTree, tmp_path: Path) -> None:
    """On a machine that megamod booted, drivers belong to megamod_critical."""
    bound = """
        sys/devices/pci0000:00/0000:00:01.0/driver -> ../../../bus/pci/drivers/nvme
        sys/bus/pci/drivers/nvme/module -> ../../../../module/megamod_critical
        proc/modules
        | megamod_critical 9 0 - Live 0x0
        | other 9 0 - Live 0x0
    """
    found = detect(fake_machine(tmp_path / "m", disk() + bound + mounted("/ 259:0 ext4 /dev/nvme0n1")), tree)
    assert set(critical(found)) == {"ext4", "nvme"}
    assert set(found.by_stage()[1]) == {"other"}
    assert found.notes[0].startswith("megamod_critical hide their members")


def test_suppliers_of_a_device_on_the_way_are_on_the_way_too(tree: ModuleTree, tmp_path: Path) -> None:
    link = "sys/devices/virtual/devlink/platform:clock--pci:0000:00:01.0"
    text = f"""
        sys/devices/platform/clock/modalias
        | platform:clock
        sys/devices/platform/clock/subsystem -> ../../../bus/platform
        {link}/supplier -> ../../../platform/clock
        sys/devices/pci0000:00/0000:00:01.0/supplier:platform:clock -> ../../../{link.removeprefix("sys/devices/")}
    """.replace("../../../virtual", "../../virtual")
    found = detect(fake_machine(tmp_path / "m", disk() + text + mounted("/ 259:0 ext4 /dev/nvme0n1")), tree)
    assert critical(found)["clock"] == "disk nvme0n1: platform clock"


def test_an_nvme_disk_of_a_subsystem_hangs_on_its_controllers(tree: ModuleTree, tmp_path: Path) -> None:
    text = """
        sys/devices/pci0000:00/0000:00:01.0/modalias
        | pci:v00008086d0010
        sys/devices/pci0000:00/0000:00:01.0/nvme/nvme0/subsystem -> ../../../../../class/nvme
        sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0 -> ../../../pci0000:00/0000:00:01.0/nvme/nvme0
        sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/subsystem -> ../../../../../class/block
        sys/dev/block/259:0 -> ../../devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1
    """
    found = detect(fake_machine(tmp_path / "m", text + mounted("/ 259:0 ext4 /dev/nvme0n1")), tree)
    assert set(critical(found)) == {"ext4", "nvme"}


def test_luks_brings_the_ciphers_that_this_processor_has(tree: ModuleTree, tmp_path: Path) -> None:
    text = disk() + mapped("dm-0", "253:0", "CRYPT-LUKS2-0123-root", "root", "nvme0n1")
    text += """
        sys/devices/system/cpu/modalias
        | cpu:type:x86,ven0000fam0006mod0001:feature:,0098,0099,
        proc/crypto
        | name : twofish
        | module : twofish
        | refcnt : 2
        |
        | name : crc32c
        | module : crc32c
        | refcnt : 7
    """
    found = detect(fake_machine(tmp_path / "m", text + mounted("/ 253:0 ext4 /dev/mapper/root")), tree)
    assert critical(found) == {
        "ext4": "the file system of /",
        "dm_mod": "dm-0: LUKS root",
        "dm_crypt": "dm-0: LUKS root",
        "nvme": "disk nvme0n1: pci 0000:00:01.0",
        "twofish": "twofish is in use",
        "xts": "LUKS asks for it by name",
        "ecb": "LUKS asks for it by name",
        "aesni_intel": "LUKS asks for it by name",
    }
    assert found.stacks[0].encrypted
    assert any("the loader opens no encrypted device" in note for note in found.notes)


def test_raid_and_thin_volumes_bring_their_modules(tree: ModuleTree, tmp_path: Path) -> None:
    text = disk("nvme0n1", "259:0") + disk("nvme1n1", "259:1", "0000:00:03.0")
    text += mapped("md127", "9:127", "", "raid5", "nvme0n1", "nvme1n1")
    text += mapped("dm-0", "253:0", "LVM-abc-tdata", "vg-pool_tdata", "md127")
    text += mapped("dm-1", "253:1", "LVM-def", "vg-root", "dm-0")
    found = detect(fake_machine(tmp_path / "m", text + mounted("/ 253:1 xfs /dev/mapper/vg-root")), tree)
    assert set(critical(found)) == {"xfs", "dm_mod", "dm_thin_pool", "md_mod", "raid456", "nvme"}
    assert found.stacks[0].text == (
        "/ is xfs on dm-1 (LVM vg-root) on dm-0 (LVM vg-pool_tdata) on md127 (RAID, level raid5) on nvme0n1 and nvme1n1"
    )


def test_all_devices_of_a_btrfs_are_on_the_way(tree: ModuleTree, tmp_path: Path) -> None:
    text = disk("nvme0n1", "259:0") + disk("nvme1n1", "259:1", "0000:00:03.0", "0020")
    text += """
        sys/fs/btrfs/0123/devices/nvme0n1 -> ../../../../devices/pci0000:00/0000:00:01.0/block/nvme0n1
        sys/fs/btrfs/0123/devices/nvme1n1 -> ../../../../devices/pci0000:00/0000:00:03.0/block/nvme1n1
    """
    found = detect(fake_machine(tmp_path / "m", text + mounted("/ 0:25 btrfs /dev/nvme1n1")), tree)
    assert set(critical(found)) == {"btrfs", "nvme", "vmd"}


def test_a_separate_usr_is_mounted_early_and_home_is_not(tree: ModuleTree, tmp_path: Path) -> None:
    text = disk("nvme0n1", "259:0") + disk("nvme1n1", "259:1", "0000:00:03.0", "0020")
    mounts = mounted("/ 259:0 ext4 /dev/nvme0n1", "/usr 259:1 xfs /dev/nvme1n1", "/home 259:1 btrfs /dev/nvme1n1")
    found = detect(fake_machine(tmp_path / "m", text + mounts), tree)
    assert set(critical(found)) == {"ext4", "xfs", "nvme", "vmd"}


def test_a_root_on_the_network_needs_the_card_that_is_up(tree: ModuleTree, tmp_path: Path) -> None:
    text = """
        sys/devices/pci0000:00/0000:00:04.0/modalias
        | pci:v00008086d0040
        sys/devices/pci0000:00/0000:00:04.0/net/eth0/device -> ../../../0000:00:04.0
        sys/devices/pci0000:00/0000:00:04.0/net/eth0/operstate
        | up
        sys/class/net/eth0 -> ../../devices/pci0000:00/0000:00:04.0/net/eth0
        sys/devices/pci0000:00/0000:00:03.0/modalias
        | pci:v00008086d0060
        sys/devices/pci0000:00/0000:00:03.0/net/eth1/device -> ../../../0000:00:03.0
        sys/devices/pci0000:00/0000:00:03.0/net/eth1/operstate
        | down
        sys/class/net/eth1 -> ../../devices/pci0000:00/0000:00:03.0/net/eth1
    """
    found = detect(fake_machine(tmp_path / "m", text + mounted("/ 0:30 nfs4 server:/root")), tree)
    assert set(critical(found)) == {"nfs", "nfsv4", "e1000e"}


def test_keyboards_and_serial_consoles_are_critical_power_buttons_not(tree: ModuleTree, tmp_path: Path) -> None:
    text = f"""
        sys/devices/pci0000:00/0000:00:06.0/modalias
        | pci:v00008086d0060
        sys/devices/pci0000:00/0000:00:06.0/usb1/hid/modalias
        | hid:b0003g0001
        sys/devices/pci0000:00/0000:00:06.0/usb1/hid/input/input5/capabilities/key
        | {KEYBOARD}
        sys/devices/pci0000:00/0000:00:06.0/usb1/hid/input/input5/device -> ../../../hid
        sys/class/input/input5 -> ../../devices/pci0000:00/0000:00:06.0/usb1/hid/input/input5
        sys/devices/platform/beeper/modalias
        | platform:beeper
        sys/devices/platform/beeper/input/input1/capabilities/key
        | {POWER_BUTTON}
        sys/devices/platform/beeper/input/input1/device -> ../../../beeper
        sys/class/input/input1 -> ../../devices/platform/beeper/input/input1
        sys/devices/platform/uart/modalias
        | platform:uart
        sys/devices/platform/uart/tty/ttyS0/device -> ../../../uart
        sys/class/tty/ttyS0 -> ../../devices/platform/uart/tty/ttyS0
        sys/devices/virtual/tty/console/active
        | tty0 ttyS0
        sys/class/tty/console -> ../../devices/virtual/tty/console
    """
    found = detect(fake_machine(tmp_path / "m", disk() + text + mounted("/ 259:0 ext4 /dev/nvme0n1")), tree)
    assert set(critical(found)) == {"ext4", "nvme", "serial", "hid_generic", "xhci_pci"}
    assert set(found.by_stage()[1]) == {"beeper"}


def graphics(tmp_path: Path) -> Machine:
    text = """
        sys/devices/pci0000:00/0000:00:05.0/modalias
        | pci:v00008086d0030
        sys/devices/pci0000:00/0000:00:05.0/drm/card0/device -> ../../../0000:00:05.0
        sys/class/drm/card0 -> ../../devices/pci0000:00/0000:00:05.0/drm/card0
        sys/devices/virtual/tty/console/active
        | tty0
        sys/class/tty/console -> ../../devices/virtual/tty/console
        sys/devices/virtual/tty/tty0/subsystem -> ../../../../class/tty
        sys/class/tty/tty0 -> ../../devices/virtual/tty/tty0
    """
    return fake_machine(tmp_path / "m", disk() + text + mounted("/ 259:0 ext4 /dev/nvme0n1"))


def test_a_display_driver_is_critical_only_without_a_built_in_console(tmp_path: Path) -> None:
    machine = graphics(tmp_path)
    plain = open_tree(str(make_tree(tmp_path / "a", MODULES, alias=ALIASES)))
    assert "i915" in critical(detect(machine, plain))
    builtin = ["kernel/drivers/gpu/drm/tiny/simpledrm.ko"]
    early = open_tree(str(make_tree(tmp_path / "b", MODULES, alias=ALIASES, builtin=builtin)))
    assert "i915" not in critical(detect(machine, early))
    assert "- name: display\n    after: now\n" in detected_profile(detect(machine, early), early)


def test_a_blacklisted_module_is_not_asked_for_unless_it_is_loaded(tree: ModuleTree, tmp_path: Path) -> None:
    text = """
        sys/devices/platform/beeper/modalias
        | platform:beeper
        sys/devices/platform/busy/modalias
        | platform:busy
        etc/modprobe.d/mine.conf
        | blacklist beeper
        | blacklist other
        | junk
        | install busy /bin/false # for now
        proc/modules
        | other 9 0 - Live 0x0
    """
    found = detect(fake_machine(tmp_path / "m", disk() + text + mounted("/ 259:0 ext4 /dev/nvme0n1")), tree)
    assert found.by_stage()[1] == {"other": "loaded now"}
    assert found.notes == (f"passed over, as modprobe does: {tmp_path}/m/etc/modprobe.d/mine.conf:3 `junk`",)


@pytest.mark.parametrize(
    ("mounts", "message"),
    [
        (["/ 0:1 rootfs rootfs"], "/ is rootfs on rootfs: no device below it is known"),
        (["/ 0:40 overlay overlay"], "/ is overlay on overlay: no device below it is known"),
        (["/home 259:0 ext4 /dev/nvme0n1"], "proc/self/mountinfo: it has no root file system"),
        (["/ 259:0 zfs pool/root"], "no module zfs, and the file system of / needs it"),
    ],
)
def test_a_root_that_cannot_be_told_is_an_error(
    tree: ModuleTree, tmp_path: Path, mounts: list[str], message: str
) -> None:
    with pytest.raises(MegamodError, match=message):
        detect(fake_machine(tmp_path / "m", disk() + mounted(*mounts)), tree)


def test_a_live_system_needs_what_lies_below_its_overlay(tree: ModuleTree, tmp_path: Path) -> None:
    mounts = mounted("/ 0:40 overlay overlay", "/run/medium 259:0 ext4 /dev/nvme0n1")
    found = detect(fake_machine(tmp_path / "m", disk() + mounts), tree)
    assert set(critical(found)) == {"overlay", "ext4", "nvme"}


@pytest.mark.parametrize("name", ["laptop", "server"])
def test_a_recorded_machine_gives_a_profile_that_selects(name: str, kernels, tmp_path: Path) -> None:
    tree = open_tree(str(kernels("bookworm").modules))
    detection = detect(recorded_machine(name, tmp_path / "m"), tree)
    path = tmp_path / "detected.yaml"
    path.write_text(detected_profile(detection, tree))
    [first, *later] = select(load_profile(path), tree).stages
    names = {module.name for module in first.modules}
    ways = {
        "laptop": {"ext4", "dm_crypt", "dm_mod", "nvme", "nvme_core", "xts", "algif_skcipher", "xhci_pci", "usbhid"},
        "server": {"xfs", "libcrc32c", "raid1", "md_mod", "sd_mod", "ahci", "ehci_pci", "usbhid", "hid_generic"},
    }
    assert ways[name] <= names
    assert "e1000e" in {module.name for stage in later for module in stage.modules}
    # Every module of the profile is named for a reason, and none comes along with another one anyhow.
    entries = [line for line in path.read_text().splitlines() if line.lstrip().startswith("- ") and "name:" not in line]
    assert all(" # " in line for line in entries)
    assert {module.reason for stage in (first, *later) for module in stage.modules} >= {"named"}


@pytest.mark.parametrize("suite", ["bookworm-backports", "sid"])
def test_a_recorded_machine_can_be_drawn_for_another_kernel(suite: str, kernels, tmp_path: Path) -> None:
    tree = open_tree(str(kernels(suite).modules))
    path = tmp_path / "detected.yaml"
    path.write_text(detected_profile(detect(recorded_machine("laptop", tmp_path / "m"), tree), tree))
    first = select(load_profile(path), tree).stages[0]
    assert {"ext4", "dm_crypt", "nvme"} <= {module.name for module in first.modules}


def test_detected_is_the_roots_drivers_or_in_a_deferred_stage_the_rest(tree: ModuleTree, tmp_path: Path) -> None:
    text = 'critical: {modules: ["@detected"]}\ndeferred: [{name: rest, modules: ["@detected", beeper]}]\n'
    (tmp_path / "p.yaml").write_text(text)
    found = ({"nvme": "disk nvme0n1"}, {"e1000e": "loaded now"})
    selection = select(load_profile(tmp_path / "p.yaml"), tree, detect=lambda: found)
    reasons = [{module.name: module.reason for module in stage.modules} for stage in selection.stages]
    assert reasons == [{"nvme": "detected: disk nvme0n1"}, {"e1000e": "detected: loaded now", "beeper": "named"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "critical: {modules: [ext4]}\n"
            'deferred: [{name: a, modules: ["@detected"]}, {name: b, modules: ["@detected"]}]',
            r"p\.yaml:2:67: @detected is in two stages, a and b",
        ),
        (
            'critical: {modules: [ext4]}\nexclude: ["@detected"]',
            r"p\.yaml:2:11: exclude: `@detected` would leave out what this machine needs",
        ),
    ],
)
def test_detected_where_it_means_nothing_is_a_located_error(
    text: str, message: str, tree: ModuleTree, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(text + "\n")
    with pytest.raises(MegamodError, match=message):
        select(load_profile(tmp_path / "p.yaml"), tree, detect=lambda: ({}, {}))


def test_an_iscsi_disk_needs_its_initiator_and_the_network(tmp_path: Path) -> None:
    modules = {**MODULES, "kernel/drivers/scsi/iscsi_tcp.ko": []}
    tree = open_tree(str(make_tree(tmp_path / "kernel", modules, alias=ALIASES)))
    text = """
        sys/devices/platform/host2/scsi_host/host2/proc_name
        | iscsi_tcp
        sys/devices/platform/host2/session1/target/2:0:0:1/block/sda/subsystem -> ../../../../../../../../class/block
        sys/dev/block/8:0 -> ../../devices/platform/host2/session1/target/2:0:0:1/block/sda
        sys/devices/pci0000:00/0000:00:04.0/modalias
        | pci:v00008086d0040
        sys/devices/pci0000:00/0000:00:04.0/net/eth0/device -> ../../../0000:00:04.0
        sys/class/net/eth0 -> ../../devices/pci0000:00/0000:00:04.0/net/eth0
    """
    found = detect(fake_machine(tmp_path / "m", text + mounted("/ 8:0 ext4 /dev/sda")), tree)
    assert set(critical(found)) == {"ext4", "iscsi_tcp", "e1000e"}


def test_a_raid_level_that_the_kernel_does_not_have_is_an_error(tree: ModuleTree, tmp_path: Path) -> None:
    text = disk() + mapped("md0", "9:0", "", "raid10", "nvme0n1") + mounted("/ 9:0 ext4 /dev/md0")
    with pytest.raises(MegamodError, match="no module md-raid10, and md0: RAID, level raid10 needs it"):
        detect(fake_machine(tmp_path / "m", text), tree)
