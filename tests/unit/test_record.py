"""`megamod detect --record`: the same again when read, nothing private, and damaged ones are survived."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megamod.common.errors import MegamodError
from megamod.machine.detect import detect
from megamod.machine.detected_yaml import detected_profile
from megamod.machine.machine import Machine, open_machine
from megamod.machine.machine_recorder import Item, recorded, write_record
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from megamod.select.select import select
from tests.unit.machine_records import (
    ALIASES,
    DATA,
    MODULES,
    disk,
    fake_machine,
    items_of_text,
    machine_of,
    mounted,
    recorded_machine,
)
from tests.unit.module_trees import make_tree


def test_a_record_of_a_record_is_the_same(tmp_path: Path) -> None:
    machine = recorded_machine("laptop", tmp_path / "m")
    items = sorted(recorded(machine), key=lambda item: item.path)
    write_record(items, tmp_path / "again")
    assert sorted(recorded(Machine(root=tmp_path / "again")), key=lambda item: item.path) == items


def test_a_record_tells_nothing_private(tmp_path: Path) -> None:
    text = disk() + mounted("/ 259:0 ext4 /dev/nvme0n1")
    text += """
        proc/cmdline
        | root=/dev/nvme0n1 secret=hunter2
        sys/devices/pci0000:00/0000:00:01.0/serial
        | S1234
        sys/devices/virtual/dmi/id/product_uuid
        | 4c4c4544
    """
    machine = fake_machine(tmp_path / "m", text)
    told = "\n".join(f"{item.path} {item.text}" for item in recorded(machine))
    assert not any(word in told for word in ("hunter2", "S1234", "4c4c4544"))


def test_a_record_is_not_written_over_something(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(MegamodError, match="is not empty"):
        write_record([], tmp_path / "full")


def test_links_that_lead_out_of_a_record_are_not_followed(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path / "m", "sys/class/block/x -> ../../../../outside\nsys/devices/a/modalias\n| b\n")
    (tmp_path / "outside").mkdir()
    assert machine.real_path("sys/class/block/x") == ""


@pytest.mark.parametrize(
    ("make", "hint"), [("devices/x", "looks like a sys folder"), ("other", "megamod detect --record DIR")]
)
def test_a_folder_without_a_machine_is_an_error(tmp_path: Path, make: str, hint: str) -> None:
    (tmp_path / make).mkdir(parents=True)
    with pytest.raises(MegamodError, match=hint):
        open_machine(tmp_path)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(seed=st.integers(0, 1 << 30), share=st.sampled_from([0.01, 0.1, 0.5]))
def test_a_damaged_record_gives_a_profile_or_an_error(seed: int, share: float) -> None:
    """Files are lost, emptied or exchanged, links turned around: never a traceback, never an endless walk."""
    chance = random.Random(seed)
    items = items_of_text((DATA / "laptop.txt").read_text())
    texts = [item.text for item in items if item.text]
    targets = [item.target for item in items if item.target]
    damaged = []
    for item in items:
        if chance.random() > share:
            damaged.append(item)
        elif chance.random() > 0.5:
            text, target = chance.choice(texts), chance.choice(targets)
            damaged.append(
                Item(path=item.path, text=text) if item.target is None else Item(path=item.path, target=target)
            )
    with tempfile.TemporaryDirectory() as folder:
        tree = open_tree(str(make_tree(Path(folder) / "kernel", MODULES, alias=ALIASES)))
        machine = machine_of(damaged, Path(folder) / "m")
        try:
            text = detected_profile(detect(machine, tree), tree)
        except MegamodError as error:
            assert "\n" not in str(error)
            return
        (Path(folder) / "p.yaml").write_text(text)
        select(load_profile(Path(folder) / "p.yaml"), tree)
