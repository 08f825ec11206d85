"""Properties of the file as a whole: what the kernel checks by table before it lets a module in."""

from collections import Counter

import numpy as np

from tests.oracle import policy
from tests.oracle.difference import Report, Where
from tests.oracle.model import SHF_EXEC, STT_FUNC, Model
from tests.oracle.placement import GONE, LOST, Layout
from tests.oracle.policy import Map
from tests.oracle.tables import (
    Export,
    exports,
    extended_versions,
    modinfo,
    modinfo_first,
    module_name,
    parameter_names,
    versions,
)

# license_is_gpl_compatible(), include/linux/license.h
_GPL = {"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"}
_RESERVED_PERCPU = 8 << 10  # PERCPU_MODULE_RESERVE, include/linux/percpu.h
_MANY = {"import_ns", "alias", "parm", "parmtype", "firmware", "author", "softdep", "weakdep", "file"}
# Internal to modpost's output: every module that has versions names it, nothing imports it.
_LAYOUT = "module_layout"


def undefined(model: Model) -> set[str]:
    """Names that simplify_symbols() would look up in the kernel."""
    rows = np.flatnonzero(model.symbol_section == 0).tolist()
    return {name for name in (model.name_of_symbol(row) for row in rows) if name}


def compare_exports(
    merged: Model, layout: Layout, found: dict[str, tuple[int, Export]], names: list[str], report: Report
) -> None:
    """The exports are the union of the members': same place, CRC, licence class and namespace."""
    now, problems = exports(merged)
    for problem in problems:
        report.add("exports", problem)
    for name in sorted(set(now) - set(found)):
        report.add("exports", f"{name} is exported by no member")
    for name, (member, export) in found.items():
        where = Where(member=names[member], section="__ksymtab")
        got = now.get(name)
        if got is None:
            report.add("exports", f"{name} is not exported any more", **where)
            continue
        if layout.members[member].output[export.home] == GONE:
            report.add("exports", f"{name} lies in a section that was not kept", **where)
            continue
        out, at = layout.members[member].forward(np.array([export.home]), np.array([export.offset]))
        if (int(out[0]), int(at[0])) != (got.home, got.offset):
            report.add("exports", f"{name} points elsewhere", **where)
        for what in ("crc", "flags", "namespace"):
            was, is_now = getattr(export, what), getattr(got, what)
            if was != is_now:
                report.add("exports", f"{name}: {what} is {is_now}, was {was}", **where)


def compare_imports(
    models: list[Model],
    names: list[str],
    merged: Model,
    found: dict[str, tuple[int, Export]],
    glue: set[str],
    report: Report,
) -> None:
    """Imports and their versions: every one known, with the CRC that the members had; none that a member provides."""
    wanted: set[str] = set()
    crcs: dict[str, int] = {}
    versioned = False
    for model, name in zip(models, names, strict=True):
        wanted |= undefined(model)
        own = versions(model)
        versioned |= own is not None
        for symbol, crc in (own or {}).items():
            if crcs.setdefault(symbol, crc) != crc:
                report.add("versions", f"{symbol}: members disagree on its CRC", member=name, section="__versions")
    for symbol, (member, export) in found.items():
        if export.crc is not None and crcs.get(symbol, export.crc) != export.crc:
            text = f"{symbol}: exported with {export.crc:#x}, imported with {crcs[symbol]:#x}"
            report.add("versions", text, member=names[member], section="__kcrctab")
    asked = undefined(merged)
    for symbol in sorted(asked & set(found)):
        report.add("imports", f"{symbol} is exported by a member and still asked of the kernel")
    for symbol in sorted(asked - wanted - set(found)):
        if symbol not in policy.GLUE_IMPORTS or symbol not in glue:
            report.add("imports", f"{symbol} is imported by no member, and is not known to be the glue's")
    now = versions(merged)
    if not versioned:
        return
    if now is None:
        report.add("versions", "no version table, members have one")
        return
    for symbol in sorted(asked | {_LAYOUT}):
        if symbol not in now:
            if symbol in crcs or symbol == _LAYOUT or symbol in policy.GLUE_IMPORTS:
                report.add("versions", f"{symbol} has no version: check_version() refuses the load")
        elif symbol in crcs and now[symbol] != crcs[symbol]:
            report.add("versions", f"{symbol}: CRC {now[symbol]:#x}, members have {crcs[symbol]:#x}")
    for symbol in sorted(set(now) & set(found)):
        report.add("versions", f"{symbol} is a member's own and has a version entry")
    _check_extended(models, merged, report)


