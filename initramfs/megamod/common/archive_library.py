"""libarchive, with a word for those who have its Python binding and not the library itself.

The binding finds the library by its name when it is imported, and fails in ways of its own where there is none.
"""

from __future__ import annotations

from megamod.common.errors import MegamodError

_HINT = "apt install libarchive13t64 (libarchive13 before Debian 13), dnf install libarchive, pacman -S libarchive"

try:
    import libarchive
    import libarchive.exception
    from libarchive import ffi
except ModuleNotFoundError:
    raise
except Exception as error:  # of ctypes, by version: AttributeError, OSError, TypeError
    raise MegamodError("libarchive: the library is not installed", hint=_HINT) from error

__all__ = ["ffi", "libarchive"]
