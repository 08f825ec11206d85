"""Module options → the argument text of a load, checked against the parameters that the modules really have."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping, Sequence

from megamod.common.compression import read_module_bytes
from megamod.common.errors import Location, MegamodError, fail
from megamod.common.text import canonical, listed, shorten
from megamod.modules.modprobe_d import ModprobeConfig, Option
from megamod.modules.tree import ModuleTree
from megamod.prelink.member import Member
from megamod.prelink.parameter_kinds import ParameterKind, find_parameter, parameter_kinds
from megamod.prelink.parameter_values import expectation, takes
from megamod.prelink.read import read_member

_EVERYBODYS = ("async_probe", "dyndbg")
"""Parameters of every module (kernel/module/main.c unknown_module_param_cb()); in a megamodule they would be those of
all members."""


def parameters_of(member: Member) -> list[str]:
    """The names of a module's parameters, as its __param table has them."""
    return [one.name for one in parameter_kinds(member)]


def prefixes_of(members: Iterable[Member]) -> tuple[str, ...]:
    """Prefixes that members fix for their parameters themselves (mmc_block: ``mmcblk.perdev_minors``)."""
    return tuple(sorted({n.split(".", 1)[0] for member in members for n in parameters_of(member) if "." in n}))


def usable_options(
    options: Iterable[Option], members: Mapping[str, Member]
) -> tuple[tuple[Option, ...], tuple[str, ...]]:
    """*options* without those of *members* that the kernel would not take, and notes about these.

    Raises MegamodError for the first one that the profile has itself. What modprobe.d has is left out: for a module on
    its own the kernel passes over a parameter that the module does not have, and refuses that module alone for a value.
    """
    kept: list[Option] = []
    wrong: dict[str, list[str]] = {}
    for option in options:
        problem = _problem(option, members[option.module]) if option.module in members else None
        if problem is None:
            kept.append(option)
            continue
        message, hint, what = problem
        if not option.lenient:
            raise fail(option.location, message, hint)
        wrong.setdefault(what, []).append(f"{_place(option.location)}: {message}")
    return tuple(kept), tuple(f"{what}: {listed(found, separator='; ')}" for what, found in wrong.items())


def option_notes(config: ModprobeConfig, tree: ModuleTree, names: Iterable[str]) -> tuple[str, ...]:
    """What usable_options() would say of modprobe.d's options of the modules *names*, as far as these can be read."""
    inside = {option.module for option in config.options}.intersection(names)
    members: dict[str, Member] = {}
    for name in sorted(inside & tree.modules.keys()):
        path = tree.modules[name].path
        with contextlib.suppress(MegamodError):
            members[name] = read_member(read_module_bytes(path), file=path.name, lenient=True)
    return usable_options((option for option in config.options if option.module in members), members)[1]


def _place(location: Location) -> str:
    return f"{location.file}:{location.line}"


def _problem(option: Option, member: Member) -> tuple[str, str, str] | None:
    """(message, hint, the kind of problem in words) if the option cannot be passed on."""
    if '"' in option.value or not option.value.replace("\t", " ").isprintable():
        return (
            f"{option.module}.{option.parameter}: {option.value[:80]!r}",
            "the kernel's argument parser knows no escapes: quotes and control characters cannot be passed",
            "values that cannot be passed to the kernel, left out",
        )
    kinds = parameter_kinds(member)
    found = find_parameter(kinds, option.parameter)
    if found is None:
        if canonical(option.parameter) in _EVERYBODYS:
            return None
        known = sorted({canonical(one.name).split(".")[-1] for one in kinds})
        near = difflib.get_close_matches(canonical(option.parameter), known, n=3)
        return (
            f"{option.module} has no parameter {shorten(option.parameter)}",
            f"nearest: {', '.join(near)}" if near else f"its parameters: {', '.join(known) or 'none'}",
            "parameters that the modules do not have, left out as the kernel would",
        )
    if takes(found.kind, None if option.bare else option.value, bits=member.architecture.bits):
        return None
    return (
        f"{option.module}.{option.parameter} "
        + ("needs a value" if option.bare else f"does not take `{shorten(option.value)}`"),
        f"it takes {expectation(found.kind)}",
        "values that the kernel would refuse, together with the module, left out",
    )


def own_setter(options: Iterable[Option], member: Member) -> str | None:
    """The parameter of *member* among *options* that it sets by a function of its own, None if there is none."""
    kinds = parameter_kinds(member)
    names = [option.parameter for option in options if option.module == member.name]
    return next((name for name in names if (found := find_parameter(kinds, name)) is not None and found.own), None)


def arguments(
    options: Sequence[Option], members: Mapping[str, Member], names: Iterable[str], *, merged: bool
) -> tuple[str, ...]:
    """One word per option of the modules *names*: ``member.parameter=value``, for a single ``parameter=value``."""
    inside = set(names)
    words = (_word(option, members[option.module], merged) for option in options if option.module in inside)
    return tuple(word for word in words if word is not None)


def _word(option: Option, member: Member, merged: bool) -> str | None:
    kinds = parameter_kinds(member)
    found = find_parameter(kinds, option.parameter)
    if found is not None:
        name = _name(found, member, merged)
        return name if option.bare else f"{name}={_quoted(option.value)}"
    assert canonical(option.parameter) in _EVERYBODYS
    if not merged:
        return f"{canonical(option.parameter)}={_quoted(option.value)}"
    if option.lenient:
        return None
    raise fail(
        option.location,
        f"{option.module} has no parameter {option.parameter} as a member",
        "it would be that of all members of the megamodule",
    )


def _name(parameter: ParameterKind, member: Member, merged: bool) -> str:
    return f"{member.name}.{parameter.name}" if merged and "." not in parameter.name else parameter.name


def _quoted(value: str) -> str:
    """As next_arg() reads it back (lib/cmdline.c): quotes around what has a blank."""
    return f'"{value}"' if any(c.isspace() for c in value) else value
