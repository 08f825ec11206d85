"""The command line: click declarations, one call each, and the one place where errors become a line on stderr."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from megamod.profiles.errors import MegamodError

if TYPE_CHECKING:
    from megamod.initramfs.steps import Steps

_FILE = click.Path(path_type=Path)
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _load(module: str) -> Any:
    """Import at the call, so that ``megamod --help`` does not wait for numpy."""
    return import_module(f"megamod.initramfs.{module}")


def _steps(quiet: bool) -> Steps:
    steps: Steps = _load("steps").Steps(sys.stderr, quiet=quiet)
    return steps


@click.group(context_settings=_SETTINGS)
@click.version_option(package_name="megamod")
def cli() -> None:
    """Link a kernel's modules into one, and boot it with a single finit_module call."""


@cli.command()
@click.argument("modules", nargs=-1, required=True, type=_FILE, metavar="MODULE.ko…")
@click.option("-o", "--output", required=True, type=_FILE, metavar="OUT.ko", help="Write the megamodule here.")
@click.option("--map", "map_file", type=_FILE, metavar="FILE", help="Write where each member's sections went, as JSON.")
@click.option("--name", metavar="NAME", help="The module's name; default: from OUT.ko.")
@click.option("--unwind", type=click.Choice(["keep", "compact", "drop"]), default="keep", help="ORC tables.")
@click.option("--tracing", type=click.Choice(["off", "keep"]), default="off", help="Tables that ftrace reads.")
@click.option("--symbols", type=click.Choice(["keep", "trim"]), default="keep", show_default=True, help="Symbol table.")
@click.option("--static-calls", type=click.Choice(["trampoline", "patch"]), default="trampoline", show_default=True)
@click.option("--allow-taint", is_flag=True, help="Accept staging and out-of-tree members.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def prelink(quiet: bool, **options: Any) -> None:
    """Link MODULE.ko… (plain, .gz, .xz, .zst) into one megamodule."""
    _load("commands").prelink_command(steps=_steps(quiet), **options)


@cli.command()
@click.argument("profile")
@click.option("-k", "--kernel", required=True, help="A lib/modules/KVER folder, or a release name of this machine.")
@click.option("-o", "--output", required=True, type=_FILE, metavar="IMAGE", help="Write the image here.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def build(profile: str, kernel: str, output: Path, quiet: bool) -> None:
    """Build an initramfs image from PROFILE, a file or the name of a shipped profile."""
    _load("commands").build_command(profile=profile, kernel=kernel, output=output, steps=_steps(quiet))


@cli.command()
@click.argument("file", type=_FILE, metavar="IMAGE|FILE.ko")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(file: Path, as_json: bool) -> None:
    """Show what is in an image or a megamodule: stages, members in init order, singles, sizes."""
    inspection = _load("inspection").inspect_file(file)
    click.echo(inspection.as_json() if as_json else inspection.as_text())


@cli.command()
@click.argument("image", type=_FILE)
@click.option("--vmlinuz", required=True, type=_FILE, metavar="FILE", help="The kernel to boot.")
@click.option("--disk", "disks", multiple=True, type=_FILE, metavar="FILE", help="A raw disk image, as virtio disk.")
@click.option("--append", default="", metavar="TEXT", help="Words for the kernel command line.")
@click.option("--icount", is_flag=True, help="Count instructions: guest time is the same on every machine.")
@click.option("--timeout", type=float, default=120.0, show_default=True, metavar="S", help="Give up after so long.")
@click.option("--memory", type=int, default=512, show_default=True, metavar="MIB", help="The guest's memory.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def boot(as_json: bool, **options: Any) -> None:
    """Boot IMAGE in QEMU and print the timeline and a list of failures."""
    sys.exit(_load("commands").boot_command(as_json=as_json, **options))


@cli.command()
@click.option("--suite", default=None, metavar="SUITE", help="Download this Debian suite's kernel, not this host's.")
@click.option("--keep", type=_FILE, metavar="FOLDER", help="Keep image, disk and kernel log here.")
def demo(suite: str | None, keep: Path | None) -> None:
    """Build the vm profile, boot it on a small ext4 root, and compare with loading the modules one by one."""
    sys.exit(_load("commands").demo_command(suite=suite, keep=keep))


@cli.command()
@click.argument("profile")
@click.argument("module", required=False)
@click.option("-k", "--kernel", required=True, help="A lib/modules/KVER folder, or a release name of this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(**options: Any) -> None:
    """Say why each module of PROFILE is in its stage, alone or left out; with MODULE all that is known of that one."""
    click.echo(_load("profilecommands").explain_command(**options))


@cli.command()
@click.option("-k", "--kernel", help="Draw the profile for this kernel; default: the running one.")
@click.option(
    "--sysfs", type=_FILE, metavar="DIR", help="Look at the machine that was recorded in DIR, not at this one."
)
@click.option("--record", type=_FILE, metavar="DIR", help="Write what is looked at to the new folder DIR instead.")
def detect(**options: Any) -> None:
    """Print a profile for this machine: what its root and console need, and, deferred, all else."""
    click.echo(_load("profilecommands").detect_command(**options))


@cli.group()
def profile() -> None:
    """Check profiles, list those that come with megamod, and describe them to an editor."""


@profile.command("check")
@click.argument("profile")
@click.option("-k", "--kernel", help="Select from the modules of this kernel too.")
def profile_check(**options: Any) -> None:
    """Check PROFILE, a file or the name of a shipped one, and say what is in it."""
    click.echo(_load("profilecommands").profile_check_command(**options))


@profile.command("list")
def profile_list() -> None:
    """List the shipped profiles."""
    click.echo(_load("profilecommands").profile_list_command())


@profile.command("schema")
def profile_schema() -> None:
    """Print the JSON Schema of profiles, with which editors complete and check."""
    click.echo(_load("profilecommands").profile_schema_command())


@cli.command()
@click.argument("source", type=_FILE)
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Write the table here; default: print it.")
def levels(**options: Any) -> None:
    """Make the table of initcall levels from SOURCE, a kernel source tree."""
    click.echo(_load("profilecommands").levels_command(**options))


def main() -> int:
    """Entry point of the console script; returns the exit status."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
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
            f"internal error: {type(error).__name__}: {json.dumps(str(error))}; this is a defect of megamod "
            "(hint: MEGAMOD_DEBUG=1 shows where; please report it)",
            1,
        )
    return 0


def _complain(text: str, status: int) -> int:
    click.echo(f"megamod: {text}", err=True)
    return status
