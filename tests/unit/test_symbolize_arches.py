"""Every function of Debian's modules is found again by what each architecture's kernel would print of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from elftools.elf.elffile import ELFFile

from megamod.boot.debian import Kernel
from megamod.build.link_map import parse_map
from megamod.inspect.debug.places import Places
from megamod.modules.tree import open_tree
from megamod.prelink.link import prelink_files
from megamod.prelink.options import PrelinkOptions

KERNELS = [("bookworm", "amd64"), ("sid", "amd64"), ("trixie", "arm64"), ("trixie", "armhf"), ("sid", "riscv64")]


@pytest.mark.parametrize(("suite", "architecture"), KERNELS)
def test_every_function_symbol_leads_back_to_its_member(
    suite: str, architecture: str, kernels: Callable[..., Kernel]
) -> None:
    tree = open_tree(str(kernels(suite, architecture).modules))
    wanted = {"ext4", "btrfs", "virtio_blk"} & tree.modules.keys()
    wanted = wanted.union(*(tree.modules[name].depends for name in wanted))
    made = prelink_files([tree.modules[name].path for name in sorted(wanted)], PrelinkOptions(name="megamod_test"))
    places = Places(parse_map(json.dumps(made.map).encode(), source="m").megamodules["megamod_test"])

    # By pyelftools: per section, where the symbols of functions are; bit 0 of arm's only says that it is Thumb.
    file = ELFFile(io.BytesIO(made.data))
    thumb = 1 if architecture == "armhf" else 0
    functions: dict[int, list[tuple[int, str, int]]] = {}
    for symbol in file.get_section_by_name(".symtab").iter_symbols():
        if symbol["st_info"]["type"] == "STT_FUNC" and isinstance(symbol["st_shndx"], int):
            row = (symbol["st_value"] & ~thumb, symbol.name, symbol["st_size"])
            functions.setdefault(symbol["st_shndx"], []).append(row)
    checked = 0
    for index, rows in functions.items():
        section = file.get_section(index)
        starts = sorted({value for value, _, _ in rows})
        ends = dict(zip(starts, [*starts[1:], section["sh_size"]], strict=True))
        for value, name, size in rows:
            offset = min(4, max(size - 1, 0))
            expected = places.at(section.name, value + offset, name=name)
            assert expected is not None
            assert expected.function is not None
            assert expected.function.name == name
            found, fits = places.by_symbol(name, offset, ends[value] - value)
            assert fits, name
            assert (expected.member, expected.offset) in [(place.member, place.offset) for place in found]
            checked += 1
    assert checked > 2000
