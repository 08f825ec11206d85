"""Runs a megamodule's init, of any architecture, with members' inits and kernel functions answered by the test.

oracle/emulator.py loads the finished file; parameters are set and read through struct kparam_array, as kernel/params.c
does. A run fails by itself when init leaves its own code, writes elsewhere, returns with other callee-saved registers
or another stack pointer, or calls with a misaligned one; what a call may change holds something else after it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from megamod.prelink.link import Megamodule, prelink
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member
from tests.oracle.emulator import Emulator, Held
from tests.oracle.fabricate_arches import make_arch_module
from tests.oracle.machine import Answer, Pointer, Value
from tests.oracle.model import Model, load_model
from tests.oracle.placement import Layout

ENODEV = 19
KERNEL = ("ktime_get", "kernel_param_lock", "kernel_param_unlock", "msleep")


class HangError(Exception):
    """A call that does not return, for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one call of init did. calls: members and kernel functions in order; results by member; times in order.

    held: it hangs in a call; then there is no value.
    """

    value: int | None
    calls: list[str]
    results: dict[str, int]
    times: list[int]
    held: Held | None = None

    @property
    def members(self) -> list[str]:
        """The members whose inits were called, in order."""
        return [name for name in self.calls if name not in (*KERNEL, "__x86_return_thunk")]


@dataclass(slots=True, kw_only=True)
class Loaded:
    """A megamodule in memory. inits: members by the place of their init; ticks(n): the n-th reading of the clock.

    home: name of a section → its address.
    """

    megamodule: Megamodule
    merged: Model
    entry: tuple[int, int]
    inits: Mapping[tuple[int, int], str]
    machine: Emulator
    ticks: Callable[[int], int] = field(default=lambda number: 1000 * number)
    locked: bool = False  # the parameters' lock

    @property
    def home(self) -> dict[str, int]:
        return {self.merged.sections[index].name: address for index, address in self.machine.home.items()}

    def word(self, address: int, form: str = "") -> int:
        """A number in memory: a pointer, or what a format of struct says."""
        form = form or ("<Q" if self.merged.arch.word == 8 else "<I")
        (value,) = struct.unpack(form, self.machine.get(address, struct.calcsize(form)))
        return int(value)

    def text(self, address: int) -> str:
        return self.machine.get(address, 256).split(b"\0", 1)[0].decode()

    def parameters(self) -> dict[str, int]:
        """Name → address of its struct kernel_param; of those that the glue has."""
        table, arch = self.merged.find("__param"), self.merged.arch
        own = [each for each in self.machine.layout.glue if table is not None and each[0] == table.index]
        starts = [
            self.machine.home[s] + at for s, first, size in own for at in range(first, first + size, arch.param_size)
        ]
        return {self.text(self.word(at)): at for at in starts}

    def array(self, name: str) -> tuple[int, int, int, int]:
        """struct kparam_array of a parameter: max, elemsize, address of num (0 none), address of the elements."""
        arch = self.merged.arch
        at = self.word(self.parameters()[name] + arch.param_arg)
        return self.word(at, "<I"), self.word(at + 4, "<I"), self.word(at + 8), self.word(at + 8 + 2 * arch.word)

    def set_ints(self, name: str, values: Sequence[int]) -> None:
        """As param_array_set(): at most max elements, then their number."""
        limit, size, number, elements = self.array(name)
        assert len(values) <= limit and size == 4 and number
        self.machine.put(elements, struct.pack(f"<{len(values)}i", *values))
        self.machine.put(number, struct.pack("<I", len(values)))

    def get_all(self, name: str) -> list[int]:
        """As param_array_get(): all elements of name, name1, name2 and so on; none without the parameter."""
        found: list[int] = []
        names = self.parameters()
        for part in [name, *(f"{name}{n}" for n in range(1, 100))]:
            if part in names:
                limit, size, _, elements = self.array(part)
                form = "<Q" if size == 8 else "<I" if name == "nanoseconds" else "<i"
                found += [self.word(elements + size * n, form) for n in range(limit)]
        return found

    def results(self) -> dict[str, int]:
        """The result parameters by member; empty without them."""
        values, names = self.get_all("result"), [member.name for member in self.megamodule.members]
        return dict(zip(names, values, strict=bool(values)))

    @property
    def state(self) -> int:
        """enum module_state of struct module: 0 live, 1 coming."""
        return self.word(self.home[".gnu.linkonce.this_module"], "<i")

    def run(self, *, answers: Mapping[str, int] = {}, hang: Collection[str] = (), **lists: Sequence[int]) -> Run:
        """One call as do_one_initcall() makes it, in memory as the loader leaves it.

        answers: what members' inits return, 0 if not given; hang: calls that do not return; lists: values of skip,
        skip1 and so on.
        """
        self.machine.clear()
        self.machine.put(self.home[".gnu.linkonce.this_module"], struct.pack("<i", 1))
        for name, values in lists.items():
            self.set_ints(name, values)
        self.locked = False
        return self._run(lambda answer: self.machine.run(self.entry[1], answer), answers, hang)

    def resume(self, *, answers: Mapping[str, int] = {}, hang: Collection[str] = ()) -> Run:
        """One write to the parameter resume: its setter is called with the parameters' lock held."""
        word = self.merged.arch.word
        setter = self.word(self.word(self.parameters()["resume"] + 2 * word) + word)
        assert not self.locked
        self.locked = True
        run = self._run(lambda answer: self.machine.run_at(setter, answer), answers, hang)
        if run.held is None:
            assert self.locked
            self.locked = False
        return run

    def go_on(self, held: Held, *, answers: Mapping[str, int] = {}, hang: Collection[str] = ()) -> Run:
        """The call that hung comes back after all."""
        return self._run(lambda answer: self.machine.go_on(held, answer), answers, hang)

    def _run(self, call: Callable[[Answer], Value], answers: Mapping[str, int], hang: Collection[str]) -> Run:
        calls: list[str] = []

        def answer(target: Pointer) -> int:
            name = target.name or self.inits[target.section, target.offset]
            calls.append(name)
            if name in ("kernel_param_lock", "kernel_param_unlock"):
                assert self.locked == (name == "kernel_param_unlock"), "locked twice, or not at all"
                self.locked = not self.locked
            elif not target.name and "kernel_param_lock" in self.machine.imports:
                assert not self.locked, "an init is called with the parameters' lock held"
            if name in hang:
                raise HangError
            return self.ticks(calls.count(name) - 1) if name == "ktime_get" else answers.get(name, 0)

        value, held = None, None
        try:
            value = call(answer)
            assert isinstance(value, int)
        except HangError:
            held = self.machine.hold()
        return Run(value=value, calls=calls, results=self.results(), times=self.get_all("nanoseconds"), held=held)


