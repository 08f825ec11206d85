"""`megamod schema`: the forms of the JSON documents that megamod writes, for other programs.

They are published as initramfs/docs/schemas/NAME.json.
"""

from __future__ import annotations

from typing import Any

import click

from megamod.cli.options import say

NAMES = ("manifest", "map", "megamodule-map", "chart", "install-record", "status")


@click.command()
@click.argument("name", type=click.Choice(NAMES))
def schema(*, name: str) -> None:
    """Print the JSON Schema of a document that megamod writes.

    manifest is in every image; map lies next to an image, megamodule-map is what prelink --map writes; chart is what
    chart --json prints; install-record is kept of hooks and deployments; status is /run/megamod/status.json.
    """
    import json

    from megamod.common.documents import schema_of

    say(json.dumps(schema_of(_form(name)), indent=2))


def _form(name: str) -> type[Any]:
    from megamod.analyze.chart.record_json import ChartDocument
    from megamod.analyze.chart.status_json import StatusDocument
    from megamod.build.link_map import MapDocument
    from megamod.build.manifest import Manifest
    from megamod.hooks.install_record import InstallRecord
    from megamod.prelink.map_form import MegamoduleMap

    forms = (Manifest, MapDocument, MegamoduleMap, ChartDocument, InstallRecord, StatusDocument)
    return dict(zip(NAMES, forms, strict=True))[name]
