"""depmod for a tree without indexes: run on symbolic links in a temporary folder, the results kept in memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.text import canonical

INDEXES = (
    "modules.dep",
    "modules.softdep",
    "modules.weakdep",
    "modules.alias",
    "modules.devname",
    "modules.order",
    "modules.builtin",
    "modules.builtin.modinfo",
)

_VERSION = "1.0.0"
"""depmod takes a word that is not a version for a module file (is_version_number, tools/depmod.c, kmod 30)."""


def find_depmod(folder: Path) -> str:
    """The path of the host's depmod; raises MegamodError about *folder*, which needs it, if there is none."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    depmod = shutil.which("depmod", path=search)
    if depmod is None:
        hint = f"install kmod, or run `depmod -b ROOT {folder.name}` where there is one"
        raise MegamodError(
            f"{folder}: some of depmod's indexes are missing, and there is no depmod to make them", hint=hint
        )
    return depmod


def overlay_name(number: int) -> str:
    """The folder of the modules of the overlay *number* (from 1) in the paths of an index."""
    return f"overlay-{number}"


def run_depmod(folder: Path, overlays: Sequence[Path] = ()) -> dict[str, str]:
    """The texts of the INDEXES of the tree *folder* with the modules below *overlays*, made by the host's depmod; the
    trees are only read.

    Raises MegamodError if there is no depmod, or if it finds the tree wanting (a cycle, an unreadable module).
    """
    depmod = find_depmod(folder)
    with tempfile.TemporaryDirectory(prefix="megamod-depmod-") as name:
        try:
            tree = _linked_tree(folder, Path(name))
            for number, overlay in enumerate(overlays, start=1):
                (tree / overlay_name(number)).symlink_to(overlay.resolve())
            # kmod 30 has no --outdir; an empty -C keeps this machine's depmod.d out of another machine's tree.
            command = [depmod, "-b", name, "-C", str(Path(name) / "depmod.d"), _VERSION]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
            texts = {index: _read(tree / index) for index in INDEXES}
        except OSError as error:
            raise MegamodError(f"{folder}: depmod: {error.strerror or error}") from None
    messages = [
        line.removeprefix("depmod: ") for line in done.stderr.splitlines() if "ERROR" in line or "FATAL" in line
    ]
    if done.returncode != 0 or messages:
        # A module in a cycle is left out of modules.dep with an ERROR line and exit code 0 by some versions.
        text = "; ".join(messages[:3]).replace(name + "/lib/modules/" + _VERSION, str(folder))
        raise MegamodError(f"{folder}: depmod failed: {text or f'exit code {done.returncode}'}")
    for place in (folder, *overlays):
        _check_complete(place, texts["modules.dep"])
    for number, overlay in enumerate(overlays, start=1):
        lines = _read(overlay / "modules.order").splitlines()
        texts["modules.order"] += "".join(f"{overlay_name(number)}/{line}\n" for line in lines)
    return texts


def _check_complete(folder: Path, dep: str) -> None:
    """depmod passes over files it cannot read, such as .ko.gz if kmod was built without zlib: refuse such a result."""
    listed = {canonical(Path(line.split(":", 1)[0]).name.split(".ko")[0]) for line in dep.splitlines()}
    left_out = sorted(
        name
        for _folder, _folders, names in os.walk(folder)
        for name in names
        if re.search(r"\.ko(\.\w+)?$", name) and canonical(name.split(".ko")[0]) not in listed
    )
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        hint = "`depmod --version` shows which compressions it can read"
        raise MegamodError(f"{folder}: depmod left out {', '.join(left_out[:3])}{more}", hint=hint)


def _linked_tree(folder: Path, base: Path) -> Path:
    """A lib/modules/VERSION below *base* whose entries are links into *folder*."""
    (base / "depmod.d").mkdir()
    # Newer kmod may be built for usr/lib/modules.
    tree = base / "usr" / "lib" / "modules" / _VERSION
    tree.mkdir(parents=True)
    (base / "lib").symlink_to("usr/lib")
    made = set(INDEXES) - {"modules.order", "modules.builtin", "modules.builtin.modinfo"}
    for entry in folder.iterdir():
        if entry.name not in made and not entry.name.endswith(".bin") and entry.name not in ("build", "source"):
            (tree / entry.name).symlink_to(entry.resolve())
    return tree


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
