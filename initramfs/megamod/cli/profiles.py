"""`megamod profile`, `explain`, `detect` and `levels`: profiles, and what selects from a kernel's modules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from megamod.cli.completing import kernels, modules
from megamod.cli.groups import Commands
from megamod.cli.options import FILE, JSON, KERNEL, KERNELS, PROFILE, kernel_files, say

if TYPE_CHECKING:
    from megamod.modules.kernel_files import KernelFiles
    from megamod.profile.model import Profile


@click.group(cls=Commands)
def profile() -> None:
    """Check profiles, list the shipped ones, print their schema."""


@profile.command("check")
@PROFILE
@click.option(
    "-k", "--kernel", metavar="KERNEL", shell_complete=kernels, help="Select from the modules of this kernel too."
)
@kernel_files("vmlinuz", "config")
def profile_check(*, profile: str, kernel: str | None, named: dict[str, Path]) -> None:
    """Check a profile and summarize it.

    PROFILE is a file, or the name of a shipped one. With a kernel also what it selects from its modules; with a kernel
    or its configuration (a .config before anything is built will do) also whether that kernel can boot the image.
    """
    from megamod.build.plan import trigger_text
    from megamod.cli.defaults import chosen_tree
    from megamod.common.text import counted, table
    from megamod.modules.kernel_files import KernelFiles
    from megamod.profile.schema import find_profile
    from megamod.select.select import select

    checked = find_profile(profile)
    if kernel is None:
        fits = _fit_notes(checked, KernelFiles(folder=Path(), release="", **named)) if named else ()
        stages = [f"{stage.name} ({trigger_text(stage.trigger)})" for stage in checked.stages]
        say(f"{checked.source}: {checked.name}: {counted(len(stages), 'stage')}: {', '.join(stages)}")
        for note in fits:
            say(f"note: {note}")
        return
    tree = chosen_tree(kernel, named)
    selection = select(checked, tree)
    fits = _fit_notes(checked, tree.kernel_files)
    rows = [[s.name, trigger_text(s.trigger), str(len(s.modules))] for s in selection.stages]
    say(f"{checked.source}: {checked.name} on {selection.tree.release}")
    say(table(["stage", "loaded", "modules"], rows, left=2))
    for note in (*selection.notes, *fits):
        say(f"note: {note}")


def _fit_notes(profile: Profile, files: KernelFiles) -> tuple[str, ...]:
    """What the image of *profile* loses on the kernel of *files*; raises MegamodError if it cannot boot."""
    from megamod.build.choose_compression import check_method
    from megamod.build.kernel_fit import check_kernel
    from megamod.kernel.config import find_config

    config = find_config(files)
    check_method(profile.compress, config)
    return check_kernel(profile, config)


@profile.command("list")
def profile_list() -> None:
    """List the shipped profiles."""
    from megamod.common.text import table
    from megamod.profile.schema import shipped_profiles

    rows = [[name, _first_sentence(path)] for name, path in shipped_profiles().items()]
    say(table(["profile", "for"], rows, left=2))


def _first_sentence(path: Path) -> str:
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        comment.append(line[2:])
    return " ".join(comment).split(". ")[0].rstrip(".")


@profile.command("schema")
def profile_schema() -> None:
    """Print the JSON Schema of profiles, for editors."""
    import json

    from megamod.profile.reference import profile_schema

    say(json.dumps(profile_schema(), indent=2))


@click.command()
@PROFILE
@click.argument("module", required=False, shell_complete=modules)
@KERNELS
@kernel_files()
@JSON
def explain(
    *, profile: str, module: str | None, kernels: tuple[str, ...], named: dict[str, Path], as_json: bool
) -> None:
    """Show why each module of a profile is in its stage.

    Also why it is not merged or left out; with MODULE everything that is known about that one.
    """
    from megamod.build.explain import explain
    from megamod.cli.defaults import chosen_tree
    from megamod.profile.schema import find_profile

    tree = chosen_tree(kernels[0] if kernels else None, named, overlays=kernels[1:])
    explanation = explain(find_profile(profile), tree, module=module)
    say(explanation.as_json() if as_json else explanation.as_text())


@click.command()
@KERNEL
@click.option(
    "--sysfs", type=FILE, metavar="DIR", help="Look at the machine that was recorded in DIR, not at this one."
)
@click.option("--record", type=FILE, metavar="DIR", help="Write what is looked at to the new folder DIR instead.")
def detect(*, kernel: str | None, sysfs: Path | None, record: Path | None) -> None:
    """Write a profile for this machine, explaining every line.

    Critical is what its root and console need; everything else is deferred.
    """
    from dataclasses import replace

    from megamod.build.arguments import option_notes
    from megamod.cli.defaults import chosen_tree
    from megamod.machine.detect import detect
    from megamod.machine.detected_yaml import detected_profile
    from megamod.machine.machine import open_machine
    from megamod.machine.machine_recorder import recorded, write_record
    from megamod.modules.modprobe_d import host_config

    machine = open_machine(sysfs)
    if record is not None:
        count = write_record(recorded(machine), record)
        say(f"{record}: {count:,} {'entry' if count == 1 else 'entries'}")
        return
    tree = chosen_tree(kernel)
    found = detect(machine, tree)
    names = [one.name for one in (*found.critical, *found.deferred)]
    notes = option_notes(host_config(machine.root), tree, names)
    say(detected_profile(replace(found, notes=(*found.notes, *notes)), tree).removesuffix("\n"))


@click.command()
@click.argument("source", type=FILE)
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write the table here; default: print it.")
def levels(*, source: Path, output: Path | None) -> None:
    """Make the table of initcall levels from a kernel source tree."""
    from megamod.common.files import atomic_write
    from megamod.common.text import counted
    from megamod.modules.initcall_source import extract_levels, kernel_version, table_text

    rows = extract_levels(source)
    text = table_text(rows, made_from=kernel_version(source))
    if output is None:
        say(text.removesuffix("\n"))
        return
    atomic_write(output, text.encode())
    say(f"{output}: {counted(len({row.module for row in rows}), 'module')}")
