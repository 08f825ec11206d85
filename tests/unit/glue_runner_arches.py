"""Runs a megamodule's init on arm64, riscv64 and arm, in Unicorn, with members' inits and kernel functions answered.

The modules are made by oracle/fabricate_arches.py and loaded by oracle/emulator.py, which share no code with the
prelinker. A run fails by itself when init leaves its own code, returns with other callee-saved registers or another
stack pointer, calls with a misaligned one, or reads a register that a call may have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megamod.prelink.link import Megamodule, prelink
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member
from tests.oracle.difference import Report
from tests.oracle.emulator import Emulator
from tests.oracle.fabricate_arches import make_arch_module
from tests.oracle.machine import Pointer
from tests.oracle.model import Model, load_model
from tests.oracle.placement import Layout, Placement, lay_out
from tests.oracle.tables import entry_point
from tests.oracle.trial import Glue, arrays_of, elements, set_array

ENODEV = 19


@dataclass(slots=True)
class Run:
    """What one call of init did. calls: members and kernel functions in order; results and times by member."""

    value: int
    calls: list[str]
    results: dict[str, int]
    times: list[int]

    @property
    def members(self) -> list[str]:
        return [name for name in self.calls if name != "ktime_get"]


@dataclass(slots=True)
class Loaded:
    """A megamodule to run. clock: what ktime_get() says at its n-th reading."""

    megamodule: Megamodule
    merged: Model
    layout: Layout
    entry: tuple[int, int]
    inits: dict[tuple[int, int], str]
    clock: list[int] = field(default_factory=list)

    def start(self) -> tuple[Emulator, Glue]:
        """The megamodule as it is before its init is called."""
        section = self.entry[0]
        stretches = [(offset, size) for home, offset, size in self.layout.glue if home == section]
        machine = Emulator(self.merged, self.layout, section, stretches, set(self.inits))
        count = len(self.megamodule.members)
        return machine, Glue(
            merged=self.merged, layout=self.layout, entry=self.entry, inits={}, members=count, needs=set()
        )

    def results(self, machine: Emulator, glue: Glue) -> dict[str, int]:
        """The result parameters by member."""
        arrays = arrays_of(self.merged, Report())
        values = [int(v) for v in elements(glue, machine, arrays, "result", 256, 4) if isinstance(v, int)]
        names = [member.name for member in self.megamodule.members]
        return {n: (v ^ 1 << 31) - (1 << 31) for n, v in zip(names, values, strict=bool(values))}

    def run(self, *, answers: Mapping[str, int] = {}, skip: Sequence[int] = (), skip1: Sequence[int] = ()) -> Run:
        """One call as do_one_initcall() makes it. answers: what members' inits return, 0 if not given."""
        machine, glue = self.start()
        arrays = arrays_of(self.merged, Report())
        for name, values in (("skip", skip), ("skip1", skip1)):
            if values:
                set_array(self.merged, machine, *arrays[name], list(values))
        calls: list[str] = []

        def answer(target: Pointer) -> int:
            name = target.name or self.inits[target.section, target.offset]
            calls.append(name)
            if name == "ktime_get":
                turn = calls.count(name) - 1
                return self.clock[turn] if turn < len(self.clock) else 1000 * turn
            return answers.get(name, 0)

        value = machine.run(self.entry[1], answer)
        times = elements(glue, machine, arrays, "nanoseconds", 128, self.merged.arch.word)
        return Run(
            value=value if isinstance(value, int) else -1,
            calls=calls,
            results=self.results(machine, glue),
            times=[int(v) for v in times if isinstance(v, int)],
        )


def chain(machine: str, text: str, *, glue: bool = True) -> list[tuple[str, bytes]]:
    """ "a b:a c:b" → b imports from a, c from b; "lib!" has no init."""
    made = []
    for word in text.split():
        name, _, needs = word.partition(":")
        init, name = not name.endswith("!"), name.rstrip("!")
        imports = {f"{needed}_sym": 0x99 for needed in needs.split(",") if needed}
        data = make_arch_module(machine, name, exports={f"{name}_sym": 0x99}, imports=imports, init=init, glue=glue)
        made.append((name, data))
    return made


def load(machine: str, text: str, *, glue: bool = True) -> Loaded:
    """Prelinks the chain; glue=False: no module of the kernel imports what results and times need."""
    members = chain(machine, text, glue=glue)
    options = PrelinkOptions(name="megamod_test")
    return loaded(members, prelink([read_member(data, file=f"{name}.ko") for name, data in members], options))


def loaded(members: Sequence[tuple[str, bytes]], megamodule: Megamodule) -> Loaded:
    """The finished file with the places of its init and of the members' inits, from the map."""
    merged, given = load_model(megamodule.data), dict(members)
    names = [member.name for member in megamodule.members]
    models = [load_model(given[name]) for name in names]
    layout = lay_out(models, merged, megamodule.map, names, Report())
    inits = {}
    for name, model, place in zip(names, models, layout.members, strict=True):
        own = entry_point(model, "init_module")
        if own is not None:
            inits[_moved(place, own[1], own[2])] = name
    owner = merged.find(".gnu.linkonce.this_module")
    assert owner is not None
    at = next(own[0] for model in models if (own := entry_point(model, "init_module")) is not None)
    entry = merged.refers(owner, at)
    assert entry is not None
    return Loaded(megamodule=megamodule, merged=merged, layout=layout, entry=entry, inits=inits)


def _moved(place: Placement, section: int, offset: int) -> tuple[int, int]:
    return int(place.output[section]), int(place.offset[section]) + offset
