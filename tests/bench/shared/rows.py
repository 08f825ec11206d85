"""The ways to load a set that the table compares: for each, the files of its calls in order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from megamod.common.choices import Imports
from megamod.common.compression import read_module_bytes
from megamod.common.errors import MegamodError
from megamod.common.host import find_program, run_program
from megamod.prelink.link import prelink
from megamod.prelink.member import Member
from megamod.prelink.options import PrelinkOptions, Symbols, Unwind
from megamod.prelink.read import strip_signature
from tests.bench.shared.prune import prune
from tests.bench.shared.sets import ModuleSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One finit_module: the module's name, its file, the names of its members in init order if it is merged.

    packed: the ending of a compressed file (``.xz``), which the kernel is asked to unpack.
    """

    name: str
    data: bytes
    has_init: bool = True
    members: tuple[str, ...] = ()
    packed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to load a set; *make* gives its calls and raises MegamodError if it cannot."""

    key: str
    title: str
    make: Callable[[ModuleSet], tuple[Call, ...]]


def rows() -> tuple[Row, ...]:
    """All rows of the table, the slowest first."""
    return (
        Row(key="stock", title="one by one, as Debian ships them", make=_stock),
        Row(key="packed", title="one by one, as Debian ships them, unpacked by the kernel", make=_packed),
        Row(key="unsigned", title="one by one, signature cut off", make=_unsigned),
        Row(key="stripped", title="one by one, `strip --strip-unneeded`", make=_stripped),
        Row(key="pruned", title="one by one, pruned, ORC kept", make=_pruner(orc=True)),
        Row(key="pruned-drop", title="one by one, pruned, without ORC", make=_pruner(orc=False)),
        Row(key="alone", title="one by one, each prelinked alone, ORC kept", make=_alone("keep")),
        Row(key="alone-drop", title="one by one, each prelinked alone, without ORC", make=_alone("drop")),
        *(
            Row(
                key=unwind if symbols == "keep" else f"{unwind}+trim",
                title=f"one call, unwind: {unwind}, symbols: {symbols}",
                make=_merger(unwind, symbols),
            )
            for unwind, symbols in _OPTIONS
        ),
        *(
            Row(
                key=f"{unwind}{'+trim' if symbols == 'trim' else ''}+names",
                title=f"one call, unwind: {unwind}, symbols: {symbols}, imports: names",
                make=_merger(unwind, symbols, Imports.NAMES),
            )
            for unwind, symbols in (_OPTIONS[0], _OPTIONS[-1])
        ),
    )


_OPTIONS: tuple[tuple[Unwind, Symbols], ...] = (
    ("keep", "keep"),
    ("keep", "trim"),
    ("compact", "keep"),
    ("compact", "trim"),
    ("drop", "keep"),
    ("drop", "trim"),
)


def find_row(key: str) -> Row:
    """The row called *key*; KeyError if there is none."""
    return {row.key: row for row in rows()}[key]


def _stock(chosen: ModuleSet) -> tuple[Call, ...]:
    """The file's own bytes, unpacked if it is compressed."""
    return tuple(
        Call(name=m.name, data=read_module_bytes(chosen.paths[m.name]), has_init=m.init is not None)
        for m in chosen.members
    )


def _packed(chosen: ModuleSet) -> tuple[Call, ...]:
    """The file as it is, for kernels with CONFIG_MODULE_DECOMPRESS and modules that are compressed."""
    if any(path.suffix == ".ko" for path in chosen.paths.values()):
        raise MegamodError("the modules of this kernel are not compressed")
    return tuple(
        Call(
            name=m.name,
            data=chosen.paths[m.name].read_bytes(),
            has_init=m.init is not None,
            packed=chosen.paths[m.name].suffix,
        )
        for m in chosen.members
    )


def _unsigned(chosen: ModuleSet) -> tuple[Call, ...]:
    return tuple(replace(call, data=strip_signature(call.data, file=call.name)) for call in _stock(chosen))


def _stripped(chosen: ModuleSet) -> tuple[Call, ...]:
    """As a user or a generator strips: --strip-debug (INSTALL_MOD_STRIP=1, dracut) would find nothing on Debian, whose
    debugging sections come apart; --strip-unneeded also takes the local symbols that no relocation needs."""
    strip = find_program("strip", package="binutils")
    calls = []
    with tempfile.TemporaryDirectory() as folder:
        for call in _unsigned(chosen):
            path = Path(folder) / f"{call.name}.ko"
            path.write_bytes(call.data)
            run_program([strip, "--strip-unneeded", path])
            calls.append(replace(call, data=path.read_bytes()))
    return tuple(calls)


def _pruner(*, orc: bool) -> Callable[[ModuleSet], tuple[Call, ...]]:
    """All that can be taken out of a module without linking anything."""
    return lambda chosen: tuple(
        replace(call, data=prune(call.data, name=call.name, orc=orc)) for call in _unsigned(chosen)
    )


def _alone(unwind: Unwind) -> Callable[[ModuleSet], tuple[Call, ...]]:
    """Each module prelinked with nothing but itself, under its own name: everything that megamod does except to merge,
    so references inside a section are resolved and short sections folded too. It gets neither result parameters nor
    timing, so nothing is in it that would not be in the original."""

    def link(member: Member) -> Call:
        options = PrelinkOptions(name=member.name, unwind=unwind, symbols="trim", results=False)
        return Call(name=member.name, data=prelink([member], options).data, has_init=member.init is not None)

    return lambda chosen: tuple(link(member) for member in chosen.members)


def _merger(
    unwind: Unwind, symbols: Symbols, imports: Imports = Imports.DISTANCE
) -> Callable[[ModuleSet], tuple[Call, ...]]:
    """As ``megamod build`` does: one call, and one for each module that may not be merged."""
    return lambda chosen: tuple(_merged(chosen, unwind, symbols, imports))


def _merged(chosen: ModuleSet, unwind: Unwind, symbols: Symbols, imports: Imports) -> Iterator[Call]:
    by_name = {member.name: member for member in chosen.members}
    for load in chosen.loads:
        if load.single is not None:
            data = read_module_bytes(chosen.paths[load.module])
            yield Call(name=load.module, data=data, has_init=by_name[load.module].init is not None)
            continue
        made = prelink(
            [by_name[module.name] for module in load.modules],
            PrelinkOptions(name=load.module, unwind=unwind, symbols=symbols, imports=imports),
            ranks=chosen.ranks,
            donors=chosen.donors,
            image=chosen.image,
        )
        yield Call(name=load.module, data=made.data, members=tuple(member.name for member in made.members))
