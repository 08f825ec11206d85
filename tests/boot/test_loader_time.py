"""The loader's own time in guest time: one instruction is one nanosecond."""

from __future__ import annotations

from tests.bench.loader_time import LIMIT_MILLISECONDS, measure, plans


def test_loader_takes_less_than_3_ms_beside_its_load_calls(kernels, tool, tmp_path):
    tool("qemu-system-x86_64", package="qemu-system-x86")
    kernel = kernels("bookworm")
    for name, plan in plans(kernel.modules).items():
        if name != "root on a virtio disk, with its mount":
            assert measure(kernel, plan, tmp_path) < LIMIT_MILLISECONDS, name
