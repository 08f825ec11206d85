"""A picture as PNG, drawn by resvg: an SVG renderer that needs neither a browser nor a library of the system."""

from __future__ import annotations

from megamod.common.errors import MegamodError


def png_of(svg: str, *, zoom: int = 2) -> bytes:
    """The bytes of a PNG of *svg*, *zoom* times as large. Raises MegamodError where resvg is not installed."""
    try:
        import resvg_py
    except ImportError:
        raise MegamodError("PNG: resvg-py is not installed", hint="pip install 'megamod[png]', or -o OUT.svg") from None
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=zoom))
