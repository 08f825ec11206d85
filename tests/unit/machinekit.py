"""Recorded machines as one text each (tests/data/machines), and what turns a guest's /sys into such a text.

A line that begins with a tab is content of the file named before; `PATH -> TARGET` is a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from megamod.profiles.machine import Machine
from megamod.profiles.record import Item, recorded, write_record

DATA = Path(__file__).parents[1] / "data/machines"

# Every file that is looked at, and all links, in few processes: a guest under TCG starts some fifty a second.
DUMP = """
B=/bin/busybox
echo DUMP-BEGIN
$B find /sys/devices /sys/block /sys/class /sys/dev /sys/bus /sys/fs -type l -print0 | $B xargs -0 $B ls -ld
echo DUMP-FILES
$B find /sys/devices /sys/power -type f "(" -name modalias -o -name partition -o -name operstate -o -name proc_name \
-o -path "*/dm/name" -o -path "*/dm/uuid" -o -path "*/md/level" -o -path "*/capabilities/key" \
-o -path "*/console/active" -o -name resume ")" -print0 | $B xargs -0 $B grep -H ""
$B grep -H "" /proc/self/mountinfo /proc/modules /proc/crypto
echo DUMP-END
"""
"""A shell script, to be run where the root to be recorded is /."""

_FILE = re.compile(
    r"/(sys/.*?/(?:modalias|partition|operstate|proc_name|dm/name|dm/uuid|md/level|key|active|resume)|proc/[a-z/]+):(.*)$"
)


def items_of_dump(console: str, scratch: Path) -> list[Item]:
    """What `recorded` makes of the tree that DUMP has printed on *console*; *scratch* is an empty folder."""
    links = console[console.index("DUMP-BEGIN") : console.index("DUMP-FILES")]
    files = console[console.index("DUMP-FILES") : console.index("DUMP-END")]
    for path, target in re.findall(r"/(sys/\S.*) -> (.*)$", links, re.MULTILINE):
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        (scratch / path).symlink_to(target)
    contents: dict[str, list[str]] = {}
    for line in files.splitlines():
        if match := _FILE.match(line):
            contents.setdefault(match[1], []).append(match[2])
    for path, lines in contents.items():
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        (scratch / path).write_text("\n".join(lines) + "\n")
    return sorted(recorded(Machine(root=scratch)), key=lambda item: item.path)


def record_text(items: Iterable[Item]) -> str:
    lines = []
    for item in items:
        lines.append(f"{item.path} -> {item.target}" if item.target is not None else item.path)
        lines += [f"\t{line}" for line in (item.text or "").splitlines()]
    return "".join(f"{line}\n" for line in lines)


def items_of_text(text: str) -> list[Item]:
    items: list[Item] = []
    contents: dict[str, list[str]] = {}
    for line in text.splitlines():
        path, arrow, target = line.partition(" -> ")
        if line.startswith("\t"):
            contents[items[-1].path].append(line[1:])
        else:
            items.append(Item(path=path, target=target if arrow else None))
            contents[path] = []
    return [
        item if item.target is not None else Item(path=item.path, text="\n".join(contents[item.path])) for item in items
    ]


def recorded_machine(name: str, folder: Path) -> Machine:
    """The machine of tests/data/machines/NAME.txt, unpacked into *folder*."""
    return machine_of(items_of_text((DATA / f"{name}.txt").read_text()), folder)


def machine_of(items: Iterable[Item], folder: Path) -> Machine:
    write_record(items, folder)
    return Machine(root=folder)


def fake_machine(folder: Path, text: str) -> Machine:
    """A machine written in the form of the recorded ones, indented as the test is; tabs as `| `."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return machine_of(items_of_text("\n".join(re.sub(r"^\| ?", "\t", line) for line in lines)), folder)
