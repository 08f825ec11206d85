"""Load: the same modules in every way that people load them, in instructions, memory and real time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from megamod.common.errors import MegamodError
from tests.bench.parts.context import Context, Part, Plot, Table
from tests.bench.shared.compiler import compile_guest
from tests.bench.shared.guest import GuestRun, make_image, run_guest
from tests.bench.shared.overhead import measure
from tests.bench.shared.rows import Call, find_row
from tests.bench.shared.sets import ModuleSet, make_set, open_set, set_names
from tests.bench.shared.store import digest
from tests.bench.shared.tools import (
    DEVICES,
    TOOLS,
    Elapsed,
    coldplug_image,
    measure_elapsed,
    tool_image,
    waves_image,
)

ROWS = ("stock", "packed", "unsigned", "stripped", "pruned-drop", "keep", "compact+trim", "drop+trim")
QUICK = ("unsigned", "drop+trim")
THREADS = (1, 2, 4)
_WALL_CPUS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """One way to load one set. Seconds of guest time under icount, mean of the runs; overhead is None where inits of
    several threads overlap. spread: what the largest overhead of the runs has over the smallest, None for one run."""

    set: str
    members: int
    key: str
    title: str
    calls: int
    load: float
    inits: float
    overhead: float | None
    spread: float | None
    memory_kib: float
    vmalloc_kib: float
    wall: float


def measure_load(context: Context, names: Sequence[str], *, repeat: int) -> Part:
    """All rows for each set, and udev's coldplug on a machine with devices."""
    program = compile_guest("loadall", context.folder, arch=context.kernel.arch)
    rows: list[LoadRow] = []
    notes: list[str] = []
    for name in names:
        chosen = open_set(name, context.kernel)
        own = [row for key in QUICK if context.quick for row in _file_row(context, program, chosen, key, repeat, notes)]
        if not context.quick:
            own = [row for key in ROWS for row in _file_row(context, program, chosen, key, repeat, notes)]
            own += _tool_rows(context, name, chosen, repeat)
            own += _wave_rows(context, chosen, repeat)
        _check_same(own)
        rows += own
    tables = [_table(name, [row for row in rows if row.set == name]) for name in names]
    plots = [_plot(name, [row for row in rows if row.set == name]) for name in names]
    data: dict[str, Any] = {"rows": [asdict(row) for row in rows]}
    if context.system is not None and not context.quick:
        table, data["coldplug"] = _coldplug(context)
        tables.append(table)
    tables[0] = replace(tables[0], notes=[*tables[0].notes, *dict.fromkeys(notes)])
    return Part(name="load", tables=tables, plots=plots, data=data)


def _file_row(
    context: Context, program: Path, chosen: ModuleSet, key: str, repeat: int, notes: list[str]
) -> list[LoadRow]:
    context.step(f"load: {chosen.name}, {key}")
    row = find_row(key)
    try:
        calls = row.make(chosen)
    except MegamodError as error:
        notes.append(f"`{key}` is left out: {error}.")
        return []
    image = make_image(context.folder / "load.cpio", program, calls)
    runs = [load_figure(context, image, calls, seed=seed) for seed in range(1, repeat + 1)]
    depends = {**context.facts, "image": digest(image)}
    wall = _wall(context, image, depends)
    return [_row(chosen, key, row.title, len(calls), runs, wall)]


def load_figure(context: Context, image: Path, calls: Sequence[Call], *, seed: int) -> dict[str, Any]:
    """One measurement of *calls*, which *image* makes."""
    light = tuple(replace(call, data=b"") for call in calls)

    def once() -> dict[str, Any]:
        run = measure(context.kernel, image, light, seed=seed)
        return {
            "load_ns": run.load_ns,
            "init_ns": run.init_ns,
            "overhead_ns": run.overhead_ns,
            "memory_kib": run.memory_kib,
            "vmalloc_kib": run.vmalloc_kib,
            "initialised": len(run.initialised) - len(run.failed),
        }

    return dict(context.store.figure("load", {**context.facts, "image": digest(image), "seed": seed}, once))


def _tool_rows(context: Context, name: str, chosen: ModuleSet, repeat: int) -> list[LoadRow]:
    if context.system is None:
        return []
    program = compile_guest("command", context.folder, arch=context.kernel.arch)
    wanted = [word for word in set_names(name) if word in chosen.tree.modules]
    rows = []
    for tool in TOOLS:
        context.step(f"load: {chosen.name}, {tool.key}")
        image = tool_image(context.folder / "tool.cpio", program, context.system.tree, tool, chosen, wanted)
        runs, wall = _elapsed(context, image, repeat)
        rows.append(_row(chosen, tool.key, tool.title, len(tool.commands(wanted)), runs, wall))
    return rows


def _wave_rows(context: Context, chosen: ModuleSet, repeat: int) -> list[LoadRow]:
    program = compile_guest("waves", context.folder, arch=context.kernel.arch)
    image = waves_image(context.folder / "waves.cpio", program, chosen)
    rows = []
    for threads in THREADS:
        context.step(f"load: {chosen.name}, {threads} threads")
        runs, wall = _elapsed(context, image, repeat, threads=threads)
        title = f"by waves as in Android, {threads} thread{'s' * (threads > 1)}"
        row = _row(chosen, f"waves {threads}", title, len(chosen.members), runs, wall)
        # An init that sleeps while others run has their instructions in its time.
        rows.append(replace(row, overhead=row.overhead if threads == 1 else None))
    return rows


