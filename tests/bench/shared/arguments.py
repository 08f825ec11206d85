"""What the scripts' command lines have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from megamod.common.errors import MegamodError


def add_kernel(parser: argparse.ArgumentParser) -> None:
    """``--suite``, ``--architecture`` and ``--kernel``, for kernels.open_kernel()."""
    parser.add_argument("--suite", default="bookworm", help="the Debian suite whose kernel is used (bookworm)")
    parser.add_argument("--architecture", default="amd64", help="Debian's name of the suite's architecture (amd64)")
    parser.add_argument("--kernel", type=Path, metavar="FOLDER", help="an unpacked kernel with lib/modules and vmlinuz")


def run_main(main: Callable[[], int]) -> int:
    """Run *main*; a user's mistake or a failed guest ends in a message and status 1."""
    try:
        return main()
    except MegamodError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
