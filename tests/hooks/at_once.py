"""Runs two commands at once on one system, their calls delayed at random: the result is that of one after the other.

``python -m tests.hooks.at_once KERNEL FOLDER [--times 10]``, with kill_calls.c preloaded; KERNEL and FOLDER are those
of killed_calls.py. Prints for each pair how often either of the two orders came out.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import sys
from pathlib import Path

from megamod.cli import hooks as cli_hooks
from megamod.common.errors import MegamodError
from tests.hooks.killed_calls import Act, act_and_exit, difference, everything, in_child, make_system, restore, works

PAIRS = (
    ("install", "install"),
    ("install", "remove"),
    ("install", "deploy"),
    ("deploy", "deploy"),
    ("deploy", "take-away"),
    ("update", "take-away"),
    ("run", "run"),
)
_MOST = 4000  # microseconds


def start(act: Act, seed: int) -> int:
    """The process that does *act*, each of its changes delayed."""
    child = os.fork()
    if child == 0:

        def delayed() -> None:
            os.dup2(1, 2)
            ctypes.CDLL(None).delay_arm(ctypes.c_uint(seed), ctypes.c_uint(_MOST))
            act()

        act_and_exit(delayed, refused=(MegamodError,))
    return child


def run_pair(names: tuple[str, str], kernel: Path, folder: Path, *, times: int) -> str:
    """Both *names* of killed_calls.py's works, in either order and *times* at once."""
    root, saved = folder / "root", folder / "saved"
    kernel = make_system(root, kernel)
    pair = [works(root, kernel)[name] for name in names]
    for before in {work.before for work in pair if work.before is not None}:
        in_child(before)
    # What is kept from one run to the next is there from the second on.
    shutil.copytree(root, saved, symlinks=True)
    in_child(pair[0].act)
    wanted = []
    for order in (pair, pair[::-1]):
        restore(saved, root)
        for work in order:
            in_child(work.act)
        wanted.append(everything(root))
    counts = [0, 0]
    for number in range(times):
        restore(saved, root)
        children = [start(work.act, 2 * number + which) for which, work in enumerate(pair)]
        for child in children:
            _pid, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) in (0, 4), (names, number, status)
        now = everything(root)
        assert now in wanted, (names, number, difference(wanted[0], now), difference(wanted[1], now))
        counts[wanted.index(now)] += 1
    orders = f"{counts[0]} as in this order" if wanted[0] != wanted[1] else f"{sum(counts)} as one after the other"
    return f"{names[0]} and {names[1]}: {times} times at once, {orders}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--only", type=int, help="this one pair")
    options = parser.parse_args()
    cli_hooks.own_program = lambda _root: Path("/opt/megamod/bin/megamod")
    for number, names in enumerate(PAIRS):
        if options.only in (None, number):
            place = options.folder / str(number)
            print(run_pair(names, options.kernel.resolve(), place, times=options.times), flush=True)
            shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
