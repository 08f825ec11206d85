"""What the overlay and dm-verity of a root need: modules of the critical stage, or built in; and the root in words."""

from __future__ import annotations

from megamod.common.choices import Probe
from megamod.common.errors import MegamodError
from megamod.profile.model import Root, RootKind
from megamod.select.select import Selection

# A table of device mapper needs both: the target, and the core that takes it.
_VERITY = ("dm_mod", "dm_verity")


def root_text(root: Root) -> str:
    """`root:` in words, for people: ``cmdline, overlay tmpfs, verity on PARTLABEL=hashes``."""
    text = " ".join([root.kind, *filter(None, [root.path]), *root.args])
    if root.device is not None:
        text += f", else {root.device}"
    if root.overlay is not None:
        text += f", overlay {root.overlay.device or 'tmpfs'}"
    return text + (f", verity on {root.verity.hash_device}" if root.verity is not None else "")


def check_root(selection: Selection) -> None:
    """Raises MegamodError if what `root:` asks for cannot work with the modules that are there when it is mounted."""
    root = selection.profile.root
    if root.kind is RootKind.EXEC and selection.profile.probe is Probe.ROOT:
        raise MegamodError(
            f"{selection.profile.source}: probe: root waits for a root file system, and root: exec has none",
            hint="probe: sync waits for all devices, async for none",
        )
    if root.overlay is not None:
        _check(selection, ("overlay",), "overlay")
    if root.verity is not None:
        _check(selection, _VERITY, "verity")


def _check(selection: Selection, modules: tuple[str, ...], what: str) -> None:
    critical = {module.name for module in selection.stages[0].modules}
    there = critical | selection.tree.builtin
    missing = [name for name in modules if name not in there]
    if missing:
        raise MegamodError(
            f"{selection.profile.source}: root: {what} needs {' and '.join(missing)} in the critical stage",
            hint=f"add it there: critical: {{modules: [{', '.join(missing)}]}}",
        )
