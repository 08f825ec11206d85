"""Module options → the argument text of a load, checked against the parameters that the modules really have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from megamod.common.errors import MegamodError
from megamod.modules.modprobe_d import Option
from megamod.prelink.member import Member
from megamod.prelink.parameters import parameter_names


def parameters_of(member: Member) -> list[str]:
    """The names of a module's parameters, as its __param table has them."""
    return [name for s in member.sections if s.name == "__param" and s.size for name in parameter_names(member, s)]


def prefixes_of(members: Iterable[Member]) -> tuple[str, ...]:
    """Prefixes that members fix for their parameters themselves (mmc_block: ``mmcblk.perdev_minors``)."""
    return tuple(sorted({n.split(".", 1)[0] for member in members for n in parameters_of(member) if "." in n}))


def arguments(
    options: Sequence[Option], members: Mapping[str, Member], names: Iterable[str], *, merged: bool
) -> tuple[str, ...]:
    """One word per option of the modules *names*: ``member.parameter=value``, for a single ``parameter=value``."""
    inside = set(names)
    return tuple(_word(option, members[option.module], merged) for option in options if option.module in inside)


def _word(option: Option, member: Member, merged: bool) -> str:
    if '"' in option.value or not option.value.replace("\t", " ").isprintable():
        raise MegamodError(
            f"{option.location}: {option.module}.{option.parameter}: {option.value[:80]!r}",
            hint="the kernel's argument parser knows no escapes: quotes and control characters cannot be passed",
        )
    known = {name.replace("-", "_").split(".")[-1]: name for name in parameters_of(member)}
    wanted = option.parameter.replace("-", "_")
    # async_probe and dyndbg belong to every module (kernel/module/main.c unknown_module_param_cb()); in a megamodule
    # they would name all members.
    if wanted in ("async_probe", "dyndbg") and not merged:
        return f"{wanted}={_quoted(option.value)}"
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=3)
        hint = f"nearest: {', '.join(near)}" if near else f"its parameters: {', '.join(sorted(known)) or 'none'}"
        raise MegamodError(f"{option.location}: {option.module} has no parameter {option.parameter}", hint=hint)
    name = known[wanted]
    if merged and "." not in name:
        name = f"{member.name}.{name}"
    return f"{name}={_quoted(option.value)}"


def _quoted(value: str) -> str:
    """As next_arg() reads it back (lib/cmdline.c): quotes around what has a blank."""
    return f'"{value}"' if any(c.isspace() for c in value) else value
