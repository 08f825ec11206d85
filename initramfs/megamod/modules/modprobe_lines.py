"""The lines of modprobe.d as kmod cuts them, and words of arguments as the kernel cuts them.

Source: kmod_config_parse() (libkmod/libkmod-config.c), freadline_wrapped() and underscores() (shared/util.c), kmod 30
and 34; next_arg() (lib/cmdline.c), parse_args() (kernel/params.c), 6.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megamod.common.errors import Location
from megamod.common.text import shorten

COMMANDS = ("alias", "blacklist", "options", "install", "remove", "softdep", "weakdep")
_NOT_ANY_MORE = ("include", "config")
_TAKES_MORE = ("options", "install", "remove", "softdep", "weakdep")
_SPACE = " \t\n\v\f\r\xa0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that kmod takes: *name* with '-' written '_', *rest* as it stands behind the name."""

    command: str
    name: str
    rest: str
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that kmod passes over; *text* shortened for a message."""

    text: str
    location: Location


def read_lines(text: str, file: str) -> Iterator[Line | BadLine]:
    """The commands in *text*; comments and empty lines are neither."""
    for number, line in _joined(text):
        if not line or line.startswith("#"):
            continue
        command, rest = _token(line)
        if not command:
            continue
        place = Location(file=file, line=number, column=1)
        name, rest = _token(rest)
        plain = underscores(name) if name else None
        good = command in COMMANDS and plain is not None and (rest != "" or command not in _TAKES_MORE)
        if good and command == "alias":
            good = bool(module := _token(rest)[0]) and underscores(module) is not None
        if good and plain is not None:
            yield Line(command=command, name=plain, rest=rest, location=place)
        else:
            yield BadLine(text=shorten(line.strip()), location=place)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, line): a backslash joins the next line, and before any other letter it is nothing."""
    number = start = 1
    line, at = "", 0
    while at < len(text):
        letter = text[at]
        if letter == "\\" and at + 1 < len(text):
            at += 1
            if text[at] == "\n":
                number += 1
            else:
                line += text[at]
        elif letter == "\n":
            number += 1
            yield start, line.partition("\0")[0]
            start, line = number, ""
        elif letter != "\\":
            line += letter
        at += 1
    if line:
        yield start, line.partition("\0")[0]


def _token(text: str) -> tuple[str, str]:
    """The next word, and what follows the one blank or tab behind it (strtok_r())."""
    text = text.lstrip("\t ")
    end = min((at for at in (text.find(" "), text.find("\t")) if at >= 0), default=len(text))
    return text[:end], text[end + 1 :]


def underscores(name: str) -> str | None:
    """*name* with '-' written '_' outside of brackets, None for brackets that do not match."""
    found, at = "", 0
    while at < len(name):
        if name[at] == "]":
            return None
        if name[at] == "[":
            end = name.find("]", at)
            if end < 0:
                return None
            found, at = found + name[at:end] + "]", end + 1
            continue
        found, at = found + ("_" if name[at] == "-" else name[at]), at + 1
    return found


def argument_words(text: str) -> Iterator[tuple[str, str | None]]:
    """(parameter, value) of each word, the value None without an equals sign; ends at a lone `--`."""
    at = 0
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if at == len(text):
            return
        if text.startswith('"', at):
            inside = quoted = True
            at += 1
        else:
            inside = quoted = False
        start, equals = at, 0
        while at < len(text) and (inside or text[at] not in _SPACE):
            if text[at] == "=" and not equals and at > start:
                equals = at
            if text[at] == '"':
                inside = not inside
            at += 1
        end = at
        if equals:
            name, value = text[start:equals], text[equals + 1 : end]
            if value.startswith('"'):
                value = value[1:].removesuffix('"') if len(value) > 1 else ""
            elif quoted:
                value = value.removesuffix('"')
            yield name, value
        else:
            word = text[start:end].removesuffix('"') if quoted else text[start:end]
            if word == "--" and not quoted:
                return
            yield word, None