def _elapsed(context: Context, image: Path, repeat: int, *, threads: int = 1) -> tuple[list[dict[str, Any]], float]:
    depends = {**context.facts, "image": digest(image), "threads": threads}

    def once(seed: int) -> dict[str, Any]:
        run = measure_elapsed(context.kernel, image, seed=seed, threads=threads)
        return {**asdict(run), "initialised": run.modules}

    runs = [
        context.store.figure("elapsed", {**depends, "seed": seed}, lambda seed=seed: once(seed))  # type: ignore[misc]
        for seed in range(1, repeat + 1)
    ]
    return runs, _wall(context, image, depends, threads=threads)


def _wall(context: Context, image: Path, depends: Mapping[str, Any], *, threads: int = 1) -> float:
    """Seconds of the guest's own clock with two processors and without icount: this machine's time."""
    words = ("settle=0", f"threads={threads}")

    def once() -> int:
        run: GuestRun = run_guest(context.kernel, image, icount=False, cpus=_WALL_CPUS, words=words)
        return run.elapsed or sum(nanoseconds for nanoseconds, _ in run.loads.values())

    if context.quick:
        return 0.0
    return float(context.store.figure("wall", depends, once)) / 1e9


def _row(
    chosen: ModuleSet, key: str, title: str, calls: int, runs: Sequence[Mapping[str, Any]], wall: float
) -> LoadRow:
    overheads = [run["overhead_ns"] for run in runs]
    if len({run["initialised"] for run in runs}) > 1:
        raise MegamodError(f"{key}: not the same modules in each run")
    return LoadRow(
        set=chosen.name,
        members=runs[0]["initialised"],
        key=key,
        title=title,
        calls=calls,
        load=fmean(run["load_ns"] for run in runs) / 1e9,
        inits=fmean(run["init_ns"] for run in runs) / 1e9,
        overhead=fmean(overheads) / 1e9,
        spread=max(overheads) / min(overheads) - 1 if len(runs) > 1 else None,
        memory_kib=fmean(run["memory_kib"] for run in runs),
        vmalloc_kib=fmean(run["vmalloc_kib"] for run in runs),
        wall=wall,
    )


def _check_same(rows: Sequence[LoadRow]) -> None:
    for row in rows:
        if row.members != rows[0].members:
            raise MegamodError(f"{row.key}: {row.members} modules are up, {rows[0].members} with {rows[0].key}")


def _table(name: str, rows: Sequence[LoadRow]) -> Table:
    heads = ["row", "calls", "load s", "inits s", "overhead s", "spread", "memory MiB", "vmalloc MiB", "wall s"]
    cells = [
        [
            f"{row.title} (`{row.key}`)",
            str(row.calls),
            f"{row.load:.4f}",
            f"{row.inits:.4f}",
            "-" if row.overhead is None else f"{row.overhead:.4f}",
            "-" if row.spread is None else f"{100 * row.spread:.2f} %",
            f"{row.memory_kib / 1024:.1f}",
            f"{row.vmalloc_kib / 1024:.1f}",
            f"{row.wall:.2f}" if row.wall else "-",
        ]
        for row in rows
    ]
    return Table(title=f"Load: {name}, {rows[0].members} modules", heads=heads, rows=cells)


def _plot(name: str, rows: Sequence[LoadRow]) -> Plot:
    known = [row for row in rows if row.overhead is not None]
    return Plot(
        name=f"load-{name}",
        title=f"Load of {rows[0].members} modules",
        axis="seconds of guest time (10⁹ instructions)",
        parts=("overhead", "members' inits"),
        bars={row.key: (row.overhead or 0.0, row.inits) for row in known},
    )


def _coldplug(context: Context) -> tuple[Table, dict[str, Any]]:
    """udev alone, and udev after one call of what it would have loaded."""
    assert context.system is not None
    program = compile_guest("command", context.folder, arch=context.kernel.arch)
    whole = open_set("large", context.kernel)
    context.step("load: coldplug by udev")
    alone = _plugged(
        context, coldplug_image(context.folder / "plug.cpio", program, context.system.tree, whole, first={}, without=())
    )
    chosen = make_set("coldplug", alone["names"], context.kernel)
    found = {"udev alone": alone}
    for key in ("compact+trim", "drop+trim"):
        context.step(f"load: coldplug after {key}")
        calls = find_row(key).make(chosen)
        members = [member.name for member in chosen.members]
        first = {call.name: call.data for call in calls}
        image = coldplug_image(
            context.folder / "plug.cpio", program, context.system.tree, whole, first=first, without=members
        )
        found[f"one call ({key}), then udev"] = _plugged(context, image)
    rows = [
        [
            title,
            f"{run['load_ns'] / 1e9:.4f}",
            f"{run['init_ns'] / 1e9:.4f}" if title == "udev alone" else "-",
            str(run["modules"]),
        ]
        for title, run in found.items()
    ]
    table = Table(
        title=f"Load: udev's coldplug on a machine with devices, {len(chosen.members)} modules",
        heads=["row", "all s", "inits and probes s", "lines of /proc/modules"],
        rows=rows,
        notes=[
            "From the start of udevd, or of the call, to the end of `udevadm settle`; probes of the devices are in it."
        ],
    )
    return table, found


def _plugged(context: Context, image: Path) -> dict[str, Any]:
    depends = {**context.facts, "image": digest(image), "devices": DEVICES}

    def once() -> dict[str, Any]:
        run: Elapsed = measure_elapsed(context.kernel, image, devices=DEVICES)
        return asdict(run)

    return dict(context.store.figure("coldplug", depends, once))
