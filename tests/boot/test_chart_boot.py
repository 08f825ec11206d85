"""The chart of real boots: its parts against the whole and against what the kernel itself measures."""

from __future__ import annotations

import re

import pytest

from megamod.analyze.chart.compare import compare
from megamod.analyze.chart.record import Kind
from tests.boot.charted_boots import Kernels, log_of, record_of
from tests.boot.image_fixtures import MadeOnce

SUITES = ("bookworm", "sid")


@pytest.fixture(autouse=True)
def qemu(tool) -> None:
    tool("qemu-system-x86_64", package="qemu-system-x86")


@pytest.mark.parametrize("suite", SUITES)
def test_the_parts_of_a_boot_add_up_to_the_whole_within_one_percent(
    kernels: Kernels, made_once: MadeOnce, suite: str
) -> None:
    boot = record_of(made_once, kernels(suite), merged=True)
    parts = [leaf for span in boot.line for leaf in span.leaves() if leaf.kind != Kind.UNEXPLAINED]
    assert abs(sum(part.duration for part in parts) - boot.end) <= boot.end / 100


@pytest.mark.parametrize("suite", SUITES)
def test_copy_relocation_and_inits_explain_a_call_within_two_percent(
    kernels: Kernels, made_once: MadeOnce, suite: str
) -> None:
    # Three clocks: the loader's for the call, the kernel's log for its parts, the glue's for the inits.
    call = record_of(made_once, kernels(suite), merged=True).calls()[0]
    kinds = [part.kind for part in call.parts]
    assert kinds[:2] == [Kind.COPY, Kind.LINK]
    assert kinds.count(Kind.INIT) >= 6 and kinds[-1] == Kind.END
    # What the kernel does between the last init and the end of the call is its own, and not the same in each boot.
    assert call.parts[-1].duration <= call.duration / 50


def test_the_kernels_own_time_of_the_one_init_is_the_sum_of_the_members(kernels: Kernels, made_once: MadeOnce) -> None:
    kernel = kernels("bookworm")
    log = log_of(made_once, kernel, merged=True, initcalls=True)
    boot = record_of(made_once, kernel, merged=True, initcalls=True)
    # initcall_debug: do_one_initcall_debug() of init/main.c measures the glue, which has no name with `symbols: trim`.
    match = re.search(r"module_load: megamod_critical[\s\S]*?initcall 0x\w+ returned 0 after (\d+) usecs", log)
    assert match
    inits = [part.duration for part in boot.calls()[0].parts if part.kind == Kind.INIT]
    assert sum(inits) / 1000 == pytest.approx(int(match[1]), rel=0.01, abs=50)


def test_with_initcall_debug_the_kernels_own_initcalls_are_in_the_chart(kernels: Kernels, made_once: MadeOnce) -> None:
    boot = record_of(made_once, kernels("bookworm"), merged=True, initcalls=True)
    names = {leaf.name for leaf in boot.line[0].leaves() if leaf.kind == Kind.INITCALL}
    assert {"pci_subsys_init", "inet_init", "populate_rootfs"} <= names
    assert boot.unexplained() == 0
    (virtio,) = (part for part in boot.calls()[0].parts if part.name == "virtio_pci")
    assert re.search(r"probe of 0000:00:\S+ \d+\.\d ms", virtio.detail)


def test_one_by_one_against_one_call_names_relocation_and_the_sums_match(kernels: Kernels, made_once: MadeOnce) -> None:
    kernel = kernels("bookworm")
    result = compare(*(record_of(made_once, kernel, merged=merged) for merged in (False, True)))
    for side in ("before", "after"):
        assert sum(getattr(each, side) for each in result.parts) == getattr(result.whole, side)
        calls = sum(call.duration for call in getattr(result, side).calls())
        members = sum(getattr(each.init, side) + getattr(each.call, side) for each in result.members)
        assert members + getattr(result.waits, side) == calls
    gains = [part for part in result.parts if part.change < 0 and not part.name.startswith("waits")]
    assert gains[0].name == "calls: relocation and the rest"
    ext4 = next(each for each in result.members if each.name == "ext4")
    assert ext4.call.before > 100 * ext4.init.after
    assert ext4.call.after == 0
