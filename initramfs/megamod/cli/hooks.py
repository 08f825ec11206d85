"""`megamod hook` and `megamod deploy`: megamodules in a generator's images, and on the real root."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from megamod.cli.completing import kernels, profiles
from megamod.cli.groups import Commands
from megamod.cli.options import FILE, ROOT, progress, say, steps_of
from megamod.common.choices import Fallback
from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from megamod.common.progress import Steps
    from megamod.hooks.generators.run import Generator, HookReport
    from megamod.hooks.install_record import Entry, InstallRecord

_SETTINGS = Path("/etc/megamod/hook.conf")
_YES = ("yes", "true", "1", "on")
_NAMES = ["dracut", "initramfs-tools", "mkinitcpio"]
_GENERATOR = click.argument("generator", type=click.Choice(_NAMES))


@click.group(cls=Commands)
def hook() -> None:
    """Put a megamodule into the images of dracut and others.

    Generators are dracut, initramfs-tools and mkinitcpio.
    """


@hook.command("install")
@click.argument("generator", required=False, type=click.Choice(_NAMES))
@click.option("--rdinit", "entry", flag_value="rdinit", help="Start the loader before the image's init.")
@click.option("--hook-points", "entry", flag_value="hook-points", help="Leave the kernel command line alone.")
@click.option("--edit-cmdline", is_flag=True, help="Put the loader's word into /etc/kernel/cmdline, for UKIs.")
@ROOT
def hook_install(*, generator: Generator | None, entry: Entry | None, edit_cmdline: bool, root: Path) -> None:
    """Install the hook of a generator.

    Its next images have a megamodule. Default: the generator that makes this system's images; --rdinit where GRUB or
    kernel-install take a drop-in.
    """
    from megamod.hooks.generators.install import find_generator, install
    from megamod.hooks.transaction import locked

    with locked(root):
        chosen = generator or find_generator(root)
        program = own_program(root)
        for line in install(chosen, root=root, entry=entry, program=program, edit_cmdline=edit_cmdline):
            say(line)


@hook.command("remove")
@_GENERATOR
@ROOT
def hook_remove(*, generator: Generator, root: Path) -> None:
    """Remove everything that install has written.

    Without megamod: sh /etc/megamod/hooks/GENERATOR.remove
    """
    from megamod.hooks.generators.install import remove, status
    from megamod.hooks.generators.run import GENERATORS
    from megamod.hooks.map_store import drop_maps
    from megamod.hooks.transaction import locked

    with locked(root):
        if not any(status(each, root=root).entry for each in GENERATORS if each != generator):
            drop_maps(root, None, "image")
        for line in remove(generator, root=root):
            say(line)


@hook.command("status")
@click.argument("generator", required=False, type=click.Choice(_NAMES))
@ROOT
def hook_status(*, generator: Generator | None, root: Path) -> None:
    """Show which hooks are installed, and changed files."""
    from megamod.hooks.generators.boot_entries import WORD
    from megamod.hooks.generators.install import status
    from megamod.hooks.generators.run import GENERATORS

    for each in (generator,) if generator else GENERATORS:
        found = status(each, root=root)
        if found.entry is None:
            say(f"{each}: {'not installed' if found.present else 'this generator is not installed'}")
            continue
        say(f"{each}: installed, {found.entry}, calls {found.program}")
        for name in found.command_line:
            say(f"  new boot entries get {WORD} by {root / name}")
        for boot_entry in found.entries:
            state = "has" if boot_entry.has_word else "does not have"
            say(f"  {boot_entry.file}: {boot_entry.title}: {state} {WORD}")
        for name in found.changed:
            say(f"  {name} has changed since it was installed")
        if not (root / found.program.lstrip("/")).exists():
            say(f"  {found.program} is missing: the next images will not use megamod")


@hook.command("run")
@_GENERATOR
@click.option("--image-root", required=True, type=FILE, metavar="DIR", help="The folder that becomes the image.")
@click.option("--kernel", required=True, metavar="KVER", help="The kernel that the image is for.")
@click.option("--modules-dir", type=FILE, metavar="DIR", help="Its modules; default: /lib/modules/KVER.")
@click.option("--machine", type=FILE, metavar="DIR", help="The machine recorded in DIR; default: this one.")
@click.option("--select", type=click.Choice(["machine", "all"]), help="What this machine needs, or the whole image.")
@click.option("--fallback", type=click.Choice(["modules", "none"]), help="Keep the members' files for megamod=off.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Modules that stay files.")
@click.option("--chosen", metavar="FILE", help="Paths of the modules, a line each; prints the members.")
@click.option("--hold-places", is_flag=True, help="Leave an empty folder at the place of each member's file.")
@click.option("--strict", is_flag=True, help="Fail where the image would be left as it is with a warning.")
@progress
def hook_run(
    *, generator: Generator, image_root: Path, chosen: str | None, strict: bool, quiet: bool, verbose: bool, **rest: Any
) -> None:
    """Change an image root; the hooks call this.

    All settings have a line in /etc/megamod/hook.conf too. Status 0 with the image changed or, after a warning,
    untouched; 1 with --strict.
    """
    strict = strict or _is_strict()
    steps = steps_of(quiet=not verbose, verbose=verbose)
    try:
        report = _run(generator, image_root, chosen, steps, **rest)
    except Exception as error:
        internal = not isinstance(error, (MegamodError, OSError))
        if strict or (internal and os.environ.get("MEGAMOD_DEBUG")):
            raise
        # One line, so that it is read.
        say(f"megamod: warning: the image is as {generator} made it: {_reason(error, image_root)}", err=True)
        return
    for note in report.notes:
        steps.say(f"  note: {note}")
    if not quiet:
        say(f"megamod: {report.summary()}", err=True)
    if chosen is not None:
        say("\n".join(sorted(report.members)))


def _is_strict() -> bool:
    from megamod.hooks.generators.install import read_settings

    try:
        return read_settings(_SETTINGS).get("MEGAMOD_STRICT", "").lower() in _YES
    except MegamodError:
        return False  # `_run` meets the same error, and reports it


def _reason(error: Exception, image_root: Path) -> str:
    if isinstance(error, MegamodError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or image_root}: {error.strerror or error}"
    return f"internal error: {type(error).__name__}: {error}"


def _run(
    generator: Generator,
    image_root: Path,
    chosen: str | None,
    steps: Steps,
    *,
    kernel: str,
    modules_dir: Path | None,
    machine: Path | None,
    select: str | None,
    fallback: str | None,
    exclude: tuple[str, ...],
    hold_places: bool,
) -> HookReport:
    from megamod.common.trust import require_trusted
    from megamod.hooks.generators.install import read_settings
    from megamod.hooks.generators.run import HookRequest, run_hook

    require_trusted(_SETTINGS, "settings")
    settings = read_settings(_SETTINGS)
    machine = machine or (Path(settings["MEGAMOD_MACHINE"]) if settings.get("MEGAMOD_MACHINE") else None)
    require_trusted(machine, "a recorded machine")
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
    return run_hook(request, steps=steps)


def _lines(name: str) -> list[str]:
    text = sys.stdin.read() if name == "-" else Path(name).read_text()
    return [line for line in text.splitlines() if line]


def _one_of(value: str, *known: str) -> str:
    if value not in known:
        raise MegamodError(f"{_SETTINGS}: `{value}` is none of {', '.join(known)}")
    return value


def _fallback(value: str) -> Fallback:
    return Fallback(_one_of(value, *Fallback))


@click.command()
@click.option("-k", "--kernel", metavar="KVER", shell_complete=kernels, help="The kernel; default: the running one.")
@click.option(
    "-p",
    "--profile",
    metavar="PROFILE",
    shell_complete=profiles,
    help="Its deferred stages; default: what this machine needs.",
)
@click.option("--machine", type=FILE, metavar="DIR", help="The machine recorded in DIR; default: this one.")
@click.option("--remove", "action", flag_value="remove", help="Remove the deployment of KVER, or without -k all.")
@click.option("--status", "action", flag_value="status", help="Show what is deployed.")
@click.option("--update", "action", flag_value="update", help="Make it again with the same settings.")
@ROOT
@progress
def deploy(
    *,
    kernel: str | None,
    profile: str | None,
    machine: Path | None,
    action: str | None,
    root: Path,
    quiet: bool,
    verbose: bool,
) -> None:
    """Merge what loads from the real root, with systemd units.

    Megamodules go to /usr/lib/megamod/KVER. Without megamod, sh /usr/lib/megamod/remove takes all away.
    """
    from megamod.hooks.deploy.deployment_store import read_record, take_away
    from megamod.hooks.map_store import drop_maps
    from megamod.hooks.transaction import locked

    if action == "status":
        _deploy_status(root, read_record(root))
        return
    with locked(root):
        record = read_record(root)
        if action == "remove":
            drop_maps(root, kernel, "deployment")
            say("\n".join(take_away(root, kernel)))
        elif action != "update" or record.kernels:
            kernel = kernel or os.uname().release
            settings = _settings(root, record, kernel, profile, machine, update=action == "update")
            steps = steps_of(quiet=not verbose, verbose=verbose)
            _deploy(root, record, kernel, settings, update=action == "update", quiet=quiet, steps=steps)


def _settings(
    root: Path, record: InstallRecord, kernel: str, profile: str | None, machine: Path | None, *, update: bool
) -> dict[str, str]:
    """What the deployment is made from; recorded, so that an update can be made from any folder."""
    from megamod.hooks.generators.install import read_settings
    from megamod.profile.schema import find_path, shipped_profiles

    if update:
        return {name: value for name, value in record.settings_of(kernel).items() if name in ("profile", "machine")}
    if profile is not None and (found := find_path(profile)) not in shipped_profiles().values():
        profile = str(found.absolute())
    named = read_settings(root / _SETTINGS.relative_to("/")).get("MEGAMOD_MACHINE")
    folder = machine.absolute() if machine else Path(named) if named else None
    return {name: str(value) for name, value in (("profile", profile), ("machine", folder)) if value}


def _deploy(
    root: Path,
    record: InstallRecord,
    kernel: str,
    settings: dict[str, str],
    *,
    update: bool,
    quiet: bool,
    steps: Steps,
) -> None:
    from megamod.common.trust import require_trusted
    from megamod.hooks.deploy.deployment import DeployRequest, link_deployment
    from megamod.hooks.deploy.deployment_store import members_of, put, withdraw
    from megamod.hooks.map_store import drop_maps, keep_maps
    from megamod.machine.machine import Machine, open_machine

    named, machine = settings.get("profile", ""), settings.get("machine")
    try:
        require_trusted(Path(named) if "/" in named else None, "a profile")
        require_trusted(Path(machine) if machine else None, "a recorded machine")
        request = DeployRequest(
            kernel=kernel,
            root=root,
            profile=settings.get("profile"),
            machine=open_machine(Path(machine)) if machine else Machine(root=root),
            again=members_of(root, record),
        )
        deployment = link_deployment(request, steps=steps)
        lines = put(root, kernel, deployment.files, settings, own_program(root))
    except (MegamodError, OSError) as error:
        if not update:
            raise
        # What was deployed for other files of this kernel must not be loaded with these.
        if kernel in record.kernels:
            with contextlib.suppress(MegamodError, OSError):
                drop_maps(root, kernel, "deployment")
            withdraw(root, kernel)
        say(f"megamod: warning: {kernel} boots without deployed modules: {error}", err=True)
        return
    for note in deployment.notes:
        steps.say(f"  note: {note}")
    for line in lines:
        say(line)
    if no_map := keep_maps(root, kernel, "deployment", deployment.stages):
        steps.say(f"  note: {no_map}")
    if not quiet:
        say(f"megamod: deployed for {kernel}: {deployment.summary()}", err=True)


def _deploy_status(root: Path, record: InstallRecord) -> None:
    from megamod.hooks.deploy.deployment_store import changed, exchanged

    if not record.kernels:
        say("nothing is deployed")
    for kernel in sorted(record.kernels):
        state = "" if (root / "lib/modules" / kernel / "modules.dep").exists() else "; its modules are not there"
        say(f"{kernel}: deployed, {record.settings_of(kernel).get('profile', 'what the machine needs')}{state}")
        for name in exchanged(root, kernel, record) if not state else ():
            say(f"  the module {name} has changed since: megamod deploy --update -k {kernel}")
    for name in changed(root, record):
        say(f"  {name} has changed since it was written")


def own_program(root: Path) -> Path:
    """The path of this `megamod`, for a shell script to call: as seen from *root*."""
    import shutil

    named = Path(sys.argv[0])
    found = named if named.is_absolute() and named.exists() else shutil.which(sys.argv[0])
    program = Path(found).absolute() if found else Path(sys.prefix) / "bin/megamod"
    inside = root.resolve()
    return (
        Path("/") / program.relative_to(inside) if inside != Path("/") and program.is_relative_to(inside) else program
    )
