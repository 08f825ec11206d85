"""The man pages, from the commands themselves, the table of profile keys, and the tables of the manual.

`python -m megamod.cli.man_pages initramfs/docs/man` writes them all, and a test compares. They are in man(7), which
man-db, mandoc and groff read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from megamod.cli.groups import Commands
from megamod.cli.main import cli
from megamod.common.files import atomic_write
from megamod.common.host import data_folder
from megamod.profile.keys import Key
from megamod.profile.model import Profile, profile_keys
from megamod.profile.reference import default_words

_DATE = "2026-11-30"
"""Of the last change of what the pages say as a whole; the same sources give the same pages."""


def man_pages() -> dict[str, str]:
    """Name of the file → its text."""
    pages = {"megamod.1": _program()}
    for name, command in cli.commands.items():
        pages[f"megamod-{name}.1"] = _command(name, command)
    return pages | {"megamod-profile.5": _profile(), "megamod-ctl.8": _control()}


def _program() -> str:
    lines = [_head("megamod", 1, _summary(cli))]
    lines += [".SH SYNOPSIS", ".B megamod", ".RI [ OPTIONS ]", ".I COMMAND", ".RI [ ARGUMENTS ]"]
    lines += [".SH DESCRIPTION", *_paragraphs(_ABOUT), ".SH OPTIONS", *_options(cli, "megamod")]
    lines.append(".SH COMMANDS")
    for title, commands in cli.sections.items():
        lines.append(f".SS {_plain(title)}")
        for command in commands:
            lines += [".TP", f".BR megamod\\-{_plain(command.name or '')} (1)", _plain(_summary(command))]
    lines += [".SH EXIT STATUS", *_table("reference.md", "Exit statuses")]
    lines += [".SH ENVIRONMENT", *_table("reference.md", "Environment variables")]
    lines += [".SH FILES", *_table("reference.md", "Files")]
    lines += _see_also("megamod-build(1)", "megamod-profile(5)", "megamod-ctl(8)", "dracut(8)", "initramfs-tools(7)")
    return _joined(lines)


_ABOUT = """megamod links a kernel's modules into one relocatable module, packs it into an initramfs with a small static
loader that gives it to the kernel in one finit_module call, and lets a profile say which drivers must be there before
user space and which may come later.

It works with stock kernels and stock module files. `megamod help` shows the manual."""


def _command(name: str, command: click.Command) -> str:
    lines = [_head(f"megamod-{name}", 1, _summary(command)), ".SH SYNOPSIS"]
    path = f"megamod {name}"
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            lines += [*_synopsis(f"{path} {inner.name}", inner), ".br"]
        lines = [*lines[:-1], ".SH DESCRIPTION", *_description(command), ".SH COMMANDS"]
        for inner in command.commands.values():
            lines += [f".SS {_plain(str(inner.name))}", *_description(inner), *_options(inner, f"{path} {inner.name}")]
    else:
        lines += [*_synopsis(path, command), ".SH DESCRIPTION", *_description(command)]
        lines += [".SH OPTIONS", *_options(command, path)]
    lines += [".SH EXIT STATUS", *_table("reference.md", "Exit statuses")]
    more = ("megamod-profile(5)",) if _takes_profile(command) else ()
    return _joined([*lines, *_see_also("megamod(1)", *more)])


def _takes_profile(command: click.Command) -> bool:
    return any(parameter.name == "profile" for parameter in command.params) or command.name == "profile"


def _profile() -> str:
    keys = profile_keys(Profile)
    lines = [_head("megamod-profile", 5, "which kernel modules are loaded before user space, and which later")]
    lines += [
        ".SH DESCRIPTION",
        *_paragraphs(_PROFILE),
        ".SH EXAMPLE",
        ".EX",
        *map(_plain, _EXAMPLE.splitlines()),
        ".EE",
    ]
    lines += [".SH KEYS", *_keys(keys)]
    for place, inside in _inside(keys, ""):
        lines += [f".SS Keys of {_plain(place)}", *_keys(inside)]
    lines += [".SH SELECTORS", "Entries of a list of modules.", *_table("profiles", "Selectors")]
    return _joined([*lines, *_see_also("megamod(1)", "megamod-build(1)", "megamod-explain(1)", "megamod-detect(1)")])


_PROFILE = """A profile is a YAML file. It names the modules of the critical stage, which is loaded before user space,
and of deferred stages, which are loaded later. Dependencies come along.

`megamod profile list` lists the shipped profiles, `megamod profile check` checks a file, and `megamod help profiles`
has the rules in full."""

_EXAMPLE = """name: camera
critical:
  modules: [mmc_block, ext4]
deferred:
  - name: usb
    modules: [xhci_pci, usb_storage]
    after: {path: /run/camera/first-frame, timeout: 5s}
