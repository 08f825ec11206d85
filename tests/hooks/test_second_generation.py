"""Images that are made on a system which was itself booted with megamod: the mask must not make them poorer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from megamod.build.manifest import MANIFEST_PATH, Manifest
from tests.hooks.conftest import GENERATE, GENERATORS, SUITES, MadeOnce
from tests.hooks.debian_systems import Layer, image_files, make_disk, run_in
from tests.hooks.system_boots import REPORT, GuestRun, boot_system
from tests.hooks.test_hook_boot import RDINIT, HookedBoot, PlainBoot, assert_same_machine

Hooked = Callable[[str], tuple[Layer, dict[str, Path]]]
Generation = tuple[GuestRun, dict[str, Path]]
Generations = Callable[[str, str, int], Generation]
NAMES = {"dracut": "dracut.img", "initramfs-tools": "initrd.img"}

# What is asked of each generator: an image for the machine that it sees, or for many.
KINDS = {"one": ("dep", "--hostonly --no-hostonly-cmdline"), "many": ("most", "--no-hostonly")}
_PREPARE = """\
rm -f /boot/*.img /etc/megamod/hook.conf
echo MEGAMOD_STRICT=yes >/etc/megamod/hook.conf
: >/boot/initrd.img-{kernel}
"""
# A system with few drivers, so that a guest gets through depmod and both generators in some minutes.
_SMALL = """\
cd /lib/modules/{kernel}/kernel
rm -rf sound drivers/gpu drivers/media drivers/infiniband drivers/staging drivers/net/wireless drivers/iio drivers/hwmon
rm -rf drivers/mmc drivers/mtd drivers/isdn drivers/net/ethernet/[a-hj-z]* net/bluetooth net/netfilter net/sched
rm -rf drivers/scsi/[a-ru-z]*/ fs/btrfs fs/ceph fs/gfs2 fs/nfs* fs/ocfs2 fs/smb fs/xfs
depmod -a {kernel}
"""
_FEW = "base systemd systemd-initrd udev-rules rootfs-block kernel-modules fs-lib megamod"
_GENERATE = """\
echo MODULES={modules} >/etc/initramfs-tools/conf.d/modules
show depmod depmod -a
show initramfs-tools update-initramfs -u -k {kernel}
show dracut dracut -q -f {options} /boot/dracut.img {kernel}
mv /boot/initrd.img-{kernel} /boot/initrd.img
send -C /boot dracut.img initrd.img
"""
# What DKMS does after it has compiled: a file in updates/dkms, and depmod.
_INSTALL_MODULE = """\
mkdir -p /lib/modules/{kernel}/updates/dkms
cp /lib/modules/{kernel}/kernel/drivers/net/dummy.ko* /lib/modules/{kernel}/updates/dkms/
depmod -a
show dkms modprobe -v dummy
show dummy cat /sys/module/dummy/initstate
"""


def members_of(image: Path) -> set[str]:
    manifest = Manifest.from_json(image_files(image, [MANIFEST_PATH])[MANIFEST_PATH])
    return {
        member.name
        for stage in manifest.stages
        for load in stage.loads
        if load.kind == "merged"
        for member in load.members
    }


@pytest.fixture(scope="session")
def generations(hooked: Hooked, plain_image: Callable[[str, str], Path], made_once: MadeOnce) -> Generations:
    """``generations("bookworm", "one", 2)``: the guest that made the images of that generation, and these images. The
    first one was booted without megamod, the second one with the first generation's image of initramfs-tools."""

    def get(suite: str, kind: str, number: int) -> Generation:
        layer, _images = hooked(suite)
        kernel = layer.system.kernel

        def make_disk_of(path: Path) -> None:
            upper = path.with_suffix(".upper")
            run_in(layer.system, layer, upper, _PREPARE.format(kernel=kernel))
            make_disk(Layer(system=layer.system, uppers=(upper, *layer.uppers)), path)

        def make(path: Path) -> None:
            path.mkdir()
            earlier = get(suite, kind, number - 1)[1]["initramfs-tools"] if number > 1 else None
            modules, options = KINDS[kind]
            script = REPORT + (_INSTALL_MODULE.format(kernel=kernel) if number > 1 else "")
            run = boot_system(
                layer.system,
                earlier or plain_image(suite, "initramfs-tools"),
                script + _GENERATE.format(kernel=kernel, modules=modules, options=options),
                path / "boot",
                disk=made_once(f"generations-{suite}.disk", make_disk_of),
                append=RDINIT if earlier else "",
                timeout=2400.0,
            )
            (path / "run.json").write_text(json.dumps(asdict(run)))

        folder = made_once(f"generation-{suite}-{kind}-{number}", make)
        run = GuestRun(**json.loads((folder / "run.json").read_text()))
        return run, {each: folder / "boot/out" / NAMES[each] for each in GENERATORS}

    return get


