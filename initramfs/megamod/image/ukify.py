"""UKIs by systemd's ukify, for what the own writer (uki.py) does not: PCR signatures, profiles, `.dtbauto`, `.hwids`.

The sections that both know are given by us, so that names and command line are the same; all else is ukify's options.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write, read_file
from megamod.common.host import find_program, run_program
from megamod.image.uki import SecureBootKey

# What the arguments of `megamod uki` are for; ukify would take the last one of two.
_OURS = ("--linux", "--initrd", "--cmdline", "--os-release", "--uname", "--output", "-o", "--stub", "--splash")


def ukify(
    output: Path,
    *,
    kernel: Path,
    image: Path,
    command_line: str,
    os_release: bytes,
    release: str,
    splash: Path | None = None,
    device_tree: Path | None = None,
    stub: Path | None = None,
    secure_boot: SecureBootKey | None = None,
    options: Sequence[str] = (),
) -> int:
    """Have ukify write the UKI to *output*, with more *options* of its own; returns the size in bytes."""
    for word in options:
        if word.partition("=")[0] in _OURS:
            raise MegamodError(f"{word}: is megamod's own to give to ukify", hint="megamod uki --help")
    program = _program()
    with tempfile.TemporaryDirectory(prefix="megamod-ukify-") as folder:
        made, names = Path(folder) / "uki.efi", Path(folder) / "os-release"
        names.write_bytes(os_release)
        command: list[str | Path] = [program, "build", f"--linux={kernel}", f"--initrd={image}"]
        command += [f"--cmdline={command_line}", f"--os-release=@{names}", f"--output={made}"]
        more = {"--uname": release, "--splash": splash, "--devicetree": device_tree, "--stub": stub}
        command += [f"{name}={value}" for name, value in more.items() if value]
        if secure_boot is not None:
            command += [f"--secureboot-private-key={secure_boot.key}"]
            command += [f"--secureboot-certificate={secure_boot.certificate}"]
        run_program([*command, *options])
        data = read_file(made)
    atomic_write(output, data)
    return len(data)


def _program() -> str:
    # Before systemd 256 it was no program of the PATH.
    own = Path("/usr/lib/systemd/ukify")
    return str(own) if own.is_file() else find_program("ukify", package="systemd-ukify")
