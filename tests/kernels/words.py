"""Words of a configuration that make a boot impossible, each in a kernel of its own: the build's error, the boot's end.

    python -m tests.kernels.words [NAME…]

The image is that of the row `tiny`, which has none of the words. `megamod build` must refuse the configuration of the
kernel that has one; that kernel, given the image all the same, must end as it says here. Objects are kept, so a word
costs a minute or two. Exit status 1 if anything is otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.debian import Kernel
from megamod.common.host import cache_folder
from megamod.modules.tree import open_tree
from tests.kernels.build import build_kernel
from tests.kernels.matrix import build_by_command, profile_text, start
from tests.kernels.table import ROWS, Row

_NO_INIT = "No working init found|Unable to mount root fs"
_ENDS = "Attempted to kill init!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """*lines* of a configuration, a part of the build's *error*, and what the boot says at its *end*: expressions."""

    name: str
    lines: str
    error: str
    end: str


WORDS = (
    Word(name="initrd", lines="CONFIG_BLK_DEV_INITRD=n\n", error="cannot unpack an initramfs", end=_NO_INIT),
    Word(
        name="gzip",
        # One other must be there, or the kernel's menu turns all of them on.
        lines="CONFIG_RD_GZIP=n\nCONFIG_RD_LZ4=y\n",
        error="the kernel cannot unpack gzip",
        end="compression method gzip not configured",
    ),
    Word(
        name="elf",
        lines="CONFIG_BINFMT_ELF=n\n",
        error="cannot execute ELF programs",
        end=r"Failed to execute /init \(error -8\)",
    ),
    Word(
        name="rdinit",
        lines='CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE="rdinit=/nowhere"\n',
        error="starts a program other than /init",
        end=_NO_INIT,
    ),
    Word(
        name="nomodule",
        lines='CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE="nomodule"\n',
        error="cannot load modules",
        end=_ENDS,
    ),
)


def row_with(word: Word) -> Row:
    """The row `tiny` with *word* in its configuration."""
    return dataclasses.replace(ROWS["tiny"], name=f"tiny-{word.name}", lines=word.lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="kernels that cannot boot an image, by their configuration")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(word.name for word in WORDS)}")
    arguments = parser.parse_args()
    cache, wrong = cache_folder(), 0

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def build(row: Row) -> Kernel:
        return build_kernel(row, cache=cache, say=say, keep_objects=True)

    with tempfile.TemporaryDirectory(prefix="megamod-words-") as scratch:
        folder = Path(scratch)
        tiny, profile, image = build(ROWS["tiny"]), folder / "words.yaml", folder / "tiny.img"
        profile.write_text(profile_text(open_tree(str(tiny.modules)).modules))
        if problem := build_by_command(profile, tiny, image):
            parser.error(problem)
        for word in WORDS:
            if arguments.names and word.name not in arguments.names:
                continue
            kernel = build(row_with(word))
            error = build_by_command(profile, tiny, folder / "no.img", "--config", kernel.config)
            console = start(kernel, image, folder, timeout=400).console
            last = [line for line in console.splitlines() if re.search(word.end, line)]
            good = error is not None and re.search(word.error, error) and last
            wrong += not good
            print(f"{word.name}: {'as it should be' if good else 'WRONG'}", flush=True)
            print(f"  build: {error or 'no error'}")
            print(f"  boot: {(last or console.splitlines()[-3:])[0].strip()}", flush=True)
        if "]]] log 0" not in start(tiny, image, folder, timeout=400).console:
            wrong += 1
            print("the kernel without any of the words does not boot the image either", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
