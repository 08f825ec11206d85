"""Fuzz the reader and the whole prelink: ``python -m tests.fuzz.fuzz_prelink --cases 10000 --seed 1``.

Each case takes a small set of good modules, damages some of them (mutate.py), writes them to files and links them.
Right is either a MegamodError of one line that names a file, or a megamodule that has passed verify. A traceback, a
hang, too much memory, a fault that only verify saw or a line that names nothing is saved, with its seed (``--save``).

A case is its number alone: ``--only N`` with the same seed runs it again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from megamod.common.errors import MegamodError
from megamod.prelink.link import prelink_files
from megamod.prelink.mergeable import why_single
from megamod.prelink.options import PrelinkOptions
from tests.fuzz.mutate import bomb, damage, pack
from tests.unit.module_factory import ALLOC, EXEC, WRITE, Ko

# Above what this process needs by itself; the largest single thing that may be asked for is a module of 256 MiB.
MEMORY = 3 << 30
SECONDS = 20
Sets = Sequence[Mapping[str, bytes]]


class TooSlowError(Exception):
    """The case ran into its time limit."""


def small_sets() -> list[dict[str, bytes]]:
    """Good modules that between them have every table the prelinker looks into."""
    core = Ko("core").exports("core_add", 1).exports("core_del", 2, gpl=True, namespace="CORE").param("debug")
    core.glue_imports().orc([(0, b"\x08\0\x15\x10\0\0"), (8, b"\x10\0\x15\x10\0\0"), (16, bytes(6))])
    core.section(".bss", flags=ALLOC | WRITE, size=256, align=32)
    core.section(".data..percpu", bytes(64), flags=ALLOC | WRITE, align=64)
    core.section(".note.gnu.build-id", b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0" + bytes(20), kind=7, align=4)
    disk = Ko("disk", info={"import_ns": "CORE", "softdep": "pre: core"}).calls("core_add", 1).calls("core_del", 2)
    disk.calls("__fentry__", 7).calls("later", 8, bind=2).param("debug").param("mmcblk.minors")
    disk.reloc(disk.section("__bug_table", bytes(24), flags=ALLOC | WRITE), 0, 2, disk.text, 3)
    disk.reloc(disk.section("__mcount_loc", bytes(8), align=8), 0, 1, disk.text, 26)  # the call above
    disk.reloc(disk.section(".altinstructions", bytes(12)), 0, 2, disk.text, 2)
    disk.section(".orc_header", bytes(20))
    extra = disk.section(".exit.text", b"\xc3" * 16, flags=ALLOC | EXEC, align=16)
    disk.reloc(disk.this, 848, 1, disk.symbol("cleanup_module", extra))
    old = Ko("old").exports("old_a", 5, crc_symbol=True).exports("old_b", 6, crc_symbol=True)
    new = Ko("new").exports("n" * 70, 9).calls("o" * 60, 8)
    new.extended = True
    new.section("__kflagstab", b"\1")
    user = Ko("user").calls("n" * 70, 9).calls("old_a", 5)
    user.extended = True
    plain = Ko("plain", versions=False).exports("plain_x", None)
    other = Ko("other", versions=False).calls("plain_x")
    return [
        {ko.name: bytes(ko) for ko in kos} for kos in ((core, disk), (old, new, user), (plain, other), (core,), (disk,))
    ]


def real_sets(folder: Path) -> list[dict[str, bytes]]:
    """Small real modules of a lib/modules/KVER folder, each alone; [] of a folder without any plain ones."""
    found = sorted(p for p in folder.rglob("*.ko") if p.stat().st_size < 40_000)
    return [{p.stem: p.read_bytes()} for p in found[:: max(len(found) // 40, 1)]]


def make_case(sets: Sets, seed: int, number: int) -> tuple[dict[str, bytes], PrelinkOptions]:
    """The files of one case, by file name, and the options."""
    rng = random.Random(f"{seed}/{number}")
    chosen = dict(rng.choice(sets))
    files = {}
    victims = rng.sample(sorted(chosen), rng.randint(1, len(chosen)))
    for name, data in chosen.items():
        image = damage(data, rng) if name in victims and rng.random() < 0.9 else data
        if name in victims and rng.random() < 0.12:
            image = pack(image, rng)
        files[f"{name}.ko"] = image
    # Bombs cost seconds each.
    if rng.random() < 0.002:
        files["bomb.ko"] = bomb(rng)
    options = PrelinkOptions(
        name="megamod_fuzz",
        unwind=rng.choice(("keep", "compact", "drop")),
        tracing=rng.choice(("off", "keep")),
        symbols=rng.choice(("keep", "trim")),
        allow_taint=rng.random() < 0.5,
    )
    return files, options


def run_case(files: Mapping[str, bytes], options: PrelinkOptions, folder: Path) -> tuple[str, str]:
    """(kind, text): kind is "refused" or "linked", or what is wrong."""
    paths = []
    for name, data in files.items():
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    try:
        with _time_limit(), warnings.catch_warnings():
            warnings.simplefilter("error")
            megamodule = prelink_files(paths, options)
            for member in megamodule.members:
                why_single(member)
            json.dumps(megamodule.map)
    except MegamodError as error:
        line = str(error)
        if len(line.splitlines()) != 1 or not line.isprintable():
            return "not one line", repr(line)
        if "verify:" in line:
            return "verify refused", line
        if not any(name in line for name in files):
            return "names no file", line
        return "refused", line
    except TooSlowError:
        return "too slow", traceback.format_exc()
    except MemoryError:
        return "out of memory", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        for path in paths:
            path.unlink()
    return "linked", f"{len(megamodule.data)} bytes"


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def place_of(kind: str, text: str) -> str:
    """What tells one finding from another: the last frame of ours, and the exception."""
    frames = re.findall(r'megamod|prelink/(\w+\.py)", line (\d+)', text)
    where = next((f"{file}:{line}" for file, line in reversed(frames) if file), "")
    last = text.strip().splitlines()[-1]
    return f"{kind} {where} {re.sub(r'[0-9]+', 'N', last)[:90]}"


def save(folder: Path, seed: int, number: int, files: Mapping[str, bytes], options: PrelinkOptions, text: str) -> None:
    """A folder for each finding: the files, the seed, the options and what happened."""
    place = folder / f"{seed}-{number}"
    place.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if len(data) < 1 << 20:
            (place / name).write_bytes(data)
    chosen: dict[str, Any] = {name: getattr(options, name) for name in PrelinkOptions.__slots__}
    (place / "case.json").write_text(json.dumps({"seed": seed, "number": number, "options": chosen}, indent=1))
    (place / "what.txt").write_text(text)


def run(sets: Sets, *, seed: int, numbers: Sequence[int], saved: Path | None, progress: bool) -> Counter[str]:
    """Runs cases and counts what came of them; wrong ones are saved once per place."""
    counts: Counter[str] = Counter()
    places: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-prelink-") as name:
        for done, number in enumerate(numbers, start=1):
            files, options = make_case(sets, seed, number)
            kind, text = run_case(files, options, Path(name))
            counts[kind] += 1
            if kind not in ("refused", "linked"):
                place = place_of(kind, text)
                places[place] += 1
                if places[place] == 1:
                    print(f"\r{seed}/{number}: {place}", file=sys.stderr, flush=True)
                if saved is not None and places[place] <= 2:
                    save(saved, seed, number, files, options, f"{kind}\n{text}\n")
            if progress and (done % 100 == 0 or done == len(numbers)):
                rate = done / (time.monotonic() - start)
                print(f"\r{done}/{len(numbers)}  {rate:.0f}/s  {dict(counts)}", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    for place, count in places.most_common():
        print(f"{count:6}  {place}")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run this one case")
    parser.add_argument("--modules", type=Path, help="a lib/modules/KVER folder whose small modules are damaged too")
    parser.add_argument("--save", type=Path, help="folder for the cases that went wrong")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sets = [*small_sets(), *(real_sets(options.modules) if options.modules else ())]
    numbers = [options.only] if options.only is not None else range(options.cases)
    counts = run(sets, seed=options.seed, numbers=numbers, saved=options.save, progress=not options.quiet)
    digest = hashlib.sha256(repr(sorted(counts.items())).encode()).hexdigest()[:8]
    print(f"{sum(counts.values())} cases, seed {options.seed}: {dict(sorted(counts.items()))} [{digest}]")
    return 0 if set(counts) <= {"refused", "linked"} else 1


if __name__ == "__main__":
    sys.exit(main())
