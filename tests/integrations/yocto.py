"""BitBake parses meta-megamod with openembedded-core, and says which tasks the image's recipe would run.

    python -m tests.integrations.yocto --bitbake DIR --core DIR [--build DIR] [--graph]

DIRs are checkouts of bitbake and openembedded-core that belong together. meta-python is stood in for by a layer of its
name with empty recipes, as only the providers count here. Nothing is fetched, compiled or run. Not as root, which
BitBake refuses.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

LAYER = Path(__file__).resolve().parents[2] / "initramfs/integrations/yocto/meta-megamod"
STAND_INS = ("python3-cryptography", "python3-lz4", "python3-msgspec", "python3-rich", "python3-zstandard")
MACHINES = {"qemux86-64": "x86_64", "qemuarm64": "aarch64", "qemuarm": "arm", "qemuriscv64": "riscv64"}


def make_build(build: Path, core: Path) -> None:
    """A build folder with the layers, and the stand-in of meta-python."""
    stand_in = build / "meta-python"
    core_layer = (core / "meta/conf/layer.conf").read_text()
    series = re.search(r'^LAYERSERIES_CORENAMES = "(.*)"$', core_layer, re.MULTILINE)[1]
    for folder in (build / "conf", stand_in / "conf", stand_in / "recipes"):
        folder.mkdir(parents=True, exist_ok=True)
    (stand_in / "conf/layer.conf").write_text(
        'BBPATH .= ":${LAYERDIR}"\nBBFILES += "${LAYERDIR}/recipes/*.bb"\nBBFILE_COLLECTIONS += "meta-python"\n'
        'BBFILE_PATTERN_meta-python = "^${LAYERDIR}/"\nLAYERSERIES_COMPAT_meta-python = "{series}"\n'.replace(
            "{series}", series
        )
    )
    for name in STAND_INS:
        (stand_in / f"recipes/{name}_1.bb").write_text('LICENSE = "CLOSED"\nBBCLASSEXTEND = "native"\n')
    layers = " ".join(map(str, (core / "meta", stand_in, LAYER)))
    (build / "conf/bblayers.conf").write_text(f'BBPATH = "{build}"\nBBFILES ?= ""\nBBLAYERS = "{layers}"\n')
    lines = (
        'DISTRO = "nodistro"',
        'PACKAGE_CLASSES = "package_ipk"',
        'INHERIT:remove = "sanity"',
        'CONNECTIVITY_CHECK_URIS = ""',
        """MEGAMOD_FIT = "${@'1' if d.getVar('TARGET_ARCH') == 'aarch64' else '0'}" """,
        'BB_NUMBER_PARSE_THREADS = "2"',
    )
    (build / "conf/local.conf").write_text("".join(f"{line}\n" for line in lines))


def bitbake(arguments: argparse.Namespace, machine: str, *words: str) -> str:
    """What bitbake prints for *words*; its own errors end this program."""
    path = f"{arguments.bitbake}/bin:{arguments.core}/scripts:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "MACHINE": machine,
        "BB_ENV_PASSTHROUGH_ADDITIONS": "MACHINE",
        "LC_ALL": "C.UTF-8",
    }
    command = [sys.executable, f"{arguments.bitbake}/bin/bitbake", *words]
    done = subprocess.run(command, cwd=arguments.build, env=environment, capture_output=True, text=True, check=False)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("ERROR", "WARNING"))]
    if done.returncode:
        raise SystemExit("\n".join(errors) or done.stdout[-4000:] + done.stderr[-4000:])
    for line in errors:
        if "megamod" in line:
            print(line)
    return done.stdout


def main() -> None:
    """Parse for each machine; print the tasks of our recipes and what they depend on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bitbake", type=Path, required=True)
    parser.add_argument("--core", type=Path, required=True)
    parser.add_argument("--build", type=Path, default=Path("build-megamod"))
    parser.add_argument("--machine", action="append", choices=MACHINES)
    parser.add_argument("--graph", action="store_true", help="read all recipes, too, and show what comes first")
    arguments = parser.parse_args()
    arguments.build = arguments.build.absolute()
    make_build(arguments.build, arguments.core.absolute())
    for machine in arguments.machine or MACHINES:
        for recipe in sorted(LAYER.glob("recipes-*/*/*.bb")):
            values = bitbake(arguments, machine, "-e", "-b", str(recipe))
            waits = re.findall(r'^do_compile\[depends\] = "(.*)"|^# .*\[depends\]', values, re.MULTILINE)
            arch = re.search(r'^TARGET_ARCH="(.*)"$', values, re.MULTILINE)[1]
            print(f"{machine}: {recipe.name}: read for {arch}", *filter(None, waits))
            if arch != MACHINES[machine] and "-native_" not in recipe.name:
                raise SystemExit(f"{machine} is of {arch}")
        if arguments.graph:
            graph(arguments, machine)


def graph(arguments: argparse.Namespace, machine: str) -> None:
    """What the image's do_compile comes after: the kernel, and megamod; all recipes of the layers are read for it."""
    bitbake(arguments, machine, "-g", "megamod-initramfs")
    lines = (arguments.build / "task-depends.dot").read_text().splitlines()
    wanted = [line.split('"')[3] for line in lines if line.startswith('"megamod-initramfs.do_compile" ->')]
    print(f"  the image's do_compile comes after: {', '.join(sorted(wanted))}")
    kernel = {"linux-yocto.do_deploy", "linux-dummy.do_deploy"}
    if kernel.isdisjoint(wanted) or not any(name.startswith("megamod-native.") for name in wanted):
        raise SystemExit(f"{machine}: the image does not wait for the kernel or for megamod")


if __name__ == "__main__":
    main()
