"""`megamod chart` and `megamod tune`: what a boot's time went into, and what could load later."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from megamod.cli.completing import kernels, modules
from megamod.cli.options import APPEND, DISKS, FILE, JSON, KERNEL, MEMORY, PROFILE, TIMEOUT, progress, say, steps_of
from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from megamod.analyze.chart.record import BootRecord

_BOOT_OPTIONS = ("vmlinuz", "kernel", "disks", "busybox", "append", "initcalls", "log")


@click.command()
@click.argument("logs", nargs=-1, type=FILE, metavar="[LOG|JSON]…")
@click.option("-o", "--output", type=FILE, metavar="OUT", help="Write the chart to OUT.svg, OUT.html or OUT.png.")
@click.option("--dark", is_flag=True, help="With -o: for a dark screen; SVG and HTML follow the screen otherwise.")
@click.option("--mark", "marks", multiple=True, metavar="TEXT", help="Mark when TEXT is first logged; repeatable.")
@click.option("--text", "as_text", is_flag=True, help="Print it as text: the default without -o, --json and --trace.")
@JSON
@click.option("--trace", type=FILE, metavar="OUT.json", help="Write a trace for Perfetto or Chrome.")
@click.option("--compare", "other", type=FILE, metavar="OTHER", help="Show what differs from OTHER, a log or JSON.")
@click.option("--boot", "image", type=FILE, metavar="IMAGE", help="Boot IMAGE under icount instead of reading logs.")
@click.option("--vmlinuz", type=FILE, metavar="FILE", help="With --boot: the kernel; default: the image's own.")
@click.option(
    "-k",
    "--kernel",
    metavar="KERNEL",
    shell_complete=kernels,
    help="With --boot: the kernel of this lib/modules/KVER folder.",
)
@click.option("--disk", "disks", multiple=True, type=FILE, metavar="FILE", help="With --boot: a raw disk image.")
@click.option("--busybox", is_flag=True, help="With --boot: a small root with busybox, fetched from Debian.")
@click.option("--append", default="", metavar="TEXT", help="With --boot: words for the kernel command line.")
@click.option("--initcalls", is_flag=True, help="With --boot: the kernel's own initcalls too, which slows it down.")
@click.option("--log", type=FILE, metavar="FILE", help="With --boot: keep the console here.")
@TIMEOUT
@MEMORY
def chart(
    *,
    logs: tuple[Path, ...],
    output: Path | None,
    dark: bool,
    marks: tuple[str, ...],
    as_text: bool,
    as_json: bool,
    trace: Path | None,
    other: Path | None,
    image: Path | None,
    **boot: Any,
) -> None:
    """Draw where a boot's time went, from its log.

    A LOG is a serial console, dmesg, a journal (journalctl -b -o json or export), systemd-analyze plot, status.json, or
    JSON of megamod boot or chart. Several files are one boot. Status 1 when a boot did not reach user space.
    """
    from megamod.analyze.chart.one_record import one_record
    from megamod.analyze.chart.perfetto import trace_json
    from megamod.analyze.chart.record_json import record_json
    from megamod.analyze.chart.record_source import read_record, read_source
    from megamod.analyze.chart.text import print_chart
    from megamod.common.files import atomic_write

    _check_output(output)
    status = 0
    if image is None:
        _no_boot_options(boot)
        if not logs:
            raise MegamodError("nothing to draw", hint="a log, status.json, or --boot IMAGE --vmlinuz FILE")
        record = one_record([read_source(log, texts=marks) for log in logs])
    else:
        if logs:
            raise MegamodError(f"{logs[0]}: --boot takes no logs", hint="--compare LOG compares the boot with one")
        record, status = _booted(image, marks=marks, **boot)
    if trace is not None:
        atomic_write(trace, trace_json(record).encode())
    if other is not None:
        _show_comparison(record, read_record(other), output=output, dark=dark, as_text=as_text, as_json=as_json)
        sys.exit(status)
    if output is not None:
        atomic_write(output, _picture(record, output, dark=dark))
    if as_json:
        sys.stdout.write(record_json(record))
    elif as_text or (output is None and trace is None):
        print_chart(record, sys.stdout)
    sys.exit(status)


_ENDINGS = (".svg", ".html", ".png")


def _check_output(output: Path | None) -> None:
    """Before a boot that takes minutes."""
    if output is not None and output.suffix not in _ENDINGS:
        raise MegamodError(f"{output}: the chart's form is not known", hint=f"end it in {', '.join(_ENDINGS)}")


def _picture(record: BootRecord, output: Path, *, dark: bool) -> bytes:
    from megamod.analyze.chart.html import html_chart
    from megamod.analyze.chart.svg import svg_chart

    if output.suffix == ".html":
        return html_chart(record, theme=_theme(output, dark=dark)).encode()
    picture = svg_chart(record, theme=_theme(output, dark=dark))
    return _png(picture) if output.suffix == ".png" else picture.encode()


def _png(picture: str) -> bytes:
    from megamod.analyze.chart.png import png_of

    return png_of(picture)


def _theme(output: Path, *, dark: bool) -> str:
    return "dark" if dark else "light" if output.suffix == ".png" else "auto"


def _no_boot_options(boot: dict[str, Any]) -> None:
    given = [name for name in _BOOT_OPTIONS if boot[name]]
    if given:
        raise MegamodError(f"--{given[0].replace('disks', 'disk')}: only with --boot IMAGE")


def _booted(
    image: Path, *, vmlinuz: Path | None, kernel: str | None, disks: tuple[Path, ...], busybox: bool, **options: Any
) -> tuple[BootRecord, int]:
    from megamod.analyze.chart.record_boot import boot_record
    from megamod.cli.defaults import kernel_image, with_busybox

    vmlinuz = kernel_image(image, kernel=kernel, vmlinuz=vmlinuz)
    with with_busybox(image, disks, wanted=busybox) as disks:
        record, report = boot_record(image, vmlinuz=vmlinuz, disks=disks, **options)
    return record, report.exit_status


def _show_comparison(
    record: BootRecord, other: BootRecord, *, output: Path | None, dark: bool, as_text: bool, as_json: bool
) -> None:
    import json

    from megamod.analyze.chart.compare import compare, comparison_dict, comparison_text
    from megamod.analyze.chart.record_json import record_dict
    from megamod.analyze.chart.svg_comparison import svg_comparison
    from megamod.common.files import atomic_write

    comparison = compare(record, other)
    if output is not None:
        if output.suffix == ".html":
            raise MegamodError(f"{output}: --compare draws SVG and PNG", hint="-o OUT.svg")
        picture = svg_comparison(comparison, theme=_theme(output, dark=dark))
        atomic_write(output, _png(picture) if output.suffix == ".png" else picture.encode())
    if as_json:
        value = {
            **comparison_dict(comparison),
            "records": [record_dict(each) for each in (comparison.before, comparison.after)],
        }
        sys.stdout.write(json.dumps(value, indent=1) + "\n")
    elif as_text or output is None:
        say(comparison_text(comparison))


@click.command()
@PROFILE
@KERNEL
@click.option("--vmlinuz", type=FILE, metavar="FILE", help="Boot this kernel, to measure and to prove the proposal.")
@DISKS
@APPEND
@click.option(
    "--need",
    "needs",
    multiple=True,
    metavar="NAME",
    shell_complete=modules,
    help="A module that must be there before user space.",
)
@click.option("--recorded", type=FILE, metavar="LOG", help="Use this recorded boot instead of making one.")
@click.option("--machine", type=FILE, metavar="DIR", help="What `detect --record` wrote of the machine that booted.")
@click.option("--log", type=FILE, metavar="FILE", help="Keep the console of the boot here, for --recorded.")
@click.option("--apply", is_flag=True, help="Change the profile.")
@TIMEOUT
@MEMORY
@progress
def tune(
    *,
    profile: str,
    kernel: str | None,
    vmlinuz: Path | None,
    disks: tuple[Path, ...],
    append: str,
    memory: int,
    timeout: float,
    needs: tuple[str, ...],
    apply: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Propose which critical modules could load later.

    What root and console do not need can be deferred; the proposal is a patch of PROFILE.
    """
    from megamod.analyze.tune.tune import Boots, proposal_text
    from megamod.analyze.tune.tune import tune as make_proposal
    from megamod.cli.defaults import chosen_tree
    from megamod.common.files import atomic_write
    from megamod.profile.schema import find_path, shipped_profiles

    path = find_path(profile)
    if apply and path in shipped_profiles().values():
        raise MegamodError(f"{path}: is shipped with megamod", hint=f"make one of your own: extends: {profile}")
    boots = None
    if vmlinuz is not None:
        boots = Boots(vmlinuz=vmlinuz, disks=disks, append=append, memory=memory, timeout=timeout)
    elif disks or append:
        raise MegamodError(f"--{'disk' if disks else 'append'}: only with --vmlinuz FILE")
    steps = steps_of(quiet=quiet, verbose=verbose)
    proposal = make_proposal(path, chosen_tree(kernel), boots=boots, needs=needs, steps=steps, **options)
    say(proposal_text(proposal))
    if apply and proposal.patch:
        mark = b"\xef\xbb\xbf" if path.read_bytes().startswith(b"\xef\xbb\xbf") else b""
        atomic_write(path, mark + proposal.text.encode())
        say(f"{path}: changed")
