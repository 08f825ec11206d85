"""What waits for devices comes first in its level, what computes comes last; dependencies and levels always hold."""

from __future__ import annotations

import random

import pytest

from tests.unit.module_factory import Ko, link

RANKS = {"hid": (6, 1), "ahci": (6, 2), "libahci": (6, 3), "raid456": (6, 0), "raid6_pq": (4, 0), "late": (7, 0)}


def drivers(**options: str) -> list[str]:
    """Init order of six drivers of which each is one kind."""
    kos = [
        Ko("hid", info={"alias": "hid:b*"}).exports("hid_sym", 0x77),
        Ko("ahci", info={"alias": "pci:v*d*sv*sd*bc01sc06i01*"}).calls("libahci_sym").calls("ata_host_activate"),
        Ko("libahci").exports("libahci_sym", 0x77),
        Ko("raid6_pq").exports("raid6_sym", 0x77).calls("jiffies"),
        Ko("raid456").calls("raid6_sym").exports("raid_sym", 0x77),
        Ko("late").exports("late_sym", 0x77),
    ]
    return [member.name for member in link(*kos, ranks=RANKS, **options).members]


def test_hosts_come_first_and_computations_last_in_their_level() -> None:
    assert drivers() == ["libahci", "ahci", "hid", "raid6_pq", "raid456", "late"]


def test_order_link_is_that_of_the_link() -> None:
    assert drivers(order="link") == ["raid6_pq", "raid456", "hid", "libahci", "ahci", "late"]


def test_hosts_keep_their_order_among_each_other() -> None:
    kos = [
        Ko(name, info={"alias": "pci:v*"}).calls(function)
        for name, function in [("b", "usb_add_hcd"), ("a", "scsi_add_host_with_dma"), ("c", "nvme_init_ctrl")]
    ]
    found = [member.name for member in link(Ko("x"), *kos).members]
    assert found == ["b", "a", "c", "x"]


@pytest.mark.parametrize("alias", ["of:N*T*Cacme,mmc", "platform:mmc", "usb:v*", "acpi*:X:*"])
def test_a_host_that_may_need_other_drivers_stays_where_it_is(alias: str) -> None:
    kos = [Ko("x"), Ko("mmc", info={"alias": f"{alias}"}).calls("mmc_add_host")]
    assert [member.name for member in link(*kos).members] == ["x", "mmc"]


@pytest.mark.parametrize("symbol", ["crypto_register_alg", "device_create", "proc_mkdir"])
def test_what_shows_itself_is_no_computation(symbol: str) -> None:
    kos = [Ko("lib").exports("lib_sym", 0x77).calls("jiffies").calls(symbol), Ko("x")]
    assert [member.name for member in link(*kos, ranks={"lib": (4, 0), "x": (6, 0)}).members] == ["lib", "x"]


def test_a_host_behind_a_library_is_a_host() -> None:
    kos = [
        Ko("x"),
        Ko("sdhci").exports("sdhci_sym", 0x77).calls("mmc_add_host"),
        Ko("sdhci_pci", info={"alias": "pci:v*"}).calls("sdhci_sym"),
    ]
    assert [member.name for member in link(*kos).members] == ["sdhci", "sdhci_pci", "x"]


def test_dependencies_hold_in_random_sets() -> None:
    rng = random.Random(11)
    calls = ["ata_host_activate", "usb_add_hcd", "jiffies", "device_add_disk"]
    for _ in range(8):
        count = rng.randint(2, 25)
        needs = {n: rng.sample(range(n), rng.randint(0, min(n, 3))) for n in range(count)}
        kos = []
        for n, needed in needs.items():
            info = {"alias": "pci:v*"} if rng.random() < 0.5 else {}
            ko = Ko(f"m{n}", info=info).exports(f"m{n}_sym", 0x77)
            for symbol in [*(f"m{d}_sym" for d in needed), *rng.sample(calls, rng.randint(0, 2))]:
                ko.calls(symbol)
            kos.append(ko)
        rng.shuffle(kos)
        ranks = {f"m{n}": (rng.randint(4, 7), n) for n in range(count)}
        found = [member.name for member in link(*kos, ranks=ranks).members]
        place = {name: number for number, name in enumerate(found)}
        assert sorted(found) == sorted(f"m{n}" for n in range(count))
        assert all(place[f"m{d}"] < place[f"m{n}"] for n, needed in needs.items() for d in needed)


def test_what_brings_a_bus_comes_before_the_disks_on_it() -> None:
    kos = [
        Ko("x"),
        Ko("virtio_pci", info={"alias": "pci:v00001AF4d*"}).calls("register_virtio_device"),
        Ko("virtio_blk", info={"alias": "virtio:d00000002v*"}).calls("device_add_disk"),
    ]
    assert [member.name for member in link(*kos).members] == ["virtio_pci", "virtio_blk", "x"]