@pytest.mark.slow
def test_a_small_guest_with_the_mask_makes_images_with_all_members_again(
    hooked: Hooked, made_once: MadeOnce, tmp_path: Path
) -> None:
    """A system with few drivers, and dracut with few of its modules: the quickest of what is marked slow."""
    layer, images = hooked("bookworm")
    kernel = layer.system.kernel
    upper = tmp_path / "upper"
    run_in(layer.system, layer, upper, (_PREPARE + _SMALL).format(kernel=kernel))
    make_disk(Layer(system=layer.system, uppers=(upper, *layer.uppers)), tmp_path / "disk.img")
    script = REPORT + _INSTALL_MODULE.format(kernel=kernel)
    script += _GENERATE.format(kernel=kernel, modules="dep", options=f"--hostonly --no-hostonly-cmdline -m '{_FEW}'")
    run = boot_system(
        layer.system,
        images["initramfs-tools"],
        script,
        tmp_path,
        disk=tmp_path / "disk.img",
        append=RDINIT,
        timeout=900.0,
    )
    assert [run.status(name) for name in ("depmod", "dkms", "initramfs-tools", "dracut")] == [0, 0, 0, 0]
    assert run.section("dummy") == ["live"]
    there = {path.name.split(".ko")[0].replace("-", "_") for path in modules_of(layer, upper)}
    for generator in GENERATORS:
        assert members_of(tmp_path / "out" / NAMES[generator]) >= run.members() & there


def modules_of(layer: Layer, upper: Path) -> list[Path]:
    """The module files of a system whose last changes are in *upper*."""
    place = f"lib/modules/{layer.system.kernel}"
    text = (upper / "usr" / place / "modules.dep").read_text()
    return [Path(line.split(":")[0]) for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suite", SUITES)
def test_depmod_modules_and_both_generators_work_in_a_guest_with_the_mask(
    suite: str, kind: str, generations: Generations
) -> None:
    run, _images = generations(suite, kind, 2)
    assert "megamod_critical" in run.modules()
    assert [run.status(name) for name in ("depmod", "dkms", "initramfs-tools", "dracut")] == [0, 0, 0, 0]
    assert run.section("dummy") == ["live"]


@pytest.mark.slow
@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suite", SUITES)
def test_a_guests_own_image_has_the_same_members_in_the_second_generation(
    suite: str, kind: str, generator: str, generations: Generations
) -> None:
    first, (run, images) = members_of(generations(suite, kind, 1)[1][generator]), generations(suite, kind, 2)
    second = members_of(images[generator])
    if generator == "initramfs-tools":
        assert second == first
    else:
        # That guest was booted with the other generator's image, and what runs as a member counts as taken.
        assert first <= second <= first | run.members()


@pytest.mark.slow
@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suite", SUITES)
def test_an_image_of_the_second_generation_boots(
    suite: str, kind: str, generator: str, generations: Generations, plain_boot: PlainBoot, hooked: Hooked
) -> None:
    system = hooked(suite)[0].system
    image = generations(suite, kind, 2)[1][generator]
    run = boot_system(system, image, REPORT, image.parent / f"boot-{generator}", append=RDINIT)
    assert_same_machine(run, plain_boot(suite, generator))
    assert "megamod_critical" in run.modules()


@pytest.mark.parametrize("suite", ["bookworm", pytest.param("trixie", marks=pytest.mark.slow)])
def test_an_image_for_many_machines_is_the_same_in_the_second_generation(
    suite: str, hooked: Hooked, hooked_boot: HookedBoot, machine: Path, tmp_path: Path
) -> None:
    """`MODULES=most` and dracut without hostonly take minutes in an emulated guest, so here a chroot has its mask."""
    layer, images = hooked(suite)
    for generator in GENERATORS:
        mask = "\n".join(hooked_boot(suite, generator, RDINIT).section("mask")) + "\n"
        seen = tmp_path / generator / "machine"
        shutil.copytree(machine, seen, symlinks=True)
        (seen / "run/modprobe.d").mkdir(parents=True)
        (seen / "run/modprobe.d/megamod.conf").write_text(mask)
        upper = tmp_path / generator / "upper"
        script = "mkdir -p /run/modprobe.d; cp /mnt/run/modprobe.d/megamod.conf /run/modprobe.d/\n"
        script += GENERATE[generator].format(name="second.img", kernel=layer.system.kernel)
        run_in(layer.system, layer, upper, script, bind={seen: "mnt"})
        assert members_of(upper / "boot/second.img") == members_of(images[generator])
        first = {path.rpartition("/")[2] for path in image_files(images[generator]) if ".ko" in path}
        second = {path.rpartition("/")[2] for path in image_files(upper / "boot/second.img") if ".ko" in path}
        assert first - second == set()
