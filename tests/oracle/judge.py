"""The judgement: all comparisons in one recipe."""

from collections.abc import Callable, Sequence

import numpy as np

from tests.oracle.compare import World, compare_member, compare_rest, make_world
from tests.oracle.difference import Difference, Report
from tests.oracle.elffile import LoadError
from tests.oracle.glue import compare_glue
from tests.oracle.model import Model, load_model
from tests.oracle.placement import GONE, LOST, lay_out
from tests.oracle.policy import Map
from tests.oracle.settle import registered_table
from tests.oracle.tables import Export, exports
from tests.oracle.unwind import compare_unwind
from tests.oracle.unwind_arm import compare_exidx
from tests.oracle.whole import compare_exports, compare_identity, compare_imports, compare_symbols, undefined

Members = Sequence[tuple[str, bytes]]


def judge(
    members: Members, megamodule: bytes, mapping: Map, *, progress: Callable[[str], None] = lambda step: None
) -> list[Difference]:
    """Compares the megamodule with its members loaded one by one. An empty list means: proven equal.

    members: (canonical name, bytes of the plain .ko), in any order; mapping: the map of the prelinker, version 1.
    """
    report = Report()
    progress("load")
    names = [member["name"] for member in mapping["members"]]
    models = _load_members(members, names, report)
    try:
        merged = load_model(megamodule)
    except LoadError as error:
        report.add("load", str(error))
        return report.result()
    for problem in merged.problems:
        report.add("load", problem)
    if models is None:
        return report.result()

    # Loading one by one: what each member finds at its turn.
    found = _all_exports(models, names, report)
    needs = {
        (user, found[symbol][0]) for user, model in enumerate(models) for symbol in undefined(model) if symbol in found
    }

    # Loading all at once, and comparing.
    progress("lay out")
    layout = lay_out(models, merged, mapping, names, report)
    world = make_world(merged, layout, mapping["options"], found)
    for number, model in enumerate(models):
        progress(f"compare {names[number]}")
        compare_member(number, names[number], model, world, report)
        _check_static_calls(number, names[number], model, world, report)
    glue_imports = compare_rest(world, report)

    progress("tables")
    compare_exports(merged, layout, found, names, report)
    compare_imports(models, names, merged, found, glue_imports, report)
    compare_identity(models, names, merged, mapping, report)
    compare_symbols(models, names, merged, layout, mapping, report)
    progress("unwind")
    table, problems = registered_table(merged, layout)
    for problem in problems:
        report.add("unwind", problem)
    compare_glue(models, mapping, merged, layout, needs, table, report)
    compare_unwind(models, names, merged, layout, mapping["options"], table, report)
    if merged.arch.name == "arm":
        compare_exidx(models, names, merged, layout, mapping["options"], report)
    return report.result()


def _load_members(members: Members, names: list[str], report: Report) -> list[Model] | None:
    """The models in the map's order; None if the map speaks of other members than were given."""
    given = dict(members)
    if sorted(given) != sorted(names) or len(names) != len(set(names)):
        report.add("map", f"members of the map: {sorted(set(names) ^ set(given))} differ from those given")
        return None
    models = []
    for name in names:
        model = load_model(given[name])
        for problem in model.problems:
            report.add("member", problem, member=name)
        models.append(model)
    return models


def _all_exports(models: list[Model], names: list[str], report: Report) -> dict[str, tuple[int, Export]]:
    found: dict[str, tuple[int, Export]] = {}
    for number, model in enumerate(models):
        own, problems = exports(model)
        for problem in problems:
            report.add("member", problem, member=names[number])
        for symbol, export in own.items():
            if symbol in found:
                # verify_exported_symbols(): the second module would be refused.
                report.add("member", f"{symbol} is exported by {names[found[symbol][0]]} too", member=names[number])
            found[symbol] = (number, export)
    return found


def _check_static_calls(number: int, name: str, model: Model, world: World, report: Report) -> None:
    """A call site may lose its patch entry only if its key belongs to the kernel, or is a trace event that is off.

    Without the entry the call goes on through the trampoline, which the kernel patches (kernel/static_call_inline.c).
    """
    table = model.find(".static_call_sites")
    if table is None or not table.size:
        return
    place = world.layout.members[number]
    if int(place.output[table.index]) == GONE:
        kept = np.zeros(table.size // 8, bool)
    else:
        starts = np.arange(0, table.size, 8)
        kept = place.forward(np.full(len(starts), table.index), starts)[0] != LOST
    for entry in np.flatnonzero(~kept).tolist():
        row = model.row_at(table, 8 * entry + 4)
        if row is None:
            continue
        symbol = int(model.symbol[row])
        key = model.name_of_symbol(symbol)
        if int(model.symbol_section[symbol]) == 0 and key not in world.exported:
            continue
        if world.options.get("tracing") == "off" and key.startswith("__SCK__tp_func_"):
            continue
        text = f"the patch entry of key {key or 'local'} is gone, which a member may update"
        report.add("dropped", text, member=name, section=table.name, offset=8 * entry)
