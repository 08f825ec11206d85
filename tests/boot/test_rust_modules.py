"""Drivers written in Rust, as Debian's 7.2 has them: merged with C ones, judged by the oracle, booted."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from megamod.boot.debian import Kernel
from megamod.boot.qemu import run_qemu
from megamod.common.compression import read_module_bytes
from megamod.image.archive import read_image
from tests.boot.image_fixtures import (
    END,
    Guest,
    MadeOnce,
    add_program,
    make_image,
    make_stock_image,
    manifest_of,
    tree_of,
)
from tests.oracle import judge

# The only ones of 7.2.13 whose modules are of Rust (drivers/net/phy).
RUST = ["qt2025", "ax88796b_rust"]
PROFILE = """
name: rust
critical: {modules: [loop, qt2025]}
deferred: [{name: late, modules: [ax88796b_rust, dummy], after: userspace}]
root: {exec: /main}
compress: none
unwind: keep
imports: names
"""
SCRIPT = f"""
wait_for late
show drivers sh -c 'ls /sys/bus/mdio_bus/drivers | sort'
{END}"""


def boot(kernel: Kernel, made_once: MadeOnce, image, architecture: str) -> Guest:
    done = run_qemu(
        image=add_program(made_once, image, SCRIPT, architecture=architecture),
        vmlinuz=kernel.vmlinuz,
        arch=kernel.arch,
        append="panic=-1",
        memory=1024,
        timeout=600,
        accel="tcg",
    )
    return Guest(console=done.console, returncode=done.returncode, timed_out=done.timed_out, seconds=done.seconds)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_rust_drivers_are_merged_and_register_as_they_do_alone(
    architecture: str, kernels: Callable[..., Kernel], made_once: MadeOnce
) -> None:
    kernel = kernels("sid", architecture)
    files = {name: read_module_bytes(tree_of(kernel).modules[name].path) for name in RUST}
    # Names in the symbol table are Rust's: v0 mangling begins with _R.
    assert all(b"\0_RN" in data for data in files.values())
    image = make_image(made_once, kernel, PROFILE)
    loads = [load for stage in manifest_of(image).stages for load in stage.loads]
    assert [[member.name for member in load.members] for load in loads if load.kind == "merged"] == [
        ["loop", "qt2025"],
        ["dummy", "ax88796b_rust"],
    ]
    contents = {entry.path: entry.data for entry in read_image(image)}
    maps = json.loads(image.with_name(f"{image.name}.map").read_text())["megamodules"]
    for load in loads:
        members = [(each.name, read_module_bytes(tree_of(kernel).modules[each.name].path)) for each in load.members]
        assert judge(members, contents[load.file], maps[load.module]) == []
    merged, stock = (
        boot(kernel, made_once, each, architecture) for each in (image, make_stock_image(made_once, kernel, PROFILE))
    )
    assert [stage[0] for stage in merged.stages().values()] == ["done", "done"]
    assert merged.failures() == stock.failures()
    names = {
        "QT2025 10Gpbs SFP+",
        "Asix Electronics AX88772A",
        "Asix Electronics AX88772C",
        "Asix Electronics AX88796B",
    }
    assert names <= set(merged.section("drivers"))
    assert merged.section("drivers") == stock.section("drivers")
