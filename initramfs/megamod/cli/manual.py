"""`megamod help`: the manual, which is installed with the program, and the commands' own help."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from megamod.cli.completing import offers
from megamod.common.errors import MegamodError


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the manual: *title* is its first heading, *summary* the first sentence under it."""

    path: Path
    title: str
    summary: str


def pages() -> dict[str, Page]:
    """Topic → page, in the order of the manual's table of contents."""
    from megamod.common.host import data_folder

    folder = data_folder("docs")
    contents = (folder / "README.md").read_text(encoding="utf-8")
    found: dict[str, Page] = {}
    for name, target in re.findall(r"\[([\w-]+)\]\(([\w/.-]+\.md)\)", contents):
        # The reference of profiles stands with the profiles.
        profiles = target == "../../profiles/README.md"
        found[name] = _page(data_folder("profiles") / "README.md" if profiles else folder / target)
    return found


def _page(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    title, _, rest = text.partition("\n")
    paragraph = next((part for part in rest.split("\n\n") if part.strip()), "")
    summary = " ".join(paragraph.split())
    return Page(path=path, title=title.removeprefix("# "), summary=summary.split(". ")[0].rstrip("."))


def _topics(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The pages of the manual and the commands."""
    root = ctx.find_root().command
    commands = dict.fromkeys(root.list_commands(ctx), "command") if isinstance(root, click.Group) else {}
    return offers({**commands, **{name: page.title for name, page in pages().items()}}, incomplete, "")


@click.command("help")
@click.argument("topic", required=False, metavar="[TOPIC]", shell_complete=_topics)
@click.pass_context
def help_command(ctx: click.Context, *, topic: str | None) -> None:
    """Show a page of the manual, or list them all.

    TOPIC is a page or a command. The same pages are in initramfs/docs of the sources.
    """
    from megamod.common.text import did_you_mean, table

    known = pages()
    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    if topic is None:
        rows = [[name, page.title] for name, page in known.items()]
        click.echo(table(["page", "about"], rows, left=2))
        click.echo("\nmegamod help PAGE shows one; megamod help COMMAND and man megamod-COMMAND describe a command.")
    elif topic in known:
        _show(known[topic].path.read_text(encoding="utf-8"))
    elif topic in root.commands:
        command = root.commands[topic]
        with click.Context(command, info_name=topic, parent=ctx.find_root()) as inner:
            click.echo(command.get_help(inner))
    else:
        hint = did_you_mean(topic, [*known, *root.commands]) or "megamod help lists the pages"
        raise MegamodError(f"no page or command is called {topic}", hint=hint)


def _show(text: str) -> None:
    """On a terminal with weight and colour, in a pager; else as it is written."""
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(width=min(100, Console().width))
    with console.pager(styles=True):
        console.print(Markdown(text))
