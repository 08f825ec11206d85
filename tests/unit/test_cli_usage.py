"""The command line's form: help in sections, one line for every usage error, nothing heavy imported for either."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

from megamod.cli import main as cli

Run = Callable[..., tuple[int, str, str]]

HEAVY = """cryptography elftools fdt libarchive lz4 megamod.build megamod.modules megamod.prelink.link msgspec numpy
pefile rich yaml zstandard"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["megamod", *words])
        status = cli.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that lead to it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


ALL = dict(commands(cli.cli))
NAMES = [" ".join(path) for path in ALL]


def parameters(kind: type[click.Parameter], wanted: Callable[[Any], bool]) -> list[Any]:
    """(words of the command, parameter) of all parameters of that *kind* that are *wanted*."""
    found = [(path, each) for path, command in ALL.items() for each in command.params if isinstance(each, kind)]
    return [pytest.param(path, each, id=f"{' '.join(path)} {each.name}") for path, each in found if wanted(each)]


def words_for(path: tuple[str, ...], without: click.Parameter | None = None) -> list[str]:
    """The command with all that it requires, but *without*."""
    words = list(path)
    for each in ALL[path].params:
        if each.required and each is not without:
            value = str(each.type.choices[0]) if isinstance(each.type, click.Choice) else "x"
            words += [value] if isinstance(each, click.Argument) else [each.opts[-1], value]
    return words


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_one_line_and_status_2(run: Run, name: str) -> None:
    message = f"megamod: {name}: no such option --zzz (hint: megamod {name} --help)\n"
    assert run(*name.split(), "--zzz") == (2, "", message)


@pytest.mark.parametrize(("path", "argument"), parameters(click.Argument, lambda each: each.required))
def test_a_missing_argument_is_named(run: Run, path: tuple[str, ...], argument: click.Argument) -> None:
    status, out, err = run(*path)
    first = next(each for each in ALL[path].params if each.required)
    if first is argument:
        shown = argument.metavar or str(argument.name).upper()
        assert (status, out) == (2, "")
        assert err == f"megamod: {' '.join(path)}: {shown} is missing (hint: megamod {' '.join(path)} --help)\n"
    assert (status, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(("path", "option"), parameters(click.Option, lambda each: each.required))
def test_a_missing_option_is_named_with_its_value(run: Run, path: tuple[str, ...], option: click.Option) -> None:
    status, out, err = run(*words_for(path, option))
    assert (status, out) == (2, "")
    name = f"{max(option.opts, key=len)} {option.metavar}"
    assert err == f"megamod: {' '.join(path)}: {name} is missing (hint: megamod {' '.join(path)} --help)\n"


def takes_some_values_only(option: click.Option) -> bool:
    return not option.is_flag and not isinstance(option.type, (click.Path, click.types.StringParamType))


@pytest.mark.parametrize(("path", "option"), parameters(click.Option, takes_some_values_only))
def test_a_value_that_an_option_cannot_have_is_refused(run: Run, path: tuple[str, ...], option: click.Option) -> None:
    status, out, err = run(*words_for(path), option.opts[-1], "zzz")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"megamod: {' '.join(path)}: {max(option.opts, key=len)}")
    assert "zzz" in err
    assert "must be" in err or "is not one of" in err


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not any(each.nargs < 0 for each in ALL[tuple(name.split())].params)]
)
def test_an_argument_too_many_is_named(run: Run, name: str) -> None:
    path = tuple(name.split())
    given = len([each for each in ALL[path].params if isinstance(each, click.Argument) and not each.required])
    optional = [str(each.type.choices[0]) if isinstance(each.type, click.Choice) else "x" for each in ALL[path].params
                if isinstance(each, click.Argument) and not each.required]  # fmt: skip
    assert len(optional) == given
    status, out, err = run(*words_for(path), *optional, "zzz")
    assert (status, out) == (2, "")
    assert err == f"megamod: {name}: unexpected argument zzz (hint: megamod {name} --help)\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["buidl"], "no such command buidl (hint: did you mean build?)"),
        (["zzz"], "no such command zzz (hint: megamod --help)"),
        (["hook", "instal"], "hook: no such command instal (hint: did you mean install?)"),
        (["--zzz"], "no such option --zzz (hint: megamod --help)"),
        (["build", "--no-cach"], "build: no such option --no-cach (hint: did you mean --no-cache?)"),
        (["prelink", "-o"], "prelink: -o: requires an argument (hint: megamod prelink --help)"),
        (["prelink", "--quiet=3"], "prelink: --quiet: does not take a value (hint: megamod prelink --help)"),
        (["boot", "x", "--timeout", "-1"], "boot: --timeout -1: must be between 0 and 86400 seconds"
                                           " (hint: megamod boot --help)"),
        (["boot", "x", "--timeout", "nan"], "boot: --timeout nan: must be between 0 and 86400 seconds"
                                            " (hint: megamod boot --help)"),
        (["boot", "x", "--runs", "0"], "boot: --runs 0: must be between 1 and 100 (hint: megamod boot --help)"),
        (["chart", "--memory", "1"], "chart: --memory 1: must be between 16 and 1048576 MiB"
                                     " (hint: megamod chart --help)"),
        (["prelink", "-o", "o", "--unwind", "no", "x"], "prelink: --unwind: 'no' is not one of 'keep', 'compact',"
                                                        " 'drop' (hint: megamod prelink --help)"),
        (["prelink", "--\x1b[2J\n"], "prelink: no such option --\\x1b[2J (hint: megamod prelink --help)"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)  # fmt: skip