def load(megamodule: Megamodule, *, data: bytes | None = None, kernel: Mapping[str, int] = {}) -> Loaded:
    """The finished file, or *data* in its place, with the places of its init and of the members' inits, from the map.
    kernel: addresses of kernel symbols, in Space.kernel."""
    merged = load_model(megamodule.data if data is None else data)
    assert not merged.problems
    index = {section.name: section.index for section in merged.sections if section.alloc}
    chunks, members = megamodule.map["chunks"], megamodule.members
    glue = [(index[c["output"]], c["offset"], c["size"]) for c in chunks if c["member"] < 0]
    where = {(c["member"], c["index"]): (index[c["output"]], c["offset"]) for c in chunks if "offset" in c}
    inits = {}
    for number, member in enumerate(members):
        if member.init is not None:
            section, offset = where[number, member.init[0]]
            inits[section, offset + member.init[1]] = member.name
    owner = merged.find(".gnu.linkonce.this_module")
    at = next(member.init_at for member in members if member.init_at is not None)
    assert owner is not None
    entry = merged.refers(owner, at)
    assert entry is not None
    layout = Layout([], glue, [], np.zeros((0, 4), np.int64))
    machine = Emulator(merged, layout, entry, inits, state=True, kernel=kernel)
    return Loaded(megamodule=megamodule, merged=merged, entry=entry, inits=inits, machine=machine)


def chain(machine: str, text: str, *, glue: bool = True) -> list[tuple[str, bytes]]:
    """ "a b:a c:b" → b imports from a, c from b; "lib!" has no init.

    glue=False: no module of the kernel imports what results and times need.
    """
    made = []
    for word in text.split():
        name, _, needs = word.partition(":")
        init, name = not name.endswith("!"), name.rstrip("!")
        imports = {f"{needed}_sym": 0x99 for needed in needs.split(",") if needed}
        data = make_arch_module(machine, name, exports={f"{name}_sym": 0x99}, imports=imports, init=init, glue=glue)
        made.append((name, data))
    return made


def link_files(members: Sequence[tuple[str, bytes]], *, kcfi: bool = False) -> Megamodule:
    """Prelinks files by their names without .ko, as `megamod_test`."""
    options = PrelinkOptions(name="megamod_test", kcfi=kcfi)
    return prelink([read_member(data, file=f"{name}.ko") for name, data in members], options)


def load_chain(machine: str, text: str, *, glue: bool = True) -> Loaded:
    """The chain, prelinked and loaded."""
    return load(link_files(chain(machine, text, glue=glue)))
