"""What pip installs: the size of a fresh environment by package, what `megamod --help` imports, twine on the metadata.

    python -m tests.integrations.wheel WORK [--wheel WHEEL]

Prints figures and asserts none but twine's verdict. Needs the package registry that pip uses.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.hooks.debian_systems import TOP, build_wheel

_HELP = "import sys; sys.argv = ['megamod', '--help']; from megamod.cli.main import main; main()"
_SDIST = "import sys; from megamod.loader import backend; backend.build_sdist(sys.argv[1])"
_RUNS = 15


def size_of(folder: Path) -> int:
    """Bytes on disk, as du has it."""
    return sum(path.lstat().st_blocks * 512 for path in [folder, *folder.rglob("*")])


def import_milliseconds(python: Path) -> float:
    """The least of several runs: all imports of `megamod --help`, the interpreter's own start left out."""
    found = []
    for _run in range(_RUNS):
        command = [python, "-X", "importtime", "-c", _HELP]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
        lines = [line.split("|") for line in done.stderr.splitlines() if "|" in line]
        found += [int(fields[1]) for fields in lines if fields[2].strip() == "megamod.cli.main"]
    return min(found) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="what pip installs, and how large it is")
    parser.add_argument("work", type=Path)
    parser.add_argument("--wheel", type=Path, help="default: made of this tree")
    options = parser.parse_args()
    work = options.work.absolute()
    (work / "made").mkdir(parents=True)
    wheel = options.wheel or build_wheel(work / "made")
    environment = {**os.environ, "PYTHONPATH": str(TOP / "initramfs")}
    subprocess.run([sys.executable, "-c", _SDIST, work], env=environment, cwd=TOP, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
    python = work / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-qq", wheel], check=True)
    (site,) = (work / "venv").glob("lib/python*/site-packages")
    sizes = sorted(((size_of(path), path.name) for path in site.iterdir() if path.is_dir()), reverse=True)
    print(f"environment: {size_of(work / 'venv') / 1e6:.0f} MB")
    print("of that: " + ", ".join(f"{name} {size / 1e6:.0f}" for size, name in sizes if size > 2_000_000))
    print(f"megamod --help: {import_milliseconds(python):.0f} ms of imports")
    subprocess.run([python, "-m", "pip", "install", "-qq", "twine"], check=True)
    (sdist,) = work.glob("*.tar.gz")
    subprocess.run([python, "-m", "twine", "check", "--strict", sdist, wheel], check=True)


if __name__ == "__main__":
    main()
