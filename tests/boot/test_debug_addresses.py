"""Load addresses of megamodules on other kernels and architectures: /proc/modules gives the places that /sys gives."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.build.link_map import read_map
from megamod.build.recipe import build_image
from megamod.common.progress import Steps
from megamod.inspect.debug.addresses import load_addresses
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.boot.debug_kernels import megamod
from tests.boot.image_fixtures import Guest, MadeOnce, make_root, run

PROFILE = "name: addresses\ncritical: {modules: ['?virtio_pci', virtio_blk, ext4]}\ncompress: none\n"
SCRIPT = """
show sections grep -r . /sys/module/megamod_critical/sections
show modules cat /proc/modules
show stack sh -c 'cat /proc/$(pidof jbd2/vda-8)/stack'
poweroff -f
"""
KERNELS = [("sid", "amd64"), ("trixie", "arm64")]


@pytest.fixture(scope="module", params=KERNELS, ids=lambda pair: "-".join(pair))
def kernel(request: pytest.FixtureRequest, kernels) -> Kernel:
    suite, architecture = request.param
    return kernels(suite, architecture)


@pytest.fixture(scope="module")
def image(made_once: MadeOnce, kernel: Kernel) -> Path:
    def make(path: Path) -> None:
        source = path.with_suffix(".yaml")
        source.write_text(PROFILE)
        tree = open_tree(str(kernel.modules))
        link_map = path.with_name(f"addresses-{kernel.release}.map")
        build_image(load_profile(source), tree, path, steps=Steps(io.StringIO(), quiet=True), map_file=link_map)

    return made_once(f"addresses-{kernel.release}", make)


@pytest.fixture(scope="module")
def guest(made_once: MadeOnce, kernel: Kernel, image: Path) -> Guest:
    root = make_root(made_once, SCRIPT, architecture=kernel.architecture)
    return run(made_once, kernel, image, disks=[root], append="rw", timeout=1200)


def test_the_modules_address_gives_the_places_of_all_its_code(guest: Guest, image: Path, tmp_path: Path) -> None:
    link_map = read_map(image.with_name(f"{image.name}.map"))
    found = {}
    for name in ("sections", "modules"):
        (tmp_path / name).write_text("\n".join(guest.section(name)))
        found[name] = load_addresses(link_map, sections=tmp_path / name)["megamod_critical"].sections
    assert ".text" in found["modules"]
    assert found["modules"].items() <= found["sections"].items()


def test_a_stack_of_a_members_thread_names_the_member(
    guest: Guest, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(guest.section("stack"))
    assert "kjournald2" in text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    capsys.readouterr()
    megamod("symbolize", "--map", image)
    captured = capsys.readouterr()
    assert re.search(r"^\[<0>\] kjournald2\+\S+ \[jbd2\]$", captured.out, re.MULTILINE)
    assert captured.err == ""
