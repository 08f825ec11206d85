"""What the command groups share: types of values, options that several commands have, and progress lines."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from megamod.cli.completing import kernels, profiles
from megamod.common.text import printable_lines

if TYPE_CHECKING:
    from megamod.common.progress import Steps

_F = TypeVar("_F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)
_EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)
_KERNEL_FILES = {
    "vmlinuz": "The kernel's image; default: near the modules.",
    "config": "The kernel's configuration; default: near the modules, or in the image.",
    "system_map": "The kernel's System.map, from which exports are read.",
    "symvers": "The kernel's Module.symvers, from which exports are read.",
}
PROFILE = click.argument("profile", shell_complete=profiles)
DAY = 86400


class BadValue(click.BadParameter):
    """A value that is outside its range: *value* as it was given, and what would be right."""

    def __init__(self, value: object, message: str, ctx: click.Context | None, param: click.Parameter | None) -> None:
        super().__init__(message, ctx=ctx, param=param)
        self.value = value


class Number(click.ParamType):  # type: ignore[type-arg]
    """A number from *low* to *high*, both excluded for seconds, which may have a fraction."""

    name = "number"

    def __init__(self, low: int, high: int, unit: str = "") -> None:
        self.low, self.high, self.unit = low, high, unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | int:
        """The number; click calls this for values of the command line and for defaults."""
        fits = False
        number: float | int = 0
        try:
            number = float(value) if self.unit == "seconds" else int(value)
            fits = self.low < number < self.high if self.unit == "seconds" else self.low <= number <= self.high
        except ValueError:
            pass
        if not fits:
            unit = f" {self.unit}" if self.unit else ""
            raise BadValue(value, f"must be between {self.low} and {self.high}{unit}", ctx, param)
        return number


class Address(click.ParamType):  # type: ignore[type-arg]
    """An address of 32 bits, decimal or with 0x."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The address."""
        try:
            number = int(str(value), 0)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 32:
            raise BadValue(value, "must be a 32-bit address such as 0x40200000", ctx, param)
        return number


def progress(function: _F) -> _F:
    """-q and -v, which become the argument *steps*."""
    function = click.option("-v", "--verbose", is_flag=True, help="Print what was chosen and found, too.")(function)
    return click.option("-q", "--quiet", is_flag=True, help="Print errors only.")(function)


def steps_of(*, quiet: bool, verbose: bool) -> Steps:
    """Progress lines on standard error."""
    from megamod.common.progress import Steps

    return Steps(sys.stderr, quiet=quiet, verbose=verbose)


def say(text: str, *, err: bool = False) -> None:
    """Print lines; what stands in them may come from anywhere, and nothing of it acts on the terminal."""
    click.echo(printable_lines(text), err=err)


KERNEL = click.option(
    "-k",
    "--kernel",
    metavar="KERNEL",
    shell_complete=kernels,
    help="A lib/modules/KVER folder, a release of this machine, or debian:SUITE[:ARCH]; default: the running kernel.",
)
KERNELS = click.option(
    "-k",
    "--kernel",
    "kernels",
    multiple=True,
    metavar="KERNEL",
    shell_complete=kernels,
    help="A lib/modules/KVER folder, a release of this machine, or debian:SUITE[:ARCH]; default: the running kernel. "
    "Repeated: a folder with more modules for the same kernel.",
)


def kernel_files(*fields: str) -> Callable[[_F], _F]:
    """The options that name the kernel's own files (default: all), which become the argument *named*: path by field of
    KernelFiles."""
    chosen = fields or tuple(_KERNEL_FILES)

    def decorate(function: _F) -> _F:
        @functools.wraps(function)
        def with_named(*words: Any, **options: Any) -> Any:
            found = {field: options.pop(field) for field in chosen}
            return function(*words, named={field: path for field, path in found.items() if path is not None}, **options)

        for field in reversed(chosen):
            option = click.option(
                f"--{field.replace('_', '-')}", type=_EXISTING, metavar="FILE", help=_KERNEL_FILES[field]
            )
            with_named = option(with_named)
        return with_named  # type: ignore[return-value]

    return decorate


ROOT = click.option("--root", type=FILE, default="/", metavar="DIR", help="The system to work on; default: this one.")
DISKS = click.option("--disk", "disks", multiple=True, type=FILE, metavar="FILE", help="A raw disk image; repeatable.")
BUSYBOX = click.option("--busybox", is_flag=True, help="Boot from a small root with busybox, fetched from Debian.")
APPEND = click.option("--append", default="", metavar="TEXT", help="Words for the kernel command line.")
TIMEOUT = click.option(
    "--timeout",
    type=Number(0, DAY, "seconds"),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Stop the guest after this many seconds.",
)
MEMORY = click.option(
    "--memory",
    type=Number(16, 1 << 20, "MiB"),
    default=512,
    show_default=True,
    metavar="MIB",
    help="The guest's memory.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def word_of(words: type[StrEnum]) -> click.Choice[str]:
    """One of the *words* of a choice, for an option's type; the command makes the enum's member of it."""
    return click.Choice([word.value for word in words])
