"""Module sets: names in a file of sets/, closed under modules.dep, in the order of a static link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from megamod.build.stages import Load, import_edges, split_into_loads
from megamod.common.errors import MegamodError
from megamod.common.text import canonical
from megamod.kernel.exports import find_exports, image_of
from megamod.modules.levels import inherited_ranks, static_rank
from megamod.modules.tree import ModuleTree
from megamod.prelink.distance import KernelImage
from megamod.prelink.kernel_crcs import find_glue_crcs
from megamod.prelink.member import Member
from megamod.prelink.order import Rank, order
from megamod.prelink.read import read_members
from megamod.prelink.resolve import resolve
from megamod.prelink.waiting import waiting_ranks
from megamod.select.select import SelectedModule, SelectedStage
from tests.bench.shared.kernels import BenchKernel

SETS = Path(__file__).parent.parent / "sets"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSet:
    """A set on one kernel.

    members: in init order. loads: how megamod loads them, with the modules that may not be merged. absent: names that
    came to nothing, for the kernel has them built in or not at all. donors: CRCs for the glue's imports. image: the
    kernel's build, for imports by distance.
    """

    name: str
    tree: ModuleTree
    members: tuple[Member, ...]
    paths: Mapping[str, Path]
    ranks: Mapping[str, Rank]
    loads: tuple[Load, ...]
    donors: Mapping[str, int]
    absent: tuple[str, ...]
    image: KernelImage | None

    @property
    def singles(self) -> tuple[str, ...]:
        return tuple(load.module for load in self.loads if load.single is not None)


def set_names(name: str) -> list[str]:
    """The words of sets/NAME.txt, or of the file *name*."""
    path = Path(name) if "/" in name else SETS / f"{name}.txt"
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror}") from None
    return [canonical(word) for line in lines if not line.startswith("#") for word in line.split()]


def open_set(name: str, kernel: BenchKernel) -> ModuleSet:
    """The set *name* on this kernel, in the init order that ``megamod prelink`` would choose for all of it."""
    return make_set(Path(name).stem, set_names(name), kernel)


def make_set(name: str, names: Iterable[str], kernel: BenchKernel) -> ModuleSet:
    """The modules *names* and what they need, in the same order."""
    tree = kernel.tree
    wanted: set[str] = set()
    absent = []
    for module in names:
        if module in tree.modules:
            wanted |= {module, *tree.modules[module].depends}
        else:
            absent.append(module)
    chosen = sorted(wanted)
    members = read_members([tree.modules[module].path for module in chosen])
    own = {module: static_rank(module, tree.modules[module].order) for module in chosen}
    ranks = inherited_ranks(own, {module: tree.modules[module].depends for module in chosen})
    resolution = resolve(members, allow_taint=False)
    ranks = waiting_ranks(members, resolution, ranks, {})
    sequence = order(members, resolution, ranks=ranks, after={})
    exports = find_exports(tree.kernel_files)
    by_name = {member.name: member for member in members}
    if exports is None or not exports.has_crcs:
        donors = find_glue_crcs(members, (module.path for module in tree.modules.values()))
    else:
        donors = {symbol: export.crc for symbol, export in exports.symbols.items() if export.crc is not None}
    return ModuleSet(
        name=name,
        tree=tree,
        members=tuple(members[number] for number in sequence),
        paths={module: tree.modules[module].path for module in chosen},
        ranks=ranks,
        loads=tuple(split_into_loads(_stage(chosen, kernel, ranks), by_name, import_edges(by_name), exports)),
        donors=donors,
        image=image_of(exports),
        absent=tuple(absent),
    )


def _stage(chosen: list[str], kernel: BenchKernel, ranks: Mapping[str, tuple[int, int]]) -> SelectedStage:
    modules = tuple(
        SelectedModule(
            name=name,
            path=kernel.tree.modules[name].path,
            relpath=kernel.tree.modules[name].relpath,
            reason="in the set",
            rank=ranks[name],
            after=(),
        )
        for name in chosen
    )
    return SelectedStage(name="bench", trigger=None, modules=modules)
