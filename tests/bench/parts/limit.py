"""Limit: what no way of loading could do without, and how far the one call stands above it."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from tests.bench.parts.context import Context, Part, Table
from tests.bench.parts.load import load_figure
from tests.bench.shared.compiler import compile_guest
from tests.bench.shared.guest import make_image, run_guest
from tests.bench.shared.rows import find_row
from tests.bench.shared.sets import ModuleSet, open_set
from tests.bench.shared.store import digest

ROWS = ("compact+trim", "drop+trim")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRow:
    """Seconds of guest time: to read a file as large as the megamodule, to copy it, the members' inits, the load."""

    set: str
    row: str
    bytes: int
    read: float
    copy: float
    inits: float
    load: float

    @property
    def limit(self) -> float:
        return self.read + self.copy + self.inits


def measure_limit(context: Context, names: Sequence[str]) -> Part:
    """The sets' megamodules against a file of the same bytes."""
    rows = []
    for name in names:
        chosen = open_set(name, context.kernel)
        for key in ROWS[-1:] if context.quick else ROWS:
            context.step(f"limit: {name}, {key}")
            rows.append(_measure(context, chosen, key))
    heads = ["set and row", "MB", "read s", "copy s", "inits s", "limit s", "load s", "above s", "load / limit"]
    cells = [
        [
            f"{row.set}, `{row.row}`",
            f"{row.bytes / 1e6:.1f}",
            f"{row.read:.4f}",
            f"{row.copy:.4f}",
            f"{row.inits:.4f}",
            f"{row.limit:.4f}",
            f"{row.load:.4f}",
            f"{row.load - row.limit:.4f}",
            f"{row.load / row.limit:.2f}",
        ]
        for row in rows
    ]
    note = "Limit: reading a file of the same size from memory, copying it once, and the members' own inits."
    table = Table(title="Limit: the one call beside what cannot be left out", heads=heads, rows=cells, notes=[note])
    return Part(name="limit", tables=[table], plots=[], data=[asdict(row) for row in rows])


def _measure(context: Context, chosen: ModuleSet, key: str) -> LimitRow:
    calls = find_row(key).make(chosen)
    data = b"".join(call.data for call in calls)
    program = compile_guest("loadall", context.folder, arch=context.kernel.arch)
    image = make_image(context.folder / "load.cpio", program, calls)
    loaded = load_figure(context, image, calls, seed=1)
    blob = context.folder / "blob.cpio"
    program = compile_guest("limit", context.folder, arch=context.kernel.arch)
    entries = [
        Entry(path="dev", mode=stat.S_IFDIR | 0o755),
        Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
        Entry(path="init", mode=stat.S_IFREG | 0o755, data=program.read_bytes()),
        Entry(path="blob", mode=stat.S_IFREG | 0o644, data=data),
    ]
    write_image(blob, entries, method="none")

    def move() -> dict[str, Any]:
        return dict(run_guest(context.kernel, blob).times)

    moved = context.store.figure("limit", {**context.facts, "image": digest(blob)}, move)
    return LimitRow(
        set=chosen.name,
        row=key,
        bytes=len(data),
        read=moved["read"] / 1e9,
        copy=moved["copy"] / 1e9,
        inits=loaded["init_ns"] / 1e9,
        load=loaded["load_ns"] / 1e9,
    )
