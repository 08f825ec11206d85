"""Judges megamod's init order by kernels that have the same drivers built in: python -m tests.bench.initorder

A kernel that is booted with `initcall_debug` says in which order it calls its built-in initcalls: that is the order of
a static link. What is a module in Debian's 6.1 amd64 kernel and built into another one is put in order by megamod, as
if all of it were one stage, and the pairs that come in the same order in both are counted. Every other pair is printed.

That is `order: link`. With --moved PROFILE it prints what `order: waits` changes in the stages of a shipped profile:
how many pairs of modules change places, and each module that moves.

An initcall is known by its function, which a .ko still has as a symbol at the address of init_module. A function that
several modules have, or that the other kernel calls more than once, is left out, and said so.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.qemu import run_qemu
from megamod.common.compression import read_module_bytes
from megamod.common.errors import Location, MegamodError
from megamod.common.host import cache_folder
from megamod.image.archive import write_image
from megamod.modules.levels import tagged_rank
from megamod.modules.tree import ModuleTree, open_tree
from megamod.prelink.member import Member
from megamod.prelink.mergeable import why_single
from megamod.prelink.order import order
from megamod.prelink.read import read_member
from megamod.prelink.resolve import resolve
from megamod.prelink.waiting import waiting_ranks
from megamod.profile.model import Profile, Selector, Stage
from megamod.profile.schema import find_profile
from megamod.select.select import SelectedModule, select

JUDGES = (
    *("bookworm:cloud-amd64", "bookworm-backports:cloud-amd64", "bookworm-backports:amd64", "sid:amd64"),
    *("bookworm:arm64", "trixie:arm64", "trixie:riscv64"),
)
# The end of a flavour's name → Debian's architecture, and QEMU's.
_ARCHITECTURES = {"amd64": ("amd64", "x86_64"), "arm64": ("arm64", "aarch64"), "armmp": ("armhf", "arm")}
_ARCHITECTURES |= {"riscv64": ("riscv64", "riscv64")}
# `max` of QEMU 7.2 has features that keep kernels busy for minutes (pointer authentication in software).
_OPTIONS = {"aarch64": ("-cpu", "cortex-a72")}
# Now and then a guest dies early under TCG, on a busy machine.
_ATTEMPTS = 4
_CALLING = re.compile(r"calling  ([\w.]+)\+0x0/0x[0-9a-f]+ @ 1\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one kernel says: *modules* in its order, *left_out* with the reason, *wrong* the pairs (first there, second
    there) that megamod has the other way round."""

    release: str
    modules: tuple[str, ...]
    left_out: Mapping[str, str]
    wrong: tuple[tuple[str, str], ...]

    @property
    def pairs(self) -> int:
        return len(self.modules) * (len(self.modules) - 1) // 2


def fetch_judge(name: str, cache: Path) -> Kernel:
    """The kernel that SUITE:FLAVOUR stands for; the flavour names the architecture."""
    suite, _colon, flavour = name.partition(":")
    architecture, _arch = _ARCHITECTURES[flavour.rpartition("-")[2]]
    return fetch_kernel(suite, flavour=flavour, architecture=architecture, cache=cache)


def judge(kernel: Kernel, tree: ModuleTree) -> Verdict:
    """Boot *kernel* and compare its order with megamod's for the modules of *tree* that it has built in."""
    built_in = open_tree(str(kernel.modules)).builtin & tree.modules.keys()
    selected = {module.name: module for module in _selected(tree, sorted(built_in))}
    members = {name: _read(module) for name, module in selected.items()}
    functions = {name: _init_functions(members[name]) for name in built_in}
    calls = Counter(called := _calls(kernel))
    left_out: dict[str, str] = {}
    place: dict[str, int] = {}
    users = Counter(function for found in functions.values() for function in found)
    for name, found in functions.items():
        known = [function for function in found if function in calls]
        if not found:
            left_out[name] = "has no init"
        elif not known:
            left_out[name] = f"{' or '.join(found)} is not called under that name"
        elif any(users[function] > 1 or calls[function] > 1 for function in known):
            left_out[name] = f"{known[0]} is the init of several"
        else:
            place[name] = called.index(known[0])
    ours = {name: number for number, name in enumerate(_our_order(selected, members))}
    modules = sorted(place, key=lambda name: place[name])
    wrong = [(first, second) for first, second in combinations(modules, 2) if ours[first] > ours[second]]
    return Verdict(release=kernel.release, modules=tuple(modules), left_out=left_out, wrong=tuple(wrong))


def _selected(tree: ModuleTree, names: Sequence[str]) -> Sequence[SelectedModule]:
    """*names* and all that they need, as one stage."""
    place = Location(file="initorder", line=1, column=1)
    selectors = tuple(Selector(text=name, location=place) for name in names)
    critical = Stage(name="critical", selectors=selectors, trigger=None)
    return select(Profile(name="initorder", source="initorder", critical=critical), tree).stages[0].modules


def _read(module: SelectedModule) -> Member:
    return read_member(read_module_bytes(module.path), file=module.path.name)