def test_a_usage_error_names_what_is_wrong_and_hints(run: Run, words: list[str], line: str) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert " ".join(err.split()) == f"megamod: {line}"
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["hook"], ["profile"]], ids=" ".join)
def test_a_group_alone_shows_its_help(run: Run, words: list[str]) -> None:
    _status, out, err = run(*words)
    assert (out + err).startswith(f"Usage: {' '.join(['megamod', *words])} [OPTIONS] COMMAND")


@pytest.mark.parametrize("group", [[], ["hook"], ["profile"]], ids=" ".join)
def test_the_help_lists_every_command_once_on_one_whole_line(run: Run, group: list[str]) -> None:
    status, out, err = run(*group, "--help")
    assert (status, err) == (0, "")
    listed = out[out.index("Show this message and exit.") :].splitlines()[1:]
    lines = [line for line in listed if line.startswith("  ")]
    names = {path[len(group)] for path in ALL if list(path[: len(group)]) == group}
    assert sorted(line.split()[0] for line in lines) == sorted(names)
    assert all(len(line) <= 80 and "..." not in line and not line.startswith("    ") for line in lines), lines


def test_the_help_has_sections_for_who_wants_what(run: Run) -> None:
    out = run("--help")[1]
    titles = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options:", "Everyday:", "Outputs:", "Looking into images and boots:", "For developers:"]


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_every_command_describes_every_option(run: Run, name: str) -> None:
    status, out, err = run(*name.split(), "--help")
    assert (status, err) == (0, "")
    undescribed = [
        each.name for each in ALL[tuple(name.split())].params if isinstance(each, click.Option) and not each.help
    ]
    assert undescribed == []
    assert all(
        max(each.opts, key=len) in out for each in ALL[tuple(name.split())].params if isinstance(each, click.Option)
    )


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version_is_printed(run: Run, word: str) -> None:
    status, out, err = run(word)
    assert (status, err) == (0, "")
    name, version = out.split()
    assert name == "megamod"
    assert version[0].isdigit()


@pytest.mark.parametrize("words", [["--help"], ["build", "--help"], ["-V"], ["build", "--zzz"]], ids=" ".join)
def test_help_and_usage_errors_import_nothing_heavy(words: list[str]) -> None:
    program = (
        f"import sys; sys.argv = {['megamod', *words]!r}; from megamod.cli.main import main; main();"
        f"print(*[name for name in {HEAVY.split()!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr.splitlines()[-1] == ""
