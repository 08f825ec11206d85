"""What the ``megamod hook`` and ``megamod deploy`` commands do, without click."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from megamod.common.choices import Fallback
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.hooks.deploy.deployment import DeployRequest, link_deployment
from megamod.hooks.deploy.deployment_store import Record, changed, members_of, put, read_record, take_away
from megamod.hooks.generators.install import Entry, install, read_settings, remove, status
from megamod.hooks.generators.run import GENERATORS, Generator, HookRequest, run_hook
from megamod.hooks.map_store import drop_maps, keep_maps
from megamod.machine.machine import Machine, open_machine
from megamod.profile.schema import find_path, shipped_profiles

_SETTINGS = Path("/etc/megamod/hook.conf")
_YES = ("yes", "true", "1", "on")


def hook_run_command(
    *,
    generator: Generator,
    image_root: Path,
    kernel: str,
    modules_dir: Path | None,
    machine: Path | None,
    select: str | None,
    fallback: str | None,
    exclude: tuple[str, ...],
    chosen: str | None,
    hold_places: bool,
    strict: bool,
    steps: Steps,
) -> int:
    """``megamod hook run``: 0 with the image changed or, after a warning, untouched; 1 with --strict."""
    try:
        settings = read_settings(_SETTINGS)
        strict = strict or settings.get("MEGAMOD_STRICT", "").lower() in _YES
        machine = machine or (Path(settings["MEGAMOD_MACHINE"]) if settings.get("MEGAMOD_MACHINE") else None)
        request = HookRequest(
            generator=generator,
            image_root=image_root,
            kernel=kernel,
            modules=modules_dir or Path("/lib/modules") / kernel,
            machine=machine,
            everything=_one_of(select or settings.get("MEGAMOD_SELECT", "machine"), "machine", "all") == "all",
            exclude=(*exclude, *settings.get("MEGAMOD_EXCLUDE", "").split()),
            fallback=_fallback(fallback or settings.get("MEGAMOD_FALLBACK", "modules")),
            chosen=tuple(Path(line) for line in _lines(chosen)) if chosen is not None else None,
            hold_places=hold_places,
        )
        report = run_hook(request, steps=steps)
    except MegamodError as error:
        if strict:
            raise
        # One line, so that it is read.
        click.echo(f"megamod: warning: the image is as {generator} made it: {error}", err=True)
        return 0
    except OSError as error:
        if strict:
            raise
        what = f"{error.filename or image_root}: {error.strerror or error}"
        click.echo(f"megamod: warning: the image is as {generator} made it: {what}", err=True)
        return 0
    except Exception as error:
        if strict or os.environ.get("MEGAMOD_DEBUG"):
            raise
        click.echo(
            f"megamod: warning: the image is as {generator} made it: internal error: {type(error).__name__}: {error}",
            err=True,
        )
        return 0
    for note in report.notes:
        steps.say(f"  note: {note}")
    click.echo(f"megamod: {report.summary()}", err=True)
    if chosen is not None:
        click.echo("\n".join(sorted(report.members)))
    return 0


def hook_install_command(*, generator: Generator, entry: Entry | None, root: Path) -> None:
    """``megamod hook install``."""
    for line in install(generator, root=root, entry=entry, program=_own_program(root)):
        click.echo(line)


def hook_remove_command(*, generator: Generator, root: Path) -> None:
    """``megamod hook remove``."""
    if not any(status(each, root=root).entry for each in GENERATORS if each != generator):
        drop_maps(root, None, "image")
    for line in remove(generator, root=root):
        click.echo(line)


def hook_status_command(*, generator: Generator | None, root: Path) -> None:
    """``megamod hook status``: a line a generator."""
    for each in (generator,) if generator else GENERATORS:
        found = status(each, root=root)
        if found.entry is None:
            click.echo(f"{each}: {'not installed' if found.present else 'this generator is not on the system'}")
            continue
        click.echo(f"{each}: installed, {found.entry}, calls {found.program}")
        for name in found.command_line:
            click.echo(f"  on the command line by {root / name}")
        for name in found.changed:
            click.echo(f"  {name} is not as it was installed")
        if not (root / found.program.lstrip("/")).exists():
            click.echo(f"  {found.program} is not there: the next images are without megamod")


def deploy_command(
    *, kernel: str | None, profile: str | None, machine: Path | None, root: Path, action: str, steps: Steps
) -> int:
    """``megamod deploy``: *action* is ``deploy``, ``update``, ``remove`` or ``status``."""
    record = read_record(root)
    if action == "status":
        _deploy_status(root, record)
        return 0
    if action == "remove":
        drop_maps(root, kernel, "deployment")
        lines = take_away(root, kernel)
        click.echo("\n".join(lines))
        return 0
    kernel = kernel or os.uname().release
    if action == "update":
        if not record.kernels:
            return 0
        recorded = record.settings_of(kernel)
        profile, machine = recorded.get("profile"), _folder(recorded.get("machine"))
    else:
        # Updates are made from another folder.
        if profile is not None and (found := find_path(profile)) not in shipped_profiles().values():
            profile = str(found.absolute())
        named = read_settings(root / _SETTINGS.relative_to("/")).get("MEGAMOD_MACHINE")
        machine = machine.absolute() if machine else _folder(named)
    settings = {name: str(value) for name, value in (("profile", profile), ("machine", machine)) if value}
    try:
        request = DeployRequest(
            kernel=kernel,
            root=root,
            profile=profile,
            machine=open_machine(machine) if machine else Machine(root=root),
            again=members_of(root, record),
        )
        deployment = link_deployment(request, steps=steps)
    except MegamodError as error:
        if action != "update":
            raise
        # What was deployed for other files of this kernel must not be loaded with these.
        if kernel in record.kernels:
            drop_maps(root, kernel, "deployment")
            take_away(root, kernel)
        click.echo(f"megamod: warning: {kernel} boots without deployed modules: {error}", err=True)
        return 0
    for note in deployment.notes:
        steps.say(f"  note: {note}")
    for line in put(root, kernel, deployment.files, settings, _own_program(root)):
        click.echo(line)
    if no_map := keep_maps(root, kernel, "deployment", deployment.stages):
        steps.say(f"  note: {no_map}")
    click.echo(f"megamod: deployed for {kernel}: {deployment.summary()}", err=True)
    return 0


def _deploy_status(root: Path, record: Record) -> None:
    if not record.kernels:
        click.echo("nothing is deployed")
    for kernel in sorted(record.kernels):
        state = "" if (root / "lib/modules" / kernel / "modules.dep").exists() else "; its modules are not there"
        click.echo(f"{kernel}: deployed, {record.settings_of(kernel).get('profile', 'what the machine needs')}{state}")
    for name in changed(root, record):
        click.echo(f"  {name} is not as it was written")


def _folder(name: str | None) -> Path | None:
    return Path(name) if name else None


def _own_program(root: Path) -> Path:
    """The path of this `megamod`, for a shell script to call: as seen from *root*."""
    named = Path(sys.argv[0])
    found = named if named.is_absolute() and named.exists() else shutil.which(sys.argv[0])
    program = Path(found).absolute() if found else Path(sys.prefix) / "bin/megamod"
    inside = root.resolve()
    return (
        Path("/") / program.relative_to(inside) if inside != Path("/") and program.is_relative_to(inside) else program
    )


def _lines(name: str) -> list[str]:
    text = sys.stdin.read() if name == "-" else Path(name).read_text()
    return [line for line in text.splitlines() if line]


def _one_of(value: str, *known: str) -> str:
    if value not in known:
        raise MegamodError(f"{_SETTINGS}: `{value}` is none of {', '.join(known)}")
    return value


def _fallback(value: str) -> Fallback:
    return Fallback(_one_of(value, *Fallback))
