"""The loader's own time in guest time: one instruction is one nanosecond."""

from __future__ import annotations

from tests.bench.loader_time import LIMIT_MILLISECONDS, measure, plans


def test_loader_takes_less_than_1_2_ms_beside_its_load_calls(kernels, tool, tmp_path):
    tool("qemu-system-x86_64", package="qemu-system-x86")
    kernel = kernels("bookworm")
    for name, plan in plans(kernel.modules).items():
        if "one call" in name or "deferred" in name:
            assert measure(kernel, plan, tmp_path) < LIMIT_MILLISECONDS, name
