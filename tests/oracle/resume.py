"""Trials of the parameter resume: an init hangs, the setter runs the others, and what hung comes back late.

The glue's parameter resume has a setter of its own, code of the glue that is not in init memory. Each trial is run in
the emulator on all architectures: which inits are called, in which order and under which lock, what result says,
whether the module is live, and whether a flow that comes back waits until no other can be in init memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import unicorn

from tests.oracle import policy
from tests.oracle.difference import Report
from tests.oracle.emulator import Emulator, Held
from tests.oracle.machine import Answer, Pointer, StuckError, Value
from tests.oracle.model import SHF_EXEC, in_init_memory
from tests.oracle.trial import NEEDS, NOT_RUN, Glue, Place, Runner, arrays_of, elements

_RUNS = 4  # value of result while the init runs
_LIVE, _COMING = 0, 1  # enum module_state, the first field of struct module
_LOCK, _UNLOCK, _SLEEP = "kernel_param_lock", "kernel_param_unlock", "msleep"
_THUNK = "__x86_return_thunk"
_PERMISSION = 0o200
_LONGEST = 60_000  # milliseconds of one sleep
_OWN = ("result", "skip", "nanoseconds", "resume")


class _HangError(Exception):
    """A call that does not return, for now."""


@dataclass(slots=True)
class _Flow:
    """What one call of the init or the setter did. calls: kernel functions, and members' numbers, in order."""

    calls: list[str | int] = field(default_factory=list)
    value: Value = None
    held: Held | None = None

    @property
    def members(self) -> list[int]:
        return [call for call in self.calls if isinstance(call, int)]


