"""Load overhead of one row: the time of its load calls less what the members' own inits took in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from errno import ENODEV
from pathlib import Path

from megamod.common.errors import MegamodError
from tests.bench.shared.guest import GuestRun, run_guest
from tests.bench.shared.kernels import BenchKernel
from tests.bench.shared.rows import Call

# Calls that differ by more ns between two boots wait for the clock (raid6_pq tries its algorithms for whole ticks).
_CLOCK_WAIT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Nanoseconds of all calls and of all inits in them; failed: member → its init's negative result.

    overhead: per call, in the order of the calls; without the inits.
    """

    calls: int
    load_ns: int
    init_ns: int
    overhead: Mapping[str, int]
    memory_kib: int
    vmalloc_kib: int
    failed: Mapping[str, int]
    initialised: frozenset[str]

    @property
    def overhead_ns(self) -> int:
        return sum(self.overhead.values())


def measure(kernel: BenchKernel, image: Path, calls: Sequence[Call], *, seed: int) -> Measured:
    """Boot *image* once or, where a call is of an original module, twice."""
    plain = run_guest(kernel, image, seed=seed)
    single = [call for call in calls if not call.members]
    noted = run_guest(kernel, image, seed=seed, initcalls=True) if single else plain
    noted_inits = _initcalls(noted, calls)
    inits: dict[str, int] = {}
    results: dict[str, int] = {}
    overhead: dict[str, int] = {}
    for call in calls:
        load, error = plain.loads[call.name]
        if call.members:
            if error:
                raise MegamodError(f"{call.name}: the load failed, errno {error}")
            own = dict(zip(call.members, parameter_values(plain, call.name, "nanoseconds"), strict=True))
            codes = dict(zip(call.members, parameter_values(plain, call.name, "result"), strict=True))
            inits |= own
            results |= codes
            overhead[call.name] = load - sum(own.values())
            continue
        result, microseconds = noted_inits[call.name]
        if error != -min(result, 0):
            raise MegamodError(f"{call.name}: the load failed, errno {error}, and not by its init, which gave {result}")
        results[call.name] = result
        inits[call.name] = 1000 * microseconds
        there = noted.loads[call.name][0]
        waits = abs(there - load) > _CLOCK_WAIT
        overhead[call.name] = (there if waits else load) - inits[call.name]
    failed = {name: result for name, result in results.items() if result}
    strange = {name: result for name, result in failed.items() if result != -ENODEV}
    if strange:
        raise MegamodError(f"members failed for another reason than a missing device: {strange}")
    alive = len(calls) - sum(1 for call in single if call.name in failed)
    if plain.modules != alive:
        raise MegamodError(f"/proc/modules has {plain.modules} lines, not {alive}")
    load_ns = sum(nanoseconds for nanoseconds, _ in plain.loads.values())
    return Measured(
        calls=len(calls),
        load_ns=load_ns,
        init_ns=sum(inits.values()),
        overhead=overhead,
        memory_kib=plain.memory_kib,
        vmalloc_kib=plain.vmalloc_kib,
        failed=failed,
        initialised=frozenset(results),
    )


def _initcalls(run: GuestRun, calls: Sequence[Call]) -> dict[str, tuple[int, int]]:
    """Call → (result, microseconds) of its init; the kernel's lines come in the order of the calls, and a library
    without an init has none."""
    expected = [call for call in calls if call.has_init]
    found = {call.name: (0, 0) for call in calls}
    if not run.initcalls:
        return found
    for call, (name, result, microseconds) in zip(expected, run.initcalls, strict=True):
        if name not in (call.name, "?"):
            raise MegamodError(f"the init of {name} ran where that of {call.name} was expected")
        found[call.name] = (result, microseconds)
    return found


def parameter_values(run: GuestRun, module: str, parameter: str) -> list[int]:
    """The numbers of a megamodule's parameter and its continuations, 0, 1, 2…"""
    values: list[int] = []
    for number in range(16):
        values += run.parameters.get((module, f"{parameter}{number or ''}"), ())
    return values
