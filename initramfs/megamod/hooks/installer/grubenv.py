"""GRUB's environment block: 1024 bytes of NAME=VALUE lines, which GRUB itself writes in place (grub/lib/envblk.h)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from megamod.common.errors import MegamodError

ENV = "grubenv"
_HEADER = "# GRUB Environment Block\n"
_SIZE = 1024


def read_grubenv(path: Path) -> dict[str, str]:
    """The variables in *path*; {} if there is no such file. Raises MegamodError for one that is not GRUB's."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror or error}") from None
    if not text.startswith(_HEADER):
        raise MegamodError(f"{path}: is not a GRUB environment block", hint=f"grub-editenv {path} create")
    # A line may be continued: a backslash quotes what follows it, a line end too.
    rows = re.findall(r"^([^#=\n][^=\n]*)=((?:\\.|[^\\\n])*)\n", text[len(_HEADER) :], re.MULTILINE | re.DOTALL)
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for name, value in rows}


def with_variables(path: Path, changes: Mapping[str, str]) -> bytes:
    """The block of *path*, or a new one, with *changes*; an empty value takes a variable away."""
    variables = {name: value for name, value in {**read_grubenv(path), **changes}.items() if value}
    escaped = {name: re.sub(r"([\\\n])", r"\\\1", value) for name, value in variables.items()}
    text = _HEADER + "".join(f"{name}={value}\n" for name, value in escaped.items())
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > _SIZE:
        raise MegamodError(f"{path}: has no room for {', '.join(changes)}", hint="grub-editenv … unset takes some away")
    return data + b"#" * (_SIZE - len(data))
