"""What `megamod profile`, `levels`, `detect` and `explain` do, without click: from plain arguments to text."""

from __future__ import annotations

import json
from pathlib import Path

from megamod.build.plan import trigger_text
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write
from megamod.common.progress import counted, table
from megamod.machine.detect import detect
from megamod.machine.detected_yaml import detected_profile
from megamod.machine.machine import open_machine
from megamod.machine.machine_recorder import recorded, write_record
from megamod.modules.initcall_source import extract_levels, kernel_version, table_text
from megamod.modules.tree import ModuleTree, open_tree
from megamod.profile.json_schema import profile_schema
from megamod.profile.schema import find_profile, shipped_profiles
from megamod.select.select import select


def levels_command(*, source: Path, output: Path | None) -> str:
    """``megamod levels``: the table as text, or a line that says what was written."""
    rows = extract_levels(source)
    text = table_text(rows, made_from=kernel_version(source))
    if output is None:
        return text.removesuffix("\n")
    atomic_write(output, text.encode())
    return f"{output}: {counted(len({row.module for row in rows}), 'module')}"


def profile_check_command(*, profile: str, kernel: str | None) -> str:
    """``megamod profile check``: what the profile says and, with a kernel, what it selects from its modules."""
    checked = find_profile(profile)
    if kernel is None:
        stages = [f"{stage.name} ({trigger_text(stage.trigger)})" for stage in checked.stages]
        return f"{checked.source}: {checked.name}: {counted(len(stages), 'stage')}: {', '.join(stages)}"
    selection = select(checked, open_tree(kernel))
    rows = [[s.name, trigger_text(s.trigger), str(len(s.modules))] for s in selection.stages]
    lines = [f"{checked.source}: {checked.name} on {selection.tree.release}"]
    lines.append(table(["stage", "loaded", "modules"], rows, left=2))
    return "\n".join([*lines, *(f"note: {note}" for note in selection.notes)])


def profile_list_command() -> str:
    """``megamod profile list``: each shipped profile with the first sentence of its comment."""
    rows = [[name, _first_sentence(path)] for name, path in shipped_profiles().items()]
    return table(["profile", "for"], rows, left=2)


def _first_sentence(path: Path) -> str:
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        comment.append(line[2:])
    return " ".join(comment).split(". ")[0].rstrip(".")


def profile_schema_command() -> str:
    """``megamod profile schema``: the JSON Schema, for an editor."""
    return json.dumps(profile_schema(), indent=2)


def detect_command(*, kernel: str | None, sysfs: Path | None, record: Path | None) -> str:
    """``megamod detect``: a profile for this machine or a recorded one, or a record of it."""
    machine = open_machine(sysfs)
    if record is not None:
        return f"{record}: {counted(write_record(recorded(machine), record), 'entry').replace('entrys', 'entries')}"
    tree = open_tree(kernel) if kernel is not None else _running_tree()
    return detected_profile(detect(machine, tree), tree).removesuffix("\n")


def _running_tree() -> ModuleTree:
    release = Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()
    try:
        return open_tree(release)
    except MegamodError as error:
        raise MegamodError(f"the running kernel: {error.message}", hint="name another one with -k") from None


def explain_command(*, profile: str, module: str | None, kernel: str, as_json: bool) -> str:
    """``megamod explain``: why each module is in its stage, as tables or JSON."""
    from megamod.build.explain import explain

    explanation = explain(find_profile(profile), open_tree(kernel), module=module)
    return explanation.as_json() if as_json else explanation.as_text()