def _check_extended(models: list[Model], merged: Model, report: Report) -> None:
    crcs, texts = merged.find("__version_ext_crcs"), merged.find("__version_ext_names")
    if (crcs is None) != (texts is None):
        report.add("versions", "only one of __version_ext_crcs and __version_ext_names is there")
    if crcs is not None and texts is not None:
        count = bytes(merged.content(texts)).count(b"\0")
        if crcs.size != 4 * count:
            report.add("versions", f"{crcs.size // 4} extended CRCs for {count} names")
    if any(extended_versions(m) is not None for m in models) and extended_versions(merged) is None:
        basic = merged.find("__versions")
        if basic is None:
            report.add("versions", "extended versions are lost")


def compare_identity(models: list[Model], names: list[str], merged: Model, mapping: Map, report: Report) -> None:
    """.modinfo, struct module, parameters, per-CPU room, .orc_header."""
    _check_modinfo(models, names, merged, mapping, report)
    owner = merged.find(".gnu.linkonce.this_module")
    sizes = {s.size for s in (m.find(".gnu.linkonce.this_module") for m in models) if s is not None}
    if owner is not None and {owner.size} != sizes:
        report.add("identity", f"struct module has {owner.size} bytes, members have {sorted(sizes)}")
    if module_name(merged) != mapping["name"]:
        report.add("identity", f"struct module is not called {mapping['name']}, or holds more than a name")
    if len(mapping["name"]) >= merged.arch.name_len:
        text = f"the name has {len(mapping['name'])} characters, at most {merged.arch.name_len - 1} fit"
        report.add("identity", text)
    seen = Counter(name.replace("-", "_") for name in parameter_names(merged))
    for name, count in seen.items():
        if count > 1:
            report.add("parameter", f"{name!r} is there {count} times: sysfs refuses the load", section="__param")
    percpu = merged.find(".data..percpu")
    if percpu is not None and percpu.size > _RESERVED_PERCPU:
        report.add("percpu", f"{percpu.size} bytes, the kernel reserves {_RESERVED_PERCPU} for all modules")
    if percpu is not None and percpu.align > 4096:
        report.add("percpu", f"alignment {percpu.align} is more than a page")
    widest = max((s.align for s in (m.find(".data..percpu") for m in models) if s is not None), default=1)
    if percpu is not None and percpu.align > widest:
        # percpu_modalloc(): from the reserved chunk, which begins at no page; a page is there once or twice at most.
        report.add("percpu", f"alignment {percpu.align}, no member has more than {widest}")
    _check_placeholders(models, merged, report)
    if {merged.flags} != {m.flags for m in models}:
        text = f"e_flags are {merged.flags:#x}, members have {sorted({hex(m.flags) for m in models})}"
        report.add("identity", text)
    headers = {bytes(m.content(s)) for m in models if (s := m.find(".orc_header")) is not None}
    own = merged.find(".orc_header")
    if len(headers) > 1:
        report.add("identity", "members disagree on .orc_header")
    if (
        headers
        and mapping["options"].get("unwind") != "drop"
        and (own is None or {bytes(merged.content(own))} != headers)
    ):
        report.add("identity", ".orc_header is not the members'")


def _check_placeholders(models: list[Model], merged: Model, report: Report) -> None:
    """Sections that the kernel looks for and fills; without them it answers ENOEXEC."""
    for name in merged.arch.placeholders:
        flags = {s.flags for m in models if (s := m.find(name)) is not None}
        own = merged.find(name)
        if flags and (own is None or own.flags not in flags):
            what = "is missing" if own is None else f"has flags {own.flags:#x}, members' have {sorted(flags)}"
            report.add("placement", f"{name} {what}")


