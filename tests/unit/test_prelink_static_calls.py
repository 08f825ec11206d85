"""Which members keep their static-call sites, on real modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megamod.boot.debian import Kernel
from megamod.modules.tree import open_tree
from megamod.prelink.link import prelink_files
from megamod.prelink.options import PrelinkOptions


def files(kernel: Kernel, name: str) -> list[Path]:
    tree = open_tree(str(kernel.modules))
    return [tree.modules[module].path for module in (name, *tree.modules[name].depends)]


def with_sites(kernel: Kernel, name: str, **options: Any) -> set[str]:
    """The members whose .static_call_sites went into the megamodule."""
    made = prelink_files(files(kernel, name), PrelinkOptions(name="megamod_test", **options))
    rows = [row for row in made.map["chunks"] if row["section"] == ".static_call_sites" and row.get("size")]
    return {made.map["members"][row["member"]]["name"] for row in rows}


def test_sites_of_the_kernels_own_keys_are_left_out(kernels: Callable[[str], Kernel]) -> None:
    assert with_sites(kernels("bookworm"), "ext4") == set()


def test_sites_stay_in_a_module_that_has_keys_of_its_own(kernels: Callable[[str], Kernel]) -> None:
    assert with_sites(kernels("bookworm"), "kvm_intel") == {"kvm", "kvm_intel"}


@pytest.mark.parametrize("options", [{"static_calls": "patch"}, {"tracing": "keep"}])
def test_all_sites_stay_if_asked_for_or_if_tracing_does(
    kernels: Callable[[str], Kernel], options: dict[str, str]
) -> None:
    assert {"ext4", "jbd2"} <= with_sites(kernels("bookworm"), "ext4", **options)
