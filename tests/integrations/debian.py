"""The Debian package, built and installed in clean trees of a suite; its images are those of a wheel, byte for byte.

    python -m tests.integrations.debian WORK --suite trixie

builds with the suite's own tools in one copy of its system and installs with apt in another. The wheel is made there by
the same compilers, and pip installs it with the dependencies of the package registry: what differs between the two are
the versions of all libraries. Then the package is removed, and what it leaves is shown. Needs root and a mirror.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

from megamod.common.host import find_program
from tests.hooks.debian_systems import TOP, Layer, make_system, run_in

SUITES = ("trixie", "sid")
PROFILES = ("vm", "camera", "desktop")
_SOURCES = ("LICENSE", "README.md", "pyproject.toml", "initramfs", "loader", "profiles")
_APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0"
_LIST = "echo 'deb http://deb.debian.org/debian {suite} main' >/etc/apt/sources.list\n{apt} update\n"
_BUILD = """\
{apt} install -y --no-install-recommends build-essential
cp -R /source/initramfs/integrations/debian/debian /tmp/debian
mkdir /tmp/tree && mv /tmp/debian /tmp/tree/
{apt} build-dep -y --no-install-recommends /tmp/tree
sh /source/initramfs/integrations/debian/package.sh /out
export MEGAMOD_CC='x86_64-linux-gnu-gcc; aarch64-linux-gnu-gcc; arm-linux-gnueabihf-gcc; riscv64-linux-gnu-gcc'
cp -R /source /tmp/source
/opt/megamod/bin/pip install -q setuptools
/opt/megamod/bin/pip wheel -q --no-deps --no-build-isolation -w /out /tmp/source
"""
_INSTALL = """\
find / -xdev ! -type d ! -path '/proc/*' ! -path '/out/*' | sort >/tmp/before
{apt} install -y --no-install-recommends /out/megamod_*.deb
/usr/bin/megamod --version
man -w megamod 2>/dev/null || ls /usr/share/man/man1/megamod.1*
/opt/megamod/bin/pip install -q --no-index --no-deps /out/megamod-*.whl
mkdir -p /out/deb /out/wheel
cd /tmp
for profile in {profiles}; do
    /usr/bin/megamod build $profile -k {kernel} -o /out/deb/$profile.img --no-cache -q
    /opt/megamod/bin/megamod build $profile -k {kernel} -o /out/wheel/$profile.img --no-cache -q
done
{apt} purge -y megamod
dpkg -L megamod 2>/dev/null || echo "megamod: gone"
find / -xdev -path '*megamod*' ! -type d ! -path '/proc/*' ! -path '/out/*' ! -path '/opt/*' ! -path '/source/*' \\
    ! -path '/root/.cache/*' | sort >/tmp/after
comm -13 /tmp/before /tmp/after | sed 's/^/left: /'
"""


def run_suite(suite: str, work: Path) -> list[str]:
    """Lines that say what was seen; raises AssertionError if an image differs."""
    system = make_system(suite, lambda name, package: find_program(name, package=package))
    for name in ("source", "out"):
        (work / name).mkdir(parents=True)
    for name in _SOURCES:
        copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy
        copy(TOP / name, work / "source" / name)
    subprocess.run(["rm", "-rf", str(work / "source/loader/bin")], check=True)
    bind = {work / "source": "source", work / "out": "out"}
    words = {"apt": _APT, "suite": suite, "kernel": system.kernel, "profiles": " ".join(PROFILES)}
    # Layers that a script's changes go to; the system itself is not changed.
    base = Layer(system=system)
    built = run_in(system, base, work / "build", (_LIST + _BUILD).format(**words), bind=bind)
    (work / "build.log").write_text(built.stdout + built.stderr)
    (package,) = (work / "out").glob("*.deb")
    lines = [f"{suite}: {package.name}, {package.stat().st_size >> 10} KiB, built"]
    done = run_in(system, base, work / "install", (_LIST + _INSTALL).format(**words), bind=bind)
    (work / "install.log").write_text(done.stdout + done.stderr)
    lines += [f"{suite}: {line}" for line in done.stdout.splitlines() if re.match(r"megamod|left:", line)]
    for name in PROFILES:
        deb, wheel = ((work / "out" / kind / f"{name}.img").read_bytes() for kind in ("deb", "wheel"))
        assert deb == wheel, f"{suite}: {name}: the package's image differs from the wheel's"
        lines.append(f"{suite}: {name}: {len(deb)} bytes, the same from package and wheel")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="build, install and try the Debian package in clean trees")
    parser.add_argument("work", type=Path)
    parser.add_argument("--suite", choices=SUITES, action="append")
    options = parser.parse_args()
    for suite in options.suite or SUITES:
        work = options.work.absolute() / f"debian-{suite}"
        subprocess.run(["rm", "-rf", str(work)], check=True)
        print("\n".join(run_suite(suite, work)), flush=True)


if __name__ == "__main__":
    main()
