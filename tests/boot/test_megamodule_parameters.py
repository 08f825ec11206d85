"""Parameters of members: from the kernel command line and the profile, for the critical and for deferred stages."""

from __future__ import annotations

import pytest

from tests.boot.image_fixtures import END, Guest, make_image, make_root, run

SUITES = ("bookworm", "sid")

PROFILE = """
name: parameters
critical: {modules: ["?virtio_pci", virtio_blk, ext4, scsi_mod, mmc_block]}
deferred:
  - {name: usb, modules: [usb_storage, sd_mod, usbhid], after: userspace}
  - {name: sound, modules: [snd_hda_intel], after: userspace}
options:
  virtio_blk: {queue_depth: 32, num_request_queues: 3}
  usb-storage: {quirks: "1111:2222:i", delay-use: 7}
  snd_hda_intel: {model: "from the profile", power_save: 9}
"""

WORDS = (
    'virtio-blk.queue-depth=16 usb-storage.quirks="0781:5580:u 1234:5678:i" "snd_hda_intel.id=a card"'
    " mmcblk.perdev_minors=5"
)

INIT = (
    """
wait_for usb
wait_for sound
for file in /sys/module/megamod_*/parameters/*; do show ${file##*/} cat $file; done
# Members that are on their own because a setter of theirs gets a value.
for module in snd_hda_intel usb_storage; do
	for file in /sys/module/$module/parameters/*; do [ -f $file ] && show $module.${file##*/} cat $file; done
done
show tags cat /sys/block/vda/mq/0/nr_tags
"""
    + END
)


@pytest.fixture(params=SUITES)
def kernel(request, kernels):
    return kernels(request.param)


def boot(made_once, kernel, words: str) -> Guest:
    image = make_image(made_once, kernel, PROFILE)
    return run(made_once, kernel, image, disks=[make_root(made_once, INIT)], append=words, extra=("-cpu", "max"))


@pytest.fixture
def guest(made_once, kernel) -> Guest:
    return boot(made_once, kernel, WORDS)


@pytest.fixture
def skipping(made_once, kernel) -> Guest:
    return boot(made_once, kernel, "megamod.skip=scsi-mod megamod.skip=snd_hda_codec,no_such_module")


def test_a_command_line_parameter_reaches_the_member_and_wins(guest):
    assert guest.section("virtio_blk.queue_depth") == ["16"]
    assert guest.section("tags") == ["16"]


def test_a_value_with_a_blank_reaches_a_member_of_a_deferred_stage_whole(guest):
    assert guest.section("usb_storage.quirks") == ["0781:5580:u 1234:5678:i"]
    assert guest.section("snd_hda_intel.id")[0].startswith("a card,")


def test_options_of_the_profile_reach_members_of_every_stage(guest):
    assert guest.section("virtio_blk.num_request_queues") == ["3"]
    assert guest.section("usb_storage.delay_use") == ["7"]
    assert guest.section("snd_hda_intel.power_save") == ["9"]
    assert guest.section("snd_hda_intel.model")[0].startswith("from the profile,")


def test_module_with_a_setter_of_its_own_for_an_option_is_loaded_on_its_own(guest):
    assert "snd_hda_intel" in guest.modules()


def test_a_prefix_that_a_member_has_chosen_itself_is_understood(guest):
    assert guest.section("mmcblk.perdev_minors") == ["5"]


def test_no_parameter_is_unknown_to_the_kernel(guest):
    assert [line for line in guest.log() if "unknown parameter" in line or "invalid for parameter" in line] == []
    assert guest.failures() == []


def test_a_skipped_member_and_all_that_need_it_in_any_stage_are_left_out(skipping):
    left_out = {line.split()[2] for line in skipping.log() if line.startswith("megamod: member ")}
    assert left_out == {"scsi_mod", "sd_mod", "usb_storage", "snd_hda_codec", "snd_hda_intel"}
    assert "megamod: member scsi_mod skipped: asked for" in skipping.log()
    assert "megamod: member usb_storage skipped: needs scsi_mod" in skipping.log()
    assert "megamod: member snd_hda_codec skipped: asked for" in skipping.log()


def test_everything_else_runs_beside_a_skipped_member(skipping):
    assert {row[0] for row in skipping.stages().values()} == {"done"}
    assert {row[2] for row in skipping.stages().values()} == {0}
    assert any("registered new interface driver usbhid" in line for line in skipping.log())


def test_the_kernel_does_not_complain_of_a_skipped_member(skipping):
    assert [text for text in skipping.failures() if not text.startswith("member ")] == []
