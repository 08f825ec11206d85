"""The shipped profiles on Debian's kernels for other machines, which build in or lack what the usual ones have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from megamod.boot.debian import fetch_kernel
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from megamod.modules.tree import ModuleTree, open_tree
from megamod.profile.schema import load_profile, shipped_profiles
from megamod.select.select import select
from tests.conftest import missing

# (suite, the meta-package linux-image-…, Debian's architecture)
KERNELS = (
    ("bookworm", "arm64", "arm64"),
    ("trixie", "armmp", "armhf"),
    ("trixie", "riscv64", "riscv64"),
    ("bookworm", "cloud-amd64", "amd64"),
    ("bookworm", "rt-amd64", "amd64"),
)


@pytest.fixture(scope="module", params=KERNELS, ids=lambda kernel: kernel[1])
def tree(request: pytest.FixtureRequest, tool: Callable[..., str]) -> ModuleTree:
    suite, flavour, architecture = request.param
    for name, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("depmod", "kmod")):
        tool(name, package=package)
    try:
        kernel = fetch_kernel(suite, flavour=flavour, architecture=architecture, cache=cache_folder())
    except MegamodError as error:
        missing(f"no kernel {flavour} of {suite}: {error}")
    return open_tree(str(kernel.modules))


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_a_shipped_profile_selects_from_a_kernel_of_another_kind(name: str, tree: ModuleTree) -> None:
    selection = select(load_profile(shipped_profiles()[name]), tree)
    assert selection.stages[0].name == "critical"
    stages = {module.name: number for number, stage in enumerate(selection.stages) for module in stage.modules}
    # The way to a disk is there, in the kernel or in the first stage.
    for module in ("ext4", "virtio_blk"):
        assert module in tree.builtin or stages.get(module, 0 if module not in tree.modules else 9) == 0
    for module, stage in stages.items():
        assert all(stages[need] <= stage for need in tree.modules[module].depends)