def try_resume(glue: Glue, order: list[int], names: list[str], report: Report) -> Place | None:
    """Checks the parameter if the megamodule has it, and runs its trials. order: of the inits when nothing fails.

    Returns where its setter is.
    """
    setter = _setter_of(glue, report)
    if setter is None:
        return None
    try:
        trial = _Trial(glue, setter, order, names, report)
        hangs = [order[n] for n in sorted({0, len(order) // 2, len(order) - 1})]
        trial.try_before()
        for number in hangs:
            trial.try_late_setter(number, trial.try_one(number))
        trial.try_two(order[0])
    except StuckError as stuck:
        report.add("glue", f"a trial of resume ended: {stuck}")
    return setter


def _setter_of(glue: Glue, report: Report) -> Place | None:
    """Where the setter is; None without the parameter, or if it is no setter that the kernel may call.

    struct kernel_param: see trial.arrays_of(); struct kernel_param_ops is flags, set, get, free.
    """
    merged, found = glue.merged, None
    table, owner, arch = merged.find("__param"), merged.find(".gnu.linkonce.this_module"), merged.arch
    for at in range(0, table.size if table else 0, arch.param_size):
        assert table is not None
        name = merged.refers(table, at)
        text = merged.text_at(*name) if name else ""
        if not glue.layout.in_glue(np.array([table.index]), np.array([at]))[0]:
            continue
        if text.rstrip("0123456789") not in _OWN:
            report.add("glue", f"parameter {text!r}: the glue has none of this name", section="__param", offset=at)
        if text != "resume":
            continue
        operations = merged.refers(table, at + 2 * arch.word)
        permission = int.from_bytes(
            bytes(merged.content(table)[at + arch.param_perm : at + arch.param_perm + 2]), "little"
        )
        found, problems = _operations(glue, operations)
        if owner is None or merged.refers(table, at + arch.word) != (owner.index, 0):
            problems.append("wrong owner")
        if permission != _PERMISSION:
            problems.append(f"permissions {permission:o}")
        for problem in problems:
            report.add("glue", f"parameter resume: {problem}", section="__param", offset=at)
        if problems:
            return None
    return found


def _operations(glue: Glue, place: Place | None) -> tuple[Place | None, list[str]]:
    """The setter of a struct kernel_param_ops, and what is wrong with it."""
    merged, word = glue.merged, glue.merged.arch.word
    if place is None or place[0] <= 0 or not _is_glue(glue, place):
        return None, ["its operations are not the glue's"]
    section = merged.sections[place[0]]
    raw = bytes(merged.content(section)[place[1] : place[1] + 4 * word])
    others = [at for at in (0, 2 * word, 3 * word) if merged.refers(section, place[1] + at) is not None]
    setter = merged.refers(section, place[1] + word)
    if len(raw) != 4 * word or any(raw[:word]) or any(raw[2 * word :]) or others:
        return None, ["it has flags, or operations other than set"]
    if setter is None or setter[0] <= 0 or not _is_glue(glue, setter):
        return None, ["its setter is not the glue's"]
    home = merged.sections[setter[0]]
    if not home.flags & SHF_EXEC or in_init_memory(merged, home.name):
        return None, [f"its setter is in {home.name}, which is no code that stays"]
    # Only a function's first instruction may be called: the glue's part of the section begins with what is before it.
    pads, code = merged.arch.landing_pads, merged.content(home)
    init = merged.content(merged.sections[glue.entry[0]])[glue.entry[1] : glue.entry[1] + 4].tobytes()
    if init in pads and code[setter[1] : setter[1] + 4].tobytes() not in pads:
        return None, ["its setter does not begin with a landing pad, the init does"]
    return setter, []


def _is_glue(glue: Glue, place: Place) -> bool:
    return bool(glue.layout.in_glue(np.array([place[0]]), np.array([place[1]]))[0])


class _Trial:
    """The megamodule in memory; each try_… is a story of its own, from a fresh load."""

    def __init__(self, glue: Glue, setter: Place, order: list[int], names: list[str], report: Report) -> None:
        self.glue, self.order, self.names, self.report = glue, order, names, report
        self.machine = Emulator(glue.merged, glue.layout, glue.entry, glue.inits, state=True)
        self.setter = self.machine.home[setter[0]] + setter[1]
        owner = glue.merged.find(".gnu.linkonce.this_module")
        assert owner is not None
        self.module = self.machine.home[owner.index]
        self.arrays = arrays_of(glue.merged, Report())
        self.locked = False
        self.story = ""
        self.entered = 0
        entry = self.machine.home[glue.entry[0]] + glue.entry[1] - self.machine.processor.bit
        self.machine.hook(unicorn.UC_HOOK_CODE, self._enter, entry, 1)

    def try_before(self) -> None:
        """As the arguments are parsed the init has not begun, and after a good call nothing is left to do."""
        self._begin("resume before the init")
        self._same(self._resume(), [], _COMING, {})
        self._begin("resume when all is done")
        self._same(self._init(), self.order, _COMING, dict.fromkeys(self.order, 0))
        again = self._resume()
        self._same(again, [], _COMING, dict.fromkeys(self.order, 0))
        self._expect("calls", again.calls, [])

    def try_one(self, number: int) -> int:
        """One init hangs; its users are not run, all others are, and when it comes back nothing more happens.

        Returns how often the setter, or what it calls, has taken the lock.
        """
        self._begin(f"the init of {self.names[number]} hangs")
        first, rest, after = self._hang(number)
        self.entered = 0
        second = self._resume()
        self._same(second, rest, _LIVE, after)
        # At its first instruction, which may sign the return address or be a landing pad.
        self._expect("calls of the init", self.entered, 1)
        self._same(self._resume(), [], _LIVE, after)
        if first.held is not None:
            late = self._go_on(first.held, init=True)
            self._same(late, [], _LIVE, after | {number: 0})
            self._expect("sleeps", late.calls.count(_SLEEP), 1)
        return second.calls.count(_LOCK)

    def try_late_setter(self, number: int, locks: int) -> None:
        """The setter is about to take its lock again as the first flow comes back, which must wait for it."""
        self._begin(f"{self.names[number]} comes back while the setter returns")
        first, rest, after = self._hang(number)
        second = self._resume(hang={_LOCK: locks})
        self._expect("members called", second.members, rest)
        if first.held is None or second.held is None:
            self.report.add("glue", f"{self.story}: the setter takes no lock when the init has returned")
            return
        waits = self._wait(first.held)
        self._same(self._go_on(second.held, init=False), [], _LIVE, after | {number: 0})
        if waits is not None:
            self._same(self._go_on(waits, init=True), [], _LIVE, after | {number: 0})

    def try_two(self, number: int) -> None:
        """Two inits hang one after the other, and come back in order."""
        _, others, _ = self._expected(number)
        if not others:
            return
        other = others[0]
        self._begin(f"the inits of {self.names[number]} and {self.names[other]} hang")
        first, _, _ = self._hang(number)
        second = self._resume(hang={other: 1})
        self._expect("members called", second.members, [other])
        if first.held is None or second.held is None:
            self.report.add("glue", f"{self.story}: it is not called")
            return
        waits = self._wait(first.held)
        # The first is there by now for those of its users that have not been passed over before the second.
        passed_over = {n for n in self._users({number}) - {number} if n < other}
        dead = self._users(passed_over | {other})
        wanted = [n for n in self.order[self.order.index(other) + 1 :] if n not in dead]
        after = dict.fromkeys(self.order, 0) | dict.fromkeys(dead & set(self.order), NEEDS) | {other: _RUNS}
        self._same(self._resume(), wanted, _LIVE, after)
        waits = self._wait(waits) if waits is not None else None  # the second flow is in init memory yet
        after |= {other: 0}
        self._same(self._go_on(second.held, init=False), [], _LIVE, after)
        if waits is not None:
            self._same(self._go_on(waits, init=True), [], _LIVE, after)

    def _enter(self, _: object, address: int, size: int, user: object) -> None:
        self.entered += 1

    def _wait(self, held: Held) -> Held | None:
        """A flow that comes back while another may be in init memory: it calls no member and sleeps again."""
        flow = self._go_on(held, init=True, hang={_SLEEP: 1})
        if flow.held is None:
            flow = self._report_early(flow)
        else:
            again = self._go_on(flow.held, init=True, hang={_SLEEP: 1})
            flow = again if again.held is not None else self._report_early(again)
        self._expect("members called", flow.members, [])
        return flow.held

    def _report_early(self, flow: _Flow) -> _Flow:
        self.report.add("glue", f"{self.story}: the init returns while another flow may be in init memory")
        return flow

    def _users(self, numbers: set[int]) -> set[int]:
        """The members and all that need them, directly or not."""
        out = set(numbers)
        while more := {user for user, provider in self.glue.needs if provider in out} - out:
            out |= more
        return out

    def _expected(self, number: int) -> tuple[list[int], list[int], dict[int, int]]:
        """Called until this init hangs; called by a resume; results after that."""
        out, at = self._users({number}), self.order.index(number) + 1
        after = {n: (NEEDS if n in out else 0) for n in self.order} | {number: _RUNS}
        return self.order[:at], [n for n in self.order[at:] if n not in out], after

    def _hang(self, number: int) -> tuple[_Flow, list[int], dict[int, int]]:
        """The init is called and hangs in that of a member. The flow, whom a resume must call, and results after it."""
        before, rest, after = self._expected(number)
        first = self._init(hang={number: 1})
        results = {n: (0 if n in before else NOT_RUN) for n in self.order} | {number: _RUNS}
        self._same(first, before, _COMING, results)
        return first, rest, after

    def _begin(self, story: str) -> None:
        self.story, self.locked = story, False
        self.machine.clear()
        self.machine.put(self.module, _COMING.to_bytes(4, "little"))

    def _init(self, hang: Mapping[str | int, int] = {}) -> _Flow:
        return self._flow(lambda a: self.machine.run(self.glue.entry[1], a), hang, locked=False)

    def _resume(self, hang: Mapping[str | int, int] = {}) -> _Flow:
        self.locked = True
        return self._flow(lambda a: self.machine.run_at(self.setter, a), hang, locked=True)

    def _go_on(self, held: Held, *, init: bool, hang: Mapping[str | int, int] = {}) -> _Flow:
        return self._flow(lambda a: self.machine.go_on(held, a), hang, locked=not init, goes_on=True)

    def _flow(
        self, call: Callable[[Answer], Value], hang: Mapping[str | int, int], *, locked: bool, goes_on: bool = False
    ) -> _Flow:
        """One flow until it returns or hangs. hang: the n-th call of a kernel function or member does not return."""
        flow, first = _Flow(), goes_on

        def answer(target: Pointer) -> int:
            nonlocal first
            found = self.glue.inits.get((target.section, target.offset), [])
            what: str | int = target.name or (found[0] if found else "")
            again, first = first, False
            hangs = False
            if target.name != _THUNK and not again:
                flow.calls.append(what)
                hangs = what in hang and flow.calls.count(what) == hang[what]
            # Who hangs in the call of the lock has not got it.
            if not (hangs if target.name == _LOCK else again):
                self._rules(target, again=again)
            if hangs:
                raise _HangError
            return 0

        try:
            flow.value = call(answer)
        except _HangError:
            flow.held = self.machine.hold()
            return flow
        self._expect("returned value", flow.value, 0)
        self._expect("the lock is held at the end", self.locked, locked)
        self.locked = False
        return flow

    def _rules(self, target: Pointer, *, again: bool) -> None:
        """What may be called under which lock, with which argument. again: it goes on, the argument is gone."""
        name, wrong = target.name, ""
        argument = self.machine.argument()
        if not name or name == _SLEEP:
            wrong = "with the lock held" if self.locked else ""
            if name == _SLEEP and not 0 < argument <= _LONGEST:
                wrong = f"with {argument}"
        elif name in (_LOCK, _UNLOCK):
            wrong = "twice" if self.locked == (name == _LOCK) else ""
            if not again and argument != self.module & (1 << self.machine.processor.bits) - 1:
                wrong = "of something that is not the module"
            self.locked = name == _LOCK
        elif name not in policy.GLUE_IMPORTS:
            wrong = "which it must not"
        if wrong:
            self.report.add("glue", f"{self.story}: calls {name or 'an init'} {wrong}")

    def _same(self, flow: _Flow, members: list[int], state: int, results: dict[int, int]) -> None:
        self._expect("members called", flow.members, members)
        self._expect("state", int.from_bytes(self.machine.get(self.module, 4), "little"), state)
        runner: Runner = self.machine
        found = elements(self.glue, runner, self.arrays, "result", 256, 4)
        for number, value in results.items():
            have = found[number] if found else None
            self._expect(f"result of {self.names[number]}", have, value)

    def _expect(self, what: str, have: object, wanted: object) -> None:
        if have != wanted:
            self.report.add("glue", f"{self.story}: {what}: {have}, must be {wanted}")
