"""click's usage errors in the form of all other errors: one line that names command, option and value, and a hint."""

from __future__ import annotations

import re

import click

from megamod.cli.groups import UnknownCommand
from megamod.cli.options import BadValue
from megamod.common.errors import MegamodError


def usage_error(error: click.UsageError) -> MegamodError:
    """*error* as an error of ours: ``build: no such option --foo (hint: megamod build --help)``."""
    path = error.ctx.command_path if error.ctx is not None else "megamod"
    message, hint = _words(error)
    command = path.removeprefix("megamod").strip()
    return MegamodError(f"{command}: {message}" if command else message, hint=hint or f"{path} --help")


def _words(error: click.UsageError) -> tuple[str, str | None]:
    if isinstance(error, UnknownCommand):
        from megamod.common.text import did_you_mean

        return error.message, did_you_mean(error.name, error.known)
    if isinstance(error, click.NoSuchOption):
        near = " or ".join(sorted(error.possibilities or ()))
        return f"no such option {error.option_name}", f"did you mean {near}?" if near else None
    if isinstance(error, click.MissingParameter):
        return f"{_name(error, metavar=True)} is missing", None
    if isinstance(error, BadValue):
        return f"{_name(error)} {error.value}: {error.message}", None
    if isinstance(error, click.BadParameter):
        return f"{_name(error)}: {_plain(error.message)}", None
    if isinstance(error, click.BadOptionUsage):
        return f"{error.option_name}: {_plain(re.sub(r'^Option .*? (?=requires|does)', '', error.message))}", None
    if extra := re.match(r"Got unexpected extra arguments? \((.*)\)", error.message):
        return f"unexpected argument {extra[1]}", None
    return _plain(error.message), None


def _name(error: click.BadParameter, *, metavar: bool = False) -> str:
    """The longest name of the option, with *metavar* that too, or the argument as the help calls it."""
    parameter = error.param
    if parameter is None:
        return str(error.param_hint or "an argument")
    if isinstance(parameter, click.Argument):
        return parameter.metavar or str(parameter.name).upper()
    option = max(parameter.opts, key=len)
    return f"{option} {parameter.metavar}" if metavar and getattr(parameter, "metavar", None) else option


def _plain(message: str) -> str:
    """click's sentence as the end of a line: no full stop, no capital at the front."""
    text = message.rstrip(".")
    return text if text[:2].isupper() else text[:1].lower() + text[1:]
