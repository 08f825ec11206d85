"""Images of dracut and initramfs-tools with and without megamod boot the same system to the same state."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.hooks.debian_systems import Layer, image_files
from tests.hooks.system_boots import GuestRun

RDINIT = "rdinit=/megamod-init"
PAIRS = [(suite, generator) for suite in ("bookworm", "trixie") for generator in ("dracut", "initramfs-tools")]
HookedBoot = Callable[[str, str, str], GuestRun]
PlainBoot = Callable[[str, str], GuestRun]
_TROUBLE = ("exports duplicate symbol", "already registered", "cannot create duplicate", "Call Trace", "BUG:", "Oops")


def assert_same_machine(run: GuestRun, plain: GuestRun) -> None:
    assert run.section("target") == ["active"]
    assert run.section("udev") == ["active"]
    assert run.section("failed") == plain.section("failed") == []
    assert [line for line in run.section("log") if any(text in line for text in _TROUBLE)] == []
    assert run.devices() == plain.devices()
    assert run.section("net") == plain.section("net")


@pytest.mark.parametrize(("suite", "generator"), PAIRS)
def test_with_rdinit_the_system_comes_up_as_it_does_without_megamod(
    suite: str, generator: str, plain_boot: PlainBoot, hooked_boot: HookedBoot
) -> None:
    run = hooked_boot(suite, generator, RDINIT)
    assert_same_machine(run, plain_boot(suite, generator))


@pytest.mark.parametrize("generator", ["dracut", "initramfs-tools"])
def test_at_the_hook_points_the_system_comes_up_as_it_does_without_megamod(
    generator: str, plain_boot: PlainBoot, hooked_boot: HookedBoot
) -> None:
    run = hooked_boot("bookworm", generator, "")
    assert_same_machine(run, plain_boot("bookworm", generator))
    assert "megamod_critical" in run.modules()


@pytest.mark.parametrize(("suite", "generator"), PAIRS)
def test_the_members_are_in_one_module_and_masked_on_the_real_root(
    suite: str, generator: str, plain_boot: PlainBoot, hooked_boot: HookedBoot
) -> None:
    run = hooked_boot(suite, generator, RDINIT)
    members = run.members()
    # virtio_pci is built into newer kernels.
    assert {"ext4", "virtio_blk", "xhci_pci", "usbhid"} <= members
    assert "megamod_critical" in run.modules()
    assert members & run.modules() == set()
    # Nothing else is missing or too much.
    assert plain_boot(suite, generator).modules() <= run.modules() | members


@pytest.mark.parametrize(("generator", "word"), [("dracut", "megamod=off"), ("initramfs-tools", "lockdown=integrity")])
def test_off_or_a_refused_megamodule_boots_through_the_members_own_files(
    generator: str, word: str, plain_boot: PlainBoot, hooked_boot: HookedBoot
) -> None:
    run = hooked_boot("bookworm", generator, f"{RDINIT} {word}")
    assert_same_machine(run, plain_boot("bookworm", generator))
    assert "megamod_critical" not in run.modules()
    assert {"ext4", "virtio_blk"} <= run.modules()


@pytest.mark.parametrize(("suite", "generator"), PAIRS)
def test_the_image_has_no_file_of_a_member_where_modprobe_looks(
    suite: str, generator: str, hooked: Callable[[str], tuple[Layer, dict[str, object]]]
) -> None:
    _layer, images = hooked(suite)
    files = image_files(images[generator])
    members = {name.removeprefix("megamod/originals/") for name in files if name.startswith("megamod/originals/")}
    assert len(members) > 20
    left = {
        path
        for path in files
        if "/modules/" in path and ".ko" in path and path.rpartition("/")[2].split(".ko")[0] + ".ko" in members
    }
    assert left == set()
