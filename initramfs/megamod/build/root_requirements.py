"""What the overlay and dm-verity of a root need: modules of the critical stage, or built in; and the root in words."""

from __future__ import annotations

from megamod.common.choices import Probe
from megamod.common.errors import MegamodError
from megamod.loader.limits import WAY_OUT, limits_of_words, refusal_of_device
from megamod.profile.model import Profile, Root, RootKind
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
    _check_device(selection)
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


def _check_device(selection: Selection) -> None:
    """A root that the profile names, in `root:` or on the command line of a UKI, must be one that can be there."""
    profile = selection.profile
    devices = {"root: device": profile.root.device}
    if profile.output is not None and profile.root.kind is RootKind.CMDLINE:
        words = [word.removeprefix("root=") for word in profile.output.cmdline.split() if word.startswith("root=")]
        devices["output: uki: cmdline: root="] = words[-1] if words else None
    for what, device in devices.items():
        refusal = refusal_of_device(device) if device else None
        if refusal:
            raise MegamodError(f"{profile.source}: {what} {device}: {refusal}", hint=WAY_OUT)
    # A program that runs before the mount may set a network up.
    if profile.root.type in ("nfs", "nfs4", "cifs") and profile.root.before is None:
        raise MegamodError(
            f"{profile.source}: root: type {profile.root.type}: the loader sets up no network, and the kernel's own "
            "ip= is over before a module is loaded",
            hint=f"{WAY_OUT}; or have a program of `before-mount` set it up; with the card's driver built in, "
            "rootfstype= and ip= on the command line do it",
        )


def limit_notes(profile: Profile) -> list[str]:
    """What the command line of a UKI asks for and does not get from the loader."""
    if profile.output is None or profile.root.kind is not RootKind.CMDLINE:
        return []
    found = limits_of_words(profile.output.cmdline)
    return [f"output: uki: cmdline: {word}: {limit}; {WAY_OUT}" for word, limit in found]
