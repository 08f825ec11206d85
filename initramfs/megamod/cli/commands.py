"""What each command does, without click: from plain arguments to output and exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write_all
from megamod.common.progress import Steps, counted, human_bytes
from megamod.prelink.link import prelink_files
from megamod.prelink.options import PrelinkOptions


def prelink_command(
    *, modules: tuple[Path, ...], output: Path, map_file: Path | None, name: str | None, steps: Steps, **options: Any
) -> None:
    """``megamod prelink``: nothing is written before the link has been verified, then both files or none of them."""
    _check_names(modules, output, map_file)
    chosen = PrelinkOptions(name=name or _name_from(output), **options)
    with steps.step("prelink") as step:
        megamodule = prelink_files(modules, chosen)
        before, after = megamodule.relocations
        step.note(f"{counted(len(megamodule.members), 'member')}, {human_bytes(len(megamodule.data))}")
        step.note(f"relocations {before:,} → {after:,}")
    for note in megamodule.notes:
        steps.say(f"  note: {note}")
    files = [(output, megamodule.data)]
    if map_file is not None:
        files.append((map_file, json.dumps(megamodule.map, separators=(",", ":")).encode() + b"\n"))
    atomic_write_all(files)


def _check_names(modules: tuple[Path, ...], output: Path, map_file: Path | None) -> None:
    """No file is both read and written, or written twice."""
    taken = {os.path.realpath(module): "a module to link" for module in modules}
    for path in filter(None, (output, map_file)):
        place = os.path.realpath(path)
        if place in taken:
            raise MegamodError(f"{path}: cannot be written: is {taken[place]} too", hint="choose another name")
        taken[place] = "the output"


def _name_from(output: Path) -> str:
    """The module's name that a file name suggests, as kbuild would."""
    return output.name.removesuffix(".ko").replace("-", "_").replace(".", "_")


def uki_command(*, key: Path | None, cert: Path | None, **options: Any) -> None:
    """``megamod uki``."""
    from megamod.image.uki import SecureBootKey, write_uki

    if (key is None) != (cert is None):
        raise MegamodError("--key and --cert belong together", hint="give both, or neither for no signature")
    secure_boot = SecureBootKey(key=key, certificate=cert) if key and cert else None
    size = write_uki(secure_boot=secure_boot, **options)
    click.echo(f"{options['output']}: {human_bytes(size)}")


def boot_command(*, as_json: bool, budget: str | None, runs: int | None, junit: Path | None, **options: Any) -> int:
    """``megamod boot``: 0 when user space was reached, and in time if there is a budget."""
    if budget is not None:
        from megamod.cli.budget_command import budget_command

        return budget_command(budget=budget, runs=runs or 3, junit=junit, as_json=as_json, **options)
    if runs is not None or junit is not None:
        raise MegamodError(f"--{'junit' if runs is None else 'runs'}: only with --budget")
    from megamod.boot.timeline import boot_image

    report = boot_image(**options)
    click.echo(report.as_json() if as_json else report.as_table())
    return int(report.exit_status)


def demo_command(*, suite: str | None, keep: Path | None) -> int:
    """``megamod demo``."""
    from megamod.boot.demo import run_demo

    return int(run_demo(suite=suite, keep=keep))
