"""The command line: the groups in one list, and the one place where an error becomes a line on standard error.

Exit status: 0 done, 1 an error or a check that failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import click

from megamod.cli.booting import boot, demo
from megamod.cli.build import build, prelink
from megamod.cli.charts import chart, tune
from megamod.cli.completing import completion
from megamod.cli.debugging import debug, symbolize
from megamod.cli.groups import Commands
from megamod.cli.hooks import deploy, hook
from megamod.cli.inspecting import cat, inspect, list_files, unpack
from megamod.cli.installing import init, install
from megamod.cli.manual import help_command
from megamod.cli.options import say
from megamod.cli.outputs import append, bootimg, fit, uki
from megamod.cli.profiles import detect, explain, levels, profile
from megamod.cli.schemas import schema
from megamod.cli.signing import sign, verify
from megamod.common.errors import MegamodError
from megamod.common.signals import ended_by_signals
from megamod.common.trust import own_temporary_folder

_SECTIONS = {
    "Everyday": [help_command, init, build, boot, install, hook, deploy, detect, profile, explain],
    "Outputs": [uki, fit, bootimg, append, sign, verify],
    "Looking into images and boots": [inspect, list_files, cat, unpack, chart, tune, symbolize],
    "For developers": [prelink, debug, levels, schema, demo, completion],
}


@click.group(
    cls=Commands,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(None, "-V", "--version", package_name="megamod", message="%(prog)s %(version)s")
def cli() -> None:
    """Link a kernel's modules into one and boot it with one finit_module call."""


def main() -> int:
    """Entry point of the console script; returns the exit status."""
    with ended_by_signals():
        return _run()


def _run() -> int:
    try:
        own_temporary_folder()
        cli.main(prog_name="megamod", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()
            return error.exit_code
        from megamod.cli.usage import usage_error

        return _complain(str(usage_error(error)), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", 130)
    except MegamodError as error:
        return _complain(str(error), 1)
    except BrokenPipeError:
        # The reader of our output went away; not worth a word, but Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except MemoryError:
        return _complain("out of memory", 1)
    except Exception as error:
        if os.environ.get("MEGAMOD_DEBUG"):
            raise
        return _complain(
            f"internal error: {type(error).__name__}: {str(error)!r}; this is a defect of megamod "
            "(hint: MEGAMOD_DEBUG=1 shows where; please report it)",
            1,
        )
    return 0


def _complain(text: str, status: int) -> int:
    say(f"megamod: {text}", err=True)
    return status