def _check_modinfo(models: list[Model], names: list[str], merged: Model, mapping: Map, report: Report) -> None:
    pairs = modinfo(merged)
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1 and key not in _MANY and "." not in key:
            report.add("modinfo", f"{key} is there {count} times")
    if modinfo_first(merged, "name") != mapping["name"]:
        report.add("modinfo", f"name is {modinfo_first(merged, 'name')}, the map says {mapping['name']}")
    if modinfo_first(merged, "license") not in _GPL:
        report.add("modinfo", f"license {modinfo_first(merged, 'license')} closes the GPL-only exports")
    for model, name in zip(models, names, strict=True):
        if modinfo_first(model, "license") not in _GPL:
            report.add("modinfo", f"a member with license {modinfo_first(model, 'license')} was merged", member=name)
        if name in policy.SINGLES and model.find("__param") is not None:
            report.add("single", "compares its parameters' names, which the merge changes", member=name)
        if modinfo_first(model, "livepatch") is not None:
            report.add("modinfo", "a livepatch was merged", member=name)
        if modinfo_first(model, "vermagic") != modinfo_first(merged, "vermagic"):
            report.add("modinfo", "vermagic differs", member=name)
    for key in ("intree", "retpoline"):
        values = {modinfo_first(m, key) for m in models}
        if values == {"Y"} and modinfo_first(merged, key) != "Y":
            report.add("modinfo", f"{key} is lost: every member has it")
        if None in values and modinfo_first(merged, key) is not None:
            report.add("modinfo", f"{key} is claimed, and a member does not have it")
    if any(modinfo_first(m, "staging") for m in models) != bool(modinfo_first(merged, "staging")):
        report.add("modinfo", "staging is not what the members say")
    wanted = {value for m in models for key, value in modinfo(m) if key == "import_ns"}
    for missing in sorted(wanted - {value for key, value in pairs if key == "import_ns"}):
        report.add("modinfo", f"import_ns={missing} is lost")
    for extra in sorted({value for key, value in pairs if key == "import_ns"} - wanted):
        report.add("modinfo", f"import_ns={extra} is in no member")


def compare_symbols(
    models: list[Model], names: list[str], merged: Model, layout: Layout, mapping: Map, report: Report
) -> None:
    """A function's name stands where the function went, so that an oops can be read; with `symbols: keep` all do."""
    rows = np.flatnonzero(merged.symbol_section != 0)
    there = {
        (int(merged.symbol_section[row]), int(merged.symbol_value[row]), merged.name_of_symbol(row))
        for row in rows.tolist()
    }
    functions = rows[merged.symbol_info[rows] & 0xF == STT_FUNC]
    strange = functions[~layout.in_glue(merged.symbol_section[functions], merged.symbol_value[functions])]
    unknown = {
        (int(merged.symbol_section[row]), int(merged.symbol_value[row]), merged.name_of_symbol(row))
        for row in strange.tolist()
    }
    every = mapping["options"].get("symbols") == "keep"
    for number, (model, name) in enumerate(zip(models, names, strict=True)):
        code = np.array([bool(s.flags & SHF_EXEC) and s.alloc for s in model.sections] + [False])
        inside = model.symbol_section < len(model.sections)
        rows = np.flatnonzero((model.symbol_info & 0xF == STT_FUNC) & inside)
        rows = rows[code[model.symbol_section[rows]]]
        out, at = layout.members[number].forward(model.symbol_section[rows], model.symbol_value[rows])
        for row, home, offset in zip(rows.tolist(), out.tolist(), at.tolist(), strict=True):
            symbol = model.name_of_symbol(row)
            unknown.discard((home, offset, symbol))
            # modpost's aliases for the loader; the megamodule has its own.
            if home == LOST or symbol in ("init_module", "cleanup_module"):
                continue
            if every and (home, offset, symbol) not in there:
                section = model.sections[int(model.symbol_section[row])].name
                text = f"function {symbol} has no symbol any more"
                report.add("symbol", text, member=name, section=section, offset=int(model.symbol_value[row]))
    for home, offset, symbol in sorted(unknown):
        if 0 < home < len(merged.sections) and symbol:
            section = merged.sections[home].name
            report.add("symbol", f"function {symbol} stands where no member has it", section=section, offset=offset)
