"""Static C programs for the guests, compiled when a benchmark runs."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import sys
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.host import run_program

GUEST = Path(__file__).parent.parent / "guest"


_TARGETS = {
    "x86_64": "x86_64-linux-musl",
    "aarch64": "aarch64-linux-musl",
    "arm": "arm-linux-musleabihf",
    "riscv64": "riscv64-linux-musl",
}


def compiler(arch: str = "x86_64") -> tuple[str, ...]:
    """The words that start the compiler: ``MEGAMOD_CC``, else cc with a static libc, else the ziglang package; always
    that for another machine than this."""
    if arch != platform.machine() and importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc", "-target", _TARGETS[arch])
    if os.environ.get("MEGAMOD_CC"):
        return tuple(shlex.split(os.environ["MEGAMOD_CC"]))
    if found := shutil.which("gcc") or shutil.which("cc"):
        return (found,)
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc", "-target", _TARGETS[arch])
    raise MegamodError("no C compiler", hint="apt install gcc libc6-dev, or set MEGAMOD_CC")


def compile_guest(name: str, folder: Path, *, arch: str = "x86_64") -> Path:
    """guest/NAME.c as a static program of fixed addresses in *folder*."""
    program = folder / name
    flags = ("-O2", "-Wall", "-static", "-no-pie", "-fno-pie")
    run_program([*compiler(arch), *flags, "-o", program, GUEST / f"{name}.c"])
    return program
