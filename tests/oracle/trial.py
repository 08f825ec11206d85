"""Trial runs of the glue: every init succeeds, one fails, one is skipped by request.

In each run exactly the members that may run are called, in order, and the init returns 0; where the megamodule has the
parameters result and skip (int arrays of 256 members each), they say and do what the plan promises.
"""

from dataclasses import dataclass, field
from typing import Protocol

from tests.oracle import policy
from tests.oracle.difference import Report
from tests.oracle.elffile import Section
from tests.oracle.emulator import Emulator
from tests.oracle.machine import Answer, Machine, Pointer, StuckError, Value
from tests.oracle.model import Model
from tests.oracle.placement import Layout

SKIPPED, NEEDS, NOT_RUN = 1, 2, 3  # values of result, beside 0 and -errno
_BLOCK = 256  # members per result parameter
_TRIALS = 12
_FAILURE = -19

Needs = set[tuple[int, int]]
Place = tuple[int, int]


class Runner(Protocol):
    """Something that runs the glue: memory by section and offset, calls answered by the caller."""

    def clear(self) -> None:
        """Memory as the loader leaves it."""

    def write(self, section: int, offset: int, size: int, value: int) -> None: ...

    def read(self, section: int, offset: int, size: int) -> Value: ...

    def run(self, entry: int, answer: Answer) -> Value:
        """Calls the function at an offset of the glue's section; its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glue:
    """What a trial needs to know: entry point, inits by their place, number of members, who needs whom."""

    merged: Model
    layout: Layout
    entry: Place
    inits: dict[Place, list[int]]
    members: int
    needs: Needs


@dataclass(slots=True)
class _Run:
    called: list[int] = field(default_factory=list)
    strange: set[str] = field(default_factory=set)
    result: Value = None
    results: list[Value] = field(default_factory=list)
    times: list[Value] = field(default_factory=list)
    clock: int = 0


def try_glue(glue: Glue, names: list[str], report: Report) -> list[int] | None:
    """Runs the trials; everything that went otherwise than promised is reported.

    Returns the members called in the first, in which nothing fails, in order; None if it could not be run.
    """
    arrays = arrays_of(glue.merged, report)
    try:
        machine = _runner(glue)
    except StuckError as stuck:
        report.add("glue", f"cannot be run: {stuck}")
        return None
    providers = sorted({provider for _, provider in glue.needs})
    with_init = sorted(n for numbers in glue.inits.values() for n in numbers)
    step = max(len(providers) // (_TRIALS // 2), 1)
    # Providers by even steps, and one that nobody needs.
    failing = [n for n in providers[::step] if n in with_init] + with_init[-1:]
    trials: list[tuple[dict[int, int], set[int]]] = [({}, set()), *(({n: _FAILURE}, set()) for n in failing)]
    if "skip" in arrays:
        trials += [({}, {n}) for n in sorted({*providers[::step], glue.members - 1})]
    order: list[int] | None = None
    for failures, skipped in trials:
        text = "".join([f" with {names[n]} failing" for n in failures] + [f" with {names[n]} skipped" for n in skipped])
        try:
            run = _run(glue, machine, arrays, failures, skipped)
        except StuckError as stuck:
            report.add("glue", f"a trial run{text} ended: {stuck}")
            return order
        if not failures and not skipped:
            order = run.called
        _check(glue, names, run, failures, skipped, text, report)
    return order


def _runner(glue: Glue) -> Runner:
    if glue.merged.arch.name != "x86_64":
        return Emulator(glue.merged, glue.layout, glue.entry, glue.inits)
    machine = Machine(glue.merged, glue.entry[0])
    for section, offset, size in glue.layout.glue:
        if section == glue.entry[0]:
            machine.decode(offset, size)
    return machine


def _run(glue: Glue, machine: Runner, arrays: dict[str, Place], failures: dict[int, int], skipped: set[int]) -> _Run:
    run = _Run()
    machine.clear()
    for name, (section, offset) in arrays.items():
        if name.startswith("skip"):
            block = int(name[4:] or 0)
            mine = sorted(n - block * _BLOCK for n in skipped if n // _BLOCK == block)
            set_array(glue.merged, machine, section, offset, mine)

    def answer(target: Pointer) -> int:
        if target.name == "msleep":
            raise StuckError("it waits for others, and nothing hangs")
        numbers = glue.inits.get((target.section, target.offset), [])
        run.called.extend(numbers)
        if not numbers and target.name not in policy.GLUE_IMPORTS:
            run.strange.add(target.name or f"{target.section}+{target.offset:#x}")
        if target.name and target.offset:
            run.strange.add(f"{target.name}{target.offset:+#x}")
        # Time passes in inits only, for each member another span.
        run.clock += sum(_span(n) for n in numbers)
        return run.clock if target.name else next((failures[n] for n in numbers if n in failures), 0)

    run.result = machine.run(glue.entry[1], answer)
    run.results = elements(glue, machine, arrays, "result", _BLOCK, 4)
    run.times = elements(glue, machine, arrays, "nanoseconds", _BLOCK // 2, glue.merged.arch.word)
    return run


def _span(number: int) -> int:
    return 1000 * (number + 1)


def elements(glue: Glue, machine: Runner, arrays: dict[str, Place], name: str, block: int, size: int) -> list[Value]:
    """The values of an array parameter that is cut into blocks, for all members; empty without the parameter."""
    values: list[Value] = []
    for start in range(0, glue.members, block):
        array = arrays.get(name + (str(start // block) if start else ""))
        arch = glue.merged.arch
        begin = _pointer(glue.merged, array, 8 + 2 * arch.word) if array is not None else None
        if begin is None:
            return []
        count = min(block, glue.members - start)
        values += [machine.read(begin[0], begin[1] + size * at, size) for at in range(count)]
    return values


def _check(
    glue: Glue,
    names: list[str],
    run: _Run,
    failures: dict[int, int],
    skipped: set[int],
    text: str,
    report: Report,
) -> None:
    out = set(failures) | skipped
    while True:
        more = {user for user, provider in glue.needs if provider in out} - out
        if not more:
            break
        out |= more
    with_init = {n for numbers in glue.inits.values() for n in numbers}
    wanted = with_init - (out - set(failures))
    for number in sorted(wanted - set(run.called)):
        report.add("glue", f"its init is not called{text}", member=names[number])
    for number in sorted(set(run.called) - wanted):
        report.add("glue", f"its init is called{text}, which it must not be", member=names[number])
    for name in sorted(run.strange):
        report.add("glue", f"calls {name}")
    if run.result != 0:
        report.add("glue", f"init returns {run.result}{text}, must be 0")
    for number, value in enumerate(run.results):
        code = failures.get(number, SKIPPED if number in skipped else NEEDS if number in out else 0)
        # A member without an init has nothing that could be skipped; it is as usable as what it needs.
        if value != code & 0xFFFFFFFF and (number in with_init or number not in out):
            report.add("glue", f"its result is {value}{text}, must be {code}", member=names[number])
    for number, value in enumerate(run.times):
        if number in with_init and value != (_span(number) if number in run.called else 0):
            report.add("glue", f"its time is {value}{text}, its init took {_span(number)}", member=names[number])


_ELEMENTS = {
    "result": ("param_ops_int", 4),
    "skip": ("param_ops_int", 4),
    "nanoseconds": ("param_ops_ulong", 0),
}  # 0: a word


def arrays_of(merged: Model, report: Report) -> dict[str, Place]:
    """Name → place of struct kparam_array, for the megamodule's own parameters (those without a dot), each one checked.

    struct kernel_param is name, mod, ops, perm + level + flags, arg; struct kparam_array is max, elemsize, num, ops,
    elem (include/linux/moduleparam.h).
    """
    table, owner = merged.find("__param"), merged.find(".gnu.linkonce.this_module")
    found: dict[str, Place] = {}
    arch = merged.arch
    for at in range(0, table.size if table else 0, arch.param_size):
        assert table is not None
        name, argument = merged.refers(table, at), merged.refers(table, at + arch.param_arg)
        text = merged.text_at(*name) if name else ""
        kind = text.rstrip("0123456789")
        if argument is None or "." in text or kind not in _ELEMENTS:
            continue
        found[text] = argument
        ops, size = _ELEMENTS[kind]
        size = size or arch.word
        array = merged.sections[argument[0]]
        head = bytes(merged.content(array)[argument[1] : argument[1] + 8])
        wrong = [
            what
            for what, right in {
                "owner": owner is not None and merged.refers(table, at + arch.word) == (owner.index, 0),
                "operations": _imported(merged, table, at + 2 * arch.word) == "param_array_ops",
                "element operations": _imported(merged, array, argument[1] + 8 + arch.word) == ops,
                "element size": int.from_bytes(head[4:], "little") == size,
                "room": 0 < int.from_bytes(head[:4], "little") * size <= 4 * _BLOCK,
            }.items()
            if not right
        ]
        if wrong:
            report.add("glue", f"parameter {text}: wrong {', '.join(wrong)}", section="__param", offset=at)
    return found


def _imported(merged: Model, section: Section, offset: int) -> str:
    """The kernel symbol that a field refers to, "" if it is none or not its beginning."""
    row = merged.row_at(section, offset)
    if row is None or int(merged.addend[row]) or int(merged.symbol_section[int(merged.symbol[row])]):
        return ""
    return merged.name_of_symbol(int(merged.symbol[row]))


def _pointer(merged: Model, array: Place, field_at: int) -> Place | None:
    """Where a pointer field of a struct kparam_array points to."""
    return merged.refers(merged.sections[array[0]], array[1] + field_at)


def set_array(merged: Model, machine: Runner, section: int, offset: int, values: list[int]) -> None:
    """Fills an array parameter as param_array_set() does: struct kparam_array is max, elemsize, num, ops, elem."""
    count = _pointer(merged, (section, offset), 8)
    elements = _pointer(merged, (section, offset), 8 + 2 * merged.arch.word)
    if count is not None and elements is not None:
        machine.write(*count, 4, len(values))
        for at, value in enumerate(values):
            machine.write(elements[0], elements[1] + 4 * at, 4, value)
