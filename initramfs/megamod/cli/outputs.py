"""`megamod uki`, `fit`, `bootimg` and `append`: an image made into what a boot loader or the firmware starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from megamod.cli.options import FILE, Address, say
from megamod.common.errors import MegamodError

_PAGES = ["2048", "4096", "8192", "16384"]
_STUB = click.option("--stub", type=FILE, metavar="FILE", help="The EFI stub; default: systemd's.")
_COMMAND_LINE = click.option("--cmdline", "command_line", default="", metavar="TEXT", help="The kernel command line.")


@click.command()
@click.argument("image", type=FILE)
@click.option("--vmlinuz", "kernel", required=True, type=FILE, metavar="FILE", help="The kernel.")
@click.option("-o", "--output", required=True, type=FILE, metavar="OUT.efi", help="Write the EFI program here.")
@_COMMAND_LINE
@click.option("--os-release", type=FILE, metavar="FILE", help="The system's os-release file.")
@click.option("--uname", "release", metavar="KVER", help="The kernel's release, for boot menus.")
@click.option("--splash", type=FILE, metavar="FILE.bmp", help="A picture to show.")
@click.option("--dtb", "device_tree", type=FILE, metavar="FILE", help="A device tree.")
@_STUB
@click.option("--key", type=FILE, metavar="FILE", help="Sign for Secure Boot with this key (PEM) …")
@click.option("--cert", type=FILE, metavar="FILE", help="… and this certificate (PEM).")
@click.option("--ukify", "by_ukify", is_flag=True, help="Have systemd's ukify make it.")
@click.argument("ukify_options", nargs=-1, metavar="[-- UKIFY-OPTION…]")
def uki(
    *,
    image: Path,
    key: Path | None,
    cert: Path | None,
    os_release: Path | None,
    release: str | None,
    by_ukify: bool,
    ukify_options: tuple[str, ...],
    **options: Any,
) -> None:
    """Make a Unified Kernel Image: kernel, image, command line.

    The result is one EFI program, which systemd-boot, GRUB or the firmware itself starts. Boot menus show the system's
    name, kernel and profile. Options after -- are for ukify, which signs PCR policies and makes profiles; without it
    the same input gives the same bytes.
    """
    from megamod.build.uki_names import names_of
    from megamod.common.files import read_file
    from megamod.common.text import human_bytes
    from megamod.image.uki import SecureBootKey, write_uki

    if (key is None) != (cert is None):
        raise MegamodError("--key and --cert belong together", hint="give both, or neither for no signature")
    secure_boot = SecureBootKey(key=key, certificate=cert) if key and cert else None
    own_names, own_release = names_of(image, options["kernel"])
    names = read_file(os_release) if os_release else own_names
    release = release or own_release
    options |= {"image": image, "secure_boot": secure_boot, "os_release": names, "release": release}
    if by_ukify or ukify_options:
        from megamod.image.ukify import ukify

        size = ukify(options=ukify_options, **options)
    else:
        size = write_uki(**options)
    say(f"{options['output']}: {human_bytes(size)}")


@click.command()
@click.argument("image", type=FILE)
@click.option("--vmlinuz", required=True, type=FILE, metavar="FILE", help="An Image (arm64, riscv64) or zImage (arm).")
@click.option(
    "--dtb", "dtbs", multiple=True, type=FILE, metavar="FILE", help="A device tree; the first is the default."
)
@click.option("--load", type=Address(), metavar="ADDRESS", help="Where the kernel goes; default: U-Boot's choice.")
@click.option("-o", "--output", required=True, type=FILE, metavar="OUT.itb", help="Write the FIT image here.")
def fit(*, output: Path, **options: Any) -> None:
    """Make a FIT image for U-Boot: kernel, image, device trees."""
    from megamod.image.fit import write_fit

    write_fit(output, **options)


@click.command()
@click.argument("image", type=FILE)
@click.option("--vmlinuz", "kernel", required=True, type=FILE, metavar="FILE", help="The kernel.")
@click.option("--header", "version", type=click.Choice(["2", "3", "4"]), default="2", help="The header's version.")
@click.option("--dtb", "device_tree", type=FILE, metavar="FILE", help="A device tree; version 2 must have one.")
@_COMMAND_LINE
@click.option("--base", type=Address(), default=0x10000000, help="Where the addresses start.", metavar="ADDRESS")
@click.option("--page-size", "page", type=click.Choice(_PAGES), default="2048", help="Of the flash, in bytes.")
@click.option("--os-version", default="", metavar="A.B.C", help="The system's version, for the boot loader.")
@click.option("--patch-level", default="", metavar="YYYY-MM", help="… and its security patches' month.")
@click.option("--bootconfig", type=FILE, metavar="FILE", help="Version 4: androidboot.… lines.")
@click.option("--vendor-boot", type=FILE, metavar="FILE", help="Put all but the kernel here (version 3 and 4).")
@click.option("-o", "--output", required=True, type=FILE, metavar="BOOT.img", help="Write boot.img here.")
def bootimg(*, version: str, page: str, **options: Any) -> None:
    """Make an Android boot.img, and vendor_boot.img.

    Boards whose boot loader reads a partition `boot` start these. The bytes are those that mkbootimg writes.
    """
    from megamod.common.text import human_bytes
    from megamod.image.bootimg import write_boot_image

    for path, size in write_boot_image(version=int(version), page=int(page), **options).items():
        say(f"{path}: {human_bytes(size)}")


@click.command()
@click.argument("kernel", type=FILE)
@click.argument("image", type=FILE)
@_COMMAND_LINE
@_STUB
@click.option("-o", "--output", required=True, type=FILE, metavar="OUT", help="Write the EFI program here.")
def append(**options: Any) -> None:
    """Make one EFI program from a kernel and an image.

    Where the kernel cannot become one, the error names the output that fits it.
    """
    from megamod.image.append import append_image

    append_image(**options)