root: {from: cmdline}"""


def _keys(keys: Sequence[Key]) -> Iterator[str]:
    for key in keys:
        yield from (".TP", f".BR {_plain(key.name)} :", f"{_inline(key.help)}", ".br")
        yield f"Values: {_inline(key.values)}. Default: {_inline(default_words(key))}."


def _inside(keys: Sequence[Key], place: str) -> Iterator[tuple[str, Sequence[Key]]]:
    for key in keys:
        if key.inside:
            inside = list(key.inside)
            yield f"{place}{key.name}:", inside
            yield from _inside(inside, f"{place}{key.name}: ")


def _control() -> str:
    lines = [_head("megamod-ctl", 8, "look at and control the stages of a machine that megamod booted"), ".SH SYNOPSIS"]
    for call in ("status [--json]", "lsmod", "trigger STAGE", "take-over"):
        lines += [".B /run/megamod/ctl", ".RB [ \\-\\-at", ".IR FOLDER ]", f".B {_plain(call)}", ".br"]
    lines = [*lines[:-1], ".SH DESCRIPTION", *_paragraphs(_CONTROL)]
    lines += [".SH COMMANDS", *_table("target.md", "megamod-ctl"), ".SH OPTIONS", ".TP", ".BI \\-\\-at\\~ FOLDER"]
    lines += ["Control the deployment whose state is in", ".IR FOLDER ,", "such as /run/megamod/deploy."]
    lines += [".SH KERNEL COMMAND LINE", *_table("target.md", "Kernel command line")]
    lines += [".SH FILES", *_table("target.md", "Files")]
    lines += [".SH EXIT STATUS", "0 done, 1 not done, with a message, 2 for a call that it does not know."]
    return _joined([*lines, *_see_also("megamod(1)", "megamod-deploy(1)", "megamod-profile(5)")])


_CONTROL = """/run/megamod/ctl is a static program that comes with the image. The stage keeper, which loads deferred
stages, is the same program.

Members of a megamodule are not in /proc/modules; lsmod of this program lists them."""


def _head(name: str, section: int, summary: str) -> str:
    title = f'.TH {_plain(name.upper())} {section} {_DATE} megamod "megamod manual"'
    return f"{title}\n.SH NAME\n{_plain(name)} \\- {_plain(summary[:1].lower() + summary[1:])}"


def _summary(command: click.Command) -> str:
    return (command.help or "").split("\n", 1)[0].removesuffix(".")


def _synopsis(path: str, command: click.Command) -> Iterator[str]:
    with click.Context(command, info_name=path, help_option_names=["-h", "--help"]) as ctx:
        yield f".B {_plain(path)}"
        for piece in command.collect_usage_pieces(ctx):
            yield f".RI [ {_plain(piece[1:-1])} ]" if piece == "[OPTIONS]" else f".I {_plain(piece)}"


def _description(command: click.Command) -> list[str]:
    text = (
        re.sub(r"\A.*?\n\n", "", command.help or "", count=1, flags=re.DOTALL) if "\n\n" in (command.help or "") else ""
    )
    return _paragraphs(text or (command.help or ""))


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for part in text.replace("\b", "").split("\n\n"):
        lines += [".PP", _inline(" ".join(part.split()))] if part.strip() else []
    return lines[1:]


def _options(command: click.Command, path: str) -> Iterator[str]:
    with click.Context(command, info_name=path, help_option_names=["-h", "--help"]) as ctx:
        for parameter in command.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                yield from (".TP", f".B {_plain(record[0])}", _inline(record[1]))


def _table(page: str, heading: str) -> Iterator[str]:
    """The rows of the table under *heading* in a page of the manual: first cell and the others."""
    file = data_folder("profiles") / "README.md" if page == "profiles" else data_folder("docs") / page
    text = re.split(r"^#+ ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = (part for part in text if part.split("\n", 1)[0] == heading)
    rows = [
        line.replace("\\|", "\0").strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")
    ]
    for cells in rows[2:]:
        first, *rest = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell.replace("\0", "|")) for cell in cells)
        yield from (".TP", f".B {_plain(first.replace('`', ''))}", _inline(". ".join(rest)))


def _see_also(*pages: str) -> list[str]:
    found = [f".BR {_plain(page[:-3])} {page[-3:]}" for page in pages]
    return [".SH SEE ALSO", *(f"{line} ," for line in found[:-1]), found[-1]]


def _inline(text: str) -> str:
    """Words between backquotes in bold."""
    parts = text.split("`")
    return _safe(
        "".join(f"\\fB{_escaped(part)}\\fR" if number % 2 else _escaped(part) for number, part in enumerate(parts))
    )


def _plain(text: str) -> str:
    return _safe(_escaped(text))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("~", "\\(ti").replace("^", "\\(ha")


def _safe(text: str) -> str:
    """A line that begins with a dot or a quote would be a command."""
    return f"\\&{text}" if text[:1] in (".", "'") else text


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write all pages into a folder, in man1, man5 and man8."""
    assert isinstance(cli, Commands)
    (folder,) = map(Path, arguments)
    for name, text in man_pages().items():
        path = folder / f"man{name[-1]}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
