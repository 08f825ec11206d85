"""Images of `megamod build` with `fallback: modules` and an overlaid root, on kernels that take the megamodules and on
such that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from tests.boot.image_fixtures import END, Guest, make_image, make_root, run

PROFILE = """
name: careful
critical: {modules: ["?virtio_pci", virtio_blk, ext4, overlay]}
deferred: [{name: sound, modules: [snd_timer, loop], after: userspace}]
options: {loop: {max_part: 3}}
skip: [snd_timer]
fallback: modules
root: {from: cmdline, overlay: tmpfs}
"""

INIT = (
    """
wait_for sound
show mounts cat /proc/mounts
show parameter sh -c 'cat /sys/module/loop/parameters/max_part /sys/module/megamod_sound/parameters/loop.max_part'
until grep -q '"name": "sound", "state": "done"' /run/megamod/status.json; do sleep 0.1; done
show json cat /run/megamod/status.json
"""
    + END
)


@pytest.fixture(params=["bookworm", "bookworm-backports"])
def kernel(request, kernels) -> Kernel:
    return kernels(request.param)


@pytest.fixture
def image(made_once, kernel) -> Path:
    return make_image(made_once, kernel, PROFILE)


@pytest.fixture
def free(made_once, kernel, image) -> Guest:
    return run(made_once, kernel, image, disks=[make_root(made_once, INIT)])


@pytest.fixture
def strict(made_once, kernel, image) -> Guest:
    """A kernel that refuses what is not signed."""
    return run(made_once, kernel, image, disks=[make_root(made_once, INIT)], append="module.sig_enforce=1")


def test_megamodules_are_taken_where_the_kernel_lets_them(free):
    assert {"megamod_critical", "megamod_sound"} <= set(free.modules())
    assert {line.split()[7] for line in free.section("status")} == {"merged"}
    assert free.section("parameter")[-1] == "3"


def test_signed_originals_are_taken_where_the_kernel_wants_signatures(strict):
    assert not any(name.startswith("megamod_") for name in strict.modules())
    assert {"virtio_blk", "ext4", "overlay", "loop"} <= set(strict.modules())
    assert {(line.split()[1], line.split()[7]) for line in strict.section("status")} == {("done", "fallback")}
    assert strict.section("parameter")[0] == "3"


def test_root_is_an_overlay_in_both_cases(free, strict):
    for guest in (free, strict):
        assert [line for line in guest.section("mounts") if line.startswith("overlay / overlay rw")]


def test_module_that_the_profile_skips_is_skipped_in_both_cases(free, strict):
    for guest in (free, strict):
        assert "megamod: member snd_timer skipped: asked for" in guest.log()
        stages = json.loads("\n".join(guest.section("json")))["stages"]
        members = {m["name"]: m for load in stages[1]["loads"] for m in load["members"]}
        assert (members["snd_timer"]["state"], members["snd_timer"]["because"]) == ("skipped", "asked")
        assert (members["loop"]["state"], members["loop"]["result"]) == ("ok", 0)
        assert members["loop"]["nanoseconds"] > 0
