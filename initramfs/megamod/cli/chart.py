"""click declarations of `megamod chart` and `megamod tune`; `initramfs/cli.py` adds them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("logs", nargs=-1, type=_FILE, metavar="[LOG|JSON]…")
@click.option("-o", "--output", type=_FILE, metavar="OUT.svg", help="Write the chart here, as SVG.")
@click.option("--text", "as_text", is_flag=True, help="Print it as text; so it is without -o, --json and --trace.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--trace", type=_FILE, metavar="OUT.json", help="Write a trace for Perfetto or Chrome.")
@click.option("--compare", "other", type=_FILE, metavar="OTHER", help="Say what OTHER, a log or JSON, has differently.")
@click.option("--boot", "image", type=_FILE, metavar="IMAGE", help="Boot IMAGE under icount instead of reading logs.")
@click.option("--vmlinuz", type=_FILE, metavar="FILE", help="With --boot: the kernel.")
@click.option("--disk", "disks", multiple=True, type=_FILE, metavar="FILE", help="With --boot: a raw disk image.")
@click.option("--append", default="", metavar="TEXT", help="With --boot: words for the kernel command line.")
@click.option("--initcalls", is_flag=True, help="With --boot: the kernel's own initcalls too, which slows it down.")
@click.option("--log", type=_FILE, metavar="FILE", help="With --boot: keep the console here.")
@click.option("--timeout", type=float, default=120.0, show_default=True, metavar="S", help="With --boot.")
@click.option("--memory", type=int, default=512, show_default=True, metavar="MIB", help="With --boot.")
def chart(**options: Any) -> None:
    """Draw where a boot's time went: from a serial log, dmesg, status.json, JSON of megamod boot, or a boot."""
    from megamod.cli.chart_command import chart_command

    sys.exit(chart_command(**options))


@click.command()
@click.argument("profile")
@click.option("-k", "--kernel", required=True, help="A lib/modules/KVER folder, or a release name of this machine.")
@click.option("--vmlinuz", type=_FILE, metavar="FILE", help="The kernel to boot, to look and to prove.")
@click.option(
    "--disk", "disks", multiple=True, type=_FILE, metavar="FILE", help="A raw disk image; the first is the root."
)
@click.option("--append", default="", metavar="TEXT", help="Words for the kernel command line.")
@click.option("--need", "needs", multiple=True, metavar="NAME", help="A module that must be there before user space.")
@click.option("--recorded", type=_FILE, metavar="LOG", help="Look at this recorded boot instead of making one.")
@click.option("--machine", type=_FILE, metavar="DIR", help="What `detect --record` wrote of the machine that booted.")
@click.option("--log", type=_FILE, metavar="FILE", help="Keep the console of the boot here, for --recorded.")
@click.option("--apply", is_flag=True, help="Change the profile.")
@click.option("--timeout", type=float, default=120.0, show_default=True, metavar="S", help="Give up after so long.")
@click.option("--memory", type=int, default=512, show_default=True, metavar="MIB", help="The guest's memory.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def tune(quiet: bool, **options: Any) -> None:
    """Find what PROFILE's critical stage does not need for root and console, and propose to load it later."""
    from megamod.cli.tune_command import tune_command
    from megamod.common.progress import Steps

    sys.exit(tune_command(steps=Steps(sys.stderr, quiet=quiet), **options))
