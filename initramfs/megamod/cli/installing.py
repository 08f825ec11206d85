"""`megamod install` and `megamod init`: this machine boots an image of its own; a first profile."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from megamod.cli.options import FILE, KERNEL, ROOT, progress, say, steps_of
from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from megamod.common.progress import Steps
    from megamod.hooks.installer.boot_layout import BootLayout, Layout
    from megamod.machine.machine import Machine


@click.command()
@click.option("-k", "--kernel", metavar="KVER", help="The kernel; default: the newest that is installed.")
@click.option("-p", "--profile", type=FILE, metavar="FILE", help="Default: /etc/megamod/profile.yaml, which it writes.")
@click.option("--layout", type=click.Choice(["grub", "bls", "uki"]), help="Default: what starts this machine.")
@click.option("--uki", "layout", flag_value="uki", help="The same as --layout uki: one EFI program.")
@click.option("--machine", type=FILE, metavar="DIR", help="The machine recorded in DIR; default: this one.")
@click.option("-n", "--dry-run", is_flag=True, help="Print what it would do.")
@click.option("--status", "action", flag_value="status", help="Show what is installed.")
@click.option("--remove", "action", flag_value="remove", help="Remove everything that install has written.")
@click.option("--update", "action", flag_value="update", help="Make the image of KVER again, with the same settings.")
@click.option("--forget", "action", flag_value="forget", help="Remove the image of KVER.")
@click.option("--menu", is_flag=True, help="With --update and --forget: make GRUB's menu again, too.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write the image here, and change nothing else.")
@ROOT
@progress
def install(
    *,
    kernel: str | None,
    profile: Path | None,
    layout: Layout | None,
    machine: Path | None,
    dry_run: bool,
    action: str | None,
    menu: bool,
    output: Path | None,
    root: Path,
    quiet: bool,
    verbose: bool,
) -> None:
    """Have this machine boot an image of its own.

    Where megamod's loader reaches the root it writes an image, an entry that the next boot tries, and what renews both
    when kernels change; the generator's image stays as an entry of its own. Elsewhere it installs the generator's hook.
    """
    from megamod.hooks.installer.installer import forget, remove, renew_menu
    from megamod.hooks.transaction import locked

    steps = steps_of(quiet=quiet or not verbose, verbose=verbose)
    if action == "status":
        _status(root)
        return
    if output is not None:
        _write_image(root, kernel, profile, machine, output, steps)
        return
    with locked(root):
        if action in ("update", "forget"):
            if kernel is None:
                raise MegamodError(f"--{action}: which kernel?", hint="-k KVER")
            lines = forget(root, kernel) if action == "forget" else _update(root, kernel, steps)
            _print(lines, quiet=quiet)
            if menu:
                _renew_menu(root)
        elif action == "remove":
            before = _installed_layout(root)
            _print(remove(root), quiet=False)
            _print([renew_menu(root, before)] if before else [], quiet=False)
        else:
            _install(root, kernel, profile, layout, machine, dry_run, steps)


def _install(
    root: Path,
    kernel: str | None,
    profile: Path | None,
    layout: Layout | None,
    recorded: Path | None,
    dry_run: bool,
    steps: Steps,
) -> None:
    from megamod.cli.hooks import own_program
    from megamod.hooks.installer.boot_layout import command_line, find_layout, newest_kernel
    from megamod.hooks.installer.installer import InstallRequest, planned, renew_menu
    from megamod.hooks.installer.installer import install as install_image
    from megamod.hooks.installer.root_reach import why_not_own

    machine = _machine(root, recorded)
    with contextlib.suppress(MegamodError):
        if why := why_not_own(machine, command_line(root)):
            say(f"megamod's loader does not reach this root: {why}; installing the generator's hook instead")
            _install_hook(root, dry_run=dry_run)
            return
    found = find_layout(root, layout)
    chosen = kernel or newest_kernel(root)
    path, text = _profile_of(root, profile, machine, chosen)
    request = InstallRequest(
        root=root, kernel=chosen, layout=found, profile=path, profile_text=text, program=own_program(root)
    )
    _print(planned(request), quiet=False)
    if dry_run:
        return
    _print(install_image(request, steps=steps), quiet=False)
    _print([renew_menu(root, found)], quiet=False)


def _machine(root: Path, recorded: Path | None) -> Machine:
    from megamod.common.trust import require_trusted
    from megamod.machine.machine import Machine, open_machine

    require_trusted(recorded, "a recorded machine")
    return open_machine(recorded) if recorded is not None else Machine(root=root)


def _profile_of(root: Path, profile: Path | None, machine: Machine, kernel: str) -> tuple[Path, str | None]:
    """The profile's file, and its text if it is still to be written."""
    from megamod.hooks.installer.pieces import PROFILE
    from megamod.machine.first_profile import machine_profile
    from megamod.modules.tree import open_tree

    if profile is not None:
        return profile.absolute(), None
    own = root / PROFILE
    if own.exists():
        return own, None
    tree = open_tree(kernel, release_folders=(root / "lib/modules", root / "usr/lib/modules"))
    return own, machine_profile(machine, tree, name="machine")


