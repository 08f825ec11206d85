"""Buildroot's own Kconfig and make read the external tree: its options, its package, the commands of its image.

    python -m tests.integrations.buildroot --buildroot DIR [--output DIR]

DIR is a checkout of Buildroot. Nothing is fetched or compiled but Kconfig itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

TREE = Path(__file__).resolve().parents[2] / "initramfs/integrations/buildroot"


def main() -> None:
    """Configure by the shipped defconfig, and ask make what it would do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buildroot", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("output-megamod"))
    arguments = parser.parse_args()
    output = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)

    def make(*words: str, check: bool = True) -> str:
        command = ["make", "-C", arguments.buildroot, f"O={output}", f"BR2_EXTERNAL={TREE}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
        if check and done.returncode:
            raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
        return done.stdout + done.stderr

    make("megamod_qemu_x86_64_defconfig")
    config = (output / ".config").read_text().splitlines()
    for line in ("BR2_MEGAMOD_IMAGE=y", 'BR2_MEGAMOD_PROFILE="vm"', "BR2_PACKAGE_HOST_MEGAMOD=y"):
        if line not in config:
            raise SystemExit(f"the configuration has no {line}")
        print(f"configured: {line}")
    info = make("-s", "--no-print-directory", "host-megamod-show-version", "host-megamod-show-info")
    print(f"the package: {info.strip().splitlines()[0]}")
    hooks = make(
        "-s", "--no-print-directory", "printvars", "VARS=TARGET_FINALIZE_HOOKS HOST_MEGAMOD_FINAL_DEPENDENCIES"
    )
    print(hooks.strip())
    if "MEGAMOD_MAKE_IMAGE" not in hooks:
        raise SystemExit("the image is not made after the target's files")


if __name__ == "__main__":
    main()
