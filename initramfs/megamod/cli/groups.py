"""A click group that lists its commands in sections, one whole line each, and knows the nearest name of a wrong one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class UnknownCommand(click.UsageError):
    """A command that the group does not have; *known* are those that it has."""

    def __init__(self, name: str, known: Sequence[str], ctx: click.Context) -> None:
        super().__init__(f"no such command {name}", ctx)
        self.name, self.known = name, known


class Commands(click.Group):
    """*sections*: title → commands, in the order of the help; without, one section of all."""

    def __init__(self, *words: Any, sections: Mapping[str, Sequence[click.Command]] | None = None, **rest: Any) -> None:
        super().__init__(*words, **rest)
        self.sections = sections or {}
        for commands in self.sections.values():
            for command in commands:
                self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the group's help: the first line of each docstring, uncut."""
        sections = self.sections or {"Commands": list(self.commands.values())}
        width = max(len(name) for name in self.commands)
        for title, commands in sections.items():
            with formatter.section(title):
                rows = [(f"{command.name:<{width}}", _first_line(command)) for command in commands]
                formatter.write_dl(rows, col_spacing=2)

    def invoke(self, ctx: click.Context) -> Any:
        """click's; an error of the parser gets the command that it is about."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            name = ctx.invoked_subcommand
            if error.ctx is None and name is not None and name in self.commands:
                error.ctx = click.Context(self.commands[name], parent=ctx, info_name=name)
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """click's, with an error that keeps the name and the names that would be right."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise UnknownCommand(args[0], sorted(self.commands), ctx)
        return super().resolve_command(ctx, args)


def _first_line(command: click.Command) -> str:
    return (command.help or "").split("\n", 1)[0].removesuffix(".")
