"""The manual: man pages are those of the commands and sound, links lead somewhere, every command in a page parses."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from megamod.cli import man_pages
from megamod.cli.main import cli
from megamod.cli.manual import pages

TOP = Path(__file__).parents[2]
DOCS = TOP / "initramfs/docs"
MAN = DOCS / "man"
MARKDOWN = [TOP / "README.md", *sorted(DOCS.glob("*.md"))]
PAGES = man_pages.man_pages()


def test_every_command_has_a_man_page_and_no_page_is_left_over() -> None:
    written = {path.name for path in MAN.rglob("*.[158]")}
    assert written == {"megamod.1", "megamod-profile.5", "megamod-ctl.8"} | {
        f"megamod-{name}.1" for name in cli.commands
    }
    assert written == PAGES.keys()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_man_page_is_that_of_the_command(name: str) -> None:
    """Else: python -m megamod.cli.man_pages initramfs/docs/man."""
    # Before 8.2 click writes a choice that may be left out in two pairs of brackets.
    page = re.sub(r"\[\[(.*?)\]\]", r"[\1]", PAGES[name])
    assert (MAN / f"man{name[-1]}" / name).read_text() == page


def test_mandoc_and_man_have_nothing_to_say_about_the_pages(tool: Callable[..., str]) -> None:
    files = sorted(MAN.rglob("*.[158]"))
    lint = [tool("mandoc", package="mandoc"), "-T", "lint", "-W", "warning", *map(str, files)]
    assert subprocess.run(lint, capture_output=True, text=True, check=False).stdout == ""
    for file in files:
        command = [tool("man", package="man-db"), "--warnings", "-E", "UTF-8", "-l", str(file)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "SEE ALSO" in done.stdout


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_links_and_anchors_of_a_page_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if "://" in target:
            continue
        other = (page.parent / target) if target else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), f"{target}#{anchor}"


def test_every_page_is_in_the_contents_and_is_a_topic() -> None:
    names = {path.stem for path in DOCS.glob("*.md")} - {"README"}
    assert {page.path.stem for page in pages().values()} == names | {"README"}
    assert pages()["profiles"].path == TOP / "profiles/README.md"


def commands() -> Iterator[tuple[str, str]]:
    """Page and line of each call of megamod in a code block."""
    for page in MARKDOWN:
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                for part in re.split(r" (?:\||&&|>|<|2>) ?", line.split("  #")[0]):
                    if re.match(r"(?:sudo )?(?:\S*/)?megamod ", part):
                        yield page.name, part.strip()


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_a_command_in_the_manual_is_one_that_the_program_takes(page: str, line: str) -> None:
    words = shlex.split(line.removeprefix("sudo "))[1:]
    command: click.Command = cli
    name = "megamod"
    while isinstance(command, click.Group):
        if words[0].startswith("-"):
            return
        name = f"{name} {words[0]}"
        command = command.commands[words.pop(0)]
    command.make_context(name, words)  # raises click.UsageError


def test_the_manual_has_commands() -> None:
    assert len(set(commands())) > 15


def test_help_shows_pages_and_commands_and_knows_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["help"], standalone_mode=False)
    assert re.search(r"^boards +Cameras", capsys.readouterr().out, re.MULTILINE)
    cli.main(["help", "reference"], standalone_mode=False)
    assert capsys.readouterr().out == (DOCS / "reference.md").read_text()
    cli.main(["help", "build"], prog_name="megamod", standalone_mode=False)
    assert capsys.readouterr().out.startswith("Usage: megamod build ")
    with pytest.raises(Exception, match="no page or command is called bords") as caught:
        cli.main(["help", "bords"], standalone_mode=False)
    assert "did you mean boards?" in str(caught.value)
