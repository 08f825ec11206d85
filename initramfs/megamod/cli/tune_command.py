"""``megamod tune``, without click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from megamod.analyze.tune.tune import Boots, proposal_text, tune
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write
from megamod.common.progress import Steps
from megamod.modules.tree import open_tree
from megamod.profile.schema import find_path, shipped_profiles


def tune_command(
    *,
    profile: str,
    kernel: str,
    vmlinuz: Path | None,
    disks: tuple[Path, ...],
    append: str,
    memory: int,
    timeout: float,
    needs: tuple[str, ...],
    apply: bool,
    steps: Steps,
    **options: Any,
) -> int:
    """0 when there is a proposal that reaches user space, or nothing to propose."""
    path = find_path(profile)
    if apply and path in shipped_profiles().values():
        raise MegamodError(f"{path}: is shipped with megamod", hint=f"make one of your own: extends: {profile}")
    boots = None
    if vmlinuz is not None:
        boots = Boots(vmlinuz=vmlinuz, disks=disks, append=append, memory=memory, timeout=timeout)
    elif disks or append:
        raise MegamodError(f"--{'disk' if disks else 'append'}: only with --vmlinuz FILE")
    proposal = tune(path, open_tree(kernel), boots=boots, needs=needs, steps=steps, **options)
    click.echo(proposal_text(proposal))
    if apply and proposal.patch:
        mark = b"\xef\xbb\xbf" if path.read_bytes().startswith(b"\xef\xbb\xbf") else b""
        atomic_write(path, mark + proposal.text.encode())
        click.echo(f"{path}: changed")
    return 0