def _update(root: Path, kernel: str, steps: Steps) -> list[str]:
    """The image of *kernel* made again; without one of these modules it boots as the generator has made it."""
    from megamod.cli.hooks import own_program
    from megamod.hooks.installer.installer import InstallRequest, layout_of, read_install, withdraw
    from megamod.hooks.installer.installer import install as install_image

    record = read_install(root)
    if not record.files:
        return []
    request = InstallRequest(
        root=root,
        kernel=kernel,
        layout=layout_of(root, record),
        profile=root / record.settings_of(kernel)["profile"].lstrip("/"),
        profile_text=None,
        program=own_program(root),
    )
    try:
        return install_image(request, steps=steps)
    except (MegamodError, OSError):
        with contextlib.suppress(MegamodError, OSError):
            withdraw(root, kernel)
        raise


def _write_image(
    root: Path, kernel: str | None, profile: Path | None, recorded: Path | None, output: Path, steps: Steps
) -> None:
    """Only the image: for kernel-install, which has a place for it."""
    from megamod.common.files import atomic_write, check_writable
    from megamod.common.trust import require_trusted
    from megamod.hooks.installer.boot_layout import newest_kernel
    from megamod.hooks.installer.installer import own_image
    from megamod.profile.schema import load_profile

    check_writable(output)
    chosen = kernel or newest_kernel(root)
    path, text = _profile_of(root, profile, _machine(root, recorded), chosen)
    if text is not None:
        raise MegamodError(f"{path}: not there", hint="megamod install writes it, or megamod init")
    require_trusted(path, "a profile")
    image, _map = own_image(root, chosen, load_profile(path), steps=steps)
    atomic_write(output, image.data)


def _install_hook(root: Path, *, dry_run: bool) -> None:
    import shlex

    from megamod.cli.hooks import own_program
    from megamod.common.host import run_program
    from megamod.hooks.generators.install import find_generator, generate_command
    from megamod.hooks.generators.install import install as install_generators_hook

    generator = find_generator(root)
    if dry_run:
        say(f"installs the hook of {generator}, then: {generate_command(generator)}")
        return
    _print(install_generators_hook(generator, root=root, entry=None, program=own_program(root)), quiet=False)
    if root == Path("/"):
        run_program(shlex.split(generate_command(generator)))
        say(f"{generate_command(generator)}: done")


def _installed_layout(root: Path) -> BootLayout | None:
    from megamod.hooks.installer.installer import layout_of, read_install

    record = read_install(root)
    return layout_of(root, record) if record.files else None


def _renew_menu(root: Path) -> None:
    from megamod.hooks.installer.installer import renew_menu

    layout = _installed_layout(root)
    _print([renew_menu(root, layout)] if layout else [], quiet=False)


def _status(root: Path) -> None:
    from megamod.hooks.installer.installer import changed, layout_of, read_install

    record = read_install(root)
    if not record.files:
        say("nothing is installed")
        return
    layout = layout_of(root, record)
    say(f"layout {layout.kind}, {layout.why_not or 'boots are counted'}")
    for kernel, files in record.kernels.items():
        there = [name for name in files if os.path.lexists(root / name) and name.endswith((".img", ".efi"))]
        say(f"{kernel}: {', '.join(str(root / name) for name in there) or 'its image is gone'}")
    for name in changed(root, record):
        say(f"{name} has changed since it was written")


def _print(lines: list[str], *, quiet: bool) -> None:
    for line in lines:
        if line and not quiet:
            say(line)


@click.command()
@click.argument("output", type=FILE, required=False, metavar="[FILE]")
@click.option("--board", metavar="DTB|NAME", help="A board's device tree, or its name in the kernel's package.")
@click.option("--machine", "recorded", type=FILE, metavar="DIR", help="The machine recorded in DIR; default: this one.")
@KERNEL
def init(*, output: Path | None, board: str | None, recorded: Path | None, kernel: str | None) -> None:
    """Write a first profile, for this machine or a board.

    FILE is NAME.yaml by default, and must not be there. `megamod build FILE` takes it as it is; each line has its
    reason.
    """
    from megamod.cli.defaults import chosen_tree
    from megamod.common.files import atomic_write, check_writable
    from megamod.machine.first_profile import board_profile, find_board, machine_profile
    from megamod.machine.machine import open_machine

    if board is None and recorded is None and sys.stdin.isatty():
        board = (
            click.prompt("A board's device tree or name; empty: this machine", default="", show_default=False) or None
        )
    tree = chosen_tree(kernel)
    if board is not None:
        dtb = find_board(board, tree)
        name = dtb.stem
        text = board_profile(dtb, tree, name=name, beside=(output or Path()).parent)
    else:
        name = output.stem if output else "machine"
        text = machine_profile(open_machine(recorded), tree, name=name)
    path = output or Path(f"{name}.yaml")
    if os.path.lexists(path):
        raise MegamodError(f"{path}: already exists", hint="name another file")
    check_writable(path)
    atomic_write(path, text.encode())
    option = f" -k {kernel}" if kernel else ""
    say(f"{path}: written; now: megamod build {path}{option}")
