"""Whom the boot waits for: links of SATA that come up late, beside a root on another bus."""

from __future__ import annotations

import pytest

from tests.boot.image_fixtures import END, Guest, make_image, make_root, run

# On virtio the root is there at once. Six ports without a disk take their time to find that out.
PROFILE = """
name: probes
critical: {{modules: [virtio_pci, virtio_blk, ext4, ahci]}}
deferred: [{{name: later, modules: [loop], after: now}}]
probe: {probe}
"""
INIT = f"say user space\nwait_for later\n{END}"


@pytest.fixture
def boot(kernels, made_once):
    def boot(probe: str) -> Guest:
        kernel = kernels("bookworm")
        image = make_image(made_once, kernel, PROFILE.format(probe=probe))
        # By counted instructions, so that a busy machine does not keep process 1 from its turn until the links are up.
        extra = ["-cpu", "max", "-device", "ich9-ahci", "-icount", "shift=0,sleep=off"]
        guest = run(made_once, kernel, image, disks=[make_root(made_once, INIT)], extra=extra)
        assert guest.failures() == []
        assert guest.stages()["later"][:2] == ("done", 1)
        return guest

    return boot


def last_link(guest: Guest) -> int:
    places = [place for place, line in enumerate(guest.log()) if "SATA link down" in line]
    assert len(places) == 6
    return places[-1]


def test_the_root_does_not_wait_for_the_probes_of_others(boot):
    guest = boot("root")
    assert guest.place("megamod: stage critical done") < last_link(guest) < guest.place("loop: module loaded")


def test_user_space_finds_all_devices_where_every_probe_is_waited_for(boot):
    guest = boot("sync")
    took = [place for place, line in enumerate(guest.log()) if line.startswith("megamod: load megamod_critical took ")]
    assert last_link(guest) < took[0] < guest.place("init: user space")
