"""The command line: click declarations, one call each, and the one place where errors become a line on stderr."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from megamod.cli.chart import chart, tune
from megamod.common.choices import StaticCalls, Symbols, Tracing, Unwind
from megamod.common.errors import MegamodError

if TYPE_CHECKING:
    from megamod.common.progress import Steps

_FILE = click.Path(path_type=Path)
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _choice(words: type[StrEnum]) -> click.Choice[str]:
    return click.Choice([word.value for word in words])


def _steps(quiet: bool) -> Steps:
    from megamod.common.progress import Steps

    return Steps(sys.stderr, quiet=quiet)


@click.group(context_settings=_SETTINGS)
@click.version_option(package_name="megamod")
def cli() -> None:
    """Link a kernel's modules into one, and boot it with a single finit_module call."""


@cli.command()
@click.argument("modules", nargs=-1, required=True, type=_FILE, metavar="MODULE.ko…")
@click.option("-o", "--output", required=True, type=_FILE, metavar="OUT.ko", help="Write the megamodule here.")
@click.option("--map", "map_file", type=_FILE, metavar="FILE", help="Write where each member's sections went, as JSON.")
@click.option("--name", metavar="NAME", help="The module's name; default: from OUT.ko.")
@click.option("--unwind", type=_choice(Unwind), default=Unwind.KEEP, help="ORC tables.")
@click.option("--tracing", type=_choice(Tracing), default=Tracing.OFF, help="Tables that ftrace reads.")
@click.option("--symbols", type=_choice(Symbols), default=Symbols.KEEP, show_default=True, help="Symbol table.")
@click.option("--static-calls", type=_choice(StaticCalls), default=StaticCalls.TRAMPOLINE, show_default=True)
@click.option("--allow-taint", is_flag=True, help="Accept staging and out-of-tree members.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def prelink(quiet: bool, **options: Any) -> None:
    """Link MODULE.ko… (plain, .gz, .xz, .zst) into one megamodule."""
    from megamod.cli.commands import prelink_command

    prelink_command(steps=_steps(quiet), **options)


@cli.command()
@click.argument("profile")
@click.option("-k", "--kernel", required=True, help="A lib/modules/KVER folder, or a release name of this machine.")
@click.option("-o", "--output", required=True, type=_FILE, metavar="IMAGE", help="Write the image here.")
@click.option(
    "--firmware-dir", metavar="DIR", help="Look for firmware here; default: lib/firmware of the kernel's root."
)
@click.option("--map", "map_file", metavar="FILE|none", help="The map for symbolize and debug; default: IMAGE.map.")
@click.option("--no-cache", "cache", flag_value=False, default=True, help="Build it even if nothing has changed.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def build(quiet: bool, **options: Any) -> None:
    """Build an initramfs image from PROFILE, a file or the name of a shipped profile."""
    from megamod.cli.build_command import build_command

    build_command(steps=_steps(quiet), **options)


@cli.command()
@click.argument("image", type=_FILE)
@click.option("--vmlinuz", "kernel", required=True, type=_FILE, metavar="FILE", help="The kernel.")
@click.option("-o", "--output", required=True, type=_FILE, metavar="OUT.efi", help="Write the EFI program here.")
@click.option("--cmdline", "command_line", default="", metavar="TEXT", help="The kernel command line.")
@click.option("--os-release", type=_FILE, metavar="FILE", help="What the system calls itself (os-release(5)).")
@click.option("--uname", "release", metavar="KVER", help="The kernel's release, for boot menus.")
@click.option("--splash", type=_FILE, metavar="FILE.bmp", help="A picture to show.")
@click.option("--dtb", "device_tree", type=_FILE, metavar="FILE", help="A device tree.")
@click.option("--stub", type=_FILE, metavar="FILE", help="The EFI stub; default: systemd's.")
@click.option("--key", type=_FILE, metavar="FILE", help="Sign for Secure Boot with this key (PEM) …")
@click.option("--cert", type=_FILE, metavar="FILE", help="… and this certificate (PEM).")
def uki(**options: Any) -> None:
    """Join IMAGE, a kernel and a command line into one EFI program, a Unified Kernel Image."""
    from megamod.cli.commands import uki_command

    uki_command(**options)


@cli.command()
@click.argument("file", type=_FILE, metavar="IMAGE|FILE.ko")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--tree", "what", flag_value="tree", help="List every file of the image instead.")
@click.option("--sbom", "what", flag_value="sbom", help="Print a CycloneDX bill of materials of the image instead.")
@click.option("--file", "path", metavar="PATH", help="Print this file of the image instead.")
@click.option(
    "--diff", "other", type=_FILE, metavar="OTHER", help="Say what OTHER has differently; status 1 if it does."
)
def inspect(**options: Any) -> None:
    """Show what is in an image or a megamodule: stages, members in init order, singles, sizes."""
    from megamod.cli.inspect_command import inspect_command

    sys.exit(inspect_command(**options))


@cli.command()
@click.argument("module", type=_FILE, metavar="MODULE.ko")
@click.option("--key", required=True, metavar="FILE|URI", help="The private key, PEM or DER, or a pkcs11: URI.")
@click.option("--cert", required=True, type=_FILE, metavar="FILE", help="Its certificate, PEM or DER.")
@click.option("--digest", type=click.Choice(["sha256", "sha384", "sha512"]), default="sha256", show_default=True)
@click.option("-o", "--output", type=_FILE, metavar="OUT.ko", help="Write here; default: MODULE.ko itself.")
def sign(**options: Any) -> None:
    """Sign MODULE.ko as the kernel's own build does."""
    from megamod.cli.signing_command import sign_command

    sign_command(**options)


@cli.command()
@click.argument("file", type=_FILE, metavar="MODULE.ko")
@click.option("--cert", type=_FILE, metavar="FILE", help="The certificate that the signature must be of.")
def verify(**options: Any) -> None:
    """Read MODULE.ko's signature and check it; status 1 if there is none or it is wrong."""
    from megamod.cli.signing_command import verify_command

    sys.exit(verify_command(**options))


def _address(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    try:
        number = int(value, 0) if value is not None else None
    except ValueError:
        number = -1
    if number is not None and not 0 <= number < 1 << 32:
        raise click.BadParameter(f"{value} is no address of 32 bits such as 0x40200000")
    return number


@cli.command()
@click.argument("image", type=_FILE)
@click.option("--vmlinuz", required=True, type=_FILE, metavar="FILE", help="An Image (arm64, riscv64) or zImage (arm).")
@click.option(
    "--dtb", "dtbs", multiple=True, type=_FILE, metavar="FILE", help="A device tree; the first is the default."
)
@click.option("--load", callback=_address, metavar="ADDRESS", help="Where the kernel goes; default: U-Boot's choice.")
@click.option("-o", "--output", required=True, type=_FILE, metavar="OUT.itb", help="Write the FIT image here.")
def fit(**options: Any) -> None:
    """Make a FIT image for U-Boot from IMAGE, a kernel and its device trees."""
    from megamod.image.fit import write_fit

    write_fit(options.pop("output"), **options)


@cli.command()
@click.argument("kernel", type=_FILE)
@click.argument("image", type=_FILE)
@click.option("--cmdline", "command_line", default="", metavar="TEXT", help="The kernel command line.")
@click.option("--stub", type=_FILE, metavar="FILE", help="The EFI stub; default: systemd's.")
@click.option("-o", "--output", required=True, type=_FILE, metavar="OUT", help="Write the EFI program here.")
def append(**options: Any) -> None:
    """Make one EFI program of KERNEL and IMAGE; for other kernels say what there is instead."""
    from megamod.image.append import append_image

    append_image(**options)


@cli.command()
@click.argument("image", type=_FILE)
@click.option("--vmlinuz", required=True, type=_FILE, metavar="FILE", help="The kernel to boot.")
@click.option("--disk", "disks", multiple=True, type=_FILE, metavar="FILE", help="A raw disk image, as virtio disk.")
@click.option("--append", default="", metavar="TEXT", help="Words for the kernel command line.")
@click.option("--icount", is_flag=True, help="Count instructions: guest time is the same on every machine.")
@click.option("--timeout", type=float, default=120.0, show_default=True, metavar="S", help="Give up after so long.")
@click.option("--memory", type=int, default=512, show_default=True, metavar="MIB", help="The guest's memory.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--budget", metavar="LIMITS", help="Such as critical=120ms,userspace=500ms,boot=2s; status 1 when over.")
@click.option("--runs", type=click.IntRange(1, 100), help="With --budget: the least of so many boots; default: 3.")
@click.option("--junit", type=_FILE, metavar="FILE", help="With --budget: write JUnit XML here.")
def boot(as_json: bool, **options: Any) -> None:
    """Boot IMAGE in QEMU and print the timeline and a list of failures; or hold it against a budget."""
    from megamod.cli.commands import boot_command

    sys.exit(boot_command(as_json=as_json, **options))


@cli.command()
@click.option("--suite", default=None, metavar="SUITE", help="Download this Debian suite's kernel, not this host's.")
@click.option("--keep", type=_FILE, metavar="FOLDER", help="Keep image, disk and kernel log here.")
def demo(suite: str | None, keep: Path | None) -> None:
    """Build the vm profile, boot it on a small ext4 root, and compare with loading the modules one by one."""
    from megamod.cli.commands import demo_command

    sys.exit(demo_command(suite=suite, keep=keep))


@cli.command()
@click.argument("profile")
@click.argument("module", required=False)
@click.option("-k", "--kernel", required=True, help="A lib/modules/KVER folder, or a release name of this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(**options: Any) -> None:
    """Say why each module of PROFILE is in its stage, alone or left out; with MODULE all that is known of that one."""
    from megamod.cli.profile_command import explain_command

    click.echo(explain_command(**options))


@cli.command()
@click.option("-k", "--kernel", help="Draw the profile for this kernel; default: the running one.")
@click.option(
    "--sysfs", type=_FILE, metavar="DIR", help="Look at the machine that was recorded in DIR, not at this one."
)
@click.option("--record", type=_FILE, metavar="DIR", help="Write what is looked at to the new folder DIR instead.")
def detect(**options: Any) -> None:
    """Print a profile for this machine: what its root and console need, and, deferred, all else."""
    from megamod.cli.profile_command import detect_command

    click.echo(detect_command(**options))


@cli.group()
def profile() -> None:
    """Check profiles, list those that come with megamod, and describe them to an editor."""


@profile.command("check")
@click.argument("profile")
@click.option("-k", "--kernel", help="Select from the modules of this kernel too.")
def profile_check(**options: Any) -> None:
    """Check PROFILE, a file or the name of a shipped one, and say what is in it."""
    from megamod.cli.profile_command import profile_check_command

    click.echo(profile_check_command(**options))


@profile.command("list")
def profile_list() -> None:
    """List the shipped profiles."""
    from megamod.cli.profile_command import profile_list_command

    click.echo(profile_list_command())


@profile.command("schema")
def profile_schema() -> None:
    """Print the JSON Schema of profiles, with which editors complete and check."""
    from megamod.cli.profile_command import profile_schema_command

    click.echo(profile_schema_command())


@cli.command()
@click.argument("source", type=_FILE)
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Write the table here; default: print it.")
def levels(**options: Any) -> None:
    """Make the table of initcall levels from SOURCE, a kernel source tree."""
    from megamod.cli.profile_command import levels_command

    click.echo(levels_command(**options))


@cli.group()
def hook() -> None:
    """Have dracut, initramfs-tools or mkinitcpio make images with a megamodule in them."""


_GENERATOR = click.argument("generator", type=click.Choice(["dracut", "initramfs-tools", "mkinitcpio"]))
_ROOT = click.option("--root", type=_FILE, default="/", metavar="DIR", help="The system to work on; default: this one.")


@hook.command("install")
@_GENERATOR
@click.option("--rdinit", "entry", flag_value="rdinit", help="Start the loader before the image's init.")
@click.option("--hook-points", "entry", flag_value="hook-points", help="Leave the kernel command line alone.")
@_ROOT
def hook_install(**options: Any) -> None:
    """Install the hook of GENERATOR; its next images have a megamodule. Default: --rdinit where GRUB or kernel-install
    take a drop-in."""
    from megamod.cli.hooks_command import hook_install_command

    hook_install_command(**options)


@hook.command("remove")
@_GENERATOR
@_ROOT
def hook_remove(**options: Any) -> None:
    """Take away all that `install` has written."""
    from megamod.cli.hooks_command import hook_remove_command

    hook_remove_command(**options)


@hook.command("status")
@click.argument("generator", required=False, type=click.Choice(["dracut", "initramfs-tools", "mkinitcpio"]))
@_ROOT
def hook_status(**options: Any) -> None:
    """Say which hooks are installed, and whether their files are as they were."""
    from megamod.cli.hooks_command import hook_status_command

    hook_status_command(**options)


@hook.command("run")
@_GENERATOR
@click.option("--image-root", required=True, type=_FILE, metavar="DIR", help="The folder that becomes the image.")
@click.option("--kernel", required=True, metavar="KVER", help="The kernel that the image is for.")
@click.option("--modules-dir", type=_FILE, metavar="DIR", help="Its modules; default: /lib/modules/KVER.")
@click.option("--machine", type=_FILE, metavar="DIR", help="The machine recorded in DIR; default: this one.")
@click.option("--select", type=click.Choice(["machine", "all"]), help="What this machine needs, or the whole image.")
@click.option("--fallback", type=click.Choice(["modules", "none"]), help="Keep the members' files for megamod=off.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Modules that stay files.")
@click.option("--chosen", metavar="FILE", help="Paths of the modules, a line each; prints the members.")
@click.option("--hold-places", is_flag=True, help="Leave an empty folder at the place of each member's file.")
@click.option("--strict", is_flag=True, help="Fail where the image would be left as it is with a warning.")
@click.option("-v", "--verbose", is_flag=True, help="Print each step.")
def hook_run(verbose: bool, **options: Any) -> None:
    """Work on an image root; the hooks call this. All settings have a line in /etc/megamod/hook.conf too."""
    from megamod.cli.hooks_command import hook_run_command

    sys.exit(hook_run_command(steps=_steps(not verbose), **options))


_MAP = click.option("--map", "map_file", type=_FILE, metavar="FILE", help="IMAGE.map, or what prelink --map wrote.")
_MODULES = click.option("--modules", type=_FILE, metavar="DIR", help="Modules with debug information of their own.")
_DEBUG_DIRS = click.option(
    "--debug-dir", "debug_dirs", multiple=True, type=_FILE, metavar="DIR", help="Default: /usr/lib/debug."
)
_SECTIONS = click.option(
    "--sections", type=_FILE, metavar="DIR|FILE", help="A copy of /sys/module or parts of it, or /proc/modules."
)


@cli.command()
@_MAP
@_MODULES
@_DEBUG_DIRS
@_SECTIONS
@click.option("--base", metavar="[NAME=]ADDRESS", help="Where the megamodule's text lies.")
def symbolize(**options: Any) -> None:
    """Rewrite addresses in an oops, a trace, or perf's or ftrace's text on standard input: member, function, line."""
    from megamod.cli.debug_command import symbolize_command

    symbolize_command(**options)


@cli.command("deploy")
@click.option("-k", "--kernel", metavar="KVER", help="The kernel; default: the one that runs.")
@click.option("-p", "--profile", metavar="PROFILE", help="Its deferred stages; default: what this machine needs.")
@click.option("--machine", type=_FILE, metavar="DIR", help="The machine recorded in DIR; default: this one.")
@click.option("--remove", "action", flag_value="remove", help="Take it back: that of KVER, or without -k all.")
@click.option("--status", "action", flag_value="status", help="Say what is deployed.")
@click.option("--update", "action", flag_value="update", help="Make it anew with the same settings.")
@click.option("-v", "--verbose", is_flag=True, help="Print each step.")
@_ROOT
def deploy(verbose: bool, action: str | None, **options: Any) -> None:
    """Merge what is loaded from the real root: megamodules in /usr/lib/megamod/KVER, and a systemd unit for them."""
    from megamod.cli.hooks_command import deploy_command

    command = deploy_command
    sys.exit(command(steps=_steps(not verbose), action=action or "deploy", **options))


cli.add_command(chart)
cli.add_command(tune)


@cli.command()
@click.argument("debugger", type=click.Choice(["gdb", "crash", "drgn"]))
@click.argument("map_file", type=_FILE, metavar="MAP")
@_MODULES
@_DEBUG_DIRS
@_SECTIONS
@click.option("--base", metavar="[NAME=]ADDRESS", help="Where the megamodule's text lies: code only.")
@click.option("--member", "members", multiple=True, metavar="NAME", help="Only this member; repeatable.")
@click.option("--init", is_flag=True, help="Init code too, which the kernel frees after its run.")
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Write the script here; default: print it.")
def debug(**options: Any) -> None:
    """Make a script for DEBUGGER that loads each member's own debug file at its place (--sections -: from a pipe)."""
    from megamod.cli.debug_command import debug_command

    debug_command(**options)


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
