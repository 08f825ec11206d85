"""kCFI: what do_one_initcall() compares before it jumps to the megamodule's init, and what FineIBT rewrites there.

Written from LLVM's AsmPrinter::emitKCFITypeId(), X86AsmPrinter::emitKCFITypeId(), AArch64AsmPrinter::LowerKCFI_CHECK()
and from arch/x86/kernel/alternative.c __apply_fineibt(), 6.12.
"""

import numpy as np

from tests.oracle.difference import Report
from tests.oracle.model import SHF_EXEC, Model
from tests.oracle.tables import entry_point

_NEAR = 80  # five bytes and the widest padding that the kernel can be configured to have, rounded up
# What -fpatchable-function-entry=N,M leaves between hash and function.
_NOPS = {"arm64": b"\x1f\x20\x03\xd5", "riscv64": b"\x01\x00", "arm": b"\x00\xf0\x20\xe3", "x86_64": b"\x90"}
_TABLES = ("__kcfi_traps", ".cfi_sites")


def compare_type_hash(
    models: list[Model], names: list[str], merged: Model, entry: tuple[int, int], report: Report
) -> None:
    """*entry*: section and offset of the megamodule's init. Its bytes from the hash on must be those of each member."""
    inits = {
        name: (model, own[1], own[2])
        for name, model in zip(names, models, strict=True)
        if (own := entry_point(model, "init_module")) is not None
    }
    found = {name: _hash(model, section, offset) for name, (model, section, offset) in inits.items()}
    checked = any(map(_checks, models))
    if not checked and len(set(found.values())) > 1:
        return
    home, offset = entry
    offset -= merged.arch.thumb
    for name, own in found.items():
        if not own:
            if checked:
                report.add("cfi", "a member of a kCFI kernel has no type hash before its init", member=name)
            continue
        now = bytes(merged.content(merged.sections[home])[max(offset - len(own), 0) : offset])
        if now != own:
            text = f"before the glue's init stands {now.hex()}, before the member's {own.hex()}: the kernel traps"
            report.add("cfi", text, member=name, section=merged.sections[home].name)
        table = merged.find(".cfi_sites")
        if any(model.find(".cfi_sites") for model in models) and (
            table is None or (home, offset - len(own)) not in _listed(merged)
        ):
            report.add("cfi", "FineIBT will not rewrite the glue's init: .cfi_sites does not list it", member=name)


def compare_setter_hash(
    models: list[Model], names: list[str], merged: Model, setter: tuple[int, int], report: Report
) -> None:
    """*setter*: section and offset of the function that sets the parameter resume, which parse_args() and
    param_attr_store() call through a pointer. Where that is checked its bytes from the hash on must be those of each
    setter of a member: struct kernel_param_ops is flags, set, get, free."""
    if not any(map(_checks, models)):
        return
    home, offset = setter
    offset -= merged.arch.thumb
    content, found = merged.content(merged.sections[home]), False
    for name, model in zip(names, models, strict=True):
        for section, place in _setters(model):
            own, found = _hash(model, section, place), True
            now = bytes(content[max(offset - len(own), 0) : offset])
            if not own or now != own:
                text = f"before the glue's setter stands {now.hex()}, before the member's {own.hex()}: the kernel traps"
                report.add("cfi", text, member=name, section=merged.sections[home].name)
            elif model.find(".cfi_sites") and (home, offset - len(own)) not in _listed(merged):
                report.add(
                    "cfi", "FineIBT will not rewrite the glue's setter: .cfi_sites does not list it", member=name
                )
    if not found:
        report.add("cfi", "no member has a setter that shows the type hash of the glue's", section=".text")


def _setters(model: Model) -> list[tuple[int, int]]:
    """Section and offset of the member's own functions that set a parameter."""
    table, word, found = model.find("__param"), model.arch.word, set()
    for at in range(0, table.size if table else 0, model.arch.param_size):
        assert table is not None
        operations = model.refers(table, at + 2 * word)
        if operations is None or not 0 < operations[0] < len(model.sections):
            continue
        place = model.refers(model.sections[operations[0]], operations[1] + word)
        if place is not None and 0 < place[0] < len(model.sections) and model.sections[place[0]].flags & SHF_EXEC:
            found.add(place)
    return sorted(found)


def _checks(model: Model) -> bool:
    """Whether the file shows that indirect calls are checked in its kernel."""
    if any(section.alloc and section.size and section.name in _TABLES for section in model.sections):
        return True
    return any(name.startswith((b"__kcfi_typeid_", b"__cfi_")) for name in model.strings.split(b"\0"))


def _listed(model: Model) -> set[tuple[int, int]]:
    table = model.find(".cfi_sites")
    if table is None:
        return set()
    places = model.place[model.rows(table)].tolist()
    return {site for at in places if (site := model.refers(table, at)) is not None}


def _hash(model: Model, section: int, offset: int) -> bytes:
    """The bytes from the type hash (on x86_64 from the instruction with it) to the function; b"" if there are none."""
    offset -= model.arch.thumb
    code = bytes(model.content(model.sections[section])[:offset])
    if model.arch.name == "x86_64":
        sites = [at for home, at in _listed(model) if home == section]
        rows = np.flatnonzero(model.symbol_section == section).tolist()
        sites += [int(model.symbol_value[row]) for row in rows if model.name_of_symbol(row).startswith("__cfi_")]
        near = [at for at in sites if offset - _NEAR <= at < offset]
        if near:
            return code[max(near) :]
        body = code.rstrip(_NOPS["x86_64"])
        return code[len(body) - 5 :] if len(body) >= 5 and 0xB8 <= body[-5] < 0xC0 else b""
    nop, end = _NOPS[model.arch.name], len(code)
    while code.endswith(nop, 0, end) and len(code) - end < _NEAR:
        end -= len(nop)
    return code[end - 4 :] if end >= 4 else b""