def _init_functions(member: Member) -> list[str]:
    """The names that the function has which init_module is another name of."""
    if member.init is None:
        return []
    section, value = member.init
    symbols = member.symbols
    same = ((symbols["st_shndx"] == section) & (symbols["st_value"] == value)).nonzero()[0].tolist()
    names = {member.symbol_name(index) for index in same}
    # Kernels with indirect-branch tracking and kCFI have more names for it.
    return sorted(name for name in names if name and name != "init_module" and not name.startswith(("__", ".")))


def _our_order(
    selected: Mapping[str, SelectedModule], members: Mapping[str, Member], *, waits: bool = False
) -> list[str]:
    chosen = list(members.values())
    ranks = {name: tagged_rank(module.rank, members[name].info("initlevel")) for name, module in selected.items()}
    after = {name: module.after for name, module in selected.items()}
    resolution = resolve(chosen)
    if waits:
        ranks = waiting_ranks(chosen, resolution, ranks, after)
    return [chosen[number].name for number in order(chosen, resolution, ranks=ranks, after=after)]


def moved(tree: ModuleTree, profile: str) -> str:
    """What `order: waits` changes in the stages of a shipped profile, in lines for people."""
    lines = []
    for stage in select(find_profile(profile), tree).stages:
        selected = {module.name: module for module in stage.modules}
        members = {name: _read(module) for name, module in selected.items()}
        members = {name: member for name, member in members.items() if why_single(member, allow_taint=False) is None}
        link = _our_order(selected, members)
        place = {name: number for number, name in enumerate(_our_order(selected, members, waits=True))}
        pairs = sum(place[first] > place[second] for first, second in combinations(link, 2))
        lines.append(
            f"{profile}, stage {stage.name}: {pairs} of {len(link) * (len(link) - 1) // 2} pairs change places"
        )
        kept = _longest_rising([place[name] for name in link])
        lines += [f"  {name}: {n} -> {place[name]}" for n, name in enumerate(link) if place[name] not in kept]
    return "\n".join(lines)


def _longest_rising(numbers: Sequence[int]) -> frozenset[int]:
    """The longest rising subsequence: what has not moved."""
    best: dict[int, tuple[int, ...]] = {}
    for number in numbers:
        before = sorted((best[other] for other in best if other < number), key=len)
        best[number] = (*(before[-1] if before else ()), number)
    longest = sorted(best.values(), key=len)
    return frozenset(longest[-1] if longest else ())


def _calls(kernel: Kernel) -> list[str]:
    """The functions of the built-in initcalls in the order in which *kernel* calls them."""
    with tempfile.TemporaryDirectory(prefix="megamod-initorder-") as folder:
        arch = next(arch for debian, arch in _ARCHITECTURES.values() if debian == kernel.architecture)
        image = Path(folder) / "empty.cpio"
        write_image(image, [], method="none")
        for _attempt in range(_ATTEMPTS):
            result = run_qemu(
                image=image,
                vmlinuz=kernel.vmlinuz,
                append="initcall_debug ignore_loglevel log_buf_len=4M",
                timeout=300.0,
                until="Kernel panic - not syncing: .{20}",
                arch=arch,
                extra=_OPTIONS.get(arch, ()),
                accel="tcg",
            )
            # Without a root this is how a boot ends that has run all initcalls.
            if "Unable to mount root" in result.console:
                return [str(call) for call in _CALLING.findall(result.console)]
    raise MegamodError(f"{kernel.release}: does not come to the end of its initcalls: {result.tail(3)}")


def report(verdict: Verdict, tree: ModuleTree) -> str:
    """The verdict in lines for people."""
    right = verdict.pairs - len(verdict.wrong)
    share = 100 * right / verdict.pairs if verdict.pairs else 100.0
    lines = [
        f"{verdict.release}: {len(verdict.modules)} modules of {tree.release} are built in and were seen; "
        f"{right} of {verdict.pairs} pairs agree ({share:.2f} %)"
    ]
    lines += [f"  left out: {name}: {reason}" for name, reason in sorted(verdict.left_out.items())]
    [*modules] = verdict.modules
    ranks = {module.name: module.rank for module in _selected(tree, modules)} if modules else {}
    for first, second in verdict.wrong:
        why = f": {first} needs {second}" if second in tree.modules[first].depends else ""
        lines.append(
            f"  exception: {first} {ranks[first]} runs before {second} {ranks[second]} there, after it here{why}"
        )
    return "\n".join(lines)


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("judges", nargs="*", default=JUDGES, metavar="SUITE:FLAVOUR", help="kernels to boot")
    parser.add_argument("--moved", metavar="PROFILE", help="print what order: waits changes, and boot nothing")
    parser.add_argument("--suite", default="bookworm", help="whose amd64 modules are put in order")
    options = parser.parse_args()
    cache = cache_folder()
    try:
        kernel = fetch_kernel(options.suite, architecture="amd64", cache=cache)
        tree = open_tree(str(kernel.modules))
        if options.moved:
            print(moved(tree, options.moved))
            return 0
        for judge_name in options.judges:
            print(report(judge(fetch_judge(judge_name, cache), tree), tree), flush=True)
    except MegamodError as error:
        print(f"initorder: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
