#!/usr/bin/env python3
"""How the cost of loading grows with the number of modules (README.md, "growth.py")."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megamod.common.host import cache_folder
from megamod.prelink.read import read_members
from tests.bench.shared.arguments import add_kernel, run_main
from tests.bench.shared.compiler import compile_guest
from tests.bench.shared.family import find_family
from tests.bench.shared.fit import exponent
from tests.bench.shared.functions import MODULES, compile_plugin, count, fold
from tests.bench.shared.guest import make_image, run_guest
from tests.bench.shared.kernels import BenchKernel, open_kernel
from tests.bench.shared.overhead import measure, parameter_values
from tests.bench.shared.progress import progress
from tests.bench.shared.rows import Call, find_row, rows
from tests.bench.shared.sets import ModuleSet, make_set
from tests.bench.shared.store import Store, digest, qemu_version
from tests.bench.shared.tables import markdown, title, versions

SIZES = (25, 50, 100, 200, 400, 800)
# What a reader of the table asks for; the rest is one column.
GROUPS = {
    "versions": ("check_version", "check_modstruct_version"),
    "strcmp": ("strcmp",),
    "symbols": (
        "find_symbol",
        "resolve_symbol",
        "find_exported_symbol_in_section",
        "bsearch",
        "cmp_name",
        "each_symbol",
    ),
    "sort": (
        "sort_r",
        "sort",
        "do_swap",
        "swap_words_32",
        "orc_sort_swap",
        "orc_sort_cmp",
        "cmp_ex_sort",
        "swap_ex",
        "jump_label_swap",
        "jump_label_cmp",
        "cmp_rela",
    ),
    "relocate": ("apply_relocate_add", "__write_relocate_add", "__apply_relocate_add"),
    "copy": (
        "memcpy",
        "memmove",
        "memset",
        "clear_page_rep",
        "clear_page_orig",
        "clear_page_erms",
        "clear_page",
        "copy_user_generic_string",
        "__memcpy",
        "rep_movs_alternative",
        "copy_mc_to_kernel",
    ),
    "kallsyms": ("add_kallsyms", "layout_symtab", "strscpy", "strlen", "strlcpy", "is_core_symbol"),
    "patch": (
        "apply_alternatives",
        "apply_returns",
        "apply_retpolines",
        "text_poke_early",
        "insn_decode",
        "insn_init",
        "insn_get_prefixes",
        "insn_get_opcode",
        "insn_get_modrm",
        "insn_get_sib",
        "insn_get_displacement",
        "insn_get_immediate",
        "insn_get_length",
        "apply_paravirt",
        "alternatives_smp_module_add",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all points of a run share. facts: what every figure depends on."""

    kernel: BenchKernel
    store: Store
    folder: Path
    program: Path
    plugin: Path
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row at one number of members; overhead and inits in seconds, memory in KiB.

    relocations, imports: those that the kernel works through, in all files together. functions: millions of
    instructions by group, without the inits; empty if they were not counted.
    """

    row: str
    members: int
    calls: int
    bytes: int
    relocations: int
    imports: int
    overhead: float
    inits: float
    memory_kib: int
    functions: Mapping[str, float]


def main() -> int:
    options = _parse()
    sizes = sorted({int(word) for word in options.sizes.split(",")})
    keys = options.rows.split(",")
    counted = options.functions.split(",")
    kernel = open_kernel(folder=options.kernel, suite=options.suite, architecture=options.architecture)
    with tempfile.TemporaryDirectory() as name, progress(len(sizes) * len(keys) + 1) as shown:
        folder = Path(name)
        bench = Bench(
            kernel=kernel,
            store=Store(folder=options.out / "figures", fresh=options.fresh),
            folder=folder,
            program=compile_guest("loadall", folder, arch=kernel.arch),
            plugin=compile_plugin(folder, kernel.arch),
            facts={"kernel": digest(kernel.vmlinuz), "qemu": qemu_version()},
        )
        shown.step(f"find {max(sizes)} modules")
        names = find_family(kernel, max(sizes), results=lambda chosen: _results(bench, chosen))
        points = []
        for size in sizes:
            chosen = make_set(f"family-{size}", names[:size], kernel)
            for key in keys:
                shown.step(f"{size} modules, {key}")
                points.append(_point(bench, key, chosen, functions=key in counted))
    facts = versions(kernel.release)
    text = _report(points, facts)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "growth.md").write_text(f"{text}\n")
    document = {**facts, "modules": names, "points": [asdict(point) for point in points]}
    (options.out / "growth.json").write_text(f"{json.dumps(document, indent=1)}\n")
    return 0


def _results(bench: Bench, names: Sequence[str]) -> Mapping[str, int]:
    """Load *names* in as few calls as megamod needs; what may not be merged counts as failed."""
    chosen = make_set("family", names, bench.kernel)
    calls = tuple(call for call in find_row("drop+trim").make(chosen) if call.members)
    image = make_image(bench.folder / "family.cpio", bench.program, calls)

    def load() -> dict[str, int]:
        run = run_guest(bench.kernel, image)
        return {
            name: result
            for call in calls
            for name, result in zip(call.members, parameter_values(run, call.name, "result"), strict=True)
        }

    return dict(bench.store.figure("family", {**bench.facts, "image": digest(image)}, load))


def _point(bench: Bench, key: str, chosen: ModuleSet, *, functions: bool) -> Point:
    calls = find_row(key).make(chosen)
    image = make_image(bench.folder / "image.cpio", bench.program, calls)
    depends = {**bench.facts, "image": digest(image)}
    relocations, imports = _work(calls, bench.folder)
    size = sum(len(call.data) for call in calls)
    light = tuple(replace(call, data=b"") for call in calls)

    def load() -> dict[str, Any]:
        run = measure(bench.kernel, image, light, seed=1)
        return {"overhead_ns": run.overhead_ns, "init_ns": run.init_ns, "memory_kib": run.memory_kib}

    def look() -> dict[str, int]:
        symbols = run_guest(bench.kernel, image, symbols=True, icount=False).symbols
        counts = count(bench.kernel, image, bench.program, bench.plugin, symbols, bench.folder, inits=False)
        return dict(fold(counts, symbols, MODULES[bench.kernel.arch]))

    figure = bench.store.figure("load", {**depends, "seed": 1}, load)
    by_function = bench.store.figure("functions", depends, look) if functions else {}
    return Point(
        row=key,
        members=len(chosen.members),
        calls=len(calls),
        bytes=size,
        relocations=relocations,
        imports=imports,
        overhead=figure["overhead_ns"] / 1e9,
        inits=figure["init_ns"] / 1e9,
        memory_kib=figure["memory_kib"],
        functions=_groups(by_function),
    )


def _work(calls: Sequence[Call], folder: Path) -> tuple[int, int]:
    """Relocations and imports of all files together."""
    paths = []
    for call in calls:
        paths.append(folder / f"{call.name}.ko")
        paths[-1].write_bytes(call.data)
    try:
        members = read_members(paths)
    finally:
        for path in paths:
            path.unlink()
    relocations = sum(len(rows) for member in members for _, rows in member.relas)
    return relocations, sum(len(member.imports) for member in members)


def _groups(functions: Mapping[str, int]) -> dict[str, float]:
    """Millions of instructions by group."""
    if not functions:
        return {}
    owner = {name: group for group, names in GROUPS.items() for name in names}
    totals = dict.fromkeys([*GROUPS, "rest"], 0.0)
    for name, instructions in functions.items():
        totals[owner.get(name, "rest")] += instructions / 1e6
    return totals


def _report(points: Sequence[Point], facts: dict[str, str]) -> str:
    heads = [
        "row",
        "members",
        "calls",
        "MB",
        "relocations",
        "imports",
        "overhead s",
        "a member ms",
        "memory MiB",
        "inits s",
    ]
    table = [
        [
            f"`{point.row}`",
            str(point.members),
            str(point.calls),
            f"{point.bytes / 1e6:.1f}",
            str(point.relocations),
            str(point.imports),
            f"{point.overhead:.4f}",
            f"{1000 * point.overhead / point.members:.3f}",
            f"{point.memory_kib / 1024:.1f}",
            f"{point.inits:.3f}",
        ]
        for point in sorted(points, key=lambda point: (point.row, point.members))
    ]
    parts = [title(facts), "", markdown(heads, table)]
    by_row: dict[str, list[Point]] = {}
    for point in points:
        by_row.setdefault(point.row, []).append(point)
    if len({point.members for point in points}) > 1:
        parts += ["", _exponents(by_row)]
    for row, own in by_row.items():
        if any(point.functions for point in own):
            parts += ["", _functions(row, [point for point in own if point.functions])]
    return "\n".join(parts)


def _exponents(by_row: Mapping[str, Sequence[Point]]) -> str:
    """Fitted exponents of the overhead and of memory, over all sizes and between the two largest."""
    table = []
    for row, points in by_row.items():
        overheads = [point.overhead for point in points]
        table.append(
            [
                f"`{row}`",
                *(
                    f"{exponent([value(point) for point in points], overheads):.3f}"
                    for value in (lambda p: p.members, lambda p: p.relocations, lambda p: p.imports)
                ),
                f"{exponent([point.members for point in points[-2:]], overheads[-2:]):.3f}",
                f"{exponent([p.members for p in points], [p.memory_kib for p in points]):.3f}",
            ]
        )
    heads = [
        "exponent of the overhead in",
        "members",
        "relocations",
        "imports",
        "members, last two",
        "memory in members",
    ]
    return markdown(heads, table)


def _functions(row: str, points: Sequence[Point]) -> str:
    names = list(points[0].functions)
    heads = [f"`{row}`: members", "all", *names]
    table = [
        [
            str(point.members),
            f"{sum(point.functions.values()):.1f}",
            *(f"{point.functions[name]:.1f}" for name in names),
        ]
        for point in points
    ]
    if len(points) > 1:
        members = [point.members for point in points]
        slopes = [exponent(members, [max(point.functions[name], 1e-3) for point in points]) for name in names]
        whole = exponent(members, [sum(point.functions.values()) for point in points])
        table.append(["exponent", f"{whole:.2f}", *(f"{slope:.2f}" for slope in slopes)])
    return markdown(heads, table)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_kernel(parser)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of modules (25 … 800)")
    parser.add_argument(
        "--rows",
        default="unsigned,pruned-drop,keep,compact+trim,drop+trim",
        help=f"by commas, of: {','.join(row.key for row in rows())}",
    )
    parser.add_argument("--functions", default="keep,drop+trim", help="rows whose instructions are counted by function")
    parser.add_argument(
        "--out", type=Path, default=cache_folder() / "bench", metavar="DIR", help="for all that is written"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what DIR already has")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_main(main))
